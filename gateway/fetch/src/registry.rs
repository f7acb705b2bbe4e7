//! One repository of a registry, by the OCI distribution specification 1.1: manifests and blobs, both ways.

use crate::FetchError;
use crate::http::{Http, Upload, join};
use crate::manifest::{ACCEPT, Descriptor, Manifest, OCI_MANIFEST, digest, wasm_manifest};
use crate::policy::shown;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sluice_model::remote::{Credentials, ImageName};
use std::time::Duration;

/// Told how many bytes were moved since it was last told.
pub type Progress = std::sync::Arc<dyn Fn(u64) + Send + Sync>;

/// Bytes of a manifest: what registries take at most.
const MAX_MANIFEST: u64 = 4 << 20;
/// Bytes of an answer that says what is wrong, or holds a token.
const MAX_WORDS: u64 = 64 << 10;
/// For the head of an answer; a registry may have to fetch what it is asked for.
const ANSWER: Duration = Duration::from_secs(30);
/// For a blob that is sent.
const SENDING: Duration = Duration::from_secs(600);
/// Characters of what a registry says that are shown.
const SHOWN: usize = 200;

/// Where something is, and the answer to who asks for it.
struct Call<'c> {
    method: Method,
    url: &'c Uri,
    headers: HeaderMap,
    body: Bytes,
    progress: Option<Progress>,
    patience: Duration,
}

impl<'c> Call<'c> {
    fn new(method: Method, url: &'c Uri) -> Call<'c> {
        let body = Bytes::new();
        Call { method, url, headers: HeaderMap::new(), body, progress: None, patience: ANSWER }
    }
}

/// What a registry wants to know first (RFC 9110, section 11.6.1).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    /// A token from this address (the distribution project's token specification).
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Words {
    errors: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Holds the token that it was given, for as long as it lives: one fetch.
pub struct Repository<'h> {
    http: &'h Http,
    image: ImageName,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

impl<'h> Repository<'h> {
    pub fn new(http: &'h Http, image: &ImageName, credentials: Option<Credentials>) -> Repository<'h> {
        Repository { http, image: image.clone(), credentials, authorization: None }
    }

    fn url(&self, path: &str) -> Result<Uri, FetchError> {
        let api = self.image.api();
        let odd = || FetchError::Refused(format!("`{api}` is no host"));
        let authority = api.parse().map_err(|_| odd())?;
        let scheme = if self.http.policy.is_plain(&authority) { "http" } else { "https" };
        format!("{scheme}://{api}/v2/{}/{path}", self.image.repository).parse().map_err(|_| odd())
    }

    /// A manifest or index by tag or digest: its bytes, held to the digest where one was asked for, its own digest, and
    /// what the registry calls its type.
    pub(crate) async fn manifest(&mut self, reference: &str) -> Result<(Manifest, String), FetchError> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let mut call = Call::new(Method::GET, &url);
        call.headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        let answer = self.call(call).await?;
        let answer = self.expect(&url, answer, StatusCode::OK).await?;
        let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(str::to_owned);
        let bytes = self.http.read(&url, answer, MAX_MANIFEST, None).await?;
        let found = digest(&bytes);
        if reference.contains(':') && found != reference {
            return Err(FetchError::Damaged(format!(
                "the registry's manifest has the digest {found}, not {reference}"
            )));
        }
        Ok((Manifest::parse(&bytes, content_type.as_deref())?, found))
    }

    /// A blob of at most `max` bytes, held to its digest.
    pub(crate) async fn blob(
        &mut self,
        descriptor: &Descriptor,
        max: u64,
        progress: Option<&Progress>,
    ) -> Result<Vec<u8>, FetchError> {
        if descriptor.size > max {
            return Err(FetchError::TooLarge { what: format!("{} of the image", descriptor.digest), max });
        }
        if !sluice_model::remote::is_digest(&descriptor.digest) {
            return Err(FetchError::Unusable(format!("`{}` is not a digest by SHA-256", descriptor.digest)));
        }
        let url = self.url(&format!("blobs/{}", descriptor.digest))?;
        let answer = self.call(Call::new(Method::GET, &url)).await?;
        let answer = self.expect(&url, answer, StatusCode::OK).await?;
        let bytes = self.http.read(&url, answer, max, progress).await?;
        let found = digest(&bytes);
        if found != descriptor.digest {
            let sizes = format!("{} bytes of {}", bytes.len(), descriptor.size);
            let message = format!("what came has the digest {found}, not {} ({sizes})", descriptor.digest);
            return Err(FetchError::Damaged(message));
        }
        Ok(bytes)
    }

    /// Makes an image of a component under the image's tag; its digest.
    pub async fn push(&mut self, module: Vec<u8>, progress: Option<Progress>) -> Result<String, FetchError> {
        let (config, manifest) = wasm_manifest(&module);
        self.push_blob(module.into(), progress).await?;
        self.push_blob(config.into(), None).await?;
        let made = digest(&manifest);
        let reference = self.image.tag.clone().unwrap_or_else(|| made.as_str().into());
        let url = self.url(&format!("manifests/{reference}"))?;
        let mut call = Call::new(Method::PUT, &url);
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_MANIFEST));
        call.body = manifest.into();
        let answer = self.call(call).await?;
        self.expect(&url, answer, StatusCode::CREATED).await?;
        Ok(made)
    }

    async fn push_blob(&mut self, bytes: Bytes, progress: Option<Progress>) -> Result<(), FetchError> {
        let digest = digest(&bytes);
        let url = self.url(&format!("blobs/{digest}"))?;
        if self.call(Call::new(Method::HEAD, &url)).await?.status() == StatusCode::OK {
            if let Some(progress) = progress {
                progress(bytes.len() as u64);
            }
            return Ok(());
        }
        let start = self.url("blobs/uploads/")?;
        let answer = self.call(Call::new(Method::POST, &start)).await?;
        let answer = self.expect(&start, answer, StatusCode::ACCEPTED).await?;
        let odd = || FetchError::Damaged("the registry does not say where the upload goes".to_owned());
        let place = join(&start, answer.headers().get(header::LOCATION).ok_or_else(odd)?)?;
        let digest = utf8_percent_encode(&digest, NON_ALPHANUMERIC);
        let separator = if place.query().is_some() { '&' } else { '?' };
        let url: Uri = format!("{place}{separator}digest={digest}").parse().map_err(|_| odd())?;
        let mut call = Call::new(Method::PUT, &url);
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        (call.body, call.progress, call.patience) = (bytes, progress, SENDING);
        let answer = self.call(call).await?;
        self.expect(&url, answer, StatusCode::CREATED).await.map(|_| ())
    }

    /// Sends, and once more where the registry wants to know who asks.
    async fn call(&mut self, call: Call<'_>) -> Result<Response<Incoming>, FetchError> {
        let answer = self.try_call(&call).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !self.authorize(answer.headers()).await? {
            return Ok(answer);
        }
        self.try_call(&call).await
    }

    async fn try_call(&self, call: &Call<'_>) -> Result<Response<Incoming>, FetchError> {
        let mut headers = call.headers.clone();
        let own = self.image.api();
        // An upload may go elsewhere.
        let is_own = call.url.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(own));
        if let Some(authorization) = self.authorization.as_ref().filter(|_| is_own) {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if call.method == Method::GET {
            return self.http.get(call.url, &headers).await;
        }
        let body = Upload::new(call.body.clone(), call.progress.clone());
        self.http.send(call.method.clone(), call.url, &headers, body, call.patience).await
    }

    /// Answers a challenge. False where there is nothing to say.
    async fn authorize(&mut self, headers: &HeaderMap) -> Result<bool, FetchError> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut challenges: Vec<_> = values.filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        // A token says less of who asks.
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let secret = |text: String| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let basic = self
            .credentials
            .as_ref()
            .and_then(|who| secret(format!("Basic {}", STANDARD.encode(format!("{}:{}", who.username, who.password)))));
        let authorization = match challenges.first() {
            None => None,
            Some(Challenge::Basic) => basic,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref(), basic).await?;
                secret(format!("Bearer {token}"))
            }
        };
        let says_more = authorization.is_some() && authorization != self.authorization;
        self.authorization = authorization;
        Ok(says_more)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        who: Option<HeaderValue>,
    ) -> Result<String, FetchError> {
        let odd = || FetchError::Damaged("the registry's token service can't be asked".to_owned());
        let own_scope = format!("repository:{}:pull", self.image.repository);
        let scope = scope.unwrap_or(&own_scope);
        let mut url = realm.to_owned();
        for (name, value) in [("service", service), ("scope", Some(scope))] {
            let Some(value) = value else { continue };
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
        let url: Uri = url.parse().map_err(|_| odd())?;
        let headers = who.map(|who| (header::AUTHORIZATION, who)).into_iter().collect();
        let answer = self.http.get(&url, &headers).await?;
        let answer = self.expect(&url, answer, StatusCode::OK).await?;
        let bytes = self.http.read(&url, answer, MAX_WORDS, None).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| odd())?;
        token.token.or(token.access_token).ok_or_else(odd)
    }

    /// What it says of an answer that was not expected.
    async fn expect(
        &self,
        url: &Uri,
        answer: Response<Incoming>,
        expected: StatusCode,
    ) -> Result<Response<Incoming>, FetchError> {
        let status = answer.status();
        if status == expected {
            return Ok(answer);
        }
        let words = self.http.read(url, answer, MAX_WORDS, None).await.unwrap_or_default();
        let words = serde_json::from_slice::<Words>(&words).map(|words| words.errors).unwrap_or_default();
        let detail = words.first().map_or_else(String::new, |word| {
            let text = if word.message.is_empty() { &word.code } else { &word.message };
            let text: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
            format!(": {text}")
        });
        Err(FetchError::Status { url: shown(url), status, detail })
    }
}

impl Challenge {
    fn parse(text: &str) -> Option<Challenge> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Challenge::Bearer { realm: realm?, service, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_their_parameters() {
        let bearer =
            r#"Bearer realm="https://auth.example/token?x=1",service="r, example",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token?x=1".into(),
            service: Some("r, example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(Challenge::parse(bearer), Some(expected));
        assert_eq!(Challenge::parse("basic realm=\"x\""), Some(Challenge::Basic));
        let bare = Challenge::Bearer { realm: "https://a.example".into(), service: Some("s".into()), scope: None };
        assert_eq!(Challenge::parse("Bearer realm=https://a.example, service=s"), Some(bare));
        for text in ["Negotiate", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"open"] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }
}
