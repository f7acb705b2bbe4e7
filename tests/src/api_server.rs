//! A Kubernetes API server in miniature: it lists and watches the objects that a test puts in, as JSON over plain HTTP,
//! takes what clients write (create, merge patch, server-side apply, delete; the status subresource; conflicts of
//! versions), says who may do what, and misbehaves where a test asks for it. Enough for `sluice run --kube`; no schema is checked.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sluice_model::Kind;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, io::Error>;

/// Stops when dropped.
pub struct ApiServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<JoinSet<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Watchers look again when this changes.
    changed: watch::Sender<u64>,
    /// Watches are cut off when this changes.
    cut: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    history: Vec<Event>,
    /// Watches from before this version are answered 410.
    oldest: u64,
    forbidden: BTreeSet<String>,
    /// Verb and resource that reviews deny, beside those of forbidden kinds.
    denied: BTreeSet<(String, String)>,
    /// The questions that were asked (`spec`).
    reviews: Vec<Value>,
    failing: BTreeSet<String>,
    /// Versions by plural, where they are not v1 (or v1alpha1); none: not installed.
    served: HashMap<String, Vec<String>>,
    no_streaming: Option<u16>,
    requests: Vec<String>,
    /// What clients wrote: method and path.
    writes: Vec<(String, String)>,
    /// What was applied last by a client, by key: what is not in the next apply goes.
    applied: HashMap<(String, String, String), Value>,
}

#[derive(Clone)]
struct Event {
    version: u64,
    kind: &'static str,
    plural: String,
    object: Value,
}

impl ApiServer {
    /// Empty; every kind is installed, everything is allowed.
    pub async fn start() -> ApiServer {
        let state = State { version: 1, ..State::default() };
        let shared = Shared { state: Mutex::new(state), changed: watch::Sender::new(0), cut: watch::Sender::new(0) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().unwrap();
        let mut server = ApiServer { address, shared: Arc::new(shared), serving: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = self.shared.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let shared = shared.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let shared = shared.clone();
                    async move {
                        let (head, body) = Request::into_parts(request);
                        let body = match body.collect().await {
                            Ok(body) => body.to_bytes(),
                            // The client went away.
                            Err(_) => Bytes::new(),
                        };
                        Ok::<_, Infallible>(answer(&shared, &head, &body))
                    }
                });
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // How a connection ends is the client's business, or the test's.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        self.serving = Some(tasks);
    }

    /// Closes the port and every connection. Objects may be changed meanwhile.
    pub async fn stop(&mut self) {
        if let Some(mut tasks) = self.serving.take() {
            tasks.shutdown().await;
        }
    }

    /// Serves again, on the same port.
    pub async fn resume(&mut self) {
        let listener = crate::wait::until("the API server's port to be free", || async {
            TcpListener::bind(self.address).await.ok()
        });
        let listener = listener.await;
        self.serve(listener);
    }

    /// Creates an object or replaces it, as `kubectl apply`; more or less what a server adds is added.
    pub fn apply(&self, mut object: Value) {
        let plural = plural(&object);
        self.change(|state| {
            let key = key(&plural, &object);
            let former = state.objects.get(&key).cloned();
            // A status is written by itself only.
            if let (Some(status), None) =
                (former.as_ref().and_then(|former| former.get("status")), object.get("status"))
            {
                object["status"] = status.clone();
            }
            Some(state.store(key, object.clone()))
        });
    }

    /// Replaces an object's status, as some other controller does.
    pub fn set_status(&self, kind: Kind, namespace: &str, name: &str, status: Value) {
        let key = (kind.plural().to_owned(), namespace.to_owned(), name.to_owned());
        self.change(|state| {
            let mut object = state.objects.get(&key)?.clone();
            object["status"] = status.clone();
            Some(state.store(key, object))
        });
    }

    /// An object as it stands there.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.shared.state.lock().unwrap().objects.get(&key).cloned()
    }

    /// All objects of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.shared.state.lock().unwrap();
        state.objects.iter().filter(|((of, ..), _)| of == plural).map(|(_, object)| object.clone()).collect()
    }

    /// What clients wrote so far: method and path.
    pub fn writes(&self) -> Vec<(String, String)> {
        self.shared.state.lock().unwrap().writes.clone()
    }

    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.remove(kind.plural(), namespace, name);
    }

    /// Deletes an object of any kind, watched or not.
    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.change(|state| {
            state.remove(&key);
            None
        });
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.change(|state| {
            Some(Event { version: state.version, kind: "BOOKMARK", plural: String::new(), object: Value::Null })
        });
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Option<Event>) {
        let mut state = self.shared.state.lock().unwrap();
        state.version += 1;
        if let Some(event) = change(&mut state) {
            state.history.push(event);
        }
        drop(state);
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Forgets what happened: watches from an earlier version get 410.
    pub fn compact(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.oldest = state.version;
        state.history.clear();
    }

    /// Cuts off every watch in the middle.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// 403 for a kind; open watches of it are cut.
    pub fn forbid(&self, kind: Kind) {
        self.shared.state.lock().unwrap().forbidden.insert(kind.plural().to_owned());
        self.cut();
    }

    /// Answers 500 for a kind, as where its conversion webhook is down. Open watches are cut.
    pub fn fail(&self, kind: Kind) {
        self.shared.state.lock().unwrap().failing.insert(kind.plural().to_owned());
        self.cut();
    }

    /// What was forbidden or failed before is answered.
    pub fn allow(&self, kind: Kind) {
        let mut state = self.shared.state.lock().unwrap();
        state.forbidden.remove(kind.plural());
        state.failing.remove(kind.plural());
    }

    /// Answers reviews of this right with no: `patch`, `gateways/status`. Requests are not held against it.
    pub fn deny(&self, verb: &str, resource: &str) {
        self.shared.state.lock().unwrap().denied.insert((verb.to_owned(), resource.to_owned()));
    }

    /// What (Self)SubjectAccessReviews asked: their `spec`.
    pub fn reviews(&self) -> Vec<Value> {
        self.shared.state.lock().unwrap().reviews.clone()
    }

    /// Which versions of a kind are served; none: 404, as where its CRD is not installed. Open watches are cut.
    pub fn serve_versions(&self, kind: Kind, versions: &[&str]) {
        let versions = versions.iter().map(|version| (*version).to_owned()).collect();
        self.shared.state.lock().unwrap().served.insert(kind.plural().to_owned(), versions);
        self.cut();
    }

    /// Refuses `sendInitialEvents` with this status.
    pub fn refuse_streaming(&self, status: u16) {
        self.shared.state.lock().unwrap().no_streaming = Some(status);
    }

    /// Every request so far: path and query, decoded.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// The text of a kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }
}

/// Of kinds that are not watched (Pod, CustomResourceDefinition), the regular one.
fn plural(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let name = object["kind"].as_str().unwrap_or_else(|| panic!("no kind: {object}"));
    Kind::from_group_kind(group, name).map_or_else(|| format!("{}s", name.to_lowercase()), |k| k.plural().to_owned())
}

fn key(plural: &str, object: &Value) -> (String, String, String) {
    let meta = &object["metadata"];
    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    (plural.to_owned(), text("namespace"), text("name"))
}

/// What a request asks for.
struct Asked {
    version: String,
    plural: String,
    namespace: Option<String>,
    name: Option<String>,
    /// `status`.
    subresource: Option<String>,
    query: HashMap<String, String>,
}

impl Asked {
    fn read(path: &str, query: &str) -> Option<Asked> {
        let mut parts: VecDeque<&str> = path.trim_matches('/').split('/').collect();
        if parts.pop_front()? == "apis" {
            parts.pop_front()?;
        }
        let version = parts.pop_front()?.to_owned();
        let in_namespace = parts.len() >= 3 && parts.front() == Some(&"namespaces");
        let namespace = if in_namespace { parts.drain(..2).nth(1) } else { None };
        let plural = parts.pop_front()?.to_owned();
        let name = parts.pop_front().map(str::to_owned);
        let subresource = parts.pop_front().map(str::to_owned);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect();
        Some(Asked { version, plural, namespace: namespace.map(str::to_owned), name, subresource, query })
    }

    /// Of the one object that is asked for.
    fn key(&self) -> Option<(String, String, String)> {
        Some((self.plural.clone(), self.namespace.clone().unwrap_or_default(), self.name.clone()?))
    }

    fn is(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true")
    }

    fn selects(&self, plural: &str, object: &Value) -> bool {
        let meta = &object["metadata"];
        let here = plural == self.plural && self.namespace.as_deref().is_none_or(|ns| meta["namespace"] == ns);
        let fields = self.query.get("fieldSelector").is_none_or(|selector| {
            selector.split(',').all(|term| match (term.split_once("!="), term.split_once('=')) {
                (Some(("type", value)), _) => object["type"] != value,
                (None, Some(("type", value))) => object["type"] == value,
                (None, Some(("metadata.name", value))) => meta["name"] == value,
                _ => panic!("a field selector that is not known: {term}"),
            })
        });
        let labels = self.query.get("labelSelector").is_none_or(|label| !meta["labels"][label].is_null());
        here && fields && labels
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn answer(shared: &Arc<Shared>, request: &http::request::Parts, body: &[u8]) -> Response<Body> {
    let uri = &request.uri;
    let mut state = shared.state.lock().unwrap();
    state.requests.push(decode(&uri.to_string()));
    if uri.path() == "/version" {
        return json_answer(StatusCode::OK, &json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1"}));
    }
    let Some(asked) = Asked::read(uri.path(), uri.query().unwrap_or_default()) else { return not_found() };
    let served = match state.served.get(&asked.plural) {
        Some(versions) => versions.contains(&asked.version),
        None => matches!(asked.version.as_str(), "v1" | "v1alpha1"),
    };
    if !served {
        return not_found();
    }
    if state.forbidden.contains(&asked.plural) {
        return refuse(403, "Forbidden", &format!("{} is forbidden: User \"test\" cannot list it", asked.plural));
    }
    if asked.plural.ends_with("subjectaccessreviews") {
        return review(&mut state, body);
    }
    if state.failing.contains(&asked.plural) {
        return refuse(500, "InternalError", "conversion webhook failed");
    }
    if request.method != http::Method::GET {
        let answer = write(&mut state, request, &asked, body);
        drop(state);
        shared.changed.send_modify(|n| *n += 1);
        return answer;
    }
    if let Some(key) = asked.key() {
        return match state.objects.get(&key) {
            Some(object) => json_answer(StatusCode::OK, object),
            None => refuse(404, "NotFound", &format!("{} \"{}\" not found", key.0, key.2)),
        };
    }
    if !asked.is("watch") {
        return list(&state, &asked);
    }
    let initial = asked.is("sendInitialEvents");
    if let Some(code) = state.no_streaming.filter(|_| initial) {
        return refuse(
            code,
            "Invalid",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is on",
        );
    }
    let from = asked.query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
    if from.is_some_and(|from| from < state.oldest) {
        return refuse(410, "Expired", "too old resource version");
    }
    let mut first = Vec::new();
    if initial {
        let there = state.objects.iter().filter(|((plural, ..), object)| asked.selects(plural, object));
        first.extend(there.map(|(_, object)| json!({"type": "ADDED", "object": object})));
        first.push(bookmark(state.version, true));
    }
    let from = from.unwrap_or(state.version);
    drop(state);
    follow(shared.clone(), asked, from, first)
}

/// Who may do what: everything but what a test took away.
fn review(state: &mut State, body: &[u8]) -> Response<Body> {
    let Ok(mut review) = serde_json::from_slice::<Value>(body) else { return refuse(400, "BadRequest", "not JSON") };
    let attributes = &review["spec"]["resourceAttributes"];
    let text = |field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let (verb, plural, subresource) = (text("verb"), text("resource"), text("subresource"));
    let reads = matches!(verb.as_str(), "list" | "watch") && subresource.is_empty();
    let resource = if subresource.is_empty() { plural.clone() } else { format!("{plural}/{subresource}") };
    let denied = state.denied.contains(&(verb, resource)) || (reads && state.forbidden.contains(&plural));
    state.reviews.push(review["spec"].clone());
    review["status"] = json!({"allowed": !denied});
    json_answer(StatusCode::CREATED, &review)
}

/// What a client writes.
fn write(state: &mut State, request: &http::request::Parts, asked: &Asked, body: &[u8]) -> Response<Body> {
    state.writes.push((request.method.to_string(), request.uri.path().to_owned()));
    state.version += 1;
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return refuse(400, "BadRequest", "not JSON") };
    let content = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let applies = content.starts_with("application/apply-patch");
    let key = match (asked.key(), &request.method) {
        (None, &http::Method::POST) => key(&asked.plural, &body),
        (Some(key), _) => key,
        (None, _) => return refuse(405, "MethodNotAllowed", "the path names no object"),
    };
    let former = state.objects.get(&key).cloned();
    let not_found = || refuse(404, "NotFound", &format!("{} \"{}\" not found", key.0, key.2));
    if request.method == http::Method::DELETE {
        let Some(former) = former else { return not_found() };
        let wanted = &body["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != former["metadata"]["uid"] {
            return refuse(409, "Conflict", "the UID in the precondition is another one");
        }
        state.remove(&key);
        return json_answer(StatusCode::OK, &json!({"kind": "Status", "status": "Success"}));
    }
    let object = match former {
        Some(_) if request.method == http::Method::POST => return refuse(409, "AlreadyExists", "it exists"),
        None if request.method != http::Method::POST && !applies => return not_found(),
        None => body.clone(),
        Some(former) => {
            let version = &body["metadata"]["resourceVersion"];
            if !version.is_null() && *version != former["metadata"]["resourceVersion"] {
                return refuse(
                    409,
                    "Conflict",
                    "the object has been modified; please apply your changes to the latest version",
                );
            }
            let mut object = former.clone();
            if asked.subresource.as_deref() == Some("status") {
                merge(&mut object["status"], &body["status"]);
            } else {
                if let Some(applied) = state.applied.get(&key).filter(|_| applies) {
                    remove_others(&mut object, applied, &body);
                }
                let mut patch = body.clone();
                patch.as_object_mut().unwrap().remove("status");
                merge(&mut object, &patch);
            }
            if object == former {
                return json_answer(StatusCode::OK, &former);
            }
            object
        }
    };
    if applies {
        state.applied.insert(key.clone(), body);
    }
    let event = state.store(key, object);
    let answer = json_answer(StatusCode::OK, &event.object);
    state.history.push(event);
    answer
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(field);
        } else {
            merge(&mut target[field], value);
        }
    }
}

/// Takes away what was applied before and is not any more.
fn remove_others(object: &mut Value, applied: &Value, now: &Value) {
    let (Value::Object(object), Value::Object(applied)) = (object, applied) else { return };
    for (field, former) in applied {
        match (now.get(field), object.get_mut(field)) {
            (None, _) => {
                object.remove(field);
            }
            (Some(now), Some(inner)) => remove_others(inner, former, now),
            (Some(_), None) => {}
        }
    }
}

fn list(state: &State, asked: &Asked) -> Response<Body> {
    let all: Vec<&Value> =
        state.objects.iter().filter(|((plural, ..), object)| asked.selects(plural, object)).map(|(_, o)| o).collect();
    // Two a page, so that tests see pages without hundreds of objects.
    let start = asked.query.get("continue").map_or(0, |token| token.parse::<usize>().unwrap());
    let end = if asked.query.contains_key("limit") { (start + 2).min(all.len()) } else { all.len() };
    let items: Vec<Value> = all[start..end]
        .iter()
        .map(|object| {
            let mut item = (*object).clone();
            item.as_object_mut().unwrap().retain(|field, _| field != "apiVersion" && field != "kind");
            item
        })
        .collect();
    let next = if end < all.len() { end.to_string() } else { String::new() };
    let body = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": {"resourceVersion": state.version.to_string(), "continue": next},
        "items": items,
    });
    json_answer(StatusCode::OK, &body)
}

fn bookmark(version: u64, ends_list: bool) -> Value {
    let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if ends_list {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1", "metadata": meta}})
}

/// Sends `first`, then what happens after `from`, until it is cut.
fn follow(shared: Arc<Shared>, asked: Asked, from: u64, first: Vec<Value>) -> Response<Body> {
    let (mut changed, mut cut) = (shared.changed.subscribe(), shared.cut.subscribe());
    // What happened since `from` waits already.
    changed.mark_changed();
    let (lines, receiver) = mpsc::channel::<Result<Value, io::Error>>(16);
    tokio::spawn(async move {
        let mut last = from;
        let mut events = first;
        loop {
            for event in events {
                if lines.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = cut.changed() => {
                    let _ = lines.send(Err(io::Error::other("cut"))).await;
                    return;
                }
                () = lines.closed() => return,
            }
            events = shared.state.lock().unwrap().since(&asked, &mut last);
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let body = events.map(|event| event.map(|event| Frame::data(Bytes::from(format!("{event}\n")))));
    Response::new(BodyExt::boxed(StreamBody::new(body)))
}

impl State {
    /// Puts an object in, with what a server adds: a generation that counts changes of all but metadata and status.
    fn store(&mut self, key: (String, String, String), mut object: Value) -> Event {
        let former = self.objects.get(&key);
        let kind = if former.is_some() { "MODIFIED" } else { "ADDED" };
        let content = |object: &Value| {
            let mut content = object.clone();
            content.as_object_mut().unwrap().retain(|field, _| field != "metadata" && field != "status");
            content
        };
        let meta_of = |field: &str| former.map(|former| former["metadata"][field].clone()).filter(|v| !v.is_null());
        let generation = meta_of("generation").and_then(|g| g.as_i64()).unwrap_or(0);
        let same = former.is_some_and(|former| content(former) == content(&object));
        let uid = meta_of("uid").unwrap_or_else(|| format!("uid-{}-{}", key.1, key.2).into());
        let meta = object["metadata"].as_object_mut().expect("metadata");
        meta.insert("resourceVersion".into(), self.version.to_string().into());
        meta.insert("generation".into(), (generation + i64::from(!same)).into());
        meta.insert("uid".into(), uid);
        meta.entry("creationTimestamp").or_insert("2026-01-01T00:00:00Z".into());
        meta.insert("managedFields".into(), json!([{"manager": "test", "operation": "Apply"}]));
        self.objects.insert(key.clone(), object.clone());
        Event { version: self.version, kind, plural: key.0, object }
    }

    fn remove(&mut self, key: &(String, String, String)) {
        let Some(mut object) = self.objects.remove(key) else { return };
        self.applied.remove(key);
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Event { version: self.version, kind: "DELETED", plural: key.0.clone(), object });
    }

    fn since(&self, asked: &Asked, last: &mut u64) -> Vec<Value> {
        let of = |event: &Event| match event.kind {
            "BOOKMARK" => Some(bookmark(event.version, false)),
            kind => {
                let selected = asked.selects(&event.plural, &event.object);
                selected.then(|| json!({"type": kind, "object": event.object}))
            }
        };
        let events = self.history.iter().filter(|event| event.version > *last).filter_map(of).collect();
        *last = self.version;
        events
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn refuse(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    json_answer(StatusCode::from_u16(code).unwrap(), &status)
}

/// As a real one answers for a group that it does not know: no Status, plain text.
fn not_found() -> Response<Body> {
    let body = Full::new(Bytes::from_static(b"404 page not found\n")).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
