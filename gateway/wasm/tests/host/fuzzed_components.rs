//! Whatever a component passes to the contract's functions, and returns from its own: it traps by itself or has its answer,
//! the exchange comes back with nothing in it that the contract does not let a plugin set, nothing stays behind, and the
//! next request is served. The guest is an interpreter: [`crate::interpreter`].
//!
//! [`crate::fuzz`] says how many programs are tried.

use crate::fuzz;
use crate::fuzzed_filters::AnyBackend;
use crate::interpreter::{
    CONTRACT, Called, FLOATS, Function, LETTERS, MANY_PAIRS, MEMORY, NO_TEXT, PAIRS, POST_RETURNS, Param, Program,
    RESULT, STALE, Slot, TEXTS, ZEROS, place_of, realloc, texts,
};
use crate::setup::{Host, PROBE, header, plugin, pooled, probe, use_of};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::TestCaseResult;
use sluice_model::object::NamespacedName;
use sluice_model::plugin::{
    Grants, InstanceMode, PluginKey, PluginSpec, PluginUse, RedisGrant, RedisLogin, RedisServer, SecretValue,
    StoreGrant,
};
use sluice_wasm::{
    AttributeValue, Attributes, BodyOutcome, Configured, Decision, Exchange, Invocation, PlainRequest, PlainResponse,
    PluginError, StoreConnection, StoreError, StoreErrorKind, StoreServers, Summary,
};
use std::sync::Arc;
use std::time::Duration;

/// Texts that fit a function's parameters that are texts, by the end of its name, one parameter after the other.
const FITTING: &[(&str, &[&[&str]])] = &[
    (".set-path", &[&["/path"]]),
    (".set-query", &[&["a=b", ""]]),
    (".property", &[&["client.address"]]),
    ("header", &[&["x-a", "X-Upper"]]),
    ("header-values", &[&["x-a"]]),
    ("bucket.open", &[&["limits"]]),
    ("[method]bucket", &[&["key", "a-b"]]),
    ("fetch", &[&["backend", "backend1"]]),
    ("set-authority", &[&["example.com:80"]]),
    ("[constructor]outgoing-request", &[&["GET"], &["/path"]]),
    ("get", &[&["token", "key", "etag"]]),
    ("add", &[&["seen"]]),
    ("set", &[&["depth", "etag"]]),
    ("observe", &[&["a-b", "none"]]),
];

/// One in so many parameters is hostile; zero: none.
type Hostility = u32;

fn literal(value: u64) -> Vec<Slot> {
    vec![Slot::Literal(value)]
}

fn fixed(value: u64) -> BoxedStrategy<Vec<Slot>> {
    Just(literal(value)).boxed()
}

fn list(places: Vec<(u64, u64)>) -> BoxedStrategy<Vec<Slot>> {
    let place = proptest::sample::select(places);
    place.prop_map(|(at, length)| vec![Slot::Literal(at), Slot::Literal(length)]).boxed()
}

/// Numbers at the edge of something.
fn edge() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        1,
        16,
        99,
        100,
        199,
        200,
        404,
        599,
        600,
        65_535,
        65_536,
        65_537,
        1 << 20,
        (1 << 20) + 1,
        MEMORY - 4,
        MEMORY - 1,
        MEMORY,
        i32::MAX as u64,
        u64::from(u32::MAX) - 3,
        u64::from(u32::MAX),
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
    ];
    prop_oneof![4 => proptest::sample::select(edges), 1 => any::<u64>()]
}

/// A list somewhere, of any length.
fn anywhere() -> BoxedStrategy<Vec<Slot>> {
    (edge(), edge()).prop_map(|(at, length)| vec![Slot::Literal(at), Slot::Literal(length)]).boxed()
}

/// What a parameter is in order, and what it is not.
fn parameter(function: &Function, place: usize) -> (BoxedStrategy<Vec<Slot>>, BoxedStrategy<Vec<Slot>>) {
    let long =
        vec![LETTERS, (LETTERS.0, 129), (LETTERS.0, 513), (LETTERS.0, 4_097), (LETTERS.0, 16_385), (LETTERS.0, 65_537)];
    match function.params[place] {
        Param::Integer => {
            let small = (0..600u64).prop_map(literal);
            (prop_oneof![2 => small, 1 => edge().prop_map(literal)].boxed(), edge().prop_map(literal).boxed())
        }
        Param::Float => {
            let floats = vec![0.0, 1.5, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX];
            let float = proptest::sample::select(floats).prop_map(|float| literal(float.to_bits())).boxed();
            (float, any::<u64>().prop_map(literal).boxed())
        }
        Param::Discriminant => ((0..2u64).prop_map(literal).boxed(), edge().prop_map(literal).boxed()),
        Param::Handle { kind, .. } => {
            let other = (0..=STALE).prop_map(|kind| vec![Slot::Register(kind)]);
            let number = prop_oneof![(0..20u64).boxed(), edge().boxed()].prop_map(literal);
            (Just(vec![Slot::Held(kind)]).boxed(), prop_oneof![other, number].boxed())
        }
        Param::Text => {
            let nth = function.params[..place].iter().filter(|param| **param == Param::Text).count();
            let fits = |end: &&str| function.name.ends_with(end) || function.name.starts_with(end);
            let known = FITTING.iter().filter(|(end, _)| fits(end)).filter_map(|(_, texts)| texts.get(nth));
            let mut fitting: Vec<_> = known.flat_map(|texts| texts.iter().copied()).map(place_of).collect();
            if fitting.is_empty() {
                fitting = texts();
            }
            let good = prop_oneof![6 => list(fitting), 3 => list(texts()), 1 => list(long)].boxed();
            (good, prop_oneof![1 => list(vec![NO_TEXT, (ZEROS, 3_000_000)]), 2 => anywhere()].boxed())
        }
        Param::Bytes => {
            let zeros = list(vec![(ZEROS, 0), (ZEROS, 1 << 20), (ZEROS, (1 << 20) + 1), (ZEROS, 3_000_000)]);
            (prop_oneof![4 => list(texts()), 2 => list(long), 1 => zeros].boxed(), anywhere())
        }
        Param::Pairs => {
            let good = list(vec![(PAIRS, 0), (PAIRS, 1), (PAIRS, 1), (PAIRS, 2)]);
            let places = vec![(PAIRS, 3), (PAIRS + 1, 1), (MANY_PAIRS.0, 9), MANY_PAIRS];
            (good, prop_oneof![list(places), anywhere()].boxed())
        }
        Param::Floats => {
            let good = list(vec![(FLOATS, 0), (FLOATS, 2), (FLOATS, 3), (FLOATS, 4), (ZEROS, 33), (ZEROS, 90_000)]);
            (good, prop_oneof![list(vec![(FLOATS + 4, 1)]), anywhere()].boxed())
        }
        Param::Result => (fixed(RESULT), edge().prop_map(literal).boxed()),
    }
}

fn phases() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(0xff), 3 => (0..8u8).prop_map(|bit| 1 << bit), 1 => any::<u8>()]
}

fn call(index: usize, function: &Function, hostility: Hostility) -> BoxedStrategy<Called> {
    let slots: Vec<_> = (0..function.params.len())
        .map(|place| {
            let (good, bad) = parameter(function, place);
            if hostility == 0 { good } else { Union::new_weighted(vec![(hostility, good), (1, bad)]).boxed() }
        })
        .collect();
    let function = index as u8;
    (phases(), slots).prop_map(move |(phases, slots)| Called { function, phases, slots: slots.concat() }).boxed()
}

fn calls(hostility: Hostility) -> BoxedStrategy<Vec<Called>> {
    let functions = CONTRACT.functions.iter().enumerate();
    let weight = |function: &Function| match &*function.name {
        name if name.starts_with("[constructor]") || name.starts_with("[static]") || name == "fetch" => 3,
        // It is called by itself for each phase, and a log line is a log line.
        "error" | "warn" | "info" | "debug" => 1,
        name if name.starts_with("[resource-drop]") => 1,
        _ => 2,
    };
    let all = functions.map(|(index, function)| (weight(function), call(index, function, hostility))).collect();
    proptest::collection::vec(Union::new_weighted(all), 1..24).boxed()
}

fn program() -> impl Strategy<Value = Program> {
    use realloc::{CALLS_THE_HOST, GIVES_NULL, GROWS, GROWS_TOO_MUCH, LOOPS};
    let calls = prop_oneof![3 => calls(0), 3 => calls(60), 2 => calls(8)];
    let realloc = prop_oneof![
        240 => Just(0u8),
        16 => GIVES_NULL..=CALLS_THE_HOST,
        4 => GROWS..=GROWS_TOO_MUCH,
        1 => Just(LOOPS),
    ];
    let post_return = prop_oneof![16 => Just(0u8), 1 => 1..POST_RETURNS];
    let [decision, reply] = ["decision", "local-reply"].map(|name| CONTRACT.kind(name));
    let decision = prop_oneof![
        12 => Just(Slot::Held(decision)),
        1 => Just(Slot::Register(reply)),
        1 => (0..=STALE).prop_map(Slot::Register),
        1 => prop_oneof![(0..20u64).boxed(), edge().boxed()].prop_map(Slot::Literal),
    ];
    let none = Program::new(Vec::new()).pointer;
    let pointer = prop_oneof![16 => Just(none), 1 => Just(none + 1), 1 => edge().prop_map(|edge| edge as u32)];
    let discriminant = prop_oneof![12 => Just(1u8), 2 => Just(0), 1 => any::<u8>()];
    let keeps = prop_oneof![16 => Just(0u8), 1 => phases()];
    (realloc, post_return, keeps, phases(), discriminant, pointer, decision, calls).prop_map(
        |(realloc, post_return, keeps, returns, discriminant, pointer, decision, calls)| Program {
            realloc,
            post_return,
            keeps,
            returns,
            discriminant,
            pointer,
            decision,
            calls,
        },
    )
}

/// What the contract lets nobody set.
fn sound(headers: &HeaderMap) {
    assert!(headers.len() <= 512, "{} fields", headers.len());
    for (name, value) in headers {
        assert!(*name != http::header::CONTENT_LENGTH && *name != http::header::HOST, "{name}");
        assert!(value.len() <= 16 << 10, "{name}: {} bytes", value.len());
    }
}

pub(crate) fn sound_decision(decision: &Decision) {
    match decision {
        Decision::Respond(reply) => {
            assert!((200..600).contains(&reply.status.as_u16()), "{}", reply.status);
            assert!(reply.body.len() <= 1 << 20, "{} bytes", reply.body.len());
            sound(&reply.headers);
        }
        Decision::ReadBody(read) => assert!(read.limit <= BODY_BUFFER, "{}", read.limit),
        Decision::Continue | Decision::Abort => {}
    }
}

/// The exchange came back, and is one still.
fn sound_exchange(exchange: &mut Exchange, has_response: bool) {
    let request = exchange.take_request::<PlainRequest>().expect("the request came back");
    assert!(
        request.path.starts_with('/') && request.path.bytes().all(|byte| byte.is_ascii_graphic()),
        "{}",
        request.path
    );
    assert!(!request.path.contains(['?', '#']), "{}", request.path);
    assert!(request.query.as_deref().unwrap_or_default().bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!((&*request.method, &*request.authority), ("GET", "example.com"));
    sound(&request.headers);
    let response = exchange.take_response::<PlainResponse>();
    assert_eq!(response.is_some(), has_response, "the response came back");
    if let Some(response) = response {
        assert!((200..600).contains(&response.status.as_u16()), "{}", response.status);
        sound(&response.headers);
    }
    let attributes = &exchange.attributes;
    assert!(attributes.iter().count() <= Attributes::MAX_ENTRIES);
    for (name, value) in attributes.iter() {
        assert!((1..=Attributes::MAX_NAME).contains(&name.len()), "{name}");
        assert!(!matches!(value, AttributeValue::String(text) if text.len() > Attributes::MAX_VALUE), "{name}");
    }
}

/// Of the plugins here, in bytes.
const BODY_BUFFER: u64 = 64 << 10;

fn sound_body(outcome: &BodyOutcome) {
    sound_decision(&outcome.decision);
    let replacement = outcome.replacement.as_ref().map_or(0, Bytes::len);
    assert!(replacement as u64 <= BODY_BUFFER, "{replacement} bytes");
}

/// One exchange whose every phase runs the program. An error is one that the contract has.
async fn run(version: &Arc<Configured>, program: &Program) -> Result<(), PluginError> {
    let request = PlainRequest::get("/path?query").header("x-a", "1").header("x-a", "2");
    let request = request.property("client.address", "192.0.2.7").property("program", &program.encoded());
    let mut exchange = Exchange::new(request);
    exchange.outbound = Some(Arc::new(AnyBackend));
    let mut invocation = version.begin();
    let outcome = phases_of(&mut invocation, &mut exchange).await;
    let summary =
        Summary { duration: Duration::from_secs(1), bytes_sent: 1, reason: Some("any"), ..Summary::default() };
    let logged = invocation.on_log(&mut exchange, summary).await;
    let has_response = exchange.response().is_some();
    sound_exchange(&mut exchange, has_response);
    outcome.and(logged)
}

async fn phases_of(invocation: &mut Invocation, exchange: &mut Exchange) -> Result<(), PluginError> {
    let decision = invocation.on_request(exchange).await?;
    sound_decision(&decision);
    match decision {
        Decision::Respond(_) => return Ok(()),
        Decision::ReadBody(_) => {
            sound_body(&invocation.on_request_body(exchange, Bytes::from_static(b"the whole body")).await?);
            invocation.skip_request_pieces();
        }
        Decision::Continue | Decision::Abort => {}
    }
    for (bytes, end) in [("a piece", false), ("", true)] {
        let mut piece = Bytes::from_static(bytes.as_bytes());
        sound_decision(&invocation.on_request_piece(exchange, &mut piece, end).await?);
        assert!(piece.len() as u64 <= BODY_BUFFER, "{} bytes", piece.len());
    }
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-a"), HeaderValue::from_static("1"))]);
    exchange.put_response(Box::new(PlainResponse { headers, ..PlainResponse::default() }));
    let decision = invocation.on_response(exchange).await?;
    sound_decision(&decision);
    if let Decision::ReadBody(_) = decision {
        sound_body(&invocation.on_response_body(exchange, Bytes::from_static(b"the whole body")).await?);
        invocation.skip_response_pieces();
    }
    for (bytes, end) in [("a piece", false), ("", true)] {
        let mut piece = Bytes::from_static(bytes.as_bytes());
        sound_decision(&invocation.on_response_piece(exchange, &mut piece, end).await?);
        assert!(piece.len() as u64 <= BODY_BUFFER, "{} bytes", piece.len());
    }
    let mut trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("t"))]);
    let passed = invocation.on_response_trailers(exchange, &mut trailers, &mut Bytes::new()).await;
    sound(&trailers);
    passed
}

/// The interpreter, in each way in which the host runs components: calls that may wait and calls that never do, on instances
/// that are fresh and that are pooled.
pub(crate) fn interpreter(name: &str, outgoing: bool) -> PluginSpec {
    let mut spec = plugin(name, CONTRACT.guest(outgoing));
    spec.limits.body_buffer = BODY_BUFFER;
    spec.limits.memory = 16 << 20;
    spec
}

fn specs() -> [PluginSpec; 5] {
    let mut with_redis = interpreter("redis", false);
    with_redis.redis_stores = true;
    [
        interpreter("waits", true),
        pooled(interpreter("waits-pooled", true)),
        interpreter("at-once", false),
        pooled(interpreter("at-once-pooled", false)),
        with_redis,
    ]
}

pub(crate) fn grants() -> Grants {
    // So little that it is full at times.
    let stores = [("limits".into(), StoreGrant { quota: 16 << 10 })].into();
    let secrets = [("token".into(), Some(SecretValue::new(b"secret".as_slice())))].into();
    Grants { stores, secrets, ..Grants::default() }
}

/// The same with the store in a Redis, which can't be reached.
fn grants_in_redis() -> Grants {
    let server = RedisServer {
        service: NamespacedName::new("cache", "redis"),
        port: 6379,
        login: RedisLogin::Nobody,
        database: 0,
        timeout: Duration::from_millis(10),
        concurrency: RedisServer::DEFAULT_CONCURRENCY,
    };
    let grant = RedisGrant { server: server.into(), field: "spec.capabilities.stores[0]".into() };
    Grants { stores: Default::default(), redis_stores: [("limits".into(), grant)].into(), ..grants() }
}

struct NoRedis;

impl StoreServers for NoRedis {
    fn connect(
        &self,
        _: &Arc<str>,
        _: &Arc<str>,
        _: &RedisServer,
    ) -> BoxFuture<'static, Result<StoreConnection, StoreError>> {
        std::future::ready(Err(StoreError::new(StoreErrorKind::Connect, "nobody is there"))).boxed()
    }
}

/// What an error of a call is that a guest brings about by itself.
fn is_own_end(error: &PluginError) -> bool {
    // Of a guest that loops, later ones run aside, and may wait too long for a thread.
    matches!(error, PluginError::Trap { .. } | PluginError::Deadline { .. })
}

#[test]
fn whatever_a_component_passes_it_has_its_answer_or_ends_and_the_exchange_comes_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (host, good, specs) = (Host::new(), probe(), specs());
    let (versions, good) = runtime.block_on(async {
        let mut plugins: Vec<&PluginSpec> = specs.iter().collect();
        plugins.push(&good);
        let mut uses: Vec<_> = specs.iter().map(|spec| use_of(&spec.key.name, "{}")).collect();
        uses.push(use_of("probe", PROBE));
        host.host.set_store_servers(NoRedis);
        let grants = |spec: &PluginSpec| if spec.redis_stores { grants_in_redis() } else { grants() };
        let grants: Vec<(PluginKey, Grants)> = specs.iter().map(|spec| (spec.key.clone(), grants(spec))).collect();
        host.grant(&plugins, &uses.iter().collect::<Vec<_>>(), &grants).await;
        let current = |plugin_use: &PluginUse| {
            host.current(&plugin_use.key()).unwrap_or_else(|| panic!("{:?}", host.host.problems()))
        };
        let mut versions: Vec<_> = uses.iter().map(current).collect();
        let good = versions.pop().unwrap();
        (versions, good)
    });
    let programs = (0..versions.len(), program());
    fuzz::run("lift and lower of components", 1_000, &programs, |(which, program)| -> TestCaseResult {
        let version = &versions[which];
        let outcome = runtime.block_on(run(version, &program));
        prop_assert!(outcome.as_ref().err().is_none_or(is_own_end), "{outcome:?}");
        let plugin = &version.key().plugin;
        let instances = host.metric(&format!(r#"sluice_plugin_instances{{plugin="{plugin}"}}"#));
        let memory = host.metric(&format!(r#"sluice_plugin_memory_bytes{{plugin="{plugin}"}}"#));
        let idle = if specs[which].instance == InstanceMode::Pooled { 1.0 } else { 0.0 };
        prop_assert!(instances <= idle, "{plugin}: {instances} instances stay");
        prop_assert!((memory == 0.0) == (instances == 0.0), "{plugin}: {memory} bytes stay, of {instances} instances");
        let mut next = Exchange::new(PlainRequest::get("/"));
        let served = runtime.block_on(good.begin().on_request(&mut next));
        prop_assert!(matches!(served, Ok(Decision::Continue)), "{served:?}");
        Ok(())
    });
    for version in &versions {
        assert!(runtime.block_on(still_runs(version)), "{:?} runs what it is told, to the end", version.key());
    }
}

/// Whether a program has its effect: one that sets a header.
async fn still_runs(version: &Arc<Configured>) -> bool {
    let [(name, name_length), (value, value_length)] = ["X-Upper", "1"].map(place_of);
    let literals = [name, name_length, value, value_length, RESULT].map(Slot::Literal);
    let mut slots = vec![Slot::Held(CONTRACT.kind("request"))];
    slots.extend(literals);
    let call = Called { function: CONTRACT.function("request.set-header"), phases: 0xff, slots };
    let request = PlainRequest::get("/").property("program", &Program::new(vec![call]).encoded());
    let mut exchange = Exchange::new(request);
    version.begin().on_request(&mut exchange).await.unwrap();
    header(&exchange, "x-upper").as_deref() == Some("1")
}

#[test]
fn whatever_a_component_does_when_it_is_configured_it_is_ready_or_has_a_problem() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (host, spec) = (Host::new(), interpreter("waits", true));
    fuzz::run("configure of components", 24, &program(), |program| -> TestCaseResult {
        let plugin_use = use_of("waits", &format!(r#""{}""#, program.encoded()));
        runtime.block_on(host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), grants())]));
        let problems = host.host.problems();
        prop_assert_eq!(host.current(&plugin_use.key()).is_none(), problems.len() == 1, "{:?}", problems);
        prop_assert_eq!(host.metric("sluice_plugin_builder_panics_total"), 0.0);
        prop_assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/waits"}"#), 0.0);
        Ok(())
    });
}

#[test]
fn the_contract_is_passed_all_there_is() {
    let names = CONTRACT.functions.iter().map(|function| &*function.name);
    let known: Vec<_> = names.collect();
    for (end, fitting) in FITTING {
        assert!(known.iter().any(|name| name.ends_with(end) || name.starts_with(end)), "{end}");
        assert!(fitting.iter().all(|texts| texts.iter().all(|text| TEXTS.contains(text))), "{fitting:?}");
    }
}
