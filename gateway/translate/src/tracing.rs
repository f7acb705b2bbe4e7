//! GatewayConfig's `tracing` becomes where spans go and how many are made.

use crate::report::Report;
use crate::values::{duration_of, header_name, header_value, number};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Uri, header};
use sluice_model::Code;
use sluice_model::config::{Otlp, Tracing};
use sluice_resources::{OtlpConfig, TracingConfig};
use std::time::Duration;

/// Header fields of an export that the gateway writes itself.
const OWN: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What an export may take.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// Whether traces are asked for that would go nowhere.
pub(crate) fn lacks_endpoint(settings: &TracingConfig) -> bool {
    let endpoint = settings.otlp.as_ref().and_then(|otlp| otlp.endpoint.as_ref());
    settings.enabled != Some(false) && endpoint.is_none()
}

/// `None`: no spans are made. Each value is read even so, and told where it is a bad one.
pub(crate) fn tracing(settings: &TracingConfig, report: &mut Report<'_>) -> Option<Tracing> {
    let ratio = number(settings.ratio, 0.0..=1.0, "spec.tracing.ratio", report).unwrap_or(Tracing::DEFAULT_RATIO);
    let otlp = settings.otlp.as_ref().and_then(|otlp| collector(otlp, report));
    otlp.filter(|_| settings.enabled != Some(false)).map(|otlp| Tracing { otlp, ratio })
}

fn collector(settings: &OtlpConfig, report: &mut Report<'_>) -> Option<Otlp> {
    let headers = settings.headers.iter().flatten().filter_map(|(name, value)| header(name, value, report)).collect();
    let timeout = timeout(settings, report).unwrap_or(Otlp::DEFAULT_TIMEOUT);
    let endpoint = match endpoint(settings.endpoint.as_deref()?) {
        Ok(endpoint) => endpoint,
        Err(wrong) => {
            let message = format!(
                "{wrong}; write `http://host:port` or `https://host:port`, with a path where it is not /v1/traces"
            );
            report.error(Code::UnsupportedValue, "spec.tracing.otlp.endpoint", message);
            return None;
        }
    };
    Some(Otlp { endpoint, headers, timeout })
}

/// The text itself is not repeated where it may hold a password.
fn endpoint(text: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().map_err(|_| "it is not a URL".to_owned())?;
    if !uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS) {
        return Err("its scheme is neither http nor https".to_owned());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("a user or password in a URL is not sent (use spec.tracing.otlp.headers)".to_owned());
    }
    // `host:` and `host:99999` are parsed as well.
    let port_given = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':');
    if uri.host().is_none_or(str::is_empty) || (port_given && uri.port_u16().is_none_or(|port| port == 0)) {
        return Err(format!("`{authority}` is not a host with a port"));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("a query or fragment is not part of a collector's address".to_owned());
    }
    if uri.path() != "/" {
        return Ok(uri);
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(Otlp::DEFAULT_PATH));
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

fn header(name: &str, value: &str, report: &mut Report<'_>) -> Option<(HeaderName, HeaderValue)> {
    let field = format!("spec.tracing.otlp.headers[{name}]");
    let name = header_name(name, &field, report)?;
    if OWN.contains(&name) {
        report.error(Code::UnsupportedValue, field, format!("`{name}` is written by the gateway itself; leave it out"));
        return None;
    }
    let mut value = header_value(value, &field, report)?;
    value.set_sensitive(true);
    Some((name, value))
}

fn timeout(settings: &OtlpConfig, report: &mut Report<'_>) -> Option<Duration> {
    let field = "spec.tracing.otlp.timeout";
    let timeout = duration_of(settings.timeout.as_ref(), field, report)?;
    if TIMEOUTS.contains(&timeout) {
        return Some(timeout);
    }
    report.error(Code::OutOfRange, field, "it is out of range: 100ms to 60s");
    None
}
