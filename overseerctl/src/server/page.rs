//! The built-in page: a few files in the binary, served with a policy that allows nothing from elsewhere.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

/// What the page may load and talk to: this daemon.
const POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'";

macro_rules! asset {
    ($kind:literal, $file:literal) => {
        get(|| async { serve($kind, include_str!(concat!("page/", $file))) })
    };
}

/// `/` and what it needs.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/", asset!("text/html; charset=utf-8", "index.html"))
        .route("/icon.svg", asset!("image/svg+xml", "icon.svg"))
        .route("/style.css", asset!("text/css; charset=utf-8", "style.css"))
        .route(
            "/app.js",
            asset!("text/javascript; charset=utf-8", "app.js"),
        )
        .route(
            "/basics.js",
            asset!("text/javascript; charset=utf-8", "basics.js"),
        )
        .route(
            "/output.js",
            asset!("text/javascript; charset=utf-8", "output.js"),
        )
        .route(
            "/pools.js",
            asset!("text/javascript; charset=utf-8", "pools.js"),
        )
        .route(
            "/tasks.js",
            asset!("text/javascript; charset=utf-8", "tasks.js"),
        )
        .route(
            "/wire.js",
            asset!("text/javascript; charset=utf-8", "wire.js"),
        )
}

fn serve(kind: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, body).into_response()
}
