//! Fetches the code of plugins: what an object wishes for becomes a module on this host, held to its digest and, where
//! the object asks for that, to a signature.
//!
//! ```text
//!   desire (sources by Plugin) ─► fetch thread ─► folder of modules? ──────────────► states (ArcSwap) ─► plugin host
//!                                     ▲               │ not there                        ▲
//!                                     │               ▼                                  │
//!                                  backoff ◄── registry, or HTTPS ─► signature ─► layer ─┘
//! ```
//!
//! What it owns: the client of registries and of web servers, credentials on the wire, signatures, the folder of modules,
//! and how often a failure is tried again. What it refuses: to know WebAssembly (the plugin host judges what was fetched);
//! to be waited for by anything that serves; to reach addresses that an object of a tenant has no business with
//! ([`Policy`]).
//!
//! The client is written on the HTTP stack that the gateway has: what the ready-made ones read is not bounded, and they
//! follow redirects to any address.

mod error;
mod fetcher;
pub mod folder;
mod http;
mod layer;
mod manifest;
mod metrics;
mod policy;
mod registry;
mod signature;
mod source;
mod store;

pub use error::FetchError;
pub use fetcher::{FetchFailure, FetchState, Fetched, Fetcher, FetcherOptions, States};
pub use http::Http;
pub use layer::PLUGIN_FILE;
pub use manifest::{WASM_LAYER, wasm_manifest};
pub use policy::Policy;
pub use registry::{Progress, Repository};
pub use source::{Found, pull};
