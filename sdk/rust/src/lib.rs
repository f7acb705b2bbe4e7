//! Write plugins for the Sluice gateway.
//!
//! A plugin is a type that is made from a configuration once, and is then asked about requests: one trait a phase, and
//! [`export!`] names the phases that it takes part in.
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request};
//!
//! /// Lets requests pass that name a tenant.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! pub struct Config {
//!     /// The tenants that exist.
//!     tenants: Vec<String>,
//! }
//!
//! pub struct Tenants {
//!     known: Vec<String>,
//! }
//!
//! impl Plugin for Tenants {
//!     type Config = Config;
//!
//!     fn configure(config: Config) -> Result<Self, String> {
//!         if config.tenants.is_empty() {
//!             return Err("tenants is empty: every request would be refused".into());
//!         }
//!         Ok(Tenants { known: config.tenants })
//!     }
//! }
//!
//! impl OnRequest for Tenants {
//!     fn on_request(&self, request: &mut Request<'_>) -> Decision {
//!         match request.header_str("x-tenant") {
//!             Some(tenant) if self.known.contains(&tenant) => Decision::Continue,
//!             _ => Reply::new(403).text("unknown tenant\n").into(),
//!         }
//!     }
//! }
//!
//! // In the plugin's own lib.rs: sluice_plugin::export!(Tenants: request);
//!
//! # use sluice_plugin::testing::Exchange;
//! # let plugin = Tenants::configure(Config { tenants: vec!["acme".into()] }).unwrap();
//! let mut exchange = Exchange::get("/orders").header("x-tenant", "acme");
//! assert!(exchange.on_request(&plugin).is_continue());
//! ```
//!
//! # What a plugin can rely on
//!
//! - `configure` runs once for each configuration. The gateway keeps an image of the memory as it is afterwards and starts
//!   every instance from it: what is parsed there is parsed for all requests.
//! - Phases share nothing but [`attributes`], and requests nothing but a [`store`]. An instance may serve one request or many, and the log phase may run on
//!   another one; so `self` is not mutable.
//! - `configure` can use nothing of the gateway but [`log`]: [`clock`], [`random`], [`secrets`], [`metrics`], [`store`]s and
//!   [`fetch`] are for phases. What the Plugin does not name in its `capabilities` is not there.
//! - A panic ends the instance and is one failure of this request, answered by the plugin's fail mode. Its message is
//!   in the gateway's log.
//!
//! # Building
//!
//! `cargo build --release --target wasm32-unknown-unknown`, with `crate-type = ["cdylib"]` and the settings of
//! `plugins/.cargo/config.toml` and `plugins/Cargo.toml`: a stack of 32 KiB and `panic = "abort"`. With them and this
//! crate's allocator a fresh instance costs the gateway about 7 us; without, four times that.
//!
//! Unit tests run natively: [`testing`] plays the gateway.

#[cfg(all(target_arch = "wasm32", feature = "allocator"))]
mod allocator;
pub mod attributes;
mod body;
pub mod clock;
mod decision;
#[doc(hidden)]
pub mod export;
pub mod fetch;
mod headers;
pub mod log;
pub mod metrics;
pub mod random;
mod request;
mod response;
pub mod schema;
pub mod secrets;
pub mod store;
mod summary;

#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
#[path = "backend/guest.rs"]
pub mod backend;
#[cfg(not(target_arch = "wasm32"))]
#[path = "backend/native.rs"]
mod backend;

#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use body::Body;
pub use decision::{Decision, ReadBody, Reply};
pub use headers::Refused;
pub use request::Request;
pub use response::Response;
pub use summary::Summary;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// A plugin: what is made of a configuration.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The `config` of a use. Its JSON Schema travels in the module, so that the gateway refuses a configuration that does
    /// not fit before any code of the plugin runs.
    type Config: DeserializeOwned + JsonSchema;

    /// Called once for each configuration. The error is a sentence for the operator: say which field, and what to do.
    fn configure(config: Self::Config) -> Result<Self, String>;
}

/// The request's head, before a backend is chosen. Export as `request`.
pub trait OnRequest: Plugin {
    fn on_request(&self, request: &mut Request<'_>) -> Decision;
}

/// The request's body, after [`OnRequest`] decided [`ReadBody`]. Export as `request_body`.
pub trait OnRequestBody: Plugin {
    /// `Decision::ReadBody` is an error here.
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision;
}

/// The response's head: a backend's, the gateway's own, or another plugin's. Export as `response`.
pub trait OnResponse: Plugin {
    /// The request can only be read here. `Decision::ReadBody` is an error here.
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision;
}

/// The end of an exchange, whatever it was. Export as `log`.
pub trait OnLog: Plugin {
    /// There is no response where no head was sent.
    fn on_log(&self, request: &Request<'_>, response: Option<&Response<'_>>, summary: &Summary<'_>);
}
