//! The plugin host: loads WebAssembly components, configures them once, and runs them for requests.
//!
//! ```text
//!   config path:   desired (Plugins, uses) ─► fetch (`sluice-fetch`) ─► builder thread ─► read ─► check ─► compile ─► configure ─► image
//!                                                                                                         │
//!   assemble:      current(use) ◄───────────────────── published (ArcSwap) ◄──────────────────────────────┘
//!   request path:  Configured::begin ─► Invocation: on_request ─► on_request_body | pieces ─► on_response ─► on_response_body | pieces ─► trailers ; log
//! ```
//!
//! What it owns: the engine, the contract's host side (`sdk/wit`), compiled code, instances, and every limit on them.
//! What it refuses: to know routes, snapshots or the proxy engine ([`RequestView`] and [`ResponseView`] are what it
//! asks of them); to compile or to configure on the request path; to grant a plugin anything that the contract does
//! not name (there is no WASI here).
//!
//! A plugin's failure is its own. A version that does not load, compile or configure becomes a
//! [`Problem`](sluice_model::Problem) and never replaces the one before. A call that traps, runs over its time or
//! asks for too much memory ends that instance and nothing else; a plugin whose calls are slow is run aside, on
//! threads of low priority, so that it does not delay its neighbours ([`standing`]).

mod aside;
mod attributes;
mod breaker;
mod build;
mod configured;
mod decision;
mod engine;
mod error;
mod exchange;
mod fields;
mod guest;
mod histogram;
mod host;
mod instance;
mod interfaces;
mod invocation;
mod limits;
mod metrics;
mod options;
mod outgoing;
mod plain;
mod proxy_wasm;
mod schema;
mod services;
mod shares;
mod standing;
mod test_bench;

pub use attributes::{AttributeValue, Attributes};
pub use build::componentize;
pub use configured::{Configured, Phases};
pub use decision::{BodyOutcome, BodyRequest, Decision, LocalReply, OverLimit};
pub use error::{HostError, PluginError, TrapKind};
pub use exchange::{Destination, Exchange, RequestView, ResponseView, Summary};
pub use fields::{Refused, method as method_may_become};
pub use host::{Desired, DesiredUse, FetchProgress, FetchStatus, PluginHost, PluginStatus};
pub use interfaces::{FileKind, Interfaces, image_obstacle};
pub use invocation::Invocation;
pub use options::HostOptions;
pub use outgoing::{Backends, FetchError, FetchErrorKind, Outbound, OutboundRequest, OutboundResponse, OwnBounds};
pub use plain::{PlainRequest, PlainResponse};
pub use schema::{ConfigError, ConfigSchema, SECTION as SCHEMA_SECTION, SchemaError};
pub use services::{CheckedStore, StoreConnection, StoreError, StoreErrorKind, StoreServers, StoreStream};
pub use test_bench::{MetricValue, TestBench};
