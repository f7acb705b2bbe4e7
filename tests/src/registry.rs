//! A registry in this process (OCI distribution specification 1.1): what was pushed can be pulled, by whom it is told to
//! let, and it fails as a test wants.

use crate::backend::{Answer, Backend, Handler, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

pub const WASM: &str = "application/wasm";
pub const WASM_TO_OCI: &str = "application/vnd.wasm.content.layer.v1+wasm";
pub const OCI_FILES: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_FILES: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every answer has this status.
    Status(u16),
    /// Blobs have a byte that is another.
    Damaged,
    /// Blobs end too early.
    CutShort,
    /// Nothing is answered.
    Silent,
}

#[derive(Default)]
struct Content {
    blobs: HashMap<String, Bytes>,
    /// By repository, and tag or digest.
    manifests: HashMap<(String, String), Bytes>,
    /// User and password; everybody may do all where there is none.
    user: Option<(String, String)>,
    fault: Option<Fault>,
    /// Where tokens are to be had.
    address: Option<SocketAddr>,
}

type Shared = Arc<Mutex<Content>>;

/// Gone, with its connections, when dropped; its content stays for [`Registry::come_back`].
pub struct Registry {
    backend: Option<Backend>,
    pub address: SocketAddr,
    content: Shared,
}

fn handler(content: &Shared) -> Handler {
    let content = content.clone();
    Arc::new(move |request| {
        let content = content.clone();
        Box::pin(async move { answer(&content, request).await })
    })
}

pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

impl Registry {
    pub async fn start() -> Registry {
        let content = Shared::default();
        let backend = Backend::with(handler(&content)).await;
        let address = backend.address;
        content.lock().unwrap().address = Some(address);
        Registry { backend: Some(backend), address, content }
    }

    /// Lets nobody but this user in, by a token.
    pub fn only_for(&self, user: &str, password: &str) {
        self.content.lock().unwrap().user = Some((user.to_owned(), password.to_owned()));
    }

    pub fn fail(&self, fault: impl Into<Option<Fault>>) {
        self.content.lock().unwrap().fault = fault.into();
    }

    pub async fn go_away(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.stop().await;
        }
    }

    pub async fn come_back(&mut self) {
        self.backend = Some(Backend::on_port(self.address.port(), handler(&self.content)).await);
    }

    /// Requests since it came, or came back.
    pub fn asked(&self) -> usize {
        self.backend.as_ref().map_or(0, Backend::count)
    }

    /// The name of an image here.
    pub fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// An image of these layers; its digest.
    pub fn put(&self, repository: &str, tag: &str, layers: &[(&str, &[u8])]) -> String {
        let layers: Vec<_> =
            layers.iter().map(|(media_type, bytes)| (*media_type, self.put_blob(bytes), bytes.len() as u64)).collect();
        self.put_layers(repository, tag, &layers)
    }

    /// An image of layers by media type, digest and size, there or not; its digest.
    pub fn put_layers(&self, repository: &str, tag: &str, layers: &[(&str, String, u64)]) -> String {
        let layer = |(media_type, digest, size): &(&str, String, u64)| json!({"mediaType": media_type, "digest": digest, "size": size});
        let config = self.put_blob(b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        self.put_manifest(repository, tag, &manifest)
    }

    /// An index of one image; its digest.
    pub fn put_index(&self, repository: &str, tag: &str, image: &str) -> String {
        let one = json!({"mediaType": MANIFEST, "digest": image, "size": 1, "platform": {"architecture": "amd64", "os": "linux"}});
        self.put_manifest(repository, tag, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [one]}))
    }

    pub fn put_blob(&self, bytes: &[u8]) -> String {
        let name = digest(bytes);
        self.content.lock().unwrap().blobs.insert(name.clone(), Bytes::copy_from_slice(bytes));
        name
    }

    fn put_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> String {
        let bytes = Bytes::from(manifest.to_string());
        let name = digest(&bytes);
        let manifests = &mut self.content.lock().unwrap().manifests;
        for reference in [tag, &name] {
            manifests.insert((repository.to_owned(), reference.to_owned()), bytes.clone());
        }
        name
    }

    /// Signs the image `signed` as `cosign sign --key` does, and puts the signature where that of `image` is looked for.
    pub fn sign(&self, repository: &str, image: &str, signed: &str, key: &KeyPair) {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": format!("{}/{repository}", self.address)},
                "image": {"docker-manifest-digest": signed},
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string();
        let signature = STANDARD.encode(key.sign(payload.as_bytes()).unwrap());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.put_blob(b"{}"), "size": 2},
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": self.put_blob(payload.as_bytes()), "size": payload.len(),
                "annotations": {"dev.cosignproject.cosign/signature": signature},
            }],
        });
        self.put_manifest(repository, &format!("{}.sig", image.replace(':', "-")), &manifest);
    }
}

fn bytes(status: StatusCode, media_type: &'static str, content: Bytes) -> Answer {
    let mut response = Response::new(Full::new(content).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn refused(status: StatusCode, code: &str) -> Answer {
    let words = json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    bytes(status, "application/json", words.to_string().into())
}

fn placed(status: StatusCode, location: &str) -> Answer {
    let mut response = text(status, "");
    response.headers_mut().insert(header::LOCATION, location.parse().unwrap());
    response
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let fault = shared.lock().unwrap().fault;
    match fault {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Status(status)) => return text(StatusCode::from_u16(status).unwrap(), "broken"),
        Some(Fault::Damaged | Fault::CutShort) | None => {}
    }
    let (head, body) = request.into_parts();
    let said = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (user, address) = {
        let content = shared.lock().unwrap();
        (content.user.clone(), content.address.unwrap())
    };
    if let Some((user, password)) = user {
        // One token will do: it is told only to who knows the password.
        let token = digest(format!("{user}:{password}").as_bytes());
        if head.uri.path() == "/token" {
            let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            let asked = head.uri.query().is_some_and(|query| query.contains("scope=repository"));
            return if said == basic && asked {
                bytes(StatusCode::OK, "application/json", json!({"token": token}).to_string().into())
            } else {
                refused(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
            };
        }
        if said != format!("Bearer {token}") {
            let mut answer = refused(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            let repository = parts(head.uri.path()).map(|(repository, _, _)| repository).unwrap_or_default();
            let challenge = format!(
                "Bearer realm=\"http://{address}/token\",service=\"tests\",scope=\"repository:{repository}:pull,push\""
            );
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
            return answer;
        }
    }
    let Some((repository, what, reference)) = parts(head.uri.path()) else {
        return refused(StatusCode::NOT_FOUND, "UNSUPPORTED");
    };
    let Ok(body) = body.collect().await else { return text(StatusCode::BAD_REQUEST, "") };
    let body = body.to_bytes();
    let mut content = shared.lock().unwrap();
    match (&head.method, what) {
        (&Method::GET, "manifests") => match content.manifests.get(&(repository, reference)) {
            Some(manifest) => {
                let is_index = serde_json::from_slice::<Value>(manifest).unwrap()["mediaType"] == INDEX;
                bytes(StatusCode::OK, if is_index { INDEX } else { MANIFEST }, manifest.clone())
            }
            None => refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        },
        (&Method::PUT, "manifests") => {
            let name = digest(&body);
            for reference in [reference, name] {
                content.manifests.insert((repository.clone(), reference), body.clone());
            }
            text(StatusCode::CREATED, "")
        }
        (&Method::GET | &Method::HEAD, "blobs") => match content.blobs.get(&reference) {
            Some(blob) => {
                let mut blob = blob.to_vec();
                match fault {
                    Some(Fault::Damaged) => blob[0] ^= 1,
                    Some(Fault::CutShort) => blob.truncate(blob.len() / 2),
                    _ => {}
                }
                bytes(StatusCode::OK, "application/octet-stream", blob.into())
            }
            None => refused(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        },
        (&Method::POST, "uploads") => {
            placed(StatusCode::ACCEPTED, &format!("/v2/{repository}/blobs/uploads/7?state=x"))
        }
        (&Method::PUT, "uploads") => {
            let name = digest(&body);
            let asked = head.uri.query().unwrap_or_default().replace("%3A", ":");
            if !asked.ends_with(&format!("state=x&digest={name}")) {
                return refused(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
            }
            content.blobs.insert(name, body);
            text(StatusCode::CREATED, "")
        }
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
    }
}

/// `/v2/team/plugin/blobs/uploads/7`: the repository, what is asked of it, and which one.
fn parts(path: &str) -> Option<(String, &'static str, String)> {
    let path = path.strip_prefix("/v2/")?;
    let (place, what, marker) = [("uploads", "/blobs/uploads/"), ("blobs", "/blobs/"), ("manifests", "/manifests/")]
        .into_iter()
        .find_map(|(what, marker)| Some((path.find(marker)?, what, marker)))?;
    Some((path[..place].to_owned(), what, path[place + marker.len()..].to_owned()))
}
