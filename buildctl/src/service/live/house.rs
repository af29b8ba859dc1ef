//! Keeping house: what ended jobs left behind goes when it is asked for or old enough, and jobs that nobody attends to get
//! somebody.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use tracing::{info, warn};

use super::Service;
use crate::{
    clock::{later, since},
    job::{Job, JobId},
    reconcile::{is_over, is_settled},
    service::{BuildError, Cleaned, Cleanup, policy::about},
    spec::Spec,
};

/// How many jobs are cleaned up at once.
const AT_ONCE: usize = 4;

impl Service {
    /// Attends to all jobs that are not settled, those of before included, and removes what is old. Never ends.
    pub async fn run(&self) {
        let rounds = self.policy().rounds;
        let mut collected = BTreeSet::new();
        let mut due = self.now();
        loop {
            self.tend().await;
            let now = self.now();
            if now >= due {
                self.sweep(&mut collected).await;
                due = later(now, about(rounds.tidy));
            }
            let next = later(now, about(rounds.attend));
            self.0.reconciler.clock().sleep_until(next).await;
        }
    }

    /// Attends to all jobs that are not settled, once.
    pub async fn tend(&self) {
        match self.0.ledger.list().await {
            Ok(all) => {
                for known in all.iter().filter(|known| !is_settled(&known.job)) {
                    self.attend(known.job.id).await;
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "jobs cannot be listed");
            }
        }
    }

    /// Removes what is old: logs of jobs, then their records. Remembers in `collected` whose logs are gone.
    pub async fn sweep(&self, collected: &mut BTreeSet<JobId>) {
        let retention = self.policy().retention;
        let all = match self.0.ledger.list().await {
            Ok(all) => all,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "jobs cannot be listed");
                return;
            }
        };
        let now = self.now();
        let known: BTreeSet<JobId> = all.iter().map(|known| known.job.id).collect();
        collected.retain(|id| known.contains(id));
        for job in all
            .iter()
            .map(|known| &known.job)
            .filter(|job| is_settled(job))
        {
            let age = since(now, job.finished_at.unwrap_or(job.updated_at));
            let result = if age >= retention.records {
                self.remove(job).await
            } else if age >= retention.logs && !collected.contains(&job.id) {
                let done = self.collect(job).await;
                if done.is_ok() {
                    collected.insert(job.id);
                }
                done
            } else {
                Ok(())
            };
            if let Err(error) = result {
                let error = &error as &dyn std::error::Error;
                warn!(job = %job.id, error, "an old job cannot be removed");
            }
        }
    }

    /// Removes what the engine has of an ended job.
    async fn collect(&self, job: &Job) -> Result<(), BuildError> {
        Ok(self.scheduler().collect(job).await?)
    }

    /// Removes an ended job altogether: what it refers to first, so that nothing is left without a record.
    pub(super) async fn remove(&self, job: &Job) -> Result<(), BuildError> {
        self.collect(job).await?;
        if let Ok(spec) = Spec::of(&job.config, &self.policy().defaults) {
            self.0.ledger.release(&spec.claim_key(), job.id).await?;
        }
        self.0.ledger.remove(job.id).await?;
        info!(job = %job.id, "a job is removed");
        Ok(())
    }

    /// Cleans up after one job, or after all that ended long enough ago.
    pub(super) async fn clean(&self, what: Cleanup) -> Result<Cleaned, BuildError> {
        let jobs = match what {
            Cleanup::Job(id) => vec![self.ended(id).await?],
            Cleanup::Ended { older_than } => self.all_ended(older_than).await?,
        };
        let done = stream::iter(jobs)
            .map(|job| self.clone().clean_up(job))
            .buffered(AT_ONCE);
        let done: Vec<(JobId, Result<Option<String>, String>)> = done.collect().await;
        let mut cleaned = Cleaned::default();
        for (id, result) in done {
            if result.is_ok() {
                cleaned.jobs.push(id);
            }
            let problem = result.unwrap_or_else(Some);
            cleaned
                .problems
                .extend(problem.map(|problem| format!("{id}: {problem}")));
        }
        Ok(cleaned)
    }

    async fn ended(&self, id: JobId) -> Result<Job, BuildError> {
        let job = self.record(id).await?.job;
        if job.state.is_terminal() {
            return Ok(job);
        }
        let state = job.state;
        Err(BuildError::WrongState(format!(
            "job {id} is {state}: kill it, and clean up when it has ended"
        )))
    }

    async fn all_ended(&self, older_than: Duration) -> Result<Vec<Job>, BuildError> {
        let now = self.now();
        let old = |job: &Job| {
            let ended = job.finished_at.unwrap_or(job.updated_at);
            is_over(job) && since(now, ended) >= older_than
        };
        let all = self.0.ledger.list().await?;
        Ok(all.into_iter().map(|known| known.job).filter(old).collect())
    }

    /// Cleans up after a job: what remains, or why nothing could be done.
    async fn clean_up(self, job: Job) -> (JobId, Result<Option<String>, String>) {
        let result = if is_over(&job) {
            let remains = job
                .left()
                .map(|why| format!("{why}; the registry's own retention has to"));
            self.collect(&job)
                .await
                .map(|()| remains)
                .map_err(|error| error.to_string())
        } else {
            self.attend(job.id).await;
            Err("it has ended and is still being cleaned up".to_owned())
        };
        (job.id, result)
    }
}
