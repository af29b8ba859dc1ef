//! The seam to where records of jobs are kept: a directory of this machine, Nomad variables, or memory in tests.
//!
//! # The contract, which one suite checks on all of them
//!
//! - **A record changes by compare-and-swap.** [`Ledger::replace`] with a version that is not the present one changes nothing.
//! - **What was acknowledged is there** after a crash of this process; a record is whole or absent, never half.
//! - **A claim is exclusive.** At most one unsettled job holds the claim on an image. A claim has no lifetime: it is stale, and
//!   may be taken over, when its holder has ended or its record is gone.

pub mod directory;
pub mod memory;
pub mod variables;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::job::{Job, JobId};

/// A record and the version by which it may be replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    /// The record.
    pub job: Job,
    /// Of this record only; larger is newer.
    pub version: u64,
}

/// What became of a creation.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// The record is new.
    Now,
    /// There was one with this id (of an idempotent submission), which is unchanged.
    Already(Box<Versioned>),
}

/// What became of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The record is replaced; its version now.
    Now(u64),
    /// Somebody else changed or removed it: read again.
    Conflict,
}

/// What became of the wish to claim an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The job holds it (now, or already).
    Held,
    /// Another job does.
    HeldBy(JobId),
}

/// Why a ledger cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It does not answer. Trying again later may help.
    #[error("{place} cannot be reached: {why}")]
    Unreachable {
        /// Its address or path.
        place: String,
        /// What happened.
        why: String,
    },
    /// A record has more in it than can be kept.
    #[error("{0}")]
    TooLong(String),
    /// It refuses: a permission.
    #[error("{0}")]
    Refused(String),
    /// What is stored is no record.
    #[error("the record {place} cannot be read: {why}")]
    Corrupt {
        /// Where it is.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something on this side failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Where records are kept.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Stores a new record.
    async fn create(&self, job: &Job) -> Result<Created, LedgerError>;

    /// Reads one.
    async fn get(&self, id: JobId) -> Result<Option<Versioned>, LedgerError>;

    /// Replaces the record of `job.id`, if its version still is `version`.
    async fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError>;

    /// All records, newest first. Ones that cannot be read are left out and logged.
    async fn list(&self) -> Result<Vec<Versioned>, LedgerError>;

    /// Removes a record; one that is not there is no error.
    async fn remove(&self, id: JobId) -> Result<(), LedgerError>;

    /// Claims the image `key` (see [`crate::spec::Spec::claim_key`]) for a job.
    async fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError>;

    /// Gives up a claim; one that is not held is no error.
    async fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError>;

    /// Jobs whose records may have changed, by whomever, as it happens. Never ends; may repeat itself.
    fn changes(&self) -> BoxStream<'static, JobId>;

    /// Changes of this job's record where [`Ledger::changes`] leaves them out; elsewhere nothing, for ever.
    fn changes_besides(&self, _id: JobId) -> BoxStream<'static, JobId> {
        stream::pending().boxed()
    }

    /// Whether it can be read and written now, for `/health`.
    async fn healthy(&self) -> Result<(), LedgerError>;
}

/// A ledger, shared.
pub type SharedLedger = Arc<dyn Ledger>;
