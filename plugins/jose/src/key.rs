//! JSON Web Keys (RFC 7517, RFC 7518, RFC 8037), and the signatures that they verify.

use crate::Algorithm;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rsa::BoxedUint;
use rsa::signature::Verifier;
use serde::Deserialize;
use serde_json::Value;

/// Bits of an RSA key: fewer are too weak (RFC 7518, section 3.3), more cost too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;

/// RSASSA-PKCS1-v1_5 with one of SHA-2.
macro_rules! rsa_verifies {
    ($digest:ty, $key:expr, $signed:expr, $signature:expr) => {
        rsa::pkcs1v15::Signature::try_from($signature).is_ok_and(|signature| {
            rsa::pkcs1v15::VerifyingKey::<$digest>::new($key.clone()).verify($signed, &signature).is_ok()
        })
    };
}

/// A key as it is written; making it one costs more than reading it, so only the one that is needed is made.
#[derive(Clone, Debug, Deserialize)]
pub struct Jwk {
    #[serde(rename = "kid", default)]
    pub(crate) id: Option<String>,
    #[serde(rename = "kty")]
    kind: String,
    #[serde(rename = "use", default)]
    purpose: Option<String>,
    #[serde(rename = "alg", default)]
    algorithm: Option<String>,
    #[serde(rename = "crv", default)]
    curve: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

#[derive(Debug)]
pub enum Key {
    Rsa(rsa::PublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl Algorithm {
    /// Kind and curve of its keys.
    fn kind(self) -> (&'static str, Option<&'static str>) {
        match self {
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => ("RSA", None),
            Algorithm::ES256 => ("EC", Some("P-256")),
            Algorithm::ES384 => ("EC", Some("P-384")),
            Algorithm::EdDSA => ("OKP", Some("Ed25519")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::EdDSA => "EdDSA",
        }
    }
}

impl Jwk {
    pub fn of(value: &Value) -> Option<Jwk> {
        Jwk::deserialize(value).ok()
    }

    /// Whether it is there to verify signatures of this algorithm.
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        let (kind, curve) = algorithm.kind();
        self.kind == kind
            && curve.is_none_or(|curve| self.curve.as_deref() == Some(curve))
            && self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.algorithm.as_deref().is_none_or(|own| own == algorithm.name())
    }

    pub fn key(&self) -> Result<Key, String> {
        let part = |name: &str, part: &Option<String>| {
            let text = part.as_deref().ok_or_else(|| format!("it has no {name}"))?;
            BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its {name} is not base64url"))
        };
        match (self.kind.as_str(), self.curve.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (part("n", &self.n)?, part("e", &self.e)?);
                if n.len() * 8 > *RSA_BITS.end() || e.len() > 8 {
                    return Err(format!(
                        "its modulus has more than {} bits, or its exponent more than 64",
                        RSA_BITS.end()
                    ));
                }
                let (n, e) = (BoxedUint::from_be_slice_vartime(&n), BoxedUint::from_be_slice_vartime(&e));
                let key = rsa::PublicKey::new_with_size_limits(n, e, RSA_BITS);
                key.map(Key::Rsa).map_err(|error| format!("it is not an RSA key of 2048 to 4096 bits: {error}"))
            }
            ("EC", Some("P-256")) => {
                let point = point(&part("x", &self.x)?, &part("y", &self.y)?, 32)?;
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                key.map(Key::P256).map_err(|_| "it is not a point of P-256".to_owned())
            }
            ("EC", Some("P-384")) => {
                let point = point(&part("x", &self.x)?, &part("y", &self.y)?, 48)?;
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                key.map(Key::P384).map_err(|_| "it is not a point of P-384".to_owned())
            }
            ("OKP", Some("Ed25519")) => {
                let x: [u8; 32] = part("x", &self.x)?.try_into().map_err(|_| "its x has not 32 bytes".to_owned())?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&x);
                key.map(Key::Ed25519).map_err(|_| "it is not a point of Ed25519".to_owned())
            }
            (kind, curve) => Err(format!("keys of kind {kind} {} are not known", curve.unwrap_or_default())),
        }
    }
}

/// An uncompressed point (SEC 1, section 2.3.3).
fn point(x: &[u8], y: &[u8], length: usize) -> Result<Vec<u8>, String> {
    if x.len() != length || y.len() != length {
        return Err(format!("its x and y have not {length} bytes each"));
    }
    Ok([&[4], x, y].concat())
}

impl Key {
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Key::Rsa(key), Algorithm::RS256) => rsa_verifies!(sha2::Sha256, key, signed, signature),
            (Key::Rsa(key), Algorithm::RS384) => rsa_verifies!(sha2::Sha384, key, signed, signature),
            (Key::Rsa(key), Algorithm::RS512) => rsa_verifies!(sha2::Sha512, key, signed, signature),
            (Key::P256(key), Algorithm::ES256) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            (Key::P384(key), Algorithm::ES384) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
            (Key::Ed25519(key), Algorithm::EdDSA) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(signed, &signature).is_ok()),
            _ => false,
        }
    }
}
