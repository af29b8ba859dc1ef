//! Readers of runs' logs, shared: those who wait for more of a log at the same place wait together. Who fell behind reads alone
//! until it has caught up, and then is at the same place as the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use crate::{
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::Run,
    scheduler::{SchedulerError, SharedScheduler},
};

/// Most bytes that are read at once.
pub(super) const CHUNK: usize = 64 << 10;

/// How long a reader waits for more before it asks again.
const WAIT: Duration = Duration::from_secs(20);

type Place = (JobId, Run, u64, u64);
type Answer = Result<Arc<Chunk>, Arc<SchedulerError>>;
type Reading = BoxFuture<'static, Answer>;

/// All readers of this process that wait.
#[derive(Clone)]
pub(super) struct Readers {
    scheduler: SharedScheduler,
    waiting: Arc<Mutex<HashMap<Place, WeakShared<Reading>>>>,
}

impl Readers {
    pub(super) fn of(scheduler: SharedScheduler) -> Self {
        Self {
            scheduler,
            waiting: Arc::default(),
        }
    }

    /// The next part of a run's log, once there is one; an empty one if there is none for a while.
    pub(super) async fn read(&self, job: Arc<Job>, run: Run, from: Position) -> Answer {
        let place = (job.id, run, from.out, from.err);
        let reading = self.join(place, job, run, from);
        let answer = reading.await;
        // Whoever comes now reads anew: there may be more by then.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting
            .get(&place)
            .and_then(WeakShared::upgrade)
            .is_none_or(|reading| reading.peek().is_some())
        {
            waiting.remove(&place);
        }
        answer
    }

    fn join(&self, place: Place, job: Arc<Job>, run: Run, from: Position) -> Shared<Reading> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.get(&place).and_then(WeakShared::upgrade);
        if let Some(known) = known.filter(|known| known.peek().is_none()) {
            return known;
        }
        waiting.retain(|_, reading| reading.upgrade().is_some());
        let scheduler = Arc::clone(&self.scheduler);
        let reading: Reading = Box::pin(async move {
            let chunk = scheduler.read_log(&job, run, from, CHUNK, WAIT).await;
            chunk.map(Arc::new).map_err(Arc::new)
        });
        let reading = reading.shared();
        if let Some(weak) = reading.downgrade() {
            waiting.insert(place, weak);
        }
        reading
    }
}
