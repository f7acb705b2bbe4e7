//! What a source tells.

use crate::{Object, Unreadable};
use sluice_model::ObjectRef;
use std::sync::Arc;

/// One thing that is otherwise than before.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is new, or its new form replaces the former.
    Upsert(Object),
    Delete(ObjectRef),
    /// The object's newest form cannot be read. The last one that could, if any, was told before and goes on; an
    /// [`Change::Upsert`] or a [`Change::Delete`] ends this.
    Unreadable(Arc<Unreadable>),
    /// A plugin's module beside the configuration appeared or changed (`Some`, SHA-256 of its content in hex), or
    /// vanished. `translate` does no I/O: the source reads and fingerprints.
    File {
        path: Arc<str>,
        sha256: Option<Arc<str>>,
    },
}
