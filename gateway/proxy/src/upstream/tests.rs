//! What the parts do together: a real engine, real sockets, real certificates.

mod registry;
pub(super) mod support;
mod through_the_engine;
mod tls;
