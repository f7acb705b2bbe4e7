//! From a Plugin's source to an image that instances start from. All of it runs on threads of low priority
//! ([`builder`]), never for a request.
//!
//! ```text
//!   source ─► module ─► instrumented code ─► configure (once a configuration) ─► image ─► code
//!             (check)   (once a module)                                                   (functions from the cache)
//! ```

mod builder;
mod functions;
mod image;
mod module;
mod source;

pub(crate) use builder::{BUILDERS, Builder, Published};
pub(crate) use functions::FunctionCache;
pub(crate) use image::{CONFIGURE_TIME, Image};
pub use module::componentize;
pub(crate) use module::instrument;

use crate::error::EngineError;
use sluice_model::problem::Code;

/// Why a version was not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// Field of the Plugin, or of the configuration of one of its uses.
    pub(crate) field: String,
    pub(crate) message: String,
    /// Whether the same may succeed later without a change.
    pub(crate) retry: bool,
}

impl Failure {
    pub(crate) fn new(code: Code, field: &str, message: impl Into<String>) -> Failure {
        Failure { code, field: field.to_owned(), message: message.into(), retry: false }
    }

    fn source(message: impl Into<String>) -> Failure {
        Failure { retry: true, ..Failure::new(Code::PluginSource, "spec.source", message) }
    }

    fn engine(error: &EngineError) -> Failure {
        Failure { retry: true, ..Failure::new(Code::PluginEngine, "spec", error.to_string()) }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Code::PluginInvalid, "spec.source", message)
    }
}
