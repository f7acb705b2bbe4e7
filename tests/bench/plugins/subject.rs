//! A policy as its own page configures it, and the request that it is called with.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluice_model::plugin::{
    FailMode, Grants, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec, PluginUse, SecretValue,
    StoreGrant,
};
use sluice_model::{Kind, ObjectRef};
use sluice_sources::yaml;
use sluice_tests::{binary, guests};
use sluice_wasm::{
    Configured, Decision, Desired, Exchange, FetchError, Outbound, OutboundRequest, OutboundResponse, PlainRequest,
    PlainResponse, PluginHost, Summary,
};
use std::sync::Arc;
use std::time::Duration;

const NAMESPACE: &str = "shop";

pub(crate) struct Subject {
    pub(crate) policy: String,
    /// What is called, in a few words.
    pub(crate) what: String,
    module: Arc<[u8]>,
    config: Value,
    limits: PluginLimits,
    grants: Grants,
    request: PlainRequest,
    body: &'static str,
    /// Of the policy's own answer; none where the request goes on.
    answer: Option<u16>,
    backends: Option<Arc<dyn Outbound>>,
}

impl Subject {
    /// Every policy by its page, and transform once more with twenty headers.
    pub(crate) fn all() -> Vec<Subject> {
        let mut all: Vec<Subject> = guests::policies().iter().map(|policy| Subject::of(policy)).collect();
        let mut headers = Subject::of("transform");
        headers.what = "20 headers set".to_owned();
        let set = (0..20).map(|n| (format!("x-header-{n}"), json!(format!("the value of number {n}"))));
        headers.config = json!({"request": {"headers": {"set": Value::Object(set.collect())}}});
        all.push(headers);
        all
    }

    fn of(policy: &str) -> Subject {
        let objects = example(policy);
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind);
        let plugin = of_kind("Plugin").unwrap_or_else(|| panic!("{policy}: its page has no Plugin"));
        let uses = of_kind("TrafficPolicy").unwrap_or_else(|| panic!("{policy}: its page has no TrafficPolicy"));
        let mut subject = Subject {
            policy: policy.to_owned(),
            what: "its page's example".to_owned(),
            module: std::fs::read(guests::shipped(policy)).expect("a module").into(),
            config: uses["spec"]["plugins"][0]["config"].clone(),
            limits: limits(&plugin["spec"]["limits"]),
            grants: grants(&plugin["spec"]["capabilities"], &objects),
            request: request(),
            body: "",
            answer: None,
            backends: None,
        };
        subject.meet();
        subject
    }

    /// Makes the request one that the policy's example is about.
    fn meet(&mut self) {
        let what = match self.policy.as_str() {
            "basic-auth" => {
                // chef:open-sesame
                self.header("authorization", "Basic Y2hlZjpvcGVuLXNlc2FtZQ==");
                "a password that was verified before"
            }
            "body-limit" => {
                self.post("a short body");
                "a body of 12 bytes"
            }
            "ext-auth" => {
                self.header("authorization", "Bearer let-me-in");
                self.backends = Some(Arc::new(Backends));
                "the service answers at once"
            }
            "ip-restriction" => {
                self.request.properties.push(("client.address".to_owned(), "192.0.2.7".to_owned()));
                "an address that is allowed"
            }
            "jwt" => {
                let token = tokens()["tokens"]["es256"].as_str().expect("a token").to_owned();
                self.header("authorization", &format!("Bearer {token}"));
                self.backends = Some(Arc::new(Backends));
                "a token by ES256, keys cached"
            }
            "key-auth" => {
                self.header("x-api-key", "a-long-random-key");
                "a key that is known"
            }
            "maintenance" => {
                self.answer = Some(503);
                "the page"
            }
            "oidc" => {
                let cookie = std::fs::read_to_string(binary::root().join("plugins/oidc/tests/session.txt"));
                let session = cookie.expect("a session");
                self.header("cookie", &format!("sid=0123456789abcdef0123456789abcdef; {}", session.trim()));
                self.backends = Some(Arc::new(Backends));
                "a session with two claims"
            }
            "rate-limit" => {
                // Limits that no bench reaches, in place of the example's.
                for limit in self.config["limits"].as_array_mut().expect("limits") {
                    limit["requests"] = json!(1_000_000_000);
                }
                self.header("x-tenant", "acme");
                self.request.properties.push(("client.address".to_owned(), "192.0.2.7".to_owned()));
                "a token bucket and a window, neither exhausted"
            }
            "request-validation" => {
                self.request.path = "/orders".to_owned();
                self.request.query = None;
                self.post(r#"{"item":"tea","count":2,"note":"by Friday"}"#);
                self.header("content-type", "application/json");
                "an operation with a body of 43 bytes"
            }
            "traffic-log" => {
                self.post(r#"{"card":"1234-5678-1234-5678","user":{"password":"hunter2"}}"#);
                self.header("content-type", "application/json");
                "headers, query and a body of 61 bytes"
            }
            _ => return,
        };
        self.what = what.to_owned();
    }

    fn header(&mut self, name: &'static str, value: &str) {
        self.request.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
    }

    fn post(&mut self, body: &'static str) {
        self.request.method = "POST".to_owned();
        self.header("content-length", &body.len().to_string());
        self.body = body;
    }

    /// The policy, compiled and configured.
    pub(crate) async fn ready(&self, host: &PluginHost, instance: InstanceMode) -> Arc<Configured> {
        let sha256 = |bytes: &[u8]| Arc::from(hex::encode(Sha256::digest(bytes)));
        let key = PluginKey::new(NAMESPACE, self.policy.as_str());
        let source = Some(ModuleSource::Inline { sha256: sha256(&self.module), bytes: self.module.clone() });
        let (limits, fail_mode) = (self.limits.clone(), FailMode::Closed);
        let key_of = key.clone();
        let spec = PluginSpec { key: key_of, source, remote: None, instance, limits, fail_mode, redis_stores: false };
        let config = self.config.to_string();
        let plugin_use = PluginUse {
            name: self.policy.as_str().into(),
            plugin: key.clone(),
            config_hash: sha256(config.as_bytes()),
            config: config.into(),
            fail_mode,
            when: None,
            at: Place {
                object: ObjectRef::new(Kind::TrafficPolicy, NAMESPACE, self.policy.as_str()),
                field: "spec.plugins[0]".into(),
            },
        };
        let use_key = plugin_use.key();
        let mut desired = Desired::default();
        desired.grants.insert(key.clone(), Arc::new(self.grants.clone()));
        desired.plugins.insert(key, Arc::new(spec));
        desired.add_use(&plugin_use);
        host.ensure(desired);
        host.settled().await;
        host.current(&use_key).unwrap_or_else(|| panic!("{}: {:?}", self.policy, host.problems()))
    }

    pub(crate) fn exchange(&self) -> Exchange {
        let mut exchange = Exchange::new(self.request.clone());
        exchange.request_ends = self.body.is_empty();
        exchange.outbound.clone_from(&self.backends);
        exchange.put_response(Box::new(PlainResponse::default()));
        exchange
    }

    /// A whole exchange; gives the status of the policy's own answer.
    pub(crate) async fn call(&self, version: &Arc<Configured>) -> Option<u16> {
        let (mut exchange, mut invocation) = (self.exchange(), version.begin());
        let mut decision = invocation.on_request(&mut exchange).await.expect("a decision");
        if let Decision::ReadBody(_) = decision {
            let body = Bytes::from_static(self.body.as_bytes());
            let outcome = invocation.on_request_body(&mut exchange, body).await.expect("a decision");
            decision = outcome.decision;
        }
        invocation.on_response(&mut exchange).await.expect("a decision");
        invocation.on_log(&mut exchange, Summary::default()).await.expect("a log phase");
        match decision {
            Decision::Respond(reply) => Some(reply.status.as_u16()),
            _ => None,
        }
    }

    /// Figures of an answer that nobody asked for would mean nothing.
    pub(crate) async fn is_answered_as_expected(&self, version: &Arc<Configured>) {
        let answer = self.call(version).await;
        assert_eq!(answer, self.answer, "{}: it answers {answer:?}", self.policy);
    }
}

/// With twelve headers.
fn request() -> PlainRequest {
    PlainRequest::get("/api/orders?utm_source=mail&page=2")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("accept-language", "en")
        .header("cache-control", "no-cache")
        .header("cookie", "sid=0123456789abcdef0123456789abcdef")
        .header("origin", "https://example.com")
        .header("referer", "https://example.com/shop")
        .header("x-request-id", "6f1c0e0a-7b0a-4b34-9e0e-2a54e7f0a001")
        .header("x-forwarded-for", "203.0.113.7")
        .header("x-forwarded-proto", "https")
        .header("x-tenant", "acme")
}

/// The objects of the example on a policy's page.
fn example(policy: &str) -> Vec<Value> {
    let page = std::fs::read_to_string(binary::root().join("plugins").join(policy).join("README.md")).expect("a page");
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("an example");
    let documents = yaml::load(block).unwrap_or_else(|error| panic!("{policy}: {error}"));
    documents.iter().map(yaml::Node::to_json).collect()
}

fn limits(limits: &Value) -> PluginLimits {
    let default = PluginLimits::default();
    PluginLimits {
        run_time: duration(&limits["runTime"]).unwrap_or(default.run_time),
        deadline: duration(&limits["deadline"]).unwrap_or(default.deadline),
        ..default
    }
}

/// As examples write it: milliseconds, or seconds.
fn duration(value: &Value) -> Option<Duration> {
    let text = value.as_str()?;
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("`{text}` is no duration of an example"));
    Some(match text.strip_suffix("ms") {
        Some(text) => Duration::from_millis(number(text)),
        None => Duration::from_secs(number(text.trim_end_matches('s'))),
    })
}

/// What the Plugin of an example is given: stores, and the Secrets beside it.
fn grants(capabilities: &Value, objects: &[Value]) -> Grants {
    let listed = |field: &str| capabilities[field].as_array().cloned().unwrap_or_default();
    let name = |value: &Value| Arc::<str>::from(value["name"].as_str().expect("a name"));
    let store = StoreGrant { quota: StoreGrant::DEFAULT_QUOTA };
    let secret = |wanted: &Value| {
        let object = objects
            .iter()
            .find(|object| object["kind"] == "Secret" && object["metadata"]["name"] == wanted["ref"]["name"]);
        let key = wanted["ref"]["key"].as_str().expect("a key");
        let value = object.and_then(|object| object["stringData"][key].as_str());
        value.map(|value| SecretValue::new(value.as_bytes()))
    };
    Grants {
        stores: listed("stores").iter().map(|wanted| (name(wanted), store)).collect(),
        secrets: listed("secrets").iter().map(|wanted| (name(wanted), secret(wanted))).collect(),
        ..Grants::default()
    }
}

/// Keys and tokens that jwt's own tests go by.
fn tokens() -> Value {
    let path = binary::root().join("plugins/jwt/tests/tokens.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("tokens")).expect("JSON")
}

/// The services that examples ask, without a network between.
struct Backends;

impl Outbound for Backends {
    fn has(&self, backend: &str) -> bool {
        matches!(backend, "auth" | "idp")
    }

    fn fetch(&self, backend: &str, _: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        let mut headers = HeaderMap::new();
        let body = match backend {
            "idp" => Bytes::from(json!({ "keys": tokens()["keys"] }).to_string()),
            _ => {
                headers.insert("x-user", HeaderValue::from_static("ann"));
                Bytes::new()
            }
        };
        std::future::ready(Ok(OutboundResponse {
            status: StatusCode::OK,
            headers,
            body,
            trailers: HeaderMap::new(),
            held: None,
        }))
        .boxed()
    }
}
