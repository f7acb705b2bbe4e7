//! Datagrams of UDPRoutes: what a client sends goes to one endpoint for as long as its session lasts, and what comes back
//! goes to that client alone.
//!
//! ```text
//! a worker's socket ─► session of (client, address of ours) ─► its own socket ─► endpoint
//!                            │ none: rule ─► backend by weight ─► endpoint, and it begins
//!                            ◄── a task a session: answers, idle time, the end and its log line ◄──┘
//! ```
//!
//! The kernel gives all datagrams of a client to the same socket of a port, so that the worker that reads it knows all of
//! that client's sessions: nothing is looked up under a lock. A session has a socket to its endpoint that hears nobody
//! else, so an answer can't reach another client. It ends when it is idle, when its endpoint can't be reached, or when the
//! configuration does not lead there any more; the client's next datagram then begins another one.

use super::{NO_HEADERS, RECONNECTS, rule_of};
use crate::access_log::Record;
use crate::downstream::{Batch, Datagram, DatagramPort, LONGEST, Phase, SessionPermit};
use crate::http::{Shared, draw, is_allowed};
use crate::metrics::{Direction, Dropped, InFlight, ListenerMetrics};
use crate::overload::Load;
use crate::snapshot::{FastMap, ListenerRuntime, RuleRuntime, Snapshot};
use crate::upstream::{BackendRuntime, Failure, Outcome, Pick, PickRequest, Tried};
use sluice_model::Reason;
use sluice_model::config::{Action, Transport};
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep_until;

/// Answers that one session passes on before others have their turn.
const BURST: usize = 16;
/// Reads of what is left in a socket that is closed: as much as its queue holds, and a little that comes meanwhile.
const LAST_READS: usize = 1024;

/// Whose session it is: a client may speak to several addresses of ours from one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    to: Option<IpAddr>,
}

/// The sessions of one socket.
struct Sessions {
    shared: Arc<Shared>,
    port: Arc<DatagramPort>,
    open: FastMap<Key, Arc<Session>>,
    /// Each gives its session back when that has ended.
    tasks: JoinSet<Arc<Session>>,
}

/// What of the configuration a session keeps: not the snapshot, as it may live for days.
struct Session {
    key: Key,
    listener: Arc<str>,
    metrics: Arc<ListenerMetrics>,
    rule: Arc<RuleRuntime>,
    /// The rule's backend, by weight.
    backend: usize,
    pick: Pick,
    upstream: UdpSocket,
    idle: Duration,
    begun: Instant,
    /// When the last datagram went either way, in milliseconds since `begun`.
    last: AtomicU64,
    /// The last datagram was an answer.
    answered: AtomicBool,
    /// The snapshot that was last seen to lead here.
    seen: AtomicU64,
    /// Why it has to end; set once.
    ended: OnceLock<Reason>,
    ending: Notify,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    _running: InFlight,
    _permit: SessionPermit,
}

/// Serves one socket until its port is closed and the last of its sessions has ended.
pub(crate) async fn serve(shared: Arc<Shared>, port: DatagramPort) {
    let port = Arc::new(port);
    let mut sessions = Sessions { shared, port: port.clone(), open: FastMap::default(), tasks: JoinSet::new() };
    let mut batch = Batch::new();
    let stopped = port.stopped();
    tokio::pin!(stopped);
    let drain = loop {
        tokio::select! {
            biased;
            drain = &mut stopped => break drain,
            Some(ended) = sessions.tasks.join_next() => sessions.forget(ended),
            received = port.receive(&mut batch) => match received {
                Ok(()) => sessions.take(&batch),
                Err(error) => port.failed(&error).await,
            },
        }
    };
    for _ in 0..LAST_READS {
        if !port.receive_now(&mut batch) {
            break;
        }
        sessions.take(&batch);
    }
    drop(batch);
    port.let_go();
    let phases = port.drain(drain);
    tokio::pin!(phases);
    loop {
        tokio::select! {
            () = &mut phases => return,
            ended = sessions.tasks.join_next() => match ended {
                Some(ended) => sessions.forget(ended),
                None => return,
            },
        }
    }
}

impl Sessions {
    fn forget(&mut self, ended: Result<Arc<Session>, JoinError>) {
        match ended {
            Ok(session) => {
                // The client may have begun another one meanwhile.
                if self.open.get(&session.key).is_some_and(|open| Arc::ptr_eq(open, &session)) {
                    self.open.remove(&session.key);
                }
            }
            Err(error) if error.is_panic() => {
                self.port.note_panic();
                self.open.retain(|_, session| !session.is_over());
            }
            Err(_) => {}
        }
    }

    fn take(&mut self, batch: &Batch) {
        let snapshot = self.shared.snapshot.load_full();
        let now = Instant::now();
        for datagram in batch.datagrams() {
            // Nobody can be answered there; a group of hosts is not a client either.
            let reachable = datagram.from.port() != 0 && !datagram.to.is_some_and(|to| to.is_multicast());
            if reachable {
                self.pass(&snapshot, &datagram, now);
            }
        }
    }

    /// Passes one datagram on, in its client's session.
    fn pass(&mut self, snapshot: &Snapshot, datagram: &Datagram<'_>, now: Instant) {
        let key = Key { client: datagram.from, to: datagram.to };
        let mut tried = Tried::new();
        if let Some(session) = self.open.get(&key).filter(|session| !session.is_over()) {
            if !session.is_led_to(snapshot, self.port.address()) {
                session.end(Reason::EndpointGone);
            } else {
                match session.send(datagram.bytes, now) {
                    Ok(()) => return,
                    Err(()) => tried.push(session.pick.address()),
                }
            }
        }
        if let Err(why) = self.begin(snapshot, key, datagram.bytes, now, tried)
            && let Some(listener) = listener_of(snapshot, self.port.address())
        {
            listener.metrics.count_dropped(why);
        }
    }

    /// Begins a session, with its first datagram.
    fn begin(
        &mut self,
        snapshot: &Snapshot,
        key: Key,
        bytes: &[u8],
        now: Instant,
        mut tried: Tried,
    ) -> Result<(), Dropped> {
        // Another configuration came, and the port is about to be closed.
        let listener = listener_of(snapshot, self.port.address()).ok_or(Dropped::Refused(Reason::RouteNotFound))?;
        let rule = rule_of(listener, "").ok_or(Dropped::Refused(Reason::RouteNotFound))?;
        if self.shared.overload.load() == Load::Shedding {
            self.shared.overload.shed.inc();
            return Err(Dropped::Refused(Reason::Overloaded));
        }
        let client = key.client.ip().to_canonical();
        let (index, backend) = backend_of(snapshot, &rule, client).map_err(Dropped::Refused)?;
        let permit = self.port.admit().ok_or(Dropped::SessionLimit)?;
        let (pick, socket) = connect(backend, client, bytes, &mut tried)?;
        let upstream = UdpSocket::from_std(socket).map_err(|_| Dropped::NotSent)?;
        rule.metrics.add_datagram(Direction::Received, bytes.len());
        let session = Arc::new(Session {
            key,
            listener: listener.label.clone(),
            metrics: listener.metrics.clone(),
            rule,
            backend: index,
            pick,
            upstream,
            idle: listener.edge().timeouts.udp_idle,
            begun: now,
            last: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            seen: AtomicU64::new(snapshot.generation),
            ended: OnceLock::new(),
            ending: Notify::new(),
            bytes_in: AtomicU64::new(bytes.len() as u64),
            bytes_out: AtomicU64::new(0),
            _running: InFlight::new(&listener.metrics),
            _permit: permit,
        });
        self.open.insert(key, session.clone());
        self.tasks.spawn(live(self.shared.clone(), session, self.port.clone()));
        Ok(())
    }
}

fn listener_of(snapshot: &Snapshot, port: SocketAddr) -> Option<&Arc<ListenerRuntime>> {
    snapshot.udp_ports.get(&port)?.listeners.first()
}

/// Draws the rule's backend.
fn backend_of<'s>(
    snapshot: &'s Snapshot,
    rule: &RuleRuntime,
    client: IpAddr,
) -> Result<(usize, &'s Arc<BackendRuntime>), Reason> {
    if !is_allowed(rule, client) {
        return Err(Reason::ClientDenied);
    }
    if let Action::Reply { reason, .. } = &rule.config.action {
        return Err(*reason);
    }
    let index = draw(rule).ok_or(Reason::NoBackends)?;
    let chosen = rule.backends.get(index).ok_or(Reason::NoBackends)?;
    let (slot, _) = chosen.target.as_ref().ok_or(Reason::InvalidBackend)?;
    let backend = snapshot.backend(slot).ok_or(Reason::NoEndpoints)?;
    // Nothing but UDP was asked of it.
    debug_assert_eq!(backend.config().protocol.transport(), Transport::Udp);
    Ok((index, backend))
}

/// An endpoint with a socket to it, which the first datagram has gone through.
fn connect(
    backend: &BackendRuntime,
    client: IpAddr,
    bytes: &[u8],
    tried: &mut Tried,
) -> Result<(Pick, std::net::UdpSocket), Dropped> {
    let mut left = RECONNECTS;
    loop {
        let wanted = PickRequest { headers: &NO_HEADERS, client, tried };
        let mut pick = backend.pick(&wanted).map_err(|error| Dropped::Refused(error.reason()))?;
        let sent = pick.datagrams().and_then(|socket| {
            SockRef::from(&socket).send(bytes)?;
            Ok(socket)
        });
        let error = match sent {
            Ok(socket) => {
                pick.connected();
                return Ok((pick, socket));
            }
            Err(error) => error,
        };
        tracing::debug!(endpoint = %pick.address(), %error, "a datagram cannot be sent");
        if let Some(why) = of_ours(&error) {
            return Err(why);
        }
        pick.report(Outcome::Failed(Failure::Connect));
        if left == 0 {
            return Err(Dropped::Refused(Reason::UpstreamConnectFailed));
        }
        left -= 1;
        tried.push(pick.address());
    }
}

/// What is wrong with sending where that says nothing of the endpoint.
fn of_ours(error: &io::Error) -> Option<Dropped> {
    if quinn_udp::is_msg_size_err(error) {
        return Some(Dropped::TooLarge);
    }
    match error.kind() {
        ErrorKind::WouldBlock => Some(Dropped::QueueFull),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => None,
        // Out of files, memory or local ports, or forbidden by a filter of packets.
        _ => Some(Dropped::NotSent),
    }
}

impl Session {
    fn is_over(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Asks the session's task to end it. The first reason counts.
    fn end(&self, reason: Reason) {
        if self.ended.set(reason).is_ok() {
            self.ending.notify_one();
        }
    }

    fn elapsed(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the configuration still leads this client to this endpoint. Looked at once a snapshot.
    fn is_led_to(&self, snapshot: &Snapshot, port: SocketAddr) -> bool {
        if self.seen.load(Relaxed) == snapshot.generation {
            return true;
        }
        let address = self.pick.address();
        let leads = |rule: &RuleRuntime| {
            is_allowed(rule, self.key.client.ip().to_canonical())
                && rule.backends.iter().filter(|backend| backend.weight > 0).any(|backend| {
                    let slot = backend.target.as_ref().map(|(slot, _)| slot);
                    slot.and_then(|slot| snapshot.backend(slot)).is_some_and(|backend| backend.leads_to(address))
                })
        };
        let led = listener_of(snapshot, port).and_then(|listener| rule_of(listener, "")).is_some_and(|r| leads(&r));
        if led {
            self.seen.store(snapshot.generation, Relaxed);
        }
        led
    }

    /// Sends to the endpoint. `Err`: the endpoint can't be reached, and the session has ended without this datagram.
    fn send(&self, bytes: &[u8], now: Instant) -> Result<(), ()> {
        let error = match SockRef::from(&self.upstream).send(bytes) {
            Ok(_) => {
                self.last.store(self.elapsed(now), Relaxed);
                self.answered.store(false, Relaxed);
                self.bytes_in.fetch_add(bytes.len() as u64, Relaxed);
                self.rule.metrics.add_datagram(Direction::Received, bytes.len());
                return Ok(());
            }
            Err(error) => error,
        };
        if let Some(why) = of_ours(&error) {
            self.metrics.count_dropped(why);
            return Ok(());
        }
        self.unreachable(&error);
        Err(())
    }

    fn unreachable(&self, error: &io::Error) {
        tracing::debug!(endpoint = %self.pick.address(), %error, "an endpoint takes no datagrams");
        if !self.is_over() {
            self.pick.report(Outcome::Failed(Failure::Connect));
        }
        self.end(Reason::UpstreamConnectFailed);
    }

    /// Waits for answers and passes on those that are there. `Some`: this one has to wait for room.
    async fn answers(&self, port: &DatagramPort) -> io::Result<Option<Vec<u8>>> {
        std::future::poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); LONGEST];
            for passed in 0..BURST {
                let mut buffer = ReadBuf::uninit(&mut space);
                match self.upstream.poll_recv(cx, &mut buffer) {
                    Poll::Pending if passed > 0 => break,
                    received => {
                        if let Err(error) = ready!(received) {
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                let bytes = buffer.filled();
                self.note_answer();
                match port.send_now(bytes, self.key.client, self.key.to) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Poll::Ready(Ok(Some(bytes.to_vec())));
                    }
                    sent => self.count_answer(bytes.len(), sent),
                }
            }
            Poll::Ready(Ok(None))
        })
        .await
    }

    fn note_answer(&self) {
        self.last.store(self.elapsed(Instant::now()), Relaxed);
        if !self.answered.swap(true, Relaxed) {
            // All that is asked of an endpoint of datagrams.
            self.pick.report(Outcome::Response(200));
        }
    }

    fn count_answer(&self, length: usize, sent: io::Result<()>) {
        match sent {
            Ok(()) => {
                self.bytes_out.fetch_add(length as u64, Relaxed);
                self.rule.metrics.add_datagram(Direction::Sent, length);
            }
            Err(error) => {
                tracing::debug!(client = %self.key.client, %error, "an answer cannot be sent");
                self.metrics.count_dropped(of_ours(&error).unwrap_or(Dropped::NotSent));
            }
        }
    }
}

/// Whatever becomes of its task, a session is over with it.
struct Over<'s>(&'s Session);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end(Reason::Internal);
    }
}

/// One session, from its first datagram to its line in the log.
async fn live(shared: Arc<Shared>, session: Arc<Session>, port: Arc<DatagramPort>) -> Arc<Session> {
    {
        let _over = Over(&session);
        until_its_end(&session, &port).await;
    }
    let reason = session.ended.get().copied().unwrap_or(Reason::Internal);
    if reason == Reason::StreamIdle {
        shared.counts.timeout("udp_idle");
    }
    session.metrics.count_session(reason);
    tell(&shared, &session, reason);
    session
}

async fn until_its_end(session: &Session, port: &DatagramPort) {
    let mut phases = port.phases();
    let timer = sleep_until((session.begun + session.idle).into());
    tokio::pin!(timer);
    loop {
        match *phases.borrow_and_update() {
            Phase::Serving => {}
            // Nothing more comes from the client: what it waits for may still do.
            Phase::Draining if !session.answered.load(Relaxed) => {}
            Phase::Draining | Phase::Closing | Phase::Closed => session.end(Reason::ShuttingDown),
        }
        if session.is_over() {
            return;
        }
        tokio::select! {
            () = session.ending.notified() => return,
            changed = phases.changed() => if changed.is_err() {
                session.end(Reason::ShuttingDown);
            },
            outcome = session.answers(port) => match outcome {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    let sent = port.send(&bytes, session.key.client, session.key.to).await;
                    session.count_answer(bytes.len(), sent);
                }
                Err(error) => session.unreachable(&error),
            },
            () = &mut timer => {
                let last = session.begun + Duration::from_millis(session.last.load(Relaxed));
                let until = last + session.idle;
                if Instant::now() >= until {
                    session.end(Reason::StreamIdle);
                } else {
                    timer.as_mut().reset(until.into());
                }
            }
        }
    }
}

fn tell(shared: &Shared, session: &Session, reason: Reason) {
    let snapshot = shared.snapshot.load();
    // What went wrong is never left out by sampling.
    if !snapshot.access_log.wants(reason.status()) {
        return;
    }
    let rule = &session.rule;
    let backend = rule.backends.get(session.backend).and_then(|backend| backend.target.as_ref());
    let record = Record {
        listener: &session.listener,
        route: &rule.route_label,
        rule: &rule.config.id.rule,
        backend: backend.map_or("", |(_, metrics)| &metrics.label),
        endpoint: Some(session.pick.address()),
        bytes_in: session.bytes_in.load(Relaxed),
        bytes_out: session.bytes_out.load(Relaxed),
        ..Record::of_bytes("UDP", session.key.client.ip().to_canonical(), reason, session.begun.elapsed())
    };
    shared.log.write(snapshot.access_log.line(&record));
}
