//! Writes statuses: what differs, with the version that it was compared with, a few at a time.

use crate::api::{self, Failure};
use crate::conditions::{ANCESTORS, PARENTS, difference, merged};
use crate::controller::{Controller, Settings};
use crate::desired;
use crate::model::{Model, Reach, is_one_of};
use crate::time::seconds;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sluice_model::{Kind, ObjectRef};
use sluice_resources::Held;
use sluice_translate::{Condition, ListenerStatus};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Writes that run at a time.
const CONCURRENCY: usize = 16;
/// The status of a Gateway or ListenerSet counts routes: while many of them come, it is written at most so often.
const GATEWAY_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for proxies and addresses before a Gateway is said to be pending: mostly they are there at once,
/// and one write says it all.
const GRACE: Duration = Duration::from_secs(2);
/// After a failure: doubles from the first to the last of these.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Failures of one kind are logged once in so long.
const QUIET: Duration = Duration::from_secs(60);

/// What is to be done about an object.
#[derive(Debug, PartialEq)]
enum Task {
    /// It is as it should be, or nobody's.
    Nothing,
    /// Not yet.
    Later(Instant),
    Write {
        path: String,
        patch: Value,
    },
}

/// What is remembered between looks.
#[derive(Debug, Default)]
struct Memory {
    /// Since when a Gateway has been about to be called pending.
    pending: HashMap<ObjectRef, Instant>,
    /// When a Gateway's status was written last.
    written: HashMap<ObjectRef, Instant>,
    later: BTreeMap<ObjectRef, Instant>,
    pauses: HashMap<ObjectRef, Duration>,
    said: HashMap<Kind, Instant>,
}

impl Memory {
    fn task(&mut self, model: &Model, settings: &Settings, object: &ObjectRef, now: Instant, time: &str) -> Task {
        let Some(held) = model.held.get(object) else {
            self.pending.remove(object);
            return Task::Nothing;
        };
        let status = held.status();
        let fields = match object.kind {
            Kind::GatewayClass => class(model, object, held, &status, time),
            Kind::Gateway => match self.gateway(model, settings, object, held, &status, now, time) {
                Ok(fields) => fields,
                Err(later) => return Task::Later(later),
            },
            Kind::ListenerSet => match self.listener_set(model, settings, object, held, &status, now, time) {
                Ok(fields) => fields,
                Err(later) => return Task::Later(later),
            },
            kind if kind.is_route() => route(model, object, held, &status, time),
            Kind::Ingress if model.left.contains(object) => left(model, &status),
            Kind::Ingress => ingress(model, settings, object, held, &status),
            Kind::Plugin => match self.plugin(model, object, held, &status, now, time) {
                Ok(fields) => fields,
                Err(later) => return Task::Later(later),
            },
            Kind::TrafficPolicy | Kind::BackendTLSPolicy | Kind::XBackendTrafficPolicy => {
                policy(model, object, held, &status, time)
            }
            Kind::GatewayConfig => config(model, object, held, &status, time),
            _ => None,
        };
        let Some(patch) = fields.and_then(|fields| difference(fields, &status)) else { return Task::Nothing };
        let patch = json!({
            "apiVersion": held.api_version, "kind": object.kind.name(),
            "metadata": {"resourceVersion": held.resource_version},
            "status": patch,
        });
        Task::Write { path: format!("{}/status", api::path(object, &held.api_version)), patch }
    }

    #[allow(clippy::too_many_arguments)] // what there is to know of one Gateway
    fn gateway(
        &mut self,
        model: &Model,
        settings: &Settings,
        object: &ObjectRef,
        held: &Held,
        status: &Value,
        now: Instant,
        time: &str,
    ) -> Result<Option<Map<String, Value>>, Instant> {
        let Some(wanted) = model.gateways.get(object).filter(|wanted| wanted.observed() == held.generation) else {
            return Ok(None);
        };
        let reach = model.reach(object, settings);
        let conditions = desired::gateway(wanted, &reach);
        let in_time = ["Pending", "AddressNotAssigned", "AddressNotUsable"];
        let waits = conditions.iter().any(|c| c.kind == "Programmed" && !c.status && in_time.contains(&c.reason));
        self.patience(object, waits, now)?;
        let part = |field: &str| status.get(field).unwrap_or(&Value::Null);
        // Of one that cannot be read the listeners are those of the form before, which serve.
        let rejected = wanted.rejected.is_some() && wanted.unread.is_none();
        let listeners = listeners(&wanted.listeners, part("listeners"), wanted.observed(), rejected, &reach, time);
        let ours = ["Accepted", "Programmed", "ResolvedRefs", "InsecureFrontendValidationMode", "DefaultGateway"];
        // CRDs of before ListenerSets have no such field, and an API server drops it: it is not written for nothing.
        let sets = match (wanted.attached_listener_sets, part("attachedListenerSets")) {
            (0, Value::Null) => Value::Null,
            (sets, _) => json!(sets),
        };
        let fields = Map::from_iter([
            ("addresses".to_owned(), desired::addresses(&reach.addresses)),
            ("attachedListenerSets".to_owned(), sets),
            ("conditions".to_owned(), merged(&conditions, part("conditions"), wanted.observed(), &ours, time)),
            ("listeners".to_owned(), listeners),
        ]);
        self.seldom(object, fields, status, now).map(Some)
    }

    #[allow(clippy::too_many_arguments)] // what there is to know of one ListenerSet
    fn listener_set(
        &mut self,
        model: &Model,
        settings: &Settings,
        object: &ObjectRef,
        held: &Held,
        status: &Value,
        now: Instant,
        time: &str,
    ) -> Result<Option<Map<String, Value>>, Instant> {
        let Some(wanted) = model.listener_sets.get(object).filter(|wanted| wanted.observed() == held.generation) else {
            return Ok(None);
        };
        let reach = model.reach_of_set(object, wanted, settings);
        let conditions = desired::listener_set(wanted, &reach);
        let waits = |c: &Condition| matches!(c.reason, "Pending" | "ParentNotProgrammed");
        self.patience(object, wanted.rejected.is_none() && conditions.iter().any(waits), now)?;
        let part = |field: &str| status.get(field).unwrap_or(&Value::Null);
        // Of one that cannot be read the listeners are those of the form before, which serve.
        let rejected = wanted.rejected.is_some() && wanted.unread.is_none();
        let listeners = listeners(&wanted.listeners, part("listeners"), wanted.observed(), rejected, &reach, time);
        let ours = ["Accepted", "Programmed"];
        let fields = Map::from_iter([
            ("conditions".to_owned(), merged(&conditions, part("conditions"), wanted.observed(), &ours, time)),
            ("listeners".to_owned(), listeners),
        ]);
        self.seldom(object, fields, status, now).map(Some)
    }

    /// Does not write what counts routes too often; says when to look again.
    fn seldom(
        &self,
        object: &ObjectRef,
        fields: Map<String, Value>,
        status: &Value,
        now: Instant,
    ) -> Result<Map<String, Value>, Instant> {
        let recently = self.written.get(object).map(|written| *written + GATEWAY_INTERVAL).filter(|until| now < *until);
        match recently {
            Some(until) if difference(fields.clone(), status).is_some() => Err(until),
            _ => Ok(fields),
        }
    }

    fn plugin(
        &mut self,
        model: &Model,
        object: &ObjectRef,
        held: &Held,
        status: &Value,
        now: Instant,
        time: &str,
    ) -> Result<Option<Map<String, Value>>, Instant> {
        let Some(wanted) = model.plugins.get(object).filter(|wanted| wanted.observed() == held.generation) else {
            return Ok(None);
        };
        let made = model.made(object);
        let conditions = desired::plugin(wanted, made);
        self.patience(object, conditions.iter().any(|condition| condition.reason == "Pending"), now)?;
        let former = status.get("conditions").unwrap_or(&Value::Null);
        let conditions = merged(&conditions, former, wanted.observed(), &["Accepted", "Ready"], time);
        let code = desired::code(wanted, made).into_iter().map(|(field, value)| (field.to_owned(), value));
        Ok(Some(code.chain([("conditions".to_owned(), conditions)]).collect()))
    }

    /// Does not call an object pending before some time has passed; says when that is.
    fn patience(&mut self, object: &ObjectRef, waits: bool, now: Instant) -> Result<(), Instant> {
        if !waits {
            self.pending.remove(object);
            return Ok(());
        }
        let since = *self.pending.entry(object.clone()).or_insert(now);
        if now < since + GRACE { Err(since + GRACE) } else { Ok(()) }
    }

    /// The next time at which something is to be looked at again.
    fn next(&self) -> Option<Instant> {
        self.later.values().min().copied()
    }

    fn failed(&mut self, object: &ObjectRef, failure: &Failure, now: Instant) {
        let pause = self.pauses.entry(object.clone()).or_insert(FIRST_PAUSE);
        self.later.insert(object.clone(), now + *pause);
        *pause = (*pause * 2).min(LAST_PAUSE);
        let quiet = self.said.get(&object.kind).is_some_and(|said| now < *said + QUIET);
        if !quiet {
            self.said.insert(object.kind, now);
            tracing::warn!(%object, %failure, "a status cannot be written; it is tried again");
        }
    }
}

/// `status.listeners` of a Gateway or a ListenerSet, of which `held` is what stands there. `rejected`: the object is.
fn listeners(
    wanted: &[ListenerStatus],
    held: &Value,
    generation: i64,
    rejected: bool,
    reach: &Reach,
    time: &str,
) -> Value {
    let entry = |listener: &ListenerStatus| {
        let held = held.as_array().into_iter().flatten();
        let former = held.clone().find(|held| held.get("name") == Some(&json!(listener.name)));
        let former = former.and_then(|held| held.get("conditions")).unwrap_or(&Value::Null);
        let conditions = desired::listener(listener, rejected, reach);
        json!({
            "name": listener.name,
            "supportedKinds": desired::supported_kinds(listener),
            "attachedRoutes": listener.attached_routes,
            "conditions": merged(&conditions, former, generation, &["OverlappingTLSConfig"], time),
        })
    };
    wanted.iter().map(entry).collect()
}

fn class(model: &Model, object: &ObjectRef, held: &Held, status: &Value, time: &str) -> Option<Map<String, Value>> {
    let wanted = model.classes.get(object).filter(|wanted| wanted.generation == held.generation)?;
    let conditions = desired::class(wanted, model.bundle.as_ref());
    let former = status.get("conditions").unwrap_or(&Value::Null);
    let features = desired::features(model.bundle.as_ref());
    Some(Map::from_iter([
        ("conditions".to_owned(), merged(&conditions, former, wanted.generation, &["Accepted"], time)),
        ("supportedFeatures".to_owned(), features),
    ]))
}

fn route(model: &Model, object: &ObjectRef, held: &Held, status: &Value, time: &str) -> Option<Map<String, Value>> {
    let wanted = model.routes.get(object).filter(|wanted| wanted.generation == held.generation)?;
    let parents = desired::parents(wanted, |gateway| model.gateways.contains_key(gateway));
    let former = status.get("parents").unwrap_or(&Value::Null);
    Some(Map::from_iter([("parents".to_owned(), PARENTS.merged(&parents, former, wanted.generation, time))]))
}

fn policy(model: &Model, object: &ObjectRef, held: &Held, status: &Value, time: &str) -> Option<Map<String, Value>> {
    let wanted = model.policies.get(object).filter(|wanted| wanted.generation == held.generation)?;
    let former = status.get("ancestors").unwrap_or(&Value::Null);
    let ancestors = ANCESTORS.merged(&desired::ancestors(wanted), former, wanted.generation, time);
    Some(Map::from_iter([("ancestors".to_owned(), ancestors)]))
}

fn config(model: &Model, object: &ObjectRef, held: &Held, status: &Value, time: &str) -> Option<Map<String, Value>> {
    let wanted = model.configs.get(object).filter(|wanted| wanted.generation == held.generation)?;
    let former = status.get("conditions").unwrap_or(&Value::Null);
    let conditions = merged(&wanted.conditions(), former, wanted.generation, &["Accepted"], time);
    Some(Map::from_iter([
        ("conditions".to_owned(), conditions),
        ("uses".to_owned(), json!(wanted.used_by.len())),
        ("usedBy".to_owned(), desired::users(wanted)),
    ]))
}

/// An Ingress that is not ours any more shows none of our addresses; those that others wrote stay.
fn left(model: &Model, status: &Value) -> Option<Map<String, Value>> {
    let addresses = model.front_addresses();
    let entries = status.pointer("/loadBalancer/ingress")?.as_array()?;
    let others: Vec<&Value> = entries.iter().filter(|entry| !is_one_of(entry, &addresses)).collect();
    let rest = if others.is_empty() { Value::Null } else { json!(others) };
    (others.len() < entries.len()).then(|| Map::from_iter([("loadBalancer".to_owned(), json!({"ingress": rest}))]))
}

/// What stands there stays until the new generation is served, and where it is not known where we are reached. A
/// generation that was not looked at yet may be another controller's.
fn ingress(
    model: &Model,
    settings: &Settings,
    object: &ObjectRef,
    held: &Held,
    status: &Value,
) -> Option<Map<String, Value>> {
    settings.ingress_service.as_ref()?;
    let generation = *model.ingresses.get(object).filter(|generation| **generation == held.generation)?;
    let addresses = model.front_addresses();
    if addresses.is_empty() || !model.serves_ingress(object, generation) {
        return None;
    }
    let wanted = desired::load_balancer(&addresses);
    let field = "loadBalancer".to_owned();
    let same = status.pointer("/loadBalancer/ingress").is_some_and(|held| *held == wanted);
    (!same).then(|| Map::from_iter([(field, json!({"ingress": wanted}))]))
}

enum Outcome {
    Written(Held),
    /// The newest form, or that there is none.
    Conflict(Option<Held>),
    Failed(Failure),
}

impl Controller {
    /// Writes what differs, while this replica is the leader.
    pub async fn write_statuses(&self) {
        let mut memory = Memory::default();
        let mut leads = self.lease.term();
        let mut news = self.news.subscribe();
        let mut writes: JoinSet<(ObjectRef, Outcome)> = JoinSet::new();
        let mut writing: HashSet<ObjectRef> = HashSet::new();
        loop {
            let leading = leads.borrow_and_update().is_some();
            news.mark_unchanged();
            if leading {
                self.refresh_nodes().await;
                let now = Instant::now();
                for (object, path, patch) in self.due(&mut memory, &writing, now) {
                    writing.insert(object.clone());
                    let api = self.api.clone();
                    writes.spawn(async move {
                        let outcome = write(&api, &path, &patch).await;
                        (object, outcome)
                    });
                }
            }
            let next = memory.next();
            let later = async {
                match next {
                    Some(then) if leading => sleep_until(then.into()).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = writes.join_next() => match done {
                    Ok((object, outcome)) => {
                        writing.remove(&object);
                        self.took(&mut memory, object, outcome);
                    }
                    // Whoever runs this counts it, and runs it again.
                    Err(error) => if let Ok(panic) = error.try_into_panic() { std::panic::resume_unwind(panic) },
                },
                changed = news.changed() => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
                () = later => {}
            }
        }
    }

    /// Writes to start now, as many as there is room for.
    fn due(&self, memory: &mut Memory, writing: &HashSet<ObjectRef>, now: Instant) -> Vec<(ObjectRef, String, Value)> {
        let mut model = self.lock();
        let due: Vec<ObjectRef> =
            memory.later.iter().filter(|(_, then)| **then <= now).map(|(object, _)| object.clone()).collect();
        for object in due {
            memory.later.remove(&object);
            model.dirty.insert(object);
        }
        let mut starts = Vec::new();
        let mut kept = std::collections::BTreeSet::new();
        let time = seconds(Timestamp::now());
        while writing.len() + starts.len() < CONCURRENCY {
            let Some(object) = model.dirty.pop_first() else { break };
            // It is looked at when its write has ended, or its pause.
            if writing.contains(&object) {
                kept.insert(object);
                continue;
            }
            if memory.later.contains_key(&object) && memory.pauses.contains_key(&object) {
                continue;
            }
            match memory.task(&model, &self.settings, &object, now, &time) {
                Task::Nothing => {
                    memory.later.remove(&object);
                    memory.pauses.remove(&object);
                }
                Task::Later(then) => {
                    memory.later.insert(object, then);
                }
                Task::Write { path, patch } => starts.push((object, path, patch)),
            }
        }
        model.dirty.append(&mut kept);
        starts
    }

    fn took(&self, memory: &mut Memory, object: ObjectRef, outcome: Outcome) {
        let now = Instant::now();
        let mut model = self.lock();
        match outcome {
            Outcome::Written(held) => {
                self.metrics.wrote(object.kind, "written");
                memory.pauses.remove(&object);
                if matches!(object.kind, Kind::Gateway | Kind::ListenerSet) {
                    memory.written.insert(object.clone(), now);
                    memory.written.retain(|_, written| now < *written + GATEWAY_INTERVAL);
                }
                model.hold(object, held);
            }
            Outcome::Conflict(Some(held)) => {
                self.metrics.wrote(object.kind, "conflict");
                model.hold(object, held);
            }
            Outcome::Conflict(None) => {
                self.metrics.wrote(object.kind, "gone");
                memory.pauses.remove(&object);
                memory.pending.remove(&object);
                model.held.remove(&object);
            }
            Outcome::Failed(failure) => {
                self.metrics.wrote(object.kind, "failed");
                memory.failed(&object, &failure, now);
            }
        }
    }

    async fn refresh_nodes(&self) {
        if !self.lock().wants_nodes() {
            return;
        }
        match self.nodes.addresses(&self.api).await {
            Ok(nodes) => {
                let mut model = self.lock();
                if model.nodes != nodes {
                    model.nodes = nodes;
                    model.all_dirty();
                }
            }
            Err(failure) => tracing::debug!(%failure, "the addresses of nodes cannot be read"),
        }
    }
}

async fn write(api: &api::Api, path: &str, patch: &Value) -> Outcome {
    match api.merge(path, patch).await {
        Ok(written) => Outcome::Written(Held::of(&written)),
        Err(Failure::NotFound) => Outcome::Conflict(None),
        Err(Failure::Conflict) => {
            // The subresource shows the whole object: no right on more than is written is needed.
            match api.get(path).await {
                Ok(newest) => Outcome::Conflict(Some(Held::of(&newest))),
                Err(Failure::NotFound) => Outcome::Conflict(None),
                Err(failure) => Outcome::Failed(failure),
            }
        }
        Err(failure) => Outcome::Failed(failure),
    }
}
