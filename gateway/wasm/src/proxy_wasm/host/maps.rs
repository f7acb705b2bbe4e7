//! Header fields: the request's, the response's, and those of the answer to a callout.
//!
//! `:method`, `:path`, `:authority`, `:scheme` and `:status` are fields of them, as filters expect. `host` is another name
//! of `:authority`. What frames a message, or belongs to a connection, is the gateway's: a filter that sets or removes it
//! is told that it did, as the message that goes on is framed all the same.

use super::super::abi::{Answer, Status, map, status};
use super::super::memory::{Guest, give, slice, view, write_u32};
use super::super::pairs;
use super::super::state::VmState;
use super::ENV;
use crate::configured::Phase;
use crate::exchange::{RequestView, ResponseView};
use crate::fields::{self, Refused};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::borrow::Cow;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_value",
        |mut guest: Guest<'_>, map: u32, key: u32, key_size: u32, to: u32, size_to: u32| {
            status(get_value(&mut guest, map, key, key_size, to, size_to))
        },
    )?;
    linker.func_wrap(ENV, "proxy_get_header_map_pairs", |mut guest: Guest<'_>, map: u32, to: u32, size_to: u32| {
        status(get_pairs(&mut guest, map, to, size_to))
    })?;
    linker.func_wrap(ENV, "proxy_get_header_map_size", |mut guest: Guest<'_>, map: u32, to: u32| {
        status(get_size(&mut guest, map, to))
    })?;
    linker.func_wrap(ENV, "proxy_set_header_map_pairs", |mut guest: Guest<'_>, map: u32, at: u32, length: u32| {
        status(set_pairs(&mut guest, map, at, length))
    })?;
    linker.func_wrap(
        ENV,
        "proxy_add_header_map_value",
        |mut guest: Guest<'_>, map: u32, key: u32, key_size: u32, value: u32, value_size: u32| {
            status(set_value(&mut guest, How::Add, map, (key, key_size), (value, value_size)))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_replace_header_map_value",
        |mut guest: Guest<'_>, map: u32, key: u32, key_size: u32, value: u32, value_size: u32| {
            status(set_value(&mut guest, How::Replace, map, (key, key_size), (value, value_size)))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_remove_header_map_value",
        |mut guest: Guest<'_>, map: u32, key: u32, key_size: u32| status(remove_value(&mut guest, map, key, key_size)),
    )?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Add,
    Replace,
}

impl How {
    const fn function(self) -> &'static str {
        match self {
            How::Add => "proxy_add_header_map_value",
            How::Replace => "proxy_replace_header_map_value",
        }
    }
}

/// Name and value.
type Pair<'s> = (Cow<'s, [u8]>, Cow<'s, [u8]>);

/// What can be read of a map.
enum Fields<'s> {
    Request(&'s dyn RequestView),
    Response(&'s dyn ResponseView),
    Answer(&'s crate::OutboundResponse),
    Trailers(&'s HeaderMap),
    /// There is no such message now, or it has no such fields.
    None,
}

impl<'s> Fields<'s> {
    fn of(state: &'s VmState, map: u32) -> Answer<Fields<'s>> {
        let fields = match map {
            map::REQUEST_HEADERS => state.exchange().and_then(|exchange| exchange.request()).map(Fields::Request),
            map::RESPONSE_HEADERS => state.exchange().and_then(|exchange| exchange.response()).map(Fields::Response),
            map::RESPONSE_TRAILERS => {
                state.exchange().and_then(|exchange| exchange.trailers.as_ref()).map(Fields::Trailers)
            }
            map::CALL_RESPONSE_HEADERS => state.callouts.answer().map(Fields::Answer),
            map::CALL_RESPONSE_TRAILERS => state.callouts.answer().map(|answer| Fields::Trailers(&answer.trailers)),
            _ if map <= map::LAST => None,
            _ => return Err(Status::BadArgument.into()),
        };
        Ok(fields.unwrap_or(Fields::None))
    }

    fn get(&self, name: &str) -> Option<Cow<'s, [u8]>> {
        let pseudo = match self {
            Fields::Request(view) => of_request(*view, name),
            Fields::Response(view) => (name == ":status").then(|| view.status().as_str().to_owned().into()),
            Fields::Answer(answer) => (name == ":status").then(|| answer.status.as_str().to_owned().into()),
            Fields::Trailers(_) | Fields::None => None,
        };
        if let Some(value) = pseudo {
            return Some(match value {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            });
        }
        Some(Cow::Borrowed(self.headers()?.get(name)?.as_bytes()))
    }

    fn headers(&self) -> Option<&'s HeaderMap> {
        match self {
            Fields::Request(view) => Some(view.headers()),
            Fields::Response(view) => Some(view.headers()),
            Fields::Answer(answer) => Some(&answer.headers),
            Fields::Trailers(trailers) => Some(trailers),
            Fields::None => None,
        }
    }

    /// Every pair, pseudo-fields first.
    fn pairs(&self) -> Vec<Pair<'s>> {
        match self {
            Fields::Request(view) => pairs_of_request(*view),
            Fields::Response(_) | Fields::Answer(_) => {
                let status = self.get(":status").unwrap_or_default();
                let status = (Cow::Borrowed(&b":status"[..]), status);
                std::iter::once(status).chain(self.headers().into_iter().flat_map(plain)).collect()
            }
            Fields::Trailers(trailers) => plain(trailers).collect(),
            Fields::None => Vec::new(),
        }
    }
}

fn plain(headers: &HeaderMap) -> impl Iterator<Item = Pair<'_>> {
    headers.iter().map(|(name, value)| (Cow::Borrowed(name.as_str().as_bytes()), Cow::Borrowed(value.as_bytes())))
}

fn of_request<'s>(view: &'s dyn RequestView, name: &str) -> Option<Cow<'s, str>> {
    match name {
        ":method" => Some(view.method().into()),
        ":scheme" => Some(view.scheme().into()),
        ":authority" => Some(view.authority().into()),
        ":path" => Some(target(view)),
        _ if name.eq_ignore_ascii_case("host") => Some(view.authority().into()),
        _ => None,
    }
}

/// Path and query.
pub(super) fn target(view: &dyn RequestView) -> Cow<'_, str> {
    match view.query() {
        None => view.path().into(),
        Some(query) => format!("{}?{query}", view.path()).into(),
    }
}

/// In the order that filters see under Envoy.
pub(super) fn pairs_of_request(view: &dyn RequestView) -> Vec<Pair<'_>> {
    let text = |text: Cow<'_, str>| -> Cow<'_, [u8]> {
        match text {
            Cow::Borrowed(text) => Cow::Owned(text.as_bytes().to_vec()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    };
    let mut pairs: Vec<Pair<'_>> = Vec::with_capacity(view.headers().len() + 4);
    for name in [":authority", ":path", ":method", ":scheme"] {
        if let Some(value) = of_request(view, name) {
            pairs.push((Cow::Borrowed(name.as_bytes()), text(value).into_owned().into()));
        }
    }
    pairs.extend(plain(view.headers()).filter(|(name, _)| &**name != b"host"));
    pairs
}

fn get_value(guest: &mut Guest<'_>, map: u32, key: u32, key_size: u32, to: u32, size_to: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let key = slice(memory, key, key_size)?;
    let fields = Fields::of(state, map)?;
    let value = std::str::from_utf8(key).ok().and_then(|name| fields.get(name));
    let value = match value {
        Some(value) => value.into_owned(),
        // What a filter of that version expects.
        None if state.settings.version == super::super::abi::Version::V0_1_0 => Vec::new(),
        None => return Err(Status::NotFound.into()),
    };
    give(guest, &value, to, size_to)
}

fn get_pairs(guest: &mut Guest<'_>, map: u32, to: u32, size_to: u32) -> Answer {
    let fields = Fields::of(guest.data(), map)?;
    let pairs = fields.pairs();
    let encoded = match pairs.is_empty() {
        true => Vec::new(),
        false => pairs::encode(pairs.iter().map(|(name, value)| (&**name, &**value))),
    };
    give(guest, &encoded, to, size_to)
}

/// Bytes of names and values, as Envoy counts them.
fn get_size(guest: &mut Guest<'_>, map: u32, to: u32) -> Answer {
    let pairs = Fields::of(guest.data(), map)?.pairs();
    let size: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    write_u32(guest, to, u32::try_from(size).unwrap_or(u32::MAX))
}

fn set_value(guest: &mut Guest<'_>, how: How, map: u32, key: (u32, u32), value: (u32, u32)) -> Answer {
    let (memory, state) = view(guest)?;
    let (key, value) = (slice(memory, key.0, key.1)?, slice(memory, value.0, value.1)?);
    set(state, how, map, key, value)
}

fn set(state: &mut VmState, how: How, map: u32, key: &[u8], value: &[u8]) -> Answer {
    let name = String::from_utf8_lossy(key);
    let outcome = match map {
        map::REQUEST_HEADERS => set_of_request(request(state)?, how, &name, value),
        map::RESPONSE_HEADERS => set_of_response(response(state)?, how, &name, value),
        map::RESPONSE_TRAILERS => set_of_trailers(trailers(state)?, how, &name, value),
        _ => return Err(Status::BadArgument.into()),
    };
    match outcome {
        Ok(()) | Err(Refused::Framing(_)) => Ok(()),
        Err(refused) => state.refuse(Status::BadArgument, how.function(), &refused),
    }
}

/// The request, while its fields may be changed.
fn request(state: &mut VmState) -> Answer<&mut dyn RequestView> {
    let is_open = state.is_in(Phase::RequestHeaders);
    let view = state.exchange_mut().filter(|_| is_open).and_then(|exchange| exchange.request.as_deref_mut());
    Ok(view.ok_or(Status::BadArgument)?)
}

fn response(state: &mut VmState) -> Answer<&mut dyn ResponseView> {
    let is_open = state.is_in(Phase::ResponseHeaders);
    let view = state.exchange_mut().filter(|_| is_open).and_then(|exchange| exchange.response.as_deref_mut());
    Ok(view.ok_or(Status::BadArgument)?)
}

/// They are there in their own phase alone.
fn trailers(state: &mut VmState) -> Answer<&mut HeaderMap> {
    let trailers = state.exchange_mut().and_then(|exchange| exchange.trailers.as_mut());
    Ok(trailers.ok_or(Status::BadArgument)?)
}

fn set_of_request(view: &mut dyn RequestView, how: How, name: &str, value: &[u8]) -> std::result::Result<(), Refused> {
    let text = std::str::from_utf8(value);
    match name {
        ":path" => set_target(view, text.map_err(|_| Refused::Path)?),
        ":method" => view.set_method(text.map_err(|_| Refused::Method)?),
        ":scheme" if value == view.scheme().as_bytes() => Ok(()),
        ":authority" => view.set_authority(text.map_err(|_| Refused::Authority)?),
        _ if name.eq_ignore_ascii_case("host") => view.set_authority(text.map_err(|_| Refused::Authority)?),
        _ => {
            let (name, value) = field(view.headers(), how, name, value)?;
            match how {
                How::Add => view.append_header(name, value),
                How::Replace => view.set_header(name, value),
            }
            Ok(())
        }
    }
}

fn set_target(view: &mut dyn RequestView, target: &str) -> std::result::Result<(), Refused> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    fields::path(path)?;
    query.map_or(Ok(()), fields::query)?;
    view.set_path(path)?;
    view.set_query(query)
}

fn set_of_response(
    view: &mut dyn ResponseView,
    how: How,
    name: &str,
    value: &[u8],
) -> std::result::Result<(), Refused> {
    if name == ":status" {
        let code = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        view.set_status(fields::status(code)?);
        return Ok(());
    }
    let (name, value) = field(view.headers(), how, name, value)?;
    match how {
        How::Add => view.append_header(name, value),
        How::Replace => view.set_header(name, value),
    }
    Ok(())
}

fn set_of_trailers(trailers: &mut HeaderMap, how: How, name: &str, value: &[u8]) -> std::result::Result<(), Refused> {
    let (name, value) = field(trailers, how, name, value)?;
    match how {
        How::Add => trailers.append(name, value),
        How::Replace => trailers.insert(name, value).is_some(),
    };
    Ok(())
}

fn field(
    headers: &HeaderMap,
    how: How,
    name: &str,
    value: &[u8],
) -> std::result::Result<(HeaderName, HeaderValue), Refused> {
    let name = fields::name(name)?;
    if how == How::Add || !headers.contains_key(&name) {
        fields::room(headers)?;
    }
    let value = fields::value(&name, value.to_vec())?;
    Ok((name, value))
}

fn remove_value(guest: &mut Guest<'_>, map: u32, key: u32, key_size: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let name = String::from_utf8_lossy(slice(memory, key, key_size)?);
    let refused = match fields::removable(&name) {
        Ok(name) => {
            match map {
                map::REQUEST_HEADERS => request(state)?.remove_header(&name),
                map::RESPONSE_HEADERS => response(state)?.remove_header(&name),
                map::RESPONSE_TRAILERS => drop(trailers(state)?.remove(&name)),
                _ => return Err(Status::BadArgument.into()),
            }
            return Ok(());
        }
        Err(refused) => refused,
    };
    match refused {
        Refused::Framing(_) => Ok(()),
        refused => state.refuse(Status::BadArgument, "proxy_remove_header_map_value", &refused),
    }
}

/// Replaces all fields but those that are the gateway's.
fn set_pairs(guest: &mut Guest<'_>, map: u32, at: u32, length: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let Some(pairs) = pairs::decode(slice(memory, at, length)?) else {
        return state.refuse(Status::BadArgument, "proxy_set_header_map_pairs", &"the bytes are no map");
    };
    let names = |headers: &HeaderMap| -> Vec<HeaderName> {
        headers.keys().filter(|name| fields::name(name.as_str()).is_ok()).cloned().collect()
    };
    match map {
        map::REQUEST_HEADERS => {
            let view = request(state)?;
            names(view.headers()).iter().for_each(|name| view.remove_header(name));
        }
        map::RESPONSE_HEADERS => {
            let view = response(state)?;
            names(view.headers()).iter().for_each(|name| view.remove_header(name));
        }
        map::RESPONSE_TRAILERS => {
            let trailers = trailers(state)?;
            names(trailers).iter().for_each(|name| drop(trailers.remove(name)));
        }
        _ => return Err(Status::BadArgument.into()),
    }
    for (name, value) in pairs {
        set(state, How::Add, map, name, value)?;
    }
    Ok(())
}

/// Fields for a message that is put together. What frames it is left out.
pub(super) fn collect(pairs: Vec<(&[u8], &[u8])>) -> std::result::Result<HeaderMap, Refused> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        if name.first() == Some(&b':') {
            continue;
        }
        match fields::field(&headers, &String::from_utf8_lossy(name), value.to_vec()) {
            Ok((name, value)) => {
                headers.append(name, value);
            }
            Err(Refused::Framing(_)) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(headers)
}

/// A body without a type is plain text, as Envoy has it.
pub(super) fn with_type(mut headers: HeaderMap) -> HeaderMap {
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    headers
}
