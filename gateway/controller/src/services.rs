//! The Services of Gateways, each its own (all in Sluice's namespace, since a Service selects pods of its own), and a
//! ServiceAccount beside each Gateway, which carries what `spec.infrastructure` says.
//!
//! A target port is recorded in the Service's annotation first; every proxy reads it there and opens it; only when all
//! that are ready serve it does the Service lead there: until then a new Service has no selector, and one that is there
//! lacks the port. A port goes the other way: out of the Service's ports, and then it rests.

use crate::api::{Failure, Place, collection};
use crate::controller::{Controller, ServiceSettings, Settings};
use crate::model::service_ref;
use crate::ports::Allocator;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sluice_model::config::Transport;
use sluice_model::{Kind, ObjectRef};
use sluice_resources::api::{IntOrString, Service};
use sluice_resources::{ExternalTrafficPolicy, PinnedProtocol, ServiceConfig, ServiceType};
use sluice_translate::{GATEWAY_UID, Infrastructure, PortKey, TARGET_PORTS, TargetPorts, service_name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};

/// Which Gateway it is, for people.
const GATEWAY: &str = "sluice.dev/gateway";
/// What was applied, as a hash: a Service that has it is as it should be.
const APPLIED: &str = "sluice.dev/applied";
/// The Gateway API's own label on whatever is made for a Gateway.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sluice");

/// After a failure: doubles from the first to the last of these.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A Gateway's Service as it is to be.
#[derive(Debug, PartialEq)]
struct Planned {
    object: Value,
    digest: String,
    /// The ports that stay recorded; others that the Gateway had are free after this is written.
    recorded: BTreeSet<PortKey>,
}

/// What of the Gateway is looked at.
struct Wanted<'w> {
    gateway: &'w ObjectRef,
    infrastructure: &'w Infrastructure,
    targets: &'w TargetPorts,
    /// Ports that every ready proxy serves.
    served: &'w BTreeSet<PortKey>,
    /// As it is there.
    service: Option<&'w Service>,
}

fn plan(wanted: &Wanted<'_>, settings: &Settings, services: &ServiceSettings) -> Option<Planned> {
    let Wanted { gateway, infrastructure, targets, served, service } = wanted;
    let spec = service.and_then(|service| service.spec.as_ref());
    let had_selector = spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty());
    let leads_to = |port: PortKey, target: u16| {
        let same = |p: &sluice_resources::api::ServicePort| {
            is_of(p, port) && p.target_port == Some(IntOrString::Int(i32::from(target)))
        };
        had_selector && spec.is_some_and(|spec| spec.ports.iter().flatten().any(same))
    };
    let recorded: BTreeMap<PortKey, u16> =
        targets.0.iter().filter(|(port, _)| infrastructure.ports.contains(port)).map(|(p, t)| (*p, *t)).collect();
    let open = |(port, target): &(&PortKey, &u16)| served.contains(port) || leads_to(**port, **target);
    let mut led: BTreeMap<PortKey, u16> = recorded.iter().filter(open).map(|(p, t)| (*p, *t)).collect();
    // A Service has ports, be they those that nothing is behind yet: then it selects nobody.
    let selects = !led.is_empty();
    if !selects {
        led.clone_from(&recorded);
    }
    if led.is_empty() {
        return None;
    }
    let config = &infrastructure.service;
    let pinned = pinned(config);
    let ports: Vec<Value> = led
        .iter()
        .map(|(port, target)| {
            let mut entry = json!({
                "name": port_name(*port), "port": port.number, "targetPort": target,
                "protocol": port.transport.name(),
            });
            if let (Some(node_port), Some(entry)) =
                (pinned.get(port).and_then(|pinned| pinned.1), entry.as_object_mut())
            {
                entry.insert("nodePort".into(), node_port.into());
            }
            entry
        })
        .collect();
    let kind = config.kind.unwrap_or_default();
    let mut fields = Map::new();
    fields.insert("type".into(), type_name(kind).into());
    fields.insert("ports".into(), ports.into());
    // Who asks for addresses gets none of another family.
    let families: BTreeSet<&str> =
        infrastructure.addresses.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let policy = if families.len() == 1 { "SingleStack" } else { "PreferDualStack" };
    fields.insert("ipFamilyPolicy".into(), policy.into());
    if families.len() == 1 {
        fields.insert("ipFamilies".into(), json!(families));
    }
    if selects {
        fields.insert("selector".into(), json!(services.selector));
    }
    if kind != ServiceType::ClusterIp
        && let Some(policy) = config.external_traffic_policy
    {
        let policy = match policy {
            ExternalTrafficPolicy::Cluster => "Cluster",
            ExternalTrafficPolicy::Local => "Local",
        };
        fields.insert("externalTrafficPolicy".into(), policy.into());
    }
    if kind == ServiceType::LoadBalancer {
        if let Some(class) = &config.load_balancer_class {
            fields.insert("loadBalancerClass".into(), class.clone().into());
        }
        if let Some(address) = infrastructure.addresses.first() {
            fields.insert("loadBalancerIP".into(), address.to_string().into());
        }
    }
    let mut annotations = config.annotations.clone().unwrap_or_default();
    annotations.extend(infrastructure.annotations.clone());
    annotations.insert(TARGET_PORTS.into(), TargetPorts(recorded.clone()).to_string());
    annotations.insert(GATEWAY.into(), gateway.key().to_string());
    let mut labels = infrastructure.labels.clone();
    labels.extend(own_labels(gateway, infrastructure));
    let mut metadata = json!({
        "name": service_name(&infrastructure.uid), "namespace": settings.namespace, "labels": labels,
        "annotations": annotations,
    });
    let digest = digest(&json!({"metadata": metadata, "spec": fields}));
    metadata["annotations"][APPLIED] = digest.clone().into();
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": fields});
    Some(Planned { object, digest, recorded: recorded.into_keys().collect() })
}

fn type_name(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
        ServiceType::ClusterIp => "ClusterIP",
    }
}

/// The target port and the node's port of each port that is pinned; the first entry of a port counts.
fn pinned(config: &ServiceConfig) -> BTreeMap<PortKey, (u16, Option<u16>)> {
    let entries = config.pinned_ports.iter().flatten().rev();
    let of = |pinned: &sluice_resources::PinnedPort| {
        let transport = match pinned.protocol.unwrap_or_default() {
            PinnedProtocol::Tcp => Transport::Tcp,
            PinnedProtocol::Udp => Transport::Udp,
        };
        (PortKey { number: pinned.port, transport }, (pinned.target_port, pinned.node_port))
    };
    entries.map(of).collect()
}

/// A name of a Service's port: letters, digits and hyphens.
fn port_name(port: PortKey) -> String {
    match port.transport {
        Transport::Tcp => format!("port-{}", port.number),
        Transport::Udp => format!("port-{}-udp", port.number),
    }
}

/// Whether an entry of a Service is for this port.
pub(crate) fn is_of(entry: &sluice_resources::api::ServicePort, port: PortKey) -> bool {
    let protocol = entry.protocol.as_deref().filter(|protocol| !protocol.is_empty());
    entry.port == i32::from(port.number) && protocol.unwrap_or(Transport::Tcp.name()) == port.transport.name()
}

fn own_labels(gateway: &ObjectRef, infrastructure: &Infrastructure) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (GATEWAY_UID.to_owned(), infrastructure.uid.clone()),
        (GATEWAY_NAME.to_owned(), label_value(&gateway.name)),
    ])
}

/// A name as a label has it: one that is too long ends in a hash.
fn label_value(name: &str) -> String {
    const LONGEST: usize = 63;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash: String = hex::encode(Sha256::digest(name)).chars().take(8).collect();
    let head: String = name.chars().take(LONGEST - 9).collect();
    format!("{head}-{hash}")
}

fn digest(value: &Value) -> String {
    hex::encode(Sha256::digest(value.to_string())).chars().take(16).collect()
}

fn account(gateway: &ObjectRef, infrastructure: &Infrastructure) -> Value {
    let mut labels = infrastructure.labels.clone();
    labels.extend(own_labels(gateway, infrastructure));
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {
            "name": service_name(&infrastructure.uid), "namespace": gateway.namespace.to_string(),
            "labels": labels, "annotations": infrastructure.annotations,
            // With the Gateway it goes by itself.
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": gateway.name.to_string(),
                "uid": infrastructure.uid,
            }],
        },
        // Nobody runs under it.
        "automountServiceAccountToken": false,
    })
}

/// What one term of leadership remembers.
struct Term {
    allocator: Allocator,
    /// Hashes of ServiceAccounts that were applied, by the Gateway's UID.
    accounts: HashMap<String, String>,
    /// Services that were written but are not seen by the watch yet.
    written: HashMap<String, Arc<Service>>,
}

impl Controller {
    /// Keeps the Services as they should be, while this replica is the leader.
    pub async fn write_services(&self) {
        let Some(services) = &self.settings.services else { return std::future::pending().await };
        let mut leads = self.lease.term();
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(number) = *leads.borrow_and_update() else {
                if leads.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut term = match self.begin(services).await {
                Ok(term) => term,
                Err(failure) => {
                    tracing::warn!(%failure, "{} cannot be read", Place(Kind::Service, &self.settings.namespace));
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                    continue;
                }
            };
            pause = FIRST_PAUSE;
            let mut news = self.news.subscribe();
            let mut looked_at = None;
            let mut again: Option<Instant> = None;
            while *leads.borrow() == Some(number) {
                news.mark_unchanged();
                let shape = self.lock().shape;
                if looked_at != Some(shape) || again.is_some_and(|then| then <= Instant::now()) {
                    looked_at = Some(shape);
                    if self.services(&mut term, services).await {
                        (again, pause) = (None, FIRST_PAUSE);
                    } else {
                        again = Some(Instant::now() + pause);
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                }
                let later = async {
                    match again {
                        Some(then) => sleep_until(then.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = news.changed() => if changed.is_err() { return },
                    () = later => {}
                    changed = leads.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Reads what is allocated from the Services as they are now: a watch may be behind what the leader before wrote.
    async fn begin(&self, services: &ServiceSettings) -> Result<Term, Failure> {
        let path = collection("v1", &self.settings.namespace, "services");
        let list = self.api.get(&format!("{path}?labelSelector={GATEWAY_UID}")).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut allocated = BTreeMap::new();
        let mut written = HashMap::new();
        for service in items {
            let Ok(service) = serde_json::from_value::<Service>(service) else { continue };
            if let Some(uid) = crate::model::gateway_of(&service) {
                allocated.insert(uid.clone(), TargetPorts::of(&service));
                written.insert(uid, Arc::new(service));
            }
        }
        let allocator = Allocator::new(services.ports.clone(), allocated, self.lease.resting().await);
        Ok(Term { allocator, accounts: HashMap::new(), written })
    }

    /// One look at everything. Says whether nothing failed.
    async fn services(&self, term: &mut Term, services: &ServiceSettings) -> bool {
        let (gateways, unread, observed, started) = {
            let model = self.lock();
            // Of a Gateway of which no form could be read its Service tells more than we know.
            let unread = model.gateways.keys().filter(|gateway| !model.infrastructure.contains_key(gateway));
            let unread: BTreeSet<String> =
                unread.filter_map(|gateway| Some(model.held.get(gateway)?.uid.clone())).collect();
            let gateways: Vec<_> = model
                .infrastructure
                .iter()
                .map(|(gateway, infrastructure)| {
                    (gateway.clone(), infrastructure.clone(), model.served_ports(gateway, infrastructure))
                })
                .collect();
            (gateways, unread, model.observed.clone(), model.started)
        };
        if !started {
            return true;
        }
        // What the watch shows is newer than what we remember of our own writes, once it shows it.
        let version =
            |service: &Service| service.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let held: HashMap<ObjectRef, Option<u64>> = {
            let model = self.lock();
            observed
                .services
                .values()
                .map(|service| service_ref(service))
                .map(|object| {
                    (object.clone(), model.held.get(&object).and_then(|held| held.resource_version.parse().ok()))
                })
                .collect()
        };
        term.written.retain(|uid, own| match observed.services.get(uid) {
            Some(seen) => held.get(&service_ref(seen)).copied().flatten() < version(own),
            None => true,
        });
        let mut good = true;
        let mut troubles = BTreeMap::new();
        for (gateway, infrastructure, served) in &gateways {
            let service = term.written.get(&infrastructure.uid).or_else(|| observed.services.get(&infrastructure.uid));
            let service = service.cloned();
            match self.service(term, services, gateway, infrastructure, served, service.as_deref()).await {
                Ok(Some(trouble)) => {
                    troubles.insert(infrastructure.uid.clone(), trouble);
                }
                Ok(None) => {}
                Err(failure) => {
                    good = false;
                    // A conflict is a matter of a moment.
                    if failure != Failure::Conflict {
                        tracing::warn!(%gateway, %failure, "the Gateway's Service cannot be written");
                        troubles.insert(infrastructure.uid.clone(), ("NoResources", format!("its Service: {failure}")));
                    }
                }
            }
        }
        {
            let mut model = self.lock();
            if model.troubles != troubles {
                model.troubles = troubles;
                model.gateways_dirty();
                drop(model);
                self.changed();
            }
        }
        if observed.certain {
            let there: BTreeSet<&str> = gateways.iter().map(|(_, infra, _)| infra.uid.as_str()).collect();
            let is_there = |uid: &str| there.contains(uid) || unread.contains(uid);
            let gone = observed.services.iter().filter(|(uid, _)| !is_there(uid.as_str()));
            for (uid, service) in gone.map(|(uid, service)| (uid.clone(), service.clone())).collect::<Vec<_>>() {
                good &= self.collect(term, &uid, &service).await;
            }
        }
        good
    }

    /// One Gateway's. Says what is wrong that time alone does not cure.
    async fn service(
        &self,
        term: &mut Term,
        services: &ServiceSettings,
        gateway: &ObjectRef,
        infrastructure: &Infrastructure,
        served: &BTreeSet<PortKey>,
        service: Option<&Service>,
    ) -> Result<Option<(&'static str, String)>, Failure> {
        let uid = &infrastructure.uid;
        self.account(term, gateway, infrastructure).await?;
        // A Gateway without a good listener keeps its Service, and with it its address.
        if infrastructure.ports.is_empty() {
            return Ok(None);
        }
        let pinned = pinned(&infrastructure.service).into_iter().map(|(port, (target, _))| (port, target)).collect();
        let now = Timestamp::now().as_second();
        let without = term.allocator.allocate(uid, &infrastructure.ports, &pinned, now);
        let trouble = without.first().map(|port| {
            (
                "NoResources",
                format!("there is no target port for port {port}: the range is used up, or the pinned one is taken"),
            )
        });
        let targets = term.allocator.of(uid);
        let wanted = Wanted { gateway, infrastructure, targets: &targets, served, service };
        let Some(planned) = plan(&wanted, &self.settings, services) else { return Ok(trouble) };
        let annotations = service.and_then(|service| service.metadata.annotations.as_ref());
        if annotations.and_then(|annotations| annotations.get(APPLIED)) == Some(&planned.digest) {
            return Ok(trouble);
        }
        let unused = term.allocator.unused(uid, &planned.recorded);
        let resting = term.allocator.resting_with(&unused, now);
        if !unused.is_empty() {
            self.lease.record_resting(&resting).await?;
        }
        let path = format!("{}/{}", collection("v1", &self.settings.namespace, "services"), service_name(uid));
        if !self.lease.is_ours() {
            return Err(Failure::Conflict);
        }
        let written = self.api.apply(&path, &planned.object).await?;
        tracing::info!(%gateway, service = service_name(uid), targets = %TargetPorts::of(&parsed(&written)), "wrote the Gateway's Service");
        if !unused.is_empty() {
            term.allocator.free(uid, &planned.recorded, resting);
        }
        term.written.insert(uid.clone(), Arc::new(parsed(&written)));
        Ok(trouble)
    }

    async fn account(
        &self,
        term: &mut Term,
        gateway: &ObjectRef,
        infrastructure: &Infrastructure,
    ) -> Result<(), Failure> {
        let account = account(gateway, infrastructure);
        let hash = digest(&account);
        if term.accounts.get(&infrastructure.uid) == Some(&hash) {
            return Ok(());
        }
        let collection = collection("v1", &gateway.namespace, "serviceaccounts");
        let path = format!("{collection}/{}", service_name(&infrastructure.uid));
        if !self.lease.is_ours() {
            return Err(Failure::Conflict);
        }
        self.api.apply(&path, &account).await?;
        term.accounts.insert(infrastructure.uid.clone(), hash);
        Ok(())
    }

    /// Deletes the Service of a Gateway that is gone, or not ours any more. Says whether that worked.
    async fn collect(&self, term: &mut Term, uid: &str, service: &Service) -> bool {
        let targets: Vec<u16> = TargetPorts::of(service).0.into_values().collect();
        let resting = term.allocator.resting_with(&targets, Timestamp::now().as_second());
        let object = service_ref(service);
        let deleted = async {
            self.lease.record_resting(&resting).await?;
            let of_service = service.metadata.uid.as_deref().unwrap_or_default();
            match self.api.delete(&crate::api::path(&object, "v1"), of_service).await {
                Err(Failure::NotFound) => Ok(()),
                result => result,
            }
        };
        match deleted.await {
            Ok(()) => {
                tracing::info!(service = %object, "deleted the Service of a Gateway that is gone");
                term.allocator.free(uid, &BTreeSet::new(), resting);
                term.accounts.remove(uid);
                term.written.remove(uid);
                // Until the watch shows it.
                self.lock().observed.services.remove(uid);
                true
            }
            Err(failure) => {
                tracing::warn!(service = %object, %failure, "the Service of a Gateway that is gone cannot be deleted");
                false
            }
        }
    }
}

fn parsed(service: &Value) -> Service {
    serde_json::from_value(service.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> (Settings, ServiceSettings) {
        let services = ServiceSettings {
            selector: BTreeMap::from([("app".to_owned(), "sluice".to_owned())]),
            ports: 10_000..=10_010,
        };
        let settings = Settings {
            namespace: "sluice-system".into(),
            identity: "me".into(),
            services: Some(services.clone()),
            ingress_service: None,
            proxies: None,
        };
        (settings, services)
    }

    fn infrastructure(ports: &[u16]) -> Infrastructure {
        Infrastructure {
            uid: "u1".into(),
            ports: ports.iter().map(|port| PortKey::from(*port)).collect(),
            ..Infrastructure::default()
        }
    }

    fn planned(infrastructure: &Infrastructure, served: &[u16], service: Option<&Service>) -> Planned {
        let (settings, services) = settings();
        let gateway = ObjectRef::new(Kind::Gateway, "shop", "edge");
        let targets = TargetPorts(BTreeMap::from([(80.into(), 10_000), (443.into(), 10_001), (81.into(), 10_002)]));
        let served = served.iter().map(|port| PortKey::from(*port)).collect();
        let wanted = Wanted { gateway: &gateway, infrastructure, targets: &targets, served: &served, service };
        plan(&wanted, &settings, &services).unwrap()
    }

    fn brief(planned: &Planned) -> (String, String, bool) {
        let spec = &planned.object["spec"];
        let ports = spec["ports"].as_array().unwrap().iter();
        let ports: Vec<_> = ports.map(|p| format!("{}->{}", p["port"], p["targetPort"])).collect();
        let recorded = planned.object["metadata"]["annotations"][TARGET_PORTS].as_str().unwrap().to_owned();
        (recorded, ports.join(" "), spec.get("selector").is_some())
    }

    fn there(planned: &Planned) -> Service {
        serde_json::from_value(planned.object.clone()).unwrap()
    }

    #[test]
    fn a_new_service_records_its_ports_and_leads_nowhere_before_every_proxy_serves_them() {
        let wanted = infrastructure(&[80, 443]);
        let first = planned(&wanted, &[], None);
        assert_eq!(brief(&first), ("80=10000,443=10001".into(), "80->10000 443->10001".into(), false));
        let then = planned(&wanted, &[80, 443], Some(&there(&first)));
        assert_eq!(brief(&then), ("80=10000,443=10001".into(), "80->10000 443->10001".into(), true));
        assert_ne!(first.digest, then.digest);
    }

    #[test]
    fn a_port_that_is_added_is_recorded_first_and_named_when_it_is_served() {
        let before = there(&planned(&infrastructure(&[80]), &[80], None));
        let more = infrastructure(&[80, 81]);
        let recorded = planned(&more, &[80], Some(&before));
        assert_eq!(brief(&recorded), ("80=10000,81=10002".into(), "80->10000".into(), true));
        let named = planned(&more, &[80, 81], Some(&there(&recorded)));
        assert_eq!(brief(&named).1, "80->10000 81->10002");
        // No proxy is ready for a moment: what is led to stays.
        assert_eq!(planned(&more, &[], Some(&there(&named))).object, named.object);
    }

    #[test]
    fn a_service_whose_only_port_is_replaced_selects_nobody_until_the_new_one_is_served() {
        let before = there(&planned(&infrastructure(&[80]), &[80], None));
        let replaced = planned(&infrastructure(&[81]), &[], Some(&before));
        assert_eq!(brief(&replaced), ("81=10002".into(), "81->10002".into(), false));
        let served = planned(&infrastructure(&[81]), &[81], Some(&there(&replaced)));
        assert_eq!(brief(&served), ("81=10002".into(), "81->10002".into(), true));
    }

    #[test]
    fn a_port_that_goes_is_neither_named_nor_recorded() {
        let before = there(&planned(&infrastructure(&[80, 443]), &[80, 443], None));
        let less = planned(&infrastructure(&[443]), &[443], Some(&before));
        assert_eq!(brief(&less), ("443=10001".into(), "443->10001".into(), true));
        assert_eq!(less.recorded, BTreeSet::from([443.into()]));
    }

    #[test]
    fn a_service_carries_what_gateway_and_configuration_say_and_our_labels_win() {
        let mut wanted = infrastructure(&[80]);
        wanted.labels = BTreeMap::from([("team".into(), "a".into()), (GATEWAY_UID.into(), "stolen".into())]);
        wanted.annotations = BTreeMap::from([("a".into(), "gateway".into())]);
        wanted.addresses = vec!["192.0.2.7".parse().unwrap()];
        wanted.service = ServiceConfig {
            annotations: Some(BTreeMap::from([("a".into(), "config".into()), ("b".into(), "config".into())])),
            external_traffic_policy: Some(ExternalTrafficPolicy::Local),
            load_balancer_class: Some("example.com/lb".into()),
            ..ServiceConfig::default()
        };
        let object = planned(&wanted, &[], None).object;
        let meta = &object["metadata"];
        assert_eq!((&meta["name"], &meta["namespace"]), (&json!("gateway-u1"), &json!("sluice-system")));
        assert_eq!(meta["labels"]["team"], "a");
        assert_eq!((&meta["labels"][GATEWAY_UID], &meta["labels"][GATEWAY_NAME]), (&json!("u1"), &json!("edge")));
        assert_eq!((&meta["annotations"]["a"], &meta["annotations"]["b"]), (&json!("gateway"), &json!("config")));
        let spec = &object["spec"];
        for (field, value) in [
            ("type", "LoadBalancer"),
            ("externalTrafficPolicy", "Local"),
            ("loadBalancerClass", "example.com/lb"),
            ("loadBalancerIP", "192.0.2.7"),
            ("ipFamilyPolicy", "SingleStack"),
        ] {
            assert_eq!(spec[field], value, "{field}");
        }
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        wanted.addresses.push("2001:db8::7".parse().unwrap());
        let spec = &planned(&wanted, &[], None).object["spec"];
        assert_eq!((&spec["ipFamilyPolicy"], spec.get("ipFamilies")), (&json!("PreferDualStack"), None));
    }

    #[test]
    fn a_number_of_udp_is_another_port_than_the_same_of_tcp() {
        let (settings, services) = settings();
        let gateway = ObjectRef::new(Kind::Gateway, "shop", "edge");
        let udp = PortKey { number: 53, transport: Transport::Udp };
        let infrastructure = Infrastructure { ports: BTreeSet::from([53.into(), udp]), ..infrastructure(&[]) };
        let targets = TargetPorts(BTreeMap::from([(53.into(), 10_000), (udp, 10_001)]));
        let served = BTreeSet::from([udp]);
        let wanted = Wanted {
            gateway: &gateway,
            infrastructure: &infrastructure,
            targets: &targets,
            served: &served,
            service: None,
        };
        let planned = plan(&wanted, &settings, &services).unwrap();
        let service = there(&planned);
        let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
        let brief: Vec<_> =
            ports.iter().map(|p| (p.name.as_deref().unwrap(), p.protocol.as_deref().unwrap(), p.port)).collect();
        assert_eq!(brief, [("port-53-udp", "UDP", 53)], "the other is not served yet");
        assert!(is_of(&ports[0], udp) && !is_of(&ports[0], 53.into()));
        assert_eq!(TargetPorts::of(&service), targets);
        assert_eq!(targets.to_string(), "53=10000,53/udp=10001");
    }

    #[test]
    fn a_name_that_is_too_long_for_a_label_ends_in_a_hash() {
        let long = "g".repeat(253);
        let value = label_value(&long);
        assert_eq!(value.len(), 63);
        assert_ne!(value, label_value(&"g".repeat(252)));
        assert_eq!(label_value("edge"), "edge");
    }
}
