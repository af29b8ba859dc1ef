//! From what went wrong in a call to what the user reads.

use reqwest::StatusCode;

use super::Response;
use crate::exit::Exit;
use crate::http::problem::{self, Problem};
use crate::report::Failure;

/// How much of a body that is no problem is quoted, in characters.
const QUOTED: usize = 200;

/// A call that got no answer.
pub(super) fn unreachable(base: &str, place: &str, error: reqwest::Error) -> Failure {
    let message = if error.is_connect() {
        format!("cannot reach {base}")
    } else if error.is_timeout() {
        format!("no answer in time to {place}")
    } else {
        format!("{place} got no answer")
    };
    // The library's own words only say that a request failed; its source says why.
    let error = error.without_url();
    let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
    Failure::new(Exit::Unreachable, message).caused_by(cause)
}

/// The innermost words of a chain, which are the ones of the system or of TLS.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .unwrap_or(error)
        .to_string()
}

/// A call whose answer says no.
pub(super) fn refused(place: &str, answer: Response) -> Failure {
    let status = answer.status();
    let is_problem = answer
        .header("content-type")
        .is_some_and(|media| media.starts_with(problem::MEDIA_TYPE));
    let body = answer.text().unwrap_or_default();
    let problem = is_problem
        .then(|| serde_json::from_str::<Problem>(&body).ok())
        .flatten();
    match problem {
        Some(problem) => told(status, place, problem),
        None => quoted(status, place, &body),
    }
}

fn exit(status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Exit::Unreachable
        }
        _ => Exit::Failed,
    }
}

fn told(status: StatusCode, place: &str, problem: Problem) -> Failure {
    let words = problem
        .detail
        .filter(|detail| !detail.is_empty())
        .unwrap_or(problem.title);
    let message = if words.is_empty() {
        answered(status, place)
    } else {
        words
    };
    let mut failure = Failure::new(exit(status), message);
    if let Some(hint) = problem.hint {
        failure = failure.hint(hint);
    }
    match problem.request_id {
        Some(id) if status.is_server_error() => {
            failure.hint(format!("the server's log knows more: request {id}"))
        }
        _ => login(status, failure),
    }
}

fn quoted(status: StatusCode, place: &str, body: &str) -> Failure {
    let failure = login(status, Failure::new(exit(status), answered(status, place)));
    let words: String = body.trim().chars().take(QUOTED).collect();
    if words.is_empty() {
        failure
    } else {
        failure.caused_by(words)
    }
}

fn answered(status: StatusCode, place: &str) -> String {
    format!("{place} was answered with {status}")
}

fn login(status: StatusCode, failure: Failure) -> Failure {
    match status {
        StatusCode::UNAUTHORIZED => failure.hint("the server wants a token, or another one"),
        StatusCode::FORBIDDEN => failure.hint("the server knows you, and does not allow this"),
        _ => failure,
    }
}
