//! The service of this process: [`Builds`] over a ledger and a scheduler. What only looks never writes; what changes a job
//! writes its record, and leaves the rest to whoever attends to the job.

mod house;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{
    BuildError, Builds, Cleaned, Cleanup, Event, Health, JobFilter, JobList, JobView, Killed,
    LogPage, LogQuery, Policy, Reconciler, Submitted, follow, logs::Pager, news::News,
    readers::Readers,
};
use crate::{
    api::JobConfig,
    clock::since,
    job::{Failure, Job, JobId, Kill, State},
    ledger::{Claim, Created, Replaced, SharedLedger, Versioned},
    phase::{Observed, Progress},
    reconcile,
    scheduler::{Attended, SharedScheduler},
    spec::{Conflict, Spec},
    trace,
};

/// How long a part may take to say that it is well.
const PULSE: Duration = Duration::from_secs(5);

/// How long a change may go unnoticed by those who wait for it, if the news of it got lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing happens to a job's record before whoever waits makes sure that somebody attends to it.
const QUIET: Duration = Duration::from_secs(2);

/// The service. Clones are the same one.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    ledger: SharedLedger,
    scheduler: SharedScheduler,
    reconciler: Reconciler,
    readers: Readers,
}

impl JobView {
    /// A job as clients see it.
    pub fn of(mut job: Job) -> Self {
        job.config = job.config.redacted();
        for notice in &mut job.notices {
            notice.body = None;
        }
        Self { job }
    }
}

impl Service {
    /// One over these seams, whose jobs this reconciler moves along where the scheduler has nobody of its own for that.
    pub fn new(ledger: SharedLedger, scheduler: SharedScheduler, reconciler: Reconciler) -> Self {
        let readers = Readers::of(Arc::clone(&scheduler));
        Self(Arc::new(Inner {
            ledger,
            scheduler,
            reconciler,
            readers,
        }))
    }

    /// What moves jobs along.
    pub fn reconciler(&self) -> &Reconciler {
        &self.0.reconciler
    }

    pub(super) fn policy(&self) -> &Policy {
        self.0.reconciler.policy()
    }

    pub(super) fn scheduler(&self) -> &SharedScheduler {
        &self.0.scheduler
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.0.readers
    }

    pub(super) fn news(&self) -> &News {
        self.0.reconciler.news()
    }

    fn now(&self) -> jiff::Timestamp {
        self.0.reconciler.clock().now()
    }

    /// Makes sure that somebody moves a job along. That it fails is no failure of what was asked for: the record is written,
    /// and the next round over all jobs tries again.
    pub(super) async fn attend(&self, id: JobId) {
        match self.0.scheduler.attend(id).await {
            Ok(Attended::Elsewhere) => {}
            Ok(Attended::Here) => self.0.reconciler.attend(id),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(job = %id, error, "nobody attends to a job yet");
            }
        }
    }

    /// The same for a job that somebody waits for and of which nothing was heard for a moment: its supervisor may have died, and
    /// there need be no service that looks after all jobs. One that was just handed in has somebody who is about to begin.
    pub(super) async fn revive(&self, job: &Job) {
        if !job.state.is_terminal() && since(self.now(), job.updated_at) >= QUIET {
            self.attend(job.id).await;
        }
    }

    pub(super) async fn record(&self, id: JobId) -> Result<Versioned, BuildError> {
        let known = self.0.ledger.get(id).await?;
        known.ok_or(BuildError::NotFound(id))
    }

    /// A job's record with what the scheduler says of its runs.
    pub(super) async fn look(&self, id: JobId) -> Result<Job, BuildError> {
        let job = self.record(id).await?.job;
        let goes_on = |run: &Observed| !matches!(run.progress, Progress::Ended { .. });
        if job.state.is_terminal() || !job.runs.values().any(goes_on) {
            return Ok(job);
        }
        match self.0.scheduler.observe(&job).await {
            Ok(observed) => Ok(reconcile::project(&job, &observed, self.now())),
            // The record is what is known.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(job = %id, error, "the scheduler says nothing of a job");
                Ok(job)
            }
        }
    }

    /// Takes the image for a job that would rather not be than wait.
    async fn claim_or_withdraw(&self, job: &Job, spec: &Spec) -> Result<(), BuildError> {
        let Claim::HeldBy(holder) = self.0.ledger.claim(&spec.claim_key(), job.id).await? else {
            return Ok(());
        };
        let known = self.record(job.id).await?;
        if known.job.claimed {
            // It became free, and somebody who attends to all jobs was faster.
            return Ok(());
        }
        let mut withdrawn = known.job;
        let refusal = BuildError::Conflict { holder };
        withdrawn.state = State::Failed;
        withdrawn.finished_at = Some(self.now());
        withdrawn.failure = Some(Failure {
            phase: None,
            error: refusal.to_string(),
        });
        // First ended, so that nobody moves it along while it goes.
        if self.0.ledger.replace(&withdrawn, known.version).await? != Replaced::Conflict {
            self.0.ledger.remove(job.id).await?;
            return Err(refusal);
        }
        match self.0.ledger.get(job.id).await? {
            Some(known) if known.job.failure.is_none() => Ok(()),
            _ => Err(refusal),
        }
    }

    /// Records the wish to end a job: whether it was one to end, and its state.
    async fn wish_end(
        &self,
        id: JobId,
        reason: Option<&String>,
    ) -> Result<Result<(), String>, BuildError> {
        loop {
            let Versioned { mut job, version } = self.record(id).await?;
            if job.state.is_terminal() {
                return Ok(Err(format!("Job has already ended: {}", job.state)));
            }
            if let Some(failure) = &job.failure {
                return Ok(Err(format!("Job is already ending: {}", failure.error)));
            }
            if job.kill.is_some() {
                return Ok(Ok(()));
            }
            let at = self.now();
            job.updated_at = at;
            job.kill = Some(Kill {
                at,
                reason: reason.cloned(),
            });
            if self.0.ledger.replace(&job, version).await? != Replaced::Conflict {
                info!(job = %id, "a job is to end");
                return Ok(Ok(()));
            }
        }
    }
}

/// A key that names a job, if it is one.
fn keyed(key: Option<&str>) -> Result<JobId, BuildError> {
    match key.map(str::trim) {
        None => Ok(JobId::random()),
        Some("") => Err(BuildError::BadRequest(
            "the idempotency key is empty".to_owned(),
        )),
        Some(key) => Ok(JobId::of_key(key)),
    }
}

#[async_trait]
impl Builds for Service {
    async fn submit(
        &self,
        config: JobConfig,
        key: Option<String>,
    ) -> Result<Submitted, BuildError> {
        let spec = Spec::of(&config, &self.policy().defaults).map_err(|errors| {
            BuildError::Invalid(errors.iter().map(ToString::to_string).collect())
        })?;
        let mut job = Job::new(keyed(key.as_deref())?, config, self.now());
        job.trace = trace::current();
        match self.0.ledger.create(&job).await? {
            Created::Now => {}
            Created::Already(known) if known.job.config == job.config => {
                self.attend(job.id).await;
                return Ok(Submitted {
                    job_id: job.id,
                    status: known.job.state,
                    existing: true,
                });
            }
            Created::Already(_) => return Err(BuildError::KeyReused(job.id)),
        }
        if spec.conflict == Conflict::Reject {
            self.claim_or_withdraw(&job, &spec).await?;
        }
        info!(job = %job.id, owner = job.config.owner, image = job.config.image_name, "a job is accepted");
        self.attend(job.id).await;
        Ok(Submitted {
            job_id: job.id,
            status: State::Building,
            existing: false,
        })
    }

    async fn status(&self, id: JobId) -> Result<JobView, BuildError> {
        Ok(JobView::of(self.look(id).await?))
    }

    async fn logs(&self, id: JobId, query: LogQuery) -> Result<LogPage, BuildError> {
        let job = self.look(id).await?;
        Pager::page(self, &job, query).await
    }

    async fn follow(
        &self,
        id: JobId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError> {
        follow::follow(self, id, query).await
    }

    async fn wait(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError> {
        let mut ear = self.news().listen();
        let began = Instant::now();
        loop {
            let job = self.record(id).await?.job;
            let left = limit.saturating_sub(began.elapsed());
            if job.state.is_terminal() || left.is_zero() {
                return self.status(id).await;
            }
            self.revive(&job).await;
            // Heard or not: the record says whether it was that.
            let _ = timeout(left.min(PATIENCE), ear.hear(&[id])).await;
        }
    }

    async fn kill(&self, id: JobId, reason: Option<String>) -> Result<Killed, BuildError> {
        let wished = self.wish_end(id, reason.as_ref()).await?;
        self.attend(id).await;
        Ok(match wished {
            Ok(()) => Killed {
                killed: true,
                message: "Job killed successfully".to_owned(),
            },
            Err(message) => Killed {
                killed: false,
                message,
            },
        })
    }

    async fn cleanup(&self, what: Cleanup) -> Result<Cleaned, BuildError> {
        self.clean(what).await
    }

    async fn purge(&self, id: JobId) -> Result<(), BuildError> {
        let job = self.record(id).await?.job;
        if !job.state.is_terminal() {
            let state = job.state;
            return Err(BuildError::WrongState(format!(
                "job {id} is {state}: kill it, and purge it when it has ended"
            )));
        }
        self.remove(&job).await
    }

    async fn list(&self, filter: JobFilter) -> Result<JobList, BuildError> {
        let mut jobs: Vec<Job> = self
            .0
            .ledger
            .list()
            .await?
            .into_iter()
            .map(|known| known.job)
            .collect();
        jobs.retain(|job| filter.matches(job));
        let total = jobs.len();
        let page = jobs
            .into_iter()
            .skip(filter.offset)
            .take(filter.limit.unwrap_or(usize::MAX));
        Ok(JobList {
            jobs: page.map(JobView::of).collect(),
            total,
        })
    }

    async fn health(&self) -> Result<Health, BuildError> {
        let late = |_| {
            Err(format!(
                "no answer within {}",
                runyard_common::duration::format(PULSE)
            ))
        };
        let scheduler = async {
            let pulse = timeout(PULSE, self.0.scheduler.healthy()).await;
            pulse.map_or_else(late, |well| well.map_err(|error| error.to_string()))
        };
        let ledger = async {
            let pulse = timeout(PULSE, self.0.ledger.healthy()).await;
            pulse.map_or_else(late, |well| well.map_err(|error| error.to_string()))
        };
        let (scheduler, ledger) = tokio::join!(scheduler, ledger);
        let name = self.0.scheduler.name().to_owned();
        Ok(Health {
            services: vec![(name, scheduler), ("ledger".to_owned(), ledger)],
        })
    }
}

impl JobFilter {
    fn matches(&self, job: &Job) -> bool {
        let owner = self
            .owner
            .as_ref()
            .is_none_or(|owner| job.config.owner == *owner);
        let state = self.state.is_none_or(|state| job.state == state);
        let ended = self
            .ended
            .is_none_or(|ended| job.state.is_terminal() == ended);
        owner && state && ended
    }
}
