//! Which ports are open: follows the configuration, binds and closes, and tries again where a port is taken.

use super::connection::EdgeObserver;
use super::metrics::DownstreamMetrics;
use super::open_port::{OpenPort, Shared};
use super::port::{Place, PortState};
use super::pulse::Pulse;
use super::sockets::{self, PortSocket};
use super::workers::{BoundPort, Ports, RuntimeMode, Workers};
use pingora_core::apps::HttpServerApp;
use sluice_model::config::Transport;
use sluice_model::{Code, Problem};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::watch;

/// First pause before a port is tried again; it doubles up to [`REBIND_MOST`].
const REBIND_FIRST: Duration = Duration::from_millis(500);
const REBIND_MOST: Duration = Duration::from_secs(30);
/// What cutting the last connections may take after a drain's deadline.
const CUT: Duration = Duration::from_secs(1);

/// What does not change while the process runs.
#[derive(Debug)]
pub struct DownstreamOptions {
    pub mode: RuntimeMode,
    /// Threads that serve. At least 1.
    pub workers: usize,
    /// Open connections of all ports together; above, new ones are closed at once (`sluice_limit_hits_total`,
    /// `limit="total_connections"`). Default 50,000.
    pub max_connections: usize,
    /// Bytes of header sections that all connections may hold together: those of running HTTP/2 requests, and those of
    /// HTTP/1 above 4 KiB. Above, the HTTP/2 connection that holds most is closed, and an HTTP/1 request is refused where
    /// that is not enough (`limit="total_header_bytes"`; what is held: `sluice_held_bytes{limit="header_bytes"}`).
    /// Default 256 MiB.
    pub max_header_bytes: u64,
    /// Bytes of responses that may wait behind shut HTTP/2 windows of all connections together. Above, the connection
    /// that holds most is closed (`limit="total_send_bytes"`; what is held: `sluice_held_bytes{limit="send_bytes"}`).
    /// Default 256 MiB.
    pub max_send_bytes: u64,
    /// Sockets that were taken over, by the address that the configuration has for them. Those that the first
    /// configuration does not name are closed.
    pub sockets: Vec<(SocketAddr, PortSocket)>,
}

impl Default for DownstreamOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        DownstreamOptions {
            mode: RuntimeMode::default(),
            workers,
            max_connections: 50_000,
            max_header_bytes: 256 * 1024 * 1024,
            max_send_bytes: 256 * 1024 * 1024,
            sockets: Vec::new(),
        }
    }
}

#[derive(Debug, Error)]
pub enum DownstreamError {
    #[error("cannot start a worker thread: {0}")]
    Threads(#[from] io::Error),
}

/// The accept path: worker threads, open ports, and their way to close. Dropped, everything ends at once.
pub struct Downstream {
    // Before `control`, so that threads end first.
    _workers: Workers,
    control: Arc<Control>,
    pulse: Arc<Pulse>,
    rebinder: Option<std::thread::JoinHandle<()>>,
}

struct Control {
    mode: RuntimeMode,
    workers: usize,
    shared: Arc<Shared>,
    ports: watch::Sender<Ports>,
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

/// What the configuration asks for, and what came of it.
#[derive(Default)]
struct Wanted {
    states: BTreeMap<Place, Arc<PortState>>,
    unbound: BTreeMap<Place, Unbound>,
    taken_over: BTreeMap<Place, Vec<PortSocket>>,
    /// Sockets of ports that were closed, while somebody still empties their queue.
    closing: BTreeMap<Place, Weak<Vec<PortSocket>>>,
    /// Nothing is bound any more.
    ended: bool,
}

struct Unbound {
    error: io::Error,
    pause: Duration,
    next: Instant,
}

impl Downstream {
    /// Starts the workers. `build` makes a worker's engine in that worker's runtime; nothing is bound before the first
    /// [`Downstream::apply`].
    pub fn start<A, F>(
        options: DownstreamOptions,
        metrics: &DownstreamMetrics,
        observer: Arc<dyn EdgeObserver>,
        build: F,
    ) -> Result<Downstream, DownstreamError>
    where
        A: HttpServerApp + Send + Sync + 'static,
        F: Fn(usize) -> Arc<A> + Clone + Send + 'static,
    {
        let mut wanted = Wanted::default();
        for (address, socket) in options.sockets {
            if let PortSocket::Listener(listener) = &socket {
                // Best effort: a socket without these options serves as well.
                let _ = sockets::prepare(listener);
            }
            wanted.taken_over.entry((socket.transport(), address)).or_default().push(socket);
        }
        let workers = options.workers.max(1);
        let control = Arc::new(Control {
            mode: options.mode,
            workers,
            shared: Arc::new(Shared::new(
                options.max_connections,
                options.max_header_bytes,
                options.max_send_bytes,
                observer,
                metrics.clone(),
            )),
            ports: watch::Sender::new(Ports::new()),
            wanted: Mutex::new(wanted),
            changed: Condvar::new(),
        });
        let restarts = metrics.clone();
        let restarted = move || restarts.restart("worker");
        let pulse = Pulse::new(options.mode.runtimes(workers));
        let threads =
            Workers::start(options.mode, workers, control.ports.subscribe(), pulse.clone(), restarted, build)?;
        let binder = control.clone();
        let rebinder = std::thread::Builder::new().name("rebind".to_owned()).spawn(move || binder.rebind())?;
        Ok(Downstream { _workers: threads, control, pulse, rebinder: Some(rebinder) })
    }

    /// Serves these ports from now on: opens what is new, closes what is gone, and shows new connections the new state
    /// of what stays. Returns once the kernel accepts connections on all that could be bound.
    pub fn apply(&self, ports: impl IntoIterator<Item = Arc<PortState>>) -> Vec<Problem> {
        let control = &self.control;
        let mut wanted = control.lock();
        if wanted.ended {
            return Vec::new();
        }
        wanted.states = ports.into_iter().map(|state| (state.place(), state)).collect();
        let mut open = control.ports.borrow().clone();
        open.retain(|place, bound| match wanted.states.get(place) {
            Some(state) => {
                bound.port.set_state(state.clone());
                true
            }
            None => {
                wanted.closing.insert(*place, Arc::downgrade(&bound.sockets));
                bound.port.stop(bound.port.state().config.edge.timeouts.drain);
                false
            }
        });
        let Wanted { states, unbound, .. } = &mut *wanted;
        unbound.retain(|place, _| states.contains_key(place));
        let new: Vec<_> = wanted.states.values().filter(|state| !open.contains_key(&state.place())).cloned().collect();
        for state in new {
            control.open(&mut wanted, &mut open, state);
        }
        wanted.taken_over.clear();
        wanted.closing.retain(|_, sockets| sockets.strong_count() > 0);
        control.ports.send_replace(open);
        control.changed.notify_all();
        wanted.problems()
    }

    /// The ports that are asked for but could not be bound yet; they are tried again, with growing pauses.
    pub fn problems(&self) -> Vec<Problem> {
        self.control.lock().problems()
    }

    /// The address that a port is really bound to: it differs where the configuration leaves the number to the kernel.
    pub fn local_addr(&self, transport: Transport, address: SocketAddr) -> Option<SocketAddr> {
        self.control.ports.borrow().get(&(transport, address))?.sockets.first()?.local_addr().ok()
    }

    /// Waits until every thread that serves has answered, from its own loop.
    pub async fn answers(&self) {
        self.pulse.ask().await;
    }

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.control.shared.open()
    }

    /// Duplicates of the sockets, for the process that takes over.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, PortSocket)>> {
        let ports = self.control.ports.borrow().clone();
        let each = |((_, address), bound): (Place, BoundPort)| {
            let duplicates: Vec<_> = bound.sockets.iter().map(PortSocket::try_clone).collect();
            duplicates.into_iter().map(move |socket| socket.map(|socket| (address, socket)))
        };
        ports.into_iter().flat_map(each).collect()
    }

    /// Accepts what waits, then closes all ports; tells clients to go elsewhere, and waits until the last connection has
    /// ended, at most for `deadline`. Returns how many were cut.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let open = {
            let mut wanted = self.control.lock();
            wanted.ended = true;
            wanted.states.clear();
            wanted.unbound.clear();
            wanted.taken_over.clear();
            self.control.changed.notify_all();
            // They stay in the workers' sight: one that has not taken a port yet has its queue to empty.
            self.control.ports.borrow().clone()
        };
        for bound in open.values() {
            bound.port.stop(deadline);
        }
        let shared = &self.control.shared;
        let drained = async {
            shared.until(|| open.values().all(|bound| bound.port.is_let_go())).await;
            self.control.ports.send_replace(Ports::new());
            drop(open);
            shared.until(|| shared.open() == 0 && shared.sessions() == 0).await;
        };
        let before = shared.cut();
        // The workers cut what is left at the deadline; wait for it, so that a caller may rely on it.
        if tokio::time::timeout(deadline + CUT, drained).await.is_err() {
            self.control.ports.send_replace(Ports::new());
        }
        shared.cut() - before
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        self.control.lock().ended = true;
        self.control.changed.notify_all();
        if let Some(rebinder) = self.rebinder.take() {
            let _ = rebinder.join();
        }
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // What it guards is replaced in whole steps; a panic between them leaves a port unbound at worst.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds one port, or notes why not.
    fn open(&self, wanted: &mut Wanted, open: &mut Ports, state: Arc<PortState>) {
        let place @ (transport, address) = state.place();
        let known = wanted.closing.remove(&place).and_then(|sockets| sockets.upgrade());
        let bound = match (wanted.take_over(place), known) {
            (Some(sockets), _) => Ok(Arc::new(sockets)),
            // Closed a moment ago, and not yet let go of: no gap between the two.
            (None, Some(sockets)) => Ok(sockets),
            (None, None) => sockets::bind(transport, address, self.mode.sockets(transport, self.workers)).map(Arc::new),
        };
        match bound {
            Ok(sockets) => {
                wanted.unbound.remove(&place);
                let handles = self.mode.handles(transport, self.workers, sockets.len());
                let port = Arc::new(OpenPort::new(state, handles, self.shared.clone()));
                open.insert(place, BoundPort { port, sockets });
                tracing::info!(%address, %transport, "listening");
            }
            Err(error) => {
                let former = wanted.unbound.remove(&place);
                let pause = former.as_ref().map_or(REBIND_FIRST, |unbound| (unbound.pause * 2).min(REBIND_MOST));
                if former.is_none_or(|former| former.error.kind() != error.kind()) {
                    tracing::warn!(%address, %transport, %error, "cannot listen; it is tried again");
                }
                wanted.unbound.insert(place, Unbound { error, pause, next: Instant::now() + pause });
            }
        }
    }

    /// Tries again what could not be bound, whenever it is due.
    fn rebind(&self) {
        let mut wanted = self.lock();
        while !wanted.ended {
            let due = wanted.unbound.values().map(|unbound| unbound.next).min();
            let now = Instant::now();
            wanted = match due {
                None => self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner),
                Some(next) if next > now => {
                    let waited = self.changed.wait_timeout(wanted, next - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let ready = wanted.unbound.iter().filter(|(_, unbound)| unbound.next <= now);
                    let ready: Vec<_> = ready.filter_map(|(place, _)| wanted.states.get(place).cloned()).collect();
                    let mut open = self.ports.borrow().clone();
                    for state in ready {
                        self.open(&mut wanted, &mut open, state);
                    }
                    self.ports.send_replace(open);
                    wanted
                }
            };
        }
    }
}

impl Wanted {
    /// The sockets that were taken over for this address. One for every address of a host is one whether it is of IPv4
    /// or of both families.
    fn take_over(&mut self, place: Place) -> Option<Vec<PortSocket>> {
        let (transport, address) = place;
        let every = |(of, other): &&Place| {
            *of == transport
                && address.ip().is_unspecified()
                && other.ip().is_unspecified()
                && other.port() == address.port()
        };
        let known = if self.taken_over.contains_key(&place) { place } else { *self.taken_over.keys().find(every)? };
        self.taken_over.remove(&known)
    }

    fn problems(&self) -> Vec<Problem> {
        let problem = |(place @ (transport, address), unbound): (&Place, &Unbound)| {
            let listener = self.states.get(place)?.config.listeners.first()?;
            let (owner, name) = listener.id.owner();
            let field = format!("spec.listeners[name={name}].port");
            let message = format!("{address} ({transport}) cannot be bound: {}", unbound.error);
            Some(Problem::error(Code::PortNotBound, &owner, field, message))
        };
        self.unbound.iter().filter_map(problem).collect()
    }
}
