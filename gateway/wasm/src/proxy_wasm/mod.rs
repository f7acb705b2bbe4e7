//! Filters of the proxy-wasm ABI, as Envoy runs them: core modules that are called back for each step of an exchange.
//!
//! ```text
//!   Program (a Plugin with one configuration) ─► Vm, one a serving thread ─► root context
//!      ▲ keeper: makes VMs, ticks, queues            └─► a stream context an exchange ◄── Stream (an Invocation's)
//! ```
//!
//! The ABI wants one VM for many exchanges, with a root context that lives as long as it does. So an exchange has no
//! instance for itself, as with components, and what a filter keeps in its memory others of its exchanges see. An
//! exchange stays with the VM that it began with. A VM is used by one call at a time; a serving thread takes the one that
//! is its own, which nobody else wants but the keeper and calls that run aside, and another that is free if it is not.
//!
//! A callout is no wait of the guest's: it pauses its exchange, which waits outside of the VM while others go on.
//!
//! What the ABI has and this does not carry is refused with the ABI's own status (`host/refused.rs`).

mod abi;
mod callouts;
mod exports;
mod grpc;
mod host;
mod keeper;
mod memory;
mod module;
mod pairs;
mod place;
mod program;
mod settings;
mod shared;
mod state;
mod stream;
mod vm;

pub(crate) use host::linker;
pub(crate) use module::{Code, version};
pub(crate) use program::{Host, Program};
pub(crate) use shared::Shared;
pub(crate) use state::VmState;
pub(crate) use stream::Stream;
