//! `sluice run --kube --role controller`: watches, translates, writes. It opens no port but its own two, calls no backend
//! and compiles no plugin.

use crate::cluster::Cluster;
use crate::configuration::{Configuration, Metrics, Start};
use crate::feed::Origin;
use crate::lifecycle::{Request, Signals, notify_systemd};
use crate::logging::Log;
use crate::plane::Plane;
use crate::problems::Problems;
use crate::run::{RunArgs, listen, serve_admin, translation};
use crate::served::ServedForms;
use crate::supervise::Supervisor;
use crate::view::{GatewayView, State};
use crate::watches::{self, Staleness};
use anyhow::{Context, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sluice_admin::View;
use sluice_controller::Controller;
use sluice_sources::kubernetes::KubernetesSource;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Task {
    task: &'static str,
}

/// Starts what writes to the cluster.
pub(crate) fn spawn(supervisor: &Supervisor, controller: &Arc<Controller>, source: &KubernetesSource) {
    let (told, from) = (controller.clone(), source.clone());
    supervisor.spawn("statuses", move || {
        let (controller, source) = (told.clone(), from.clone());
        async move {
            loop {
                controller.holds(source.take_statuses());
                source.status_changed().await;
            }
        }
    });
    macro_rules! task {
        ($name:literal, $run:ident) => {
            let of_task = controller.clone();
            supervisor.spawn($name, move || {
                let controller = of_task.clone();
                async move { controller.$run().await }
            });
        };
    }
    task!("lease", hold_lease);
    task!("ask proxies", ask);
    task!("write services", write_services);
    task!("write statuses", write_statuses);
    task!("write events", write_events);
}

pub(crate) async fn run(args: &RunArgs, log: &Log) -> Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let _stop_tasks = stop.clone().drop_guard();
    let cluster = Cluster::open(&args.cluster, &args.services, &args.last_good).await?;
    let metrics_socket = listen(args.metrics_address, &mut Vec::new())?;
    let admin_socket = listen(args.admin_address, &mut Vec::new())?;

    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("sluice");
    ours.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    ours.register("log_dropped", "Lines of the gateway's own log that were dropped", log.dropped.clone());
    let restarts: Family<Task, Counter> = Family::default();
    ours.register("task_restarts", "Background tasks that ended by a panic and were started again", restarts.clone());
    let state = Arc::new(State::new(Problems::new(ours)));
    let metrics = Metrics::new(ours);
    Staleness::register(ours, &cluster.source);
    let (plane, served) = (Plane::idle(), Arc::new(ServedForms::default()));
    let controller = cluster.controller(ours, &served, &plane).context("this role writes to the cluster")?;
    let supervisor = Supervisor::new(stop.clone(), move |task| {
        restarts.get_or_create(&Task { task }).inc();
    });
    let source = cluster.source.clone();
    let view: Arc<dyn View> = Arc::new(GatewayView {
        state: state.clone(),
        plane: plane.clone(),
        served: served.clone(),
        cluster: Some(source.clone()),
    });
    let registry = Arc::new(registry);
    let reload = Arc::new(Notify::new());
    let (start, mut started) = mpsc::channel(1);
    let configuration = Configuration {
        origin: Origin::Cluster(source.clone()),
        // A certificate of our own would not be the proxies'.
        options: translation(None, &cluster),
        plane,
        served,
        controller: Some(controller.clone()),
        state: state.clone(),
        metrics,
        upgrading: false,
        reload: reload.clone(),
        started: start,
    };
    watches::spawn(&supervisor, &source);
    spawn(&supervisor, &controller, &source);
    supervisor.spawn("configuration", move || configuration.clone().run());
    serve_admin(&supervisor, "metrics", metrics_socket, sluice_admin::probes(registry, view.clone()), &stop);
    serve_admin(&supervisor, "admin", admin_socket, sluice_admin::local(view, log.filter.clone()), &stop);

    loop {
        tokio::select! {
            Some(Start::Served) = started.recv() => {
                state.serving.store(true, Ordering::Relaxed);
                notify_systemd("READY=1");
                tracing::info!(metrics = %args.metrics_address, admin = %args.admin_address, "ready");
            }
            request = signals.next() => match request {
                Request::Reload => reload.notify_one(),
                Request::Stop => break,
            },
        }
    }
    notify_systemd("STOPPING=1");
    state.draining.store(true, Ordering::Relaxed);
    controller.release().await;
    stop.cancel();
    supervisor.ended().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
