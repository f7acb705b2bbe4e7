//! ID tokens (OpenID Connect Core 1.0, section 3.1.3.7).

use crate::Oidc;
use crate::provider::Provider;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jose::claims;
use jose::{Algorithm, Token, jwks};
use kit::same_secret;
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};
use sluice_plugin::clock;

/// Why an ID token is not believed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotBelieved {
    Invalid(&'static str),
    /// There are no keys to judge it by.
    NoKeys,
}

/// What an ID token has to fit.
#[derive(Debug, Default)]
pub(crate) struct Expected<'e> {
    /// Of the sign-in that it ends; none where it is one of a refresh.
    pub(crate) nonce: Option<&'e str>,
    /// When its account has to have shown who it is, at the earliest, in seconds since 1970; none: whenever.
    pub(crate) shown_from: Option<u64>,
    /// The access token that came with it.
    pub(crate) access: Option<&'e str>,
}

impl Oidc {
    /// The claims of an ID token that is the provider's, for this client, and of this sign-in.
    pub(crate) fn believe(
        &self,
        provider: &Provider,
        text: &str,
        expected: &Expected<'_>,
    ) -> Result<Value, NotBelieved> {
        use NotBelieved::Invalid;
        let token = Token::parse(text).map_err(Invalid)?;
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(Invalid("its algorithm is not one of its issuer's"));
        }
        let keys = self.document("the provider's keys", &provider.jwks);
        if !jwks::verify(&token, &keys).ok_or(NotBelieved::NoKeys)? {
            return Err(Invalid("its signature is not valid"));
        }
        let text = |name: &str| token.claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(self.config.issuer.as_str()) {
            return Err(Invalid("it is another issuer's"));
        }
        let client = self.config.client_id.as_str();
        if !claims::audiences(&token.claims).contains(&client) {
            return Err(Invalid("it is for another audience"));
        }
        let several = token.claims.get("aud").and_then(Value::as_array).is_some_and(|list| list.len() > 1);
        match token.claims.get("azp") {
            None if several => {
                return Err(Invalid("it is for several audiences, and does not say whom it was issued to"));
            }
            Some(azp) if azp.as_str() != Some(client) => return Err(Invalid("it was issued to another client")),
            _ => {}
        }
        claims::check_times(&token.claims, self.config.leeway, false).map_err(Invalid)?;
        let latest = clock::now().as_secs_f64() + self.config.leeway.0.as_secs_f64();
        if claims::time(&token.claims, "iat").map_err(Invalid)?.is_none_or(|issued| issued > latest) {
            return Err(Invalid("it was issued at no time, or in the future"));
        }
        if let Some(nonce) = expected.nonce
            && !text("nonce").is_some_and(|own| same_secret(own.as_bytes(), nonce.as_bytes()))
        {
            return Err(Invalid("it is of another sign-in"));
        }
        if let Some(from) = expected.shown_from {
            // An account that shows who it is takes its time: what counts is how long ago it did when the sign-in began.
            let shown = claims::time(&token.claims, "auth_time").map_err(Invalid)?;
            if shown.is_none_or(|at| at + self.config.leeway.0.as_secs_f64() < from as f64) {
                return Err(Invalid("its account showed who it is longer ago than max_age, or at no time"));
            }
        }
        if let (Some(hash), Some(access)) = (token.claims.get("at_hash"), expected.access)
            && hash.as_str() != Some(half_hash(token.algorithm, access).as_str())
        {
            return Err(Invalid("it belongs to another access token"));
        }
        match text("sub") {
            None | Some("") => Err(Invalid("it names nobody")),
            Some(_) => Ok(token.claims),
        }
    }
}

/// Of an access token, as `at_hash` has it: the left half, by the hash of the ID token's own signature.
pub(crate) fn half_hash(algorithm: Algorithm, access: &str) -> String {
    let hash = match algorithm {
        Algorithm::RS256 | Algorithm::ES256 => Sha256::digest(access).to_vec(),
        Algorithm::RS384 | Algorithm::ES384 => Sha384::digest(access).to_vec(),
        Algorithm::RS512 | Algorithm::EdDSA => Sha512::digest(access).to_vec(),
    };
    BASE64_URL_SAFE_NO_PAD.encode(hash.get(..hash.len() / 2).unwrap_or_default())
}
