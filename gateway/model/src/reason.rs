//! Why an answer was given that did not simply come from the backend: the access log's `reason`, the label of
//! `sluice_requests_total`, and the table in docs/reasons.md, all from here.

use serde::Serialize;
use std::fmt;

macro_rules! reasons {
    ($($variant:ident = $text:literal, $status:literal, $doc:literal;)*) => {
        /// One reason an answer. `None`-like is [`Reason::Upstream`]: the backend answered, and nothing was changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $doc] $variant,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];
            /// The word in logs and metrics.
            pub const fn as_str(self) -> &'static str { match self { $(Reason::$variant => $text,)* } }
            /// The status that the gateway answers; 0 where the status is another's or no answer is sent.
            pub const fn status(self) -> u16 { match self { $(Reason::$variant => $status,)* } }
            /// A sentence for the docs.
            pub const fn description(self) -> &'static str { match self { $(Reason::$variant => $doc,)* } }
        }
    };
}

reasons! {
    Upstream = "upstream", 0, "the backend answered";
    // The request itself
    BadRequest = "bad_request", 400, "the request breaks HTTP's grammar or framing";
    InvalidHost = "invalid_host", 400, "the Host field or :authority is missing, repeated or not a host";
    InvalidTarget = "invalid_target", 400, "the request target holds raw control characters, spaces, a fragment or invalid percent-encoding";
    AmbiguousFraming = "ambiguous_framing", 400, "Content-Length and Transfer-Encoding together, or several Transfer-Encoding fields";
    UnderscoreInHeader = "underscore_in_header", 400, "a field name with an underscore, where the listener rejects those";
    EscapedSlash = "escaped_slash", 400, "an encoded slash in the path, where the listener rejects those";
    PathNormalized = "path_normalized", 307, "redirected to the path's decoded form, as the listener asks";
    MethodNotAllowed = "method_not_allowed", 405, "CONNECT and TRACE are refused";
    MethodNotImplemented = "method_not_implemented", 501, "the method is unknown and too long to be one";
    UriTooLong = "uri_too_long", 414, "the request target is above the listener's limit";
    HeadersTooLarge = "headers_too_large", 431, "the header section is above the listener's limit of bytes or fields";
    BodyTooLarge = "body_too_large", 413, "the request body is above the limit";
    ExpectationFailed = "expectation_failed", 417, "an Expect other than 100-continue";
    VersionNotSupported = "version_not_supported", 505, "an HTTP version that is not spoken here";
    HeaderTimeout = "header_timeout", 408, "the header section did not arrive in time";
    BodyTimeout = "body_timeout", 408, "the request body stopped arriving, or arrived below the minimum rate";
    MaxForwards = "max_forwards", 200, "OPTIONS with Max-Forwards: 0 is answered here";
    LoopDetected = "loop_detected", 508, "the request has passed this gateway before";
    TooManyConnections = "too_many_connections", 503, "the listener's or the gateway's limit of connections is reached";
    Overloaded = "overloaded", 503, "the gateway sheds load";
    // Routing
    RouteNotFound = "route_not_found", 404, "no rule matches";
    MisdirectedRequest = "misdirected_request", 421, "the host belongs to a listener that this TLS connection was not made for";
    Redirect = "redirect", 0, "the rule redirects";
    CorsPreflight = "cors_preflight", 0, "a CORS preflight, answered by the rule";
    InvalidBackend = "invalid_backend", 500, "the rule's backend reference cannot be resolved";
    NoBackends = "no_backends", 500, "the rule has no backend";
    UnsupportedFilter = "unsupported_filter", 500, "the rule has a filter that cannot be used";
    InvalidRule = "invalid_rule", 500, "the rule has a timeout, a retry, a weight or a session that cannot be used";
    PolicyUnreadable = "policy_unreadable", 503, "the policy that guards the rule cannot be read, so nothing goes through";
    ClientDenied = "client_denied", 403, "the client's address is not among those the policy allows";
    // Upstream
    NoEndpoints = "no_endpoints", 503, "the backend has no endpoint that may take requests";
    UpstreamConnectFailed = "upstream_connect_failed", 502, "no endpoint could be connected to";
    UpstreamConnectTimeout = "upstream_connect_timeout", 504, "connecting to the endpoint took too long";
    UpstreamTlsFailed = "upstream_tls_failed", 502, "the backend's certificate is not trusted, or its handshake failed";
    UpstreamReset = "upstream_reset", 502, "the backend closed the connection before it answered";
    UpstreamProtocolError = "upstream_protocol_error", 502, "the backend's answer breaks HTTP";
    UpstreamTimeout = "upstream_timeout", 504, "the backend did not answer in time";
    RequestTimeout = "request_timeout", 504, "the rule's request timeout passed";
    UpstreamOverflow = "upstream_overflow", 503, "the backend's circuit breaker is open";
    RetryBudgetExceeded = "retry_budget_exceeded", 503, "a try failed, and the backend's retryConstraint allows no other";
    ResponseTooLarge = "response_too_large", 502, "the response body is above the limit of a plugin that reads it whole";
    ResponseTruncated = "response_truncated", 0, "the backend ended its answer early; the client's stream was reset";
    // External authorization
    ExternalAuthDenied = "external_auth_denied", 0, "the external authorization service refused the request";
    ExternalAuthFailed = "external_auth_failed", 503, "the external authorization service did not answer, or not as it should";
    // Plugins
    PluginReplied = "plugin_replied", 0, "a plugin answered";
    PluginDenied = "plugin_denied", 0, "a plugin refused the request with a 4xx";
    PluginAborted = "plugin_aborted", 502, "a plugin that sees a body piece by piece cut the exchange short";
    PluginFailed = "plugin_failed", 503, "a plugin that fails closed trapped, or ran over a limit";
    PluginNotReady = "plugin_not_ready", 503, "a plugin that fails closed has no version that is compiled and configured";
    PluginOverloaded = "plugin_overloaded", 503, "a plugin that fails closed has all its instances in use";
    // The client
    ClientAborted = "client_aborted", 499, "the client went away before the answer was complete";
    StreamIdle = "stream_idle", 0, "nothing was sent in either direction for too long";
    EndpointGone = "endpoint_gone", 0, "the route no longer leads to the endpoint of a UDP session; the client's next datagram begins another";
    StreamMaxDuration = "stream_max_duration", 0, "the longest life of a stream was reached";
    ShuttingDown = "shutting_down", 503, "the gateway's drain deadline passed";
    Internal = "internal", 500, "a fault of the gateway; its log has the cause";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_word_of_its_own_and_a_status_that_exists() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.as_str()), "{reason} stands twice");
            assert!(reason.status() == 0 || (200..600).contains(&reason.status()));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
