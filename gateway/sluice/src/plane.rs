//! Where configurations go: into the data plane, or, in a process that only writes to the cluster, no further.

use arc_swap::ArcSwap;
use sluice_model::config::Transport;
use sluice_model::{Config, Problem};
use sluice_proxy::{Applied, Proxy};
use sluice_wasm::PluginHost;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) enum Plane {
    Serving {
        proxy: Arc<Proxy>,
        plugins: Arc<PluginHost>,
    },
    /// No port is opened, no backend called, no plugin compiled.
    Idle(Arc<Shown>),
}

/// What would be served.
pub(crate) struct Shown {
    config: ArcSwap<Config>,
    generation: AtomicU64,
    plugins: watch::Sender<u64>,
}

impl Plane {
    pub(crate) fn idle() -> Plane {
        let shown = Shown { config: ArcSwap::default(), generation: AtomicU64::new(0), plugins: watch::Sender::new(0) };
        Plane::Idle(Arc::new(shown))
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        match self {
            Plane::Serving { proxy, .. } => proxy.snapshot().config.clone(),
            Plane::Idle(shown) => shown.config.load_full(),
        }
    }

    /// Addresses of the configuration whose sockets are open.
    pub(crate) fn open(&self, transport: Transport) -> Vec<SocketAddr> {
        let Plane::Serving { proxy, .. } = self else { return Vec::new() };
        let config = proxy.snapshot().config.clone();
        let sockets = config.sockets().filter(|(of, ..)| *of == transport).map(|(_, address, _)| address);
        sockets.filter(|address| proxy.local_addr(transport, *address).is_some()).collect()
    }

    pub(crate) fn generation(&self) -> u64 {
        match self {
            Plane::Serving { proxy, .. } => proxy.snapshot().generation,
            Plane::Idle(shown) => shown.generation.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn apply(&self, config: Arc<Config>) -> Applied {
        match self {
            Plane::Serving { proxy, .. } => proxy.apply(config),
            Plane::Idle(shown) => {
                shown.config.store(config);
                let generation = shown.generation.fetch_add(1, Ordering::Relaxed) + 1;
                Applied { generation, problems: Vec::new() }
            }
        }
    }

    /// Puts newer versions of plugins to work, and says what is wrong.
    pub(crate) fn refresh(&self) -> Vec<Problem> {
        match self {
            Plane::Serving { proxy, .. } => proxy.refresh().problems,
            Plane::Idle(_) => Vec::new(),
        }
    }

    /// What cannot be put to work now.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        match self {
            Plane::Serving { proxy, .. } => proxy.problems(),
            Plane::Idle(_) => Vec::new(),
        }
    }

    pub(crate) fn plugin_problems(&self) -> Vec<Problem> {
        match self {
            Plane::Serving { plugins, .. } => plugins.problems(),
            Plane::Idle(_) => Vec::new(),
        }
    }

    /// Counts versions of plugins.
    pub(crate) fn plugins_changed(&self) -> watch::Receiver<u64> {
        match self {
            Plane::Serving { plugins, .. } => plugins.changed(),
            Plane::Idle(shown) => shown.plugins.subscribe(),
        }
    }

    /// Waits until all plugins are ready or known to fail.
    pub(crate) async fn plugins_settled(&self) {
        if let Plane::Serving { plugins, .. } = self {
            plugins.settled().await;
        }
    }
}
