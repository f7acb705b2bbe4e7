//! The access log: which requests are written down, and what of each.

use serde::Serialize;

macro_rules! fields {
    ($($variant:ident = $name:literal,)*) => {
        /// A field of an access log line. The order here is the order in a line with all of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum AccessLogField { $($variant,)* }

        impl AccessLogField {
            pub const ALL: &'static [AccessLogField] = &[$(AccessLogField::$variant,)*];

            pub const fn name(self) -> &'static str { match self { $(AccessLogField::$variant => $name,)* } }

            /// `"name":`, as it stands in a line.
            pub const fn key(self) -> &'static str { match self { $(AccessLogField::$variant => concat!("\"", $name, "\":"),)* } }
        }
    };
}

fields! {
    Ts = "ts",
    RequestId = "request_id",
    TraceId = "trace_id",
    ClientIp = "client_ip",
    Method = "method",
    Scheme = "scheme",
    Authority = "authority",
    Path = "path",
    Protocol = "protocol",
    Listener = "listener",
    Route = "route",
    Rule = "rule",
    Backend = "backend",
    Endpoint = "endpoint",
    Status = "status",
    Reason = "reason",
    BytesIn = "bytes_in",
    BytesOut = "bytes_out",
    DurationMs = "duration_ms",
    TtfbMs = "ttfb_ms",
    UpstreamConnectMs = "upstream_connect_ms",
    UpstreamMs = "upstream_ms",
    PluginMs = "plugin_ms",
    Retries = "retries",
    TlsVersion = "tls_version",
    Sni = "sni",
    UserAgent = "user_agent",
    Attributes = "attributes",
}

/// The access log of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    /// Default: on.
    pub enabled: bool,
    /// The fields to write, in order; empty: all.
    pub fields: Vec<AccessLogField>,
    /// The share of requests that are logged, 0 to 1; answers of 500 and above always are. Default 1.
    pub sample: f64,
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { enabled: true, fields: Vec::new(), sample: 1.0 }
    }
}
