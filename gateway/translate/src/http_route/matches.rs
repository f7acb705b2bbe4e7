//! What a rule asks of a request.

use crate::report::Report;
use crate::values::{header_name, pattern};
use sluice_model::Code;
use sluice_model::config::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use sluice_model::path::normalize_configured;
use sluice_resources::api::http_route::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType as HeadersType, HttpRouteRulesMatchesMethod as ApiMethod,
    HttpRouteRulesMatchesPathType as PathType, HttpRouteRulesMatchesQueryParamsType as QueryType,
};

/// A match of the rule at index `rule`; `None` where a part of it can't be read, since what is left would take more
/// requests than its author meant.
pub(super) fn route_match(
    source: &HttpRouteRulesMatches,
    rule: u32,
    field: &str,
    report: &mut Report<'_>,
) -> Option<RouteMatch> {
    let path = source.path.as_ref();
    let value = path.and_then(|p| p.value.as_deref()).unwrap_or("/");
    let path_field = format!("{field}.path.value");
    let path = match path.and_then(|p| p.r#type.as_ref()) {
        Some(PathType::Exact) => path_match(value, false, &path_field, report),
        None | Some(PathType::PathPrefix) => path_match(value, true, &path_field, report),
        Some(PathType::RegularExpression) => pattern(value, &path_field, report).map(PathMatch::Regex),
    };
    let mut complete = true;
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (i, header) in source.headers.iter().flatten().enumerate() {
        let field = format!("{field}.headers[{i}]");
        let name = header_name(&header.name, &format!("{field}.name"), report);
        let regex = matches!(header.r#type, Some(HeadersType::RegularExpression));
        let value = value_match(&header.value, regex, &format!("{field}.value"), report);
        match (name, value) {
            // Of several entries with one name the first counts.
            (Some(name), Some(_)) if headers.iter().any(|h| h.name == name) => {}
            (Some(name), Some(value)) => headers.push(HeaderMatch { name, value }),
            _ => complete = false,
        }
    }
    let mut query: Vec<QueryMatch> = Vec::new();
    for (i, param) in source.query_params.iter().flatten().enumerate() {
        let regex = matches!(param.r#type, Some(QueryType::RegularExpression));
        match value_match(&param.value, regex, &format!("{field}.queryParams[{i}].value"), report) {
            Some(_) if query.iter().any(|q| q.name.as_ref() == param.name) => {}
            Some(value) => query.push(QueryMatch { name: param.name.as_str().into(), value }),
            None => complete = false,
        }
    }
    if let Some(refused @ (ApiMethod::Trace | ApiMethod::Connect)) = &source.method {
        let message = format!("{} is never served: requests with it are answered 405", method(refused));
        report.warn(Code::UnsupportedValue, format!("{field}.method"), message);
    }
    let path = path?;
    complete.then(|| RouteMatch { path, method: source.method.as_ref().map(method), headers, query, rule })
}

/// A path that the matcher can meet: in the normal form that requests are brought into. A prefix loses its final
/// slash, so that `/` is the empty text.
pub(crate) fn path_match(text: &str, prefix: bool, field: &str, report: &mut Report<'_>) -> Option<PathMatch> {
    if let Some(at) = text.find(['?', '#']) {
        let message = format!("`{text}` holds `{}`, which is never part of a path", &text[at..=at]);
        report.error(Code::InvalidPath, field, message);
        return None;
    }
    if text.contains("//") {
        let message = format!("`{text}` is taken for the same path with single slashes");
        report.warn(Code::InvalidPath, field, message);
    }
    match normalize_configured(text) {
        Ok(path) if prefix => Some(PathMatch::Prefix(path.trim_end_matches('/').into())),
        Ok(path) => Some(PathMatch::Exact(path.into())),
        Err(error) => {
            report.error(Code::InvalidPath, field, format!("`{text}`: {error}"));
            None
        }
    }
}

fn value_match(text: &str, regex: bool, field: &str, report: &mut Report<'_>) -> Option<ValueMatch> {
    if regex {
        return pattern(text, field, report).map(ValueMatch::Regex);
    }
    Some(ValueMatch::Exact(text.into()))
}

fn method(method: &ApiMethod) -> http::Method {
    match method {
        ApiMethod::Get => http::Method::GET,
        ApiMethod::Head => http::Method::HEAD,
        ApiMethod::Post => http::Method::POST,
        ApiMethod::Put => http::Method::PUT,
        ApiMethod::Delete => http::Method::DELETE,
        ApiMethod::Connect => http::Method::CONNECT,
        ApiMethod::Options => http::Method::OPTIONS,
        ApiMethod::Trace => http::Method::TRACE,
        ApiMethod::Patch => http::Method::PATCH,
    }
}
