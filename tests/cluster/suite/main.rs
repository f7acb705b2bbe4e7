//! Sluice on a real Kubernetes cluster, installed by helm: what `make test-cluster` runs.
//!
//! ```text
//! clients (here, outside of the nodes) ──► LoadBalancer address ──► kube-proxy ──► Sluice's pods ──► pods of a Service
//! kubectl, helm ──► API server                                                └──► (ClusterIP: kube-proxy alone)
//! ```
//!
//! The tests run in the network of a cluster that is up and has the image loaded, one at a time: `tests/cluster/test` sees
//! to that. Elsewhere they are ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod bench;
mod chart;
mod cluster;
mod conformance;
mod dual_stack;
mod rolling;
mod seed_story;
mod services;
mod spread;
mod status;
mod topology;
mod workload;
