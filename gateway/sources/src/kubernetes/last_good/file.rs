//! The file of the last good resources: gzip of JSON, a line what it is, then an object a line.
//!
//! It holds the private keys of certificates, so it lies in memory and is its owner's alone. It is replaced as a whole;
//! gzip's checksum and the number of objects say whether all of it is there. When what it holds was last known to be
//! current is the time of its last modification.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_resources::{Document, Object, parse};
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The version of the form. Another one is refused.
const FORMAT: u32 = 1;

/// The only field of a line whose object stands for one that could not be read.
const STAND_IN: &str = "standIn";

const NAME: &str = "last-good.json.gz";
const STAGED: &str = "last-good.new";
const LOCK: &str = "last-good.lock";

/// Why there is no place for the file.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    #[error("cannot create {folder}: {error}")]
    Create { folder: PathBuf, error: io::Error },
    #[error("cannot look at {folder}: {error}")]
    Look { folder: PathBuf, error: io::Error },
    #[error(
        "{folder} is not in memory, and private keys must not be left on a disk: name a folder on a tmpfs, such as an emptyDir of medium Memory or one below /dev/shm"
    )]
    NotInMemory { folder: PathBuf },
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("they cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("they are damaged: {0}")]
    Damaged(String),
    #[error("they have format {0}, and format {FORMAT} is read here")]
    Format(u32),
    #[error("they are of another cluster, or of other namespaces of it")]
    Foreign,
    #[error("they were last known to be current {} s ago, and {} s are allowed (--last-good-max-age)", .age.as_secs(), .allowed.as_secs())]
    TooOld { age: Duration, allowed: Duration },
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// Which cluster, and what of it ([`super::LastGood`]).
    of: String,
    /// The version of Sluice that wrote it; for people.
    sluice: String,
    objects: usize,
}

/// Where the file is, and whose objects it holds.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    of: String,
    /// Of two processes with one folder (an upgrade), one writes.
    lock: File,
}

impl Place {
    /// Makes the folder where it is missing. Refuses one that is not in memory.
    pub(super) fn open(folder: &Path, of: String) -> Result<Place, LastGoodError> {
        let folder_of = || folder.to_owned();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| LastGoodError::Create { folder: folder_of(), error })?;
        let look = |error| LastGoodError::Look { folder: folder_of(), error };
        if !in_memory(folder).map_err(look)? {
            return Err(LastGoodError::NotInMemory { folder: folder_of() });
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK));
        Ok(Place { folder: folder.to_owned(), of, lock: lock.map_err(look)? })
    }

    fn file(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Replaces what is there. `current` is when the objects were known to be what the API server has.
    pub(super) fn write(&self, objects: &[Document], current: SystemTime) -> io::Result<()> {
        self.lock()?;
        let staged = self.folder.join(STAGED);
        let outcome = self.stage(&staged, objects, current).and_then(|()| std::fs::rename(&staged, self.file()));
        if outcome.is_err() {
            // Its space may be what is missing.
            let _ = std::fs::remove_file(&staged);
        }
        outcome?;
        File::open(&self.folder)?.sync_all()
    }

    fn stage(&self, staged: &Path, objects: &[Document], current: SystemTime) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(staged)?;
        // A leftover keeps the mode that it was made with.
        file.set_permissions(Permissions::from_mode(0o600))?;
        let mut out = GzEncoder::new(BufWriter::new(&file), Compression::fast());
        let header = Header {
            format: FORMAT,
            of: self.of.clone(),
            sluice: env!("CARGO_PKG_VERSION").to_owned(),
            objects: objects.len(),
        };
        serde_json::to_writer(&mut out, &header)?;
        out.write_all(b"\n")?;
        for object in objects {
            match object {
                // It says nothing but what it guards; read as a policy, it would let everybody in.
                Document::Object(Object::TrafficPolicy(policy)) if policy.spec.unreadable => {
                    serde_json::to_writer(&mut out, &json!({STAND_IN: policy}))?;
                }
                Document::Object(object) => serde_json::to_writer(&mut out, object)?,
                Document::Text(text) => {
                    let text = text.read().ok_or_else(|| io::Error::other("a route that is held cannot be read"))?;
                    out.write_all(&text)?;
                }
            }
            out.write_all(b"\n")?;
        }
        out.finish()?.flush()?;
        file.set_modified(current)?;
        file.sync_all()
    }

    /// What the file holds is still current.
    pub(super) fn touch(&self, current: SystemTime) -> io::Result<()> {
        self.lock()?;
        OpenOptions::new().write(true).open(self.file())?.set_modified(current)
    }

    /// Held until this process ends.
    fn lock(&self) -> io::Result<()> {
        match self.lock.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(io::Error::other("another process keeps them in this folder")),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// All that is there, and when it was last known to be current; `None`: there is no file.
    pub(super) fn read(
        &self,
        max_age: Duration,
        now: SystemTime,
    ) -> Result<Option<(Vec<Object>, SystemTime)>, Refusal> {
        let file = match File::open(self.file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(Refusal::Unreadable)?,
        };
        let current = file.metadata().and_then(|meta| meta.modified()).map_err(Refusal::Unreadable)?;
        let text = BufReader::new(GzDecoder::new(BufReader::new(file)));
        let mut lines = serde_json::Deserializer::from_reader(text).into_iter::<Value>();
        let damaged = |error: serde_json::Error| Refusal::Damaged(error.to_string());
        let header = lines.next().ok_or_else(|| Refusal::Damaged("the file is empty".to_owned()))?.map_err(damaged)?;
        let format = header.get("format").and_then(Value::as_u64).and_then(|format| u32::try_from(format).ok());
        match format {
            Some(FORMAT) => {}
            Some(other) => return Err(Refusal::Format(other)),
            None => return Err(Refusal::Damaged("the first line does not say what they are".to_owned())),
        }
        let header: Header = serde_json::from_value(header).map_err(damaged)?;
        if header.of != self.of {
            return Err(Refusal::Foreign);
        }
        let age = now.duration_since(current).unwrap_or_default();
        if age > max_age {
            return Err(Refusal::TooOld { age, allowed: max_age });
        }
        let mut objects = Vec::new();
        // The end of the text is where its checksum is compared.
        for document in lines {
            let mut document = document.map_err(damaged)?;
            let stands_in = document.get_mut(STAND_IN).map(Value::take);
            let unreadable = stands_in.is_some();
            let parsed = parse(stands_in.unwrap_or(document));
            let Some(mut object) = parsed.object else {
                let what = parsed.problems.first().map(ToString::to_string).unwrap_or_default();
                return Err(Refusal::Damaged(what));
            };
            if let Object::TrafficPolicy(policy) = &mut object
                && unreadable
            {
                Arc::make_mut(policy).spec.unreadable = true;
            }
            objects.push(object);
        }
        if objects.len() != header.objects {
            let (found, wanted) = (objects.len(), header.objects);
            return Err(Refusal::Damaged(format!("{found} objects of {wanted}")));
        }
        Ok(Some((objects, current)))
    }

    /// When the file's content was last known to be current.
    pub(super) fn current(&self) -> Option<SystemTime> {
        std::fs::metadata(self.file()).and_then(|meta| meta.modified()).ok()
    }
}

/// Whether what is written to a folder stays in memory (statfs(2): tmpfs, ramfs).
#[cfg(target_os = "linux")]
fn in_memory(folder: &Path) -> io::Result<bool> {
    Ok(matches!(rustix::fs::statfs(folder)?.f_type, 0x0102_1994 | 0x8584_58f6))
}

/// Other systems have no such folder by which it could be told.
#[cfg(not(target_os = "linux"))]
fn in_memory(_: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn folder() -> TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    fn place(folder: &TempDir) -> Place {
        Place::open(folder.path(), "here".to_owned()).unwrap()
    }

    fn services(count: usize) -> Vec<Object> {
        let service = |n| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "shop"},
                "spec": {"ports": [{"port": 80, "targetPort": "web"}]}})
        };
        (0..count).map(|n| parse(service(n)).object.unwrap()).collect()
    }

    fn as_held(objects: &[Object]) -> Vec<Document> {
        objects.iter().cloned().map(Document::from).collect()
    }

    /// A whole second: file systems differ in what they keep below that.
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn read(place: &Place) -> Result<Option<(Vec<Object>, SystemTime)>, Refusal> {
        place.read(Duration::from_secs(60), then() + Duration::from_secs(60))
    }

    fn refused(place: &Place) -> String {
        read(place).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_and_is_its_owners_alone() {
        let folder = folder();
        let place = place(&folder);
        assert!(read(&place).unwrap().is_none());
        std::fs::write(folder.path().join(STAGED), "left behind").unwrap();
        place.write(&as_held(&services(3)), then()).unwrap();
        place.write(&as_held(&services(2)), then()).unwrap();
        assert_eq!(read(&place).unwrap().unwrap(), (services(2), then()));
        assert_eq!(std::fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!folder.path().join(STAGED).exists());
        place.touch(then() + Duration::from_secs(5)).unwrap();
        assert_eq!(place.current(), Some(then() + Duration::from_secs(5)));
    }

    #[test]
    fn a_folder_on_a_disk_is_refused() {
        // No disk, but no tmpfs either, wherever this runs.
        let error = Place::open(Path::new("/proc"), String::new()).unwrap_err();
        assert!(error.to_string().contains("is not in memory"), "{error}");
    }

    #[test]
    fn what_is_cut_flipped_or_something_else_is_refused() {
        let folder = folder();
        let place = place(&folder);
        place.write(&as_held(&services(50)), then()).unwrap();
        let good = std::fs::read(place.file()).unwrap();
        let put = |bytes: &[u8]| {
            std::fs::write(place.file(), bytes).unwrap();
            File::open(place.file()).unwrap().set_modified(then()).unwrap();
        };
        for length in [0, 1, 10, good.len() / 2, good.len() - 1] {
            put(&good[..length]);
            assert!(refused(&place).starts_with("they are damaged"), "{length}");
        }
        for byte in (0..good.len()).step_by(7) {
            let mut flipped = good.clone();
            flipped[byte] ^= 0x10;
            put(&flipped);
            // A few bytes of the gzip header mean nothing to anybody: the objects are the same then.
            match read(&place) {
                Err(_) => {}
                Ok(found) => assert_eq!(found.unwrap().0, services(50), "byte {byte}"),
            }
        }
        put(b"not gzip at all");
        assert!(refused(&place).starts_with("they are damaged"));
        put(&good);
        assert!(read(&place).unwrap().is_some());
    }

    #[test]
    fn another_format_is_named_and_lines_that_are_no_objects_are_damage() {
        let folder = folder();
        let place = place(&folder);
        let put = |lines: &[Value]| {
            let mut out = GzEncoder::new(File::create(place.file()).unwrap(), Compression::fast());
            for line in lines {
                writeln!(out, "{line}").unwrap();
            }
            out.finish().unwrap().set_modified(then()).unwrap();
        };
        put(&[json!({"format": 2, "novelty": true})]);
        assert_eq!(refused(&place), "they have format 2, and format 1 is read here");
        put(&[json!(7)]);
        assert!(refused(&place).contains("does not say what they are"));
        let header = json!({"format": 1, "of": "here", "sluice": "0", "objects": 1});
        put(&[header.clone(), json!({"kind": "Service"})]);
        assert!(refused(&place).contains("SLUICE-P002"), "{}", refused(&place));
        put(&[header]);
        assert_eq!(refused(&place), "they are damaged: 0 objects of 1");
    }

    #[test]
    fn what_is_of_another_cluster_or_too_old_is_refused() {
        let folder = folder();
        let first = place(&folder);
        first.write(&as_held(&services(1)), then()).unwrap();
        assert_eq!(Place::open(folder.path(), "there".to_owned()).map(|place| refused(&place)).unwrap(), {
            "they are of another cluster, or of other namespaces of it"
        });
        let later = then() + Duration::from_secs(61);
        let error = first.read(Duration::from_secs(60), later).unwrap_err();
        assert!(error.to_string().contains("61 s ago, and 60 s are allowed"), "{error}");
        // A clock that was set back makes nothing older.
        assert!(first.read(Duration::from_secs(60), then() - Duration::from_secs(900)).unwrap().is_some());
    }

    #[test]
    fn every_kind_comes_back_as_it_was() {
        let gateway_api = "gateway.networking.k8s.io/v1";
        let documents = [
            json!({"apiVersion": gateway_api, "kind": "GatewayClass", "metadata": {"name": "x"},
                "spec": {"controllerName": "sluice.dev/gateway-controller"}}),
            json!({"apiVersion": gateway_api, "kind": "Gateway", "metadata": {"name": "x", "namespace": "shop",
                    "uid": "u", "generation": 7, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}},
                "spec": {"gatewayClassName": "x", "listeners": [{"name": "web", "port": 443, "protocol": "HTTPS",
                    "tls": {"mode": "Terminate", "certificateRefs": [{"name": "web"}]},
                    "allowedRoutes": {"namespaces": {"from": "All"}}}]}}),
            json!({"apiVersion": gateway_api, "kind": "ListenerSet", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRef": {"name": "x"}, "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}}),
            json!({"apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "x"}], "hostnames": ["a.example"], "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "method": "GET"}],
                    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}],
                    "timeouts": {"request": "10s"}, "retry": {"attempts": 2, "codes": [503]},
                    "backendRefs": [{"name": "web", "port": 80, "weight": 3}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "GRPCRoute", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "x"}], "rules": [{"matches": [{"method": {"service": "a.S", "method": "Get"}}],
                    "backendRefs": [{"name": "web", "port": 80}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "TLSRoute", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "x"}], "hostnames": ["a.example"],
                    "rules": [{"backendRefs": [{"name": "web", "port": 443}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "TCPRoute", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "x"}], "rules": [{"backendRefs": [{"name": "web", "port": 5432}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "UDPRoute", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "x"}], "rules": [{"backendRefs": [{"name": "web", "port": 53}]}]}}),
            json!({"apiVersion": gateway_api, "kind": "ReferenceGrant", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"from": [{"group": "", "kind": "Service", "namespace": "y"}], "to": [{"group": "", "kind": "Secret"}]}}),
            json!({"apiVersion": gateway_api, "kind": "BackendTLSPolicy", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                    "validation": {"hostname": "web.example", "wellKnownCACertificates": "System"}}}),
            json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
                "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                    "retryConstraint": {"budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 10, "interval": "1s"}},
                    "sessionPersistence": {"sessionName": "s", "type": "Cookie", "cookieConfig": {"lifetimeType": "Session"}}}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": "web", "port": {"name": "http"}}}}]}}]}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "x"},
                "spec": {"controller": "sluice.dev/ingress-controller"}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "targetPort": "web"}, {"name": "b", "port": 81, "targetPort": 8081}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x", "namespace": "shop"},
                "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "zone": "z",
                    "targetRef": {"kind": "Pod", "name": "p", "uid": "u"}, "hints": {"forZones": [{"name": "z"}]}}]}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "shop"},
                "type": "kubernetes.io/tls", "data": {"tls.crt": "/+A=", "tls.key": "eA=="}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "shop"},
                "data": {"text": "é"}, "binaryData": {"plugin.wasm": "AGFzbQ=="}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"a": "b"}}}),
            json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"source": {"configMap": {"name": "x", "key": "plugin.wasm"}}, "instance": "Pooled",
                    "limits": {"memory": 1_048_576, "runTime": "5ms"}, "failMode": "Open"}}),
            json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": gateway_api.split('/').next(), "kind": "HTTPRoute", "name": "x"}],
                    "plugins": [{"name": "a", "pluginRef": {"name": "x"}, "config": {"deep": {"list": [1, 2.5, null]}}}]}}),
            json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"ingress": {"httpPort": 8080}}}),
        ];
        let objects: Vec<Object> = documents
            .into_iter()
            .map(|document| {
                let parsed = parse(document);
                assert_eq!(parsed.problems, []);
                parsed.object.unwrap()
            })
            .collect();
        let kinds: std::collections::BTreeSet<_> = objects.iter().map(Object::kind).collect();
        assert_eq!(kinds.len(), sluice_model::Kind::ALL.len());
        let folder = folder();
        let place = place(&folder);
        place.write(&as_held(&objects), then()).unwrap();
        assert_eq!(read(&place).unwrap().unwrap().0, objects);
    }

    #[test]
    fn what_stands_for_a_policy_that_could_not_be_read_guards_after_a_restart_too() {
        let policy = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "x", "namespace": "shop"},
            "spec": {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "x"}], "plugins": 7}});
        let objects = vec![parse(policy).unreadable.unwrap().stand_in.clone().unwrap()];
        let folder = folder();
        let place = place(&folder);
        place.write(&as_held(&objects), then()).unwrap();
        assert_eq!(read(&place).unwrap().unwrap().0, objects);
    }

    #[test]
    fn of_two_processes_one_writes() {
        let folder = folder();
        let (first, second) = (place(&folder), place(&folder));
        first.write(&as_held(&services(1)), then()).unwrap();
        assert!(second.write(&as_held(&services(2)), then()).unwrap_err().to_string().contains("another process"));
        drop(first);
        second.write(&as_held(&services(2)), then()).unwrap();
        assert_eq!(read(&second).unwrap().unwrap().0.len(), 2);
    }
}
