//! Where a Plugin's code is fetched from, with what its object refers to for that: credentials and a key.

use crate::report::Report;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use sluice_model::remote::{
    Credentials, ImageName, PublicKey, RemoteLocation, RemoteSource, SignatureAlgorithm, is_sha256,
};
use sluice_model::{Code, Kind, ObjectRef};
use sluice_resources::api::Secret;
use sluice_resources::{HttpsSource, OciSource, Plugin, PublicKeyRef, Store};
use std::collections::BTreeSet;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

/// What a Secret of type kubernetes.io/dockerconfigjson holds.
const DOCKER_CONFIG: &str = ".dockerconfigjson";
/// What `cosign generate-key-pair k8s://…` calls it.
const COSIGN_KEY: &str = "cosign.pub";

/// Longest text of a URL, in bytes.
const MAX_URL: usize = 2048;

/// Objects that were looked at, there or not.
type Uses = BTreeSet<ObjectRef>;

/// What stands for the object's present form: a tag is looked up again for another one.
fn revision(plugin: &Plugin) -> Arc<str> {
    let meta = &plugin.metadata;
    match (&meta.uid, meta.generation) {
        (Some(uid), Some(generation)) => format!("{uid}/{generation}").into(),
        // From a file: nobody counts its changes.
        _ => hex::encode(Sha256::digest(serde_json::to_vec(&plugin.spec).unwrap_or_default())).into(),
    }
}

/// None where it can't be fetched as the object wants it, with a problem.
pub(crate) fn oci(
    plugin: &Plugin,
    source: &OciSource,
    store: &Store,
    uses: &mut Uses,
    report: &mut Report<'_>,
) -> Option<RemoteSource> {
    let image = source.image.parse::<ImageName>();
    let image = image.map_err(|error| report.error(Code::PluginSource, "spec.source.oci.image", error.to_string()));
    let signed_by = match &source.public_key_ref {
        None => Some(None),
        Some(reference) => public_key(reference, store, uses, report).map(Some),
    };
    let (image, signed_by) = (image.ok()?, signed_by?);
    // Without them what was fetched before can still be used, and the image may be there for everybody.
    let credentials = source.pull_secret_ref.as_ref().and_then(|reference| {
        let secret = ObjectRef::new(Kind::Secret, report.object().namespace.clone(), reference.name.as_str());
        uses.insert(secret.clone());
        credentials(&secret, store, &image, report)
    });
    let location = RemoteLocation::Oci { image, signed_by };
    Some(RemoteSource { location, credentials, revision: revision(plugin) })
}

fn credentials(object: &ObjectRef, store: &Store, image: &ImageName, report: &mut Report<'_>) -> Option<Credentials> {
    let field = "spec.source.oci.pullSecretRef.name";
    let Some(secret) = store.secrets.get(&object.key()) else {
        report.error(Code::SecretNotFound, field, format!("there is no {object}; the image is asked for without it"));
        return None;
    };
    let Some(text) = data(secret, DOCKER_CONFIG) else {
        let message =
            format!("{object} has no `{DOCKER_CONFIG}`: create it by `kubectl create secret docker-registry`");
        report.error(Code::PluginSource, field, message);
        return None;
    };
    match Credentials::of_docker_config(text, image) {
        Ok(Some(found)) => return Some(found),
        Ok(None) => {
            let message = format!("{object} says nothing of the registry {}", image.registry);
            report.error(Code::PluginSource, field, message);
        }
        Err(reason) => {
            report.error(Code::PluginSource, field, format!("`{DOCKER_CONFIG}` of {object} can't be used: {reason}"));
        }
    }
    None
}

fn data<'s>(secret: &'s Secret, key: &str) -> Option<&'s [u8]> {
    Some(secret.data.as_ref()?.get(key)?.0.as_slice())
}

fn public_key(reference: &PublicKeyRef, store: &Store, uses: &mut Uses, report: &mut Report<'_>) -> Option<PublicKey> {
    let object = reference.object(&report.object().namespace);
    uses.insert(object.clone());
    let key = reference.key.as_deref().unwrap_or(COSIGN_KEY);
    let (is_there, pem) = match object.kind {
        Kind::Secret => {
            let secret = store.secrets.get(&object.key());
            (secret.is_some(), secret.and_then(|secret| data(secret, key)))
        }
        _ => {
            let map = store.config_maps.get(&object.key());
            let text = map.and_then(|map| map.data.as_ref()?.get(key));
            (map.is_some(), text.map(String::as_bytes))
        }
    };
    let Some(pem) = pem else {
        let (code, field, message) = if is_there {
            (Code::PluginSource, "key", format!("{object} has no `{key}`"))
        } else {
            (Code::SecretNotFound, "name", format!("there is no {object}"))
        };
        report.error(code, format!("spec.source.oci.publicKeyRef.{field}"), message);
        return None;
    };
    let found = parse_key(pem);
    if found.is_none() {
        let message = format!("`{key}` of {object} is not a PEM public key of ECDSA P-256 or Ed25519");
        report.error(Code::PluginSource, "spec.source.oci.publicKeyRef", message);
    }
    found
}

fn parse_key(pem: &[u8]) -> Option<PublicKey> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let (rest, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
    let curve = || Some(info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string());
    let algorithm = match info.algorithm.algorithm.to_id_string().as_str() {
        // id-ecPublicKey with secp256r1 (RFC 5480)
        "1.2.840.10045.2.1" if curve().as_deref() == Some("1.2.840.10045.3.1.7") => SignatureAlgorithm::EcdsaP256,
        // id-Ed25519 (RFC 8410)
        "1.3.101.112" => SignatureAlgorithm::Ed25519,
        _ => return None,
    };
    let key = &*info.subject_public_key.data;
    let fits = match algorithm {
        SignatureAlgorithm::EcdsaP256 => key.len() == 65 && key.first() == Some(&4),
        SignatureAlgorithm::Ed25519 => key.len() == 32,
    };
    (rest.is_empty() && fits).then(|| PublicKey {
        algorithm,
        key: key.into(),
        sha256: hex::encode(Sha256::digest(&der)).into(),
    })
}

/// None where it can't be fetched, with a problem.
pub(crate) fn https(plugin: &Plugin, source: &HttpsSource, report: &mut Report<'_>) -> Option<RemoteSource> {
    let url_problem = url_problem(&source.url);
    if let Some(reason) = url_problem {
        report.error(Code::PluginSource, "spec.source.https.url", reason);
    }
    let is_digest = is_sha256(&source.sha256);
    if !is_digest {
        report.error(Code::PluginSource, "spec.source.https.sha256", "it is not 64 lower-case hex digits");
    }
    (url_problem.is_none() && is_digest).then(|| RemoteSource {
        location: RemoteLocation::Https { url: source.url.as_str().into(), sha256: source.sha256.as_str().into() },
        credentials: None,
        revision: revision(plugin),
    })
}

/// Plain HTTP is the fetcher's to refuse: it knows which hosts may be asked by it.
fn url_problem(url: &str) -> Option<&'static str> {
    let parsed = url.parse::<http::Uri>().ok();
    let Some(authority) = parsed.as_ref().and_then(http::Uri::authority).filter(|_| url.len() <= MAX_URL) else {
        return Some("it is not an absolute URL: write `https://host/file.wasm`");
    };
    if !matches!(parsed.as_ref().and_then(http::Uri::scheme_str), Some("https" | "http")) {
        return Some("only https is fetched");
    }
    // Printed in statuses and logs.
    authority.as_str().contains('@').then_some("a URL with a user in it is not fetched")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_p256_and_ed25519_are_read_and_others_are_not() {
        let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().public_key_pem();
        let p256 = parse_key(pem(&rcgen::PKCS_ECDSA_P256_SHA256).as_bytes()).unwrap();
        assert_eq!((p256.algorithm, p256.key.len()), (SignatureAlgorithm::EcdsaP256, 65));
        let ed25519 = parse_key(pem(&rcgen::PKCS_ED25519).as_bytes()).unwrap();
        assert_eq!((ed25519.algorithm, ed25519.key.len()), (SignatureAlgorithm::Ed25519, 32));
        assert_ne!(p256.sha256, ed25519.sha256);
        assert_eq!(parse_key(pem(&rcgen::PKCS_ECDSA_P384_SHA384).as_bytes()), None);
        let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(parse_key(private.as_bytes()), None);
        assert_eq!(parse_key(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), None);
    }

    #[test]
    fn urls_that_say_too_much_or_too_little_are_refused() {
        for url in ["plugin.wasm", "ftp://a.example/x", "https://me:sesame@a.example/x", "/x", "https://"] {
            assert!(url_problem(url).is_some(), "{url}");
        }
        assert_eq!(url_problem("https://a.example:8443/x.wasm?y=1"), None);
    }
}
