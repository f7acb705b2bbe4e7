//! Manifests and indexes (OCI image specification 1.1, and Docker's schema 2): what an image with a plugin looks like.

use crate::FetchError;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a registry is asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// The layer of a component, by the guidance for WebAssembly artifacts of the CNCF's TAG Runtime.
pub const WASM_LAYER: &str = "application/wasm";
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The layer that wasm-to-oci makes.
const WASM_TO_OCI: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// Layers of files.
const ARCHIVES: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar",
];

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Platform {
    architecture: String,
}

/// Either of the two: only one of the lists has entries.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    media_type: Option<String>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Where the module is in an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The layer is the module.
    Module(Descriptor),
    /// It is one of the layer's files.
    Archive(Descriptor),
}

impl Manifest {
    /// `content_type` is what the registry calls it, where it does.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Manifest, FetchError> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| FetchError::Unusable(format!("the image's manifest can't be read: {error}")))?;
        let media_type = manifest.media_type.as_deref().or(content_type).unwrap_or(OCI_MANIFEST);
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if ![OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST].contains(&media_type) {
            return Err(FetchError::Unusable(format!(
                "the image's manifest is of type `{media_type}`, which is not read"
            )));
        }
        Ok(manifest)
    }

    /// Of an index, the manifest to go on with: WebAssembly's own where it is told, or else the first image.
    pub(crate) fn of_index(&self) -> Option<&Descriptor> {
        let images = || self.manifests.iter().filter(|one| !one.annotations.contains_key("vnd.docker.reference.type"));
        let is_wasm = |one: &&Descriptor| one.platform.as_ref().is_some_and(|p| p.architecture.starts_with("wasm"));
        images().find(is_wasm).or_else(|| images().next())
    }

    pub(crate) fn layer(&self) -> Result<Layer, FetchError> {
        let is_wasm = |layer: &&Descriptor| [WASM_LAYER, WASM_TO_OCI].contains(&layer.media_type.as_str());
        if let Some(layer) = self.layers.iter().find(is_wasm) {
            return Ok(Layer::Module(layer.clone()));
        }
        // What is laid on top is what counts.
        let is_archive = |layer: &&Descriptor| ARCHIVES.contains(&layer.media_type.as_str());
        if let Some(layer) = self.layers.iter().rev().find(is_archive) {
            return Ok(Layer::Archive(layer.clone()));
        }
        let types: Vec<_> = self.layers.iter().map(|layer| layer.media_type.as_str()).take(8).collect();
        Err(FetchError::Unusable(format!(
            "the image has no layer with a plugin ({WASM_LAYER}, or files with gzip); its layers are [{}]",
            types.join(", ")
        )))
    }
}

/// `sha256:` and hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The image of one component: its configuration, and its manifest. The same component always makes the same image.
pub fn wasm_manifest(module: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let layer = digest(module);
    let config = json!({
        // A time of its own would make each push another image.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer],
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": WASM_CONFIG, "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": WASM_LAYER, "digest": layer, "size": module.len()}],
    });
    (config, manifest.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: &[&str]) -> Manifest {
        let layers: Vec<_> =
            layers.iter().map(|media_type| json!({"mediaType": media_type, "digest": media_type, "size": 1})).collect();
        Manifest::parse(json!({"layers": layers}).to_string().as_bytes(), None).unwrap()
    }

    fn layer(layers: &[&str]) -> String {
        match manifest(layers).layer() {
            Ok(Layer::Module(layer)) => format!("module {}", layer.digest),
            Ok(Layer::Archive(layer)) => format!("archive {}", layer.digest),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_layer_is_the_modules_own_or_else_the_topmost_of_files() {
        assert_eq!(layer(&["text/plain", WASM_LAYER]), "module application/wasm");
        assert_eq!(layer(&[WASM_TO_OCI]), format!("module {WASM_TO_OCI}"));
        assert_eq!(layer(&[ARCHIVES[1], ARCHIVES[0]]), format!("archive {}", ARCHIVES[0]));
        assert!(layer(&["application/vnd.oci.image.layer.v1.tar+zstd"]).contains("tar+zstd"));
        assert!(layer(&[]).contains("no layer"));
    }

    #[test]
    fn of_an_index_webassembly_is_taken_and_no_attestation() {
        let one = |digest: &str, architecture: &str, annotations: serde_json::Value| json!({"digest": digest, "size": 1, "platform": {"architecture": architecture}, "annotations": annotations});
        let attestation = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let chosen = |manifests: Vec<serde_json::Value>| {
            let index = json!({"mediaType": OCI_INDEX, "manifests": manifests}).to_string();
            Manifest::parse(index.as_bytes(), None).unwrap().of_index().map(|one| one.digest.clone())
        };
        let amd64 = one("a", "amd64", json!({}));
        assert_eq!(chosen(vec![amd64.clone(), one("w", "wasm", json!({}))]).as_deref(), Some("w"));
        assert_eq!(chosen(vec![one("s", "unknown", attestation), amd64]).as_deref(), Some("a"));
    }

    #[test]
    fn a_manifest_of_another_type_is_named() {
        let error = Manifest::parse(br#"{"mediaType": "application/x-other"}"#, None).unwrap_err();
        assert!(error.to_string().contains("application/x-other") && !error.may_mend(), "{error}");
        assert!(Manifest::parse(b"<html>", Some(OCI_MANIFEST)).is_err());
    }

    #[test]
    fn one_component_makes_one_image() {
        let (config, manifest) = wasm_manifest(b"code");
        assert_eq!((config.clone(), manifest.clone()), wasm_manifest(b"code"));
        let parsed = Manifest::parse(&manifest, None).unwrap();
        let Ok(Layer::Module(layer)) = parsed.layer() else { panic!("{parsed:?}") };
        assert_eq!((layer.digest, layer.size), (digest(b"code"), 4));
    }
}
