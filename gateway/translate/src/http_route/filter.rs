//! Filters. The API has them twice, on rules and on backendRefs, with types of the same shape; both are looked at
//! through [`Filter`].

use super::cors;
use super::external_auth::AuthSettings;
use crate::report::Report;
use crate::values::{header_name, header_value};
use http::StatusCode;
use sluice_model::config::{Cors, HeaderOps, PathRewrite, Redirect, RedirectScheme, Rewrite};
use sluice_model::field::is_framing;
use sluice_model::path::normalize_configured;
use sluice_model::{Code, Hostname};
use sluice_resources::api::http_route as api;

/// One filter, whichever type it came as.
pub(super) enum Filter<'f> {
    RequestHeaders(Edit<'f>),
    ResponseHeaders(Edit<'f>),
    Mirror(MirrorTo<'f>),
    Redirect(RedirectTo<'f>),
    Rewrite(RewriteTo<'f>),
    Cors(CorsRules<'f>),
    Extension {
        group: &'f str,
        kind: &'f str,
        name: &'f str,
    },
    ExternalAuth(AuthSettings<'f>),
    /// The field that the type names is missing.
    Incomplete(&'static str),
}

/// A header modifier.
pub(super) struct Edit<'f> {
    pub(super) set: Vec<(&'f str, &'f str)>,
    pub(super) add: Vec<(&'f str, &'f str)>,
    pub(super) remove: Vec<&'f str>,
}

pub(super) struct MirrorTo<'f> {
    pub(super) target: BackendRef<'f>,
    pub(super) percent: Option<i32>,
    pub(super) fraction: Option<(i32, Option<i32>)>,
}

/// A reference to what requests go to.
#[derive(Clone, Copy)]
pub(super) struct BackendRef<'f> {
    pub(super) group: Option<&'f str>,
    pub(super) kind: Option<&'f str>,
    pub(super) name: &'f str,
    pub(super) namespace: Option<&'f str>,
    pub(super) port: Option<i32>,
}

pub(super) struct RedirectTo<'f> {
    https: Option<bool>,
    hostname: Option<&'f str>,
    port: Option<i32>,
    path: Option<PathTo<'f>>,
    status: Option<i64>,
}

pub(super) struct RewriteTo<'f> {
    hostname: Option<&'f str>,
    path: Option<PathTo<'f>>,
}

/// The value is missing where the type names the other field.
#[derive(Clone, Copy)]
pub(super) enum PathTo<'f> {
    Full(Option<&'f str>),
    Prefix(Option<&'f str>),
}

pub(super) struct CorsRules<'f> {
    pub(super) allow_origins: &'f [String],
    pub(super) allow_methods: &'f [String],
    pub(super) allow_headers: &'f [String],
    pub(super) expose_headers: &'f [String],
    pub(super) allow_credentials: bool,
    pub(super) max_age: Option<i32>,
}

macro_rules! view {
    ($name:ident, $filter:ty, $kind:ident, $redirect_path:ident, $rewrite_path:ident, $scheme:ident, $auth:ident) => {
        pub(super) fn $name(filter: &$filter) -> Filter<'_> {
            macro_rules! edit {
                ($edit:expr) => {
                    Edit {
                        set: $edit.set.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
                        add: $edit.add.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect(),
                        remove: $edit.remove.iter().flatten().map(String::as_str).collect(),
                    }
                };
            }
            macro_rules! path {
                ($path:expr, $type:ident) => {
                    $path.as_ref().map(|path| match path.r#type {
                        api::$type::ReplaceFullPath => PathTo::Full(path.replace_full_path.as_deref()),
                        api::$type::ReplacePrefixMatch => PathTo::Prefix(path.replace_prefix_match.as_deref()),
                    })
                };
            }
            match filter.r#type {
                api::$kind::RequestHeaderModifier => match &filter.request_header_modifier {
                    Some(edit) => Filter::RequestHeaders(edit!(edit)),
                    None => Filter::Incomplete("requestHeaderModifier"),
                },
                api::$kind::ResponseHeaderModifier => match &filter.response_header_modifier {
                    Some(edit) => Filter::ResponseHeaders(edit!(edit)),
                    None => Filter::Incomplete("responseHeaderModifier"),
                },
                api::$kind::RequestMirror => match &filter.request_mirror {
                    Some(mirror) => Filter::Mirror(MirrorTo {
                        target: BackendRef {
                            group: mirror.backend_ref.group.as_deref(),
                            kind: mirror.backend_ref.kind.as_deref(),
                            name: &mirror.backend_ref.name,
                            namespace: mirror.backend_ref.namespace.as_deref(),
                            port: mirror.backend_ref.port,
                        },
                        percent: mirror.percent,
                        fraction: mirror.fraction.as_ref().map(|f| (f.numerator, f.denominator)),
                    }),
                    None => Filter::Incomplete("requestMirror"),
                },
                api::$kind::RequestRedirect => match &filter.request_redirect {
                    Some(redirect) => Filter::Redirect(RedirectTo {
                        https: redirect.scheme.as_ref().map(|scheme| *scheme == api::$scheme::Https),
                        hostname: redirect.hostname.as_deref(),
                        port: redirect.port,
                        path: path!(redirect.path, $redirect_path),
                        status: redirect.status_code,
                    }),
                    None => Filter::Incomplete("requestRedirect"),
                },
                api::$kind::UrlRewrite => match &filter.url_rewrite {
                    Some(rewrite) => Filter::Rewrite(RewriteTo {
                        hostname: rewrite.hostname.as_deref(),
                        path: path!(rewrite.path, $rewrite_path),
                    }),
                    None => Filter::Incomplete("urlRewrite"),
                },
                api::$kind::Cors => match &filter.cors {
                    Some(cors) => Filter::Cors(CorsRules {
                        allow_origins: cors.allow_origins.as_deref().unwrap_or_default(),
                        allow_methods: cors.allow_methods.as_deref().unwrap_or_default(),
                        allow_headers: cors.allow_headers.as_deref().unwrap_or_default(),
                        expose_headers: cors.expose_headers.as_deref().unwrap_or_default(),
                        allow_credentials: cors.allow_credentials.unwrap_or(false),
                        max_age: cors.max_age,
                    }),
                    None => Filter::Incomplete("cors"),
                },
                api::$kind::ExtensionRef => match &filter.extension_ref {
                    Some(to) => Filter::Extension { group: &to.group, kind: &to.kind, name: &to.name },
                    None => Filter::Incomplete("extensionRef"),
                },
                api::$kind::ExternalAuth => match &filter.external_auth {
                    Some(auth) => {
                        let grpc = matches!(auth.protocol, api::$auth::Grpc);
                        let (http, of_grpc) = (auth.http.as_ref(), auth.grpc.as_ref());
                        let allowed = match grpc {
                            true => of_grpc.and_then(|grpc| grpc.allowed_headers.as_deref()),
                            false => http.and_then(|http| http.allowed_headers.as_deref()),
                        };
                        Filter::ExternalAuth(AuthSettings {
                            target: BackendRef {
                                group: auth.backend_ref.group.as_deref(),
                                kind: auth.backend_ref.kind.as_deref(),
                                name: &auth.backend_ref.name,
                                namespace: auth.backend_ref.namespace.as_deref(),
                                port: auth.backend_ref.port,
                            },
                            grpc,
                            max_body: auth.forward_body.as_ref().and_then(|body| body.max_size),
                            path: http.and_then(|http| http.path.as_deref()),
                            request_headers: allowed.unwrap_or_default(),
                            response_headers: http
                                .and_then(|http| http.allowed_response_headers.as_deref())
                                .unwrap_or_default(),
                            other: if grpc { http.is_some() } else { of_grpc.is_some() },
                        })
                    }
                    None => Filter::Incomplete("externalAuth"),
                },
            }
        }
    };
}

view!(
    of_rule,
    api::HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersRequestRedirectPathType,
    HttpRouteRulesFiltersUrlRewritePathType,
    HttpRouteRulesFiltersRequestRedirectScheme,
    HttpRouteRulesFiltersExternalAuthProtocol
);
view!(
    of_backend,
    api::HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectPathType,
    HttpRouteRulesBackendRefsFiltersUrlRewritePathType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectScheme,
    HttpRouteRulesBackendRefsFiltersExternalAuthProtocol
);

/// `None` where a name or value can't be used.
pub(super) fn header_ops(edit: &Edit<'_>, field: &str, report: &mut Report<'_>) -> Option<HeaderOps> {
    let mut ops = HeaderOps::default();
    let mut complete = true;
    let mut seen = Vec::new();
    let mut name = |text: &str, field: String, report: &mut Report<'_>| {
        let name = header_name(text, &field, report)?;
        if is_framing(&name) {
            report.error(Code::InvalidHeader, field, format!("`{name}` is set by HTTP itself and can't be edited"));
            return None;
        }
        if seen.contains(&name) {
            report.error(Code::InvalidCombination, field, format!("`{name}` stands twice in one header modifier"));
            return None;
        }
        seen.push(name.clone());
        Some(name)
    };
    for (list, texts, into) in [("set", &edit.set, &mut ops.set), ("add", &edit.add, &mut ops.add)] {
        for (i, (key, value)) in texts.iter().enumerate() {
            let at = format!("{field}.{list}[{i}]");
            match (name(key, format!("{at}.name"), report), header_value(value, &format!("{at}.value"), report)) {
                (Some(name), Some(value)) => into.push((name, value)),
                _ => complete = false,
            }
        }
    }
    for (i, key) in edit.remove.iter().enumerate() {
        match name(key, format!("{field}.remove[{i}]"), report) {
            Some(name) => ops.remove.push(name),
            None => complete = false,
        }
    }
    complete.then_some(ops)
}

/// Statuses that a redirect may have.
const REDIRECTS: &[i64] = &[301, 302, 303, 307, 308];

pub(super) fn redirect(to: &RedirectTo<'_>, field: &str, report: &mut Report<'_>) -> Option<Redirect> {
    let hostname = hostname(to.hostname, field, report)?;
    let path = path_rewrite(to.path, field, report)?;
    let port = match to.port.map(u16::try_from) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => {
            report.error(Code::OutOfRange, format!("{field}.port"), "a port is 1 to 65535");
            return None;
        }
    };
    let status = to.status.unwrap_or(302);
    let known = REDIRECTS.contains(&status).then(|| u16::try_from(status).ok()).flatten();
    let Some(status) = known.and_then(|status| StatusCode::from_u16(status).ok()) else {
        report.error(
            Code::UnsupportedValue,
            format!("{field}.statusCode"),
            format!("{status} is not one of 301, 302, 303, 307, 308"),
        );
        return None;
    };
    let scheme = to.https.map(|https| if https { RedirectScheme::Https } else { RedirectScheme::Http });
    Some(Redirect { scheme, hostname, port, path, status })
}

pub(super) fn rewrite(to: &RewriteTo<'_>, field: &str, report: &mut Report<'_>) -> Option<Rewrite> {
    Some(Rewrite { hostname: hostname(to.hostname, field, report)?, path: path_rewrite(to.path, field, report)? })
}

fn hostname(text: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<Option<Hostname>> {
    let Some(text) = text else { return Some(None) };
    match Hostname::parse(text) {
        Ok(host) => Some(Some(host)),
        Err(error) => {
            report.error(Code::InvalidHostname, format!("{field}.hostname"), error.to_string());
            None
        }
    }
}

fn path_rewrite(to: Option<PathTo<'_>>, field: &str, report: &mut Report<'_>) -> Option<Option<PathRewrite>> {
    let (text, name) = match to {
        None => return Some(None),
        Some(PathTo::Full(text)) => (text, "replaceFullPath"),
        Some(PathTo::Prefix(text)) => (text, "replacePrefixMatch"),
    };
    let field = format!("{field}.path.{name}");
    let Some(text) = text else {
        report.error(Code::InvalidCombination, field, "the field that `type` names is missing");
        return None;
    };
    // To replace a prefix by nothing is to strip it.
    let normal = if text.is_empty() { Ok(String::new()) } else { normalize_configured(text) };
    match normal {
        Ok(path) => Some(Some(match to {
            Some(PathTo::Full(_)) => PathRewrite::Full(if path.is_empty() { "/".into() } else { path.into() }),
            _ => PathRewrite::PrefixMatch(path.trim_end_matches('/').into()),
        })),
        Err(error) => {
            report.error(Code::InvalidPath, field, format!("`{text}`: {error}"));
            None
        }
    }
}

/// Whether a path is made from the prefix that matched.
pub(super) fn replaces_prefix(path: Option<&PathRewrite>) -> bool {
    matches!(path, Some(PathRewrite::PrefixMatch(_)))
}

pub(super) fn cors(rules: &CorsRules<'_>, field: &str, report: &mut Report<'_>) -> Option<Cors> {
    cors::read(rules, field, report)
}
