//! Where the request goes, for a plugin whose Plugin says `capabilities.routing: true`. In [`OnRequest`](crate::OnRequest)
//! and [`OnRequestBody`](crate::OnRequestBody); an error says what is missing.
//!
//! ```
//! use sluice_plugin::testing::{Exchange, StubAnswer};
//! use sluice_plugin::{Decision, OnRequest, Plugin, Request, log, routing};
//!
//! struct Canary;
//!
//! impl Plugin for Canary {
//!     type Config = ();
//!
//!     fn configure(_: ()) -> Result<Self, String> {
//!         Ok(Canary)
//!     }
//! }
//!
//! impl OnRequest for Canary {
//!     fn on_request(&self, request: &mut Request<'_>) -> Decision {
//!         if request.header_str("x-canary").as_deref() == Some("always")
//!             && let Err(why) = routing::use_backend("canary")
//!         {
//!             log::error(&why);
//!         }
//!         Decision::Continue
//!     }
//! }
//!
//! let mut exchange = Exchange::get("/").header("x-canary", "always").routing().backend("canary", |_| StubAnswer::new(200));
//! exchange.on_request(&Canary);
//! assert_eq!(exchange.destination().as_deref(), Some("canary"));
//! ```

use crate::backend::routing;

/// Sends the request to this backend of `capabilities.backends` instead of one of the rule's, whose weights, filters and
/// sessions then mean nothing; timeouts, retries, mirrors and filters of the rule hold. A rule that redirects, or that
/// answers by itself, does that all the same. Of several plugins the last one to ask counts.
pub fn use_backend(name: &str) -> Result<(), String> {
    routing::use_backend(name)
}

/// Looks for the rule anew, among those of the same listener, by what host, path, query, method and headers are once all
/// plugins have seen the request. Where it is another one, all that it says holds from then on, and its plugins see the
/// request too, but for those that have seen it with the same configuration. Takes a [`use_backend`] before it back.
/// Once a request.
pub fn find_route() -> Result<(), String> {
    routing::find_route()
}
