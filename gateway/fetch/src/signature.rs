//! Signatures of images as cosign stores them beside the image: a tag `sha256-….sig` whose layers are the signed texts
//! (simple signing), each with its signature in an annotation.
//!
//! `ring` checks them, which TLS brings already: sigstore's own crate brings its transparency log and its certificates,
//! which a public key asks for neither.

use crate::FetchError;
use crate::manifest::Descriptor;
use crate::registry::Repository;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use sluice_model::remote::{PublicKey, SignatureAlgorithm};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Bytes of a signed text.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 32;

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: String,
}

/// Holds the image of a digest to having a signature by a key.
pub(crate) async fn check(repository: &mut Repository<'_>, digest: &str, key: &PublicKey) -> Result<(), FetchError> {
    let tag = format!("{}.sig", digest.replacen(':', "-", 1));
    let signatures = match repository.manifest(&tag).await {
        Err(FetchError::Status { status: StatusCode::NOT_FOUND, .. }) => {
            return Err(FetchError::Unsigned(format!("the image {digest} has no signature (there is no tag {tag})")));
        }
        signatures => signatures?.0.layers,
    };
    let mut looked_at = 0;
    for layer in signatures.iter().filter(|layer| layer.media_type == PAYLOAD).take(MAX_SIGNATURES) {
        looked_at += 1;
        let Some(signature) = signature(layer) else { continue };
        let payload = repository.blob(layer, MAX_PAYLOAD, None).await?;
        if is_signed(&payload, &signature, key) && signs(&payload, digest) {
            return Ok(());
        }
    }
    let message =
        format!("none of the {looked_at} signatures of the image {digest} is by the key sha256:{}", key.sha256);
    Err(FetchError::Unsigned(message))
}

fn signature(layer: &Descriptor) -> Option<Vec<u8>> {
    STANDARD.decode(layer.annotations.get(SIGNATURE)?).ok()
}

fn is_signed(payload: &[u8], signature: &[u8], key: &PublicKey) -> bool {
    let algorithm: &dyn VerificationAlgorithm = match key.algorithm {
        SignatureAlgorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
        SignatureAlgorithm::Ed25519 => &ED25519,
    };
    UnparsedPublicKey::new(algorithm, &key.key).verify(payload, signature).is_ok()
}

/// Whether the text is about the image: by a signature alone, that of another image would do.
fn signs(payload: &[u8], digest: &str) -> bool {
    let payload = serde_json::from_slice::<Payload>(payload);
    payload.is_ok_and(|payload| {
        payload.critical.kind == "cosign container image signature"
            && payload.critical.image.docker_manifest_digest == digest
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    fn payload(digest: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r.example/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        )
    }

    fn key(algorithm: SignatureAlgorithm, key: &[u8]) -> PublicKey {
        PublicKey { algorithm, key: key.into(), sha256: "".into() }
    }

    #[test]
    fn a_signature_is_of_its_text_and_key() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let ed25519 = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
        let text = payload("sha256:ab");
        let by_p256 = p256.sign(&random, text.as_bytes()).unwrap();
        let by_ed25519 = ed25519.sign(text.as_bytes());
        let p256 = key(SignatureAlgorithm::EcdsaP256, p256.public_key().as_ref());
        let ed25519 = key(SignatureAlgorithm::Ed25519, ed25519.public_key().as_ref());
        assert!(is_signed(text.as_bytes(), by_p256.as_ref(), &p256));
        assert!(is_signed(text.as_bytes(), by_ed25519.as_ref(), &ed25519));
        assert!(!is_signed(payload("sha256:cd").as_bytes(), by_p256.as_ref(), &p256));
        assert!(!is_signed(text.as_bytes(), by_ed25519.as_ref(), &p256));
    }

    #[test]
    fn a_text_is_about_the_image_that_it_names() {
        let text = payload("sha256:ab");
        assert!(signs(text.as_bytes(), "sha256:ab") && !signs(text.as_bytes(), "sha256:cd"));
        let other = text.replace("cosign container image signature", "atomic container signature");
        assert!(!signs(other.as_bytes(), "sha256:ab") && !signs(b"{}", "sha256:ab"));
    }
}
