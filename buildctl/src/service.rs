//! The one service behind REST, MCP and the command line: submit, look, follow, kill, clean up. It puts the seams together
//! (a ledger and a scheduler) and answers in wire types; [`Builds`] is what its callers see, so that they work the same on a
//! service of this process and on one behind a URL.

mod digest;
mod follow;
mod live;
mod logs;
mod news;
mod policy;
mod readers;
mod reconciler;

use std::{num::NonZeroUsize, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    api::JobConfig,
    job::{JobId, State},
    ledger::LedgerError,
    logs::{Cursor, Line},
    phase::Phase,
    scheduler::SchedulerError,
};

pub use live::Service;
pub(crate) use policy::about;
pub use policy::{Policy, Retention, Rounds, tests};
pub use reconciler::{ReconcileError, Reconciler};

/// What clients can do with builds.
#[async_trait]
pub trait Builds: Send + Sync {
    /// Accepts a job. With an idempotency key, a second submission with the same key is the same job.
    async fn submit(&self, config: JobConfig, key: Option<String>)
    -> Result<Submitted, BuildError>;

    /// How far a job is.
    async fn status(&self, id: JobId) -> Result<JobView, BuildError>;

    /// A page of a job's log.
    async fn logs(&self, id: JobId, query: LogQuery) -> Result<LogPage, BuildError>;

    /// The log as it grows, until the job has ended and all is read. `None` in the query's cursor begins at its start (or tail).
    async fn follow(
        &self,
        id: JobId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError>;

    /// Waits at most `limit` for the job's end; its status then.
    async fn wait(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError>;

    /// Ends a job. Says whether there was something to end.
    async fn kill(&self, id: JobId, reason: Option<String>) -> Result<Killed, BuildError>;

    /// Removes what an ended job left behind (with the engine, in the registry), and keeps its record.
    async fn cleanup(&self, what: Cleanup) -> Result<Cleaned, BuildError>;

    /// Removes an ended job altogether.
    async fn purge(&self, id: JobId) -> Result<(), BuildError>;

    /// Jobs, newest first.
    async fn list(&self, filter: JobFilter) -> Result<JobList, BuildError>;

    /// Whether the engine and the ledger answer.
    async fn health(&self) -> Result<Health, BuildError>;
}

/// An accepted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Submitted {
    /// Its name.
    pub job_id: JobId,
    /// Always BUILDING for a new one, as the original answers.
    pub status: State,
    /// Whether an earlier submission with the same key had made it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub existing: bool,
}

/// What of a log to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only this phase.
    pub phase: Option<Phase>,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// Without a cursor: begin this many lines before the end.
    pub tail: Option<NonZeroUsize>,
    /// About as many bytes of text at most; the service's limit if absent.
    pub max_bytes: Option<usize>,
    /// Only lines that match this regular expression.
    pub grep: Option<String>,
    /// Only lines that look like errors, with what surrounds them.
    pub errors_only: bool,
}

impl LogQuery {
    /// Goes on behind what was read, if that is anywhere: the end that was asked for first has been told then.
    pub(crate) fn go_on(&mut self, behind: &Cursor) {
        if *behind != Cursor::default() {
            self.tail = None;
            self.cursor = Some(behind.clone());
        }
    }
}

/// A page of a job's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Where to go on.
    pub next: Cursor,
    /// Whether the job has ended and nothing more will come.
    pub complete: bool,
    /// Whether more can be read now.
    pub more: bool,
    /// Whether something before these lines is gone.
    pub lost: bool,
}

/// What a follower sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A line, and the cursor behind it.
    Line(Line, Cursor),
    /// The job changed.
    Status(Box<JobView>),
    /// Something of the log is gone.
    Lost,
}

/// A job as clients see it: no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// The record with what the engine says of its runs worked in, and its configuration as [`JobConfig::redacted`] has it.
    #[serde(flatten)]
    pub job: crate::job::Job,
}

/// What became of the wish to kill a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// Whether it was running (or waiting) and is now ending.
    pub killed: bool,
    /// For people.
    pub message: String,
}

/// Which jobs to clean up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// One.
    Job(JobId),
    /// All that have ended, and that long ago.
    Ended {
        /// At least.
        older_than: Duration,
    },
}

/// What was cleaned up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Jobs.
    pub jobs: Vec<JobId>,
    /// What could not be removed, for people.
    pub problems: Vec<String>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this owner.
    pub owner: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Only ended ones (history), only others, or both.
    pub ended: Option<bool>,
    /// At most so many.
    pub limit: Option<usize>,
    /// After so many.
    pub offset: usize,
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobList {
    /// The page.
    pub jobs: Vec<JobView>,
    /// How many match.
    pub total: usize,
}

/// Whether what is needed answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Part → `healthy`, or what is wrong.
    pub services: Vec<(String, Result<(), String>)>,
}

/// Why a request cannot be answered. Each is turned into a status, a tool error or an exit code by its wire.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What was asked for is wrong; all that is wrong.
    #[error("Job configuration validation failed: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A query is wrong: a cursor, an expression.
    #[error("{0}")]
    BadRequest(String),
    /// No such job.
    #[error("Job not found")]
    NotFound(JobId),
    /// Another job works on the same image and ref.
    #[error("cannot start build: lock is already held by another process")]
    Conflict {
        /// Which.
        holder: JobId,
    },
    /// The job is not in a state for that: purging one that runs.
    #[error("{0}")]
    WrongState(String),
    /// A key was used before with another configuration.
    #[error("the idempotency key was used for another configuration (job {0})")]
    KeyReused(JobId),
    /// The caller may not.
    #[error("{0}")]
    Forbidden(String),
    /// The engine, the ledger or the service cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Something failed on this side.
    #[error("{0}")]
    Internal(String),
}

impl From<LedgerError> for BuildError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            LedgerError::TooLong(why) => Self::BadRequest(why),
            LedgerError::Refused(_) | LedgerError::Corrupt { .. } | LedgerError::Io(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

impl From<SchedulerError> for BuildError {
    fn from(error: SchedulerError) -> Self {
        match error {
            SchedulerError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            SchedulerError::Refused(_) | SchedulerError::Unknown | SchedulerError::Io(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}
