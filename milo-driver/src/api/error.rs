//! Errors in gRPC's words.
//!
//! An agent takes `UNAVAILABLE` and `CANCELLED` for a plugin that is dying and waits for that, so neither is ever answered.
//! What may be tried again is `FAILED_PRECONDITION` with a detail that says so; everything else is `UNKNOWN`, as Go plugins
//! have it.

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::{
    proto::{rpc, structs::RecoverableError},
    registry::{StartError, TaskError},
};

/// The type of the detail that says that trying again may help.
const RECOVERABLE: &str =
    "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError";

/// Any error.
pub fn unknown(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

/// A task that did not start.
pub fn start(error: &StartError) -> Status {
    if error.retry {
        recoverable(&error.text)
    } else {
        unknown(error)
    }
}

/// Something that cannot be done to a task.
pub fn task(error: &TaskError) -> Status {
    match error {
        TaskError::NotStarted(error) => start(error),
        other => unknown(other),
    }
}

/// An error after which the same may be tried again.
pub fn recoverable(text: &str) -> Status {
    let detail = RecoverableError { recoverable: true };
    let status = rpc::Status {
        code: Code::FailedPrecondition.into(),
        message: text.to_owned(),
        details: vec![Any {
            type_url: RECOVERABLE.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(
        Code::FailedPrecondition,
        text,
        status.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_tried_again_says_so_in_a_detail() {
        let status = start(&StartError::passing("crun was killed"));
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "crun was killed")
        );
        let details = rpc::Status::decode(status.details()).unwrap();
        assert_eq!(
            (details.code, details.message.as_str()),
            (9, "crun was killed")
        );
        assert_eq!(details.details[0].type_url, RECOVERABLE);
        assert!(
            RecoverableError::decode(details.details[0].value.as_slice())
                .unwrap()
                .recoverable
        );
    }

    #[test]
    fn everything_else_is_unknown() {
        assert_eq!(start(&StartError::fatal("no")).code(), Code::Unknown);
        let status = task(&TaskError::NotFound);
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unknown, "task not found for given id")
        );
    }
}
