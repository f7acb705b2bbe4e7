//! What is not carried: each is refused with the ABI's own status, and listed in docs/plugins-proxy-wasm.md.

use super::super::abi::{Status, status};
use super::super::memory::Guest;
use super::super::state::VmState;
use super::ENV;
use wasmtime::{Linker, Result};

pub(super) fn define(linker: &mut Linker<VmState>) -> Result<()> {
    const UNIMPLEMENTED: Status = Status::Unimplemented;
    type N = u32;
    linker.func_wrap(
        ENV,
        "proxy_grpc_call",
        |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N| {
            status(Err(UNIMPLEMENTED.into()))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_grpc_stream",
        |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N| status(Err(UNIMPLEMENTED.into())),
    )?;
    // Of streams and calls that there can't be.
    linker.func_wrap(ENV, "proxy_grpc_send", |_: Guest<'_>, _: N, _: N, _: N, _: N| {
        status(Err(Status::NotFound.into()))
    })?;
    linker.func_wrap(ENV, "proxy_grpc_cancel", |_: Guest<'_>, _: N| status(Err(Status::NotFound.into())))?;
    linker.func_wrap(ENV, "proxy_grpc_close", |_: Guest<'_>, _: N| status(Err(Status::NotFound.into())))?;
    // There is none.
    linker.func_wrap(ENV, "proxy_call_foreign_function", |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N| {
        status(Err(Status::NotFound.into()))
    })?;
    Ok(())
}
