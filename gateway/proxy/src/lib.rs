//! The data plane: it opens listeners, ends TLS, finds the rule of each request, runs plugins and filters, and sends
//! the request to an endpoint.
//!
//! Configuration reaches it only as one [`Snapshot`](snapshot::Snapshot), swapped atomically:
//!
//! ```text
//! Config ──► assemble (+ registry, plugins) ──► Snapshot ──► ArcSwap
//!                                                              │ one load a request
//! accept ─► tls ─► http ─► route ─► plugins ─► balance ─► upstream ─► plugins ─► log
//! downstream/ │    http/                       upstream/              http/     access_log
//!             └──► relay: bytes for one backend, as TCPRoutes and TLSRoutes ask
//! ```
//!
//! It refuses to know Kubernetes and files, and takes no lock of its own while it serves a request. [`Proxy`] is the
//! door: everything else here is public for tests and benches only.

pub mod access_log;
mod assemble;
mod cookie;
pub mod downstream;
mod http;
pub mod metrics;
mod mirror;
mod outbound;
mod overload;
mod proxy;
mod relay;
mod session;
pub mod snapshot;
mod supervise;
mod trace;
pub mod upstream;

pub use proxy::{Applied, Drained, Proxy, ProxyOptions, StartError};
pub use session::SessionSecret;
