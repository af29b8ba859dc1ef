//! The routes by which others watch a daemon:
//!
//! - `GET /health` – 200 while the process is alive
//! - `GET /ready` – 200 when it can do its work; 503 while it starts and while it drains
//! - `GET /metrics` – its numbers, in Prometheus' text format 0.0.4

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::metrics;
use crate::shutdown::Readiness;

/// The routes; `metrics` gives the text of `/metrics`, see [`metrics::Exposition`].
pub fn health_routes(
    readiness: Readiness,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route("/health", get(async || Json(json!({"status": "ok"}))))
        .route("/ready", get(move || std::future::ready(ready(&readiness))))
        .route(
            "/metrics",
            get(move || std::future::ready(([(CONTENT_TYPE, metrics::MEDIA_TYPE)], metrics()))),
        )
}

fn ready(readiness: &Readiness) -> Response {
    let (status, word) = if readiness.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    (status, Json(json!({"status": word}))).into_response()
}
