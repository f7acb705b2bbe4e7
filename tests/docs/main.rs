//! The documents say what the code says: tables that are generated are up to date, and each YAML in them is valid.
//!
//! `UPDATE=1 cargo test -p sluice-tests --test docs` writes the generated ones again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deploy;
mod examples;
mod features;
mod generated;
mod monitoring;
mod policies;
