//! The filter ExternalAuth (GEP-1494): a service is asked before a request goes on, over HTTP or by Envoy's ext_authz.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;
use sluice_tests::backend::{Handler, text};
use sluice_tests::objects::{http_route, join, service};
use sluice_tests::{Backend, ports, wait};
use std::sync::Arc;

/// A rule to `web` that asks `auth`; `settings` are those of the filter beside its backend.
fn guarded(settings: &str) -> String {
    let filter = format!("{{type: ExternalAuth, externalAuth: {{backendRef: {{name: auth, port: 80}}, {settings}}}}}");
    http_route("web", &[HOST], &format!("  - filters: [{filter}]\n    backendRefs: [{{name: web, port: 80}}]\n"))
}

async fn shop(auth: &Backend, settings: &str) -> Shop {
    Shop::start(&["web"], &join([guarded(settings), service("auth", &[auth.address])])).await
}

/// Lets in whoever knows the word, and says who that is; sends everybody else to sign in.
fn doorman() -> Handler {
    Arc::new(|request| {
        Box::pin(async move {
            let allowed = request.headers().get("authorization").is_some_and(|word| word == "Bearer sesame");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if body.as_ref() == b"forbidden words" {
                return text(StatusCode::FORBIDDEN, "not those words");
            }
            if !allowed {
                let mut answer = text(StatusCode::UNAUTHORIZED, "who are you?");
                answer.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer"));
                return answer;
            }
            let mut answer = text(StatusCode::OK, "come in");
            answer.headers_mut().insert("x-user", HeaderValue::from_static("ali"));
            answer.headers_mut().insert("x-other", HeaderValue::from_static("1"));
            answer
        })
    })
}

const WORD: &str = "Authorization: Bearer sesame\r\n";

#[tokio::test]
async fn over_http_200_lets_a_request_on_and_any_other_answer_is_the_clients() {
    let auth = Backend::with(doorman()).await;
    let settings = "protocol: HTTP, http: {path: /check, allowedHeaders: [X-Tenant], allowedResponseHeaders: [X-User]}";
    let shop = shop(&auth, settings).await;
    let denied = shop.get_with("/cart?x=1", "X-Tenant: a\r\nX-Secret: b\r\n").await;
    assert_eq!((denied.status, denied.text().as_str()), (401, "who are you?"));
    assert_eq!(denied.header("www-authenticate").as_deref(), Some("Bearer"));
    assert_eq!(shop.backend("web").count(), 0);
    let asked = &auth.seen()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/check/cart?x=1"));
    let field = |name: &str| asked.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((field("host"), field("x-tenant"), field("content-length")), (Some(HOST), Some("a"), Some("0")));
    assert_eq!((field("x-secret"), field("cookie"), field("x-forwarded-for")), (None, None, None));
    let line = shop.gateway.logged(|line| line["status"] == 401).await;
    assert_eq!(line["reason"], "external_auth_denied");

    // What a client says of itself under the service's names goes; what the service says comes.
    let allowed = shop.get_with("/cart", &format!("{WORD}X-User: root\r\nX-User: admin\r\n")).await;
    assert_eq!(backend_of(&allowed), "web");
    assert_eq!(seen_field(&allowed, "x-user").as_deref(), Some("ali"));
    assert_eq!(seen_field(&allowed, "x-other"), None, "it is not among those that are passed on");
    for result in ["allowed", "denied"] {
        let counted = shop.gateway.metric("sluice_external_auth_total", &[&format!("result=\"{result}\"")]).await;
        assert_eq!(counted, 1.0, "{result}");
    }
}

#[tokio::test]
async fn without_a_list_all_that_is_not_about_the_answer_is_passed_on() {
    let auth = Backend::with(doorman()).await;
    let shop = shop(&auth, "protocol: HTTP").await;
    let allowed = shop.get_with("/", &format!("{WORD}Content-Type: text/mine\r\n")).await;
    assert_eq!(seen_field(&allowed, "x-user").as_deref(), Some("ali"));
    assert_eq!(seen_field(&allowed, "x-other").as_deref(), Some("1"));
    assert_eq!(seen_field(&allowed, "content-type").as_deref(), Some("text/mine"));
    assert_eq!(seen_field(&allowed, "content-length"), None, "a GET without a body stays one");
}

#[tokio::test]
async fn the_body_is_shown_up_to_its_limit_and_goes_on_whole() {
    let auth = Backend::with(doorman()).await;
    let shop = shop(&auth, "protocol: HTTP, forwardBody: {maxSize: 20}").await;
    let post = |body: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{WORD}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let port = shop.http;
        async move { sluice_tests::raw::exchange(port, request).await.unwrap() }
    };
    assert_eq!(post("harmless").await.json()["body"], "harmless");
    assert_eq!(auth.seen()[0].headers["content-length"], "8");
    assert_eq!(post("forbidden words").await.status, 403);
    assert_eq!(post("more than twenty bytes of it").await.status, 413);
    assert_eq!((auth.count(), shop.backend("web").count()), (2, 1));
}

#[tokio::test]
async fn whatever_keeps_the_service_from_answering_keeps_the_request_from_going_on() {
    // Nobody there, one that fails, and one that says nothing.
    let failing =
        Backend::with(Arc::new(|_| Box::pin(async { text(StatusCode::INTERNAL_SERVER_ERROR, "inner secrets") }))).await;
    let silent = Backend::with(Arc::new(|_| Box::pin(std::future::pending()))).await;
    let gone = std::net::SocketAddr::from(([127, 0, 0, 1], ports::free()));
    for (address, timeouts) in [(gone, 0.0), (failing.address, 0.0), (silent.address, 1.0)] {
        let shop = Shop::start(&["web"], &join([guarded("protocol: HTTP"), service("auth", &[address])])).await;
        let answer = shop.get_with("/", WORD).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(!answer.text().contains("secrets"));
        let line = shop.gateway.logged(|line| line["status"] == 503).await;
        assert_eq!(line["reason"], "external_auth_failed");
        assert_eq!(shop.backend("web").count(), 0);
        assert_eq!(shop.gateway.metric("sluice_timeouts_total", &["external_auth"]).await, timeouts);
        assert_eq!(shop.gateway.metric("sluice_external_auth_total", &["failed"]).await, 1.0);
    }
}

/// The messages of `envoy.service.auth.v3`, as far as this service reads and writes them.
mod wire {
    use prost::Message;
    use std::collections::HashMap;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct CheckRequest {
        #[prost(message, optional, tag = "1")]
        pub(super) attributes: Option<Attributes>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Attributes {
        #[prost(message, optional, tag = "4")]
        pub(super) request: Option<Request>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Request {
        #[prost(message, optional, tag = "2")]
        pub(super) http: Option<Http>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Http {
        #[prost(string, tag = "2")]
        pub(super) method: String,
        #[prost(map = "string, string", tag = "3")]
        pub(super) headers: HashMap<String, String>,
        #[prost(string, tag = "4")]
        pub(super) path: String,
        #[prost(string, tag = "5")]
        pub(super) host: String,
        #[prost(string, tag = "11")]
        pub(super) body: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct CheckResponse {
        #[prost(message, optional, tag = "1")]
        pub(super) status: Option<Code>,
        #[prost(message, optional, tag = "2")]
        pub(super) denied: Option<Denied>,
        #[prost(message, optional, tag = "3")]
        pub(super) ok: Option<Ok>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Code {
        #[prost(int32, tag = "1")]
        pub(super) code: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Denied {
        #[prost(message, optional, tag = "1")]
        pub(super) status: Option<Code>,
        #[prost(message, repeated, tag = "2")]
        pub(super) headers: Vec<Field>,
        #[prost(string, tag = "3")]
        pub(super) body: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Ok {
        #[prost(message, repeated, tag = "2")]
        pub(super) headers: Vec<Field>,
        #[prost(string, repeated, tag = "5")]
        pub(super) headers_to_remove: Vec<String>,
        #[prost(message, repeated, tag = "6")]
        pub(super) response_headers_to_add: Vec<Field>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Field {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<Pair>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Pair {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }

    pub(super) fn field(key: &str, value: &str) -> Field {
        Field { header: Some(Pair { key: key.into(), value: value.into() }) }
    }
}

/// The same doorman, as a service of ext_authz.
fn grpc_doorman() -> Handler {
    Arc::new(|request| {
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let asked = wire::CheckRequest::decode(&body[5..]).unwrap();
            let http = asked.attributes.unwrap().request.unwrap().http.unwrap();
            let allowed = http.headers.get("authorization").is_some_and(|word| word == "Bearer sesame");
            let seen = format!("{} {} {} {}", http.method, http.host, http.path, http.body);
            let answer = if allowed {
                wire::CheckResponse {
                    status: Some(wire::Code { code: 0 }),
                    denied: None,
                    ok: Some(wire::Ok {
                        headers: vec![wire::field("x-user", "ali"), wire::field("x-seen", &seen)],
                        headers_to_remove: vec!["authorization".into()],
                        response_headers_to_add: vec![wire::field("x-door", "open")],
                    }),
                }
            } else {
                wire::CheckResponse {
                    status: Some(wire::Code { code: 16 }),
                    denied: Some(wire::Denied {
                        status: Some(wire::Code { code: 302 }),
                        headers: vec![wire::field("location", "https://login.example/")],
                        body: "sign in".into(),
                    }),
                    ok: None,
                }
            };
            let mut bytes = BytesMut::new();
            bytes.put_u8(0);
            bytes.put_u32(answer.encoded_len() as u32);
            answer.encode(&mut bytes).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Ok(Frame::data(bytes.freeze())), Ok(Frame::trailers(trailers))];
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        })
    })
}

#[tokio::test]
async fn by_ext_authz_a_service_changes_request_and_answer_or_answers_itself() {
    let auth = Backend::with(grpc_doorman()).await;
    let settings = "protocol: GRPC, grpc: {allowedHeaders: [authorization]}, forwardBody: {maxSize: 100}";
    let shop = shop(&auth, settings).await;
    let denied = shop.get("/cart").await;
    assert_eq!((denied.status, denied.text().as_str()), (302, "sign in"));
    assert_eq!(denied.header("location").as_deref(), Some("https://login.example/"));
    assert_eq!(denied.header("x-door"), None);
    let request = format!(
        "POST /cart?x=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{WORD}X-User: root\r\nContent-Length: 4\r\n\r\nbody"
    );
    let allowed = sluice_tests::raw::exchange(shop.http, request).await.unwrap();
    assert_eq!((allowed.json()["body"].as_str(), allowed.header("x-door").as_deref()), (Some("body"), Some("open")));
    assert_eq!(seen_field(&allowed, "x-user").as_deref(), Some("ali"));
    assert_eq!(seen_field(&allowed, "authorization"), None, "the service took it");
    assert_eq!(seen_field(&allowed, "x-seen").as_deref(), Some("POST shop.example /cart?x=1 body"));
    assert_eq!(auth.seen()[1].version, http::Version::HTTP_2);
    assert_eq!(auth.connections(), 1, "connections are kept");
}

#[tokio::test]
async fn a_service_that_speaks_no_ext_authz_lets_nothing_through() {
    // It echoes: the question is no answer.
    let auth = Backend::echo("parrot").await;
    let shop = shop(&auth, "protocol: GRPC").await;
    let answer = shop.get_with("/", WORD).await;
    assert_eq!((answer.status, shop.backend("web").count()), (503, 0), "{}", answer.text());
}

#[tokio::test]
async fn a_service_in_another_namespace_needs_a_grant_and_is_asked_over_tls_where_its_policy_says_so() {
    let authority = sluice_tests::certificate::Authority::new("auth");
    let leaf = authority.leaf(&["auth.example"]);
    let auth = Backend::with_tls(&leaf, doorman()).await;
    let route = guarded("protocol: HTTP").replace("{name: auth, port: 80}", "{name: auth, namespace: guard, port: 80}");
    let indented: String = authority.pem().lines().map(|line| format!("    {line}\n")).collect();
    let guard = join([
        service("auth", &[auth.address]).replace("namespace: default", "namespace: guard"),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: auth, namespace: guard}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: auth}]\n  validation: {hostname: auth.example, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}\n".to_owned(),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: guard}}\ndata:\n  ca.crt: |\n{indented}"),
    ]);
    let shop = Shop::start(&["web"], &join([route, guard])).await;
    assert_eq!(shop.get_with("/", WORD).await.status, 500, "nobody has granted it");
    shop.folder.write(
        "grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: auth, namespace: guard}\nspec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n",
    );
    wait::until("the grant", || async { (shop.get("/").await.status == 401).then_some(()) }).await;
    assert_eq!(backend_of(&shop.get_with("/", WORD).await), "web");
}
