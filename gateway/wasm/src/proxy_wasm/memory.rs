//! The guest's memory, by its own pointers: each is checked, and none is trusted longer than a call.

use super::abi::{Answer, Status};
use super::state::VmState;
use wasmtime::Caller;

pub(super) type Guest<'c> = Caller<'c, VmState>;

/// All of the memory, beside the state.
pub(super) fn view<'c>(guest: &'c mut Guest<'_>) -> Answer<(&'c mut [u8], &'c mut VmState)> {
    let memory = guest.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    Ok(memory.data_and_store_mut(guest))
}

pub(super) fn slice(memory: &[u8], at: u32, length: u32) -> Answer<&[u8]> {
    let (at, length) = (at as usize, length as usize);
    let end = at.checked_add(length).ok_or(Status::InvalidMemoryAccess)?;
    Ok(memory.get(at..end).ok_or(Status::InvalidMemoryAccess)?)
}

pub(super) fn write(guest: &mut Guest<'_>, at: u32, bytes: &[u8]) -> Answer {
    let (memory, _) = view(guest)?;
    let at = at as usize;
    let end = at.checked_add(bytes.len()).ok_or(Status::InvalidMemoryAccess)?;
    memory.get_mut(at..end).ok_or(Status::InvalidMemoryAccess)?.copy_from_slice(bytes);
    Ok(())
}

pub(super) fn write_u32(guest: &mut Guest<'_>, at: u32, value: u32) -> Answer {
    write(guest, at, &value.to_le_bytes())
}

pub(super) fn write_u64(guest: &mut Guest<'_>, at: u32, value: u64) -> Answer {
    write(guest, at, &value.to_le_bytes())
}

/// Hands `bytes` over in memory that the guest allocates for them: where they are goes to `to`, how many to `size_to`.
pub(super) fn give(guest: &mut Guest<'_>, bytes: &[u8], to: u32, size_to: u32) -> Answer {
    let length = u32::try_from(bytes.len()).map_err(|_| Status::InternalFailure)?;
    let mut at = 0;
    if length > 0 {
        let allocate = guest.data().allocate.clone().ok_or(Status::InvalidMemoryAccess)?;
        at = allocate.call(&mut *guest, length)?;
        if at == 0 {
            return Err(Status::InvalidMemoryAccess.into());
        }
        write(guest, at, bytes)?;
    }
    write_u32(guest, to, at)?;
    write_u32(guest, size_to, length)
}
