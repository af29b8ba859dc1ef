//! From an answer that says no back to the error that it was made of.

use runyard_common::http::client::Response;

use crate::{api::ErrorAnswer, job::JobId, service::BuildError};

/// The error that an answer tells of, about the job that was asked for.
pub(super) fn told(response: Response, id: Option<JobId>) -> BuildError {
    let status = response.status().as_u16();
    let request = response
        .header("x-request-id")
        .unwrap_or_default()
        .to_owned();
    let text = response.text().unwrap_or_default();
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| {
        let words: String = text.trim().chars().take(200).collect();
        ErrorAnswer::new(status, format!("the service answered {status}"), words)
    });
    error(answer, id, &request)
}

/// The same of an answer that was read.
pub(super) fn error(answer: ErrorAnswer, id: Option<JobId>, request: &str) -> BuildError {
    let ErrorAnswer {
        error,
        code,
        details,
    } = answer;
    let both = || match details.as_str() {
        "" => error.clone(),
        details => format!("{error}: {details}"),
    };
    match (code, error.as_str()) {
        (400, "Job configuration validation failed") => BuildError::Invalid(each(&details)),
        (400, "Invalid request body") if !details.is_empty() => BuildError::BadRequest(details),
        (400 | 413, _) => BuildError::BadRequest(both()),
        (401 | 403, _) => BuildError::Forbidden(both()),
        (404, "Job not found") => match id {
            Some(id) => BuildError::NotFound(id),
            None => BuildError::BadRequest(both()),
        },
        (404 | 405, _) => BuildError::Internal(format!("{} (is this a buildctl service?)", both())),
        (409, "Failed to create job") => match job_in(&details) {
            Some(holder) => BuildError::Conflict { holder },
            None => BuildError::WrongState(both()),
        },
        (409, text) => match job_in(text).filter(|_| text.contains("idempotency key")) {
            Some(other) => BuildError::KeyReused(other),
            None => BuildError::WrongState(both()),
        },
        (502..=504, "Service unavailable") => BuildError::Unreachable(details),
        (502..=504, _) => BuildError::Unreachable(both()),
        _ if request.is_empty() => BuildError::Internal(both()),
        _ => BuildError::Internal(format!("{} (request {request})", both())),
    }
}

/// What is wrong, one by one: `field: why; field is required`. A why may have a semicolon of its own.
fn each(details: &str) -> Vec<String> {
    let mut each: Vec<String> = Vec::new();
    for part in details.split("; ") {
        let begins = part
            .split_once(' ')
            .is_some_and(|(word, rest)| word.ends_with(':') || rest.starts_with("is required"));
        match each.last_mut() {
            Some(before) if !begins => {
                before.push_str("; ");
                before.push_str(part);
            }
            _ => each.push(part.to_owned()),
        }
    }
    each
}

/// The job that a text names as `(job ID…`.
fn job_in(text: &str) -> Option<JobId> {
    let (_, rest) = text.split_once("(job ")?;
    rest.get(..36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let id = JobId::random();
        let errors = [
            BuildError::Invalid(vec![
                "owner is required".into(),
                "repo_url is required".into(),
                "git_ref: `main; touch x` is no ref: spaces".into(),
                "repo_url: no; write them as %XX".into(),
            ]),
            BuildError::BadRequest("`x` is no log cursor".into()),
            BuildError::NotFound(id),
            BuildError::Conflict { holder: id },
            BuildError::WrongState("job is BUILDING: kill it".into()),
            BuildError::KeyReused(id),
            BuildError::Forbidden("no".into()),
            BuildError::Unreachable("http://127.0.0.1:4646 cannot be reached: refused".into()),
        ];
        for before in errors {
            let after = error(ErrorAnswer::from(&before), Some(id), "");
            assert_eq!(format!("{after:?}"), format!("{before:?}"));
        }
    }

    #[test]
    fn an_internal_error_names_the_request() {
        let answer = ErrorAnswer::new(500, "Internal error", "the log says why");
        let text = error(answer, None, "abc").to_string();
        assert_eq!(text, "Internal error: the log says why (request abc)");
    }
}
