//! Buffers: the configuration, and the body of the answer to a callout.

use super::super::abi::{Answer, Status, buffer, status};
use super::super::memory::{Guest, give, write_u32};
use super::super::state::VmState;
use super::ENV;
use bytes::Bytes;
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
    linker.func_wrap(ENV, "proxy_set_buffer_bytes", |_: Guest<'_>, kind: u32, _: u32, _: u32, _: u32, _: u32| {
        status(set(kind))
    })?;
    // Of version 0.1.0.
    linker.func_wrap(ENV, "proxy_get_configuration", |mut guest: Guest<'_>, to: u32, size_to: u32| {
        status(get(&mut guest, buffer::PLUGIN_CONFIGURATION, 0, u32::MAX, to, size_to))
    })?;
    Ok(())
}

fn content(state: &VmState, kind: u32) -> Answer<Bytes> {
    let content = match kind {
        buffer::PLUGIN_CONFIGURATION => Some(state.settings.configuration.clone()),
        // A Plugin has none.
        buffer::VM_CONFIGURATION => Some(Bytes::new()),
        buffer::CALL_RESPONSE_BODY => state.callouts.answer().map(|answer| answer.body.clone()),
        _ if kind <= buffer::LAST => None,
        _ => return Err(Status::BadArgument.into()),
    };
    Ok(content.ok_or(Status::NotFound)?)
}

fn get(guest: &mut Guest<'_>, kind: u32, start: u32, length: u32, to: u32, size_to: u32) -> Answer {
    let content = content(guest.data(), kind)?;
    let (start, length) = (start as usize, length as usize);
    let rest = content.get(start..).unwrap_or_default();
    give(guest, rest.get(..length).unwrap_or(rest), to, size_to)
}

fn get_status(guest: &mut Guest<'_>, kind: u32, size_to: u32, flags_to: u32) -> Answer {
    let length = content(guest.data(), kind)?.len();
    write_u32(guest, size_to, u32::try_from(length).unwrap_or(u32::MAX))?;
    write_u32(guest, flags_to, 0)
}

fn set(kind: u32) -> Answer {
    match kind {
        buffer::PLUGIN_CONFIGURATION | buffer::VM_CONFIGURATION | buffer::CALL_RESPONSE_BODY => {
            Err(Status::BadArgument.into())
        }
        _ if kind <= buffer::LAST => Err(Status::NotFound.into()),
        _ => Err(Status::BadArgument.into()),
    }
}
