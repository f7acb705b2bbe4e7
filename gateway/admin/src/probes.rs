//! The metrics port: `/metrics`, `/livez`, `/readyz`, and `/served` for the controller.

use crate::{Readiness, View};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::registry::Registry;
use sluice_model::{Served, ServedQuestion};
use std::sync::Arc;
use std::time::Duration;

/// The registry, complete: everything that registers has done so.
pub type MetricsHandle = Arc<Registry>;

/// Longest time for the data plane to answer a readiness probe. Kubernetes gives a probe 1 s by default.
const READINESS_TIMEOUT: Duration = Duration::from_millis(900);

/// Bytes of a question: 2,000 objects whose names are as long as they may be.
const MAX_QUESTION: usize = 1 << 20;

struct Probes {
    registry: MetricsHandle,
    view: Arc<dyn View>,
}

/// The router of the metrics port.
pub fn probes(registry: MetricsHandle, view: Arc<dyn View>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/served", post(served).layer(DefaultBodyLimit::max(MAX_QUESTION)))
        .with_state(Arc::new(Probes { registry, view }))
}

/// OpenMetrics text.
async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::with_capacity(64 << 10);
        prometheus_client::encoding::text::encode(&mut text, &probes.registry).map(|()| text)
    });
    match encoded.await {
        Ok(Ok(text)) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response(),
    }
}

/// The process runs its event loop. What the data plane does is readiness' question: restarting a pod cures no
/// configuration.
async fn livez() -> &'static str {
    "ok\n"
}

/// Names and generations of what is served; no content.
async fn served(State(probes): State<Arc<Probes>>, Json(question): Json<ServedQuestion>) -> Json<Served> {
    Json(probes.view.served(&question))
}

async fn readyz(State(probes): State<Arc<Probes>>) -> Response {
    let readiness = tokio::time::timeout(READINESS_TIMEOUT, probes.view.readiness()).await;
    match readiness {
        Ok(Readiness::Ready(notes)) => {
            let lines = std::iter::once("ready").chain(notes.iter().map(String::as_str));
            lines.flat_map(|line| [line, "\n"]).collect::<String>().into_response()
        }
        Ok(Readiness::NotReady(reason)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the data plane does not answer\n").into_response(),
    }
}
