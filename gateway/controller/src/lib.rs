//! What writes to the cluster: status, the Services of Gateways, and the Lease that says which replica does.
//!
//! ```text
//! translate ─► what is so ──┐
//! watches ───► what stands there ──► differences ──► writes (the Lease's holder only)
//! proxies ───► what is served ──┘
//! ```
//!
//! Nothing here serves requests or decides what they get: an API server or a controller that is down costs none. What
//! is to be written follows from the objects alone, so a replica that takes over goes on where the other was; what was
//! remembered by one process only (allocated and resting ports) stands in the Services and in the Lease.

mod api;
mod conditions;
mod controller;
mod desired;
mod events;
mod lease;
mod metrics;
mod model;
mod nodes;
mod ports;
mod rights;
mod served;
mod services;
mod statuses;
mod time;

pub use api::{Api, Failure, collection};
pub use controller::{Controller, Observed, OwnServed, ServiceSettings, Settings};
pub use desired::{Bundle, SUPPORTED_FEATURES};
pub use rights::{GATEWAY_SERVICES, Place, RIGHTS, Use, rights};
