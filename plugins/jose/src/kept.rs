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

/// The same where none is kept: whoever wants it meanwhile goes without.
const PAUSE_WITHOUT: Duration = Duration::from_secs(5);

/// How long after a fetch that failed and left nothing only one request at a time asks. Before that each does: a gateway that
/// has only begun owes nobody a failure.
const FAILED: Duration = Duration::from_secs(5 * 60);

/// How long a document is used that can't be fetched again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a document is, and where it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Document<'d> {
    /// For the log, in the plural: `the keys`.
    pub what: &'d str,
    /// Whose it is. Plugins may share a store and call different backends alike: one issuer's is never another's.
    pub issuer: &'d str,
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
        let name = self.name();
        let kept = |kind: &str| store.get(&format!("{kind}/{name}")).ok().flatten().and_then(|body| read(&body).ok());
        let fresh = kept("fresh");
        if let Some(document) = &fresh
            && enough(document)
        {
            return fresh;
        }
        let old = fresh.or_else(|| kept("last"));
        // One request at a time asks again; the others go by what there is, be it nothing.
        let (asked, failed) = (format!("asked/{name}"), format!("failed/{name}"));
        let pause = if old.is_some() { PAUSE } else { PAUSE_WITHOUT };
        let asks = store.compare_and_swap(&asked, None, b"", Some(pause)).unwrap_or(true);
        if !asks && (old.is_some() || store.get(&failed).ok().flatten().is_some()) {
            return old;
        }
        match self.fetch(&read) {
            Ok((body, document)) => {
                for (kind, time) in [("fresh", self.keep_for), ("last", STALE)] {
                    if let Err(reason) = store.set(&format!("{kind}/{name}"), &body, Some(time)) {
                        log::warn(&format!("{} are not kept: {reason}", self.what));
                        // Else others would have to go without, though they can be had.
                        let _ = store.remove(&asked);
                    }
                }
                Some(document)
            }
            Err(reason) => {
                if old.is_none() {
                    let _ = store.set(&failed, b"", Some(FAILED));
                }
                let how = if old.is_some() { "those from before are used" } else { "there are none" };
                log::error(&format!(
                    "{} of {}{} were not fetched, {how}: {reason}",
                    self.what, self.backend, self.target
                ));
                old
            }
        }
    }

    /// What it is kept under.
    fn name(&self) -> String {
        let mut digest = Sha256::new();
        for part in [self.issuer, self.backend, self.authority.unwrap_or_default(), self.target] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        hex(&digest.finalize())
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

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Exchange, Services, StubAnswer};
    use std::cell::Cell;
    use std::rc::Rc;

    fn document() -> Document<'static> {
        Document {
            what: "the keys",
            issuer: "https://idp.example/",
            store: "kept",
            backend: "idp",
            authority: None,
            target: "/keys",
            keep_for: Duration::from_secs(600),
            timeout: None,
        }
    }

    fn get(document: &Document<'_>) -> Option<String> {
        document.get(|body| String::from_utf8(body.to_vec()).map_err(|error| error.to_string()), |_| true)
    }

    /// A backend that answers each time with the next number, or fails where it is told to; and how often it was asked.
    fn numbers(fails: &Rc<Cell<bool>>) -> (Exchange, Rc<Cell<u32>>) {
        let (fails, asked) = (fails.clone(), Rc::new(Cell::new(0)));
        let count = asked.clone();
        let exchange = Exchange::get("/").backend("idp", move |_| {
            count.set(count.get() + 1);
            if fails.get() { StubAnswer::new(502) } else { StubAnswer::new(200).body(count.get().to_string()) }
        });
        (exchange, asked)
    }

    #[test]
    fn a_document_is_fetched_once_for_all_that_mean_the_same_one() {
        let _services = Services::new().store("kept");
        let (_exchange, asked) = numbers(&Rc::default());
        assert_eq!(get(&document()).as_deref(), Some("1"));
        assert_eq!(get(&document()).as_deref(), Some("1"));
        assert_eq!(asked.get(), 1);
        for (other, number) in [
            // Another Plugin may call another backend by the same name.
            (Document { issuer: "https://other.example/", ..document() }, "2"),
            (Document { authority: Some("idp"), ..document() }, "3"),
            (Document { target: "/other", ..document() }, "4"),
            (Document { issuer: "https://idp.example/i", backend: "dp", ..document() }, "none"),
        ] {
            assert_eq!(get(&other).as_deref().unwrap_or("none"), number, "{other:?}");
        }
    }

    #[test]
    fn what_could_not_be_fetched_is_asked_for_by_one_request_in_five_seconds_and_the_others_go_without_at_once() {
        let services = Services::new().store("kept");
        let fails = Rc::new(Cell::new(true));
        let (_exchange, asked) = numbers(&fails);
        assert_eq!((get(&document()), get(&document()), asked.get()), (None, None, 1));
        fails.set(false);
        services.advance(Duration::from_secs(4));
        assert_eq!((get(&document()), asked.get()), (None, 1));
        services.advance(Duration::from_secs(1));
        assert_eq!((get(&document()).as_deref(), asked.get()), (Some("2"), 2));
    }

    #[test]
    fn at_the_very_beginning_nobody_goes_without_because_another_asks() {
        let _services = Services::new().store("kept");
        let (_exchange, asked) = numbers(&Rc::default());
        let store = Store::open("kept").unwrap();
        assert!(store.compare_and_swap(&format!("asked/{}", document().name()), None, b"", None).unwrap());
        assert_eq!((get(&document()).as_deref(), asked.get()), (Some("1"), 1));
    }

    #[test]
    fn what_was_kept_is_used_while_it_can_not_be_fetched_again_for_up_to_a_day() {
        let services = Services::new().store("kept");
        let fails = Rc::new(Cell::new(false));
        let (_exchange, asked) = numbers(&fails);
        assert_eq!(get(&document()).as_deref(), Some("1"));
        fails.set(true);
        services.advance(Duration::from_secs(600));
        assert_eq!((get(&document()).as_deref(), get(&document()).as_deref()), (Some("1"), Some("1")));
        assert_eq!(asked.get(), 2, "it is asked for again, by one");
        services.advance(Duration::from_secs(24 * 60 * 60));
        assert_eq!(get(&document()), None);
    }
}
