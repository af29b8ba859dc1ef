//! Why the work of a run does not go on: it was told to stop, or something failed. The words here are what users read, one
//! line that says what and where.

use std::{fmt, io};

use crate::phase::{FailureKind, RunFailure};

/// Why there is no going on.
#[derive(Debug)]
pub(super) enum Halt {
    /// The run was told to stop (see [`super::stop::Stop::cause`]).
    Stopped,
    /// It failed.
    Failed(Box<RunFailure>),
}

impl Halt {
    /// A failure of this kind.
    pub(super) fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed(Box::new(RunFailure {
            kind,
            message: message.into(),
            moved: Vec::new(),
            built: None,
        }))
    }

    /// What was asked for is not there or refused.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Input, message)
    }

    /// Something around the run failed.
    pub(super) fn infrastructure(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Infrastructure, message)
    }

    /// A file or folder of ours could not be used.
    pub(super) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::infrastructure(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("disk full: {what}: {error}")
            }
            _ => format!("{what}: {error}"),
        })
    }
}
