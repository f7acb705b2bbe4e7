//! The access log: one JSON line a request, written by a thread of its own.
//!
//! A request formats its line straight into one buffer and hands it over through a bounded queue, without waiting. What
//! the writer cannot take in time is dropped and counted (`sluice_access_log_dropped_total`). No field is a header value
//! that may hold a secret.

mod format;
mod writer;

pub(crate) use format::string as json_string;
pub use format::{Field, LogFormat, Record};
pub use writer::{AccessLogError, AccessLogTarget, AccessLogWriter};
