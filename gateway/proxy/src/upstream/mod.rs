//! Upstreams: which endpoint of a backend takes a request, and the connection that carries it.
//!
//! Owns endpoint and backend state over snapshots ([`Registry`]), the choice of an endpoint ([`BackendRuntime::pick`]),
//! passive ejection, active health checks, circuit breakers, name resolution for `ExternalName`, and TLS towards
//! endpoints, and connections with their pools ([`UpstreamConnector`]). Refuses to know routes, filters, retries' rules and Kubernetes:
//! whoever implements the engine's `ProxyHttp` decides *whether* to try again, this module says *where*.
//!
//! ```text
//! config:   Backend + EndpointSet ──► Registry::backend ──► Arc<BackendRuntime>   (in the snapshot)
//!                                        │  same keys: same Load, EndpointState, Transport, tasks
//! request:  BackendRuntime::pick ──► Pick (RAII) ──► Pick::peer ──► engine ──► UpstreamConnector ──► endpoint
//!                 ▲                    │ connected, report
//!                 └── EndpointState ◄──┘
//! ```
//!
//! How a `ProxyHttp` implementation calls it:
//!
//! 1. [`http_proxy`] builds the engine around an [`UpstreamConnector`] made with [`Registry::connector`]: one engine
//!    with one connector a runtime.
//! 2. `upstream_peer`: [`BackendRuntime::pick`] with the endpoints tried so far, keep the [`Pick`] in the request's
//!    context (assigning the next one drops the former), return [`Pick::peer`]. A further try first asks
//!    [`BackendRuntime::retry_permit`]. On [`PickError::NoEndpoints`], wait for [`BackendRuntime::settled`] once and pick
//!    again: the name of an ExternalName Service that has just come may still be resolving.
//! 3. `connected_to_upstream`: [`Pick::connected`], and [`Deadline::of`] for how long the endpoint is waited for. Without
//!    one, only pauses of the response's body are bounded.
//! 4. `upstream_response_filter`: [`Pick::report`] with [`Outcome::Response`]. `fail_to_connect`, `error_while_proxy`:
//!    [`Failure::of`] tells what went wrong, [`Failure::reason`] is for the log, and [`Pick::report`] takes it as
//!    [`Outcome::Failed`].
//! 5. Dropping the [`Pick`] ends the request's place in every counter. It must outlive the exchange, as it also keeps
//!    the backend's transport alive.
//!
//! No lock of ours is on this path: counters are atomic, endpoint sets immutable behind an `Arc`.
//!
//! Endpoint state is keyed by (Service, its UID, port, endpoint), not by the endpoint alone: a Service with a wrong TLS
//! policy must not get pods ejected for the other Services that select them.

mod background;
mod balance;
mod clock;
mod connector;
mod deadline;
mod endpoint;
mod engine;
mod failure;
mod h2_session;
mod health;
mod load;
mod lost;
mod maglev;
mod metrics;
mod outlier;
mod registry;
mod resolve;
mod runtime;
mod standing;
mod stream;
mod tls;
mod transport;
mod window;

pub use balance::{PickError, PickRequest, Tried};
pub use connector::UpstreamConnector;
pub(crate) use connector::pools;
pub use deadline::Deadline;
pub use engine::{EngineError, http_proxy};
pub use failure::{Failure, Outcome};
pub use load::RetryPermit;
pub use metrics::UpstreamMetrics;
pub use registry::{Registry, RegistryOptions};
pub use resolve::AddressGuard;
pub(crate) use runtime::PoolKey;
pub use runtime::{BackendRuntime, PeerSettings, Pick};
pub use standing::{EndpointCondition, EndpointStanding};
pub use tls::BackendTlsError;
pub(crate) use tls::system_roots;
pub(crate) use transport::Opened;

#[cfg(test)]
mod tests;
