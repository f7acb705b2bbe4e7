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
        "proxy_grpc_stream",
        |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N| status(Err(UNIMPLEMENTED.into())),
    )?;
    // There is none.
    linker.func_wrap(ENV, "proxy_call_foreign_function", |_: Guest<'_>, _: N, _: N, _: N, _: N, _: N, _: N| {
        status(Err(Status::NotFound.into()))
    })?;
    Ok(())
}
