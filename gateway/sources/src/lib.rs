//! Where objects come from. A source reads objects, says what was wrong with the text they stand in, and hands on
//! only what changed since it last read: sets of [`sluice_resources::Change`].
//!
//! [`files`] reads folders of YAML, the same objects that `kubectl apply` takes. It refuses to judge an object beyond
//! its shape: what an object means is `sluice-translate`'s question. Nothing here runs on a data plane thread.

pub mod files;
pub mod yaml;
