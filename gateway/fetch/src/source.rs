//! From where code is to a module: each source by its own way, all of them to bytes that are held to a digest.

use crate::FetchError;
use crate::http::Http;
use crate::layer;
use crate::manifest::{Layer, digest};
use crate::policy::shown;
use crate::registry::{Progress, Repository};
use crate::signature;
use http::{HeaderMap, StatusCode, Uri};
use sluice_model::remote::{ImageName, PublicKey, RemoteLocation, RemoteSource};

/// Bytes of an image's layer beyond the largest module: compressing may add some, and so do other files.
const LAYER_SLACK: u64 = 1 << 20;

/// A module.
#[derive(Debug)]
pub struct Found {
    pub module: Vec<u8>,
    /// SHA-256 of the module, in hex.
    pub sha256: String,
    /// Of an image: `sha256:` and hex, of what its name led to.
    pub image_digest: Option<String>,
}

/// Fetches a module of at most `max` bytes.
pub(crate) async fn fetch(http: &Http, source: &RemoteSource, max: u64) -> Result<Found, FetchError> {
    match &source.location {
        RemoteLocation::Oci { image, signed_by } => {
            let mut repository = Repository::new(http, image, source.credentials.clone());
            pull(&mut repository, image, signed_by.as_ref(), max, None).await
        }
        RemoteLocation::Https { url, sha256 } => file(http, url, sha256, max).await,
    }
}

/// Pulls the module out of an image.
pub async fn pull(
    repository: &mut Repository<'_>,
    image: &ImageName,
    signed_by: Option<&PublicKey>,
    max: u64,
    progress: Option<&Progress>,
) -> Result<Found, FetchError> {
    let (mut manifest, image_digest) = repository.manifest(image.reference()).await?;
    if let Some(key) = signed_by {
        signature::check(repository, &image_digest, key).await?;
    }
    if let Some(child) = manifest.of_index().map(|child| child.digest.clone()) {
        if !sluice_model::remote::is_digest(&child) {
            return Err(FetchError::Unusable(format!("`{child}` is not a digest by SHA-256")));
        }
        manifest = repository.manifest(&child).await?.0;
    }
    let module = match manifest.layer()? {
        Layer::Module(layer) => repository.blob(&layer, max, progress).await?,
        Layer::Archive(layer) => {
            layer::module(&repository.blob(&layer, max.saturating_add(LAYER_SLACK), progress).await?, max)?
        }
    };
    let sha256 = digest(&module).trim_start_matches("sha256:").to_owned();
    Ok(Found { module, sha256, image_digest: Some(image_digest) })
}

async fn file(http: &Http, url: &str, sha256: &str, max: u64) -> Result<Found, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Refused(format!("`{url}` is no URL")))?;
    let answer = http.get(&uri, &HeaderMap::new()).await?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status { url: shown(&uri), status: answer.status(), detail: String::new() });
    }
    let module = http.read(&uri, answer, max, None).await?;
    let found = digest(&module);
    if found.strip_prefix("sha256:") != Some(sha256) {
        return Err(FetchError::Damaged(format!("what came has the digest {found}, not sha256:{sha256}")));
    }
    Ok(Found { module, sha256: sha256.to_owned(), image_digest: None })
}
