//! Carries out what [`crate::reconcile`] decides: looks, writes the record, acts, and looks again. Any number of these may work
//! on the same jobs, in one process or in many, and each may be killed at any point.

mod act;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::BoxStream};
use runyard_common::backoff::{Backoff, random};
use tokio::time::Instant;
use tracing::{Instrument, debug, info, warn};

use super::{Policy, news::News};
use crate::{
    clock::{Clock, later},
    job::{Job, JobId},
    ledger::{LedgerError, Replaced, SharedLedger},
    phase::{Observed, Progress},
    reconcile::{self, Action, Report, Seen, Step},
    scheduler::{SchedulerError, SharedScheduler},
    webhook::Webhooks,
};

/// How long a job is left alone at most, in case that news about it got lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same for a job of which only notices are left: nobody has news about it.
const AFTERWARDS: Duration = Duration::from_mins(5);

/// How often a record may have changed under one's hands before that is an error.
const COLLISIONS: usize = 100;

/// Between rounds that change nothing: what they do may itself be news.
const BREATH: Duration = Duration::from_millis(20);

/// Moves jobs along. Clones work together.
#[derive(Clone)]
pub struct Reconciler {
    ledger: SharedLedger,
    scheduler: SharedScheduler,
    policy: Arc<Policy>,
    webhooks: Webhooks,
    clock: Clock,
    news: News,
    /// Jobs that a task of this process drives.
    driven: Arc<Mutex<BTreeSet<JobId>>>,
}

/// Why a job could not be moved along now.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// There is no such record (any more).
    #[error("there is no job {0}")]
    Gone(JobId),
    /// The record is changed by others all the time.
    #[error("the record of job {0} is changed by others all the time")]
    Contended(JobId),
    /// The ledger fails.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The scheduler fails.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
}

impl Reconciler {
    /// One for these seams.
    pub fn new(
        ledger: SharedLedger,
        scheduler: SharedScheduler,
        policy: Policy,
        webhooks: Webhooks,
    ) -> Self {
        let news = News::of(Arc::clone(&ledger), Arc::clone(&scheduler));
        Self {
            ledger,
            scheduler,
            policy: Arc::new(policy),
            webhooks,
            clock: Clock::System,
            news,
            driven: Arc::default(),
        }
    }

    /// The same by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn news(&self) -> &News {
        &self.news
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Moves a job as far as it goes now: reads, looks, writes and acts, again while acting had results. Conflicts are tried
    /// again. Posts are made by tasks of their own, which write down how they went.
    pub async fn advance(&self, id: JobId) -> Result<Step, ReconcileError> {
        self.advance_with(id, Vec::new()).await
    }

    async fn advance_with(
        &self,
        id: JobId,
        mut reports: Vec<Report>,
    ) -> Result<Step, ReconcileError> {
        let mut done = BTreeSet::new();
        loop {
            let round = self.round(id, reports).await?;
            let span = round.step.job.span();
            reports = self.act(&round, &mut done).instrument(span).await?;
            if let Some(trouble) = round.trouble {
                return Err(trouble.into());
            }
            if reports.is_empty() {
                return Ok(round.step);
            }
        }
    }

    /// Reads, looks, decides and writes.
    async fn round(&self, id: JobId, reports: Vec<Report>) -> Result<Round, ReconcileError> {
        let mut seen = Seen {
            runs: None,
            reports,
        };
        for _ in 0..COLLISIONS {
            let began = Instant::now();
            let known = self.ledger.get(id).await?.ok_or(ReconcileError::Gone(id))?;
            let span = known.job.span();
            let (runs, trouble) = self.look(&known.job).instrument(span.clone()).await?;
            seen.runs = runs;
            let rules = self.policy.rules(&known.job);
            let step = reconcile::step(&known.job, &seen, self.clock.now(), &rules);
            let changed = step.job != known.job;
            if changed && self.ledger.replace(&step.job, known.version).await? == Replaced::Conflict
            {
                debug!(job = %id, "the record was changed meanwhile");
                continue;
            }
            span.in_scope(|| tell(&known.job, &step.job));
            return Ok(Round {
                step,
                began,
                trouble,
            });
        }
        Err(ReconcileError::Contended(id))
    }

    /// What the scheduler says, if it matters; and why it says nothing, if it does not answer.
    async fn look(
        &self,
        job: &Job,
    ) -> Result<(Option<Vec<Observed>>, Option<SchedulerError>), SchedulerError> {
        let goes_on = |run: &Observed| !matches!(run.progress, Progress::Ended { .. });
        if !job.runs.values().any(goes_on) {
            return Ok((None, None));
        }
        match self.scheduler.observe(job).await {
            Ok(runs) => Ok((Some(runs), None)),
            Err(SchedulerError::Unknown) => Ok((Some(Vec::new()), None)),
            // Notices and claims need no scheduler.
            Err(trouble @ SchedulerError::Unreachable { .. }) => Ok((None, Some(trouble))),
            Err(error) => Err(error),
        }
    }

    /// Moves a job along until it is settled or gone. Never gives up.
    pub async fn drive(&self, id: JobId) {
        let mut ear = self.news.listen();
        let mut rival: Option<(JobId, BoxStream<'static, JobId>)> = None;
        let mut failures = 0;
        let backoff = Backoff {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            ..Backoff::default()
        };
        loop {
            let now = self.clock.now();
            let (wake, behind) = match self.advance(id).await {
                Ok(step) if reconcile::is_settled(&step.job) => return,
                Err(ReconcileError::Gone(_)) => return,
                Ok(step) => {
                    failures = 0;
                    let patience = if reconcile::is_over(&step.job) {
                        AFTERWARDS
                    } else {
                        PATIENCE
                    };
                    let latest = later(now, patience);
                    (
                        step.wake.map_or(latest, |wake| wake.min(latest)),
                        step.behind,
                    )
                }
                Err(error) => {
                    warn!(job = %id, error = &error as &dyn std::error::Error, "a job cannot be moved along now");
                    tokio::time::sleep(backoff.delay(failures, random())).await;
                    failures += 1;
                    continue;
                }
            };
            if rival.as_ref().map(|(rival, _)| *rival) != behind {
                rival = behind.map(|rival| (rival, self.ledger.changes_besides(rival)));
                tokio::time::sleep(BREATH).await;
                // It may have ended before anybody listened.
                continue;
            }
            let about = [id, behind.unwrap_or(id)];
            tokio::select! {
                () = ear.hear(&about) => {}
                () = heard_of(&mut rival) => {}
                () = self.clock.sleep_until(wake) => {}
            }
            tokio::time::sleep(BREATH).await;
        }
    }

    /// Drives a job by a task of this process, unless one does.
    pub fn attend(&self, id: JobId) {
        if !self.lock_driven().insert(id) {
            return;
        }
        let driver = Driver {
            reconciler: self.clone(),
            id,
        };
        tokio::spawn(async move { driver.reconciler.drive(driver.id).await });
    }

    /// Drives all jobs that are not settled, old and new. Never ends.
    pub async fn run(&self) {
        let mut ear = self.news.listen();
        loop {
            match self.ledger.list().await {
                Ok(records) => records
                    .iter()
                    .filter(|record| !reconcile::is_settled(&record.job))
                    .for_each(|record| self.attend(record.job.id)),
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "jobs cannot be listed"
                ),
            }
            let round = self.clock.sleep_until(later(self.clock.now(), PATIENCE));
            tokio::pin!(round);
            loop {
                tokio::select! {
                    heard = ear.any() => match heard {
                        Some(id) => self.attend(id),
                        None => break,
                    },
                    () = &mut round => break,
                }
            }
        }
    }

    fn lock_driven(&self) -> std::sync::MutexGuard<'_, BTreeSet<JobId>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a notice and writes down how that went.
    fn post(self, job: Job, delivery: uuid::Uuid) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let notice = job
                .notices
                .iter()
                .find(|notice| notice.delivery == delivery);
            let Some(notice) = notice else { return };
            let result = self.webhooks.post(&job, notice).await;
            job.span().in_scope(
                || debug!(job = %job.id, event = notice.event, ?result, "a notice was posted"),
            );
            let report = Report::Delivered { delivery, result };
            match self.advance_with(job.id, vec![report]).await {
                Ok(_) | Err(ReconcileError::Gone(_)) => {}
                // The attempt counts as lost, and is repeated in time.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(job = %job.id, error, "what came of a notice could not be written down");
                }
            }
        })
    }
}

/// Says what a change of a record means to operators: how far the job has come, and which notices were given up.
fn tell(before: &Job, after: &Job) {
    if after.state != before.state {
        info!(job = %after.id, from = %before.state, to = %after.state, "a job moved");
    }
    let was_due = |delivery| {
        let notice = before.notices.iter().find(|it| it.delivery == delivery);
        notice.is_none_or(|notice| notice.due.is_some())
    };
    let given_up = after.notices.iter().filter(|notice| notice.given_up);
    for notice in given_up.filter(|notice| was_due(notice.delivery)) {
        warn!(
            job = %after.id, event = notice.event, delivery = %notice.delivery, attempts = notice.attempts,
            why = notice.result.as_deref(), "a notice is given up: its receiver does not have it"
        );
    }
}

/// Returns when something happens to the job that another one waits for.
async fn heard_of(rival: &mut Option<(JobId, BoxStream<'static, JobId>)>) {
    let heard = match rival {
        Some((_, changes)) => changes.next().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

/// What a round came to.
struct Round {
    step: Step,
    /// Before its record was read.
    began: Instant,
    /// Why the scheduler said nothing.
    trouble: Option<SchedulerError>,
}

impl Round {
    fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        self.step.actions.iter().copied()
    }
}

/// A job while a task drives it.
struct Driver {
    reconciler: Reconciler,
    id: JobId,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.reconciler.lock_driven().remove(&self.id);
    }
}
