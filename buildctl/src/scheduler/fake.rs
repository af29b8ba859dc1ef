//! A scheduler that only pretends, for tests: each run goes as a [`Play`] says, by a clock that a test may move by hand, and
//! what goes wrong with engines can be made to go wrong here. It keeps the contract of [`super`]; the suite that checks that
//! is the one of the real ones.

mod play;
mod stage;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use runyard_common::doctor::Finding;
use tokio::sync::broadcast;

use super::{Attended, Scheduler, SchedulerError, Started};
use crate::{
    clock::{Clock, later},
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::{Observed, Run},
};

pub use play::{End, Play, temporary};
use stage::Stage;

/// Decides how the runs of jobs go.
type Script = Box<dyn Fn(&Job, Run) -> Play + Send + Sync>;

/// The fake. Clones are the same one.
#[derive(Clone)]
pub struct FakeScheduler(Arc<Inner>);

struct Inner {
    clock: Clock,
    script: Mutex<Script>,
    stage: Mutex<Stage>,
    changes: broadcast::Sender<JobId>,
    unreachable: AtomicBool,
    logs_missing: AtomicBool,
    reading: AtomicUsize,
    most_reading: AtomicUsize,
}

impl FakeScheduler {
    /// One on which everything succeeds at once.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            script: Mutex::new(Box::new(|_, _| Play::default())),
            stage: Mutex::default(),
            changes: broadcast::Sender::new(1024),
            unreachable: AtomicBool::new(false),
            logs_missing: AtomicBool::new(false),
            reading: AtomicUsize::new(0),
            most_reading: AtomicUsize::new(0),
        }))
    }

    /// How runs that are started from now on go.
    pub fn script(&self, script: impl Fn(&Job, Run) -> Play + Send + Sync + 'static) {
        *self.0.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Whether the engine is out of reach.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.0.unreachable.store(unreachable, Ordering::Relaxed);
    }

    /// Whether logs cannot be found, as while a task is not started yet or after its files were removed.
    pub fn set_logs_missing(&self, missing: bool) {
        self.0.logs_missing.store(missing, Ordering::Relaxed);
    }

    /// The node that carries a run out is gone.
    pub fn lose_node(&self, id: JobId, run: Run) {
        self.stage().lose(id, run, self.now());
        self.changed(id);
    }

    /// The engine forgets a run that it carried out, as after its garbage collection.
    pub fn forget(&self, id: JobId, run: Run) {
        self.stage().forget(id, run);
        self.changed(id);
    }

    /// The first `bytes` of a run's log are rotated away.
    pub fn rotate(&self, id: JobId, run: Run, bytes: u64) {
        self.stage().rotate(id, run, bytes);
    }

    /// How often a run was really started, which is once at most.
    pub fn starts(&self, id: JobId, run: Run) -> usize {
        self.stage().starts(id, run)
    }

    /// The most readers of logs that there were at once.
    pub fn most_readers(&self) -> usize {
        self.0.most_reading.load(Ordering::Relaxed)
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, id: JobId) {
        // Nobody may be listening.
        let _ = self.0.changes.send(id);
    }

    fn reach(&self) -> Result<(), SchedulerError> {
        if self.0.unreachable.load(Ordering::Relaxed) {
            return Err(SchedulerError::Unreachable {
                place: "the fake engine".to_owned(),
                why: "it was told to be unreachable".to_owned(),
            });
        }
        Ok(())
    }

    /// Tells of changes of a run when their time has come.
    fn herald(&self, id: JobId, moments: Vec<Timestamp>) {
        let fake = self.clone();
        tokio::spawn(async move {
            for moment in moments {
                fake.0.clock.sleep_until(moment).await;
                fake.changed(id);
            }
        });
    }

    fn page(
        &self,
        key: (JobId, Run),
        from: Position,
        limit: usize,
    ) -> Result<Chunk, SchedulerError> {
        self.reach()?;
        if self.0.logs_missing.load(Ordering::Relaxed) {
            return Err(SchedulerError::Unknown);
        }
        self.stage().page(key, from, limit, self.now())
    }

    async fn wait_for_page(
        &self,
        key: (JobId, Run),
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError> {
        let mut changes = self.0.changes.subscribe();
        let patience = self.0.clock.sleep_until(later(self.now(), wait));
        tokio::pin!(patience);
        loop {
            let chunk = self.page(key, from, limit)?;
            if !chunk.lines.is_empty() || chunk.complete || chunk.lost || wait.is_zero() {
                return Ok(chunk);
            }
            tokio::select! {
                _ = changes.recv() => {}
                () = &mut patience => return self.page(key, from, limit),
            }
        }
    }
}

/// Counts a reader as long as it lives.
struct Reading<'a>(&'a Inner);

impl<'a> Reading<'a> {
    fn begin(inner: &'a Inner) -> Self {
        let now = inner.reading.fetch_add(1, Ordering::Relaxed) + 1;
        inner.most_reading.fetch_max(now, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Scheduler for FakeScheduler {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn attend(&self, _: JobId) -> Result<Attended, SchedulerError> {
        self.reach()?;
        Ok(Attended::Here)
    }

    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError> {
        self.reach()?;
        let play = self.0.script.lock().unwrap_or_else(PoisonError::into_inner)(job, run);
        if let Some(why) = &play.refused {
            return Err(SchedulerError::Refused(why.clone()));
        }
        let moments = play.moments(self.now());
        if !self.stage().start(job, run, play, self.now()) {
            return Ok(Started::Already);
        }
        self.changed(job.id);
        self.herald(job.id, moments);
        Ok(Started::Now)
    }

    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError> {
        self.reach()?;
        Ok(self.stage().observe(job.id, self.now()))
    }

    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError> {
        self.reach()?;
        let ends = self.stage().stop(job.id, run, self.now());
        self.changed(job.id);
        self.herald(job.id, ends.into_iter().collect());
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
        let _reading = Reading::begin(&self.0);
        self.wait_for_page((job.id, run), from, limit, wait).await
    }

    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError> {
        self.reach()?;
        self.stage().log_end((job.id, run), self.now())
    }

    async fn collect(&self, job: &Job) -> Result<(), SchedulerError> {
        self.reach()?;
        self.stage().collect(job.id);
        self.changed(job.id);
        Ok(())
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        let heard = self.0.changes.subscribe();
        let next = |mut heard: broadcast::Receiver<JobId>| async move {
            loop {
                match heard.recv().await {
                    Ok(id) => return Some((id, heard)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        stream::unfold(heard, next).boxed()
    }

    async fn doctor(&self) -> Vec<Finding> {
        vec![Finding::ok("fake", "runs are only pretended")]
    }

    async fn healthy(&self) -> Result<(), SchedulerError> {
        self.reach()
    }
}
