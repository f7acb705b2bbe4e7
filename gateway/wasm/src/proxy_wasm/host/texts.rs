//! Log and clock.

use super::super::abi::{Answer, Status, status};
use super::super::memory::{Guest, slice, view, write_u32, write_u64};
use super::super::state::VmState;
use super::ENV;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::Level;
use wasmtime::{Linker, Result};

/// Characters of a filter's own words in a problem.
const MAX_SAID: usize = 500;

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(ENV, "proxy_log", |mut guest: Guest<'_>, level: u32, at: u32, length: u32| {
        status(log(&mut guest, level, at, length))
    })?;
    linker.func_wrap(ENV, "proxy_get_log_level", |mut guest: Guest<'_>, to: u32| {
        status(write_u32(&mut guest, to, log_level()))
    })?;
    linker.func_wrap(ENV, "proxy_get_current_time_nanoseconds", |mut guest: Guest<'_>, to: u32| {
        status(write_u64(&mut guest, to, now()))
    })?;
    Ok(())
}

fn log(guest: &mut Guest<'_>, level: u32, at: u32, length: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let message = String::from_utf8_lossy(slice(memory, at, length)?);
    let level = match level {
        0 | 1 => Level::DEBUG,
        2 => Level::INFO,
        3 => Level::WARN,
        4 | 5 => Level::ERROR,
        _ => return Err(Status::BadArgument.into()),
    };
    state.plugin.log.line(level, &message);
    if level <= Level::WARN
        && let Some(said) = &mut state.said
    {
        *said = message.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect();
    }
    Ok(())
}

/// `proxy_log_level_t` of the least line that is written.
fn log_level() -> u32 {
    if tracing::enabled!(target: "plugin", Level::DEBUG) {
        0
    } else if tracing::enabled!(target: "plugin", Level::INFO) {
        2
    } else if tracing::enabled!(target: "plugin", Level::WARN) {
        3
    } else {
        4
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
