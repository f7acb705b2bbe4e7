//! What the tests that cross rooms have in common: the real binary on free ports with a folder of YAML, backends in
//! this process, and clients that say exactly what happened on the wire.
//!
//! ```text
//! clients (raw, h2, ws, load) ──► Gateway (the `sluice` binary, one process a test) ──► Backend (hyper, in here)
//!                                     ▲
//!                                  Folder (YAML, replaced atomically as editors and ConfigMap mounts do it)
//! ```
//!
//! No client here sends a request twice: a request that fails has failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod address;
pub mod api_server;
pub mod backend;
pub mod binary;
pub mod certificate;
pub mod collector;
pub mod console;
pub mod folder;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod guests;
pub mod http2;
pub mod load;
pub mod objects;
pub mod ports;
pub mod raw;
pub mod raw_backend;
pub mod redis;
pub mod registry;
pub mod wait;

pub use address::Address;
pub use api_server::ApiServer;
pub use backend::Backend;
pub use collector::Collector;
pub use folder::Folder;
pub use gateway::Gateway;
pub use redis::Redis;
pub use registry::Registry;
