//! Code that is fetched: what an object asks for, as plain data. Fetching is `sluice-fetch`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where code is fetched from, and what it is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemoteSource {
    pub location: RemoteLocation,
    /// For the registry of an image. They are printed nowhere.
    #[serde(skip)]
    pub credentials: Option<Credentials>,
    /// Another one each time that the object changes: a tag is looked up once for each.
    pub revision: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RemoteLocation {
    Oci {
        image: ImageName,
        /// The image's cosign signature is checked with it.
        signed_by: Option<PublicKey>,
    },
    Https {
        #[serde(serialize_with = "without_query")]
        url: Arc<str>,
        /// SHA-256 of the module, in hex.
        sha256: Arc<str>,
    },
}

impl RemoteSource {
    /// What decides which code this is, whoever is allowed to fetch it: sources of one identity are fetched once.
    /// An image of a tag is another one for each revision of the object.
    pub fn identity(&self) -> String {
        let text = match &self.location {
            RemoteLocation::Oci { image, signed_by } => {
                let key = signed_by.as_ref().map_or("", |key| &key.sha256);
                let ImageName { registry, repository, .. } = image;
                // A tag beside a digest decides nothing.
                let revision = if image.digest.is_some() { "" } else { &self.revision };
                format!("oci\n{registry}/{repository}\n{}\n{key}\n{revision}", image.reference())
            }
            RemoteLocation::Https { url, sha256 } => format!("https\n{url}\n{sha256}"),
        };
        hex::encode(Sha256::digest(text))
    }

    /// The same code by its digest, where a tag led to that.
    pub fn pinned(&self, image_digest: &str) -> Option<RemoteSource> {
        let RemoteLocation::Oci { image, signed_by } = &self.location else { return None };
        let image = ImageName { tag: None, digest: Some(image_digest.into()), ..image.clone() };
        let location = RemoteLocation::Oci { image, signed_by: signed_by.clone() };
        Some(RemoteSource { location, ..self.clone() })
    }

    /// The field of the Plugin that says where the code is.
    pub fn field(&self) -> &'static str {
        match self.location {
            RemoteLocation::Oci { .. } => "spec.source.oci.image",
            RemoteLocation::Https { .. } => "spec.source.https.url",
        }
    }
}

impl fmt::Display for RemoteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            RemoteLocation::Oci { image, .. } => image.fmt(f),
            RemoteLocation::Https { url, .. } => f.write_str(shown(url)),
        }
    }
}

/// A query may be a secret, as in signed URLs.
fn shown(url: &str) -> &str {
    url.split_once('?').map_or(url, |(url, _)| url)
}

fn without_query<S: Serializer>(url: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(shown(url))
}

/// `registry.example:5000/team/plugin:1.2@sha256:…`, by the grammar of the OCI distribution specification 1.1. The
/// registry is always named, and a tag, a digest or both; the digest decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Host, with the port where there is one.
    pub registry: Arc<str>,
    pub repository: Arc<str>,
    pub tag: Option<Arc<str>>,
    /// `sha256:` and 64 hex digits, of the manifest or index.
    pub digest: Option<Arc<str>>,
}

/// What is not the name of an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{name}` is no image: {reason}")]
pub struct ImageNameError {
    name: String,
    reason: &'static str,
}

/// Docker's own registry goes by another name than its API.
const DOCKER: &str = "docker.io";
const DOCKER_API: &str = "registry-1.docker.io";
/// The names that Docker's registry has in configurations of the Docker client.
const DOCKER_NAMES: [&str; 3] = [DOCKER, "index.docker.io", DOCKER_API];

impl FromStr for ImageName {
    type Err = ImageNameError;

    /// `oci://` before it may stand there.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let no = |reason| ImageNameError { name: name.to_owned(), reason };
        let rest = name.strip_prefix("oci://").unwrap_or(name);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err(no("a digest is `sha256:` and 64 lower-case hex digits")),
            None => (rest, None),
        };
        let is_registry = |text: &str| text == "localhost" || text.contains(['.', ':']);
        let Some((registry, path)) = rest.split_once('/').filter(|(registry, _)| is_registry(registry)) else {
            return Err(no("name the registry: `registry.example/team/plugin:1.0`"));
        };
        if !is_authority(registry) {
            return Err(no("the registry is not a host name or address, with a port or without"));
        }
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(no("a repository is lower-case letters and digits, with `.`, `_`, `-` and `/` between them"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(no("a tag is at most 128 letters, digits, `_`, `.` and `-`"));
        }
        if tag.is_none() && digest.is_none() {
            return Err(no("name a tag or a digest"));
        }
        let library = registry == DOCKER && !repository.contains('/');
        Ok(ImageName {
            registry: registry.to_ascii_lowercase().into(),
            repository: if library { format!("library/{repository}").into() } else { repository.into() },
            tag: tag.map(Arc::from),
            digest: digest.map(Arc::from),
        })
    }
}

impl ImageName {
    /// Host and port of the registry's API.
    pub fn api(&self) -> &str {
        if *self.registry == *DOCKER { DOCKER_API } else { &self.registry }
    }

    /// What the registry is asked for: the digest, or else the tag.
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or_default()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl Serialize for ImageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a text is `sha256:` and 64 lower-case hex digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_sha256)
}

/// Whether a text is 64 lower-case hex digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_authority(text: &str) -> bool {
    // The parser takes any text for a port.
    let has_port = |a: &http::uri::Authority| a.as_str() == a.host() || a.port_u16().is_some();
    !text.contains('@') && text.parse::<http::uri::Authority>().is_ok_and(|a| !a.host().is_empty() && has_port(&a))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(alphanumeric);
    let between = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && between
            .filter(|part| !part.is_empty())
            .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 128 && text.bytes().all(inner) && !text.starts_with(['.', '-']) && !text.is_empty()
}

/// User and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: Arc<str>,
    pub password: Arc<str>,
}

/// Never the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, password)", self.username)
    }
}

/// `~/.docker/config.json`, and a Secret of type kubernetes.io/dockerconfigjson.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// What the text says of the registry of an image; the entry with the longest path wins, as in the kubelet. None
    /// where it says nothing of it. Messages hold nothing of the text.
    pub fn of_docker_config(text: &[u8], image: &ImageName) -> Result<Option<Credentials>, String> {
        // The parser's own words might show what stands there.
        let config: DockerConfig =
            serde_json::from_slice(text).map_err(|_| "it is not the JSON of a Docker configuration".to_owned())?;
        let entries = config.auths.iter().filter_map(|(key, auth)| Some((matched(key, image)?, key, auth)));
        // Of two keys that say the same, always the same one.
        match entries.max_by_key(|(length, key, _)| (*length, std::cmp::Reverse(*key))) {
            Some((_, key, auth)) => auth.read().map_err(|reason| format!("of `{key}`: {reason}")),
            None => Ok(None),
        }
    }
}

/// How much of the image's name an entry's key has; none where it is of another.
fn matched(key: &str, image: &ImageName) -> Option<usize> {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let is_docker = |host: &str| DOCKER_NAMES.contains(&host);
    let same = host.eq_ignore_ascii_case(&image.registry) || (is_docker(host) && is_docker(&image.registry));
    let path = path.trim_matches('/');
    // The API's own path, as older clients wrote it.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let within = path.is_empty()
        || image.repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (same && within).then_some(path.len())
}

impl DockerAuth {
    fn read(&self) -> Result<Option<Credentials>, String> {
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((username, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
                return Err("auth is not `user:password` in base64".to_owned());
            };
            return Ok(Some(Credentials {
                username: username.into(),
                password: password.trim_end_matches('\0').into(),
            }));
        }
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => {
                Ok(Some(Credentials { username: username.as_str().into(), password: password.as_str().into() }))
            }
            _ if self.identitytoken.is_some() => {
                Err("identity tokens are not supported: use a user with a password or token".to_owned())
            }
            _ => Ok(None),
        }
    }
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct PublicKey {
    pub algorithm: SignatureAlgorithm,
    /// The bare key: an uncompressed point, or the 32 bytes of Ed25519.
    #[serde(skip)]
    pub key: Arc<[u8]>,
    /// SHA-256 of the SubjectPublicKeyInfo, in hex.
    pub sha256: Arc<str>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, sha256:{})", self.algorithm, self.sha256)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SignatureAlgorithm {
    /// ECDSA over P-256 with SHA-256: what `cosign generate-key-pair` makes.
    EcdsaP256,
    Ed25519,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn image(name: &str) -> ImageName {
        name.parse().unwrap()
    }

    #[test]
    fn an_image_names_its_registry_and_a_tag_or_a_digest() {
        let plain = image("oci://Registry.example:5000/team/my-plugin:1.2_a");
        assert_eq!((&*plain.registry, &*plain.repository), ("registry.example:5000", "team/my-plugin"));
        assert_eq!((plain.tag.as_deref(), plain.digest.as_deref()), (Some("1.2_a"), None));
        assert_eq!(plain.to_string(), "registry.example:5000/team/my-plugin:1.2_a");
        let pinned = image(&format!("localhost/a__b:x@{DIGEST}"));
        assert_eq!(pinned.reference(), DIGEST);
        let docker = image("docker.io/nginx:1");
        assert_eq!((docker.api(), &*docker.repository), ("registry-1.docker.io", "library/nginx"));
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        for (name, reason) in [
            ("team/plugin:1", "registry"),
            ("plugin", "registry"),
            ("r.example/plugin", "tag or a digest"),
            ("r.example/Plugin:1", "repository"),
            ("r.example/a//b:1", "repository"),
            ("r.example/a-:1", "repository"),
            ("r.example/a.-b:1", "repository"),
            ("r.example/../b:1", "repository"),
            ("r.example/a:", "tag"),
            ("r.example/a:-x", "tag"),
            ("r.example/a@sha256:12", "digest"),
            ("user@r.example/a:1", "digest"),
            ("r.example:port/a:1", "host name"),
        ] {
            let error = name.parse::<ImageName>().unwrap_err();
            assert!(error.to_string().contains(reason), "{name}: {error}");
        }
    }

    #[test]
    fn a_pinned_image_is_the_same_whatever_the_object_says_besides_and_a_tag_is_not() {
        let source = |name: &str, revision: &str, password: Option<&str>| RemoteSource {
            location: RemoteLocation::Oci { image: image(name), signed_by: None },
            credentials: password.map(|p| Credentials { username: "me".into(), password: p.into() }),
            revision: revision.into(),
        };
        let pinned = format!("r.example/a@{DIGEST}");
        assert_eq!(source(&pinned, "1", None).identity(), source(&pinned, "2", Some("x")).identity());
        assert_eq!(
            source(&pinned, "1", None).identity(),
            source(&format!("r.example/a:1@{DIGEST}"), "1", None).identity()
        );
        assert_ne!(source("r.example/a:1", "1", None).identity(), source("r.example/a:1", "2", None).identity());
        let led_to = source("r.example/a:1", "1", None).pinned(DIGEST).unwrap();
        assert_eq!(led_to.identity(), source(&pinned, "1", None).identity());
        assert_eq!(source("r.example/a:1", "1", None).identity(), source("r.example/a:1", "1", Some("x")).identity());
    }

    #[test]
    fn the_query_of_a_url_is_not_shown() {
        let location = RemoteLocation::Https { url: "https://a.example/x.wasm?sig=sesame".into(), sha256: "ab".into() };
        let source = RemoteSource { location, credentials: None, revision: "".into() };
        let shown = format!("{source} {}", serde_json::to_string(&source).unwrap());
        assert!(shown.contains("https://a.example/x.wasm") && !shown.contains("sesame"), "{shown}");
    }

    fn credentials(config: &str, name: &str) -> Result<Option<String>, String> {
        let found = Credentials::of_docker_config(config.as_bytes(), &image(name))?;
        Ok(found.map(|found| format!("{}:{}", found.username, found.password)))
    }

    #[test]
    fn credentials_are_those_of_the_registry_and_the_longest_path() {
        let config = r#"{"auths": {
            "https://r.example/v2/": {"auth": "YWxpY2U6d29uOmRlcg=="},
            "r.example/team": {"username": "bob", "password": "b"},
            "https://index.docker.io/v1/": {"username": "carol", "password": "c"},
            "empty.example": {}
        }}"#;
        let of = |name| credentials(config, name).unwrap();
        assert_eq!(of("r.example/a:1").as_deref(), Some("alice:won:der"));
        assert_eq!(of("r.example/team/a:1").as_deref(), Some("bob:b"));
        assert_eq!(of("r.example/teams/a:1").as_deref(), Some("alice:won:der"));
        assert_eq!(of("docker.io/a:1").as_deref(), Some("carol:c"));
        assert_eq!(of("r.example:5000/a:1"), None);
        assert_eq!(of("empty.example/a:1"), None);
    }

    #[test]
    fn credentials_that_cannot_be_read_are_refused_without_showing_them() {
        for (config, reason) in [
            ("sesame", "not the JSON"),
            (r#"{"auths": {"r.example": {"auth": "sesame!"}}}"#, "base64"),
            (r#"{"auths": {"r.example": {"auth": 7}}}"#, "not the JSON"),
            (r#"{"auths": {"r.example": {"identitytoken": "sesame"}}}"#, "identity tokens"),
        ] {
            let error = credentials(config, "r.example/a:1").unwrap_err();
            assert!(error.contains(reason) && !error.contains("sesame"), "{error}");
        }
        let found = Credentials::of_docker_config(
            br#"{"auths": {"r.example": {"username": "me", "password": "sesame"}}}"#,
            &image("r.example/a:1"),
        );
        assert!(!format!("{found:?}").contains("sesame"));
    }
}
