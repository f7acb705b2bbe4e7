//! Connections for calls of plugins, kept between calls.
//!
//! One place for all workers, behind a mutex that is held for a look at a map: a call costs a connection's round trip, and
//! there are few of them beside requests. Requests themselves never come here.

use crate::upstream::{Opened, Pick, PoolKey};
use ::http::{Request, Response};
use bytes::Bytes;
use foldhash::HashMap;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Idle connections of HTTP/1 to one endpoint, and over all endpoints.
const MAX_IDLE_OF_ENDPOINT: usize = 32;
const MAX_IDLE: usize = 1_024;
/// How long a connection waits to be used again.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection may take to be ready again once its answer has been read.
const SETTLE: Duration = Duration::from_secs(1);

type Body = Full<Bytes>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
struct Idle {
    by_endpoint: HashMap<PoolKey, Endpoint>,
    /// Of HTTP/1.
    count: usize,
    /// Whether a task will look for connections that have waited too long.
    swept: bool,
}

#[derive(Debug, Default)]
struct Endpoint {
    /// The one that was given back last is at the end.
    http1: VecDeque<(http1::SendRequest<Body>, Instant, bool)>,
    /// One connection for all calls.
    http2: Option<(http2::SendRequest<Body>, Instant, bool)>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A connection for one call. Dropped, it is closed (HTTP/1), unless it is given back.
pub(crate) struct Lease {
    sender: Sender,
    key: PoolKey,
    tls: bool,
    connections: Connections,
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, Idle> {
        // A panic while it was held left whole entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that waits at the picked endpoint.
    pub(super) fn idle(&self, pick: &Pick) -> Option<Lease> {
        let key = pick.pool_key();
        let mut all = self.all();
        let endpoint = all.by_endpoint.get_mut(&key)?;
        let connections = self.clone();
        if let Some((sender, used, tls)) = &mut endpoint.http2 {
            if !sender.is_closed() {
                *used = Instant::now();
                let sender = Sender::Http2(sender.clone());
                return Some(Lease { sender, key, tls: *tls, connections });
            }
            endpoint.http2 = None;
        }
        let mut taken = 0;
        let mut found = None;
        while let Some((sender, since, tls)) = endpoint.http1.pop_back() {
            taken += 1;
            if !sender.is_closed() && since.elapsed() < IDLE {
                found = Some(Lease { sender: Sender::Http1(sender), key, tls, connections });
                break;
            }
        }
        all.count -= taken;
        found
    }

    /// Begins to speak on a new connection. Its task ends with the connection.
    pub(super) async fn handshake(&self, pick: &Pick, opened: Opened) -> hyper::Result<Lease> {
        let Opened { io, http2, tls, _guard: guard } = opened;
        let (key, io) = (pick.pool_key(), TokioIo::new(io));
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(async move {
                let ended = connection.await;
                tracing::trace!(?ended, "a connection for calls of plugins ended");
                drop(guard);
            });
            self.all().by_endpoint.entry(key).or_default().http2 = Some((sender.clone(), Instant::now(), tls));
            self.sweep_later();
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(async move {
                let ended = connection.await;
                tracing::trace!(?ended, "a connection for calls of plugins ended");
                drop(guard);
            });
            Sender::Http1(sender)
        };
        Ok(Lease { sender, key, tls, connections: self.clone() })
    }

    fn keep(&self, key: PoolKey, sender: http1::SendRequest<Body>, tls: bool) {
        {
            let mut all = self.all();
            if all.count >= MAX_IDLE {
                return;
            }
            let endpoint = all.by_endpoint.entry(key).or_default();
            endpoint.http1.push_back((sender, Instant::now(), tls));
            let first = if endpoint.http1.len() > MAX_IDLE_OF_ENDPOINT { endpoint.http1.pop_front() } else { None };
            if first.is_none() {
                all.count += 1;
            }
        }
        self.sweep_later();
    }

    /// Closes what waits for too long, in the time to come.
    fn sweep_later(&self) {
        if std::mem::replace(&mut self.all().swept, true) {
            return;
        }
        let connections = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                if connections.sweep() {
                    return;
                }
            }
        });
    }

    /// Whether nothing waits any longer.
    fn sweep(&self) -> bool {
        let mut all = self.all();
        let now = Instant::now();
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= IDLE;
        let mut count = 0;
        all.by_endpoint.retain(|_, endpoint| {
            endpoint.http1.retain(|(sender, since, _)| !sender.is_closed() && !is_old(since));
            endpoint.http2 = endpoint.http2.take().filter(|(sender, since, _)| !sender.is_closed() && !is_old(since));
            count += endpoint.http1.len();
            !endpoint.http1.is_empty() || endpoint.http2.is_some()
        });
        all.count = count;
        all.swept = !all.by_endpoint.is_empty();
        !all.swept
    }
}

impl Lease {
    pub(super) fn http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    pub(super) fn tls(&self) -> bool {
        self.tls
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// For the next call, once the answer has been read to its end.
    pub(super) fn give_back(self) {
        let Lease { sender, key, tls, connections } = self;
        let Sender::Http1(mut sender) = sender else { return };
        if sender.is_ready() {
            connections.keep(key, sender, tls);
            return;
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                connections.keep(key, sender, tls);
            }
        });
    }
}
