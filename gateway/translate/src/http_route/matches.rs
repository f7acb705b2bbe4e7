//! What a rule asks of a request.

use crate::grpc_route;
use crate::report::Report;
use crate::values::{header_name, pattern};
use sluice_model::Code;
use sluice_model::config::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use sluice_model::path::normalize_configured;
use sluice_resources::api::grpc_route::GrpcRouteRulesMatches;
use sluice_resources::api::http_route::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType as HeadersType,
    HttpRouteRulesMatchesMethod as ApiMethod, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteRulesMatchesQueryParamsType as QueryType,
};

/// Where the matches of a route's rules are written.
#[derive(Clone, Copy)]
pub(crate) enum Matches<'m> {
    /// In the rules themselves.
    OfRules,
    /// Those of a GRPCRoute, by rule.
    Grpc(&'m [Vec<GrpcRouteRulesMatches>]),
}

impl Matches<'_> {
    /// The matches of the rule at `index`, each with its number. `position`: where the rule will stand. A rule without
    /// any takes everything; a match that can't be read is left out.
    pub(super) fn read(
        self,
        source: &HttpRouteRules,
        index: u32,
        position: u32,
        field: &str,
        report: &mut Report<'_>,
    ) -> Vec<(u32, RouteMatch)> {
        let at = |number: u32| format!("{field}.matches[{number}]");
        let of_grpc = match self {
            Matches::Grpc(rules) => rules.get(index as usize).map(Vec::as_slice).unwrap_or_default(),
            Matches::OfRules => &[],
        };
        let of_http = source.matches.as_deref().unwrap_or_default();
        let http = (0_u32..).zip(of_http).map(|(n, m)| (n, route_match(m, position, &at(n), report)));
        let mut found: Vec<_> = http.collect();
        found.extend((0_u32..).zip(of_grpc).map(|(n, m)| (n, grpc_route::route_match(m, position, &at(n), report))));
        if found.is_empty() {
            found.push((0, Some(RouteMatch::of_path(PathMatch::Prefix("".into()), position))));
        }
        found.into_iter().filter_map(|(number, found)| Some((number, found?))).collect()
    }
}

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
    let headers = source.headers.iter().flatten().map(|header| {
        let regex = matches!(header.r#type, Some(HeadersType::RegularExpression));
        (header.name.as_str(), header.value.as_str(), regex)
    });
    let headers = header_matches(headers, field, report);
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
    let (path, headers) = (path?, headers?);
    let method = source.method.as_ref().map(method);
    complete.then(|| RouteMatch { path, method, headers, query, grpc_method: None, rule })
}

/// Conditions on header fields, each as name, value and whether that is an expression; `None` where one can't be read.
pub(crate) fn header_matches<'h>(
    headers: impl Iterator<Item = (&'h str, &'h str, bool)>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<Vec<HeaderMatch>> {
    let mut complete = true;
    let mut found: Vec<HeaderMatch> = Vec::new();
    for (i, (name, value, regex)) in headers.enumerate() {
        let field = format!("{field}.headers[{i}]");
        let name = header_name(name, &format!("{field}.name"), report);
        let value = value_match(value, regex, &format!("{field}.value"), report);
        match (name, value) {
            // Of several entries with one name the first counts.
            (Some(name), Some(_)) if found.iter().any(|h| h.name == name) => {}
            (Some(name), Some(value)) => found.push(HeaderMatch { name, value }),
            _ => complete = false,
        }
    }
    complete.then_some(found)
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
