//! A cluster: what the API server says, what a gateway would read there, and what it would make of it. Everything is
//! read once, by the same watches and the same translation as `sluice run --kube`.

use super::findings::{Check, Report};
use super::rights::Subject;
use super::{DoctorArgs, crds, objects, rights};
use crate::cluster::{ClusterArgs, Role};
use crate::output::counted;
use crate::run::of_cluster;
use crate::{certificate, watches};
use anyhow::Result;
use futures::future::join_all;
use serde_json::Value;
use sluice_controller::{Api, Controller, collection};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::api::Service;
use sluice_resources::{Change, Held, Object};
use sluice_sources::kubernetes::{Connection, KubernetesSource, Pauses, Scope, WatchState, WatchStatus};
use sluice_translate::{GATEWAY_CONTROLLER, GATEWAY_UID, INGRESS_CONTROLLER, Output, Translator, is_default_class};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Longest time to read everything.
const PATIENCE: Duration = Duration::from_secs(30);

/// The oldest Kubernetes that the chart takes (`kubeVersion`): 1.31.
const OLDEST_MINOR: u32 = 31;

/// Who is what of an installed Sluice.
const COMPONENT: &str = "app.kubernetes.io/component";

/// Codes that the checks of CRDs, rights and watches say more of.
const OF_READING: [Code; 3] = [Code::WatchForbidden, Code::KindNotInstalled, Code::WatchFailing];

pub(super) async fn examine(report: &mut Report, args: &DoctorArgs) -> Result<()> {
    let connection = args.cluster.connect().await?;
    let api = Api::new(connection.client.clone());
    match api.get("/version").await {
        Ok(version) => server(report, &version),
        Err(failure) => {
            let hint = "see whether `kubectl version` answers, with the same --kubeconfig and --context";
            report.error(Check::ApiServer, "API server", format!("does not answer: {failure}"), hint);
            return Ok(());
        }
    }
    let system = &*args.cluster.system_namespace;
    let pods = api.get(&format!("{}?labelSelector={COMPONENT}", collection("v1", system, "pods"))).await;
    let subjects = subjects(args, pods.as_ref().ok());
    let rights = join_all(subjects.iter().map(|subject| rights::ask(&api, subject, system)));
    let (found, answers, read) = tokio::join!(crds::ask(&api), rights, read(connection, &args.cluster));
    crds::report(report, &found, &read.watches);
    for (subject, answers) in subjects.iter().zip(&answers) {
        rights::report(report, subject, answers, read.with_services);
    }
    read.report_watches(report, subjects.iter().any(|subject| subject.account.is_some()));
    if let Some(seen) = read.translate(&args.cluster)? {
        seen.classes(report);
        seen.gateways(report);
        objects::problems(report, Check::Configuration, &seen.problems, &OF_READING);
        objects::certificates(report, &seen.output.config, SystemTime::now());
        objects::endpoints(report, &seen.output.config, |key| {
            let NamespacedName { namespace, name } = &key.service;
            format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}")
        });
        seen.load_balancers(report, system);
    }
    match pods {
        Ok(list) => report_pods(report, &list, system),
        Err(failure) => {
            let message = format!("whether the pods of Sluice are ready cannot be seen: {failure}");
            report.warning(Check::Pods, format!("Namespace {system}"), message, "ask as an account that may list pods");
        }
    }
    Ok(())
}

/// Whose rights are asked for: as the flags say, else those of the pods that run, else one's own.
fn subjects(args: &DoctorArgs, pods: Option<&Value>) -> Vec<Subject> {
    let cluster = &args.cluster;
    let namespaces = cluster.namespace.clone();
    if args.account.is_some() || cluster.role.is_some() {
        return vec![Subject { role: cluster.role(), account: args.account.clone(), namespaces }];
    }
    let mut subjects = BTreeSet::new();
    for pod in pods.map(items).unwrap_or_default() {
        let role = match component(pod) {
            "proxy" => Role::Proxy,
            "controller" => Role::Controller,
            _ => continue,
        };
        let Some(name) = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str) else { continue };
        let mut namespaces = namespaces.clone();
        if namespaces.is_empty() {
            let arguments = pod.pointer("/spec/containers/0/args").and_then(Value::as_array).into_iter().flatten();
            let named = arguments.filter_map(|argument| argument.as_str()?.strip_prefix("--namespace="));
            namespaces.extend(named.map(str::to_owned));
        }
        let account = Some(NamespacedName::new(&*cluster.system_namespace, name));
        subjects.insert(Subject { role, account, namespaces });
    }
    if subjects.is_empty() {
        subjects.insert(Subject { role: cluster.role(), account: None, namespaces });
    }
    subjects.into_iter().collect()
}

fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What a pod of Sluice is; empty for others.
fn component(pod: &Value) -> &str {
    let labels = pod.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(COMPONENT)).and_then(Value::as_str).unwrap_or_default()
}

fn server(report: &mut Report, version: &Value) {
    let text = |field: &str| version.get(field).and_then(Value::as_str).unwrap_or_default();
    let message = format!("Kubernetes {}", text("gitVersion"));
    // `34`, of some vendors `34+`.
    let minor = text("minor").trim_end_matches('+').parse::<u32>();
    if text("major") == "1" && minor.is_ok_and(|minor| minor < OLDEST_MINOR) {
        let hint = format!("the chart takes 1.{OLDEST_MINOR} and newer: upgrade the cluster");
        report.warning(Check::ApiServer, "API server", format!("{message} is older than Sluice was tried with"), hint);
    } else {
        report.ok(Check::ApiServer, "API server", message);
    }
}

/// What was read.
struct Read {
    watches: Vec<WatchStatus>,
    /// `None`: not everything was read in time.
    changes: Option<Vec<Change>>,
    /// Of the reading itself.
    problems: Vec<Problem>,
    held: HashMap<ObjectRef, Held>,
    /// There are Services of Gateways.
    with_services: bool,
}

async fn read(connection: Connection, args: &ClusterArgs) -> Read {
    let scope = Scope { with_status: Controller::kinds(), ..args.scope(vec![args.system_namespace.clone()]) };
    let source = KubernetesSource::new(connection, &scope, Pauses::default());
    // Ended when they are dropped.
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        let source = source.clone();
        tasks.spawn(async move { source.watch(kind).await });
    }
    let deadline = Instant::now() + PATIENCE;
    let mut read =
        Read { watches: Vec::new(), changes: None, problems: Vec::new(), held: HashMap::new(), with_services: false };
    while let Ok(seen) = timeout_at(deadline, source.changed()).await {
        let update = source.read(seen);
        read.problems = update.problems;
        if update.complete {
            read.with_services = update.changes.iter().any(|change| match change {
                Change::Upsert(Object::Service(service)) => is_of_gateway(service),
                _ => false,
            });
            read.changes = Some(update.changes);
            break;
        }
    }
    read.watches = source.statuses();
    read.held = source.take_statuses().into_iter().filter_map(|(object, held)| Some((object, held?))).collect();
    read
}

fn is_of_gateway(service: &Service) -> bool {
    service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(GATEWAY_UID))
}

impl Read {
    /// `of_another`: the rights that were asked for are not those that reading took.
    fn report_watches(&self, report: &mut Report, of_another: bool) {
        for watch in &self.watches {
            match &watch.state {
                WatchState::Forbidden { .. } if of_another => {
                    let message = "cannot be read by the account in use, and was not looked at";
                    report.warning(Check::Watches, watch.kind, message, "ask as an account that may list and watch it");
                }
                WatchState::Forbidden { message } if !report.has_found(Check::Rights) => {
                    report.error(Check::Watches, watch.kind, message, Code::WatchForbidden.hint());
                }
                WatchState::Failing { message, .. } => {
                    report.error(
                        Check::Watches,
                        watch.kind,
                        format!("cannot be read: {message}"),
                        Code::WatchFailing.hint(),
                    );
                }
                _ => {}
            }
        }
        if self.changes.is_none() {
            let missing = watches::missing(&self.watches);
            let message =
                format!("not everything was read in {} s{missing}; the rest is not looked at", PATIENCE.as_secs());
            report.error(
                Check::Watches,
                "API server",
                message,
                "a gateway is not ready before it has read everything once",
            );
        } else if !report.has_found(Check::Watches) {
            let objects: usize = self.watches.iter().map(|watch| watch.objects).sum();
            report.ok(Check::Watches, "", format!("{} read", counted(objects, "object")));
        }
    }

    fn translate(mut self, args: &ClusterArgs) -> Result<Option<Seen>> {
        let Some(changes) = self.changes.take() else { return Ok(None) };
        // A proxy has one of its own.
        let options = of_cluster(Some(certificate::stand_in()?), args, self.with_services);
        let mut translator = Translator::new(options);
        let output = translator.apply(changes);
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(output.problems.iter().cloned());
        Ok(Some(Seen { translator, output, problems, held: self.held, watches: self.watches }))
    }
}

/// What a gateway would make of it.
struct Seen {
    translator: Translator,
    output: Output,
    problems: Vec<Problem>,
    held: HashMap<ObjectRef, Held>,
    watches: Vec<WatchStatus>,
}

impl Seen {
    fn is_read(&self, kind: Kind) -> bool {
        self.watches.iter().any(|watch| watch.kind == kind && watch.state == WatchState::Synced)
    }

    fn status(&self, kind: Kind, name: &NamespacedName) -> Value {
        let object = ObjectRef::new(kind, name.namespace.clone(), name.name.clone());
        self.held.get(&object).map(Held::status).unwrap_or_default()
    }

    fn classes(&self, report: &mut Report) {
        let store = self.translator.store();
        let statuses = self.translator.status().classes;
        let ours = store.gateway_classes.iter().filter(|(_, class)| class.spec.controller_name == GATEWAY_CONTROLLER);
        let ours: Vec<_> = ours.map(|(name, _)| name).collect();
        if ours.is_empty() && self.is_read(Kind::GatewayClass) {
            let hint = "helm upgrade … --set gatewayClass.create=Always, or a GatewayClass with this controllerName";
            let message = format!("none names the controller {GATEWAY_CONTROLLER}: no Gateway is served");
            report.warning(Check::Classes, Kind::GatewayClass, message, hint);
        }
        for name in ours {
            let object = ObjectRef::new(Kind::GatewayClass, "", name.name.clone());
            match statuses.get(&object).and_then(|status| status.rejected.as_ref()) {
                Some(message) => {
                    let hint = format!("kubectl describe gatewayclass {}", name.name);
                    report.error(Check::Classes, object, message, hint);
                }
                None => report.ok(Check::Classes, object, "is Sluice's"),
            }
        }
        let ours = store.ingress_classes.iter().filter(|(_, class)| {
            class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(INGRESS_CONTROLLER)
        });
        let ours: Vec<_> = ours.map(|(name, _)| &*name.name).collect();
        if ours.is_empty() && self.is_read(Kind::IngressClass) {
            let hint = "helm upgrade … --set ingressClass.create=true, or an IngressClass with this controller";
            let message = format!("none names the controller {INGRESS_CONTROLLER}: no Ingress is served");
            report.warning(Check::Classes, Kind::IngressClass, message, hint);
        }
        for name in ours {
            report.ok(Check::Classes, format!("IngressClass {name}"), "is Sluice's");
        }
        let defaults = store.ingress_classes.iter().filter(|(_, class)| is_default_class(class));
        let defaults: Vec<_> = defaults.map(|(name, _)| &*name.name).collect();
        if defaults.len() > 1 {
            let message = format!(
                "{} are all marked as the default: an Ingress without a class gets any of them",
                defaults.join(", ")
            );
            let hint = "kubectl annotate ingressclass NAME ingressclass.kubernetes.io/is-default-class-";
            report.warning(Check::Classes, Kind::IngressClass, message, hint);
        }
    }

    fn gateways(&self, report: &mut Report) {
        let translated = self.translator.status();
        for (gateway, of) in translated.gateways {
            let Some(status) = self.programmed(report, &gateway, of.rejected.as_ref()) else { continue };
            let addresses = status.get("addresses").and_then(Value::as_array).into_iter().flatten();
            let addresses: Vec<&str> = addresses.filter_map(|address| address.get("value")?.as_str()).collect();
            if addresses.is_empty() {
                let hint = describe(&gateway);
                report.warning(Check::Gateways, gateway, "has no address", hint);
            } else {
                report.ok(Check::Gateways, gateway, format!("is programmed, at {}", addresses.join(", ")));
            }
        }
        for (set, of) in translated.listener_sets {
            if self.programmed(report, &set, of.rejected.as_ref()).is_some() {
                report.ok(Check::Gateways, set, format!("is programmed, of {}", of.gateway));
            }
        }
    }

    /// The status of a Gateway or ListenerSet that is accepted and programmed; of another one it says why it is not.
    fn programmed(
        &self,
        report: &mut Report,
        object: &ObjectRef,
        rejected: Option<&(&'static str, String)>,
    ) -> Option<Value> {
        let object = object.clone();
        if let Some((reason, message)) = rejected {
            let hint = describe(&object);
            report.error(Check::Gateways, object, format!("is not accepted ({reason}): {message}"), hint);
            return None;
        }
        let status = self.status(object.kind, &object.key());
        // Of one that nobody has looked at yet, the API's own default is `Unknown`.
        match condition(&status, "Programmed").filter(|programmed| programmed.status != "Unknown") {
            None => {
                let hint = "a `sluice run --kube --role controller` writes it: see whether one runs, and its log";
                report.warning(Check::Gateways, object, "has no status", hint);
                None
            }
            Some(programmed) if programmed.status != "True" => {
                let message = format!("is not programmed ({}): {}", programmed.reason, programmed.message);
                let hint = describe(&object);
                report.error(Check::Gateways, object, message, hint);
                None
            }
            Some(_) => Some(status),
        }
    }

    /// Services in front of Sluice that wait for an address.
    fn load_balancers(&self, report: &mut Report, system: &str) {
        for (name, service) in &self.translator.store().services {
            let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            if &*name.namespace != system || kind != Some("LoadBalancer") {
                continue;
            }
            let status = self.status(Kind::Service, name);
            let object = format!("Service {name}");
            let addresses = status.pointer("/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
            let addresses: Vec<&str> =
                addresses.filter_map(|one| one.get("ip").or_else(|| one.get("hostname"))?.as_str()).collect();
            if addresses.is_empty() {
                let hint = format!(
                    "the cluster's load balancer controller gives it one (kubectl -n {system} describe service {}); where there is none, use service.type=NodePort",
                    name.name
                );
                report.error(Check::Services, object, "is of type LoadBalancer and has no address", hint);
            } else {
                report.ok(Check::Services, object, format!("has the address {}", addresses.join(", ")));
            }
        }
    }
}

struct Condition<'s> {
    status: &'s str,
    reason: &'s str,
    message: &'s str,
}

fn condition<'s>(status: &'s Value, kind: &str) -> Option<Condition<'s>> {
    let conditions = status.get("conditions").and_then(Value::as_array)?;
    let found = conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(Condition { status: text("status"), reason: text("reason"), message: text("message") })
}

/// The pods of an installed Sluice, by what they are.
fn report_pods(report: &mut Report, list: &Value, system: &str) {
    for of in ["proxy", "controller"] {
        let pods: Vec<&Value> = items(list).iter().filter(|pod| component(pod) == of).collect();
        if pods.is_empty() {
            // A cluster without a controller is a choice; one without a proxy serves nobody.
            if of == "proxy" {
                let message = format!("no pod with the label {COMPONENT}=proxy: no Sluice is installed by its chart");
                let hint = "helm install sluice …; or name its namespace with --system-namespace";
                report.warning(Check::Pods, format!("Namespace {system}"), message, hint);
            }
            continue;
        }
        let count = pods.len();
        let waiting: Vec<&Value> = pods.into_iter().filter(|pod| !is_ready(pod)).collect();
        for pod in &waiting {
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let hint = format!("kubectl -n {system} describe pod {name}; kubectl -n {system} logs {name}");
            let message = format!("is a {of}, and not ready{}", why(pod));
            report.error(Check::Pods, format!("Pod {system}/{name}"), message, hint);
        }
        if waiting.is_empty() {
            report.ok(Check::Pods, of, format!("{} ready", counted(count, "pod")));
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    pod.get("status").and_then(|status| condition(status, "Ready")).is_some_and(|ready| ready.status == "True")
}

/// What its container waits for, or what the API server says of it.
fn why(pod: &Value) -> String {
    let waits = pod.pointer("/status/containerStatuses/0/state/waiting/reason").and_then(Value::as_str);
    let ready = pod.get("status").and_then(|status| condition(status, "Ready")).map(|ready| ready.message);
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let first = waits.or(ready.filter(|message| !message.is_empty())).or(phase);
    first.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// What shows more of an object.
fn describe(object: &ObjectRef) -> String {
    let kind = object.kind.name().to_lowercase();
    format!("kubectl -n {} describe {kind} {}", object.namespace, object.name)
}
