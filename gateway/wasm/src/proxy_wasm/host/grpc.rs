//! Calls of gRPC: one message each way. Streams of them are refused (`refused.rs`).

use super::super::abi::{Answer, Status, status};
use super::super::callouts::{Kind, Started};
use super::super::grpc;
use super::super::memory::{Guest, slice, view, write_u32};
use super::super::pairs;
use super::super::state::VmState;
use super::ENV;
use super::maps::collect;
use super::streams::{callout_time, outbound};
use crate::fields::Refused;
use crate::outgoing::{MAX_BODY, OutboundRequest, OwnBounds};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};
use std::time::Instant;
use wasmtime::{Linker, Result};

const CALL: &str = "proxy_grpc_call";

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        CALL,
        |mut guest: Guest<'_>,
         service: u32,
         service_size: u32,
         name: u32,
         name_size: u32,
         method: u32,
         method_size: u32,
         metadata: u32,
         metadata_size: u32,
         message: u32,
         message_size: u32,
         timeout: u32,
         to: u32| {
            let texts = [
                (service, service_size),
                (name, name_size),
                (method, method_size),
                (metadata, metadata_size),
                (message, message_size),
            ];
            status(call(&mut guest, texts, timeout, to))
        },
    )?;
    // A call ends by its answer; nobody waits for it any more.
    for function in ["proxy_grpc_cancel", "proxy_grpc_close"] {
        linker.func_wrap(ENV, function, |mut guest: Guest<'_>, token: u32| {
            let known = guest.data_mut().callouts.cancel(token);
            status(if known { Ok(()) } else { Err(Status::NotFound.into()) })
        })?;
    }
    // Its one message is sent with it.
    linker.func_wrap(ENV, "proxy_grpc_send", |guest: Guest<'_>, token: u32, _: u32, _: u32, _: u32| {
        let is_call = guest.data().callouts.is_grpc(token);
        status(Err(if is_call { Status::BadArgument } else { Status::NotFound }.into()))
    })?;
    Ok(())
}

fn call(guest: &mut Guest<'_>, texts: [(u32, u32); 5], timeout: u32, to: u32) -> Answer {
    // Where the number goes must be there before anything is sent.
    write_u32(guest, to, 0)?;
    let (memory, state) = view(guest)?;
    let mut parts = [&[][..]; 5];
    for (part, (at, length)) in parts.iter_mut().zip(texts) {
        *part = slice(memory, at, length)?;
    }
    let [service, name, method, metadata, message] = parts;
    let outbound = outbound(state);
    let backend = outbound.as_ref().and_then(|outbound| grpc::backend(service, |name| outbound.has(name)));
    let (Some(outbound), Some(backend)) = (outbound, backend) else {
        let why = format!("the Plugin's capabilities.backends has no `{}`", String::from_utf8_lossy(service));
        return state.refuse(Status::ParseFailure, CALL, &why);
    };
    if message.len() as u64 > MAX_BODY {
        return state.refuse(Status::InternalFailure, CALL, &Refused::Body(MAX_BODY));
    }
    let backend = backend.into_owned();
    let request = match request(&backend, [name, method, metadata, message], timeout, state.settings.body_buffer) {
        Ok(request) => request,
        Err(why) => return state.refuse(Status::ParseFailure, CALL, &why),
    };
    let context = state.context();
    match state.callouts.start(context, Started { backend, request, outbound, kind: Kind::Grpc }) {
        Some(token) => write_u32(guest, to, token),
        None => state.refuse(Status::InternalFailure, CALL, &"too many calls are under way"),
    }
}

/// The call as a request of HTTP/2 ("gRPC over HTTP2", Requests).
fn request(
    backend: &str,
    [name, method, metadata, message]: [&[u8]; 4],
    timeout: u32,
    max_body: u64,
) -> std::result::Result<OutboundRequest, String> {
    let target = format!("/{}/{}", String::from_utf8_lossy(name), String::from_utf8_lossy(method));
    let target = PathAndQuery::try_from(target).map_err(|error| format!("the service or the method: {error}"))?;
    let pairs = pairs::decode(metadata).ok_or("its metadata is no map")?;
    let mut headers = collect(pairs).map_err(|refused| refused.to_string())?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let time = callout_time(timeout);
    let told = HeaderValue::try_from(grpc::timeout(time)).map_err(|error| error.to_string())?;
    headers.insert(HeaderName::from_static("grpc-timeout"), told);
    Ok(OutboundRequest {
        method: Method::POST,
        target,
        // As under Envoy; a name that can't be one is left to the backend's own.
        authority: backend.parse().ok(),
        headers,
        body: grpc::frame(message),
        until: Instant::now() + time,
        max_body,
        own: OwnBounds::default(),
    })
}
