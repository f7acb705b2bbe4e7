//! Steady load of a fixed rate, over every protocol that clients speak, by clients that never send anything twice.
//!
//! ```text
//! Plan ─ start ─► Running (one task a connection, each with its own tick) ─ stop ─► Report (every failure, by cause)
//! ```
//!
//! A connection that the server announces to close (`Connection: close`, GOAWAY, a WebSocket's 1001) is replaced
//! *before* the next request; whatever fails once it was sent is a failure, however it failed.

mod clients;
mod report;

pub use report::{Failure, Kind, Report};

use crate::{Address, certificate};
use report::Records;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where the load goes.
#[derive(Clone)]
pub struct Target {
    pub http: Address,
    pub https: Address,
    /// Host, :authority and SNI.
    pub host: String,
    pub tls: certificate::Trust,
    pub path: String,
    /// Where gRPC goes; the path of the call.
    pub grpc_path: String,
    pub web_socket_path: String,
    /// What an answer of 200 must be besides.
    pub check: Option<Check>,
}

/// Judges the fields and the body of an answer.
pub type Check = Arc<dyn Fn(&http::HeaderMap, &[u8]) -> Result<(), String> + Send + Sync>;

/// Connections, and requests a second on each of them.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub connections: u32,
    pub per_second: u32,
}

/// What is sent. The default is what the project is judged by: 500 requests a second and more, 50 new connections a
/// second, half of them with TLS.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub http1: Rate,
    pub http2: Rate,
    pub grpc: Rate,
    pub web_socket: Rate,
    /// Connections a second that carry one request each, plain and with TLS by turns.
    pub new_connections: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            http1: Rate { connections: 10, per_second: 20 },
            http2: Rate { connections: 4, per_second: 50 },
            grpc: Rate { connections: 5, per_second: 10 },
            web_socket: Rate { connections: 5, per_second: 10 },
            new_connections: 50,
        }
    }
}

pub struct Running {
    tasks: JoinSet<()>,
    records: Arc<Records>,
    stop: watch::Sender<bool>,
    started: Instant,
}

impl Plan {
    pub fn start(self, target: &Target) -> Running {
        let started = Instant::now();
        let records = Arc::new(Records::new(started));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let lane = |rate: Rate, n: u32| clients::Lane {
            target: target.clone(),
            records: records.clone(),
            stopped: stopped.clone(),
            period: Duration::from_secs(1) / rate.per_second.max(1),
            // Spread over the period, so that the load is steady and not a volley.
            offset: Duration::from_secs(1) / rate.per_second.max(1) * n / rate.connections.max(1),
        };
        for n in 0..self.http1.connections {
            tasks.spawn(clients::http1(lane(self.http1, n)));
        }
        for n in 0..self.http2.connections {
            tasks.spawn(clients::http2(lane(self.http2, n)));
        }
        for n in 0..self.grpc.connections {
            tasks.spawn(clients::grpc(lane(self.grpc, n)));
        }
        for n in 0..self.web_socket.connections {
            tasks.spawn(clients::web_socket(lane(self.web_socket, n)));
        }
        if self.new_connections > 0 {
            let rate = Rate { connections: 1, per_second: self.new_connections };
            tasks.spawn(clients::new_connections(lane(rate, 0)));
        }
        Running { tasks, records, stop, started }
    }
}

impl Running {
    /// Failures so far.
    pub fn failures(&self) -> usize {
        self.records.failures()
    }

    /// Waits until each kind in `kinds` has had `count` more answers.
    pub async fn settled(&self, kinds: &[Kind], count: u64) {
        let before: Vec<u64> = kinds.iter().map(|kind| self.records.answered(*kind)).collect();
        crate::wait::until("answers of every kind", || async {
            let done = kinds.iter().zip(&before).all(|(kind, before)| self.records.answered(*kind) >= before + count);
            done.then_some(())
        })
        .await;
    }

    /// Lets what is under way finish, and gives the account.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("a client task does not panic");
        }
        self.records.report(self.started.elapsed())
    }
}
