//! `/v1`: jobs as resources, for the command line and the page. A job is answered as it is recorded, without its secrets.

use std::{num::NonZeroUsize, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use runyard_common::duration;
use serde::Deserialize;

use super::{
    Context,
    answer::{Answered, Asked, Body, Refusal, job},
    sse,
};
use crate::{
    api::{
        CleanupAnswer, CleanupRequest, JobsAnswer, KillAnswer, KillRequest, LinesAnswer,
        Nanoseconds, SubmitRequest,
    },
    job::State as JobState,
    logs::Cursor,
    phase::Phase,
    service::{Cleanup, JobFilter, JobView, LogQuery},
};

/// The header that names a submission, as `draft-ietf-httpapi-idempotency-key-header` has it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The longest that a request waits for a job's end.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Jobs on a page, if nothing is said, and at most.
const PAGE: usize = 50;
const LONGEST_PAGE: usize = 1000;

pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/jobs", get(list).post(submit))
        .route("/v1/jobs/{id}", get(show).delete(purge))
        .route("/v1/jobs/{id}/logs", get(logs))
        .route("/v1/jobs/{id}/kill", post(kill))
        .route("/v1/jobs/{id}/cleanup", post(clean_up))
        .route("/v1/cleanup", post(clean_up_all))
}

/// The key in the header, if there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .map_err(|_| Refusal::bad_request("the idempotency key is not printable ASCII"))?;
    Ok(Some(key.to_owned()))
}

async fn submit(
    State(context): State<Context>,
    headers: HeaderMap,
    Body(request): Body<SubmitRequest>,
) -> Result<Response, Refusal> {
    let key = request.idempotency_key.or(idempotency_key(&headers)?);
    let submitted = context.builds.submit(request.job_config, key).await?;
    let status = if submitted.existing {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = [(header::LOCATION, format!("/v1/jobs/{}", submitted.job_id))];
    Ok((status, location, Json(submitted)).into_response())
}

/// What `GET /v1/jobs` can be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Filter {
    owner: Option<String>,
    status: Option<String>,
    ended: Option<bool>,
    limit: Option<usize>,
    offset: usize,
}

async fn list(State(context): State<Context>, Asked(asked): Asked<Filter>) -> Answered<JobsAnswer> {
    let filter = JobFilter {
        owner: asked.owner,
        state: asked.status.as_deref().map(state).transpose()?,
        ended: asked.ended,
        limit: Some(asked.limit.unwrap_or(PAGE).min(LONGEST_PAGE)),
        offset: asked.offset,
    };
    let list = context.builds.list(filter).await?;
    Ok(Json(JobsAnswer {
        jobs: list.jobs,
        total: list.total,
    }))
}

fn state(name: &str) -> Result<JobState, Refusal> {
    let name = serde_json::Value::String(name.to_ascii_uppercase());
    serde_json::from_value(name).map_err(Refusal::bad_request)
}

/// What `GET /v1/jobs/ID` can be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wait {
    /// How long to wait for the job's end, as in `30s`; a minute at most.
    wait: Option<String>,
}

async fn show(
    State(context): State<Context>,
    Path(id): Path<String>,
    Asked(asked): Asked<Wait>,
) -> Answered<JobView> {
    let id = job(&id)?;
    let Some(wait) = asked.wait else {
        return Ok(Json(context.builds.status(id).await?));
    };
    let limit = duration::parse(&wait).map_err(Refusal::bad_request)?;
    let limit = limit.min(LONGEST_WAIT);
    tokio::select! {
        view = context.builds.wait(id, limit) => Ok(Json(view?)),
        // Whoever waits asks again, of somebody else.
        () = context.shutdown.drain() => Ok(Json(context.builds.status(id).await?)),
    }
}

async fn purge(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    context.builds.purge(job(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(
    State(context): State<Context>,
    Path(id): Path<String>,
    Body(request): Body<KillRequest>,
) -> Answered<KillAnswer> {
    let id = job(&id)?;
    let killed = context.builds.kill(id, request.reason).await?;
    Ok(Json(KillAnswer::of(id, killed)))
}

async fn clean_up(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Answered<CleanupAnswer> {
    let cleaned = context.builds.cleanup(Cleanup::Job(job(&id)?)).await?;
    Ok(Json(cleaned.into()))
}

async fn clean_up_all(
    State(context): State<Context>,
    Body(request): Body<CleanupRequest>,
) -> Answered<CleanupAnswer> {
    let age = request.older_than.and_then(Nanoseconds::positive);
    let what = Cleanup::Ended {
        older_than: age.unwrap_or_default(),
    };
    Ok(Json(context.builds.cleanup(what).await?.into()))
}

/// What of a log can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogFilter {
    phase: Option<Phase>,
    cursor: Option<String>,
    tail: Option<usize>,
    max_bytes: Option<usize>,
    grep: Option<String>,
    errors_only: Option<String>,
    follow: Option<String>,
}

impl LogFilter {
    fn query(self) -> Result<LogQuery, Refusal> {
        let cursor = self.cursor.filter(|cursor| !cursor.is_empty());
        let cursor = cursor.as_deref().map(str::parse::<Cursor>).transpose();
        Ok(LogQuery {
            phase: self.phase,
            cursor: cursor.map_err(Refusal::bad_request)?,
            tail: self.tail.and_then(NonZeroUsize::new),
            max_bytes: self.max_bytes,
            grep: self.grep,
            errors_only: is_yes(self.errors_only.as_deref()),
        })
    }
}

/// A flag in a query: `follow`, `follow=1`, `follow=true`.
fn is_yes(flag: Option<&str>) -> bool {
    flag.is_some_and(|flag| matches!(flag, "" | "1" | "true" | "yes"))
}

/// A page of the log; or the log as it grows, if that is asked for by the query or by the media type.
async fn logs(
    State(context): State<Context>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Asked(mut asked): Asked<LogFilter>,
) -> Result<Response, Refusal> {
    let id = job(&id)?;
    let follows = is_yes(asked.follow.as_deref()) || sse::is_wanted(&headers);
    if follows {
        asked.cursor = sse::last_event(&headers).or(asked.cursor);
    }
    let query = asked.query()?;
    if follows {
        let events = context.builds.follow(id, query).await?;
        return Ok(sse::answer(id, events, context.shutdown.clone()));
    }
    let page = context.builds.logs(id, query).await?;
    Ok(Json(LinesAnswer::from(page)).into_response())
}
