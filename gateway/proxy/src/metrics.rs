//! Metrics of requests. A handle belongs to an identity (listener, rule, backend), is resolved when a snapshot is
//! assembled, and goes when nothing refers to it any more; a request only adds to atomics that it already holds.
//!
//! A series appears with its first request: a rule without traffic costs none. A rule in use has at most 20: five
//! classes of status, and a histogram of [`BUCKETS`] with its infinity, sum and count.

use crate::session::SessionResult;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use sluice_model::Reason;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Upper bounds in seconds: half a millisecond to ten seconds.
pub const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The same in microseconds, for comparing without floating point.
const BUCKETS_US: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const REASONS: usize = Reason::ALL.len();

fn class(status: u16) -> usize {
    usize::from((status / 100).clamp(1, 5)) - 1
}

/// A histogram that is added to without a lock.
#[derive(Debug, Default)]
pub struct AtomicHistogram {
    /// One more than [`BUCKETS`]: what is above them all.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl AtomicHistogram {
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    fn encode(&self, encoder: &mut prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Requests of one listener by outcome, and those that run.
#[derive(Debug)]
pub struct ListenerMetrics {
    label: Arc<str>,
    requests: Box<[[AtomicU64; REASONS]; CLASSES.len()]>,
    /// Of a listener that carries bytes.
    connections: OnceLock<Box<[AtomicU64; REASONS]>>,
    /// Of a listener that carries datagrams.
    datagrams: OnceLock<Box<DatagramCounts>>,
    in_flight: AtomicI64,
}

/// What became of the sessions and datagrams of a listener.
#[derive(Debug)]
struct DatagramCounts {
    sessions: [AtomicU64; REASONS],
    dropped: [AtomicU64; REASONS + Dropped::OTHERS.len()],
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// No session could be begun for it.
    Refused(Reason),
    /// The port has as many sessions as it may have (`limits.udpSessions`).
    SessionLimit,
    /// As many wait to be sent as the socket has room for.
    QueueFull,
    /// It is longer than the way can take.
    TooLarge,
    /// The system would not send it.
    NotSent,
}

impl Dropped {
    const OTHERS: [&'static str; 4] = ["session_limit", "queue_full", "too_large", "not_sent"];

    fn index(self) -> usize {
        match self {
            Dropped::Refused(reason) => reason as usize,
            Dropped::SessionLimit => REASONS,
            Dropped::QueueFull => REASONS + 1,
            Dropped::TooLarge => REASONS + 2,
            Dropped::NotSent => REASONS + 3,
        }
    }
}

impl ListenerMetrics {
    fn new(label: Arc<str>) -> Self {
        let requests = std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        let (connections, datagrams) = (OnceLock::new(), OnceLock::new());
        ListenerMetrics { label, requests: Box::new(requests), connections, datagrams, in_flight: AtomicI64::new(0) }
    }

    fn datagrams(&self) -> &DatagramCounts {
        self.datagrams.get_or_init(|| {
            Box::new(DatagramCounts {
                sessions: std::array::from_fn(|_| AtomicU64::new(0)),
                dropped: std::array::from_fn(|_| AtomicU64::new(0)),
            })
        })
    }

    /// A session of datagrams has ended.
    pub fn count_session(&self, reason: Reason) {
        self.datagrams().sessions[reason as usize].fetch_add(1, Relaxed);
    }

    /// A datagram of a client, or for one, was dropped.
    pub fn count_dropped(&self, why: Dropped) {
        self.datagrams().dropped[why.index()].fetch_add(1, Relaxed);
    }

    pub fn count(&self, status: u16, reason: Reason) {
        self.requests[class(status)][reason as usize].fetch_add(1, Relaxed);
    }

    /// A connection that carried bytes has ended.
    pub fn count_connection(&self, reason: Reason) {
        let counts = self.connections.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        counts[reason as usize].fetch_add(1, Relaxed);
    }

    /// Requests that ended with this status' class and this reason.
    pub fn requests(&self, status: u16, reason: Reason) -> u64 {
        self.requests[class(status)][reason as usize].load(Relaxed)
    }

    pub fn in_flight(&self) -> i64 {
        self.in_flight.load(Relaxed)
    }
}

/// One running request, for as long as it is held.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<ListenerMetrics>);

impl InFlight {
    pub(crate) fn new(listener: &Arc<ListenerMetrics>) -> Self {
        listener.in_flight.fetch_add(1, Relaxed);
        InFlight(listener.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Requests of one rule.
#[derive(Debug)]
pub struct RouteMetrics {
    label: Arc<str>,
    requests: [AtomicU64; CLASSES.len()],
    duration: OnceLock<Box<AtomicHistogram>>,
    /// Of a rule that carries bytes or datagrams.
    carried: OnceLock<Box<Carried>>,
}

#[derive(Debug, Default)]
struct Carried {
    /// Bytes of its connections, from clients and to them.
    bytes: [AtomicU64; 2],
    /// Its datagrams and their bytes, from clients and to them.
    datagrams: [[AtomicU64; 2]; 2],
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Received,
    Sent,
}

const DIRECTIONS: [&str; 2] = ["received", "sent"];

impl RouteMetrics {
    fn new(label: Arc<str>) -> Self {
        RouteMetrics { label, requests: Default::default(), duration: OnceLock::new(), carried: OnceLock::new() }
    }

    fn carried(&self) -> &Carried {
        self.carried.get_or_init(Box::default)
    }

    /// What a connection has carried, from the client and to it.
    pub fn add_bytes(&self, received: u64, sent: u64) {
        let [of_clients, to_them] = &self.carried().bytes;
        of_clients.fetch_add(received, Relaxed);
        to_them.fetch_add(sent, Relaxed);
    }

    /// A datagram was passed on.
    pub fn add_datagram(&self, direction: Direction, bytes: usize) {
        let [count, sum] = &self.carried().datagrams[direction as usize];
        count.fetch_add(1, Relaxed);
        sum.fetch_add(bytes as u64, Relaxed);
    }

    pub fn observe(&self, status: u16, duration: Duration) {
        self.requests[class(status)].fetch_add(1, Relaxed);
        self.duration.get_or_init(Box::default).observe(duration);
    }

    /// Requests that ended with a status of the class of `status`.
    pub fn requests(&self, status: u16) -> u64 {
        self.requests[class(status)].load(Relaxed)
    }
}

/// Answers of one backend, over all its policies.
#[derive(Debug)]
pub struct BackendMetrics {
    /// `namespace/name:port`.
    pub label: Arc<str>,
    duration: OnceLock<Box<AtomicHistogram>>,
}

impl BackendMetrics {
    fn new(label: Arc<str>) -> Self {
        BackendMetrics { label, duration: OnceLock::new() }
    }

    /// From the request's way out to the response's header section.
    pub fn observe(&self, duration: Duration) {
        self.duration.get_or_init(Box::default).observe(duration);
    }
}

/// What became of a mirrored copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorResult {
    /// An answer came; it was thrown away.
    Answered,
    Failed,
    /// The queue was full, or the body too large: no copy was sent.
    Dropped,
}

/// What became of spans: the label `result` of `sluice_trace_spans_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanResult {
    /// A collector took them.
    Sent,
    /// The queue was full.
    Dropped,
    /// No try of an export succeeded.
    Failed,
    /// A collector took the export and not these.
    Rejected,
}

const SPAN_RESULTS: [&str; 4] = ["sent", "dropped", "failed", "rejected"];

/// What external authorization came to: the label `result` of `sluice_external_auth_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthResult {
    Allowed,
    Denied,
    /// There was no verdict: the request did not go on.
    Failed,
}

const AUTH_RESULTS: [&str; 3] = ["allowed", "denied", "failed"];

/// All handles that are in use, by label. The lock is taken when a snapshot is assembled and when metrics are scraped.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    listeners: Mutex<BTreeMap<Arc<str>, Weak<ListenerMetrics>>>,
    routes: Mutex<BTreeMap<Arc<str>, Weak<RouteMetrics>>>,
    backends: Mutex<BTreeMap<Arc<str>, Weak<BackendMetrics>>>,
    mirrors: [AtomicU64; 3],
    sessions: [AtomicU64; SessionResult::ALL.len()],
    auths: [AtomicU64; AUTH_RESULTS.len()],
    auth_duration: AtomicHistogram,
    spans: [AtomicU64; SPAN_RESULTS.len()],
    log_lines: AtomicU64,
    log_dropped: AtomicU64,
    held_bytes: AtomicU64,
    held_refused: AtomicU64,
}

/// Bytes of request bodies, and of answers to plugins' own calls, that are held for plugins, all requests together. Default 256 MiB; beyond it a plugin that asks
/// for a body answers by its fail mode, and a call has no answer. Metrics: `sluice_held_body_bytes`, `sluice_held_body_refused_total`.
const MAX_HELD_BYTES: u64 = 256 << 20;

/// What one request holds of its body, for as long as this lives.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    metrics: Arc<RequestMetrics>,
    bytes: u64,
}

impl HeldBytes {
    pub(crate) fn none(metrics: &Arc<RequestMetrics>) -> Self {
        HeldBytes { metrics: metrics.clone(), bytes: 0 }
    }

    /// Counts bytes that have come. `false`: no more of them are to be read.
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        self.bytes += bytes;
        let within = self.metrics.held_bytes.fetch_add(bytes, Relaxed) + bytes <= MAX_HELD_BYTES;
        if !within {
            self.metrics.held_refused.fetch_add(1, Relaxed);
        }
        within
    }

    /// So many are held instead.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.metrics.held_bytes.fetch_add(bytes as u64, Relaxed);
        self.metrics.held_bytes.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes as u64;
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.metrics.held_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl RequestMetrics {
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Arc::new(RequestMetrics::default());
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    pub fn listener(&self, label: &Arc<str>) -> Arc<ListenerMetrics> {
        handle(&self.listeners, label, ListenerMetrics::new)
    }

    pub fn route(&self, label: &Arc<str>) -> Arc<RouteMetrics> {
        handle(&self.routes, label, RouteMetrics::new)
    }

    pub fn backend(&self, label: &Arc<str>) -> Arc<BackendMetrics> {
        handle(&self.backends, label, BackendMetrics::new)
    }

    /// Forgets the labels that nothing refers to any more.
    pub fn sweep(&self) {
        lock(&self.listeners).retain(|_, handle| handle.strong_count() > 0);
        lock(&self.routes).retain(|_, handle| handle.strong_count() > 0);
        lock(&self.backends).retain(|_, handle| handle.strong_count() > 0);
    }

    pub(crate) fn external_auth(&self, result: AuthResult) {
        self.auths[result as usize].fetch_add(1, Relaxed);
    }

    /// From the question to the verdict, or to the failure.
    pub(crate) fn external_auth_took(&self, duration: Duration) {
        self.auth_duration.observe(duration);
    }

    /// A request of a rule, or to a backend, that keeps sessions.
    pub(crate) fn session(&self, result: SessionResult) {
        self.sessions[result as usize].fetch_add(1, Relaxed);
    }

    pub fn mirror(&self, result: MirrorResult) {
        self.mirrors[result as usize].fetch_add(1, Relaxed);
    }

    pub fn mirrors(&self, result: MirrorResult) -> u64 {
        self.mirrors[result as usize].load(Relaxed)
    }

    pub(crate) fn spans(&self, result: SpanResult, count: u64) {
        self.spans[result as usize].fetch_add(count, Relaxed);
    }

    /// Spans of which this became.
    pub fn spans_of(&self, result: SpanResult) -> u64 {
        self.spans[result as usize].load(Relaxed)
    }

    pub(crate) fn log_line(&self) {
        self.log_lines.fetch_add(1, Relaxed);
    }

    pub(crate) fn log_lines_lost(&self, lines: u64) {
        self.log_dropped.fetch_add(lines, Relaxed);
    }

    /// Lines of the access log that were dropped because the log could not be written fast enough.
    pub fn log_lines_dropped(&self) -> u64 {
        self.log_dropped.load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A map of weak handles has no state that a panic could leave half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle<T>(map: &Mutex<BTreeMap<Arc<str>, Weak<T>>>, label: &Arc<str>, new: fn(Arc<str>) -> T) -> Arc<T> {
    let mut map = lock(map);
    if let Some(handle) = map.get(label).and_then(Weak::upgrade) {
        return handle;
    }
    let handle = Arc::new(new(label.clone()));
    map.insert(label.clone(), Arc::downgrade(&handle));
    handle
}

fn live<T>(map: &Mutex<BTreeMap<Arc<str>, Weak<T>>>) -> Vec<Arc<T>> {
    lock(map).values().filter_map(Weak::upgrade).collect()
}

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counter = MetricType::Counter;
        let listeners = live(&self.listeners);
        let routes = live(&self.routes);

        let help = "Requests that have ended, by listener, class of status and reason (docs/reasons.md)";
        let mut family = encoder.encode_descriptor("sluice_requests", help, None, counter)?;
        for listener in &listeners {
            for (class, by_reason) in CLASSES.iter().zip(listener.requests.iter()) {
                for (reason, count) in Reason::ALL.iter().zip(by_reason) {
                    let count = count.load(Relaxed);
                    if count > 0 {
                        let labels =
                            [("listener", &*listener.label), ("code_class", *class), ("reason", reason.as_str())];
                        let mut series = family.encode_family(&labels)?;
                        series.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                    }
                }
            }
        }

        let help = "Connections to TCP and TLS listeners that have ended, by listener and reason (docs/reasons.md)";
        let mut family = encoder.encode_descriptor("sluice_stream_connections", help, None, counter)?;
        for listener in &listeners {
            for (reason, count) in Reason::ALL.iter().zip(listener.connections.get().iter().flat_map(|c| c.iter())) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("listener", &*listener.label), ("reason", reason.as_str())];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }

        let help =
            "Bytes of connections that have ended, by TCPRoute or TLSRoute, received from clients and sent to them";
        let mut family = encoder.encode_descriptor("sluice_stream_bytes", help, None, counter)?;
        for route in &routes {
            for (direction, count) in
                DIRECTIONS.into_iter().zip(route.carried.get().into_iter().flat_map(|of| &of.bytes))
            {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("route", &*route.label), ("direction", direction)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }

        let help = "Sessions of UDP listeners that have ended, by listener and reason (docs/reasons.md)";
        let mut family = encoder.encode_descriptor("sluice_datagram_sessions", help, None, counter)?;
        for listener in &listeners {
            let counts = listener.datagrams.get().into_iter().flat_map(|counts| &counts.sessions);
            for (reason, count) in Reason::ALL.iter().zip(counts) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("listener", &*listener.label), ("reason", reason.as_str())];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }

        let help = "Datagrams to or from UDP listeners that were dropped, by listener and reason: one of docs/reasons.md where \
                    no session could be begun, or session_limit, queue_full, too_large, not_sent";
        let mut family = encoder.encode_descriptor("sluice_datagrams_dropped", help, None, counter)?;
        for listener in &listeners {
            let counts = listener.datagrams.get().into_iter().flat_map(|counts| &counts.dropped);
            let names = Reason::ALL.iter().map(|reason| reason.as_str()).chain(Dropped::OTHERS);
            for (reason, count) in names.zip(counts) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("listener", &*listener.label), ("reason", reason)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }

        let families = [
            ("sluice_datagrams", "Datagrams of UDPRoutes that were passed on, received from clients and sent to them"),
            ("sluice_datagram_bytes", "Bytes of datagrams of UDPRoutes, received from clients and sent to them"),
        ];
        for (n, (name, help)) in families.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, counter)?;
            for route in &routes {
                for (direction, counts) in
                    DIRECTIONS.into_iter().zip(route.carried.get().into_iter().flat_map(|of| &of.datagrams))
                {
                    let count = counts.get(n).map_or(0, |count| count.load(Relaxed));
                    if count > 0 {
                        let labels = [("route", &*route.label), ("direction", direction)];
                        family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                    }
                }
            }
        }

        let help = "Requests that run now, and connections and sessions of listeners that carry bytes or datagrams, by listener";
        let mut family = encoder.encode_descriptor("sluice_requests_in_flight", help, None, MetricType::Gauge)?;
        for listener in &listeners {
            let labels = [("listener", &*listener.label)];
            family.encode_family(&labels)?.encode_gauge(&listener.in_flight())?;
        }

        let help = "Requests that have ended, by route and class of status";
        let mut family = encoder.encode_descriptor("sluice_route_requests", help, None, counter)?;
        for route in &routes {
            for (class, count) in CLASSES.iter().zip(&route.requests) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("route", &*route.label), ("code_class", *class)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }

        let help = "From the request seen to the last byte of its response, by route";
        let name = "sluice_request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for route in &routes {
            if let Some(duration) = route.duration.get() {
                duration.encode(&mut family.encode_family(&[("route", &*route.label)])?)?;
            }
        }

        let help = "From the request's way out to the first byte of the response, by backend";
        let name = "sluice_upstream_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for backend in live(&self.backends) {
            if let Some(duration) = backend.duration.get() {
                duration.encode(&mut family.encode_family(&[("backend", &*backend.label)])?)?;
            }
        }

        let help = "Mirrored copies of requests, by result: answered, failed, dropped";
        let mut family = encoder.encode_descriptor("sluice_mirror_requests", help, None, counter)?;
        for (result, count) in ["answered", "failed", "dropped"].into_iter().zip(&self.mirrors) {
            let count = count.load(Relaxed);
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "Requests that a service was asked about (ExternalAuth), by result: allowed, denied, failed";
        let mut family = encoder.encode_descriptor("sluice_external_auth", help, None, counter)?;
        for (result, count) in AUTH_RESULTS.into_iter().zip(&self.auths) {
            let count = count.load(Relaxed);
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "From the question to an authorization service to its verdict, or to the failure";
        let name = "sluice_external_auth_duration_seconds";
        self.auth_duration.encode(&mut encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)?;

        let help = "Requests where sessions are kept (sessionPersistence), by what became of the client's session: kept, begun (it \
                    had none), moved (its endpoint takes no requests), expired, refused (no token of this rule)";
        let mut family = encoder.encode_descriptor("sluice_sessions", help, None, counter)?;
        for (result, count) in SessionResult::ALL.into_iter().zip(&self.sessions) {
            let count = count.load(Relaxed);
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "Spans of traces, by result: sent, dropped (the queue was full), failed (after all tries), rejected";
        let mut family = encoder.encode_descriptor("sluice_trace_spans", help, None, counter)?;
        for (result, count) in SPAN_RESULTS.into_iter().zip(&self.spans) {
            let count = count.load(Relaxed);
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "Bytes of request bodies, and of answers to calls of plugins, that are held for plugins";
        let mut family = encoder.encode_descriptor("sluice_held_body_bytes", help, None, MetricType::Gauge)?;
        let held = i64::try_from(self.held_bytes.load(Relaxed)).unwrap_or(i64::MAX);
        family.encode_gauge(&held)?;

        for (name, help, count) in [
            ("sluice_access_log_lines", "Lines handed to the access log's writer", &self.log_lines),
            (
                "sluice_access_log_dropped",
                "Lines dropped because they could not be written, or not fast enough",
                &self.log_dropped,
            ),
            ("sluice_held_body_refused", "Bodies that plugins asked for and there was no room for", &self.held_refused),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, counter)?;
            family.encode_counter::<NoLabelSet, u64, u64>(&count.load(Relaxed), None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn a_route_without_traffic_costs_no_series_and_one_that_is_gone_leaves_none() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry);
        let label: Arc<str> = "HTTPRoute shop/web/0".into();
        let route = metrics.route(&label);
        assert!(!scrape(&registry).contains("shop/web"));
        route.observe(200, Duration::from_millis(3));
        let text = scrape(&registry);
        assert!(
            text.contains("sluice_route_requests_total{route=\"HTTPRoute shop/web/0\",code_class=\"2xx\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("sluice_request_duration_seconds_bucket{le=\"0.005\",route=\"HTTPRoute shop/web/0\"} 1"),
            "{text}"
        );
        drop(route);
        assert!(!scrape(&registry).contains("shop/web"));
    }

    #[test]
    fn a_route_in_use_has_at_most_twenty_series() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry);
        let route = metrics.route(&"r".into());
        for status in [101, 200, 301, 404, 503] {
            for millis in [0, 1, 20, 400, 60_000] {
                route.observe(status, Duration::from_millis(millis));
            }
        }
        let series = scrape(&registry).lines().filter(|line| line.contains("route=\"r\"")).count();
        assert_eq!(series, 20);
    }

    #[test]
    fn a_handle_is_the_same_while_somebody_holds_it() {
        let metrics = RequestMetrics::default();
        let label: Arc<str> = "a".into();
        let first = metrics.listener(&label);
        first.count(503, Reason::NoEndpoints);
        assert!(Arc::ptr_eq(&first, &metrics.listener(&label)));
        drop(first);
        metrics.sweep();
        assert_eq!(metrics.listener(&label).requests(503, Reason::NoEndpoints), 0);
    }

    #[test]
    fn held_bytes_are_bounded_for_all_requests_together_and_given_back() {
        let metrics = Arc::new(RequestMetrics::default());
        let (mut one, mut other) = (HeldBytes::none(&metrics), HeldBytes::none(&metrics));
        assert!(one.add(MAX_HELD_BYTES as usize - 10));
        assert!(other.add(10));
        assert!(!other.add(1));
        one.set(5);
        assert!(other.add(1));
        drop((one, other));
        assert_eq!(metrics.held_bytes.load(Relaxed), 0);
        assert_eq!(metrics.held_refused.load(Relaxed), 1);
    }

    #[test]
    fn what_runs_is_counted_until_it_is_dropped() {
        let metrics = RequestMetrics::default();
        let listener = metrics.listener(&"a".into());
        let running = InFlight::new(&listener);
        assert_eq!(listener.in_flight(), 1);
        drop(running);
        assert_eq!(listener.in_flight(), 0);
    }
}
