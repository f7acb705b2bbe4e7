//! `sluice run`: the rooms wired together, from start to the end of the drain.

use crate::certificate;
use crate::cluster::{Cluster, ClusterArgs, LastGoodArgs, Role, ServicesArgs};
use crate::configuration::{Configuration, Metrics, Start};
use crate::control;
use crate::feed::Origin;
use crate::lifecycle::{Request, Signals, notify_systemd};
use crate::logging::{self, Log, LogFormat};
use crate::plane::Plane;
use crate::problems::Problems;
use crate::served::ServedForms;
use crate::session_key;
use crate::supervise::Supervisor;
use crate::view::{GatewayView, State};
use crate::watches::{self, Staleness};
use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sluice_admin::View;
use sluice_fetch::Policy;
use sluice_model::config::{Certificate, Locality, Transport};
use sluice_proxy::access_log::AccessLogTarget;
use sluice_proxy::downstream::PortSocket;
use sluice_proxy::downstream::handover::{self, Handover, HandoverError, Received};
use sluice_proxy::{Proxy, ProxyOptions, SessionSecret};
use sluice_translate::Options;
use sluice_wasm::{HostOptions, PluginHost};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Threads of everything that is not the data plane.
const CONFIG_THREADS: usize = 2;

/// Run the gateway from folders of YAML or from a cluster, which are watched
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("objects").required(true).args(["config", "kube"]))]
pub(crate) struct RunArgs {
    /// Folders and files of configuration, as `kubectl apply` takes it; may be repeated
    #[arg(long, value_name = "DIR", num_args = 1..)]
    config: Vec<PathBuf>,
    /// Read the objects of a cluster: as the kubeconfig says, or where there is none, by the pod's own account
    #[arg(long)]
    kube: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) services: ServicesArgs,
    #[command(flatten)]
    pub(crate) last_good: LastGoodArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// Where /metrics, /livez and /readyz are answered; in a cluster, the pod's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9180")]
    pub(crate) metrics_address: SocketAddr,
    /// Where the status page, /config, /problems, /explain and /log-level are answered: an address of this host only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9181")]
    pub(crate) admin_address: SocketAddr,
    /// Threads that serve requests [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Open client connections of all ports together; above, new ones are closed at once (sluice_limit_hits_total,
    /// limit="total_connections")
    #[arg(long, value_name = "N", default_value = "50000", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// The folder for what outlives a restart [default: $STATE_DIRECTORY, $XDG_STATE_HOME/sluice or ~/.local/state/sluice]
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Take the listening sockets over from the process that runs with the same state folder, which then drains and ends
    #[arg(long)]
    upgrade: bool,
    /// A host, with a port or without, from which plugins may be fetched by plain HTTP; may be repeated. Loopback needs no
    /// leave with --config, and has none with --kube
    #[arg(long, value_name = "HOST", value_parser = Policy::host)]
    insecure_registry: Vec<String>,
    /// The PEM chain for HTTPS names that no other certificate covers [default: self-signed, made at the first start]
    #[arg(long, value_name = "FILE", requires = "default_key")]
    default_certificate: Option<PathBuf>,
    /// The PEM key of --default-certificate
    #[arg(long, value_name = "FILE", requires = "default_certificate")]
    default_key: Option<PathBuf>,
    /// A file of at least 32 secret bytes, the same for all replicas, that tokens of sessions (sessionPersistence) are signed
    /// with [default: with --config, made at the first start and kept in the state folder; with --kube, the UIDs of objects
    /// stand for it]
    #[arg(long, value_name = "FILE")]
    session_key: Option<PathBuf>,
    /// Append the access log to this file instead of standard output; SIGHUP opens it anew
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// The form of the gateway's own log, on standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// A level, or targets with levels: `info,sluice_proxy=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "SLUICE_LOG")]
    log_level: String,
    /// Seconds between looks for changes of files that inotify cannot see
    #[arg(long, value_name = "SECONDS", default_value = "2", conflicts_with = "kube", value_parser = clap::value_parser!(u64).range(1..=3600))]
    poll: u64,
    /// Seconds to go on serving, not ready any more, after SIGTERM and before the drain: time for load balancers to notice
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    shutdown_delay: u64,
    /// MiB of memory to shed load by: at 95 % connections are not kept, at 98 % requests get 503; 0: never [default: the
    /// control group's limit, or else the host's memory]
    #[arg(long, value_name = "MIB")]
    memory_limit: Option<u32>,
    /// Seconds for running requests to end in the drain; what is open then is cut
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    drain_timeout: u64,
}

/// Where it runs: what topology hints of endpoints are held against.
#[derive(Args, Clone, Debug)]
struct PlaceArgs {
    /// The node that this process runs on: endpoints that are meant for it, or for its zone, get its requests [default:
    /// unknown]
    #[arg(long, value_name = "NAME", env = "SLUICE_NODE")]
    node: Option<String>,
    /// The zone that this process runs in [default: what EndpointSlices say of the zone of --node]
    #[arg(long, value_name = "NAME", env = "SLUICE_ZONE")]
    zone: Option<String>,
}

impl PlaceArgs {
    fn locality(&self) -> Locality {
        // A variable that is there and empty says nothing.
        let known = |name: &Option<String>| name.as_deref().filter(|name| !name.is_empty()).map(Into::into);
        Locality { node: known(&self.node), zone: known(&self.zone) }
    }
}

/// Ports of the Gateway of all Ingress objects in a cluster, where no GatewayConfig says otherwise.
const INGRESS_PORTS: (u16, u16) = (80, 443);

pub(crate) fn run(args: RunArgs) -> Result<ExitCode> {
    for path in &args.config {
        std::fs::metadata(path).with_context(|| format!("--config {}", path.display()))?;
    }
    ensure!(
        args.admin_address.ip().is_loopback(),
        "--admin-address {} is not an address of this host only: use 127.0.0.1",
        args.admin_address
    );
    // Dropped last, when all has been said.
    let log = logging::start(args.log_format, &args.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONFIG_THREADS)
        .thread_name("config")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(serve(args, &log));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Why the gateway stops.
enum End {
    Signal,
    Successor,
}

async fn serve(args: RunArgs, log: &Log) -> Result<ExitCode> {
    if args.kube && args.cluster.role() == Role::Controller {
        return control::run(&args, log).await;
    }
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let _stop_tasks = stop.clone().drop_guard();
    let state_folder = certificate::state_folder(args.state_dir.clone())?;
    let default_certificate = match (&args.default_certificate, &args.default_key) {
        (Some(chain), Some(key)) => certificate::load(chain, key)?,
        _ => certificate::load_or_make(&state_folder)?,
    };
    let cluster =
        if args.kube { Some(Cluster::open(&args.cluster, &args.services, &args.last_good).await?) } else { None };
    let upgrade_socket = state_folder.join("upgrade.sock");
    let mut former = if args.upgrade { take_over(&upgrade_socket)? } else { None };
    let mut sockets = former.as_mut().map(|former| std::mem::take(&mut former.sockets)).unwrap_or_default();
    sockets.extend(handover::from_systemd().context("the sockets that systemd passes")?);
    let metrics_socket = listen(args.metrics_address, &mut sockets)?;
    let admin_socket = listen(args.admin_address, &mut sockets)?;
    let own = [(args.metrics_address, clone_of(&metrics_socket)?), (args.admin_address, clone_of(&admin_socket)?)];

    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("sluice");
    ours.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    ours.register("log_dropped", "Lines of the gateway's own log that were dropped", log.dropped.clone());
    let state = Arc::new(State::new(Problems::new(ours)));
    let metrics = Metrics::new(ours);
    if let Some(cluster) = &cluster {
        Staleness::register(ours, &cluster.source);
    }
    let fetch = Policy { insecure: args.insecure_registry.clone(), loopback: !args.kube };
    let cache_dir = Some(state_folder.join("plugins"));
    let host = HostOptions { cache_dir, fetch: Some(fetch), ..HostOptions::default() };
    let plugins = Arc::new(PluginHost::new(host, ours)?);
    let max_connections = usize::try_from(args.max_connections).unwrap_or(usize::MAX);
    let sessions = match &args.session_key {
        Some(file) => session_key::load(file)?,
        None if args.kube => SessionSecret::of_cluster(),
        None => session_key::load_or_make(&state_folder)?,
    };
    let mut options = ProxyOptions {
        sockets,
        sessions,
        max_connections,
        memory_limit: args.memory_limit.map(|mib| u64::from(mib) << 20),
        ..ProxyOptions::default()
    };
    if let Some(workers) = args.workers {
        options.workers = workers.into();
    }
    if let Some(file) = args.access_log.clone() {
        options.access_log = AccessLogTarget::File(file);
    }
    let proxy = Arc::new(Proxy::new(options, &mut registry, plugins.clone())?);
    let counter = proxy.clone();
    let supervisor = Supervisor::new(stop.clone(), move |task| counter.count_restart(task));
    let plane = Plane::Serving { proxy: proxy.clone(), plugins };
    let served = Arc::new(ServedForms::default());
    let ours = registry.sub_registry_with_prefix("sluice");
    let controller = cluster.as_ref().and_then(|cluster| cluster.controller(ours, &served, &plane));
    let source = cluster.as_ref().map(|cluster| cluster.source.clone());
    let view: Arc<dyn View> = Arc::new(GatewayView {
        state: state.clone(),
        plane: plane.clone(),
        served: served.clone(),
        cluster: source.clone(),
    });
    let registry = Arc::new(registry);

    let reload = Arc::new(Notify::new());
    let (start, mut started) = mpsc::channel(1);
    let configuration = Configuration {
        origin: match &source {
            Some(source) => Origin::Cluster(source.clone()),
            None => Origin::Files { paths: args.config.clone(), poll: Duration::from_secs(args.poll) },
        },
        options: Options {
            locality: args.place.locality(),
            ..match &cluster {
                Some(cluster) => translation(Some(default_certificate), cluster),
                None => of_files(Some(default_certificate)),
            }
        },
        plane,
        served,
        controller: controller.clone(),
        state: state.clone(),
        metrics,
        upgrading: former.is_some(),
        reload: reload.clone(),
        started: start,
    };
    if let Some(source) = &source {
        watches::spawn(&supervisor, source);
    }
    if let (Some(controller), Some(source)) = (&controller, &source) {
        control::spawn(&supervisor, controller, source);
    }
    supervisor.spawn("configuration", move || configuration.clone().run());
    let serve_admin = || {
        let (probes, local) =
            (sluice_admin::probes(registry, view.clone()), sluice_admin::local(view, log.filter.clone()));
        serve_admin(&supervisor, "metrics", metrics_socket, probes, &stop);
        serve_admin(&supervisor, "admin", admin_socket, local, &stop);
    };
    // In an upgrade the process before answers on these sockets until it is told to stop.
    let mut serve_admin = Some(serve_admin);
    if former.is_none() {
        serve_admin.take().into_iter().for_each(|serve| serve());
    }

    let end = tokio::select! {
        start = started.recv() => match start {
            Some(Start::Refused(reasons)) => bail!(
                "--upgrade: this process would serve less than the one that runs, which goes on; put this right, or start without --upgrade:\n  {}",
                reasons.join("\n  ")
            ),
            Some(Start::Served) | None => None,
        },
        end = first_signal(&mut signals, &reload, &proxy) => Some(end),
    };
    let end = match end {
        Some(end) => end,
        None => {
            state.serving.store(true, Ordering::Relaxed);
            serve_admin.take().into_iter().for_each(|serve| serve());
            let successor = successor(&upgrade_socket, proxy.clone(), own);
            if let Some(former) = former {
                former.serving().context("the former process cannot be told that it may stop")?;
            }
            notify_systemd("READY=1");
            tracing::info!(metrics = %args.metrics_address, admin = %args.admin_address, "ready");
            tokio::select! {
                end = first_signal(&mut signals, &reload, &proxy) => end,
                () = successor => End::Successor,
            }
        }
    };
    let delay = match end {
        End::Signal => Duration::from_secs(args.shutdown_delay),
        End::Successor => {
            // Probes, metrics and reloads are its own from here on; the admin sockets are shared with it.
            stop.cancel();
            Duration::ZERO
        }
    };
    // Whoever goes on with the Lease need not wait for the drain, nor the drain for an API server.
    let release = async {
        if let Some(controller) = &controller {
            controller.release().await;
        }
    };
    let drained = drain(&mut signals, &state, &proxy, delay, Duration::from_secs(args.drain_timeout));
    let (code, ()) = tokio::join!(drained, release);
    stop.cancel();
    supervisor.ended().await;
    Ok(code)
}

/// How objects of files are translated.
fn of_files(default_certificate: Option<Arc<Certificate>>) -> Options {
    Options { default_certificate, now: Some(SystemTime::now()), ..Options::default() }
}

/// How objects of a cluster are translated.
pub(crate) fn translation(default_certificate: Option<Arc<Certificate>>, cluster: &Cluster) -> Options {
    let with_services = cluster.services.gateway_services.is_some();
    of_cluster(default_certificate, &cluster.args, with_services)
}

/// `with_services`: each Gateway has a Service of its own.
pub(crate) fn of_cluster(
    default_certificate: Option<Arc<Certificate>>,
    args: &ClusterArgs,
    with_services: bool,
) -> Options {
    let (ingress_http_port, ingress_https_port) = INGRESS_PORTS;
    Options {
        files: false,
        ingress_http_port,
        ingress_https_port,
        gateway_services: with_services.then(|| args.system_namespace.as_str().into()),
        follow_status: args.role().writes(),
        ..of_files(default_certificate)
    }
}

/// Answers SIGHUP until a signal asks for the end.
async fn first_signal(signals: &mut Signals, reload: &Notify, proxy: &Proxy) -> End {
    while signals.next().await == Request::Reload {
        proxy.reopen_access_log();
        reload.notify_one();
    }
    End::Signal
}

/// Stops gracefully; a second signal stops at once.
async fn drain(signals: &mut Signals, state: &State, proxy: &Proxy, delay: Duration, deadline: Duration) -> ExitCode {
    notify_systemd("STOPPING=1");
    state.draining.store(true, Ordering::Relaxed);
    tracing::info!(deadline_s = deadline.as_secs(), "draining");
    let drained = async {
        tokio::time::sleep(delay).await;
        proxy.drain(deadline).await
    };
    tokio::select! {
        drained = drained => {
            if drained.cut > 0 {
                tracing::warn!(cut = drained.cut, "stopped: the drain's deadline has passed, connections were cut");
            } else {
                tracing::info!("stopped: all connections have ended");
            }
            ExitCode::SUCCESS
        }
        () = signals.stop() => {
            tracing::warn!("second signal: stopping at once");
            ExitCode::FAILURE
        }
    }
}

/// The sockets of the process that runs with the same state folder, if there is one.
fn take_over(path: &Path) -> Result<Option<Received>> {
    match handover::receive(path) {
        Ok(received) => {
            tracing::info!(sockets = received.sockets.len(), "took over the sockets of the running process");
            Ok(Some(received))
        }
        Err(error @ HandoverError::NobodyThere { .. }) => {
            tracing::warn!(%error, "nothing to take over: starting on sockets of our own");
            Ok(None)
        }
        Err(error) => Err(error).context("--upgrade"),
    }
}

/// An admin socket: the one of the process before, or a new one.
pub(crate) fn listen(address: SocketAddr, sockets: &mut Vec<(SocketAddr, PortSocket)>) -> Result<TcpListener> {
    let listens =
        |(taken, socket): &(SocketAddr, PortSocket)| *taken == address && socket.transport() == Transport::Tcp;
    let taken = sockets.iter().position(listens).map(|place| sockets.swap_remove(place).1);
    let socket = match taken {
        Some(PortSocket::Listener(socket)) => socket,
        _ => TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn clone_of(socket: &TcpListener) -> Result<TcpListener> {
    socket.try_clone().context("no file descriptor left")
}

pub(crate) fn serve_admin(
    supervisor: &Supervisor,
    task: &'static str,
    socket: TcpListener,
    router: sluice_admin::Router,
    stop: &CancellationToken,
) {
    let stop = stop.clone();
    supervisor.spawn(task, move || {
        let (socket, router, stop) = (socket.try_clone(), router.clone(), stop.clone());
        async move {
            match socket.and_then(tokio::net::TcpListener::from_std) {
                Ok(listener) => sluice_admin::serve(listener, router, stop).await,
                Err(error) => tracing::error!(task, %error, "cannot listen"),
            }
        }
    });
}

/// Waits for a process that takes over. Where the socket for that cannot be had, everything else works.
async fn successor(path: &Path, proxy: Arc<Proxy>, own: [(SocketAddr, TcpListener); 2]) {
    let mut handover = match Handover::listen(path) {
        Ok(handover) => handover,
        Err(error) => {
            tracing::warn!(%error, "this process cannot be upgraded, only restarted");
            return std::future::pending().await;
        }
    };
    let own = Arc::new(own);
    let sockets = move || {
        let mut sockets = proxy.sockets()?;
        for (address, socket) in own.iter() {
            sockets.push((*address, socket.try_clone()?.into()));
        }
        Ok(sockets)
    };
    handover.taken(sockets).await;
}
