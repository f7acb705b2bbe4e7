//! Through the real binary, as its users drive it: files in, answers out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shop;

mod admin;
mod bad_input;
mod cluster;
mod commands;
mod controller;
mod datagrams;
mod delivery;
mod doctor;
mod external_auth;
mod features;
mod filters;
mod gateways;
mod grpc_routes;
mod ingress;
mod lifecycle;
mod listener_sets;
mod plugin_fetch;
mod plugin_phases;
mod plugin_responses;
mod plugin_routing;
mod plugin_state;
mod plugin_streams;
mod plugins;
mod policies;
mod quickstart;
mod redis_stores;
mod reload;
mod reload_under_load;
mod routes;
mod services;
mod sessions;
mod streams;
mod tls;
mod traces;
