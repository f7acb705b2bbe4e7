//! What the admin ports see of the running gateway.

use crate::plane::Plane;
use crate::problems::Problems;
use crate::served::ServedForms;
use crate::watches;
use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::BoxFuture;
use sluice_admin::{EndpointStatus, PluginStatus, Readiness, Reload, Status, View, WatchStatus};
use sluice_model::config::Transport;
use sluice_model::{Config, Problem, Served, ServedQuestion};
use sluice_proxy::snapshot::Snapshot;
use sluice_sources::kubernetes::KubernetesSource;
use sluice_wasm::FetchProgress;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

/// The state of the process, as far as others ask for it.
pub(crate) struct State {
    pub(crate) started: SystemTime,
    pub(crate) problems: Problems,
    /// The first configuration is served, its ports are bound, its plugins were waited for.
    pub(crate) serving: AtomicBool,
    pub(crate) draining: AtomicBool,
    /// When the configuration last changed, and how.
    pub(crate) last_reload: ArcSwapOption<Reload>,
}

impl State {
    pub(crate) fn new(problems: Problems) -> State {
        State {
            started: SystemTime::now(),
            problems,
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            last_reload: ArcSwapOption::empty(),
        }
    }
}

pub(crate) struct GatewayView {
    pub(crate) state: Arc<State>,
    pub(crate) plane: Plane,
    pub(crate) served: Arc<ServedForms>,
    /// Where the objects come from, if that is a cluster.
    pub(crate) cluster: Option<KubernetesSource>,
}

impl GatewayView {
    fn watches(&self) -> Vec<sluice_sources::kubernetes::WatchStatus> {
        self.cluster.as_ref().map(KubernetesSource::statuses).unwrap_or_default()
    }
}

impl View for GatewayView {
    fn config(&self) -> Arc<Config> {
        self.plane.config()
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        self.state.problems.current()
    }

    fn status(&self) -> Status {
        let (endpoints, plugins) = match &self.plane {
            Plane::Serving { proxy, plugins } => (endpoints(&proxy.snapshot()), plugins.statuses()),
            Plane::Idle(_) => Default::default(),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.state.started,
            generation: self.plane.generation(),
            last_reload: self.state.last_reload.load_full().map(|reload| (*reload).clone()),
            draining: self.state.draining.load(Ordering::Relaxed),
            open: self.plane.open(Transport::Tcp),
            open_udp: self.plane.open(Transport::Udp),
            endpoints,
            plugins: plugins.into_iter().map(plugin_status).collect(),
            watches: self.watches().into_iter().map(watch_status).collect(),
            last_good: watches::last_good(self.cluster.as_ref()),
        }
    }

    fn served(&self, question: &ServedQuestion) -> Served {
        self.served.answer(question, &self.plane)
    }

    fn readiness(&self) -> BoxFuture<'_, Readiness> {
        async {
            if self.state.draining.load(Ordering::Relaxed) {
                return Readiness::NotReady("draining".into());
            }
            if !self.state.serving.load(Ordering::Relaxed) {
                let missing = watches::missing(&self.watches());
                return Readiness::NotReady(format!("the first configuration is not served yet{missing}"));
            }
            // Whoever waits for this has a limit of its own.
            if let Plane::Serving { proxy, .. } = &self.plane {
                proxy.answers().await;
            }
            let last_good = watches::last_good(self.cluster.as_ref());
            Readiness::Ready(last_good.into_iter().chain(watches::notes(&self.watches())).collect())
        }
        .boxed()
    }
}

/// Each endpoint once a backend.
fn endpoints(snapshot: &Snapshot) -> Vec<EndpointStatus> {
    let mut endpoints = Vec::new();
    for backend in snapshot.backends.iter().flatten() {
        for endpoint in backend.endpoints() {
            endpoints.push(EndpointStatus {
                backend: backend.key().to_string(),
                policy: format!("{:016x}", backend.key().policy),
                address: endpoint.address.to_string(),
                state: endpoint.state.as_str().to_owned(),
                in_flight: endpoint.in_flight as usize,
            });
        }
    }
    endpoints.sort_by(|a, b| (&a.backend, &a.policy, &a.address).cmp(&(&b.backend, &b.policy, &b.address)));
    endpoints
}

fn watch_status(watch: sluice_sources::kubernetes::WatchStatus) -> WatchStatus {
    WatchStatus {
        kind: watch.kind.name().to_owned(),
        state: watch.state.name().to_owned(),
        message: watch.state.message().to_owned(),
        stale: watch.stale,
        objects: watch.objects,
    }
}

fn plugin_status(plugin: sluice_wasm::PluginStatus) -> PluginStatus {
    let source = plugin.fetch.as_ref().map_or_else(String::new, |fetch| match &fetch.progress {
        FetchProgress::Fetched { image_digest: Some(digest), .. } if !fetch.source.contains('@') => {
            format!("{}@{digest}", fetch.source)
        }
        _ => fetch.source.clone(),
    });
    let state = fetching(&plugin).unwrap_or_else(|| state(&plugin));
    PluginStatus { name: plugin.plugin.to_string(), digest: plugin.sha256.to_string(), source, state }
}

/// How far fetching is, where the code is not here.
fn fetching(plugin: &sluice_wasm::PluginStatus) -> Option<String> {
    let goes_on = if plugin.ready > 0 { ", the version before goes on" } else { "" };
    match plugin.fetch.as_ref()?.progress {
        FetchProgress::Off | FetchProgress::Fetched { .. } => None,
        FetchProgress::Fetching => Some(format!("fetching{goes_on}")),
        FetchProgress::Failed { tries, again } => {
            let next = again.map_or_else(
                || ", not tried again".to_owned(),
                |again| format!(", again in {}s", again.saturating_duration_since(Instant::now()).as_secs()),
            );
            let error = plugin.error.as_deref().unwrap_or_default();
            Some(format!(
                "failed, not fetched in {tries} {}{next}{goes_on}: {error}",
                if tries == 1 { "try" } else { "tries" }
            ))
        }
    }
}

fn state(plugin: &sluice_wasm::PluginStatus) -> String {
    match &plugin.error {
        Some(error) if plugin.ready > 0 => format!("failed, the version before goes on in {}: {error}", plugin.ready),
        Some(error) => format!("failed: {error}"),
        None if !plugin.checked => format!("compiling, {} of {} ready", plugin.ready, plugin.uses),
        None if plugin.uses == 0 => "compiled, not used".to_owned(),
        None if plugin.ready == plugin.uses => format!("ready, {} in use", plugin.uses),
        None => format!("compiling, {} of {} ready", plugin.ready, plugin.uses),
    }
}
