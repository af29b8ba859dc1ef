//! The Model Context Protocol: what agents see of [`Builds`]. Tools and resources are here, and how they travel; what a job is
//! and how it goes is the service's matter, and who may call is decided by whatever stands before [`service`].
//!
//! ```text
//!  POST /mcp ─▶ door ─▶ rmcp: Streamable HTTP ─┐              ┌─▶ tools      one file a tool
//!                                              ├─▶ Desk ──────┤
//!  stdin/stdout ──────▶ rmcp: stdio ───────────┘              └─▶ resources  jobs and logs as documents
//! ```
//!
//! Two eras of the protocol are spoken: the handshake of 2025-11-25 and before, and the one without any of 2026-07-28, in which
//! each request says who asks. Over HTTP both are answered without a session, so that it does not matter which replica of a
//! service gets which request: nothing of a client is kept between two of its requests.
//!
//! Waiting is bounded (`waitJob` answers within 50 s), and so is every answer: models read them. Whoever stops to listen
//! ends a wait and never a build.

mod desk;
mod door;
mod resources;
mod schema;
mod tools;

use std::{io, sync::Arc};

use rmcp::{
    ServiceExt,
    service::ServerInitializeError,
    transport::{
        stdio_pipes,
        streamable_http_server::{
            StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
        },
    },
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::service::Builds;
use desk::{Desk, Line};

/// The endpoint over HTTP, for the path `/` of whatever it is nested in. Under which names it answers, and to whom, is decided
/// before it (see [`crate::server::guard`]): nothing here looks at `Host`, `Origin` or a token.
///
/// It answers `POST` and `OPTIONS`; there are no streams to open by `GET` and no sessions to `DELETE`.
pub fn service(builds: Arc<dyn Builds>) -> axum::Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(door::LARGEST)
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let desk = Desk::new(builds, Line::Http);
    let service = StreamableHttpService::new(
        move || Ok(desk.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    door::before(axum::Router::new().route_service("/", service))
}

/// Talks with the client at standard input and output until it has gone.
///
/// # Errors
///
/// When the first thing that the client says is not of this protocol.
pub async fn stdio(builds: Arc<dyn Builds>) -> io::Result<()> {
    let (read, write) = stdio_pipes();
    converse(builds, read, write).await
}

/// Talks with one client, a message a line, until it has gone.
///
/// # Errors
///
/// As [`stdio`].
pub async fn converse(
    builds: Arc<dyn Builds>,
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
) -> io::Result<()> {
    match Desk::new(builds, Line::Pipe).serve((read, write)).await {
        Ok(running) => running.waiting().await.map(drop).map_err(io::Error::other),
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}
