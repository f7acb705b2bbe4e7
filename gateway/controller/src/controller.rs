//! The controller as others see it: what it is told, its tasks, its settings.

use crate::api::Api;
use crate::desired::Bundle;
use crate::events::{self, Problems};
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::model::{Model, gateway_of};
use crate::nodes::Nodes;
use crate::rights::GATEWAY_CLASS_CRD;
use crate::served::Asker;
use kube::Client;
use prometheus_client::registry::Registry;
use sluice_model::object::NamespacedName;
use sluice_model::problem::Problem;
use sluice_model::{Kind, ObjectRef, Served, ServedQuestion};
use sluice_resources::api::{EndpointSlice, Service};
use sluice_resources::{Held, Store};
use sluice_translate::StatusChanges;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// What the controller is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Sluice's own: where the Lease and the Services of Gateways lie.
    pub namespace: String,
    /// The name of this replica in the Lease: one of its own for each process.
    pub identity: String,
    /// Each Gateway gets a Service. `None`: listeners bind the ports that they name.
    pub services: Option<ServiceSettings>,
    /// The Service in front of the Ingress Gateway, whose addresses Ingress objects get. `None`: they get none.
    pub ingress_service: Option<NamespacedName>,
    /// The headless Service whose endpoints are the proxies' metrics ports. `None`: this process is the only proxy.
    pub proxies: Option<NamespacedName>,
}

#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// The labels of the proxies' pods.
    pub selector: BTreeMap<String, String>,
    /// Where target ports come from.
    pub ports: RangeInclusive<u16>,
}

/// What this process serves itself.
pub type OwnServed = Arc<dyn Fn(&ServedQuestion) -> Served + Send + Sync>;

/// Objects of the cluster that the controller looks at as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The Services of Gateways, by the Gateway's UID.
    pub services: BTreeMap<String, Arc<Service>>,
    /// The Service in front of the Ingress Gateway.
    pub front: Option<Arc<Service>>,
    /// The metrics ports of the proxies that are ready.
    pub proxies: Vec<SocketAddr>,
    /// All Gateways and their classes are known, so that a Service without a Gateway is to go.
    pub certain: bool,
}

impl Observed {
    pub fn of(store: &Store, settings: &Settings, certain: bool) -> Observed {
        let first = NamespacedName::new(settings.namespace.as_str(), "");
        let here = store.services.range(first..).take_while(|(name, _)| *name.namespace == *settings.namespace);
        let services = here.filter_map(|(_, service)| Some((gateway_of(service)?, service.clone())));
        let front = settings.ingress_service.as_ref().and_then(|name| store.services.get(name)).cloned();
        let proxies = settings.proxies.as_ref().map(|name| proxies(store, name)).unwrap_or_default();
        Observed { services: services.collect(), front, proxies, certain }
    }
}

/// The ready endpoints of a Service.
fn proxies(store: &Store, service: &NamespacedName) -> Vec<SocketAddr> {
    let of_service = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|name| **name == *service.name)
    };
    let first = NamespacedName::new(service.namespace.clone(), "");
    let here = store.endpoint_slices.range(first..).take_while(|(name, _)| name.namespace == service.namespace);
    let mut found = Vec::new();
    for slice in here.map(|(_, slice)| slice).filter(of_service) {
        let Some(port) = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            // All addresses of an endpoint are the same pod.
            let address = endpoint.addresses.first().and_then(|address| address.parse().ok());
            if let Some(address) = address.filter(|_| ready) {
                found.push(SocketAddr::new(address, port));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Everything that writes to the cluster. Its five tasks ([`Controller::hold_lease`], [`Controller::ask`],
/// [`Controller::write_services`], [`Controller::write_statuses`], [`Controller::write_events`]) run side by side.
pub struct Controller {
    pub(crate) settings: Settings,
    pub(crate) api: Api,
    pub(crate) lease: Lease,
    pub(crate) metrics: Metrics,
    pub(crate) own: OwnServed,
    pub(crate) asker: Asker,
    pub(crate) nodes: Nodes,
    model: Mutex<Model>,
    problems: Mutex<Problems>,
    /// Counts changes of the model: for those who write.
    pub(crate) news: watch::Sender<u64>,
    /// Counts those after which the proxies are to be asked.
    pub(crate) asked: watch::Sender<u64>,
    /// Counts those of the problems.
    pub(crate) problem_news: watch::Sender<u64>,
}

impl Controller {
    /// Registers its metrics under the prefix of `registry`. Nothing is sent before its tasks run.
    pub fn new(client: Client, settings: Settings, registry: &mut Registry, own: OwnServed) -> Controller {
        let api = Api::new(client);
        let lease = Lease::new(api.clone(), settings.namespace.clone(), settings.identity.clone());
        Controller {
            lease,
            api,
            metrics: Metrics::new(registry),
            own,
            asker: Asker::new(),
            nodes: Nodes::default(),
            model: Mutex::default(),
            problems: Mutex::default(),
            news: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            problem_news: watch::Sender::new(0),
            settings,
        }
    }

    /// The kinds of which [`Controller::holds`] wants to be told.
    pub fn kinds() -> Vec<Kind> {
        let others = [Kind::GatewayClass, Kind::Gateway, Kind::ListenerSet, Kind::Service];
        events::KINDS.iter().copied().chain(others).chain(Kind::ROUTES).collect()
    }

    /// What the settings say.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes what `translate` says now, and the objects that are looked at.
    pub fn translated(&self, changes: StatusChanges, observed: Observed) {
        let asks = self.lock().translated(changes, observed);
        self.changed();
        if asks {
            self.asked.send_modify(|n| *n += 1);
        }
    }

    /// Takes what the cluster holds now.
    pub fn holds(&self, news: HashMap<ObjectRef, Option<Held>>) {
        self.lock().holds(news, &self.settings);
        self.changed();
    }

    /// Takes all that is wrong now.
    pub fn wrong(&self, problems: &[Problem]) {
        let model = self.lock();
        self.problems().set(problems, Instant::now());
        drop(model);
        self.problem_news.send_modify(|n| *n += 1);
    }

    /// Something of what is served here is another: a port is open that could not be opened before.
    pub fn served(&self) {
        self.asked.send_modify(|n| *n += 1);
    }

    /// Runs for the Lease, and holds it.
    pub async fn hold_lease(&self) {
        let watching = async {
            let mut term = self.lease.term();
            loop {
                let leads = term.borrow_and_update().is_some();
                self.metrics.leader.set(i64::from(leads));
                if leads {
                    // Whatever another replica wrote or did not: differences show.
                    self.read_bundle().await;
                    self.lock().all_dirty();
                    self.changed();
                    self.asked.send_modify(|n| *n += 1);
                }
                if term.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(self.lease.run(), watching);
    }

    /// Gives the Lease up, so that another replica goes on at once.
    pub async fn release(&self) {
        self.lease.release().await;
    }

    /// The Gateway API's CRDs, where they may be looked at.
    async fn read_bundle(&self) {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{GATEWAY_CLASS_CRD}");
        let bundle = match self.api.get(&path).await {
            Ok(crd) => Bundle::of(&crd),
            Err(failure) => {
                tracing::debug!(%failure, "the version of the Gateway API's CRDs cannot be read");
                None
            }
        };
        self.lock().bundle = bundle;
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn problems(&self) -> MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self) {
        self.news.send_modify(|n| *n += 1);
    }
}
