//! The functions that the ABI's modules import, by subject. Each takes what it needs out of the guest's memory, does what
//! it is for on the state, and answers with a status; none believes a pointer or a length.

mod buffers;
mod contexts;
mod grpc;
mod maps;
mod metrics;
mod properties;
mod refused;
mod shared;
mod streams;
mod texts;
mod wasi;

use super::state::VmState;
use wasmtime::{Engine, Linker, Result};

/// The module that the ABI's functions are imported from.
const ENV: &str = "env";

pub(crate) fn linker(engine: &Engine) -> Result<Linker<VmState>> {
    let mut linker = Linker::new(engine);
    texts::define(&mut linker)?;
    contexts::define(&mut linker)?;
    maps::define(&mut linker)?;
    buffers::define(&mut linker)?;
    properties::define(&mut linker)?;
    streams::define(&mut linker)?;
    grpc::define(&mut linker)?;
    shared::define(&mut linker)?;
    metrics::define(&mut linker)?;
    refused::define(&mut linker)?;
    wasi::define(&mut linker)?;
    Ok(linker)
}
