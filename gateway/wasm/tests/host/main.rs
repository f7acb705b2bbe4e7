//! The plugin host with real guests: those that ship (`plugins/`), one that does as it is told (`tests/guests/probe`), and
//! a few written as text that no toolchain would make.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on fails")]

mod cache;
mod compiled;
mod filter_bodies;
mod filter_schema;
mod filters;
mod fuzz;
mod fuzzed_components;
mod fuzzed_filters;
mod hostile_components;
mod hostile_filters;
mod interpreter;
mod isolation;
mod limits;
mod loading;
mod old_filters;
mod outgoing;
mod phases;
#[path = "../../../../tests/src/redis.rs"]
#[allow(unreachable_pub, reason = "tests of several rooms have it")]
mod redis;
mod redis_stores;
mod services;
mod setup;
mod soak;
mod streams;
