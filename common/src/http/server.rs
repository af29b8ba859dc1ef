//! What a daemon needs around axum: sockets, TLS, the life of connections, and what every request
//! passes through. Routes and what they do are the tool's.
//!
//! ```no_run
//! use runyard_common::http::server::{self, LayerOptions, ServeOptions};
//! use runyard_common::shutdown::{Readiness, Shutdown};
//!
//! # async fn life() -> anyhow::Result<()> {
//! let bound = server::bind(&"127.0.0.1:0".parse()?).await?;
//! tracing::info!(address = %bound.address(), "listening");
//! let (readiness, latch) = Readiness::new();
//! let shutdown = Shutdown::on_signals()?;
//! let routes = axum::Router::new().merge(server::health_routes(readiness, String::new));
//! let routes = server::standard_layers(routes, &LayerOptions::default());
//! latch.release();
//! server::serve(bound, None, routes, ServeOptions::default(), shutdown.drain()).await?;
//! # Ok(())
//! # }
//! ```

mod accept;
mod bind;
mod health;
mod layers;
mod listen;
mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt;

pub use accept::{Acceptor, Connecting, Io, Peer, Stream};
pub use bind::{Address, BindOptions, Bound, bind, bind_with};
pub use health::health_routes;
pub use layers::{LayerOptions, REQUEST_ID, RequestId, problem_fallbacks, standard_layers};
pub use listen::{Listen, ListenError};
pub use tls::{Tls, TlsConfig};

/// How connections are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// How long the head of a request may take, and how long a connection may wait for its next
    /// request.
    pub header_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How many connections are served at once; more wait in the socket's backlog.
    pub max_connections: usize,
    /// How long requests under way may take once the daemon drains.
    pub drain_deadline: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            max_connections: 4096,
            drain_deadline: Duration::from_secs(15),
        }
    }
}

/// Serves HTTP/1.1 until `shutdown` resolves, then drains: closes the socket, lets requests under
/// way finish, and cuts off what is left at the deadline.
///
/// Every request carries its [`Peer`] as an extension. A connection that was upgraded (to
/// WebSocket) is no longer this function's: it neither counts as a connection nor is it drained.
///
/// An error means that the socket broke; dropping the future ends everything at once.
pub async fn serve(
    bound: Bound,
    tls: Option<Tls>,
    router: Router,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let acceptor = Acceptor::new(bound, tls).handshake_timeout(options.handshake_timeout);
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        biased;
        () = shutdown => {}
        broken = accept_all(&acceptor, &router, &options, &draining, &mut connections) => {
            return broken.map(|never| match never {});
        }
    }
    drop(acceptor);
    // Nobody listens any more when no connection is left.
    let _ = drain.send(true);
    finish(connections, options.drain_deadline).await;
    Ok(())
}

/// Accepts for ever, one task a connection.
async fn accept_all(
    acceptor: &Acceptor,
    router: &Router,
    options: &ServeOptions,
    draining: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) -> io::Result<Infallible> {
    let places = Arc::new(Semaphore::new(options.max_connections));
    loop {
        // The semaphore is never closed.
        let place = places
            .clone()
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let connecting = loop {
            tokio::select! {
                connecting = acceptor.accept() => break connecting?,
                Some(ended) = connections.join_next() => note_end(ended),
            }
        };
        let serving = serve_connection(
            connecting,
            router.clone(),
            options.header_timeout,
            draining.clone(),
        );
        connections.spawn(async move {
            serving.await;
            drop(place);
        });
    }
}

async fn serve_connection(
    connecting: Connecting,
    router: Router,
    header_timeout: Duration,
    mut draining: watch::Receiver<bool>,
) {
    let peer = connecting.peer();
    let io = match connecting.establish().await {
        Ok(io) => io,
        Err(error) => return tracing::debug!(%peer, %error, "connection not established"),
    };
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = begun(&mut draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended with an error");
    }
}

/// Waits until draining begins.
async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that `serve` is gone, and this task with it.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Waits for the connections, at most until the deadline.
async fn finish(mut connections: JoinSet<()>, deadline: Duration) {
    let drained = tokio::time::timeout(deadline, async {
        while let Some(ended) = connections.join_next().await {
            note_end(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            ?deadline,
            "requests did not finish in time, cutting them off"
        );
        connections.shutdown().await;
    }
}

/// A handler that panicked took its connection down with it; the others go on.
fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

#[cfg(test)]
mod tests;
