//! Data and queues that all VMs of one Plugin share.

use super::super::abi::{Answer, Status, status};
use super::super::memory::{Guest, give, slice, view, write_u32};
use super::super::shared::Refusal;
use super::super::state::VmState;
use super::ENV;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_shared_data",
        |mut guest: Guest<'_>, key: u32, key_size: u32, to: u32, size_to: u32, cas_to: u32| {
            status(get(&mut guest, (key, key_size), to, size_to, cas_to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_shared_data",
        |mut guest: Guest<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32| {
            status(set(&mut guest, (key, key_size), (value, value_size), cas))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_register_shared_queue",
        |mut guest: Guest<'_>, name: u32, name_size: u32, to: u32| status(register(&mut guest, (name, name_size), to)),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_resolve_shared_queue",
        |mut guest: Guest<'_>, vm: u32, vm_size: u32, name: u32, name_size: u32, to: u32| {
            status(resolve(&mut guest, (vm, vm_size), (name, name_size), to))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_enqueue_shared_queue",
        |mut guest: Guest<'_>, queue: u32, value: u32, value_size: u32| {
            status(enqueue(&mut guest, queue, (value, value_size)))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_dequeue_shared_queue",
        |mut guest: Guest<'_>, queue: u32, to: u32, size_to: u32| status(dequeue(&mut guest, queue, to, size_to)),
    )?;
    Ok(())
}

fn get(guest: &mut Guest<'_>, key: (u32, u32), to: u32, size_to: u32, cas_to: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let (value, cas) = state.plugin.shared.get(slice(memory, key.0, key.1)?).ok_or(Status::NotFound)?;
    give(guest, &value, to, size_to)?;
    write_u32(guest, cas_to, cas)
}

fn set(guest: &mut Guest<'_>, key: (u32, u32), value: (u32, u32), cas: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let (key, value) = (slice(memory, key.0, key.1)?, slice(memory, value.0, value.1)?);
    match state.plugin.shared.set(key, value, cas) {
        Ok(()) => Ok(()),
        Err(Refusal::Mismatch) => Err(Status::CasMismatch.into()),
        Err(refusal) => state.refuse(Status::InternalFailure, "proxy_set_shared_data", &refusal),
    }
}

fn register(guest: &mut Guest<'_>, name: (u32, u32), to: u32) -> Answer {
    let (memory, state) = view(guest)?;
    match state.plugin.shared.register(slice(memory, name.0, name.1)?, &state.queues) {
        Ok(queue) => write_u32(guest, to, queue),
        Err(refusal) => state.refuse(Status::InternalFailure, "proxy_register_shared_queue", &refusal),
    }
}

/// Only the plugin's own are found, whose VMs have no name.
fn resolve(guest: &mut Guest<'_>, vm: (u32, u32), name: (u32, u32), to: u32) -> Answer {
    let (memory, state) = view(guest)?;
    let (vm, name) = (slice(memory, vm.0, vm.1)?, slice(memory, name.0, name.1)?);
    let queue = state.plugin.shared.resolve(name).filter(|_| vm.is_empty()).ok_or(Status::NotFound)?;
    write_u32(guest, to, queue)
}

fn enqueue(guest: &mut Guest<'_>, queue: u32, value: (u32, u32)) -> Answer {
    let (memory, state) = view(guest)?;
    match state.plugin.shared.enqueue(queue, slice(memory, value.0, value.1)?) {
        Ok(()) => Ok(()),
        Err(Refusal::Unknown) => Err(Status::NotFound.into()),
        Err(refusal) => state.refuse(Status::InternalFailure, "proxy_enqueue_shared_queue", &refusal),
    }
}

fn dequeue(guest: &mut Guest<'_>, queue: u32, to: u32, size_to: u32) -> Answer {
    let taken = guest.data().plugin.shared.dequeue(queue);
    let value = taken.map_err(|_| Status::NotFound)?.ok_or(Status::Empty)?;
    give(guest, &value, to, size_to)
}
