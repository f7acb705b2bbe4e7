//! GRPCRoutes: what an HTTPRoute is, asked for by service and method.
//!
//! Parents, hostnames, filters and backendRefs are those of an HTTPRoute, field by field, so that they are read as one;
//! only matches are written otherwise. Endpoints are spoken to in HTTP/2 whatever their Service says of itself.

use crate::http_route::{self, Matches, header_matches, path_match};
use crate::rank::Rank;
use crate::report::Report;
use crate::values::pattern;
use crate::world::{Compiled, World};
use serde_json::{from_value, to_value};
use sluice_model::config::{MAX_REGEX_BYTES, PathMatch, Pattern, RouteMatch, ValueMatch};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef};
use sluice_resources::api::grpc_route::{
    GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType as HeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType as MethodType,
};
use sluice_resources::api::{GrpcRoute, HttpRoute};

pub(crate) fn compile(world: &World<'_>, name: &NamespacedName, route: &GrpcRoute) -> Compiled {
    let object = ObjectRef::new(Kind::GRPCRoute, name.namespace.clone(), name.name.clone());
    let mut spec = route.spec.clone();
    let rules = spec.rules.iter_mut().flatten();
    let matches: Vec<Vec<GrpcRouteRulesMatches>> = rules.map(|rule| rule.matches.take().unwrap_or_default()).collect();
    match to_value(spec).and_then(from_value) {
        Ok(spec) => {
            let common = HttpRoute { metadata: route.metadata.clone(), spec, status: None };
            http_route::compile_as(world, &object, &common, Matches::Grpc(&matches))
        }
        // The fields of one are fields of the other.
        Err(error) => {
            let mut compiled = Compiled::new(Rank::named(&route.metadata, name));
            Report::new(&object, &mut compiled.problems).error(Code::WrongType, "spec", error.to_string());
            compiled
        }
    }
}

/// A match of the rule at index `rule`; `None` where a part of it can't be read.
pub(crate) fn route_match(
    source: &GrpcRouteRulesMatches,
    rule: u32,
    field: &str,
    report: &mut Report<'_>,
) -> Option<RouteMatch> {
    let called = match &source.method {
        None => Some(RouteMatch::of_path(PathMatch::Prefix("".into()), rule)),
        Some(method) => method_match(method, rule, &format!("{field}.method"), report),
    };
    let headers = source.headers.iter().flatten().map(|header| {
        let regex = matches!(header.r#type, Some(HeadersType::RegularExpression));
        (header.name.as_str(), header.value.as_str(), regex)
    });
    let headers = header_matches(headers, field, report);
    Some(RouteMatch { headers: headers?, ..called? })
}

/// A call's path is `/service/method` (gRPC over HTTP/2, Requests).
fn method_match(
    source: &GrpcRouteRulesMatchesMethod,
    rule: u32,
    field: &str,
    report: &mut Report<'_>,
) -> Option<RouteMatch> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (given(&source.service), given(&source.method));
    if service.is_none() && method.is_none() {
        let message = "a method match names a service, a method or both";
        report.error(Code::InvalidCombination, field, message);
        return None;
    }
    let path = |path| Some(RouteMatch::of_path(path, rule));
    let any = |grpc_method| {
        let all = RouteMatch::of_path(PathMatch::Prefix("".into()), rule);
        Some(RouteMatch { grpc_method: Some(grpc_method), ..all })
    };
    if matches!(source.r#type, Some(MethodType::RegularExpression)) {
        let mut read = |text: Option<&String>, name: &str| match text {
            None => Some(None),
            Some(text) => pattern(text, &format!("{field}.{name}"), report).map(Some),
        };
        let (service, method) = (read(service.as_ref(), "service"), read(method.as_ref(), "method"));
        return match (service?, method?) {
            (None, None) => None,
            (None, Some(method)) => any(ValueMatch::Regex(method)),
            (Some(service), method) => {
                let method = method.as_ref().map_or("[^/]+", |method| &method.source);
                let whole = Pattern::anchored(&format!("/(?:{})/(?:{method})", service.source));
                if whole.is_err() {
                    let message = format!(
                        "service and method together need more than {} KiB when compiled",
                        MAX_REGEX_BYTES / 1024
                    );
                    report.error(Code::InvalidRegex, field, message);
                }
                path(PathMatch::Regex(whole.ok()?))
            }
        };
    }
    let mut complete = true;
    for (text, name) in [(&service, "service"), (&method, "method")] {
        if text.as_ref().is_some_and(|text| text.contains('/')) {
            let message = format!("`{}` holds `/`, which parts services from methods", text.as_deref().unwrap_or(""));
            report.error(Code::InvalidPath, format!("{field}.{name}"), message);
            complete = false;
        }
    }
    if !complete {
        return None;
    }
    match (service, method) {
        (Some(service), Some(method)) => path(path_match(&format!("/{service}/{method}"), false, field, report)?),
        (Some(service), None) => path(path_match(&format!("/{service}"), true, &format!("{field}.service"), report)?),
        (None, Some(method)) => any(ValueMatch::Exact(method.into())),
        (None, None) => None,
    }
}
