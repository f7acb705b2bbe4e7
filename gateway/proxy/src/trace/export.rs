//! From requests to the collector: a queue that requests never wait for, and a task that empties it in batches.

use super::client::{Collector, Refused};
use super::otlp;
use super::span::Ended;
use super::tracer::Tracer;
use crate::downstream::DownstreamMetrics;
use crate::metrics::{RequestMetrics, SpanResult};
use crate::supervise::supervise;
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use sluice_model::config::{Otlp, Tracing};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// Requests that may wait, for each collector. At 2 KiB each: 8 MiB. What comes when it is full is dropped, as
/// `sluice_trace_spans_total{result="dropped"}`.
const QUEUE: usize = 4_096;
/// The task looks at the queue this often, so that no request has to wake it: 40,000 requests a second fit.
const TICK: Duration = Duration::from_millis(100);
/// Spans of one export, up to the last request's own (the batch processor's default in OpenTelemetry's SDKs).
const BATCH: usize = 512;
/// Longest time that a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// After a failed export; doubled with each up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Tries of one batch, after which it is given up.
const TRIES: u32 = 6;

/// The requests' end of a queue. The task ends, with what is left, when the last listener that uses it is gone.
#[derive(Debug)]
pub(crate) struct Exporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<Box<Ended>>,
    metrics: Arc<RequestMetrics>,
    /// Counts up when everything is to be sent at once; `u64::MAX` when nobody is left.
    asked: watch::Sender<u64>,
    /// The last of these that was done.
    done: watch::Sender<u64>,
}

/// Of `asked`: the last listener is gone.
const LAST: u64 = u64::MAX;

impl Exporter {
    pub(super) fn new(metrics: Arc<RequestMetrics>) -> Self {
        let queue = ArrayQueue::new(QUEUE);
        let (asked, done) = (watch::Sender::new(0), watch::Sender::new(0));
        Exporter { shared: Arc::new(Shared { queue, metrics, asked, done }) }
    }

    /// Queues a request's spans, or drops and counts them. Never waits.
    pub(super) fn take(&self, ended: Box<Ended>) {
        if let Err(ended) = self.shared.queue.push(ended) {
            self.shared.metrics.spans(SpanResult::Dropped, ended.len() as u64);
        }
    }

    /// Waits until what was queued before was sent, or could not be at the first try.
    async fn flush(&self) {
        let mut number = 0;
        self.shared.asked.send_modify(|asked| {
            *asked = asked.saturating_add(1);
            number = *asked;
        });
        // The sender is here: it cannot be gone.
        let _ = self.shared.done.subscribe().wait_for(|done| *done >= number).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.asked.send_replace(LAST);
    }
}

type Live = Vec<(Otlp, Weak<Exporter>)>;

/// The exporters in use: one a collector, however many listeners name it. The lock is taken when a snapshot is assembled
/// and at the drain.
#[derive(Clone)]
pub(crate) struct Exporters {
    runtime: Handle,
    metrics: Arc<RequestMetrics>,
    counts: DownstreamMetrics,
    live: Arc<Mutex<Live>>,
}

impl Exporters {
    /// Their tasks run on `runtime`, which is not one that serves requests.
    pub(crate) fn new(runtime: Handle, metrics: Arc<RequestMetrics>, counts: DownstreamMetrics) -> Self {
        Exporters { runtime, metrics, counts, live: Arc::default() }
    }

    /// `None` where TLS cannot be set up, which is logged: requests are served without traces.
    pub(crate) fn tracer(&self, tracing: &Tracing) -> Option<Arc<Tracer>> {
        Some(Arc::new(Tracer::new(tracing.ratio, self.exporter(&tracing.otlp)?)))
    }

    fn exporter(&self, otlp: &Otlp) -> Option<Arc<Exporter>> {
        let mut live = self.lock();
        live.retain(|(_, exporter)| exporter.strong_count() > 0);
        let known = live.iter().find(|(of, _)| of == otlp).and_then(|(_, exporter)| exporter.upgrade());
        if known.is_some() {
            return known;
        }
        let collector = match Collector::new(otlp) {
            Ok(collector) => Arc::new(collector),
            Err(error) => {
                tracing::error!(%error, "no traces are sent: TLS cannot be set up");
                return None;
            }
        };
        let exporter = Arc::new(Exporter::new(self.metrics.clone()));
        let (shared, resource) = (exporter.shared.clone(), Arc::new(otlp::resource()));
        supervise(&self.runtime, &self.counts, "traces", move || {
            Export::new(shared.clone(), collector.clone(), resource.clone()).run()
        });
        live.push((otlp.clone(), Arc::downgrade(&exporter)));
        Some(exporter)
    }

    /// Waits until what requests left is with its collectors, at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        let live: Vec<_> = self.lock().iter().filter_map(|(_, exporter)| exporter.upgrade()).collect();
        let all = futures::future::join_all(live.iter().map(|exporter| exporter.flush()));
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("the last traces are lost: their collector did not take them in time");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // A list of weak handles has no state that a panic could leave half-done.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one exporter.
struct Export {
    shared: Arc<Shared>,
    collector: Arc<Collector>,
    resource: Arc<Resource>,
    batch: Vec<Span>,
    /// When the batch's first span came into it.
    since: Instant,
    /// Failed exports since the last good one.
    failures: u32,
    /// What of `asked` was done.
    done: u64,
}

impl Export {
    fn new(shared: Arc<Shared>, collector: Arc<Collector>, resource: Arc<Resource>) -> Self {
        let done = *shared.done.borrow();
        Export { shared, collector, resource, batch: Vec::new(), since: Instant::now(), failures: 0, done }
    }

    async fn run(mut self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.hurry() => {}
            }
            let asked = *self.shared.asked.borrow();
            self.empty(asked != self.done).await;
            self.done = asked;
            self.shared.done.send_replace(asked);
            if asked == LAST {
                return;
            }
        }
    }

    /// Returns while there is somebody who waits for everything to be sent.
    async fn hurry(&self) {
        let mut asked = self.shared.asked.subscribe();
        // The sender is here: it cannot be gone.
        let _ = asked.wait_for(|asked| *asked != self.done).await;
    }

    /// Sends what is due; `all`: whatever there is.
    async fn empty(&mut self, all: bool) {
        loop {
            while self.batch.len() < BATCH
                && let Some(ended) = self.shared.queue.pop()
            {
                if self.batch.is_empty() {
                    self.since = Instant::now();
                }
                otlp::spans(&ended, &mut self.batch);
            }
            let due = all || self.batch.len() >= BATCH || self.since.elapsed() >= DELAY;
            if self.batch.is_empty() || !due {
                return;
            }
            self.deliver().await;
        }
    }

    /// Sends the batch, or gives it up.
    async fn deliver(&mut self) {
        let spans = std::mem::take(&mut self.batch);
        let count = spans.len() as u64;
        let body = Bytes::from(otlp::request(&self.resource, spans).encode_to_vec());
        let mut tries = 0;
        loop {
            let leaving = *self.shared.asked.borrow() != self.done;
            tries += 1;
            let (error, pause) = match self.collector.post(body.clone()).await {
                Ok(rejected) => return self.delivered(count, rejected),
                Err(error @ Refused::ForGood(_)) => (error, None),
                Err(Refused::ForNow { why, pause }) => {
                    let pause = pause.unwrap_or_else(|| pause_after(self.failures));
                    (Refused::ForNow { why, pause: None }, Some(pause))
                }
            };
            if self.failures == 0 {
                let endpoint = self.collector.endpoint();
                tracing::warn!(%endpoint, %error, "traces cannot be exported; requests go on, and what does not fit is dropped");
            }
            self.failures = self.failures.saturating_add(1);
            match pause {
                // Whoever waits at the end waits for one try.
                Some(pause) if tries < TRIES && !leaving => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.hurry() => {}
                },
                _ => return self.shared.metrics.spans(SpanResult::Failed, count),
            }
        }
    }

    fn delivered(&mut self, count: u64, rejected: u64) {
        let rejected = rejected.min(count);
        self.shared.metrics.spans(SpanResult::Sent, count - rejected);
        if rejected > 0 {
            self.shared.metrics.spans(SpanResult::Rejected, rejected);
            tracing::debug!(endpoint = %self.collector.endpoint(), rejected, "the collector refused spans of an export");
        }
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!(endpoint = %self.collector.endpoint(), "traces are exported again");
        }
    }
}

/// Doubled with each failure, and up to a quarter more, so that gateways do not come back together.
fn pause_after(failures: u32) -> Duration {
    let grown = FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
    grown + grown.mul_f64(fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::span::{Server, Trace};
    use crate::trace::{TraceParent, Tracer};
    use sluice_model::Reason;
    use std::time::SystemTime;

    /// A request with one try.
    fn ended() -> Box<Ended> {
        let mut trace = Trace::new(&Tracer::alone(1.0), TraceParent::root(), None, None);
        trace.begin_try(([192, 0, 2, 1], 8080).into());
        let server = Server {
            began: SystemTime::now(),
            started: std::time::Instant::now(),
            duration: Duration::ZERO,
            method: ::http::Method::GET,
            scheme: "http",
            host: "shop.example".into(),
            port: 80,
            path: "/".into(),
            protocol: "1.1",
            client: [192, 0, 2, 2].into(),
            user_agent: "".into(),
            status: 200,
            reason: Reason::Upstream,
            tunnel: false,
            listener: "shop/gw/http".into(),
            rule: None,
            backend: None,
        };
        Box::new(Ended { trace, server })
    }

    #[test]
    fn what_the_queue_cannot_take_is_dropped_and_its_spans_counted() {
        let metrics = Arc::<RequestMetrics>::default();
        let exporter = Exporter::new(metrics.clone());
        for _ in 0..QUEUE {
            exporter.take(ended());
        }
        assert_eq!(metrics.spans_of(SpanResult::Dropped), 0);
        exporter.take(ended());
        assert_eq!(metrics.spans_of(SpanResult::Dropped), 2);
    }

    #[tokio::test]
    async fn listeners_of_one_collector_share_its_queue_and_the_task_ends_with_the_last_of_them() {
        let metrics = Arc::<RequestMetrics>::default();
        let exporters = Exporters::new(Handle::current(), metrics, DownstreamMetrics::default());
        let otlp = Otlp {
            endpoint: ::http::Uri::from_static("http://127.0.0.1:9/v1/traces"),
            headers: Vec::new(),
            timeout: Otlp::DEFAULT_TIMEOUT,
        };
        let tracer = |ratio| exporters.tracer(&Tracing { otlp: otlp.clone(), ratio }).unwrap();
        let (one, other) = (tracer(0.5), tracer(1.0));
        assert!(Arc::ptr_eq(&one.exporter, &other.exporter));
        let task = Arc::downgrade(&one.exporter.shared);
        drop(one);
        assert!(exporters.lock()[0].1.strong_count() > 0);
        drop(other);
        let ended = async {
            while task.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for (failures, least) in [(0, 500), (1, 1_000), (3, 4_000), (4, 5_000), (100, 5_000)] {
            let pause = pause_after(failures).as_millis();
            assert!((least..=least + least / 4).contains(&pause), "{failures}: {pause}");
        }
    }
}
