//! Sets of keys that are fetched, and kept for all requests.

use crate::Jwks;
use crate::key::Jwk;
use kit::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_plugin::fetch::Fetch;
use sluice_plugin::log;
use sluice_plugin::store::Store;
use std::time::Duration;

/// The store's name in the Plugin's `capabilities.stores`.
const STORE: &str = "jwks";

/// Bytes of a set, which is a value of the store.
const SIZE: u64 = 64 << 10;

/// Between two fetches for keys that are not among those that are kept, or after one that failed.
const PAUSE: Duration = Duration::from_secs(30);

/// How long keys are used that can't be fetched again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of a source. Where none of those that are kept are `enough` they are fetched anew, as a source that has changed
/// its keys wants it (rotation). None: there are none, and none can be had.
pub(crate) fn keys(source: &Jwks, enough: impl Fn(&[Jwk]) -> bool) -> Option<Vec<Jwk>> {
    let store =
        Store::open(STORE).map_err(|reason| log::error(&format!("keys are fetched for each request: {reason}")));
    let Ok(store) = store else { return fetch(source).map(|body| parse(&body)).ok() };
    let name = hex(&Sha256::digest(format!("{}\n{}", source.backend, source.path)));
    let kept = |kind: &str| store.get(&format!("{kind}/{name}")).ok().flatten();
    let fresh = kept("fresh").map(|body| parse(&body));
    if let Some(keys) = &fresh
        && enough(keys)
    {
        return fresh;
    }
    let old = fresh.or_else(|| kept("last").map(|body| parse(&body)));
    // One request at a time asks again; the others go by what there is.
    let asks = store.compare_and_swap(&format!("asked/{name}"), None, b"", Some(PAUSE)).unwrap_or(true);
    if old.is_some() && !asks {
        return old;
    }
    match fetch(source) {
        Ok(body) => {
            for (kind, time) in [("fresh", source.cache_for.0), ("last", STALE)] {
                if let Err(reason) = store.set(&format!("{kind}/{name}"), &body, Some(time)) {
                    log::warn(&format!("keys are not kept: {reason}"));
                }
            }
            Some(parse(&body))
        }
        Err(reason) => {
            let how = if old.is_some() { "those from before are used" } else { "there are none" };
            log::error(&format!("the keys of {}{} were not fetched, {how}: {reason}", source.backend, source.path));
            old
        }
    }
}

fn fetch(source: &Jwks) -> Result<Vec<u8>, String> {
    let request = Fetch::get(&source.path).header("accept", "application/json").body_limit(SIZE);
    let answer = request.send(&source.backend).map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = answer.body();
    let set = kit::json::parse(&body).map_err(|error| error.to_string())?;
    match set.get("keys") {
        Some(Value::Array(_)) => Ok(body),
        _ => Err("it has no list `keys`".to_owned()),
    }
}

/// Those that can be read: a set may hold keys for other purposes.
fn parse(body: &[u8]) -> Vec<Jwk> {
    let set = kit::json::parse(body).unwrap_or_default();
    set.get("keys").and_then(Value::as_array).into_iter().flatten().filter_map(Jwk::of).collect()
}
