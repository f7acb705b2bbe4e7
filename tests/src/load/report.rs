//! What happened: counts, latencies and every failure with its time and cause.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1 keep-alive, in clear text.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
    /// One request on a new connection, in clear text.
    New,
    /// One request on a new TLS connection.
    NewTls,
    /// A message there and back on a long stream.
    Grpc,
    /// Likewise.
    WebSocket,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Http1, Kind::Http2, Kind::New, Kind::NewTls, Kind::Grpc, Kind::WebSocket];
}

#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the load began.
    pub at: Duration,
    pub kind: Kind,
    pub cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} s {:?}: {}", self.at.as_secs_f64(), self.kind, self.cause)
    }
}

#[derive(Default)]
struct State {
    latencies: BTreeMap<Kind, Vec<Duration>>,
    failures: Vec<Failure>,
    replaced: BTreeMap<Kind, u64>,
}

/// Shared by the clients of one load.
pub(super) struct Records {
    started: Instant,
    state: Mutex<State>,
}

impl Records {
    pub(super) fn new(started: Instant) -> Self {
        Records { started, state: Mutex::default() }
    }

    pub(super) fn record(&self, kind: Kind, sent: Instant, result: Result<(), String>) {
        let mut state = self.state.lock().unwrap();
        match result {
            Ok(()) => state.latencies.entry(kind).or_default().push(sent.elapsed()),
            Err(cause) => state.failures.push(Failure { at: self.started.elapsed(), kind, cause }),
        }
    }

    /// A connection went the announced way and was replaced.
    pub(super) fn replaced(&self, kind: Kind) {
        *self.state.lock().unwrap().replaced.entry(kind).or_default() += 1;
    }

    pub(super) fn failures(&self) -> usize {
        self.state.lock().unwrap().failures.len()
    }

    pub(super) fn answered(&self, kind: Kind) -> u64 {
        self.state.lock().unwrap().latencies.get(&kind).map_or(0, |l| l.len() as u64)
    }

    pub(super) fn report(&self, duration: Duration) -> Report {
        let mut state = self.state.lock().unwrap();
        let mut latencies = std::mem::take(&mut state.latencies);
        latencies.values_mut().for_each(|l| l.sort_unstable());
        Report {
            duration,
            latencies,
            failures: std::mem::take(&mut state.failures),
            replaced: std::mem::take(&mut state.replaced),
        }
    }
}

pub struct Report {
    pub duration: Duration,
    /// Sorted.
    latencies: BTreeMap<Kind, Vec<Duration>>,
    pub failures: Vec<Failure>,
    /// Connections that the server announced to close.
    pub replaced: BTreeMap<Kind, u64>,
}

impl Report {
    pub fn answered(&self, kind: Kind) -> usize {
        self.latencies.get(&kind).map_or(0, Vec::len)
    }

    pub fn total(&self) -> usize {
        self.latencies.values().map(Vec::len).sum()
    }

    /// The `q`th quantile (0 to 1) of all answers.
    pub fn quantile(&self, q: f64) -> Duration {
        let mut all: Vec<Duration> = self.latencies.values().flatten().copied().collect();
        all.sort_unstable();
        quantile(&all, q)
    }

    /// Panics with every failure (the first fifty of them) where there is one, or where a kind had no answer at all.
    pub fn assert_flawless(&self, kinds: &[Kind]) {
        let shown: Vec<String> = self.failures.iter().take(50).map(Failure::to_string).collect();
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed:\n{}\n{self}",
            self.failures.len(),
            self.total() + self.failures.len(),
            shown.join("\n")
        );
        for kind in kinds {
            assert!(self.answered(*kind) > 0, "no answer over {kind:?}, so nothing was shown of it\n{self}");
        }
    }
}

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.duration.as_secs_f64();
        writeln!(
            f,
            "{} answers in {seconds:.1} s ({:.0}/s), {} failed",
            self.total(),
            self.total() as f64 / seconds,
            self.failures.len()
        )?;
        for (kind, latencies) in &self.latencies {
            writeln!(
                f,
                "  {:<10} {:>7}  {:>6.0}/s  p50 {:>8.2?}  p99 {:>8.2?}  max {:>8.2?}  announced closes {}",
                format!("{kind:?}"),
                latencies.len(),
                latencies.len() as f64 / seconds,
                quantile(latencies, 0.5),
                quantile(latencies, 0.99),
                quantile(latencies, 1.0),
                self.replaced.get(kind).copied().unwrap_or(0)
            )?;
        }
        Ok(())
    }
}
