//! Traces: of which requests spans are made, and where they go.

use crate::print::display;
use http::{HeaderName, HeaderValue, Uri};
use serde::Serialize;
use std::time::Duration;

/// OpenTelemetry traces of one Gateway's requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tracing {
    pub otlp: Otlp,
    /// The share of the traces begun here that are sampled, 0 to 1. A trusted peer's trace is sampled as it says, whatever
    /// this is. Default 0.01, so that a gateway under load does not flood its collector.
    pub ratio: f64,
}

impl Tracing {
    pub const DEFAULT_RATIO: f64 = 0.01;
}

/// A collector, as it is spoken to: OTLP over HTTP, in protobuf.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Otlp {
    /// With scheme (`http` or `https`), authority and path; without a query.
    #[serde(serialize_with = "display")]
    pub endpoint: Uri,
    /// Sent with each export. A value may be a key: none is printed.
    #[serde(serialize_with = "names")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Longest time from an export's connection to its answer's end. Default 10 s (OTLP exporter specification).
    pub timeout: Duration,
}

impl Otlp {
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
    /// Where a collector takes traces, for an endpoint that names no path (OTLP specification).
    pub const DEFAULT_PATH: &str = "/v1/traces";
}

fn names<S: serde::Serializer>(headers: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_not_printed() {
        let key = HeaderValue::from_static("s3cret");
        let otlp = Otlp {
            endpoint: Uri::from_static("http://collector:4318/v1/traces"),
            headers: vec![(HeaderName::from_static("x-api-key"), key)],
            timeout: Otlp::DEFAULT_TIMEOUT,
        };
        let text = serde_json::to_string(&otlp).unwrap();
        assert!(text.contains("x-api-key") && text.contains("http://collector:4318/v1/traces"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
