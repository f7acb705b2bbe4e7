//! Plugins that were compiled against earlier versions of the contract, and are in service somewhere: `tests/compiled`.

use crate::setup::{Host, PROBE, header, plugin, response_header, told, use_of};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use sluice_model::plugin::{Grants, PluginSpec, SecretValue, StoreGrant};
use sluice_wasm::{
    AttributeValue, Configured, Decision, Exchange, FetchError, Outbound, OutboundRequest, OutboundResponse,
    PlainRequest, PlainResponse, Summary,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compiled")
}

/// The versions of the contract that there are modules of.
fn versions() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut versions: Vec<String> = entries
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    versions.sort();
    versions
}

fn compiled(version: &str, name: &str) -> PluginSpec {
    let file = folder().join(version).join(format!("{name}.wasm"));
    let module = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    plugin(name, module.into())
}

/// The package that `sdk/wit` is now.
fn contract() -> wit_parser::PackageName {
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/wit");
    let (package, _) = resolve.push_dir(&wit).expect("the contract");
    resolve.packages[package].name.clone()
}

#[test]
fn each_version_of_the_contract_has_modules_that_stay() {
    let now = contract().version.expect("a version").to_string();
    assert!(versions().contains(&now), "there is no tests/compiled/{now}: its README says how it is made");
}

#[tokio::test]
async fn a_compiled_plugin_goes_on_through_all_phases() {
    for version in versions() {
        let host = Host::new();
        let probe = host.ready(&compiled(&version, "probe"), PROBE).await;
        let phases = ["request_headers", "request_body", "response_headers", "log"];
        assert_eq!(probe.phases().names(), phases, "{version}");

        let request =
            PlainRequest::get("/a?x=1").header("x-do", "everything").header("x-many", "1").header("x-gone", "1");
        let mut exchange = Exchange::new(request.property("client.address", "192.0.2.7"));
        let mut invocation = probe.begin();
        assert!(matches!(invocation.on_request(&mut exchange).await.unwrap(), Decision::Continue));
        for (name, expected) in [
            ("x-probe", Some("probe")),
            ("x-line", Some("GET https://example.com/a?x=1")),
            ("x-property", Some("192.0.2.7")),
            ("x-many-count", Some("2")),
            ("x-gone", None),
            ("x-refused", Some("[true, true, true, true, true]")),
        ] {
            assert_eq!(header(&exchange, name).as_deref(), expected, "{version}: {name}");
        }
        assert_eq!(exchange.request().unwrap().path(), "/changed");
        assert_eq!(exchange.attributes.get("probe.number"), Some(&AttributeValue::Integer(5)));
        assert_eq!(exchange.attributes.get("probe.flag"), Some(&AttributeValue::Boolean(true)));

        let response = PlainResponse { status: StatusCode::INTERNAL_SERVER_ERROR, ..PlainResponse::default() };
        exchange.put_response(Box::new(response));
        assert!(matches!(invocation.on_response(&mut exchange).await.unwrap(), Decision::Continue));
        assert_eq!(response_header(&exchange, "x-attribute").as_deref(), Some("text"));
        assert_eq!(exchange.response().unwrap().status(), StatusCode::BAD_GATEWAY);
        invocation.on_log(&mut exchange, Summary { bytes_sent: 2, ..Summary::default() }).await.unwrap();
        let logged = AttributeValue::String("/changed 502 0ns 0 2 None".into());
        assert_eq!(exchange.attributes.get("probe.log"), Some(&logged), "{version}");
    }
}

#[tokio::test]
async fn a_compiled_plugin_goes_on_to_answer_and_to_read_bodies() {
    for version in versions() {
        let host = Host::new();
        let probe = host.ready(&compiled(&version, "probe"), PROBE).await;
        let Decision::Respond(reply) = probe.begin().on_request(&mut told("deny")).await.unwrap() else {
            panic!("{version}: it does not answer");
        };
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::FORBIDDEN, &b"no\n"[..]), "{version}");

        let (mut exchange, mut invocation) = (told("read"), probe.begin());
        let Decision::ReadBody(body) = invocation.on_request(&mut exchange).await.unwrap() else {
            panic!("{version}: it reads no body");
        };
        assert_eq!(body.limit, 10);
        let outcome = invocation.on_request_body(&mut exchange, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(outcome.replacement.as_deref(), Some(&b"HELLO"[..]), "{version}");
    }
}

#[tokio::test]
async fn a_compiled_plugin_goes_on_to_read_responses_and_to_be_tested_by_itself() {
    for version in versions() {
        let host = Host::new();
        let config = r#"{"name":"a","readResponse":{"limit":10,"replace":"other"}}"#;
        let steps = host.ready(&compiled(&version, "steps"), config).await;
        let (mut exchange, mut invocation) = (told(""), steps.begin());
        exchange.put_response(Box::new(PlainResponse::default()));
        let Decision::ReadBody(body) = invocation.on_response(&mut exchange).await.unwrap() else {
            panic!("{version}: it reads no body");
        };
        assert_eq!(body.limit, 10);
        let outcome = invocation.on_response_body(&mut exchange, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(outcome.replacement.as_deref(), Some(&b"other"[..]), "{version}");

        let mut unfit = std::fs::read(folder().join(&version).join("stamped.wasm")).unwrap();
        let at = unfit.windows(12).position(|bytes| bytes == b"version-0000").expect("the version's place");
        unfit[at..at + 12].copy_from_slice(b"unfit---0001");
        host.ensure(&[&plugin("stamped", unfit.into())], &[&use_of("stamped", "{}")]).await;
        assert_eq!(host.problem().code, sluice_model::problem::Code::PluginSelfTest, "{version}");
    }
}

#[tokio::test]
async fn a_compiled_plugin_goes_on_to_see_pieces_and_trailers() {
    for version in versions() {
        let host = Host::new();
        let config = r#"{"name":"a","request":{"make":"keep"},"response":{"make":"upper","end":"abort","after":5}}"#;
        let streams = host.ready(&compiled(&version, "streams"), config).await;
        let (mut exchange, mut invocation) = (told(""), streams.begin());
        let mut passed = Vec::new();
        for (piece, end) in [("one", false), ("two", true)] {
            let mut bytes = Bytes::from(piece);
            invocation.on_request_piece(&mut exchange, &mut bytes, end).await.unwrap();
            passed.push(bytes);
        }
        assert_eq!(passed, ["", "onetwo"], "{version}");
        exchange.put_response(Box::new(PlainResponse::default()));
        let mut bytes = Bytes::from_static(b"down");
        invocation.on_response_piece(&mut exchange, &mut bytes, false).await.unwrap();
        assert_eq!(bytes, "DOWN", "{version}");
        let decision = invocation.on_response_piece(&mut exchange, &mut bytes, false).await.unwrap();
        assert!(matches!(decision, Decision::Abort), "{version}");
        let mut trailers: HeaderMap =
            [(http::HeaderName::from_static("x-trailer"), HeaderValue::from_static("kept"))].into_iter().collect();
        invocation.on_response_trailers(&mut exchange, &mut trailers, &mut Bytes::new()).await.unwrap();
        assert_eq!(trailers["x-trailer"], "kept+a", "{version}");
    }
}

#[tokio::test]
async fn a_compiled_plugin_is_held_to_the_schema_that_it_carries() {
    for version in versions() {
        let host = Host::new();
        host.ensure(&[&compiled(&version, "probe")], &[&use_of("probe", r#"{"nmae":"typo"}"#)]).await;
        let problem = host.problem();
        assert!(problem.message.contains("nmae"), "{version}: {}", problem.message);
    }
}

#[tokio::test]
async fn a_compiled_plugin_has_the_services_that_it_was_built_for() {
    for version in versions() {
        let host = Host::new();
        let spec = compiled(&version, "keeper");
        let grants = Grants {
            stores: [("limits".into(), StoreGrant { quota: StoreGrant::DEFAULT_QUOTA })].into(),
            secrets: [("token".into(), Some(SecretValue::new(b"one")))].into(),
            ..Grants::default()
        };
        let plugin_use = use_of("keeper", "{}");
        host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), grants)]).await;
        let keeper: Arc<Configured> = host.current(&plugin_use.key()).unwrap_or_else(|| panic!("{:?}", host.problem()));
        for (what, expected) in [
            ("secret token", r#"Some("one")"#),
            ("add orders 2 size=l;gauge depth 7;observe wait 5", "ok; ok; ok"),
            ("set limits a b;get limits a;swap limits a b c;remove limits a", r#"ok; Some("b"); true; true"#),
            ("increment limits n 2;counter limits n", "2; 2"),
            ("take limits t 2 1 60000 1", "true 1 wait"),
            ("random 0", "[]"),
        ] {
            let mut exchange = told(what);
            keeper.begin().on_request(&mut exchange).await.unwrap();
            assert_eq!(header(&exchange, "x-told").as_deref(), Some(expected), "{version}: {what}");
        }
        let mut exchange = told("now;monotonic;number");
        keeper.begin().on_request(&mut exchange).await.unwrap();
        let told = header(&exchange, "x-told").unwrap();
        assert!(told.split("; ").all(|number| number.parse::<u128>().is_ok()), "{version}: {told}");
    }
}

struct Teapot;

impl Outbound for Teapot {
    fn has(&self, backend: &str) -> bool {
        backend == "auth"
    }

    fn fetch(&self, _: &str, _: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        let headers: HeaderMap =
            [(http::HeaderName::from_static("x-backend"), HeaderValue::from_static("one"))].into_iter().collect();
        let body = Bytes::from_static(b"hello");
        std::future::ready(Ok(OutboundResponse {
            status: StatusCode::IM_A_TEAPOT,
            headers,
            body,
            trailers: HeaderMap::new(),
            held: None,
        }))
        .boxed()
    }
}

#[tokio::test]
async fn a_compiled_plugin_goes_on_to_call_backends() {
    for version in versions() {
        let host = Host::new();
        let caller = host.ready(&compiled(&version, "caller"), "{}").await;
        let mut exchange = Exchange::new(PlainRequest::get("/a").header("x-call", "GET auth /check"));
        exchange.outbound = Some(Arc::new(Teapot));
        caller.begin().on_request(&mut exchange).await.unwrap();
        assert_eq!(header(&exchange, "x-called").as_deref(), Some("418 one 5"), "{version}");
        assert_eq!(header(&exchange, "x-body").as_deref(), Some("hello"), "{version}");
    }
}
