//! The way in: from listening sockets to requests that the engine may see.
//!
//! Owns worker threads and their runtimes, listening sockets that come and go, the PROXY protocol, TLS by SNI, the
//! keep-alive loop and the strict gate of HTTP/1, HTTP/2 with its tap on frames, limits on connections, draining, and
//! the hand-over of sockets to a next process. Refuses to know routes, hosts beyond their listener, plugins and
//! Kubernetes: it is generic over the engine's `HttpServerApp`.
//!
//! ```text
//! accept ─► [PROXY header] ─► [TLS: SNI ─► listener ─► ServerConfig] ─┬─► http1: gate ─► engine, again and again
//!   │ limits                                                          ├─► http2: tap  ─► engine, a task a request
//!   │                                                                 └─► bytes: EdgeObserver::passed
//! datagrams ─► EdgeObserver::datagrams, a socket a worker
//! PortState (ArcSwap a port; replaced by Downstream::apply)
//! ```
//!
//! How the data plane puts it to use:
//!
//! 1. [`DownstreamMetrics::register`], then [`Downstream::start`] with a closure that builds one engine a worker, and an
//!    [`EdgeObserver`] for requests that are answered here, and for connections that carry no HTTP.
//! 2. For each configuration: [`PortState::build`] a port with one long-lived [`TlsCache`], [`Downstream::apply`] all of
//!    them, [`TlsCache::sweep`]. Problems of binding come and go by themselves: [`Downstream::problems`].
//! 3. In the engine's callbacks: [`ConnectionInfo::of`] the session's digest.
//! 4. At the end: [`Downstream::drain`]; to hand over: [`Downstream::sockets`] and [`handover`].
//!
//! What `ProxyHttp` need not look at again on HTTP/1, as the gate has: line ends, target bytes and form, version, exactly
//! one Host that is a host, framing, CONNECT, limits of method, target, header bytes and count. The body's idle timeout
//! is set on the session (the engine's `ReadTimedout`), and so is a write timeout of `stream_idle`; the minimum rate of
//! bodies shows as a read error of kind `TimedOut`. On HTTP/2 the same holds, by [`http2_body`].

mod connection;
mod datagrams;
mod engine_io;
mod h2_frames;
mod h2_tap;
pub mod handover;
mod handshake;
mod held;
mod http1;
mod http1_body;
mod http1_head;
mod http2;
mod http2_body;
mod listeners;
mod metrics;
mod open_port;
mod passed;
mod port;
mod proxy_protocol;
mod pulse;
mod rate;
mod refusal;
mod sockets;
mod stream;
mod tls;
mod transport;
mod tunnel;
mod workers;

#[cfg(test)]
mod tests;

pub use connection::{ConnectionInfo, EdgeObserver, Refusal, TlsInfo};
pub use datagrams::DatagramPort;
pub(crate) use datagrams::{Batch, Datagram, LONGEST};
pub use listeners::{Downstream, DownstreamError, DownstreamOptions};
pub use metrics::DownstreamMetrics;
pub(crate) use open_port::{Phase, SessionPermit};
pub use passed::PassedConnection;
pub use port::PortState;
pub use sockets::{PortSocket, can_bind};
pub use tls::{TlsCache, TlsError, TlsFault, TlsListener};
pub use workers::RuntimeMode;
