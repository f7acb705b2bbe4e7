//! External authorization (GEP-1494): a service that says of each request whether it may go on.

use super::BackendKey;
use crate::print::{display, display_all};
use http::HeaderName;
use serde::Serialize;
use std::sync::Arc;

/// Whom to ask, and what to tell. Whatever keeps the service from answering keeps the request from going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalAuth {
    #[serde(serialize_with = "display")]
    pub backend: BackendKey,
    pub protocol: AuthProtocol,
    /// Bytes of the request's body that the service is sent; a longer body is answered 413. Default 0: it is sent none.
    pub max_body: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AuthProtocol {
    /// 200 allows the request; any other answer is the client's.
    Http {
        /// Before the request's own path; never ends in `/`.
        path: Arc<str>,
        /// Fields of the request that are sent beside Host, Authorization and Content-Length.
        #[serde(serialize_with = "display_all")]
        request_headers: Vec<HeaderName>,
        /// Fields of the service's answer that the request goes on with. Empty: all but those that are about the answer itself.
        #[serde(serialize_with = "display_all")]
        response_headers: Vec<HeaderName>,
    },
    /// Envoy's `envoy.service.auth.v3.Authorization`.
    Grpc {
        /// Fields of the request that are sent. Empty: all.
        #[serde(serialize_with = "display_all")]
        request_headers: Vec<HeaderName>,
    },
}

impl AuthProtocol {
    pub const fn name(&self) -> &'static str {
        match self {
            AuthProtocol::Http { .. } => "HTTP",
            AuthProtocol::Grpc { .. } => "GRPC",
        }
    }
}
