//! What every request passes on its way in: the guard's decisions, carried out, and the answers that browsers ask for first.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    answer::Refusal,
    guard::{Guard, Origin},
};

/// What pages of other origins may send and read; the first line is the original's.
const CORS: [(HeaderName, &str); 4] = [
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        "GET, POST, DELETE, OPTIONS",
    ),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Content-Type, mcp-protocol-version, Authorization, Idempotency-Key, Last-Event-ID, mcp-method, mcp-name, mcp-session-id, x-request-id, traceparent",
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "Location, mcp-session-id, x-request-id",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "3600"),
];

/// Lets in who addresses the service by a name of its own and comes from no foreign page.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(header::HOST);
    if !guard.answers_to(host.map(|host| host.to_str().unwrap_or_default())) {
        return forbidden(
            "the service does not go by the name in `Host`; if it should, add it to allowed_hosts",
        );
    }
    let allowed = match guard.origin(headers) {
        Origin::Foreign => {
            return forbidden(
                "pages of this origin may not call; see cors_origins and allowed_hosts",
            );
        }
        Origin::Own => None,
        Origin::Allowed(origin) => Some(origin),
    };
    let preflight = request.method() == Method::OPTIONS && headers.contains_key(header::ORIGIN);
    let mut response = if preflight {
        StatusCode::OK.into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = allowed {
        allow(response.headers_mut(), &origin);
    }
    response
}

fn allow(headers: &mut HeaderMap, origin: &str) {
    let Ok(value) = HeaderValue::from_str(origin) else {
        return;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if origin != "*" {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// Lets in who presents a token, where tokens are asked for.
pub(super) async fn authenticate(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    if guard.admits(presented(&request).as_deref()) {
        return next.run(request).await;
    }
    let details = "present a token as `Authorization: Bearer …`";
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", details);
    ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
}

/// `Authorization: Bearer …`; or the query parameter `token`, but only to open a WebSocket, for which browsers can set no
/// header.
fn presented(request: &Request) -> Option<String> {
    let headers = request.headers();
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    headers
        .contains_key(header::SEC_WEBSOCKET_KEY)
        .then(|| pairs.find(|(name, _)| name == "token"))?
        .map(|(_, token)| token.into_owned())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a request presents a token, or needs none.
pub(super) fn is_known(guard: &Guard, headers: &HeaderMap) -> bool {
    guard.admits(bearer(headers))
}

fn forbidden(details: &str) -> Response {
    Refusal::new(StatusCode::FORBIDDEN, "Forbidden", details).into_response()
}
