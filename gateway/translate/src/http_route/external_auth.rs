//! The filter ExternalAuth (GEP-1494).

use super::backend::backend_speaking;
use super::filter::BackendRef;
use super::rule::RuleBuilder;
use crate::policy::Chain;
use crate::report::Report;
use crate::service::Spoken;
use crate::values::{header_name, number};
use crate::world::Compiled;
use http::HeaderName;
use sluice_model::Code;
use sluice_model::config::{AuthProtocol, ExternalAuth};
use sluice_model::field::is_framing;
use sluice_model::path::normalize_configured;

/// The filter, whichever type it came as.
pub(super) struct AuthSettings<'f> {
    pub(super) target: BackendRef<'f>,
    pub(super) grpc: bool,
    pub(super) max_body: Option<i64>,
    /// `http.path`.
    pub(super) path: Option<&'f str>,
    /// `http.allowedHeaders`, or `grpc.allowedHeaders`.
    pub(super) request_headers: &'f [String],
    /// `http.allowedResponseHeaders`.
    pub(super) response_headers: &'f [String],
    /// Settings of the protocol that is not spoken are there.
    pub(super) other: bool,
}

/// The API's limit: 16 bits.
const MAX_BODY: i64 = 65_535;

impl RuleBuilder<'_> {
    /// `None`: the filter can't be used, and so nothing goes on.
    pub(super) fn external_auth(
        &self,
        settings: &AuthSettings<'_>,
        field: &str,
        chain: &Chain<'_>,
        compiled: &mut Compiled,
    ) -> Option<ExternalAuth> {
        let spoken = if settings.grpc { Spoken::Grpc } else { Spoken::Http };
        let target = format!("{field}.backendRef");
        let key =
            backend_speaking(self.world, self.object, self.place, &settings.target, &target, chain, spoken, compiled);
        let mut report = Report::new(self.object, &mut compiled.problems);
        let section = if settings.grpc { "grpc" } else { "http" };
        if settings.other {
            let other = if settings.grpc { "http" } else { "grpc" };
            let message = format!("`{other}` means nothing with protocol {}", section.to_uppercase());
            report.warn(Code::InvalidCombination, format!("{field}.{other}"), message);
        }
        let request_headers =
            names(settings.request_headers, &format!("{field}.{section}.allowedHeaders"), &mut report);
        let protocol = if settings.grpc {
            request_headers.map(|request_headers| AuthProtocol::Grpc { request_headers })
        } else {
            let at = format!("{field}.http.allowedResponseHeaders");
            let response_headers = names(settings.response_headers, &at, &mut report);
            let path = path(settings.path, &format!("{field}.http.path"), &mut report);
            match (request_headers, response_headers, path) {
                (Some(request_headers), Some(response_headers), Some(path)) => {
                    Some(AuthProtocol::Http { path: path.into(), request_headers, response_headers })
                }
                _ => None,
            }
        };
        let at = format!("{field}.forwardBody.maxSize");
        let max_body = number(Some(settings.max_body.unwrap_or(0)), 0..=MAX_BODY, &at, &mut report);
        Some(ExternalAuth { backend: key.ok()?, protocol: protocol?, max_body: max_body?.unsigned_abs() })
    }
}

/// Each once, in order.
fn names(texts: &[String], field: &str, report: &mut Report<'_>) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    let mut complete = true;
    for (i, text) in texts.iter().enumerate() {
        let at = format!("{field}[{i}]");
        match header_name(text, &at, report) {
            Some(name) if is_framing(&name) || name == http::header::HOST => {
                report.error(Code::InvalidHeader, at, format!("`{name}` is set by HTTP itself and can't be passed on"));
                complete = false;
            }
            Some(name) if names.contains(&name) => {}
            Some(name) => names.push(name),
            None => complete = false,
        }
    }
    complete.then_some(names)
}

/// Before paths that begin with `/`.
fn path(text: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(String::new()) };
    match normalize_configured(text) {
        Ok(path) => Some(path.trim_end_matches('/').to_owned()),
        Err(error) => {
            report.error(Code::InvalidPath, field, format!("`{text}`: {error}"));
            None
        }
    }
}
