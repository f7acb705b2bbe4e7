//! The threads that serve: each has a runtime, an engine with its own upstream pool, and accepts for itself.
//!
//! A worker follows the set of open ports ([`Ports`]), and compares it with what it accepts on; that is how it starts,
//! too, so that one that has died (its own loop panicked: tasks are contained by the runtime) begins again where it was.
//! Connections belong to the worker that accepted them for as long as they live.

use super::connection;
use super::datagrams::DatagramPort;
use super::open_port::{OpenPort, Phase};
use super::port::Place;
use super::pulse::Pulse;
use super::sockets::{self, PortSocket};
use pingora_core::apps::HttpServerApp;
use sluice_model::config::Transport;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How connections reach a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeMode {
    /// A single-threaded runtime a worker; all accept from one socket a port, so that the next free worker takes the
    /// next connection.
    #[default]
    PerCore,
    /// A single-threaded runtime a worker, each with a socket of its own a port (SO_REUSEPORT): the kernel spreads
    /// connections by hash, whether a worker is busy or not.
    PerCoreReusePort,
    /// One runtime of as many threads, which steal work from each other, and one engine.
    WorkStealing,
}

impl RuntimeMode {
    /// Sockets to bind for each port. Of datagrams each worker has its own: the kernel gives all of a client to one, so
    /// that its session belongs to that worker alone.
    pub(super) fn sockets(self, transport: Transport, workers: usize) -> usize {
        match (self, transport) {
            (_, Transport::Udp) => self.runtimes(workers),
            (RuntimeMode::PerCoreReusePort, Transport::Tcp) => workers,
            (RuntimeMode::PerCore | RuntimeMode::WorkStealing, Transport::Tcp) => 1,
        }
    }

    /// What all workers together will accept on: a duplicate of a socket for each that shares it.
    pub(super) fn handles(self, transport: Transport, workers: usize, sockets: usize) -> usize {
        let runtimes = self.runtimes(workers);
        (0..runtimes).map(|index| share_of(transport, index, runtimes, sockets).len()).sum()
    }

    /// Runtimes, and so engines.
    pub(super) fn runtimes(self, workers: usize) -> usize {
        match self {
            RuntimeMode::PerCore | RuntimeMode::PerCoreReusePort => workers,
            RuntimeMode::WorkStealing => 1,
        }
    }
}

/// What is to be accepted on.
pub(super) type Ports = BTreeMap<Place, BoundPort>;

/// A port with its listening sockets: one, or one for each worker. Workers accept on duplicates, and hold the originals
/// until they have emptied the queue; with the last holder the port is closed, while its connections may go on.
#[derive(Clone)]
pub(super) struct BoundPort {
    pub(super) port: Arc<OpenPort>,
    pub(super) sockets: Arc<Vec<PortSocket>>,
}

/// A pause of accepting when there are no files or no memory for one more connection.
pub(super) const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// A pause before a worker that died begins again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The threads. Dropped, they end, and with them what is still open.
pub(super) struct Workers {
    end: watch::Sender<bool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads. `build` makes a worker's engine; it runs in the worker's runtime.
    pub(super) fn start<A, F>(
        mode: RuntimeMode,
        workers: usize,
        ports: watch::Receiver<Ports>,
        pulse: Arc<Pulse>,
        restarted: impl Fn() + Clone + Send + 'static,
        build: F,
    ) -> io::Result<Workers>
    where
        A: HttpServerApp + Send + Sync + 'static,
        F: Fn(usize) -> Arc<A> + Clone + Send + 'static,
    {
        let end = watch::Sender::new(false);
        let mut threads = Vec::new();
        for index in 0..mode.runtimes(workers) {
            let (ports, ended, restarted, build) = (ports.clone(), end.subscribe(), restarted.clone(), build.clone());
            let pulse = pulse.clone();
            let body = move || {
                loop {
                    let run = || worker(mode, workers, index, ports.clone(), pulse.clone(), ended.clone(), &build);
                    match std::panic::catch_unwind(AssertUnwindSafe(run)) {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => tracing::error!(worker = index, %error, "worker could not start"),
                        Err(_) => tracing::error!(worker = index, "worker panicked; it begins again"),
                    }
                    restarted();
                    std::thread::sleep(RESTART_PAUSE);
                }
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
        }
        Ok(Workers { end, threads })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                // A worker that panicked has been counted already.
                let _ = thread.join();
            }
        }
    }
}

fn worker<A, F>(
    mode: RuntimeMode,
    workers: usize,
    index: usize,
    ports: watch::Receiver<Ports>,
    pulse: Arc<Pulse>,
    ended: watch::Receiver<bool>,
    build: &F,
) -> io::Result<()>
where
    A: HttpServerApp + Send + Sync + 'static,
    F: Fn(usize) -> Arc<A>,
{
    let runtime = match mode {
        RuntimeMode::PerCore | RuntimeMode::PerCoreReusePort => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?
        }
        RuntimeMode::WorkStealing => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("worker")
            .enable_all()
            .build()?,
    };
    runtime.block_on(async {
        let app = build(index);
        // Spawned, so that it runs on the runtime's own threads where it has some.
        let follow = tokio::spawn(follow(index, mode.runtimes(workers), ports, app));
        let abort = follow.abort_handle();
        tokio::spawn(pulse.answer(index));
        let mut ended = ended;
        tokio::select! {
            result = follow => if let Err(error) = result && error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            },
            _ = ended.wait_for(|ended| *ended) => abort.abort(),
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}

/// Accepts on the ports that are open, from one change to the next.
async fn follow<A>(index: usize, runtimes: usize, mut ports: watch::Receiver<Ports>, app: Arc<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let mut accepting: BTreeMap<Place, Arc<OpenPort>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let open = ports.borrow_and_update().clone();
        accepting.retain(|place, port| open.get(place).is_some_and(|now| Arc::ptr_eq(&now.port, port)));
        for (place @ (transport, address), bound) in open {
            if accepting.contains_key(&place) {
                continue;
            }
            for socket in share_of(transport, index, runtimes, bound.sockets.len()) {
                match handle(&bound, socket) {
                    Ok(Handle::Listener(listener)) => {
                        tasks.spawn(accept(listener, bound.clone(), app.clone()));
                    }
                    Ok(Handle::Datagrams(port)) => {
                        let observer = bound.port.shared.observer.clone();
                        tasks.spawn(observer.datagrams(port));
                    }
                    Err(error) => {
                        bound.port.note_let_go();
                        tracing::error!(%address, %transport, worker = index, %error, "cannot accept on a port");
                    }
                }
            }
            accepting.insert(place, bound.port);
        }
        loop {
            tokio::select! {
                changed = ports.changed() => match changed {
                    Ok(()) => break,
                    // The gateway is gone; what runs, runs to its end.
                    Err(_) => {
                        while tasks.join_next().await.is_some() {}
                        return;
                    }
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
    }
}

/// Which of a port's sockets a worker accepts on: its own, or the one that all share. Sockets that were taken over may be
/// more than there are workers; none may be left without one. One of datagrams has one worker only.
fn share_of(transport: Transport, index: usize, runtimes: usize, sockets: usize) -> Vec<usize> {
    if index < sockets || transport == Transport::Udp {
        (index..sockets).step_by(runtimes.max(1)).collect()
    } else {
        index.checked_rem(sockets).into_iter().collect()
    }
}

enum Handle {
    Listener(TcpListener),
    Datagrams(DatagramPort),
}

/// This worker's own handle of a socket.
fn handle(bound: &BoundPort, socket: usize) -> io::Result<Handle> {
    Ok(match bound.sockets.get(socket).ok_or(io::ErrorKind::NotFound)?.try_clone()? {
        PortSocket::Listener(socket) => {
            socket.set_nonblocking(true)?;
            Handle::Listener(TcpListener::from_std(socket)?)
        }
        PortSocket::Datagrams(socket) => Handle::Datagrams(DatagramPort::new(socket, bound)?),
    })
}

/// Accepts until the port stops, empties the queue, and holds the connections until the last has ended or is cut.
async fn accept<A>(listener: TcpListener, bound: BoundPort, app: Arc<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let BoundPort { port, sockets } = bound;
    let mut connections = JoinSet::new();
    let stopped = port.stopped();
    tokio::pin!(stopped);
    let drain = loop {
        tokio::select! {
            biased;
            drain = &mut stopped => break drain,
            accepted = listener.accept() => match accepted {
                Ok((io, peer)) => spawn(&mut connections, io, peer, &port, &app),
                Err(error) => refused(&port, &error).await,
            },
            Some(ended) = connections.join_next() => note(&port, ended),
        }
    };
    empty_queue(listener, |io, peer| spawn(&mut connections, io, peer, &port, &app));
    drop(sockets);
    port.note_let_go();
    let phases = port.drain(drain);
    tokio::pin!(phases);
    loop {
        tokio::select! {
            () = &mut phases => break,
            ended = connections.join_next() => match ended {
                Some(ended) => note(&port, ended),
                None => return,
            },
        }
    }
    while let Some(ended) = connections.try_join_next() {
        note(&port, ended);
    }
    for _ in 0..connections.len() {
        port.metrics.all.timeout("drain");
    }
    port.shared.note_cut(connections.len());
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        note(&port, ended);
    }
}

/// Accepts what waits, and closes. Closing a listening socket resets what is in its queue.
fn empty_queue(listener: TcpListener, mut on: impl FnMut(tokio::net::TcpStream, SocketAddr)) {
    // Asked directly, as the runtime may not have heard yet of what came last.
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((io, peer)) => {
                if io.set_nonblocking(true).is_ok()
                    && let Ok(io) = tokio::net::TcpStream::from_std(io)
                {
                    on(io, peer);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || sockets::is_shortage(&error) => return,
            // One of them was gone already.
            Err(_) => {}
        }
    }
}

fn spawn<A>(
    connections: &mut JoinSet<()>,
    io: tokio::net::TcpStream,
    peer: SocketAddr,
    port: &Arc<OpenPort>,
    app: &Arc<A>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    match port.admit() {
        Ok(permit) => {
            connections.spawn(connection::serve(io, peer, permit, app.clone()));
        }
        // Closed at once: whatever could be said would cost what there is no room for.
        Err(limit) => port.metrics.all.limit(limit),
    }
}

fn note(port: &OpenPort, ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!(port = %port.address, "a connection's task panicked; the connection is closed");
        port.metrics.all.restart("connection");
    }
}

async fn refused(port: &OpenPort, error: &io::Error) {
    if sockets::is_shortage(error) {
        tracing::warn!(port = %port.address, %error, "no room for another connection");
        port.metrics.all.limit("open_files");
        tokio::time::sleep(SHORTAGE_PAUSE).await;
    } else if port.phase() == Phase::Serving {
        // ECONNABORTED and its like: the client was faster.
        tracing::debug!(port = %port.address, %error, "a connection was gone before it was accepted");
    }
}

#[cfg(test)]
mod unit {
    use super::share_of;
    use sluice_model::config::Transport;

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        for (workers, sockets) in [(1, 1), (4, 1), (4, 4), (2, 5), (3, 4), (5, 3)] {
            let shares: Vec<_> = (0..workers).map(|index| share_of(Transport::Tcp, index, workers, sockets)).collect();
            assert!(shares.iter().all(|share| !share.is_empty()), "{workers} {sockets}");
            assert!((0..sockets).all(|socket| shares.iter().flatten().any(|s| *s == socket)), "{workers} {sockets}");
        }
    }

    #[test]
    fn a_socket_of_datagrams_has_one_worker() {
        for (workers, sockets) in [(1, 1), (4, 1), (4, 4), (2, 5), (5, 3)] {
            let shares = (0..workers).flat_map(|index| share_of(Transport::Udp, index, workers, sockets));
            let mut shares: Vec<_> = shares.collect();
            shares.sort_unstable();
            assert!(shares.into_iter().eq(0..sockets), "{workers} {sockets}");
        }
    }
}
