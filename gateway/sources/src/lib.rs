//! Where objects come from. A source reads objects, says what was wrong with the text they stand in, and hands on
//! only what changed since it last read: sets of [`sluice_resources::Change`].
//!
//! [`files`] reads folders of YAML, the same objects that `kubectl apply` takes; [`kubernetes`] watches a cluster. They
//! refuse to judge an object beyond its shape: what an object means is `sluice-translate`'s question. Nothing here runs
//! on a data plane thread.

pub mod files;
pub mod kubernetes;
pub mod yaml;

use sluice_model::Problem;
use sluice_resources::Change;
use std::time::Instant;

/// One reading.
#[derive(Debug)]
pub struct SourceUpdate {
    /// What differs from the reading before.
    pub changes: Vec<Change>,
    /// All that is wrong with what was read, each time.
    pub problems: Vec<Problem>,
    /// When the first of it was seen.
    pub seen: Instant,
    /// Whether everything has been read at least once. Before that, the absence of an object means nothing.
    pub complete: bool,
}
