//! Properties, by Envoy's names. Text is text, a number has 64 bits, little-endian, a time is nanoseconds, a truth one byte.
//!
//! What a filter sets is an attribute of the exchange: later phases and plugins see it, and so does the access log.

use super::super::abi::{Answer, Status, status};
use super::super::memory::{Guest, give, slice, view};
use super::super::pairs;
use super::super::state::VmState;
use super::ENV;
use super::maps::{pairs_of_request, target};
use crate::attributes::AttributeValue;
use crate::exchange::{Exchange, RequestView, ResponseView};
use http::{HeaderMap, header};
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_property",
        |mut guest: Guest<'_>, path: u32, path_size: u32, to: u32, size_to: u32| {
            status(get(&mut guest, path, path_size, to, size_to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_property",
        |mut guest: Guest<'_>, path: u32, path_size: u32, value: u32, value_size: u32| {
            status(set(&mut guest, path, path_size, value, value_size))
        },
    )?;
    Ok(())
}

/// The parts of a path, which zero bytes are between.
fn parts(path: &[u8]) -> Option<Vec<&str>> {
    let path = std::str::from_utf8(path).ok()?;
    let path = path.strip_suffix('\0').unwrap_or(path);
    Some(path.split('\0').collect())
}

fn get(guest: &mut Guest<'_>, path: u32, path_size: u32, to: u32, size_to: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let parts = parts(slice(memory, path, path_size)?).ok_or(Status::NotFound)?;
    let value = property(state, &parts).ok_or(Status::NotFound)?;
    give(guest, &value, to, size_to)
}

fn set(guest: &mut Guest<'_>, path: u32, path_size: u32, value: u32, value_size: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let (path, value) = (slice(memory, path, path_size)?, slice(memory, value, value_size)?);
    let name = parts(path).ok_or(Status::BadArgument)?.join(".");
    let Ok(value) = std::str::from_utf8(value) else {
        return state.refuse(Status::BadArgument, "proxy_set_property", &format!("the value of `{name}` is no text"));
    };
    let value = AttributeValue::String(value.into());
    let exchange = state.exchange_mut().ok_or(Status::NotFound)?;
    match exchange.attributes.set(&name, value) {
        Ok(()) => Ok(()),
        Err(refused) => state.refuse(Status::BadArgument, "proxy_set_property", &refused),
    }
}

fn number(value: impl TryInto<i64>) -> Vec<u8> {
    value.try_into().unwrap_or(i64::MAX).to_le_bytes().to_vec()
}

fn text(value: impl AsRef<str>) -> Vec<u8> {
    value.as_ref().as_bytes().to_vec()
}

fn property(state: &VmState, parts: &[&str]) -> Option<Vec<u8>> {
    match parts {
        ["plugin_name"] => return Some(text(&state.settings.plugin.name)),
        ["plugin_root_id" | "plugin_vm_id"] => return Some(Vec::new()),
        _ => {}
    }
    let exchange = state.exchange()?;
    let request = exchange.request()?;
    let fact = |name: &str| request.property(name);
    match parts {
        ["request", rest @ ..] => of_request(state, request, rest),
        ["response", rest @ ..] => of_response(state, exchange.response(), rest),
        ["source" | "destination" | "upstream", "address"] => fact(&parts.join(".")).map(text),
        [peer @ ("source" | "destination" | "upstream"), "port"] => {
            let address = fact(&format!("{peer}.address"))?;
            Some(number(address.rsplit_once(':')?.1.parse::<u16>().ok()?))
        }
        ["connection", "tls_version"] => {
            // Of the form that TLS itself has: `TLSv1.3`.
            Some(text(fact("connection.tls_version")?.replace('_', ".")))
        }
        ["connection", "requested_server_name"] => fact("connection.sni").map(text),
        ["connection", "mtls"] => fact("connection.mtls").map(|is| vec![u8::from(is == "true")]),
        ["connection", "id"] | ["connection_id"] => {
            Some(fact("connection.id")?.parse::<u64>().ok()?.to_le_bytes().to_vec())
        }
        ["route_name"] | ["xds", "route_name"] => fact("route.name").map(text),
        ["xds", "listener_name"] => fact("listener.name").map(text),
        ["cluster_name"] | ["xds", "cluster_name"] => fact("upstream.backend").map(text),
        ["filter_state", rest @ ..] => attribute(exchange, &rest.join(".")),
        _ => attribute(exchange, &parts.join(".")),
    }
}

fn attribute(exchange: &Exchange, name: &str) -> Option<Vec<u8>> {
    // Envoy's own prefix of what filters set.
    let value = exchange.attributes.get(name).or_else(|| exchange.attributes.get(name.strip_prefix("wasm.")?))?;
    Some(match value {
        AttributeValue::String(value) => text(value),
        AttributeValue::Integer(value) => number(*value),
        AttributeValue::Boolean(value) => vec![u8::from(*value)],
    })
}

fn field(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    Some(headers.get(name)?.as_bytes().to_vec())
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn of_request(state: &VmState, request: &dyn RequestView, rest: &[&str]) -> Option<Vec<u8>> {
    let summary = state.stream().and_then(|stream| stream.summary.as_ref());
    match rest {
        ["path"] => Some(text(target(request))),
        ["url_path"] => Some(text(request.path())),
        ["query"] => Some(text(request.query().unwrap_or_default())),
        ["host"] => Some(text(request.authority())),
        ["scheme"] => Some(text(request.scheme())),
        ["method"] => Some(text(request.method())),
        ["protocol"] => request.property("request.protocol").map(text),
        ["id"] => request.property("request.id").map(text),
        ["time"] => Some(number(request.property("request.time")?.parse::<i64>().ok()?)),
        ["referer"] => field(request.headers(), "referer"),
        ["useragent"] => field(request.headers(), "user-agent"),
        ["headers"] => {
            let all = pairs_of_request(request);
            Some(pairs::encode(all.iter().map(|(name, value)| (&**name, &**value))))
        }
        ["headers", ":path"] => Some(text(target(request))),
        ["headers", ":method"] => Some(text(request.method())),
        ["headers", ":authority" | "host"] => Some(text(request.authority())),
        ["headers", ":scheme"] => Some(text(request.scheme())),
        ["headers", name] => field(request.headers(), name),
        ["size"] => {
            let received = summary.map(|summary| summary.bytes_received);
            Some(number(received.or_else(|| length(request.headers())).unwrap_or(0)))
        }
        ["duration"] => Some(number(summary?.duration.as_nanos())),
        _ => None,
    }
}

fn of_response(state: &VmState, response: Option<&dyn ResponseView>, rest: &[&str]) -> Option<Vec<u8>> {
    let summary = state.stream().and_then(|stream| stream.summary.as_ref());
    let response = response?;
    match rest {
        ["code"] => Some(number(response.status().as_u16())),
        ["code_details"] => Some(text(summary?.reason.unwrap_or("via_upstream"))),
        ["headers"] => {
            let status = response.status();
            let mut all = vec![(&b":status"[..], status.as_str().as_bytes())];
            all.extend(response.headers().iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
            Some(pairs::encode(all.into_iter()))
        }
        ["headers", ":status"] => Some(text(response.status().as_str())),
        ["headers", name] => field(response.headers(), name),
        ["grpc_status"] => {
            let status = response.headers().get("grpc-status")?.to_str().ok()?;
            Some(number(status.parse::<i64>().ok()?))
        }
        ["size"] => Some(number(summary?.bytes_sent)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_parted_at_zero_bytes() {
        assert_eq!(parts(b"request\0path").unwrap(), ["request", "path"]);
        assert_eq!(parts(b"plugin_name").unwrap(), ["plugin_name"]);
        assert_eq!(parts(b"request\0headers\0x-a\0").unwrap(), ["request", "headers", "x-a"]);
        assert_eq!(parts(b"\xff"), None);
    }
}
