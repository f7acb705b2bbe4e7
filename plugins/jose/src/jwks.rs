//! Sets of keys (RFC 7517, section 5).

use crate::kept::Document;
use crate::{Jwk, Token};
use serde_json::Value;

/// Whether a fetched set of keys has signed a token. Where none of those that are kept may have, the set is fetched anew, as
/// a source that has changed its keys wants it (rotation). None: there are no keys, and none can be had.
pub fn verify(token: &Token<'_>, source: &Document<'_>) -> Option<bool> {
    let keys = source.get(parse, |keys| keys.iter().any(|jwk| token.may_be_by(jwk)))?;
    Some(token.is_signed_by(&keys))
}

/// Whether there are keys, kept or fetched: to be asked before anything is spent on a token that they have to verify.
pub fn can_be_had(source: &Document<'_>) -> bool {
    source.get(parse, |keys| !keys.is_empty()).is_some_and(|keys| !keys.is_empty())
}

/// Those that can be read: a set may hold keys for other purposes.
fn parse(body: &[u8]) -> Result<Vec<Jwk>, String> {
    let set = kit::json::parse(body).map_err(|error| error.to_string())?;
    match set.get("keys") {
        Some(Value::Array(keys)) => Ok(keys.iter().filter_map(Jwk::of).collect()),
        _ => Err("it has no list `keys`".to_owned()),
    }
}
