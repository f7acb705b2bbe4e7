//! OpenTelemetry traces: a span for each request, each try of an endpoint and each phase of a plugin, sent to a collector.
//!
//! ```text
//! request ─► sampled? ─► Trace ─► Ended ─► queue (bounded) ─► exporter: batch ─► protobuf ─► POST ─► collector
//!             │ no                                            a task of the background runtime
//!             └► a header field, and nothing else
//! ```
//!
//! A request only notes instants, and hands one record over at its end, without waiting. What the queue cannot take, and
//! what the collector does not, is dropped and counted (`sluice_trace_spans_total`). No span holds a query, or a header
//! value other than User-Agent.

mod client;
mod export;
mod otlp;
mod parent;
mod span;
mod tracer;

pub(crate) use export::Exporters;
pub(crate) use parent::TraceParent;
pub(crate) use span::{Called, Server, Trace};
pub(crate) use tracer::Tracer;
