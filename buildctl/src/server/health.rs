//! How others watch the service: `/health` and `/ready` say whether what it needs answers, `/live` that the process does,
//! `/metrics` has its numbers. Anybody may ask, so what is asked of the engine is remembered for a moment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use runyard_common::metrics::{Exposition, MEDIA_TYPE};
use tokio::{sync::Mutex, time::timeout};

use super::{Context, door};
use crate::{
    api::{HealthAnswer, ReadyAnswer},
    metrics::Metrics,
    service::{Builds, Health},
};

/// How old an answer about the engine may be for those who ask how it is.
const FRESH: Duration = Duration::from_secs(1);

/// How old it may be for those who ask often.
const STALE: Duration = Duration::from_secs(5);

/// How long a scrape waits for the engine.
const SCRAPE: Duration = Duration::from_secs(1);

/// What is known of the health of what the service needs. Clones know the same.
#[derive(Clone)]
pub struct Pulse(Arc<Inner>);

struct Inner {
    builds: Arc<dyn Builds>,
    metrics: Arc<Metrics>,
    last: Mutex<Option<(Instant, Health)>>,
}

impl Pulse {
    /// Nothing yet.
    pub fn of(builds: Arc<dyn Builds>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            builds,
            metrics,
            last: Mutex::new(None),
        }))
    }

    /// How it is, or was at most `age` ago. Of many who ask at once, one looks.
    async fn take(&self, age: Duration) -> Health {
        let mut last = self.0.last.lock().await;
        if let Some((when, health)) = &*last
            && when.elapsed() < age
        {
            return health.clone();
        }
        let health = self.0.builds.health().await.unwrap_or_else(|error| Health {
            services: vec![("service".to_owned(), Err(error.to_string()))],
        });
        self.0.metrics.health(&health);
        *last = Some((Instant::now(), health.clone()));
        health
    }
}

/// What is open to everybody.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/live", get(live))
}

/// Problems may name addresses, and are for those who may use the service.
async fn health(State(context): State<Context>, headers: HeaderMap) -> Response {
    let health = context.pulse.take(FRESH).await;
    let (mut answer, healthy) = HealthAnswer::of(&health, Timestamp::now());
    if !door::is_known(&context.guard, &headers) {
        answer.problems.clear();
    }
    (status(healthy), Json(answer)).into_response()
}

async fn ready(State(context): State<Context>) -> Response {
    let word = if context.readiness.is_draining() {
        "draining"
    } else if !context.readiness.is_ready() {
        "starting"
    } else {
        let health = context.pulse.take(STALE).await;
        let waits = health.services.iter().any(|(_, state)| state.is_err());
        if waits { "unhealthy" } else { "ready" }
    };
    (status(word == "ready"), Json(said(word))).into_response()
}

async fn live() -> Json<ReadyAnswer> {
    Json(said("alive"))
}

fn said(word: &str) -> ReadyAnswer {
    ReadyAnswer {
        status: word.to_owned(),
        timestamp: Timestamp::now().to_string(),
    }
}

fn status(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// The numbers.
pub(super) async fn metrics(State(context): State<Context>) -> Response {
    // Noted by whoever takes the pulse; one that takes too long is in the next scrape.
    let _ = timeout(SCRAPE, context.pulse.take(STALE)).await;
    let mut text = context.metrics.exposition(Timestamp::now());
    let mut own = Exposition::new();
    own.gauge("buildctl_open_sockets", "WebSockets that are open.")
        .sample(&[], context.crowd.size());
    text.push_str(&own.finish());
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response()
}
