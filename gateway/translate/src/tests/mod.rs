//! YAML in, configuration and problems out. Names cite the conformance test (gw: Gateway API, icc: Ingress) that a test
//! follows.

mod backend_traffic;
mod bad_input;
mod gateway;
mod grpc_route;
mod http_route;
mod incremental;
mod ingress;
mod listener_set;
mod plugin_source;
mod plugin_stores;
mod policy;
mod service;
mod status;
mod stream_route;
mod support;
mod tls;
mod tracing;
mod unreadable;
