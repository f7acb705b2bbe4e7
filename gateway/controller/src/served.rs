//! Asks the proxies what they serve: a Gateway is programmed, and an Ingress has an address, only when every ready
//! proxy serves it.

use crate::controller::Controller;
use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sluice_model::{Kind, ObjectRef, Served, ServedObject, ServedPlugin, ServedQuestion};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Objects of one question.
const MAX_OBJECTS: usize = 2_000;
/// Longest time of an answer, and its bytes.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 4 << 20;
/// Between questions while something is waited for: doubles from the first to the last of these.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Between questions while nothing is: a proxy may have lost a port.
const IDLE: Duration = Duration::from_secs(5);

/// Asks proxies over HTTP.
pub(crate) struct Asker {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Asker {
    pub(crate) fn new() -> Asker {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(PATIENCE));
        Asker { client: Client::builder(TokioExecutor::new()).build(tcp) }
    }

    async fn ask(&self, proxy: SocketAddr, question: Bytes) -> Result<Served, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{proxy}/served"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(question))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!("status {}", answer.status().as_u16()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("the answer took too long".to_owned()))
    }
}

/// What all of them serve: the oldest form, and the listeners that all have.
fn common(answers: Vec<Served>) -> HashMap<ObjectRef, ServedObject> {
    let mut answers = answers.into_iter();
    let by_object = |served: Served| -> HashMap<ObjectRef, ServedObject> {
        served.objects.into_iter().map(|object| (object.object.clone(), object)).collect()
    };
    let mut all = answers.next().map(by_object).unwrap_or_default();
    for answer in answers.map(by_object) {
        all.retain(|object, served| match answer.get(object) {
            Some(other) if other.uid == served.uid => {
                served.generation = served.generation.min(other.generation);
                let theirs: BTreeSet<&String> = other.listeners.iter().collect();
                served.listeners.retain(|listener| theirs.contains(listener));
                served.plugin = match (served.plugin.take(), &other.plugin) {
                    (Some(mine), Some(theirs)) => of_both(mine, theirs),
                    _ => None,
                };
                true
            }
            _ => false,
        });
    }
    all
}

/// What two proxies have made of one code; none where it is not the same yet.
fn of_both(mine: ServedPlugin, theirs: &ServedPlugin) -> Option<ServedPlugin> {
    let missing = |plugin: &ServedPlugin| plugin.uses.saturating_sub(plugin.ready);
    let (uses, missing) = (mine.uses.max(theirs.uses), missing(&mine).max(missing(theirs)));
    (mine.sha256 == theirs.sha256).then(|| ServedPlugin {
        checked: mine.checked && theirs.checked,
        phases: if mine.phases.is_empty() { theirs.phases.clone() } else { mine.phases },
        config_schema: mine.config_schema.or_else(|| theirs.config_schema.clone()),
        uses,
        ready: uses.saturating_sub(missing),
        error: mine.error.or_else(|| theirs.error.clone()),
        fetched: mine.fetched.filter(|fetched| Some(fetched) == theirs.fetched.as_ref()),
        sha256: mine.sha256,
    })
}

impl Controller {
    /// Asks for as long as it is polled, while this replica is the leader.
    pub async fn ask(&self) {
        let mut term = self.lease.term();
        let mut news = self.asked.subscribe();
        let mut pause = FIRST_PAUSE;
        loop {
            if term.borrow_and_update().is_none() {
                if term.changed().await.is_err() {
                    return;
                }
                continue;
            }
            news.mark_unchanged();
            let (objects, waiting) = self.lock().question(&self.settings, MAX_OBJECTS);
            let answered = if objects.is_empty() { true } else { self.ask_all(objects).await };
            let next = if waiting || !answered { pause } else { IDLE };
            // However often something changes.
            sleep(FIRST_PAUSE).await;
            tokio::select! {
                () = sleep(next) => pause = if waiting || !answered { (pause * 2).min(LAST_PAUSE) } else { FIRST_PAUSE },
                _ = news.changed() => pause = FIRST_PAUSE,
                _ = term.changed() => {}
            }
        }
    }

    /// Says whether all that were asked have answered.
    async fn ask_all(&self, objects: Vec<ObjectRef>) -> bool {
        let question = ServedQuestion { objects };
        let answers = if self.settings.proxies.is_none() {
            vec![(self.own)(&question)]
        } else {
            let proxies = self.lock().observed.proxies.clone();
            let Ok(text) = serde_json::to_vec(&question) else { return false };
            let text = Bytes::from(text);
            let asked = proxies.iter().map(|proxy| self.asker.ask(*proxy, text.clone()));
            let mut answers = Vec::new();
            for (proxy, answer) in proxies.iter().zip(join_all(asked).await) {
                match answer {
                    Ok(served) => answers.push(served),
                    Err(error) => {
                        // What was known stays: a proxy that goes away is soon not ready any more.
                        tracing::debug!(%proxy, %error, "a proxy does not say what it serves");
                        return false;
                    }
                }
            }
            if answers.is_empty() {
                return false;
            }
            answers
        };
        let served = common(answers);
        let mut model = self.lock();
        let mut changed = false;
        let mut gateways = 0;
        for object in question.objects {
            let new = served.get(&object);
            if model.served.get(&object) != new {
                changed = true;
                gateways += u64::from(matches!(object.kind, Kind::Gateway | Kind::ListenerSet));
                model.dirty.insert(object.clone());
                match new {
                    Some(new) => model.served.insert(object, new.clone()),
                    None => model.served.remove(&object),
                };
            }
        }
        model.shape += gateways;
        // Of objects that are gone nothing is to be known.
        let asked = model.gateways.len() + model.listener_sets.len() + model.ingresses.len() + model.plugins.len();
        if model.served.len() > asked {
            let mut kept = std::mem::take(&mut model.served);
            kept.retain(|object, _| model.asks_for(object));
            model.served = kept;
        }
        drop(model);
        self.tell(changed);
        true
    }

    fn tell(&self, changed: bool) {
        if changed {
            self.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(generation: i64, listeners: &[&str]) -> Served {
        let object = ObjectRef::new(Kind::Gateway, "shop", "edge");
        let listeners = listeners.iter().map(ToString::to_string).collect();
        Served { objects: vec![ServedObject { object, uid: "u".into(), generation, listeners, plugin: None }] }
    }

    fn made(sha256: &str, uses: u32, ready: u32) -> Served {
        let object = ObjectRef::new(Kind::Plugin, "shop", "guard");
        let plugin = ServedPlugin { sha256: sha256.into(), checked: true, uses, ready, ..ServedPlugin::default() };
        let served = ServedObject { object, uid: "u".into(), generation: 1, listeners: vec![], plugin: Some(plugin) };
        Served { objects: vec![served] }
    }

    #[test]
    fn a_plugin_is_what_the_slowest_proxy_has_made_of_it_and_nothing_while_their_code_differs() {
        let of = |answers| common(answers).into_values().next().unwrap().plugin;
        let slow = of(vec![made("a", 2, 2), made("a", 3, 1)]).unwrap();
        assert_eq!((slow.uses, slow.ready), (3, 1));
        let broken = ServedPlugin { error: Some("trap".into()), ..made("a", 2, 2).objects[0].plugin.clone().unwrap() };
        let both = of_both(made("a", 2, 2).objects[0].plugin.clone().unwrap(), &broken).unwrap();
        assert_eq!(both.error.as_deref(), Some("trap"));
        assert_eq!(of(vec![made("a", 1, 1), made("b", 1, 1)]), None);
    }

    #[test]
    fn what_all_serve_is_the_oldest_form_and_the_listeners_that_all_have() {
        let all = common(vec![served(3, &["a", "b"]), served(2, &["b", "c"])]);
        let found = all.values().next().unwrap();
        assert_eq!((found.generation, found.listeners.as_slice()), (2, ["b".to_owned()].as_slice()));
        assert!(common(vec![served(3, &["a"]), Served::default()]).is_empty());
        assert!(common(Vec::new()).is_empty());
    }
}
