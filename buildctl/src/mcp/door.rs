//! What stands before the protocol over HTTP: headers that older clients leave out, and errors that are JSON-RPC where the
//! protocol asks for it. Nothing here knows a tool; who may call is [`crate::server::guard`]'s.
//!
//! | a client | gets |
//! |---|---|
//! | of the older era without `Accept`, or with one that leaves something out | its answer as JSON |
//! | that sends no JSON, or JSON that is no message | 400 and a JSON-RPC error |
//! | that asks with `OPTIONS` what there is | 204 |

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{ACCEPT, ALLOW, CONTENT_TYPE},
    },
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// The most bytes of one message.
pub(super) const LARGEST: usize = 4 << 20;

/// The first day of the era in which every request says who asks.
const MODERN: &str = "2026-07-28";

/// The header that says which day's protocol is spoken.
const VERSION: &str = "mcp-protocol-version";

/// Marks a request whose client takes nothing but one JSON answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnlyJson;

/// Sets the door before routes.
pub(super) fn before(routes: Router) -> Router {
    routes.layer(from_fn(pass))
}

/// What every request passes.
async fn pass(request: Request, next: Next) -> Response {
    match *request.method() {
        Method::POST => post(request, next).await,
        Method::OPTIONS => (StatusCode::NO_CONTENT, [(ALLOW, "POST, OPTIONS")]).into_response(),
        _ => next.run(request).await,
    }
}

/// A message on its way in, and what has to be done about it on its way out.
async fn post(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, LARGEST).await else {
        let why = format!("a message has {LARGEST} bytes at most\n");
        return (StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
    };
    let message: Option<Value> = serde_json::from_slice(&bytes).ok();
    if !is_modern(&parts.headers, message.as_ref()) {
        let accepts = Accepts::of(&parts.headers);
        if !accepts.streams {
            parts.extensions.insert(OnlyJson);
        }
        if !(accepts.streams && accepts.json) {
            let both = HeaderValue::from_static("application/json, text/event-stream");
            parts.headers.insert(ACCEPT, both);
        }
        let json = HeaderValue::from_static("application/json");
        parts.headers.entry(CONTENT_TYPE).or_insert(json);
    }
    let is_json = content_is_json(&parts.headers);
    let response = next
        .run(Request::from_parts(parts, Body::from(bytes)))
        .await;
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE && is_json {
        // That is how the SDK says that it cannot read a message.
        return unreadable(message.as_ref());
    }
    response
}

/// Whether a message is of the era without handshake, by its header or by itself.
fn is_modern(headers: &HeaderMap, message: Option<&Value>) -> bool {
    let header = headers.get(VERSION).and_then(|value| value.to_str().ok());
    let meta = message.and_then(|message| {
        message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str()
    });
    header.is_some_and(|day| day >= MODERN) || meta.is_some()
}

/// What a client takes as an answer.
#[derive(Debug, PartialEq, Eq)]
struct Accepts {
    json: bool,
    streams: bool,
}

impl Accepts {
    fn of(headers: &HeaderMap) -> Self {
        let listed = headers.get_all(ACCEPT).iter();
        let listed = listed.filter_map(|value| value.to_str().ok());
        let mut accepts = Self {
            json: false,
            streams: false,
        };
        for kind in listed.flat_map(|value| value.split(',')) {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            accepts.json |= kind.eq_ignore_ascii_case("application/json");
            accepts.streams |= kind.eq_ignore_ascii_case("text/event-stream");
        }
        accepts
    }
}

fn content_is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The answer to what is no message.
fn unreadable(message: Option<&Value>) -> Response {
    let id = message.map_or(&Value::Null, |message| &message["id"]);
    let (code, why) = match message {
        None => (-32700, "the body is no JSON"),
        Some(Value::Array(_)) => (-32600, "batches are not served: send one message a request"),
        Some(_) => (-32600, "the body is no JSON-RPC 2.0 message"),
    };
    let id = if id.is_string() || id.is_number() {
        id
    } else {
        &Value::Null
    };
    let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": why}});
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_is_told_by_header_or_message() {
        let mut headers = HeaderMap::new();
        let modern =
            json!({"params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
        assert!(!is_modern(&headers, Some(&json!({"method": "ping"}))));
        assert!(is_modern(&headers, Some(&modern)));
        headers.insert(VERSION, HeaderValue::from_static("2025-06-18"));
        assert!(!is_modern(&headers, None));
        headers.insert(VERSION, HeaderValue::from_static("2026-07-28"));
        assert!(is_modern(&headers, None));
    }

    #[test]
    fn what_is_accepted_is_what_is_listed() {
        let mut headers = HeaderMap::new();
        let accepts = |headers: &HeaderMap| Accepts::of(headers);
        assert_eq!(
            accepts(&headers),
            Accepts {
                json: false,
                streams: false
            }
        );
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        assert_eq!(
            accepts(&headers),
            Accepts {
                json: false,
                streams: false
            }
        );
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json;q=0.9, Text/Event-Stream"),
        );
        assert_eq!(
            accepts(&headers),
            Accepts {
                json: true,
                streams: true
            }
        );
    }
}
