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
mod piece;
pub mod random;
mod request;
mod response;
pub mod routing;
pub mod schema;
pub mod secrets;
pub mod store;
mod summary;
mod trailers;

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
pub use piece::Piece;
pub use request::Request;
pub use response::Response;
pub use summary::Summary;
pub use trailers::Trailers;

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

/// A check of the plugin by itself, before this version and configuration serve anybody. Export as `self_test`.
///
/// It runs once a configuration, after [`Plugin::configure`], on an instance that no request sees. An error, or a panic,
/// leaves the version in service that served before. Of the gateway there is [`log`] alone, as in `configure`.
///
/// ```
/// use sluice_plugin::{Plugin, SelfTest};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config {}
/// struct Signer { key: [u8; 4] }
///
/// impl Plugin for Signer {
///     type Config = Config;
///     fn configure(_: Config) -> Result<Self, String> {
///         Ok(Signer { key: *b"\x01\x02\x03\x04" })
///     }
/// }
///
/// impl SelfTest for Signer {
///     /// What is signed must be what is verified.
///     fn self_test(&self) -> Result<(), String> {
///         let signed: Vec<u8> = b"text".iter().zip(self.key).map(|(byte, key)| byte ^ key).collect();
///         let read: Vec<u8> = signed.iter().zip(self.key).map(|(byte, key)| byte ^ key).collect();
///         if read == b"text" { Ok(()) } else { Err("a signature of mine is none".into()) }
///     }
/// }
///
/// // In the plugin's own lib.rs: sluice_plugin::export!(Signer: self_test, request);
///
/// assert_eq!(Signer::configure(Config {}).unwrap().self_test(), Ok(()));
/// ```
pub trait SelfTest: Plugin {
    /// The error is a sentence for the operator.
    fn self_test(&self) -> Result<(), String>;
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

/// The request's body, piece by piece on its way to the backend. Export as `request_body_stream`.
///
/// Nothing waits for the rest of the body, and no more of it is held than a piece. The gateway takes `content-length` out of
/// the request. A body that this plugin has read whole ([`OnRequestBody`]) does not come again.
///
/// ```
/// use sluice_plugin::{Decision, OnRequestPiece, Piece, Plugin, Request, testing::Exchange};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config {}
/// /// Lets at most ten lines pass.
/// struct TenLines;
///
/// # impl Plugin for TenLines {
/// #     type Config = Config;
/// #     fn configure(_: Config) -> Result<Self, String> { Ok(TenLines) }
/// # }
/// impl OnRequestPiece for TenLines {
///     /// Lines so far.
///     type State = usize;
///
///     fn on_request_piece(&self, lines: &mut usize, _: &Request<'_>, piece: &mut Piece<'_>) -> Decision {
///         *lines += piece.read().iter().filter(|byte| **byte == b'\n').count();
///         if *lines > 10 { Decision::Abort } else { Decision::Continue }
///     }
/// }
///
/// // In the plugin's own lib.rs: sluice_plugin::export!(TenLines: request_body_stream);
///
/// let mut exchange = Exchange::new("POST", "/");
/// assert_eq!(exchange.on_request_pieces(&TenLines, &["a\nb\n", "c\n"]), Ok(b"a\nb\nc\n".to_vec()));
/// assert_eq!(exchange.on_request_pieces(&TenLines, &["\n".repeat(9), "\n\n".into()]), Err(Decision::Abort));
/// ```
pub trait OnRequestPiece: Plugin {
    /// What is remembered from one piece of a body to the next.
    type State: Default + Send + 'static;

    /// The request can only be read here. An answer is given while the response has not begun; after that it cuts the
    /// exchange short, as [`Decision::Abort`] does. `Decision::ReadBody` is an error here.
    fn on_request_piece(&self, state: &mut Self::State, request: &Request<'_>, piece: &mut Piece<'_>) -> Decision;
}

/// The response's head: a backend's, the gateway's own, or another plugin's. Export as `response`.
pub trait OnResponse: Plugin {
    /// The request can only be read here. [`ReadBody`] needs an [`OnResponseBody`].
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision;
}

/// The response's body, after [`OnResponse`] decided [`ReadBody`]. Export as `response_body`.
///
/// The head has not been sent: it can still change, and another answer can be given. The gateway sets `content-length`;
/// `content-encoding` is the plugin's own affair, as what it reads and writes is what the wire has.
///
/// ```
/// use sluice_plugin::{Body, Decision, OnResponse, OnResponseBody, Plugin, ReadBody, Request, Response};
/// use sluice_plugin::testing::Exchange;
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config {}
/// struct Shout;
///
/// # impl Plugin for Shout {
/// #     type Config = Config;
/// #     fn configure(_: Config) -> Result<Self, String> { Ok(Shout) }
/// # }
/// impl OnResponse for Shout {
///     fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
///         match response.header_str("content-type") {
///             Some(text) if text.starts_with("text/plain") => ReadBody::at_most(64 << 10).or_pass().into(),
///             _ => Decision::Continue,
///         }
///     }
/// }
///
/// impl OnResponseBody for Shout {
///     fn on_response_body(&self, _: &Request<'_>, response: &mut Response<'_>, body: &mut Body<'_>) -> Decision {
///         let text = String::from_utf8_lossy(&body.to_vec()).to_uppercase();
///         if body.replace(text.as_bytes()).is_ok() {
///             drop(response.set_header("x-volume", "11"));
///         }
///         Decision::Continue
///     }
/// }
///
/// // In the plugin's own lib.rs: sluice_plugin::export!(Shout: response, response_body);
///
/// let mut exchange = Exchange::get("/").response_header("content-type", "text/plain").response_body("hello");
/// assert_eq!(exchange.on_response(&Shout), ReadBody::at_most(64 << 10).or_pass().into());
/// assert!(exchange.on_response_body(&Shout).is_continue());
/// assert_eq!(exchange.response_body_now(), b"HELLO");
/// assert_eq!(exchange.response().header_str("x-volume").as_deref(), Some("11"));
/// ```
pub trait OnResponseBody: Plugin {
    /// The request can only be read here. `Decision::ReadBody` is an error here.
    fn on_response_body(&self, request: &Request<'_>, response: &mut Response<'_>, body: &mut Body<'_>) -> Decision;
}

/// The response's body, piece by piece on its way to the client. Export as `response_body_stream`.
///
/// Nothing waits for the rest of the body, and no more of it is held than a piece: server-sent events and streams of gRPC
/// flow on. The gateway takes `content-length` out of the response. A body that this plugin has read whole
/// ([`OnResponseBody`]) does not come again.
///
/// ```
/// use sluice_plugin::{Decision, OnResponsePiece, Piece, Plugin, Request, Response, testing::Exchange};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config {}
/// struct Upper;
///
/// # impl Plugin for Upper {
/// #     type Config = Config;
/// #     fn configure(_: Config) -> Result<Self, String> { Ok(Upper) }
/// # }
/// impl OnResponsePiece for Upper {
///     type State = ();
///
///     fn on_response_piece(&self, _: &mut (), _: &Request<'_>, _: &Response<'_>, piece: &mut Piece<'_>) -> Decision {
///         match piece.replace(&piece.read().to_ascii_uppercase()) {
///             Ok(()) => Decision::Continue,
///             Err(_) => Decision::Abort,
///         }
///     }
/// }
///
/// // In the plugin's own lib.rs: sluice_plugin::export!(Upper: response_body_stream);
///
/// assert_eq!(Exchange::get("/").on_response_pieces(&Upper, &["small ", "letters"]), Ok(b"SMALL LETTERS".to_vec()));
/// ```
pub trait OnResponsePiece: Plugin {
    /// What is remembered from one piece of a body to the next.
    type State: Default + Send + 'static;

    /// Both heads can only be read here. It may go on or [`Abort`](Decision::Abort); anything else is an error here.
    fn on_response_piece(
        &self,
        state: &mut Self::State,
        request: &Request<'_>,
        response: &Response<'_>,
        piece: &mut Piece<'_>,
    ) -> Decision;
}

/// The response's trailers, where there are some: of HTTP/2, and so of gRPC. Export as `response_trailers`.
///
/// ```
/// use sluice_plugin::{OnResponseTrailers, Plugin, Request, Response, Trailers, testing::Exchange};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config {}
/// /// What went wrong inside is nobody's business outside.
/// struct Discreet;
///
/// # impl Plugin for Discreet {
/// #     type Config = Config;
/// #     fn configure(_: Config) -> Result<Self, String> { Ok(Discreet) }
/// # }
/// impl OnResponseTrailers for Discreet {
///     fn on_response_trailers(&self, _: &Request<'_>, _: &Response<'_>, trailers: &mut Trailers<'_>) {
///         if trailers.get_str("grpc-status").as_deref() == Some("13") {
///             drop(trailers.set("grpc-message", "internal"));
///         }
///     }
/// }
///
/// // In the plugin's own lib.rs: sluice_plugin::export!(Discreet: response_trailers);
///
/// let mut exchange = Exchange::get("/").trailer("grpc-status", "13").trailer("grpc-message", "at line 7");
/// exchange.on_response_trailers(&Discreet);
/// assert_eq!(exchange.trailers().get_str("grpc-message").as_deref(), Some("internal"));
/// ```
pub trait OnResponseTrailers: Plugin {
    /// Both heads can only be read here.
    fn on_response_trailers(&self, request: &Request<'_>, response: &Response<'_>, trailers: &mut Trailers<'_>);
}

/// The end of an exchange, whatever it was. Export as `log`.
pub trait OnLog: Plugin {
    /// There is no response where no head was sent.
    fn on_log(&self, request: &Request<'_>, response: Option<&Response<'_>>, summary: &Summary<'_>);
}
