//! The plain data that the whole gateway agrees on: what was asked for ([`Config`]), how it is named
//! ([`object`], [`hostname`]), what was wrong with it ([`problem`]), why an answer was given ([`reason`]),
//! and the matcher that finds the rule of a request.
//!
//! This room does no I/O, keeps no clock, and knows neither Kubernetes' types nor the proxy engine. Everything
//! in [`config`] can be compared and printed; secrets print as their fingerprint.

pub mod address;
pub mod condition;
pub mod config;
pub mod explain;
pub mod field;
pub mod hostname;
pub mod matcher;
pub mod object;
pub mod path;
pub mod plugin;
mod print;
pub mod problem;
pub mod reason;
pub mod remote;
pub mod right;
pub mod served;

pub use config::Config;
pub use hostname::{HostPattern, HostTable, Hostname};
pub use object::{Kind, ObjectRef};
pub use problem::{Code, Location, Problem, Severity};
pub use reason::Reason;
pub use right::Right;
pub use served::{FetchedPlugin, Served, ServedObject, ServedPlugin, ServedQuestion};
