//! A Kubernetes API server in miniature: it lists and watches the objects that a test puts in, as JSON over plain HTTP,
//! and misbehaves where a test asks for it. Enough for `sluice run --kube`; nothing is checked, nothing is written by
//! clients.

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
    /// Versions by plural, where they are not v1 (or v1alpha1); none: not installed.
    served: HashMap<String, Vec<String>>,
    no_streaming: Option<u16>,
    requests: Vec<String>,
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
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(answer(&shared, &request)) }
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
            let known = state.objects.contains_key(&key);
            let kind = if known { "MODIFIED" } else { "ADDED" };
            let meta = object["metadata"].as_object_mut().expect("metadata");
            meta.insert("resourceVersion".into(), state.version.to_string().into());
            meta.entry("uid").or_insert_with(|| format!("uid-{}-{}", key.1, key.2).into());
            meta.entry("creationTimestamp").or_insert("2026-01-01T00:00:00Z".into());
            meta.insert("managedFields".into(), json!([{"manager": "test", "operation": "Apply"}]));
            state.objects.insert(key, object.clone());
            Some(Event { version: state.version, kind, plural: plural.clone(), object: object.clone() })
        });
    }

    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind.plural().to_owned(), namespace.to_owned(), name.to_owned());
        self.change(|state| {
            let mut object = state.objects.remove(&key)?;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            Some(Event { version: state.version, kind: "DELETED", plural: key.0.clone(), object })
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

    pub fn allow(&self, kind: Kind) {
        self.shared.state.lock().unwrap().forbidden.remove(kind.plural());
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

fn plural(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = Kind::from_group_kind(group, object["kind"].as_str().unwrap_or_default());
    kind.unwrap_or_else(|| panic!("not a kind that is read: {object}")).plural().to_owned()
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
    query: HashMap<String, String>,
}

impl Asked {
    fn read(path: &str, query: &str) -> Option<Asked> {
        let mut parts: VecDeque<&str> = path.trim_matches('/').split('/').collect();
        if parts.pop_front()? == "apis" {
            parts.pop_front()?;
        }
        let version = parts.pop_front()?.to_owned();
        let namespace = (parts.len() == 3 && parts.pop_front()? == "namespaces").then(|| parts.pop_front()).flatten();
        let plural = parts.pop_front()?.to_owned();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect();
        Some(Asked { version, plural, namespace: namespace.map(str::to_owned), query })
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

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let uri = request.uri();
    let mut state = shared.state.lock().unwrap();
    state.requests.push(decode(&uri.to_string()));
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
