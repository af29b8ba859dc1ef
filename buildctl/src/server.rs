//! The HTTP side: functions here verify, convert and forward; what happens to builds is decided behind [`Builds`].
//!
//! | route | what |
//! |---|---|
//! | `POST /json/…`, `POST /mcp/…`, `GET …/job/ID/…` | the original's requests (see `original`) |
//! | `GET /json/streamLogs` | a log as it grows, over a WebSocket (see `socket`) |
//! | `/mcp` | the Model Context Protocol (see [`crate::mcp`]) |
//! | `/v1/jobs…`, `/v1/cleanup` | jobs as resources, logs as pages and as events (see `jobs`, `sse`) |
//! | `GET /v1/openapi.json` | all of this, for programs |
//! | `GET /metrics` | Prometheus text |
//! | `GET /health`, `/ready`, `/live` | for anybody: whether it is well |
//! | `GET /v1/runner`, `/runner/buildctl` | for anybody: this program (see `program`) |
//! | `GET /` | for anybody: the built-in page |
//!
//! Every request passes the [`guard`]: it decides under which names the service answers, to which web pages, and who has to
//! present a token (all that is not said to be for anybody). Errors are [`ErrorAnswer`](crate::api::ErrorAnswer)s, except that
//! a wrong method gets the original's text.

mod answer;
mod crowd;
mod door;
pub mod guard;
mod health;
mod jobs;
pub mod openapi;
mod original;
mod page;
mod program;
mod socket;
mod sse;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use runyard_common::{
    http::server::{LayerOptions, standard_layers},
    shutdown::{Readiness, Shutdown},
};

pub use crowd::Crowd;
pub use guard::Guard;
pub use health::Pulse;
pub(crate) use jobs::LONGEST_WAIT;
pub use program::Program;

use crate::{
    metrics::Metrics,
    service::Builds,
    trace::{self, TraceParent},
};

/// What the routes need. Clones share all of it.
#[derive(Clone)]
pub struct Context {
    /// The builds.
    pub builds: Arc<dyn Builds>,
    /// Who may.
    pub guard: Guard,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// What is known of the health of what is needed.
    pub pulse: Pulse,
    /// Whether the daemon takes work.
    pub readiness: Readiness,
    /// When streams have to end.
    pub shutdown: Shutdown,
    /// Connections that outlive their requests.
    pub crowd: Crowd,
    /// This program.
    pub program: Program,
}

impl Context {
    /// A context for these builds.
    pub fn new(
        builds: Arc<dyn Builds>,
        guard: Guard,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> std::io::Result<Self> {
        Ok(Self {
            pulse: Pulse::of(Arc::clone(&builds), Arc::clone(&metrics)),
            builds,
            guard,
            metrics,
            readiness,
            shutdown,
            crowd: Crowd::default(),
            program: Program::open()?,
        })
    }
}

/// All routes of the service. `mcp` answers at `/mcp`, beside the original's routes there.
pub fn router(context: Context, mcp: Option<Router>) -> Router {
    let guard = context.guard.clone();
    let closed = original::routes()
        .merge(jobs::routes())
        .route("/v1/openapi.json", get(openapi::document))
        .route("/metrics", get(health::metrics));
    let closed = match mcp {
        Some(mcp) => closed.nest_service("/mcp", mcp),
        None => closed,
    };
    let closed = closed.route_layer(middleware::from_fn_with_state(
        guard.clone(),
        door::authenticate,
    ));
    let open = health::routes()
        .route("/v1/runner", get(program::download))
        .route("/runner/buildctl", get(program::download))
        .route("/", get(page::show));
    let router = closed.merge(open).with_state(context);
    let door = middleware::from_fn_with_state(guard, door::check);
    around(with_fallbacks(router).layer(door))
}

/// The routes of a listener for metrics: whoever reaches it may read them.
pub fn metrics_router(context: Context) -> Router {
    let router = Router::new()
        .route("/metrics", get(health::metrics))
        .with_state(context);
    around(with_fallbacks(router))
}

fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(answer::nothing_there)
        .method_not_allowed_fallback(answer::wrong_method)
}

/// What is around all routes.
fn around(router: Router) -> Router {
    standard_layers(router, &LayerOptions::default())
        .layer(middleware::map_response(answer::in_our_words))
        .layer(middleware::from_fn(traced))
}

/// Does what a request asks for in the trace that it names.
async fn traced(request: Request, next: Next) -> Response {
    let trace = TraceParent::of(request.headers());
    trace::within(trace, next.run(request)).await
}
