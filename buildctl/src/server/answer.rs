//! From requests to values and from errors to answers: every body that is an error is an [`ErrorAnswer`], and nothing that
//! went wrong inside is told to clients in more words than where to look.

use std::fmt::Display;

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use runyard_common::http::{problem::Problem, server::REQUEST_ID};
use serde::de::DeserializeOwned;

use crate::{api::ErrorAnswer, job::JobId, service::BuildError};

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) ErrorAnswer);

/// What a handler answers.
pub(super) type Answered<T> = Result<Json<T>, Refusal>;

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        details: impl Into<String>,
    ) -> Self {
        Self(ErrorAnswer::new(status.as_u16(), error, details))
    }

    pub(super) fn bad_request(why: impl Display) -> Self {
        Self::from(BuildError::BadRequest(why.to_string()))
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        let mut answer = ErrorAnswer::from(&error);
        if let BuildError::Internal(why) = &error {
            tracing::error!(why, "a request could not be answered");
            "the service's log says why, under this answer's x-request-id"
                .clone_into(&mut answer.details);
        }
        Self(answer)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// A JSON body, whatever media type it claims to have, as the original reads it.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| {
            Refusal::new(
                rejection.status(),
                "Invalid request body",
                rejection.body_text(),
            )
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Refusal(ErrorAnswer::unreadable(error.to_string())))
    }
}

/// The query of a URL.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|rejection| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "Invalid query",
                    rejection.body_text(),
                )
            })
    }
}

/// The job that a text names. A text that can name none is an unknown job, as for the original.
pub(super) fn job(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|error: crate::job::NoJobId| {
        Refusal::new(StatusCode::NOT_FOUND, "Job not found", error.to_string())
    })
}

/// The original's words for a wrong method.
pub(super) async fn wrong_method() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let status = StatusCode::METHOD_NOT_ALLOWED;
    (status, headers, "Method not allowed\n").into_response()
}

pub(super) async fn nothing_there(request: Request) -> Refusal {
    let path = request.uri().path();
    Refusal::new(
        StatusCode::NOT_FOUND,
        "Not found",
        format!("there is nothing at `{path}`"),
    )
}

/// What layers below say in RFC 9457's words, in ours.
pub(super) async fn in_our_words(response: Response) -> Response {
    let Some(problem) = response.extensions().get::<Problem>() else {
        return response;
    };
    let details = problem.detail.clone().unwrap_or_default();
    let mut answer = Refusal::new(response.status(), &problem.title, details).into_response();
    if let Some(id) = response.headers().get(REQUEST_ID) {
        answer.headers_mut().insert(REQUEST_ID, id.clone());
    }
    answer
}
