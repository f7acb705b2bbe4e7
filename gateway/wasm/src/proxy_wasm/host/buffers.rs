//! Buffers: bodies, the configuration, and the body of the answer to a callout.

use super::super::abi::{Answer, Status, buffer, status};
use super::super::memory::{Guest, give, slice, view, write_u32};
use super::super::state::VmState;
use super::ENV;
use crate::configured::Phase;
use crate::fields::Refused;
use bytes::BytesMut;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, length: u32, to: u32, size_to: u32| {
            status(get(&mut guest, kind, start, length, to, size_to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_status",
        |mut guest: Guest<'_>, kind: u32, size_to: u32, flags_to: u32| {
            status(get_status(&mut guest, kind, size_to, flags_to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, length: u32, at: u32, size: u32| {
            status(set(&mut guest, kind, start, length, (at, size)))
        },
    )?;
    // Of version 0.1.0.
    linker.func_wrap(ENV, "proxy_get_configuration", |mut guest: Guest<'_>, to: u32, size_to: u32| {
        status(get(&mut guest, buffer::PLUGIN_CONFIGURATION, 0, u32::MAX, to, size_to))
    })?;
    Ok(())
}

/// The body of a message, in the phase that is for it.
fn body(state: &VmState, kind: u32) -> Option<&BytesMut> {
    let is_now = match kind {
        buffer::REQUEST_BODY => state.is_in(Phase::RequestBody),
        // What is held back of it goes on with the trailers.
        _ => state.is_in(Phase::ResponseBody) || state.is_in(Phase::ResponseTrailers),
    };
    state.exchange().filter(|_| is_now).map(|exchange| &exchange.body.held)
}

fn content(state: &VmState, kind: u32) -> Answer<&[u8]> {
    let content = match kind {
        buffer::REQUEST_BODY | buffer::RESPONSE_BODY => body(state, kind).map(|body| &**body),
        buffer::PLUGIN_CONFIGURATION => Some(&*state.settings.configuration),
        // A Plugin has none.
        buffer::VM_CONFIGURATION => Some(&[][..]),
        buffer::CALL_RESPONSE_BODY => state.callouts.answer().map(|answer| &*answer.body),
        buffer::GRPC_RECEIVE => state.callouts.message().map(|message| &**message),
        _ if kind <= buffer::LAST => None,
        _ => return Err(Status::BadArgument.into()),
    };
    Ok(content.ok_or(Status::NotFound)?)
}

fn get(guest: &mut Guest<'_>, kind: u32, start: u32, length: u32, to: u32, size_to: u32) -> Answer {
    let content = content(guest.data(), kind)?;
    let rest = content.get(start as usize..).unwrap_or_default();
    let part = rest.get(..length as usize).unwrap_or(rest).to_vec();
    give(guest, &part, to, size_to)
}

fn get_status(guest: &mut Guest<'_>, kind: u32, size_to: u32, flags_to: u32) -> Answer {
    let length = content(guest.data(), kind)?.len();
    write_u32(guest, size_to, u32::try_from(length).unwrap_or(u32::MAX))?;
    write_u32(guest, flags_to, 0)
}

/// Puts bytes in the place of `length` ones from `start` on: before all, behind all, or anywhere between.
fn set(guest: &mut Guest<'_>, kind: u32, start: u32, length: u32, bytes: (u32, u32)) -> Answer {
    let (memory, state) = view(guest)?;
    let bytes = slice(memory, bytes.0, bytes.1)?;
    match kind {
        buffer::REQUEST_BODY | buffer::RESPONSE_BODY => {}
        // They are not the filter's to change.
        buffer::PLUGIN_CONFIGURATION | buffer::VM_CONFIGURATION | buffer::CALL_RESPONSE_BODY | buffer::GRPC_RECEIVE => {
            return Err(Status::BadArgument.into());
        }
        _ if kind <= buffer::LAST => return Err(Status::NotFound.into()),
        _ => return Err(Status::BadArgument.into()),
    }
    let limit = state.settings.body_buffer;
    let now = body(state, kind).ok_or(Status::NotFound)?;
    let start = (start as usize).min(now.len());
    let end = start.saturating_add(length as usize).min(now.len());
    let size = now.len() - (end - start) + bytes.len();
    // What came may be more than what may be held; what a filter makes of it may not.
    if size > now.len() && size as u64 > limit {
        return state.refuse(Status::BadArgument, "proxy_set_buffer_bytes", &Refused::Body(limit));
    }
    let mut changed = BytesMut::with_capacity(size);
    for part in [now.get(..start), Some(bytes), now.get(end..)].into_iter().flatten() {
        changed.extend_from_slice(part);
    }
    if let Some(exchange) = state.exchange_mut() {
        exchange.body.held = changed;
    }
    Ok(())
}
