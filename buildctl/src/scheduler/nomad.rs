//! Runs as batch jobs of Nomad, one for each. Which job a run becomes is `render`'s, what Nomad says of it is `observe`'s, and
//! which runs a job needs is [`crate::reconcile`]'s; this is the calls that put them together.
//!
//! ```text
//!  start ──▶ render ──▶ PUT /v1/jobs, only if there is none of that name ──▶ evaluation ──▶ allocation ──▶ run-phase
//!  observe ◀── job, evaluations, allocations ◀── observe (a table) ◀── result.json of the allocation
//!  stop ──▶ DELETE /v1/job: the job stays, marked as stopped, and what Nomad says is complete then was cancelled
//!  read_log ◀── files of the allocation          changes ◀── event stream, and a list after each gap
//! ```
//!
//! Nothing is kept here: any number of processes may use one Nomad, and each may end at any time. Whatever they decide at once,
//! Nomad lets one of them register a job of a name. A run that was stopped before anybody started it leaves a registered job that
//! is stopped, so that it never is.
//!
//! What must not outlive a job's record is [`Scheduler::collect`]'s to remove; what nobody removes, Nomad forgets itself after a while
//! (`job_gc_threshold`, 4 h). The record has everything by then.

mod client;
mod doctor;
mod events;
mod logs;
mod observe;
pub mod render;
mod result;
mod settings;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    future::{join_all, try_join_all},
    stream::BoxStream,
};
use runyard_common::{doctor::Finding, report::Failure};
use tokio::time::{Instant, sleep};

pub(crate) use client::ApiError;
pub use client::NomadApi;
pub use render::{NoRender, render};
pub use settings::{NomadSettings, RUNNER_ROUTE, Runner};
pub(crate) use wire::absent;

use self::{
    events::Feed,
    logs::Logs,
    observe::{Exit, Sight, Verdict},
    result::{Ended, Report},
    wire::NomadJob,
};
use super::{Attended, Scheduler, SchedulerError, Started};
use crate::{
    config::Tier,
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::{Ending, FailureKind, Observed, Progress, Run, RunFailure},
};

/// Between looks at runs that are ending.
const PAUSE: Duration = Duration::from_millis(200);

/// The scheduler of a Nomad cluster. Clones are the same one.
#[derive(Clone)]
pub struct NomadScheduler(Arc<Desk>);

struct Desk {
    api: NomadApi,
    settings: NomadSettings,
    logs: Logs,
    feed: Arc<Feed>,
}

impl NomadScheduler {
    /// The scheduler with these settings. Asks Nomad nothing yet.
    pub fn open(settings: NomadSettings) -> Result<Self, Failure> {
        let api = NomadApi::open(&settings.nomad)?;
        Ok(Self(Arc::new(Desk {
            feed: Feed::new(api.clone()),
            api,
            settings,
            logs: Logs::default(),
        })))
    }

    /// The agent that it speaks to, for a ledger of the same cluster.
    pub fn api(&self) -> NomadApi {
        self.0.api.clone()
    }

    /// Whether Buildah works in a task of each of these tiers, found out by a job that tries. A tier that does not work is a
    /// failure if it is the configured one. Without containers there are no tiers, and one finding.
    pub async fn probe(&self, tiers: &[Tier]) -> Vec<Finding> {
        doctor::probe(&self.0.api, &self.0.settings, tiers).await
    }
}

#[async_trait]
impl Scheduler for NomadScheduler {
    fn name(&self) -> &'static str {
        "nomad"
    }

    async fn attend(&self, _: JobId) -> Result<Attended, SchedulerError> {
        // Every process of the service reconciles every job.
        Ok(Attended::Here)
    }

    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError> {
        // What was started once may have become impossible to describe since.
        let rendered = match render(job, run, &self.0.settings) {
            Ok(rendered) => rendered,
            Err(_) if self.0.api.job(&run.of_job(&job.id)).await?.is_some() => {
                return Ok(Started::Already);
            }
            Err(error) => return Err(SchedulerError::Refused(error.to_string())),
        };
        let is_new = self.0.api.register(&rendered).await?;
        Ok(if is_new {
            Started::Now
        } else {
            Started::Already
        })
    }

    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError> {
        let runs = self.0.api.runs(job.id).await?;
        let looks = runs.iter().map(|(run, known)| self.look(job, *run, known));
        try_join_all(looks).await
    }

    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError> {
        let name = run.of_job(&job.id);
        let mut known = self.0.api.job(&name).await?;
        if known.is_none() {
            let stone = render::tombstone(job.id, run, &self.0.settings);
            if self.0.api.register(&stone).await? {
                return Ok(());
            }
            // Somebody started it at the same time.
            known = self.0.api.job(&name).await?;
        }
        let known = known.ok_or(SchedulerError::Unknown)?;
        if !known.stop && !self.sight(&known).await?.verdict.is_over() {
            self.0.api.deregister(&name, false).await?;
        }
        Ok(())
    }

    async fn read_log(
        &self,
        job: &Job,
        run: Run,
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError> {
        let chunk = self.0.logs.read(&self.0.api, (job, run), from, limit, wait);
        let mut chunk = chunk.await?;
        let ended = job.runs.get(&run).is_some_and(is_over);
        if ended && !chunk.complete && chunk.lines.is_empty() {
            // Nomad has forgotten the job that ended.
            let known = self.0.api.job(&run.of_job(&job.id)).await?;
            chunk.complete = known.is_none();
            chunk.lost |= chunk.complete;
        }
        Ok(chunk)
    }

    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError> {
        Ok(self.0.logs.end(&self.0.api, job, run).await?)
    }

    async fn collect(&self, job: &Job) -> Result<(), SchedulerError> {
        let runs = self.0.api.runs(job.id).await?;
        let deadline = Instant::now() + self.0.settings.grace + Duration::from_secs(10);
        let removals = runs.values().map(|known| self.remove(known, deadline));
        join_all(removals).await.into_iter().collect()
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        self.0.feed.listen()
    }

    async fn doctor(&self) -> Vec<Finding> {
        doctor::findings(&self.0.api, &self.0.settings).await
    }

    async fn healthy(&self) -> Result<(), SchedulerError> {
        // Needs a leader, and the right to list jobs.
        let call = self.0.api.get(&["jobs"]).query("per_page", "1").once();
        Ok(call.send().await.map(drop)?)
    }
}

impl NomadScheduler {
    /// What Nomad says of a job.
    async fn sight(&self, known: &NomadJob) -> Result<Sight, ApiError> {
        let allocations = self.0.api.allocations(&known.id).await?;
        let evaluations = if allocations.is_empty() {
            self.0.api.evaluations(&known.id).await?
        } else {
            Vec::new()
        };
        Ok(observe::sight(known, &evaluations, &allocations))
    }

    /// What became of a run. One that the record knows the end of has ended so.
    async fn look(
        &self,
        job: &Job,
        run: Run,
        known: &NomadJob,
    ) -> Result<Observed, SchedulerError> {
        if let Some(ended) = job.runs.get(&run).filter(|observed| is_over(observed)) {
            return Ok(ended.clone());
        }
        let sight = self.sight(known).await?;
        let ended = |ending| Progress::Ended { ending };
        let mut accounted = true;
        let mut usage = None;
        let progress = match sight.verdict {
            Verdict::Waiting { reason, since } => Progress::Waiting { reason, since },
            Verdict::Running => Progress::Running,
            Verdict::Cancelled | Verdict::Evicted(_) => {
                let told = self.told(job, run, known, &sight).await?;
                accounted = told.is_some();
                usage = told.as_ref().and_then(|told| told.usage.known());
                let told = told.map(|told| told.ending);
                ended(match (told, sight.verdict) {
                    // It was through, or knows what it left.
                    (Some(told), _) if told != Ending::Cancelled => told,
                    (_, Verdict::Evicted(why)) => evicted(why),
                    _ => Ending::Cancelled,
                })
            }
            Verdict::Failed(mut failure) => {
                if run == Run::Publish && failure.kind == FailureKind::NodeLost {
                    failure.message += "; which tags it had moved by then only the registry knows";
                }
                accounted = false;
                ended(Ending::Failed(failure))
            }
            Verdict::Exited(exit) => {
                let end = Ended {
                    job,
                    run,
                    kind: known.kind(),
                    exit,
                    allocation: sight.allocation.as_deref().unwrap_or_default(),
                    at: sight.ended_at,
                };
                let report = end.report(&self.0.api, &self.0.settings.defaults).await?;
                usage = report.usage.known();
                accounted = !report.unaccounted;
                ended(report.ending)
            }
        };
        Ok(Observed {
            run,
            unaccounted: !accounted && is_end(&progress),
            progress,
            place: sight.place,
            started_at: sight.started_at,
            ended_at: sight.ended_at,
            usage,
        })
    }

    /// What a task that was ended says itself of its run.
    async fn told(
        &self,
        job: &Job,
        run: Run,
        known: &NomadJob,
        sight: &Sight,
    ) -> Result<Option<Report>, SchedulerError> {
        let Some(allocation) = &sight.allocation else {
            return Ok(None);
        };
        let end = Ended {
            job,
            run,
            kind: known.kind(),
            exit: Exit::default(),
            allocation,
            at: sight.ended_at,
        };
        Ok(end.told(&self.0.api).await?)
    }

    /// Stops a run, waits until it has ended, and has Nomad forget it.
    async fn remove(&self, known: &NomadJob, deadline: Instant) -> Result<(), SchedulerError> {
        if !self.sight(known).await?.verdict.is_over() {
            self.0.api.deregister(&known.id, false).await?;
        }
        while let Some(now) = self.0.api.job(&known.id).await?
            && !self.sight(&now).await?.verdict.is_over()
        {
            if Instant::now() >= deadline {
                return Err(SchedulerError::Refused(format!(
                    "{} does not end; see `nomad job status {0}`",
                    known.id
                )));
            }
            sleep(PAUSE).await;
        }
        Ok(self.0.api.deregister(&known.id, true).await?)
    }
}

fn evicted(why: String) -> Ending {
    Ending::Failed(RunFailure {
        kind: FailureKind::NodeLost,
        message: why,
        moved: Vec::new(),
        built: None,
    })
}

fn is_over(observed: &Observed) -> bool {
    is_end(&observed.progress)
}

fn is_end(progress: &Progress) -> bool {
    matches!(progress, Progress::Ended { .. })
}
