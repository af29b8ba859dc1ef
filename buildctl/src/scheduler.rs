//! The seam to what carries runs out: this machine, Nomad, or a fake with faults for tests.
//!
//! # The contract, which one suite checks on all of them
//!
//! - **Starting is idempotent.** [`Scheduler::start`] of a run that was ever started, by whomever, changes nothing and says
//!   [`Started::Already`]. Of two at once, one wins. A run is carried out at most once: not again after a crash of whoever
//!   started it, nor after its node was lost.
//! - **An observation is the truth or an error.** [`Scheduler::observe`] answers with every run that was started, until it is
//!   collected; an unreachable engine is an error, never an empty answer. A run that ended says how, with its
//!   [`Outcome`](crate::phase::Outcome) if it succeeded; a run that was stopped is
//!   [`Cancelled`](crate::phase::Ending::Cancelled), even if its programs then ended with 0. Once `Ended`, a run stays as it is.
//! - **Stopping stops.** After [`Scheduler::stop`] the run ends soon: its programs get SIGTERM, after the grace period SIGKILL,
//!   and its working containers and mounts are removed. One that waits never begins. One that was never started never will be: a later
//!   start, of somebody who decided on it before, says [`Started::Already`]. Stopping an ended run changes nothing.
//! - **Logs outlive runs.** What a run said can be read until it is collected, also after its end and in any number of parts; a
//!   page is at most as long as asked for, and the last one says that it is.
//! - **Nothing of a user's is interpreted** on the way to the run: see the invariants of this crate.

pub mod fake;
pub mod local;
pub mod nomad;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use runyard_common::doctor::Finding;

use crate::{
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::{Observed, Run},
};

/// Whether a start was the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It was.
    Now,
    /// The run had been started before; whether or not it has ended.
    Already,
}

/// Who moves a job along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attended {
    /// A process of its own does; the caller need not.
    Elsewhere,
    /// Whoever asks has to reconcile it.
    Here,
}

/// Why a scheduler cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The engine does not answer, or says that it is not ready. Trying again later may help.
    #[error("{place} cannot be reached: {why}")]
    Unreachable {
        /// Its address, or the program.
        place: String,
        /// What happened.
        why: String,
    },
    /// The engine refuses: a permission, a driver that is not enabled, a resource that no node has.
    #[error("{0}")]
    Refused(String),
    /// Neither the job nor the run is known.
    #[error("no such run")]
    Unknown,
    /// Something on this side failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What carries runs out.
#[async_trait]
pub trait Scheduler: Send + Sync {
    /// Its name: `local`, `nomad`.
    fn name(&self) -> &'static str;

    /// Makes sure that somebody reconciles this job, and says who. Called after a submission, after a wish to kill it, and for
    /// every unsettled job when a service starts.
    async fn attend(&self, id: JobId) -> Result<Attended, SchedulerError>;

    /// Starts a run of `job`, unless it was started before.
    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError>;

    /// All runs of the job that were started and not collected.
    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError>;

    /// Ends a run.
    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError>;

    /// Reads a run's log from `from`, up to about `limit` bytes. With nothing to read yet it waits at most `wait` for more, or
    /// for the run's end. A run that is not started yet has an empty, incomplete log.
    async fn read_log(
        &self,
        job: &Job,
        run: Run,
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError>;

    /// The end of a run's log as of now, to read backwards from.
    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError>;

    /// Removes everything that the runs of the job left with the engine: logs, folders, Nomad jobs. Runs that have not ended are
    /// stopped first.
    async fn collect(&self, job: &Job) -> Result<(), SchedulerError>;

    /// Jobs whose runs may have changed, as it happens. Never ends; may repeat itself and may name jobs of others.
    fn changes(&self) -> BoxStream<'static, JobId>;

    /// What is wrong with this backend here, and how to mend it.
    async fn doctor(&self) -> Vec<Finding>;

    /// Whether it can take jobs now, for `/health`.
    async fn healthy(&self) -> Result<(), SchedulerError>;
}

/// A scheduler, shared.
pub type SharedScheduler = Arc<dyn Scheduler>;
