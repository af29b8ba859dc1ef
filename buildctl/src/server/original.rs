//! The original's routes, each below `/json` and below `/mcp`: its requests, its answers, its words. What differs is that an
//! unknown job is 404 also for `GET …/job/ID/status` (the original says 500), and that `/mcp/job/…` works (there it is always
//! 400).

use std::num::NonZeroUsize;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{
    Context,
    answer::{Answered, Body, Refusal, job},
    jobs::idempotency_key,
    socket,
};
use crate::{
    api::{
        CleanupAnswer, CleanupRequest, HistoryAnswer, HistoryRequest, KillAnswer, KillRequest,
        LogsAnswer, LogsRequest, Nanoseconds, PurgeRequest, StatusAnswer, StatusRequest,
        SubmitAnswer, SubmitRequest,
    },
    service::{BuildError, Cleaned, Cleanup, JobFilter, LogQuery},
};

/// The original's words for a path that names no resource of a job.
const NO_RESOURCE: &str = "Invalid resource. Expected: status or logs";
const NO_PATH: &str = "Invalid path format. Expected: /json/job/{jobID}/{status|logs}";

pub(super) fn routes() -> Router<Context> {
    ["/json", "/mcp"].into_iter().fold(Router::new(), below)
}

fn below(router: Router<Context>, prefix: &str) -> Router<Context> {
    let at = |name: &str| format!("{prefix}/{name}");
    router
        .route(&at("submitJob"), post(submit))
        .route(&at("getStatus"), post(status))
        .route(&at("getLogs"), post(logs))
        .route(&at("killJob"), post(kill))
        .route(&at("cleanup"), post(cleanup))
        .route(&at("getHistory"), post(history))
        .route(&at("purgeJob"), post(purge))
        .route(&at("job/{*path}"), get(resource))
        .route(&at("streamLogs"), get(socket::stream))
}

async fn submit(
    State(context): State<Context>,
    headers: HeaderMap,
    Body(request): Body<SubmitRequest>,
) -> Answered<SubmitAnswer> {
    let key = request.idempotency_key.or(idempotency_key(&headers)?);
    let submitted = context.builds.submit(request.job_config, key).await?;
    Ok(Json(submitted))
}

async fn status(
    State(context): State<Context>,
    Body(request): Body<StatusRequest>,
) -> Answered<StatusAnswer> {
    status_of(&context, &request.job_id).await
}

async fn status_of(context: &Context, id: &str) -> Answered<StatusAnswer> {
    let view = context.builds.status(job(id)?).await?;
    Ok(Json((&view).into()))
}

async fn logs(
    State(context): State<Context>,
    Body(request): Body<LogsRequest>,
) -> Answered<LogsAnswer> {
    logs_of(&context, &request).await
}

async fn logs_of(context: &Context, request: &LogsRequest) -> Answered<LogsAnswer> {
    let id = job(&request.job_id)?;
    let cursor = request.cursor.as_deref().map(str::parse).transpose();
    let query = LogQuery {
        phase: request.phase(),
        cursor: cursor.map_err(Refusal::bad_request)?,
        tail: request.tail.and_then(NonZeroUsize::new),
        max_bytes: request.max_bytes,
        grep: request.grep.clone(),
        errors_only: request.errors_only,
    };
    let page = context.builds.logs(id, query).await?;
    Ok(Json(LogsAnswer::of(id, &page, request.phase())))
}

async fn kill(
    State(context): State<Context>,
    Body(request): Body<KillRequest>,
) -> Answered<KillAnswer> {
    let id = job(&request.job_id)?;
    let killed = context.builds.kill(id, request.reason).await?;
    Ok(Json(KillAnswer::of(id, killed)))
}

/// What cannot be cleaned up is no error, as in the original: the answer says so.
async fn cleanup(
    State(context): State<Context>,
    Body(request): Body<CleanupRequest>,
) -> Answered<CleanupAnswer> {
    let older_than = request.older_than.and_then(Nanoseconds::positive);
    let what = if request.all {
        Cleanup::Ended {
            older_than: older_than.unwrap_or_default(),
        }
    } else if request.job_id.is_empty() {
        return Ok(Json(Cleaned::default().into()));
    } else {
        match job(&request.job_id) {
            Ok(id) => Cleanup::Job(id),
            Err(Refusal(answer)) => return Ok(Json(not_cleaned(&answer.error))),
        }
    };
    match context.builds.cleanup(what).await {
        Ok(cleaned) => Ok(Json(cleaned.into())),
        Err(error @ (BuildError::NotFound(_) | BuildError::WrongState(_))) => {
            Ok(Json(not_cleaned(&error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

fn not_cleaned(why: &str) -> CleanupAnswer {
    CleanupAnswer {
        success: false,
        cleaned_jobs: Vec::new(),
        message: format!("Cleanup failed: {why}"),
    }
}

/// What has ended, unless another state is asked for.
async fn history(
    State(context): State<Context>,
    Body(request): Body<HistoryRequest>,
) -> Answered<HistoryAnswer> {
    let filter = JobFilter {
        owner: request.owner.clone(),
        state: request.status,
        ended: request.status.is_none().then_some(true),
        limit: Some(request.limit()),
        offset: request.offset(),
    };
    let list = context.builds.list(filter).await?;
    Ok(Json((&list).into()))
}

async fn purge(
    State(context): State<Context>,
    Body(request): Body<PurgeRequest>,
) -> Result<StatusCode, Refusal> {
    context.builds.purge(job(&request.job_id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET …/job/ID/status` and `GET …/job/ID/logs`.
async fn resource(State(context): State<Context>, Path(path): Path<String>) -> Response {
    let Some((id, resource)) = path.split_once('/') else {
        return Refusal::new(StatusCode::BAD_REQUEST, NO_PATH, "").into_response();
    };
    match resource {
        "status" => status_of(&context, id).await.into_response(),
        "logs" => {
            let request = LogsRequest {
                job_id: id.to_owned(),
                ..LogsRequest::default()
            };
            logs_of(&context, &request).await.into_response()
        }
        other if other.contains('/') => {
            Refusal::new(StatusCode::BAD_REQUEST, NO_PATH, "").into_response()
        }
        _ => Refusal::new(StatusCode::BAD_REQUEST, NO_RESOURCE, "").into_response(),
    }
}
