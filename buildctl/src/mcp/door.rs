//! What stands before the protocol over HTTP: which hosts are answered, headers that older clients leave out, errors that are
//! JSON-RPC where the protocol asks for it, and what browsers ask first. Nothing here knows a tool.
//!
//! | a client | gets |
//! |---|---|
//! | that asks for an unknown host | 403, and what to do about it |
//! | with an unknown `Origin` | 403 |
//! | of the older era without `Accept`, or with one that leaves something out | its answer as JSON |
//! | that sends no JSON, or JSON that is no message | 400 and a JSON-RPC error |
//! | in a page, with `OPTIONS` | what the page may do |

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_TYPE, HOST, ORIGIN,
            VARY,
        },
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use url::Url;

use super::Options;

/// The most bytes of one message.
pub(super) const LARGEST: usize = 4 << 20;

/// The first day of the era in which every request says who asks.
const MODERN: &str = "2026-07-28";

/// The header that says which day's protocol is spoken.
const VERSION: &str = "mcp-protocol-version";

/// Names of this machine for itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Marks a request whose client takes nothing but one JSON answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnlyJson;

/// Who is let in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// None for all.
    hosts: Option<Vec<Authority>>,
    /// None for all.
    origins: Option<Vec<String>>,
}

impl Door {
    pub(super) fn of(options: &Options) -> Self {
        let any = |list: &[String]| list.iter().any(|entry| entry.trim() == "*");
        let hosts = options.allowed_hosts.iter();
        let hosts: Vec<Authority> = hosts.filter_map(|host| host.trim().parse().ok()).collect();
        let own = hosts.iter().map(Authority::host);
        let own = LOOPBACK.into_iter().chain(own);
        let pages = own.flat_map(|host| [format!("http://{host}:*"), format!("https://{host}:*")]);
        let named = options.allowed_origins.iter();
        let named = named.filter_map(|origin| with_port(origin.trim()));
        Self {
            origins: (!any(&options.allowed_origins)).then(|| pages.chain(named).collect()),
            hosts: (!any(&options.allowed_hosts)).then_some(hosts),
        }
    }

    /// Origins of pages that may call, each with its port or `*`; none for all.
    pub(super) fn origins(&self) -> Option<Vec<String>> {
        self.origins.clone()
    }

    /// Sets the door before routes.
    pub(super) fn before(self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(self, pass))
    }

    /// Whether a request for this host is for this service. A page whose name was made to point here by its own name server asks
    /// for that name; so no address is refused.
    fn knows(&self, host: &Authority) -> bool {
        let name = host.host();
        let is_address = name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok();
        let same = |known: &Authority| {
            known.host().eq_ignore_ascii_case(name)
                && known
                    .port_u16()
                    .is_none_or(|port| Some(port) == host.port_u16())
        };
        let named = self
            .hosts
            .as_ref()
            .is_none_or(|hosts| hosts.iter().any(same));
        is_address || name.eq_ignore_ascii_case("localhost") || named
    }
}

/// An origin with the port that its scheme implies; a text that is none is none.
fn with_port(origin: &str) -> Option<String> {
    if origin.ends_with(":*") || origin == "null" {
        return Some(origin.to_owned());
    }
    let url = Url::parse(origin).ok()?;
    let port = url.port_or_known_default()?;
    Some(format!("{}://{}:{port}", url.scheme(), url.host_str()?))
}

/// What every request passes.
async fn pass(State(door): State<Door>, request: Request, next: Next) -> Response {
    if let Some(refusal) = refusal(&door, request.headers(), request.uri().authority()) {
        return refusal;
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let method = request.method().clone();
    let mut response = match method {
        Method::POST => post(request, next).await,
        _ => next.run(request).await,
    };
    if method == Method::OPTIONS && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = preflight();
    }
    // An origin that is not known has its 403 by now.
    if let Some(origin) = origin.filter(|_| response.status() != StatusCode::FORBIDDEN) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// The answer to a request for a host that is not this one.
fn refusal(door: &Door, headers: &HeaderMap, line: Option<&Authority>) -> Option<Response> {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = header.and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host.as_ref().or(line) else {
        let why = "the request has no Host header, or one that names no host\n";
        return Some((StatusCode::BAD_REQUEST, why).into_response());
    };
    if door.knows(host) {
        return None;
    }
    let why = format!(
        "`{host}` is no name of this service; if it should be, add it to allowed_hosts in the service's configuration\n"
    );
    Some((StatusCode::FORBIDDEN, why).into_response())
}

/// What a page may do.
fn preflight() -> Response {
    let headers = [
        (ALLOW, "POST, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, accept, mcp-protocol-version, mcp-method, mcp-name, mcp-session-id",
        ),
        (ACCESS_CONTROL_MAX_AGE, "3600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
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

    fn door(hosts: &[&str], origins: &[&str]) -> Door {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Door::of(&Options {
            allowed_hosts: owned(hosts),
            allowed_origins: owned(origins),
        })
    }

    #[test]
    fn a_name_that_was_not_listed_is_no_name_of_the_service() {
        let known = |door: &Door, host: &str| door.knows(&host.parse().unwrap());
        let any = door(&["*"], &[]);
        let door = door(&["Builds.example", "ci.example:8443"], &[]);
        for host in [
            "localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.1.2.3",
            "builds.example:80",
            "ci.example:8443",
        ] {
            assert!(known(&door, host), "{host}");
        }
        for host in [
            "evil.example",
            "ci.example:80",
            "builds.example.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!known(&door, host), "{host}");
        }
        assert!(known(&any, "evil.example"));
    }

    #[test]
    fn origins_always_have_a_port() {
        let origins = door(
            &["builds.example:8080"],
            &[
                "https://a.example",
                "http://b.example:81",
                "no origin",
                "http://c.example:*",
            ],
        );
        let origins = origins.origins().unwrap();
        assert!(
            origins
                .iter()
                .all(|origin| origin.matches(':').count() >= 2),
            "{origins:?}"
        );
        for origin in [
            "https://a.example:443",
            "http://b.example:81",
            "http://c.example:*",
            "https://builds.example:*",
            "http://[::1]:*",
        ] {
            assert!(
                origins.iter().any(|known| known == origin),
                "{origin}: {origins:?}"
            );
        }
        assert_eq!(door(&[], &["*"]).origins(), None);
    }

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
