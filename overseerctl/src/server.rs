//! The HTTP side: functions here verify, convert and forward; decisions live in the hub.
//!
//! | route | who may | what |
//! |---|---|---|
//! | `GET /ws` | trusted peers, allowed origins, token | the WebSocket protocol |
//! | `/ws/manifest` | the same | the protocol manifest as JSON |
//! | `/openapi.json` | anybody; token | Swagger 2.0 document with sticky-overseer's extensions |
//! | `GET /health`, `GET /ready` | anybody | liveness, readiness |
//! | `GET /metrics` | trusted peers, token | Prometheus text |
//! | `GET /` | trusted peers | the built-in page |
//!
//! Everything else is Go's `404 page not found`. The same routes answer on TCP and on Unix sockets.

pub mod guard;
mod page;
mod socket;
mod stdio;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use hyper_util::rt::TokioIo;
use runyard_common::{
    http::server::{Peer, health_routes},
    shutdown::Readiness,
};
use tungstenite::handshake::derive_accept_key;

pub use guard::{Guard, Networks, Origins};
pub use socket::{Heartbeat, converse};
pub use stdio::serve_stdio;

use crate::{hub::Hub, openapi};

/// What the routes need.
#[derive(Clone)]
pub struct Context {
    /// The hub.
    pub hub: Hub,
    /// Who may.
    pub guard: Guard,
    /// When a silent connection is probed, and given up.
    pub heartbeat: Heartbeat,
}

/// All routes of the daemon.
pub fn router(context: Context, readiness: Readiness) -> Router {
    let hub = context.hub.clone();
    let private = Router::new()
        .route("/ws", any(upgrade))
        .route("/ws/manifest", any(manifest))
        .layer(middleware::from_fn_with_state(
            context.clone(),
            require_token,
        ))
        .layer(middleware::from_fn_with_state(
            context.clone(),
            require_trust,
        ));
    let health = health_routes(readiness, move || hub.exposition()).layer(
        middleware::from_fn_with_state(context.clone(), guard_metrics),
    );
    let page = page::routes().layer(middleware::from_fn_with_state(
        context.clone(),
        require_trust,
    ));
    let open = Router::new()
        .route("/openapi.json", any(openapi_json))
        .layer(middleware::from_fn_with_state(
            context.clone(),
            require_token,
        ));
    private
        .merge(open)
        .with_state(context)
        .merge(health)
        .merge(page)
        .fallback(not_found)
}

async fn require_trust(State(context): State<Context>, request: Request, next: Next) -> Response {
    if context.guard.trusts(request.extensions().get::<Peer>()) {
        next.run(request).await
    } else {
        forbidden()
    }
}

async fn require_token(State(context): State<Context>, request: Request, next: Next) -> Response {
    if context
        .guard
        .accepts_token(presented_token(&request).as_deref())
    {
        next.run(request).await
    } else {
        unauthorized()
    }
}

/// Health is for anybody; numbers are not.
async fn guard_metrics(State(context): State<Context>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/metrics" {
        if !context.guard.trusts(request.extensions().get::<Peer>()) {
            return forbidden();
        }
        if !context
            .guard
            .accepts_token(presented_token(&request).as_deref())
        {
            return unauthorized();
        }
    }
    next.run(request).await
}

/// `Authorization: Bearer …`, or the query parameter `token`, because browsers cannot set headers on a WebSocket.
fn presented_token(request: &Request) -> Option<String> {
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let bearer = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    bearer
        .map(|(_, token)| token.trim().to_owned())
        .or_else(|| {
            let query =
                axum::extract::Query::<std::collections::HashMap<String, String>>::try_from_uri(
                    request.uri(),
                );
            query.ok().and_then(|mut query| query.0.remove("token"))
        })
}

/// The WebSocket handshake (RFC 6455, section 4.2), with the answers of gorilla/websocket to what is none.
async fn upgrade(State(context): State<Context>, mut request: Request) -> Response {
    let headers = request.headers();
    if !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return bad_handshake(StatusCode::BAD_REQUEST);
    }
    if request.method() != axum::http::Method::GET {
        return bad_handshake(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !has_token(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        return bad_handshake(StatusCode::BAD_REQUEST);
    }
    if !context.guard.allows_origin(headers) {
        return forbidden();
    }
    let Some(key) = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| !key.is_empty())
    else {
        return bad_handshake(StatusCode::BAD_REQUEST);
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => converse(context.hub, TokioIo::new(io), context.heartbeat).await,
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let headers = [
        (header::UPGRADE, "websocket".to_owned()),
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn bad_handshake(status: StatusCode) -> Response {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    (status, [(header::SEC_WEBSOCKET_VERSION, "13")], text).into_response()
}

async fn manifest(State(context): State<Context>) -> Response {
    axum::Json(context.hub.manifest()).into_response()
}

async fn openapi_json(State(context): State<Context>) -> Response {
    let actions = context.hub.describe("").unwrap_or_default();
    let document = openapi::openapi(&context.hub.settings().name, &actions);
    (
        [(header::CONTENT_TYPE, "application/json")],
        openapi::render(&document),
    )
        .into_response()
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, "forbidden\n").into_response()
}

fn unauthorized() -> Response {
    (
        StatusCode::UNAUTHORIZED,
        [(header::WWW_AUTHENTICATE, "Bearer")],
        "unauthorized\n",
    )
        .into_response()
}
