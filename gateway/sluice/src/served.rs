//! What this process serves, object by object: what the controller asks for before it calls anything programmed.

use crate::plane::Plane;
use sluice_model::config::ListenerId;

use sluice_model::{FetchedPlugin, Kind, ObjectRef, Served, ServedObject, ServedPlugin, ServedQuestion};
use sluice_resources::{Change, Object};
use sluice_translate::{INGRESS_GATEWAY, INGRESS_NAMESPACE};
use sluice_wasm::{FetchProgress, PluginStatus};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// UID and generation of objects in the form that is served.
#[derive(Debug, Default)]
pub(crate) struct ServedForms {
    forms: Mutex<HashMap<ObjectRef, Form>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    uid: String,
    generation: i64,
}

/// Changes of forms that are being put to work.
pub(crate) struct Coming(Vec<(ObjectRef, Option<Form>)>);

impl Coming {
    /// Of Gateways, ListenerSets, Ingress objects and Plugins; nobody asks for others.
    pub(crate) fn of(changes: &[Change]) -> Coming {
        let form = |object: &Object| {
            let meta = object.metadata();
            Form { uid: meta.uid.clone().unwrap_or_default(), generation: meta.generation.unwrap_or_default() }
        };
        let asked_for = |kind: Kind| matches!(kind, Kind::Gateway | Kind::ListenerSet | Kind::Ingress | Kind::Plugin);
        let forms = changes.iter().filter_map(|change| match change {
            Change::Upsert(object) if asked_for(object.kind()) => Some((object.reference(), Some(form(object)))),
            Change::Delete(object) if asked_for(object.kind) => Some((object.clone(), None)),
            _ => None,
        });
        Coming(forms.collect())
    }
}

impl ServedForms {
    /// They are served now.
    pub(crate) fn arrived(&self, coming: Coming) {
        if coming.0.is_empty() {
            return;
        }
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        for (object, form) in coming.0 {
            match form {
                Some(form) => forms.insert(object, form),
                None => forms.remove(&object),
            };
        }
    }

    pub(crate) fn answer(&self, question: &ServedQuestion, plane: &Plane) -> Served {
        let listeners = open_listeners(plane);
        let of = |owner: &ObjectRef| listeners.get(owner).cloned().unwrap_or_default();
        let of_ingress = of(&ObjectRef::new(Kind::Gateway, INGRESS_NAMESPACE, INGRESS_GATEWAY));
        let plugins = match plane {
            Plane::Serving { plugins, .. } if question.objects.iter().any(|object| object.kind == Kind::Plugin) => {
                plugins.statuses()
            }
            _ => Vec::new(),
        };
        let plugins: HashMap<_, _> = plugins.into_iter().map(|status| (status.plugin.clone(), status)).collect();
        let forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = |object: &ObjectRef| {
            let form = forms.get(object)?.clone();
            let listeners = match object.kind {
                Kind::Ingress => of_ingress.clone(),
                Kind::Gateway | Kind::ListenerSet => of(object),
                _ => Vec::new(),
            };
            let plugin = (object.kind == Kind::Plugin).then(|| plugins.get(&object.key()).map(plugin)).flatten();
            Some(ServedObject { object: object.clone(), uid: form.uid, generation: form.generation, listeners, plugin })
        };
        Served { objects: question.objects.iter().filter_map(answer).collect() }
    }
}

fn plugin(status: &PluginStatus) -> ServedPlugin {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (sha256, fetched) = match status.fetch.as_ref().map(|fetch| &fetch.progress) {
        None => (status.sha256.to_string(), None),
        Some(FetchProgress::Fetched { size, image_digest }) => {
            let image_digest = image_digest.as_ref().map(ToString::to_string);
            (status.sha256.to_string(), Some(FetchedPlugin { size: *size, image_digest }))
        }
        // What serves meanwhile is not the code that the object names.
        Some(_) => (String::new(), None),
    };
    ServedPlugin {
        sha256,
        fetched,
        checked: status.checked,
        phases: status.phases.iter().map(ToString::to_string).collect(),
        config_schema: status.schema.as_ref().map(|schema| schema.sha256()),
        uses: count(status.uses),
        ready: count(status.ready),
        error: status.error.clone(),
    }
}

/// The listeners of each Gateway, and of each ListenerSet, whose sockets are open.
fn open_listeners(plane: &Plane) -> BTreeMap<ObjectRef, Vec<String>> {
    let mut open: BTreeMap<ObjectRef, Vec<String>> = BTreeMap::new();
    let Plane::Serving { proxy, .. } = plane else { return open };
    let config = plane.config();
    // A listener on several addresses is open when all of them are.
    let mut shut: Vec<ListenerId> = Vec::new();
    for (transport, address, port) in config.sockets() {
        let bound = proxy.local_addr(transport, address).is_some();
        for id in port.listeners.iter().map(|listener| &listener.id) {
            if bound {
                let (owner, own_name) = id.owner();
                let names = open.entry(owner).or_default();
                if names.iter().all(|name| name != own_name) {
                    names.push(own_name.to_owned());
                }
            } else {
                shut.push(id.clone());
            }
        }
    }
    for id in shut {
        let (owner, own_name) = id.owner();
        if let Some(names) = open.get_mut(&owner) {
            names.retain(|name| name != own_name);
        }
    }
    open
}
