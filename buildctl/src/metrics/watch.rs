//! Feeds [`Metrics`] from a ledger: each change of a record is compared with the record before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::StreamExt;
use tracing::warn;

use super::Metrics;
use crate::{
    job::{Job, JobId},
    ledger::{LedgerError, SharedLedger},
    reconcile::is_settled,
};

/// Counts what happens to jobs from now on. Never ends.
pub async fn watch(metrics: Arc<Metrics>, ledger: SharedLedger) {
    let mut changes = ledger.changes();
    let mut known = Known::default();
    match ledger.list().await {
        Ok(all) => all
            .iter()
            .for_each(|record| known.seed(&metrics, &record.job)),
        Err(error) => complain(&error),
    }
    while let Some(id) = changes.next().await {
        match ledger.get(id).await {
            Ok(Some(record)) => known.see(&metrics, record.job),
            Ok(None) => known.forget(&metrics, id),
            Err(error) => complain(&error),
        }
    }
}

fn complain(error: &LedgerError) {
    let error = error as &dyn std::error::Error;
    warn!(error, "a change is not counted");
}

/// The jobs as they were last.
#[derive(Default)]
struct Known {
    going: BTreeMap<JobId, Job>,
    settled: BTreeSet<JobId>,
}

impl Known {
    /// A job of before, of which only what is still to come counts.
    fn seed(&mut self, metrics: &Metrics, job: &Job) {
        metrics.books().follow(job);
        self.keep(job.clone());
    }

    fn see(&mut self, metrics: &Metrics, job: Job) {
        if self.settled.contains(&job.id) {
            return;
        }
        metrics.record(self.going.get(&job.id), &job);
        self.keep(job);
    }

    /// Of settled jobs, only that they are.
    fn keep(&mut self, job: Job) {
        if is_settled(&job) {
            self.going.remove(&job.id);
            self.settled.insert(job.id);
        } else {
            self.going.insert(job.id, job);
        }
    }

    fn forget(&mut self, metrics: &Metrics, id: JobId) {
        metrics.forget(id);
        self.going.remove(&id);
        self.settled.remove(&id);
    }
}
