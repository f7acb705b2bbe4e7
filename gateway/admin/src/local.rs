//! The admin port: the status page, the snapshot, problems, `explain` and the log level. For this host only; a request
//! under another name than this host's is refused, or a web page could have its visitor's browser ask.

use crate::{View, page, rows};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{CONTENT_SECURITY_POLICY, HOST};
use http::{StatusCode, Uri};
use sluice_model::explain::{self, Question};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The log's filter, which can be exchanged while the gateway runs.
pub type LogFilter = reload::Handle<EnvFilter, Registry>;

/// Bytes of a new log filter.
const MAX_FILTER: usize = 4 << 10;

struct Local {
    view: Arc<dyn View>,
    filter: LogFilter,
}

/// The router of the admin port.
pub fn local(view: Arc<dyn View>, filter: LogFilter) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/status", get(status))
        .route("/listeners", get(listeners))
        .route("/routes", get(routes))
        .route("/backends", get(backends))
        .route("/certificates", get(certificates))
        .route("/config", get(config))
        .route("/problems", get(problems))
        .route("/explain", get(explain))
        .route("/log-level", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(MAX_FILTER))
        .layer(axum::middleware::from_fn(this_host_only))
        .with_state(Arc::new(Local { view, filter }))
}

async fn index(State(local): State<Arc<Local>>) -> Response {
    let view = &local.view;
    let html = page::render(&view.status(), &view.config(), &view.problems());
    ([(CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")], Html(html)).into_response()
}

async fn status(State(local): State<Arc<Local>>) -> Response {
    Json(local.view.status()).into_response()
}

async fn listeners(State(local): State<Arc<Local>>) -> Response {
    Json(rows::listeners(&local.view.config(), &local.view.status())).into_response()
}

async fn routes(State(local): State<Arc<Local>>) -> Response {
    Json(rows::routes(&local.view.config(), usize::MAX).0).into_response()
}

async fn backends(State(local): State<Arc<Local>>) -> Response {
    Json(rows::backends(&local.view.config(), &local.view.status())).into_response()
}

async fn certificates(State(local): State<Arc<Local>>) -> Response {
    Json(rows::certificates(&local.view.config(), SystemTime::now())).into_response()
}

/// Keys of certificates are no part of what is written: a certificate shows as its fingerprint.
async fn config(State(local): State<Arc<Local>>) -> Response {
    Json(&*local.view.config()).into_response()
}

async fn problems(State(local): State<Arc<Local>>) -> Response {
    Json(&*local.view.problems()).into_response()
}

/// `?method=GET&url=http://example.com/web&header=x-a:%201&output=text`; `header` may be repeated; JSON unless `text`.
async fn explain(State(local): State<Arc<Local>>, Query(parameters): Query<Vec<(String, String)>>) -> Response {
    let first = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let headers = parameters.iter().filter(|(key, _)| key == "header").map(|(_, value)| value.as_str());
    match Question::parse(first("method").unwrap_or("GET"), first("url").unwrap_or_default(), headers) {
        Ok(question) => {
            let explanation = explain::explain(&local.view.config(), &question);
            match first("output") {
                Some("text") => format!("{}\n", explanation.to_string().trim_end()).into_response(),
                _ => Json(explanation).into_response(),
            }
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn log_level(State(local): State<Arc<Local>>) -> Response {
    match local.filter.with_current(ToString::to_string) {
        Ok(filter) => format!("{filter}\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn set_log_level(State(local): State<Arc<Local>>, body: String) -> Response {
    let filter = match EnvFilter::builder().parse(body.trim()) {
        Ok(filter) => filter,
        Err(error) => {
            let message =
                format!("{error}; write a level (`debug`) or targets with levels (`info,sluice_proxy=debug`)\n");
            return (StatusCode::BAD_REQUEST, message).into_response();
        }
    };
    let text = filter.to_string();
    match local.filter.reload(filter) {
        Ok(()) => {
            tracing::info!(filter = text, "log level changed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn this_host_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_this_host) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "ask under the name localhost or a loopback address\n").into_response()
    }
}

fn is_this_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<Uri>() else { return false };
    let Some(name) = authority.host() else { return false };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_this_host;

    #[test]
    fn only_names_of_this_host_are_answered() {
        for host in ["localhost", "localhost:9181", "LOCALHOST:1", "127.0.0.1:9181", "127.8.8.8", "[::1]:9181", "[::1]"]
        {
            assert!(is_this_host(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9181", "10.0.0.1", "", "127.0.0.1.evil.example", "[::2]:1"]
        {
            assert!(!is_this_host(host), "{host}");
        }
    }
}
