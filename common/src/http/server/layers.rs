//! What every request passes through on its way to a route: its id, its span, the access log and
//! the body's limit.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use axum::RequestExt;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::http::problem::Problem;

/// The header that carries a request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, an extension of every request under [`standard_layers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the layers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// Largest body that a request may have, in bytes.
    pub body_limit: usize,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self {
            body_limit: 1 << 20,
        }
    }
}

/// Puts the layers around all routes that `router` has by now.
///
/// - `x-request-id` is taken from the request or made, is in the span `request` of every log line,
///   and goes back with the response, also as `request_id` of a [`Problem`].
/// - At debug level every request is logged with status and time.
/// - A body beyond the limit gets 413.
pub fn standard_layers(router: Router, options: &LayerOptions) -> Router {
    let limit = options.body_limit;
    router
        .layer(middleware::from_fn(move |request, next| {
            limit_body(limit, request, next)
        }))
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn(observe))
}

/// Answers unknown paths and methods with a [`Problem`] each, instead of an empty body.
pub fn problem_fallbacks(router: Router) -> Router {
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at `{}`", uri.path()),
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("`{}` does not take {method}", uri.path()),
    )
}

/// Refuses a body that says it is too long before any of it is read, and cuts off one that says
/// nothing.
async fn limit_body(limit: usize, request: Request, next: Next) -> Response {
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        let detail = format!("the request's body is longer than {limit} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response();
    }
    next.run(request.with_limited_body()).await
}

async fn observe(mut request: Request, next: Next) -> Response {
    let id = accepted_id(request.headers()).unwrap_or_else(new_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", %id, method = %request.method(), path = request.uri().path());
    async move {
        let started = Instant::now();
        let mut response = name_request(next.run(request).await, &id);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        tracing::debug!(status = response.status().as_u16(), elapsed = ?started.elapsed(), "request answered");
        response
    }
    .instrument(span)
    .await
}

/// Writes the request's id into a problem that has none.
fn name_request(mut response: Response, id: &str) -> Response {
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if problem.request_id.is_none() => {
            let headers = std::mem::take(response.headers_mut());
            let mut named = problem.request_id(id).into_response();
            for (name, value) in &headers {
                if name != CONTENT_LENGTH {
                    named.headers_mut().insert(name, value.clone());
                }
            }
            named
        }
        _ => response,
    }
}

/// The client's own id, if it is short and harmless in a log.
fn accepted_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    ((1..=128).contains(&id.len()) && id.bytes().all(harmless)).then(|| id.to_owned())
}

/// A new id: 128 bits that no other request is likely to have. It needs not be unguessable.
fn new_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
