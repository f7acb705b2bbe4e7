//! Documents that are fetched, and kept in a store for all requests: sets of keys, metadata of providers.

use kit::hex;
use sha2::{Digest, Sha256};
use sluice_plugin::fetch::Fetch;
use sluice_plugin::log;
use sluice_plugin::store::Store;
use std::time::Duration;

/// Bytes of a document, which is a value of the store.
const SIZE: u64 = 64 << 10;

/// Between two fetches of a document that is not enough, or after one that failed.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a document is used that can't be fetched again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a document is, and where it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Document<'d> {
    /// For the log, in the plural: `the keys`.
    pub what: &'d str,
    /// By its name in the Plugin's `capabilities.stores`.
    pub store: &'d str,
    /// By its name in the Plugin's `capabilities.backends`.
    pub backend: &'d str,
    /// The host that the backend is told; none: its own name.
    pub authority: Option<&'d str>,
    /// Path and query.
    pub target: &'d str,
    pub keep_for: Duration,
    /// Longest time to wait for it; none: what is left of the Plugin's deadline.
    pub timeout: Option<Duration>,
}

impl Document<'_> {
    /// The document as it is kept, or fetched anew where that is none that is `enough`. None: there is none, and none can be
    /// had. What can't be `read` counts as not fetched.
    pub fn get<T>(&self, read: impl Fn(&[u8]) -> Result<T, String>, enough: impl Fn(&T) -> bool) -> Option<T> {
        let opened = Store::open(self.store);
        let store =
            opened.map_err(|reason| log::error(&format!("{} are fetched for each request: {reason}", self.what)));
        let Ok(store) = store else { return self.fetch(&read).map(|(_, document)| document).ok() };
        let name =
            hex(&Sha256::digest(format!("{}\n{}\n{}", self.backend, self.authority.unwrap_or_default(), self.target)));
        let kept = |kind: &str| store.get(&format!("{kind}/{name}")).ok().flatten().and_then(|body| read(&body).ok());
        let fresh = kept("fresh");
        if let Some(document) = &fresh
            && enough(document)
        {
            return fresh;
        }
        let old = fresh.or_else(|| kept("last"));
        // One request at a time asks again; the others go by what there is.
        let asks = store.compare_and_swap(&format!("asked/{name}"), None, b"", Some(PAUSE)).unwrap_or(true);
        if old.is_some() && !asks {
            return old;
        }
        match self.fetch(&read) {
            Ok((body, document)) => {
                for (kind, time) in [("fresh", self.keep_for), ("last", STALE)] {
                    if let Err(reason) = store.set(&format!("{kind}/{name}"), &body, Some(time)) {
                        log::warn(&format!("{} are not kept: {reason}", self.what));
                    }
                }
                Some(document)
            }
            Err(reason) => {
                let how = if old.is_some() { "those from before are used" } else { "there are none" };
                log::error(&format!(
                    "{} of {}{} were not fetched, {how}: {reason}",
                    self.what, self.backend, self.target
                ));
                old
            }
        }
    }

    fn fetch<T>(&self, read: impl Fn(&[u8]) -> Result<T, String>) -> Result<(Vec<u8>, T), String> {
        let mut request = Fetch::get(self.target).header("accept", "application/json").body_limit(SIZE);
        if let Some(authority) = self.authority {
            request = request.authority(authority);
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        let answer = request.send(self.backend).map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("the answer is {}", answer.status()));
        }
        let body = answer.body();
        let document = read(&body)?;
        Ok((body, document))
    }
}
