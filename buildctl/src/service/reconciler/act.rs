//! The actions of a step, done. What comes of them is reported to the next step.

use std::{collections::BTreeSet, time::Duration};

use tracing::{info, warn};

use super::{ReconcileError, Reconciler, Round};
use crate::{
    job::{Job, JobId, Kill},
    ledger::{Claim, Replaced},
    phase::Run,
    reconcile::{Action, Report},
    scheduler::{Attended, SchedulerError},
    spec::{Conflict, Spec},
};

/// How old a decision to start something may be: whoever slept longer looks again first.
const FRESH: Duration = Duration::from_mins(1);

impl Reconciler {
    /// Does what has not been done since this job was looked at first.
    pub(super) async fn act(
        &self,
        round: &Round,
        done: &mut BTreeSet<Action>,
    ) -> Result<Vec<Report>, ReconcileError> {
        let job = &round.step.job;
        let mut reports = Vec::new();
        for action in round.actions().filter(|action| done.insert(*action)) {
            let report = match action {
                Action::Claim => Some(Report::Claim(self.claim(job).await?)),
                Action::Release => self.release(job).await?,
                Action::Cancel(rival) => self.cancel(rival, job).await?,
                Action::Start(run) if round.began.elapsed() < FRESH => self.start(job, run).await?,
                Action::Start(_) => None,
                Action::Stop(run) => Some(self.stop(job, run).await?),
                Action::Deliver(delivery) => {
                    tokio::spawn(self.clone().post(job.clone(), delivery));
                    None
                }
            };
            reports.extend(report);
        }
        Ok(reports)
    }

    /// Claims the image, unless jobs that came first want it too.
    async fn claim(&self, job: &Job) -> Result<Claim, ReconcileError> {
        let Some(spec) = self.spec(job) else {
            // The rules say what is wrong with it.
            return Ok(Claim::HeldBy(job.id));
        };
        let key = spec.claim_key();
        if spec.conflict != Conflict::Reject
            && let Some(first) = self.first_in_line(job, &key).await?
        {
            return Ok(Claim::HeldBy(first));
        }
        Ok(self.ledger.claim(&key, job.id).await?)
    }

    /// The oldest job before this one that wants the same image.
    async fn first_in_line(&self, job: &Job, key: &str) -> Result<Option<JobId>, ReconcileError> {
        let mut all = self.ledger.list().await?;
        all.retain(|other| is_older(&other.job, job) && !other.job.state.is_terminal());
        let same = |other: &Job| self.spec(other).is_some_and(|spec| spec.claim_key() == key);
        let first = all.iter().rev().find(|other| same(&other.job));
        Ok(first.map(|other| other.job.id))
    }

    async fn release(&self, job: &Job) -> Result<Option<Report>, ReconcileError> {
        if let Some(spec) = self.spec(job) {
            self.ledger.release(&spec.claim_key(), job.id).await?;
        }
        // A claim that cannot be named any more is stale, as its holder has ended.
        Ok(job.claimed.then_some(Report::Released))
    }

    /// Makes an older job give way.
    async fn cancel(&self, rival: JobId, job: &Job) -> Result<Option<Report>, ReconcileError> {
        let Some(mut known) = self.ledger.get(rival).await? else {
            return Ok(None);
        };
        let other = &mut known.job;
        let ending = other.state.is_terminal() || other.kill.is_some() || other.failure.is_some();
        if ending || !is_older(other, job) {
            return Ok(None);
        }
        other.kill = Some(Kill {
            at: self.clock.now(),
            reason: Some(format!("job {} takes its place", job.id)),
        });
        other.updated_at = self.clock.now();
        // After a conflict the next round tries again.
        if self.ledger.replace(other, known.version).await? != Replaced::Conflict {
            info!(job = %rival, by = %job.id, "a job gives way");
            match self.scheduler.attend(rival).await {
                Ok(Attended::Elsewhere) => {}
                Ok(Attended::Here) => self.attend(rival),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(job = %rival, error, "nobody could be told to end a job");
                }
            }
        }
        Ok(None)
    }

    async fn start(&self, job: &Job, run: Run) -> Result<Option<Report>, ReconcileError> {
        match self.scheduler.start(job, run).await {
            Ok(started) => {
                info!(job = %job.id, %run, ?started, "a run is started");
                Ok(None)
            }
            Err(SchedulerError::Refused(why)) => Ok(Some(Report::Refused { run, why })),
            Err(error) => Err(error.into()),
        }
    }

    async fn stop(&self, job: &Job, run: Run) -> Result<Report, ReconcileError> {
        match self.scheduler.stop(job, run).await {
            // What is not known cannot go on.
            Ok(()) | Err(SchedulerError::Unknown) => Ok(Report::Stopped(run)),
            Err(error) => Err(error.into()),
        }
    }

    fn spec(&self, job: &Job) -> Option<Spec> {
        Spec::of(&job.config, &self.policy.defaults).ok()
    }
}

/// Whether `a` was submitted before `b`.
fn is_older(a: &Job, b: &Job) -> bool {
    (a.created_at, a.id) < (b.created_at, b.id)
}
