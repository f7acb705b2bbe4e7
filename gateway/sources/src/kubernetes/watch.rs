//! One watch: list, then follow, for as long as it is wanted.
//!
//! ```text
//!          ┌───────────── 410, a restart, SIGHUP ─────────────┐
//!          ▼                                                  │
//!   list (streamed, else in pages) ──► all of it at once ──► follow ──► end, cut ──► pause ──► follow from there
//!          │ 404, 403, no answer: pause, again
//! ```
//!
//! While it lists, nothing of what it sees is handed on: at the end it is compared with what is known, so that what was
//! deleted meanwhile is found.

use super::backoff::{Backoff, jitter};
use super::client;
use super::failure::Failure;
use super::hub::{Hub, Reading};
use super::raw::{Raw, WithStatus};
use super::target::Target;
use kube::Client;
use kube::core::WatchEvent;
use kube::core::params::ListParams;
use serde::Deserialize;
use sluice_model::{Code, ObjectRef, Problem};
use sluice_resources::{parse, versions};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

/// Seconds that a watch lasts, by the server's clock: a random number from the first to the second, so that watches
/// that began together do not end together. Servers allow 5 to 10 minutes.
const LASTS: std::ops::Range<u32> = 200..290;

/// Longest silence while a list is streamed.
const SILENT_LIST: Duration = Duration::from_secs(30);

/// Longest silence of a watch whose server sends bookmarks, which it does once a minute.
const SILENT: Duration = Duration::from_secs(150);

/// A watch that lasted this long was no failure.
const STEADY: Duration = Duration::from_secs(1);

/// Objects of one page.
const PAGE: u32 = 250;

/// Marks the bookmark that ends a streamed list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

pub(super) struct Watch {
    hub: Arc<Hub>,
    client: Client,
    target: Target,
    id: u32,
    /// The place in [`versions`] of the one that is served.
    version: usize,
    /// Where to go on; `None`: list.
    position: Option<String>,
    again: Receiver<u64>,
}

/// Why a stream ended.
enum End {
    /// The server closed it, or something in between.
    Closed,
    /// Somebody wants everything listed again.
    Again,
}

impl Watch {
    pub(super) fn new(hub: Arc<Hub>, client: Client, target: Target) -> Watch {
        let (id, again) = (hub.begin(&target), hub.again());
        Watch { hub, client, target, id, version: 0, position: None, again }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.hub.pauses);
        let mut missing_since = None;
        loop {
            let began = Instant::now();
            let outcome = self.step().await;
            if began.elapsed() > STEADY {
                backoff.reset();
            }
            let failure = match outcome {
                Ok(End::Again) => {
                    self.position = None;
                    continue;
                }
                Ok(End::Closed) => {
                    self.hub.ended(&self.target);
                    sleep(backoff.next(None)).await;
                    continue;
                }
                Err(failure) => failure,
            };
            tracing::debug!(watch = %self.target, %failure, "watch interrupted");
            let pause = match &failure {
                Failure::Gone => {
                    self.position = None;
                    self.hub.ended(&self.target);
                    backoff.next(None)
                }
                Failure::NotFound => {
                    let since = *missing_since.get_or_insert(began);
                    if self.try_next_version() {
                        continue;
                    }
                    self.not_found(since)
                }
                Failure::Forbidden(_) => {
                    self.hub.failed(&self.target, &failure);
                    jitter(self.hub.pauses.absent)
                }
                Failure::Refused { retry_after, .. } => {
                    self.hub.failed(&self.target, &failure);
                    backoff.next(*retry_after)
                }
                Failure::Transport(_) | Failure::NoStreaming => {
                    self.hub.failed(&self.target, &failure);
                    backoff.next(None)
                }
            };
            if failure != Failure::NotFound {
                missing_since = None;
            }
            self.pause(pause).await;
        }
    }

    /// Waits, but not when everything is to be listed again.
    async fn pause(&mut self, pause: Duration) {
        if let Ok(Ok(())) = timeout(pause, self.again.changed()).await {
            self.position = None;
        }
    }

    /// Of a kind whose version is not served another may be.
    fn try_next_version(&mut self) -> bool {
        self.position = None;
        self.version = (self.version + 1) % versions(self.target.kind).len();
        self.version > 0
    }

    /// No version is served.
    fn not_found(&mut self, since: Instant) -> Duration {
        let pauses = self.hub.pauses;
        if self.hub.has_objects(&self.target) && since.elapsed() < pauses.grace {
            let message = format!("{} is not served any more (404)", self.target);
            self.hub.failed(&self.target, &Failure::Transport(message));
        } else {
            self.hub.not_installed(&self.target, self.hub.epoch());
        }
        jitter(pauses.absent)
    }

    fn version(&self) -> &'static str {
        versions(self.target.kind).get(self.version).copied().unwrap_or("v1")
    }

    /// Lists where that is needed, then follows until the stream ends.
    async fn step(&mut self) -> Result<End, Failure> {
        self.again.mark_unchanged();
        if self.position.is_none() {
            match self.stream(None).await {
                // What went wrong may be the streaming itself.
                Err(Failure::NoStreaming) => self.pages().await?,
                ended => return ended,
            }
        }
        let position = self.position.clone().unwrap_or_default();
        self.stream(Some(&position)).await
    }

    /// Follows from `position` on; without one, lists first.
    async fn stream(&mut self, position: Option<&str>) -> Result<End, Failure> {
        let lasts = fastrand::u32(LASTS);
        let mut parameters = self.target.watch().timeout(lasts);
        parameters.send_initial_events = position.is_none();
        let request = self.target.request(self.version()).watch(&parameters, position.unwrap_or_default());
        let request = request.map_err(|error| Failure::Transport(error.to_string()))?;
        let mut listing = position.is_none().then(|| Listing::new(self.hub.epoch()));
        let mut lines = client::watch(&self.client, request, listing.is_some()).await?;
        if listing.is_none() {
            self.hub.good(&self.target);
        }
        // Without bookmarks, silence says nothing before the watch is over.
        let mut patience = Duration::from_secs(u64::from(lasts) + 15);
        loop {
            let limit = if listing.is_some() { SILENT_LIST } else { patience };
            let line = tokio::select! {
                line = timeout(limit, lines.next()) => line,
                _ = self.again.changed() => return Ok(End::Again),
            };
            let line = match line {
                Ok(line) => line?,
                // A server that does not know what it was asked for sends objects and no end of the list.
                Err(_) if listing.is_some() => return Err(Failure::NoStreaming),
                Err(_) => return Err(Failure::late("the next event")),
            };
            let Some(line) = line else { return Ok(End::Closed) };
            let seen = Instant::now();
            let event = self
                .event(&line)
                .map_err(|error| Failure::Transport(format!("an event that is not understood: {error}")))?;
            match event {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => match &mut listing {
                    Some(listing) => listing.readings.extend(self.read(raw)),
                    None => {
                        self.advance(&raw);
                        if let Some(reading) = self.read(raw).filter(|reading| reading.parsed.is_some()) {
                            self.hub.put(&self.target, self.id, reading, seen);
                        }
                    }
                },
                WatchEvent::Deleted(raw) => {
                    let object = ObjectRef::new(self.target.kind, raw.namespace(), raw.name());
                    match &mut listing {
                        Some(listing) => listing.readings.retain(|reading| reading.reference != object),
                        None => {
                            self.advance(&raw);
                            self.hub.delete(&self.target, self.id, object, seen);
                        }
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    patience = SILENT;
                    self.position = Some(bookmark.metadata.resource_version);
                    if bookmark.metadata.annotations.get(LIST_ENDS).is_some_and(|value| value == "true")
                        && let Some(listing) = listing.take()
                    {
                        self.hub.listed(&self.target, listing.readings, seen, listing.epoch);
                    }
                }
                WatchEvent::Error(status) => return Err(Failure::of_status(&status, listing.is_some())),
            }
        }
    }

    /// Lists in pages. All of them show one moment; where that has passed, the server says 410.
    async fn pages(&mut self) -> Result<(), Failure> {
        let mut listing = Listing::new(self.hub.epoch());
        let mut token = None;
        loop {
            let parameters = ListParams { limit: Some(PAGE), continue_token: token, ..self.target.list() };
            let request = self.target.request(self.version()).list(&parameters);
            let request = request.map_err(|error| Failure::Transport(error.to_string()))?;
            let body = client::get(&self.client, request).await?;
            let page = self
                .page(&body)
                .map_err(|error| Failure::Transport(format!("a list that is not understood: {error}")))?;
            drop(body);
            for raw in page.items {
                listing.readings.extend(self.read(raw));
            }
            token = page.metadata.next.filter(|token| !token.is_empty());
            if token.is_none() {
                self.hub.listed(&self.target, listing.readings, Instant::now(), listing.epoch);
                self.position = Some(page.metadata.resource_version);
                return Ok(());
            }
        }
    }

    /// With the object's status where somebody wants to know it.
    fn event(&self, line: &[u8]) -> serde_json::Result<WatchEvent<Raw>> {
        if !self.hub.holding.of(self.target.kind) {
            return serde_json::from_slice(line);
        }
        Ok(match serde_json::from_slice::<WatchEvent<WithStatus>>(line)? {
            WatchEvent::Added(object) => WatchEvent::Added(object.0),
            WatchEvent::Modified(object) => WatchEvent::Modified(object.0),
            WatchEvent::Deleted(object) => WatchEvent::Deleted(object.0),
            WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
            WatchEvent::Error(status) => WatchEvent::Error(status),
        })
    }

    fn page(&self, body: &[u8]) -> serde_json::Result<Page<Raw>> {
        if !self.hub.holding.of(self.target.kind) {
            return serde_json::from_slice(body);
        }
        let page: Page<WithStatus> = serde_json::from_slice(body)?;
        Ok(Page { metadata: page.metadata, items: page.items.into_iter().map(Raw::from).collect() })
    }

    fn advance(&mut self, raw: &Raw) {
        if !raw.resource_version.is_empty() {
            self.position = Some(raw.resource_version.clone());
        }
    }

    /// What an object says, where it says something new.
    fn read(&self, mut raw: Raw) -> Option<Reading> {
        if raw.name().is_empty() {
            tracing::warn!(watch = %self.target, "the API server sent something that is no object");
            return None;
        }
        raw.set_type(&self.target.api_version(self.version()), self.target.kind.name());
        let reference = ObjectRef::new(self.target.kind, raw.namespace(), raw.name());
        let fingerprint = raw.fingerprint();
        self.hub.holding.put(&reference, &mut raw);
        if self.hub.is_known(self.id, &reference, fingerprint) {
            return Some(Reading { reference, fingerprint, parsed: None });
        }
        let mut parsed = parse(raw.document);
        // The server has checked it: a field that it knows and we do not is newer than we are, and nobody's mistake.
        let unknown = |problem: &Problem| problem.code == Code::UnknownField;
        if self.target.kind.is_custom() {
            for problem in parsed.problems.iter_mut().filter(|problem| unknown(problem)) {
                problem.hint = "the CRD is newer than this Sluice; the field is ignored".to_owned();
            }
        } else {
            parsed.problems.retain(|problem| !unknown(problem));
        }
        Some(Reading { reference, fingerprint, parsed: Some(parsed) })
    }
}

/// What was listed so far.
struct Listing {
    readings: Vec<Reading>,
    epoch: u64,
}

impl Listing {
    fn new(epoch: u64) -> Listing {
        Listing { readings: Vec::new(), epoch }
    }
}

#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}
