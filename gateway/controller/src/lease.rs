//! The Lease (coordination.k8s.io/v1): of all replicas its holder writes, and no other.
//!
//! As client-go does it: the holder renews; who waits watches the record and, when it has not changed for as long as it
//! says it lasts, by its own clock, takes over. Clocks of different machines are never compared.

use crate::api::{Api, Failure, collection};
use crate::ports;
use crate::time::micros;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

/// How long a record lasts that is not renewed.
const LASTS: Duration = Duration::from_secs(15);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// A holder that could not renew for so long stops writing, well before another may begin.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between looks of those who wait, and between tries after a failure. With it a killed holder is followed within
/// 15 s + 2 x 1 s.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) const NAME: &str = "sluice-controller";
/// The annotation in which resting target ports stand.
const RESTING: &str = "sluice.dev/resting-ports";

pub(crate) struct Lease {
    api: Api,
    namespace: String,
    identity: String,
    /// The number of our term, while it lasts.
    term: watch::Sender<Option<u64>>,
    record: Mutex<Record>,
    /// This process stops: it does not want the Lease any more.
    closed: AtomicBool,
}

/// What is known of the record.
#[derive(Debug, Default)]
struct Record {
    version: String,
    /// What it said when it changed last, and when that was.
    seen: Option<(Value, Instant)>,
    resting: BTreeMap<u16, i64>,
    terms: u64,
}

impl Lease {
    pub(crate) fn new(api: Api, namespace: String, identity: String) -> Lease {
        Lease {
            api,
            namespace,
            identity,
            term: watch::Sender::new(None),
            record: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Our term, as it begins and ends.
    pub(crate) fn term(&self) -> watch::Receiver<Option<u64>> {
        self.term.subscribe()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.term.borrow().is_some()
    }

    /// Waits for the Lease, holds it, waits again.
    pub(crate) async fn run(&self) {
        let mut renewed = Instant::now();
        let mut said: Option<Failure> = None;
        loop {
            let ours = self.is_ours();
            let pause = match self.step().await {
                Ok(true) => {
                    renewed = Instant::now();
                    said = None;
                    RENEW
                }
                Ok(false) => {
                    self.lost("another replica has the Lease");
                    said = None;
                    LOOK
                }
                Err(failure) => {
                    if said.as_ref() != Some(&failure) {
                        tracing::warn!(lease = %self.path(), %failure, "the Lease cannot be had: nothing is written without it");
                        said = Some(failure);
                    }
                    if ours && renewed.elapsed() >= GIVE_UP {
                        self.lost("the Lease could not be renewed in time");
                    }
                    LOOK
                }
            };
            sleep(pause).await;
        }
    }

    fn lost(&self, why: &str) {
        let was = self.term.send_if_modified(|term| term.take().is_some());
        if was {
            tracing::warn!(identity = self.identity, "not the leader any more: {why}");
        }
    }

    fn path(&self) -> String {
        format!("{}/{NAME}", self.collection())
    }

    fn collection(&self) -> String {
        collection("coordination.k8s.io/v1", &self.namespace, "leases")
    }

    /// Renews the record, or takes it where it is free. Says whether it is ours.
    async fn step(&self) -> Result<bool, Failure> {
        let mut record = self.record.lock().await;
        if self.closed.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if self.is_ours() {
            match self.renew(&mut record).await {
                Err(Failure::Conflict) => {}
                result => return result.map(|()| true),
            }
        }
        let lease = match self.api.get(&self.path()).await {
            Ok(lease) => lease,
            Err(Failure::NotFound) => {
                let made = self.api.create(&self.collection(), &self.first()).await?;
                self.took(&mut record, &made);
                return Ok(true);
            }
            Err(failure) => return Err(failure),
        };
        record.read(&lease);
        let spec = lease.get("spec").cloned().unwrap_or_default();
        let holder = spec.get("holderIdentity").and_then(Value::as_str).unwrap_or_default();
        if holder == self.identity {
            // Something else of it was changed.
            let ours = self.is_ours();
            self.renew(&mut record).await?;
            if !ours {
                self.begin(&mut record);
            }
            return Ok(true);
        }
        let lasts = spec.get("leaseDurationSeconds").and_then(Value::as_u64).map_or(LASTS, Duration::from_secs);
        let since = match &record.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => {
                let now = Instant::now();
                record.seen = Some((spec.clone(), now));
                now
            }
        };
        if !holder.is_empty() && since.elapsed() < lasts {
            return Ok(false);
        }
        let transitions = spec.get("leaseTransitions").and_then(Value::as_u64).unwrap_or_default();
        let now = micros(Timestamp::now());
        let patch = json!({
            "metadata": {"resourceVersion": record.version},
            "spec": {"holderIdentity": self.identity, "leaseDurationSeconds": LASTS.as_secs(),
                     "acquireTime": now, "renewTime": now, "leaseTransitions": transitions + 1},
        });
        match self.api.merge(&self.path(), &patch).await {
            Ok(taken) => {
                self.took(&mut record, &taken);
                Ok(true)
            }
            // Another was faster.
            Err(Failure::Conflict) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn first(&self) -> Value {
        let now = micros(Timestamp::now());
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {"holderIdentity": self.identity, "leaseDurationSeconds": LASTS.as_secs(),
                     "acquireTime": now, "renewTime": now, "leaseTransitions": 0},
        })
    }

    fn took(&self, record: &mut Record, lease: &Value) {
        record.read(lease);
        self.begin(record);
    }

    fn begin(&self, record: &mut Record) {
        record.terms += 1;
        self.term.send_replace(Some(record.terms));
        tracing::info!(identity = self.identity, "holds the Lease: this replica writes to the cluster");
    }

    async fn renew(&self, record: &mut Record) -> Result<(), Failure> {
        let patch = json!({
            "metadata": {"resourceVersion": record.version},
            "spec": {"renewTime": micros(Timestamp::now())},
        });
        let renewed = self.api.merge(&self.path(), &patch).await?;
        record.read(&renewed);
        Ok(())
    }

    /// Target ports that rest, as the record had them when our term began, or as we recorded them since.
    pub(crate) async fn resting(&self) -> BTreeMap<u16, i64> {
        self.record.lock().await.resting.clone()
    }

    /// Records them, if the Lease is still ours.
    pub(crate) async fn record_resting(&self, resting: &BTreeMap<u16, i64>) -> Result<(), Failure> {
        let mut record = self.record.lock().await;
        if record.resting == *resting {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": record.version,
            "annotations": {RESTING: ports::write_resting(resting)},
        }});
        let written = self.api.merge(&self.path(), &patch).await?;
        record.read(&written);
        Ok(())
    }

    /// Gives it up, so that another need not wait.
    pub(crate) async fn release(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let record = self.record.lock().await;
        if !self.is_ours() {
            return;
        }
        let patch = json!({
            "metadata": {"resourceVersion": record.version},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micros(Timestamp::now())},
        });
        let released = self.api.merge(&self.path(), &patch).await;
        self.term.send_replace(None);
        match released {
            Ok(_) => tracing::info!(identity = self.identity, "released the Lease"),
            Err(failure) => tracing::warn!(%failure, "the Lease could not be released; it runs out by itself"),
        }
    }
}

impl Record {
    fn read(&mut self, lease: &Value) {
        let meta = |field: &str| lease.get("metadata").and_then(|meta| meta.get(field));
        self.version = meta("resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let resting = meta("annotations").and_then(|annotations| annotations.get(RESTING)).and_then(Value::as_str);
        self.resting = ports::read_resting(resting.unwrap_or_default());
    }
}
