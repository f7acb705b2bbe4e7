//! Whatever a filter calls, with whatever pointers, lengths and memory, in whatever phase: the host answers with a status of
//! the ABI, and the exchange comes back. The guest is an interpreter: a request brings it the calls that it makes.
//!
//! [`crate::fuzz`] says how many programs are tried.

use crate::fuzz;
use crate::fuzzed_components::sound_decision;
use crate::setup::{Host, header, plugin};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use sluice_wasm::{
    AttributeValue, Configured, Decision, Exchange, FetchError, FetchErrorKind, Outbound, OutboundRequest,
    OutboundResponse, PlainRequest, PlainResponse, PluginError, Summary, TrapKind,
};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Functions of the ABI, with the types of their parameters: `i` has 32 bits, `l` 64.
const ABI: &[(&str, &str)] = &[
    ("proxy_log", "iii"),
    ("proxy_get_log_level", "i"),
    ("proxy_get_current_time_nanoseconds", "i"),
    ("proxy_set_tick_period_milliseconds", "i"),
    ("proxy_get_configuration", "ii"),
    ("proxy_get_buffer_bytes", "iiiii"),
    ("proxy_get_buffer_status", "iii"),
    ("proxy_set_buffer_bytes", "iiiii"),
    ("proxy_get_header_map_pairs", "iii"),
    ("proxy_set_header_map_pairs", "iii"),
    ("proxy_get_header_map_value", "iiiii"),
    ("proxy_add_header_map_value", "iiiii"),
    ("proxy_replace_header_map_value", "iiiii"),
    ("proxy_remove_header_map_value", "iii"),
    ("proxy_get_header_map_size", "ii"),
    ("proxy_get_property", "iiii"),
    ("proxy_set_property", "iiii"),
    ("proxy_get_shared_data", "iiiii"),
    ("proxy_set_shared_data", "iiiii"),
    ("proxy_register_shared_queue", "iii"),
    ("proxy_resolve_shared_queue", "iiiii"),
    ("proxy_dequeue_shared_queue", "iii"),
    ("proxy_enqueue_shared_queue", "iii"),
    ("proxy_continue_stream", "i"),
    ("proxy_close_stream", "i"),
    ("proxy_continue_request", ""),
    ("proxy_continue_response", ""),
    ("proxy_clear_route_cache", ""),
    ("proxy_send_local_response", "iiiiiiii"),
    ("proxy_http_call", "iiiiiiiiii"),
    ("proxy_grpc_call", "iiiiiiiiiiii"),
    ("proxy_grpc_stream", "iiiiiiiii"),
    ("proxy_grpc_send", "iiii"),
    ("proxy_grpc_cancel", "i"),
    ("proxy_grpc_close", "i"),
    ("proxy_get_status", "iii"),
    ("proxy_set_effective_context", "i"),
    ("proxy_call_foreign_function", "iiiiii"),
    ("proxy_done", ""),
    ("proxy_define_metric", "iiii"),
    ("proxy_get_metric", "ii"),
    ("proxy_increment_metric", "il"),
    ("proxy_record_metric", "il"),
];

/// The same of WASI, whose statuses are others.
const WASI: &[(&str, &str)] = &[
    ("fd_write", "iiii"),
    ("random_get", "ii"),
    ("poll_oneoff", "iiii"),
    ("clock_time_get", "ili"),
    ("clock_res_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("args_get", "ii"),
    ("fd_fdstat_get", "ii"),
    ("path_open", "iiiiillii"),
];

/// Bytes of the guest's memory, what `malloc` gives, and the part in which the program lies. No argument points to that, or
/// so far before it that 64 KiB reach it.
const MEMORY: u32 = 64 * 65_536;
const GIVEN: u32 = 1_000_000;
const PROGRAM: std::ops::Range<u32> = 3_900_000..4_190_000;
const KEPT: std::ops::Range<u32> = PROGRAM.start - 70_000..PROGRAM.end;

fn functions() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let abi = ABI.iter().map(|(name, types)| ("env", *name, *types));
    abi.chain(WASI.iter().map(|(name, types)| ("wasi_snapshot_preview1", *name, *types)))
}

/// A call: which function, and twelve arguments, of which it takes as many as it has.
#[derive(Clone, Debug)]
struct Called {
    function: u8,
    arguments: [u32; 12],
}

/// What `malloc` does: gives memory, none, the end of it, what is no memory, or ends the guest.
const MALLOC_TRAPS: u8 = 4;

#[derive(Clone, Debug)]
struct Program {
    malloc: u8,
    calls: Vec<Called>,
}

/// Texts that functions know, at the addresses that arguments like best.
const TEXTS: &[&str] = &[
    "x-a",
    ":path",
    ":method",
    ":status",
    "/path?query",
    "GET",
    "backend",
    "content-length",
    "request\0path",
    "request\0headers",
    "response\0code",
    "response\0headers",
    "response\0headers\0:status",
    "response\0size",
    "response\0code_details",
    "response\0grpc_status",
    "request\0headers\0:path",
    "request\0headers\0x-a",
    "request\0size",
    "request\0duration",
    "request\0time",
    "request\0useragent",
    "source\0port",
    "connection\0tls_version",
    "connection\0mtls",
    "connection\0id",
    "filter_state\0number",
    "flag",
    "grpc-status",
    "backend1",
    "no-message",
    "compressed",
    "no-status-there",
    // A map of one pair, and the head of a callout.
    "\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b\0",
    "\x03\0\0\0\x07\0\0\0\x03\0\0\0\x05\0\0\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0:method\0GET\0:path\0/\0:authority\0a\0",
];

const TEXTS_AT: u32 = 1_024;

/// Where each of [`TEXTS`] is, and its length.
fn texts() -> Vec<(u32, u32)> {
    let mut at = TEXTS_AT;
    TEXTS
        .iter()
        .map(|text| {
            let place = (at, text.len() as u32);
            at += text.len() as u32 + 1;
            place
        })
        .collect()
}

fn argument() -> impl Strategy<Value = u32> {
    let edges = vec![
        0,
        1,
        4,
        8,
        100,
        199,
        200,
        599,
        600,
        65_535,
        65_536,
        MEMORY - 4,
        MEMORY - 1,
        MEMORY,
        i32::MAX as u32,
        u32::MAX - 3,
        u32::MAX,
    ];
    let any = any::<u32>().prop_map(|value| if KEPT.contains(&value) { value + MEMORY } else { value });
    prop_oneof![4 => 0..9u32, 2 => proptest::sample::select(edges), 2 => 0..65_536u32, 1 => any]
}

/// Arguments, pairs of which may be one of the texts.
fn arguments() -> impl Strategy<Value = [u32; 12]> {
    let text = proptest::option::weighted(0.6, proptest::sample::select(texts()));
    (proptest::array::uniform12(argument()), proptest::array::uniform6(text), any::<bool>()).prop_map(
        |(mut arguments, texts, shifted)| {
            // Pointers are the first parameter, or the second behind a kind.
            for (index, text) in texts.into_iter().enumerate() {
                let at = 2 * index + usize::from(shifted);
                if let (Some((address, length)), Some(pair)) = (text, arguments.get_mut(at..at + 2)) {
                    pair.copy_from_slice(&[address, length]);
                }
            }
            arguments
        },
    )
}

fn program() -> impl Strategy<Value = Program> {
    let count = functions().count() as u8;
    let call = (0..count, arguments()).prop_map(|(function, arguments)| Called { function, arguments });
    let malloc = prop_oneof![8 => Just(0u8), 1 => 1..=MALLOC_TRAPS];
    (malloc, proptest::collection::vec(call, 1..20)).prop_map(|(malloc, calls)| Program { malloc, calls })
}

impl Program {
    /// As a field's value: hexadecimal digits.
    fn encoded(&self) -> HeaderValue {
        let mut bytes = vec![self.malloc];
        for call in &self.calls {
            bytes.push(call.function);
            call.arguments.iter().for_each(|argument| bytes.extend_from_slice(&argument.to_le_bytes()));
        }
        HeaderValue::try_from(hex::encode(bytes)).unwrap()
    }
}

/// Reads its program from `x-program` in each callback, and runs it. A status that the ABI has not ends it.
fn interpreter() -> String {
    let (mut imports, mut branches, mut labels) = (String::new(), String::new(), String::new());
    let all: Vec<_> = functions().collect();
    for (index, (module, name, types)) in all.iter().enumerate() {
        let types: Vec<_> = types.chars().map(|kind| if kind == 'l' { "i64" } else { "i32" }).collect();
        writeln!(imports, r#"(import "{module}" "{name}" (func $f{index} (param {}) (result i32)))"#, types.join(" "))
            .unwrap();
    }
    for (index, (module, _, types)) in all.iter().enumerate() {
        let arguments: String = types
            .chars()
            .enumerate()
            .map(|(n, kind)| {
                let word = format!("(call $word (i32.add (local.get $at) (i32.const {})))", 1 + 4 * n);
                if kind == 'l' { format!("(i64.extend_i32_s {word})") } else { word }
            })
            .collect();
        let check = if *module == "env" { "(call $check)" } else { "(drop)" };
        writeln!(branches, ") (call $f{index} {arguments}) {check} (br $next)").unwrap();
        write!(labels, "$l{index} ").unwrap();
    }
    let blocks: String = (0..all.len()).rev().map(|index| format!("(block $l{index} ")).collect();
    let texts: String = TEXTS.iter().flat_map(|text| text.bytes().chain([0])).map(|b| format!("\\{b:02x}")).collect();
    let callbacks: String = [
        ("proxy_on_request_headers", "(param i32 i32 i32)"),
        ("proxy_on_request_body", "(param i32 i32 i32)"),
        ("proxy_on_response_headers", "(param i32 i32 i32)"),
        ("proxy_on_response_body", "(param i32 i32 i32)"),
        ("proxy_on_response_trailers", "(param i32 i32)"),
    ]
    .map(|(name, parameters)| {
        format!(r#"(func (export "{name}") {parameters} (result i32) (call $run) (i32.const 0))"#)
    })
    .concat();
    let size = 1 + 4 * 12;
    format!(
        r#"(module
        {imports}
        (func (export "proxy_abi_version_0_2_1"))
        (memory (export "memory") {pages})
        (data $name "x-program")
        (data $texts "{texts}")
        (global $malloc (mut i32) (i32.const -1))
        (func (export "malloc") (param $size i32) (result i32)
            (if (i32.eq (global.get $malloc) (i32.const -1)) (then (return (i32.const {program}))))
            (if (i32.eq (global.get $malloc) (i32.const 1)) (then (return (i32.const 0))))
            (if (i32.eq (global.get $malloc) (i32.const 2)) (then (return (i32.const {last}))))
            (if (i32.eq (global.get $malloc) (i32.const 3)) (then (return (i32.const -4))))
            (if (i32.eq (global.get $malloc) (i32.const {MALLOC_TRAPS})) (then (unreachable)))
            (i32.const {GIVEN}))
        (func $digit (param $at i32) (result i32)
            (local $c i32)
            (local.set $c (i32.load8_u (i32.add (i32.const {program}) (local.get $at))))
            (if (result i32) (i32.ge_u (local.get $c) (i32.const 97))
                (then (i32.sub (local.get $c) (i32.const 87)))
                (else (i32.sub (local.get $c) (i32.const 48)))))
        (func $byte (param $at i32) (result i32)
            (i32.or
                (i32.shl (call $digit (i32.shl (local.get $at) (i32.const 1))) (i32.const 4))
                (call $digit (i32.add (i32.shl (local.get $at) (i32.const 1)) (i32.const 1)))))
        (func $word (param $at i32) (result i32)
            (i32.or
                (i32.or (call $byte (local.get $at))
                    (i32.shl (call $byte (i32.add (local.get $at) (i32.const 1))) (i32.const 8)))
                (i32.or (i32.shl (call $byte (i32.add (local.get $at) (i32.const 2))) (i32.const 16))
                    (i32.shl (call $byte (i32.add (local.get $at) (i32.const 3))) (i32.const 24)))))
        (func $check (param $status i32)
            (if (i32.gt_u (local.get $status) (i32.const 12)) (then (unreachable)))
            ;; Ok, NotFound, BadArgument, ParseFailure, InvalidMemoryAccess, Empty, CasMismatch, InternalFailure, Unimplemented.
            (if (i32.eqz (i32.and (i32.shl (i32.const 1) (local.get $status)) (i32.const {statuses})))
                (then (unreachable))))
        (func $run
            (local $at i32) (local $end i32)
            ;; The program before may have had the host write over them.
            (memory.init $name (i32.const 256) (i32.const 0) (i32.const 9))
            (memory.init $texts (i32.const {TEXTS_AT}) (i32.const 0) (i32.const {texts_length}))
            (global.set $malloc (i32.const -1))
            (if (call ${get_value} (i32.const 0) (i32.const 256) (i32.const 9) (i32.const 512) (i32.const 516))
                (then (return)))
            (local.set $end (i32.shr_u (i32.load (i32.const 516)) (i32.const 1)))
            (global.set $malloc (call $byte (i32.const 0)))
            (local.set $at (i32.const 1))
            (loop $again
                (if (i32.ge_u (local.get $at) (local.get $end)) (then (return)))
                (block $next
                    {blocks}
                    (br_table {labels} $next (call $byte (local.get $at)))
                    {branches}
                )
                (local.set $at (i32.add (local.get $at) (i32.const {size})))
                (br $again)))
        {callbacks}
        (func (export "proxy_on_log") (param i32) (call $run))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
            (global.set $malloc (i32.const 0))
            (call $check (call ${get_buffer} (i32.const 4) (i32.const 0) (i32.const -1) (i32.const 512) (i32.const 516)))
            (call $check (call ${get_pairs} (i32.const 6) (i32.const 512) (i32.const 516)))
            (call $check (call ${get_pairs} (i32.const 7) (i32.const 512) (i32.const 516))))
        (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
            (global.set $malloc (i32.const 0))
            (call $check (call ${get_buffer} (i32.const 5) (i32.const 0) (i32.const -1) (i32.const 512) (i32.const 516))))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32)
            (global.set $malloc (i32.const 0))
            (call $check (call ${get_status} (i32.const 508) (i32.const 512) (i32.const 516)))))"#,
        pages = MEMORY / 65_536,
        program = PROGRAM.start,
        last = MEMORY - 1,
        texts_length = TEXTS.iter().map(|text| text.len() + 1).sum::<usize>(),
        statuses = [0, 1, 2, 4, 6, 7, 8, 10, 12].iter().fold(0, |all, status| all | 1 << status),
        get_value = index("proxy_get_header_map_value"),
        get_buffer = index("proxy_get_buffer_bytes"),
        get_pairs = index("proxy_get_header_map_pairs"),
        get_status = index("proxy_get_status"),
    )
}

fn index(name: &str) -> String {
    format!("f{}", functions().position(|(_, function, _)| function == name).unwrap())
}

/// Any backend, which answers at once.
pub(crate) struct AnyBackend;

impl Outbound for AnyBackend {
    fn has(&self, _: &str) -> bool {
        true
    }

    fn fetch(&self, backend: &str, _: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        let failure = (backend.len() % 2 == 1).then(|| FetchErrorKind::ALL[backend.len() % FetchErrorKind::ALL.len()]);
        let (body, status): (&[u8], _) = match backend {
            "no-message" => (b"", Some("0")),
            "compressed" => (b"\x01\0\0\0\x02ok", Some("0")),
            "no-status-there" => (b"\0\0\0\0\x02ok", None),
            _ => (b"\0\0\0\0\x02ok", Some(if backend.len().is_multiple_of(4) { "0" } else { "13" })),
        };
        let trailers = [("grpc-status", status), ("grpc-message", Some("it%20is%2"))];
        let trailers = trailers
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_static(value?))));
        let answer = OutboundResponse {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("any"))]),
            body: Bytes::copy_from_slice(body),
            trailers: trailers.collect(),
            held: None,
        };
        let answer = failure.map_or(Ok(answer), |kind| Err(FetchError::new(kind, "nobody is there")));
        std::future::ready(answer).boxed()
    }
}

/// One exchange whose every callback runs the program.
async fn run(version: &Arc<Configured>, program: &Program) -> Result<(), PluginError> {
    let mut request = PlainRequest::get("/path?query").header("x-a", "1").header("user-agent", "fuzz");
    for (name, value) in [
        ("source.address", "192.0.2.7:80"),
        ("connection.tls_version", "TLSv1_3"),
        ("connection.mtls", "true"),
        ("connection.id", "7"),
        ("request.time", "1"),
    ] {
        request = request.property(name, value);
    }
    if program.calls.len().is_multiple_of(4) {
        request = request.header("content-type", "application/grpc");
    }
    request.headers.insert("x-program", program.encoded());
    let mut exchange = Exchange::new(request);
    exchange.attributes.set("number", AttributeValue::Integer(7)).unwrap();
    exchange.attributes.set("flag", AttributeValue::Boolean(true)).unwrap();
    exchange.outbound = Some(Arc::new(AnyBackend));
    let mut invocation = version.begin();
    let mut outcome = phases(&mut invocation, &mut exchange).await;
    let path = exchange.request().expect("the request came back").path();
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
    let status = exchange.response().map_or(200, |response| response.status().as_u16());
    assert!((200..600).contains(&status), "{status}");
    let logged = invocation.on_log(&mut exchange, Summary::default()).await;
    if outcome.is_ok() {
        outcome = logged;
    }
    outcome
}

async fn phases(invocation: &mut sluice_wasm::Invocation, exchange: &mut Exchange) -> Result<(), PluginError> {
    let decision = invocation.on_request(exchange).await?;
    sound_decision(&decision);
    if !matches!(decision, Decision::Continue) {
        return Ok(());
    }
    for (bytes, end) in [("a piece", false), ("", true)] {
        let mut piece = Bytes::from_static(bytes.as_bytes());
        if !matches!(invocation.on_request_piece(exchange, &mut piece, end).await?, Decision::Continue) {
            return Ok(());
        }
    }
    exchange.put_response(Box::new(PlainResponse::default()));
    if !matches!(invocation.on_response(exchange).await?, Decision::Continue) {
        return Ok(());
    }
    let mut piece = Bytes::from_static(b"a piece");
    invocation.on_response_piece_at_once(exchange, &mut piece, false)?;
    let mut trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("t"))]);
    invocation.on_response_trailers(exchange, &mut trailers, &mut Bytes::new()).await
}

#[test]
fn whatever_a_filter_calls_the_host_answers_with_a_status_and_the_exchange_comes_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (host, version) = runtime.block_on(async {
        let host = Host::new();
        let mut spec = plugin("filter", crate::setup::text(&interpreter()));
        // The machine may be busy.
        spec.limits.deadline = Duration::from_secs(60);
        let version = host.ready(&spec, "{}").await;
        (host, version)
    });
    fuzz::run("host functions of the proxy-wasm ABI", 1_500, &program(), |program| {
        let outcome = runtime.block_on(run(&version, &program));
        let is_own_end = match &outcome {
            Err(PluginError::Trap { kind: TrapKind::Panic, .. } | PluginError::Ended { .. }) => {
                program.malloc == MALLOC_TRAPS
            }
            // The machine is busy: a host's function that did not end would not be ended.
            Err(PluginError::Trap { kind: TrapKind::RunTime, .. }) => true,
            _ => false,
        };
        prop_assert!(outcome.is_ok() || is_own_end, "{outcome:?}");
        Ok(())
    });
    assert!(runtime.block_on(still_runs(&version)), "the guest runs what it is told, to the end");
    drop(version);
    drop(host);
}

/// Whether a program has its effect: one that adds a header.
async fn still_runs(version: &Arc<Configured>) -> bool {
    let add = functions().position(|(_, name, _)| name == "proxy_add_header_map_value").unwrap();
    let ((name, name_size), (value, value_size)) = (texts()[0], texts()[5]);
    let mut arguments = [0; 12];
    arguments[..5].copy_from_slice(&[0, name, name_size, value, value_size]);
    let program = Program { malloc: 0, calls: vec![Called { function: add as u8, arguments }] };
    let mut request = PlainRequest::get("/");
    request.headers.insert("x-program", program.encoded());
    let mut exchange = Exchange::new(request);
    version.begin().on_request(&mut exchange).await.unwrap();
    header(&exchange, "x-a").as_deref() == Some("GET")
}
