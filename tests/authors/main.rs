//! A plugin author's loop, through the binary: a project is made, built, tested and tried out, in each language, by its real
//! toolchain. (`scripts/setup-authors.sh` installs what they need.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine;
mod inspect;
mod languages;
mod policies;
mod project;
mod rust;
mod trial;
