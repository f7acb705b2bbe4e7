//! Contexts, ticks, and the status of the last callout.

use super::super::abi::{Answer, Status, status};
use super::super::memory::{Guest, give, write_u32};
use super::super::state::{ROOT, SHORTEST_TICK, VmState};
use super::ENV;
use crate::configured::Phase;
use crate::exchange::Destination;
use std::time::Duration;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(ENV, "proxy_set_effective_context", |mut guest: Guest<'_>, context: u32| {
        status(set_effective(guest.data_mut(), context))
    })?;
    // A context's end waits for nobody here, so that none is ever pending.
    linker.func_wrap(ENV, "proxy_done", |_: Guest<'_>| status(Err(Status::NotFound.into())))?;
    linker.func_wrap(ENV, "proxy_set_tick_period_milliseconds", |mut guest: Guest<'_>, period: u32| {
        let period = Duration::from_millis(u64::from(period));
        guest.data_mut().tick = (!period.is_zero()).then(|| period.max(SHORTEST_TICK));
        status(Ok(()))
    })?;
    linker.func_wrap(ENV, "proxy_get_status", |mut guest: Guest<'_>, code_to: u32, to: u32, size_to: u32| {
        status(get_status(&mut guest, code_to, to, size_to))
    })?;
    linker.func_wrap(ENV, "proxy_clear_route_cache", |mut guest: Guest<'_>| {
        find_route(guest.data_mut());
        status(Ok(()))
    })?;
    Ok(())
}

fn set_effective(state: &mut VmState, context: u32) -> Answer {
    if context != ROOT && !state.streams.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    state.effective = context;
    Ok(())
}

/// Filters that were written for Envoy ask for this as a matter of course: what the Plugin does not allow, or comes too late, is
/// nothing.
fn find_route(state: &mut VmState) {
    if !state.plugin.services.may_route() || !state.is_in(Phase::RequestHeaders) {
        return;
    }
    if let Some(exchange) = state.exchange_mut() {
        exchange.destination = Destination { backend: None, find_route: true };
    }
}

fn get_status(guest: &mut Guest<'_>, code_to: u32, to: u32, size_to: u32) -> Answer {
    let (code, message) = guest.data().callouts.status().clone();
    write_u32(guest, code_to, code)?;
    give(guest, message.as_bytes(), to, size_to)
}
