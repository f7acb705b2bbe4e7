//! Signed tokens in their compact form (RFC 7515).

use crate::Algorithm;
use crate::key::Jwk;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// Keys without a name that are tried.
const TRIED: usize = 4;

/// A token that nothing is known of but what it says of itself.
pub struct Token<'t> {
    pub algorithm: Algorithm,
    key_id: Option<String>,
    pub claims: Value,
    signed: &'t [u8],
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: Value,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515, section 4.1.11). None is.
    #[serde(default)]
    crit: Option<Value>,
}

impl<'t> Token<'t> {
    pub fn parse(text: &'t str) -> Result<Token<'t>, &'static str> {
        const SHAPE: &str = "it is not a signed token of three parts";
        let (signed, signature) = text.rsplit_once('.').ok_or(SHAPE)?;
        let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(SHAPE)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| SHAPE);
        let header = kit::json::parse(&decode(header)?).map_err(|_| "its header can't be read")?;
        let header = Header::deserialize(header).map_err(|_| "its header can't be read")?;
        if header.crit.is_some() {
            return Err("it asks for an extension");
        }
        let algorithm = Algorithm::deserialize(header.alg).map_err(|_| "its algorithm is not one of its issuer's")?;
        let claims = kit::json::parse(&decode(payload)?).map_err(|_| "its claims can't be read")?;
        if !claims.is_object() {
            return Err("its claims can't be read");
        }
        Ok(Token { algorithm, key_id: header.kid, claims, signed: signed.as_bytes(), signature: decode(signature)? })
    }

    /// Whether a key is of the kind and name that the token says.
    pub fn may_be_by(&self, jwk: &Jwk) -> bool {
        jwk.is_for(self.algorithm) && self.key_id.as_ref().is_none_or(|id| jwk.id.as_ref() == Some(id))
    }

    /// Whether one of the keys that it may be by has signed it.
    pub fn is_signed_by(&self, keys: &[Jwk]) -> bool {
        let candidates = keys.iter().filter(|jwk| self.may_be_by(jwk)).take(TRIED);
        candidates
            .filter_map(|jwk| jwk.key().ok())
            .any(|key| key.verifies(self.algorithm, self.signed, &self.signature))
    }
}
