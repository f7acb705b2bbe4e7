//! The facade: what the binary holds of the data plane.

use crate::access_log::{AccessLogError, AccessLogTarget, AccessLogWriter};
use crate::assemble::Assembler;
use crate::downstream::{
    Downstream, DownstreamError, DownstreamMetrics, DownstreamOptions, PortSocket, PortState, RuntimeMode, TlsCache,
    TlsError,
};
use crate::http::{Gateway, Observer, Shared};
use crate::metrics::RequestMetrics;
use crate::mirror::Mirrors;
use crate::outbound::{OwnCalls, StoreEndpoints};
use crate::overload::Overload;
use crate::session::SessionSecret;
use crate::snapshot::Snapshot;
use crate::trace::Exporters;
use crate::upstream::{
    AddressGuard, EngineError, Registry as UpstreamRegistry, RegistryOptions, UpstreamConnector, UpstreamMetrics,
    http_proxy, pools,
};
use arc_swap::ArcSwap;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use prometheus_client::registry::Registry;
use sluice_model::config::Transport;
use sluice_model::{Config, Problem};
use sluice_wasm::PluginHost;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Runtime;

/// Unused connections to endpoints that one worker keeps, over all backends.
const IDLE_UPSTREAM_CONNECTIONS: usize = 1_024;
/// Tries of one request that the engine allows; rules allow fewer.
const MAX_TRIES: usize = 16;
/// How long the access log may take to be written at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long collectors may take for the last traces at the end.
const TRACE_PATIENCE: Duration = Duration::from_secs(2);

type Engine = HttpProxy<Gateway, UpstreamConnector>;

/// What does not change while the process runs.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Threads that serve requests. Default: one for each CPU that the process may use.
    pub workers: usize,
    /// How connections reach a thread.
    pub mode: RuntimeMode,
    /// Open client connections of all ports together. Default 50,000.
    pub max_connections: usize,
    /// Sockets taken over from the process before (`--upgrade`) or from systemd, by their address. Those that
    /// the first configuration does not name are closed.
    pub sockets: Vec<(SocketAddr, PortSocket)>,
    /// Where access log lines go. Default: standard output.
    pub access_log: AccessLogTarget,
    /// What names of ExternalName Services may not resolve to.
    pub guard: AddressGuard,
    /// Bytes of memory that load is shed by: at 95 % connections are not kept, at 98 % requests are answered 503
    /// (`sluice_overload_state`). Default: the limit of the control group, or else the host's memory; 0: never.
    pub memory_limit: Option<u64>,
    /// What clients' sessions (`sessionPersistence`) are signed with. Default: nothing but the UIDs of objects.
    pub sessions: SessionSecret,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        let downstream = DownstreamOptions::default();
        ProxyOptions {
            workers: downstream.workers,
            mode: downstream.mode,
            max_connections: downstream.max_connections,
            sockets: Vec::new(),
            access_log: AccessLogTarget::default(),
            guard: AddressGuard::default(),
            memory_limit: None,
            sessions: SessionSecret::of_cluster(),
        }
    }
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error(transparent)]
    Downstream(#[from] DownstreamError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a thread for background work cannot be started: {0}")]
    Thread(#[from] io::Error),
    #[error("the HTTP engine could not be built: its thread panicked")]
    Panicked,
}

/// What came of a configuration.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The generation of the snapshot that is served now.
    pub generation: u64,
    /// What could not be put to work: a port that could not be bound, a certificate that could not be used.
    pub problems: Vec<Problem>,
}

/// How draining ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because the deadline had passed.
    pub cut: usize,
}

/// The data plane: its threads, its ports and what it serves. Dropped, everything ends at once.
pub struct Proxy {
    // Threads that serve end before what they use.
    downstream: Downstream,
    shared: Arc<Shared>,
    /// Configurations are put to work one at a time; requests never come here.
    assembly: Mutex<Assembly>,
    plugins: Arc<PluginHost>,
    /// Health checks, name resolution, mirrors. Taken when the facade is dropped.
    background: Option<Runtime>,
}

struct Assembly {
    assembler: Assembler,
    tls: TlsCache,
    /// What the last configuration's certificates could not do.
    tls_problems: Vec<Problem>,
}

impl Proxy {
    /// Starts the workers; nothing is bound before the first [`Proxy::apply`]. Metrics are registered in `registry` under
    /// their full names. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`StartError`], where a thread, the log's file or the engine can't be had.
    pub fn new(options: ProxyOptions, registry: &mut Registry, plugins: Arc<PluginHost>) -> Result<Proxy, StartError> {
        let metrics = RequestMetrics::register(registry);
        let counts = DownstreamMetrics::register(registry);
        let upstream_metrics = UpstreamMetrics::register(registry);
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .enable_all()
            .build()?;
        let upstreams = RegistryOptions {
            sessions: options.sessions.clone(),
            ..RegistryOptions::new(background.handle().clone(), upstream_metrics, options.guard)
        };
        let exporters = Exporters::new(background.handle().clone(), metrics.clone(), counts.clone());
        let registry_of = UpstreamRegistry::new(upstreams);
        let assembler =
            Assembler::new(registry_of, metrics.clone(), plugins.clone(), exporters.clone(), options.sessions);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::new(assembler.previous().clone()),
            metrics: metrics.clone(),
            counts: counts.clone(),
            log: AccessLogWriter::start(options.access_log, metrics.clone(), counts.clone())?,
            exporters,
            mirrors: Mirrors::start(background.handle(), metrics, &counts),
            overload: Overload::start(options.memory_limit, background.handle(), registry, &counts),
        });
        let engines = match options.mode {
            RuntimeMode::WorkStealing => 1,
            RuntimeMode::PerCore | RuntimeMode::PerCoreReusePort => options.workers.max(1),
        };
        let connectors = (0..engines).map(|_| assembler.registry().connector()).collect();
        let engines = engines_of(&shared, connectors)?;
        let downstream = Downstream::start(
            DownstreamOptions {
                mode: options.mode,
                workers: options.workers,
                max_connections: options.max_connections,
                sockets: options.sockets,
                ..DownstreamOptions::default()
            },
            &counts,
            Arc::new(Observer(shared.clone())),
            move |worker| engines[worker % engines.len()].clone(),
        )?;
        let assembly = Assembly { assembler, tls: TlsCache::default(), tls_problems: Vec::new() };
        plugins.set_backends(OwnCalls::new(&shared));
        plugins.set_store_servers(StoreEndpoints::new(&shared));
        Ok(Proxy { downstream, shared, assembly: Mutex::new(assembly), plugins, background: Some(background) })
    }

    /// Serves `config` from now on: assembles the next snapshot, publishes it, opens and closes listeners. Blocks for as
    /// long as that takes (about a millisecond for a small change); callers run it outside of request threads, one at a
    /// time (it waits for its turn).
    pub fn apply(&self, config: Arc<Config>) -> Applied {
        let mut assembly = self.lock();
        let former = assembly.assembler.previous().config.clone();
        let snapshot = assembly.assembler.assemble(config);
        let config = snapshot.config.clone();
        let generation = snapshot.generation;
        // A request on a new port must find its hosts: the snapshot first, then the sockets.
        self.shared.snapshot.store(snapshot);
        let same_ports = former.ports.len() == config.ports.len()
            && former.udp_ports.len() == config.udp_ports.len()
            && former.sockets().zip(config.sockets()).all(|((_, a, x), (_, b, y))| a == b && Arc::ptr_eq(x, y));
        let mut problems = if same_ports && generation > 1 {
            self.downstream.problems()
        } else {
            let mut tls_problems = Vec::new();
            let mut states = Vec::with_capacity(config.ports.len() + config.udp_ports.len());
            for (_, address, port) in config.sockets() {
                let (state, errors) = PortState::build(address, port, &config.certificates, &mut assembly.tls);
                tls_problems.extend(errors.iter().map(TlsError::problem));
                states.push(Arc::new(state));
            }
            assembly.tls_problems = tls_problems;
            let problems = self.downstream.apply(states);
            assembly.tls.sweep();
            problems
        };
        problems.extend(assembly.tls_problems.iter().cloned());
        Applied { generation, problems }
    }

    /// Assembles again with the same configuration: a plugin became ready.
    pub fn refresh(&self) -> Applied {
        let config = self.snapshot().config.clone();
        self.apply(config)
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// What cannot be put to work now; ports that could be bound meanwhile are gone from it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.downstream.problems();
        problems.extend(self.lock().tls_problems.iter().cloned());
        problems
    }

    /// The plugin host that the data plane was started with.
    pub fn plugins(&self) -> &Arc<PluginHost> {
        &self.plugins
    }

    /// The address that a port is really bound to: it differs where the configuration leaves the number to the kernel.
    pub fn local_addr(&self, transport: Transport, address: SocketAddr) -> Option<SocketAddr> {
        self.downstream.local_addr(transport, address)
    }

    /// Requests by listener, route and backend.
    pub fn metrics(&self) -> &Arc<RequestMetrics> {
        &self.shared.metrics
    }

    /// Waits until every thread that serves requests has answered, from its own loop: readiness.
    pub async fn answers(&self) {
        self.downstream.answers().await;
    }

    /// Counts a background task of the process that ended by a panic and was replaced (`sluice_task_restarts_total`).
    pub fn count_restart(&self, task: &'static str) {
        self.shared.counts.restart(task);
    }

    /// Stops accepting, tells clients to go elsewhere, and waits for running requests, at most until `deadline` from now.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let cut = self.downstream.drain(deadline).await;
        let log = self.shared.log.clone();
        // The log's thread is waited for aside, as this may be a runtime's only thread.
        let flushing = tokio::task::spawn_blocking(move || log.flush(LOG_PATIENCE));
        let (flushed, ()) = tokio::join!(flushing, self.shared.exporters.flush(TRACE_PATIENCE));
        if let Err(error) = flushed {
            tracing::warn!(%error, "the access log may lack its last lines");
        }
        Drained { cut }
    }

    /// Waits until what the access log was given is written, at most `patience`. Blocks.
    pub fn flush_access_log(&self, patience: Duration) {
        self.shared.log.flush(patience);
    }

    /// Opens the access log's file anew, after it was moved away.
    pub fn reopen_access_log(&self) {
        self.shared.log.reopen();
    }

    /// Duplicates of the ports' sockets, for the process that takes over.
    ///
    /// # Errors
    /// Where the process is out of file descriptors.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, PortSocket)>> {
        self.downstream.sockets()
    }

    fn lock(&self) -> MutexGuard<'_, Assembly> {
        // A panic while assembling leaves the former snapshot and its tables as they were.
        self.assembly.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A runtime can't be dropped where another one runs; its tasks end at their next wait.
        if let Some(background) = self.background.take() {
            background.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("generation", &self.shared.snapshot.load().generation).finish_non_exhaustive()
    }
}

/// One engine a connector. They are built on a thread of their own, as the caller may be inside of a runtime.
fn engines_of(shared: &Arc<Shared>, connectors: Vec<UpstreamConnector>) -> Result<Vec<Arc<Engine>>, StartError> {
    let shared = shared.clone();
    let building = std::thread::Builder::new().name("engines".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let conf = Arc::new(ServerConf { threads: 1, max_retries: MAX_TRIES, ..ServerConf::default() });
        let mut engines = Vec::with_capacity(connectors.len());
        for connector in connectors {
            let pools = pools(IDLE_UPSTREAM_CONNECTIONS);
            let app = Gateway::new(shared.clone());
            let mut engine = runtime.block_on(http_proxy(&conf, app, connector, pools))?;
            engine.server_options = Some(HttpServerOptions::default());
            engines.push(Arc::new(engine));
        }
        Ok(engines)
    })?;
    building.join().map_err(|_| StartError::Panicked)?
}
