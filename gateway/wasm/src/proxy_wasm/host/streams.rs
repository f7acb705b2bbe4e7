//! What becomes of an exchange: it goes on, it is answered here, or it waits for a callout.

use super::super::abi::{Answer, DOWNSTREAM, REQUEST, RESPONSE, Status, UPSTREAM, status};
use super::super::callouts::{Kind, Started};
use super::super::grpc;
use super::super::memory::{Guest, slice, view, write_u32};
use super::super::pairs;
use super::super::state::VmState;
use super::ENV;
use super::maps::{collect, with_type};
use crate::configured::Phase;
use crate::decision::LocalReply;
use crate::fields::{self, Refused};
use crate::outgoing::{MAX_BODY, Outbound, OutboundRequest, OwnBounds};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Linker, Result};

/// Of a callout that names none, and the most that one may name.
const LONGEST_CALLOUT: Duration = Duration::from_secs(60);

/// No gRPC status: it is what the status of HTTP says.
const NO_GRPC_STATUS: u32 = u32::MAX;

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(ENV, "proxy_continue_stream", |mut guest: Guest<'_>, stream: u32| {
        status(go_on(guest.data_mut(), stream))
    })?;
    // Of version 0.1.0.
    linker.func_wrap(ENV, "proxy_continue_request", |mut guest: Guest<'_>| status(go_on(guest.data_mut(), REQUEST)))?;
    linker
        .func_wrap(ENV, "proxy_continue_response", |mut guest: Guest<'_>| status(go_on(guest.data_mut(), RESPONSE)))?;
    linker.func_wrap(ENV, "proxy_close_stream", |mut guest: Guest<'_>, stream: u32| {
        status(close(guest.data_mut(), stream))
    })?;
    linker.func_wrap(
        ENV,
        "proxy_send_local_response",
        |mut guest: Guest<'_>,
         code: u32,
         details: u32,
         details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         grpc_status: u32| {
            let texts = [(details, details_size), (body, body_size), (headers, headers_size)];
            status(respond(&mut guest, code, texts, grpc_status))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_http_call",
        |mut guest: Guest<'_>,
         upstream: u32,
         upstream_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         trailers: u32,
         trailers_size: u32,
         timeout: u32,
         to: u32| {
            let texts =
                [(upstream, upstream_size), (headers, headers_size), (body, body_size), (trailers, trailers_size)];
            status(call(&mut guest, texts, timeout, to))
        },
    )?;
    Ok(())
}

fn go_on(state: &mut VmState, stream: u32) -> Answer {
    match stream {
        REQUEST | RESPONSE => {}
        DOWNSTREAM | UPSTREAM => return Err(Status::Unimplemented.into()),
        _ => return Err(Status::BadArgument.into()),
    }
    let is_request = stream == REQUEST;
    let Some(context) = state.stream_mut() else { return Err(Status::BadArgument.into()) };
    // One that is not paused at this side goes on anyhow.
    let is_this = match context.phase.or(context.holds) {
        Some(Phase::RequestHeaders | Phase::RequestBody) => is_request,
        Some(Phase::ResponseHeaders | Phase::ResponseBody | Phase::ResponseTrailers) => !is_request,
        Some(Phase::Log) | None => false,
    };
    if is_this {
        context.resumed = true;
        context.released |= context.phase.is_none();
        state.wake();
    }
    Ok(())
}

/// Ends the exchange. Before the response has begun, the client is told.
fn close(state: &mut VmState, stream: u32) -> Answer {
    match stream {
        REQUEST | RESPONSE => {
            let reply = LocalReply { status: StatusCode::SERVICE_UNAVAILABLE, ..LocalReply::default() };
            answer(state, reply)
        }
        DOWNSTREAM | UPSTREAM => Err(Status::Unimplemented.into()),
        _ => Err(Status::BadArgument.into()),
    }
}

fn answer(state: &mut VmState, reply: LocalReply) -> Answer {
    let context = state.stream_mut().ok_or(Status::BadArgument)?;
    match context.phase {
        Some(Phase::RequestHeaders | Phase::RequestBody | Phase::ResponseHeaders) => {}
        // The response has begun.
        Some(Phase::ResponseBody | Phase::ResponseTrailers | Phase::Log) | None => {
            return Err(Status::BadArgument.into());
        }
    }
    // The first one stands.
    context.reply.get_or_insert_with(|| Box::new(reply));
    state.wake();
    Ok(())
}

fn respond(guest: &mut Guest<'_>, code: u32, texts: [(u32, u32); 3], grpc_status: u32) -> Answer {
    const FUNCTION: &str = "proxy_send_local_response";
    let (memory, state) = view(guest)?;
    let mut parts = [&[][..]; 3];
    for (part, (at, length)) in parts.iter_mut().zip(texts) {
        *part = slice(memory, at, length)?;
    }
    let [_, body, headers] = parts;
    let limit = state.settings.body_buffer;
    if body.len() as u64 > limit {
        return state.refuse(Status::BadArgument, FUNCTION, &Refused::Body(limit));
    }
    let Some(pairs) = pairs::decode(headers) else {
        return state.refuse(Status::BadArgument, FUNCTION, &"its headers are no map");
    };
    let made = fields::status(u16::try_from(code).unwrap_or(0)).and_then(|code| Ok((code, collect(pairs)?)));
    let (code, mut headers) = match made {
        Ok(made) => made,
        Err(refused) => return state.refuse(Status::BadArgument, FUNCTION, &refused),
    };
    if is_grpc(state) {
        let status = if grpc_status == NO_GRPC_STATUS { grpc::of_http(code) } else { grpc_status };
        tell_grpc(&mut headers, status, body);
    }
    if !body.is_empty() {
        headers = with_type(headers);
    }
    answer(state, LocalReply { status: code, headers, body: Bytes::copy_from_slice(body) })
}

fn is_grpc(state: &VmState) -> bool {
    let kind = state.exchange().and_then(|exchange| exchange.request()?.headers().get(CONTENT_TYPE));
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Status and message, which the body says (gRPC over HTTP/2, "Responses"). One that is longer than a field may be is cut.
fn tell_grpc(headers: &mut HeaderMap, status: u32, message: &[u8]) {
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(status));
    let mut encoded = String::with_capacity(message.len().min(fields::MAX_VALUE));
    for byte in message {
        let is_plain = matches!(byte, b' '..=b'~') && *byte != b'%';
        if encoded.len() + if is_plain { 1 } else { 3 } > fields::MAX_VALUE {
            break;
        }
        if is_plain { encoded.push(char::from(*byte)) } else { encoded.push_str(&format!("%{byte:02X}")) }
    }
    if let Ok(message) = HeaderValue::try_from(encoded) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
}

/// What calls backends for the exchange, or, outside of one, for the plugin itself.
pub(super) fn outbound(state: &VmState) -> Option<Arc<dyn Outbound>> {
    state.exchange().and_then(|exchange| exchange.outbound.clone()).or_else(|| state.callouts.own())
}

/// How long a callout may take, of so many milliseconds.
pub(super) fn callout_time(timeout: u32) -> Duration {
    match timeout {
        0 => LONGEST_CALLOUT,
        millis => Duration::from_millis(u64::from(millis)).min(LONGEST_CALLOUT),
    }
}

fn call(guest: &mut Guest<'_>, texts: [(u32, u32); 4], timeout: u32, to: u32) -> Answer {
    const FUNCTION: &str = "proxy_http_call";
    // Where the number goes must be there before anything is sent.
    write_u32(guest, to, 0)?;
    let (memory, state) = view(guest)?;
    let mut parts = [&[][..]; 4];
    for (part, (at, length)) in parts.iter_mut().zip(texts) {
        *part = slice(memory, at, length)?;
    }
    let [upstream, headers, body, trailers] = parts;
    let upstream = String::from_utf8_lossy(upstream).into_owned();
    let Some(outbound) = outbound(state).filter(|outbound| outbound.has(&upstream)) else {
        let why = format!("the Plugin's capabilities.backends has no `{upstream}`");
        return state.refuse(Status::BadArgument, FUNCTION, &why);
    };
    if !pairs::decode(trailers).is_some_and(|trailers| trailers.is_empty()) {
        return state.refuse(Status::InternalFailure, FUNCTION, &"trailers are not sent");
    }
    if body.len() as u64 > MAX_BODY {
        return state.refuse(Status::InternalFailure, FUNCTION, &Refused::Body(MAX_BODY));
    }
    let Some(pairs) = pairs::decode(headers) else {
        return state.refuse(Status::BadArgument, FUNCTION, &"its headers are no map");
    };
    let request = match outgoing(pairs, body, callout_time(timeout), state.settings.body_buffer) {
        Ok(request) => request,
        Err(why) => return state.refuse(Status::BadArgument, FUNCTION, &why),
    };
    let context = state.context();
    match state.callouts.start(context, Started { backend: upstream, request, outbound, kind: Kind::Http }) {
        Some(token) => write_u32(guest, to, token),
        None => state.refuse(Status::InternalFailure, FUNCTION, &"too many calls are under way"),
    }
}

/// The request that the pairs make.
fn outgoing(
    pairs: Vec<(&[u8], &[u8])>,
    body: &[u8],
    timeout: Duration,
    max_body: u64,
) -> std::result::Result<OutboundRequest, String> {
    let pseudo = |name: &str| {
        let value = pairs.iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| *value);
        let value = value.ok_or_else(|| format!("there is no `{name}`"))?;
        std::str::from_utf8(value).map_err(|_| format!("`{name}` is no text"))
    };
    let method = Method::from_bytes(pseudo(":method")?.as_bytes()).map_err(|error| error.to_string())?;
    if method == Method::CONNECT {
        return Err("CONNECT is not a method to call a backend with".to_owned());
    }
    let target = PathAndQuery::try_from(pseudo(":path")?).map_err(|error| format!("`:path`: {error}"))?;
    let authority = pseudo(":authority")?.parse().map_err(|error| format!("`:authority`: {error}"))?;
    Ok(OutboundRequest {
        method,
        target,
        authority: Some(authority),
        headers: collect(pairs).map_err(|refused| refused.to_string())?,
        body: Bytes::copy_from_slice(body),
        until: Instant::now() + timeout,
        max_body,
        own: OwnBounds::default(),
    })
}
