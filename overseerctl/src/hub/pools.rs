//! Pool requests: what is running and waiting, new limits, purging, expiry.

use std::time::{Duration, Instant};

use super::{Hub, State};
use crate::{
    api::{ExcessConfig, Message, PoolInfo},
    driver::StopLevel,
    frame,
    outbox::Outbox,
    pool::Limits,
    time::Timestamp,
};

impl Hub {
    /// The pool of an action, or the global one.
    pub fn pool_info(&self, action: &str) -> PoolInfo {
        self.lock().pool.info(named(action))
    }

    /// Sets the limits of a pool, stops the tasks over them, and admits whoever now fits. Everybody gets `pool_updated`
    /// first, then the caller its reply; what follows from the change comes after both.
    pub fn set_pool(
        &self,
        id: &str,
        action: &str,
        limit: i64,
        queue_size: i64,
        excess: Option<ExcessConfig>,
        caller: &Outbox,
    ) {
        let mut state = self.lock();
        let surplus = state.pool.set(
            named(action),
            Limits {
                limit,
                queue_size,
                excess,
            },
        );
        let pool = state.pool.info(named(action));
        let action = action.to_owned();
        state.broadcast(&Message::PoolUpdated {
            action: action.clone(),
            pool: pool.clone(),
        });
        caller.push(frame::encode(&Message::PoolInfo {
            id: id.to_owned(),
            action: action.clone(),
            pool,
        }));
        let grace = excess_grace(&state, &action);
        for task_id in surplus {
            self.stop_task(&mut state, &task_id, StopLevel::Stop { grace });
        }
        drop(state);
        self.0.swept.notify_one();
        tokio::spawn(self.clone().admit_waiting());
    }

    /// Drops the waiting starts of an action, or all. Returns how many; everybody has been told.
    pub fn purge(&self, action: &str) -> usize {
        let mut state = self.lock();
        let purged = state.pool.purge(named(action));
        for waiting in &purged {
            self.dequeued(&mut state, &waiting.task_id, "pool: queue purged");
        }
        let ts = Timestamp::now();
        for waiting in &purged {
            let task_id = waiting.task_id.clone();
            state.broadcast(&Message::Dequeued {
                task_id,
                reason: "purged".to_owned(),
                ts,
            });
        }
        purged.len()
    }

    /// A waiting start waited too long.
    pub(super) fn expired(&self, state: &mut State, task_id: &str) {
        self.0.counters.expired.inc();
        self.dequeued(state, task_id, "pool: item expired");
    }

    /// Drops starts that waited too long, and finished tasks that are too old, for as long as the daemon runs.
    pub async fn sweep(self) {
        loop {
            let rhythm = self.rhythm();
            tokio::select! {
                () = tokio::time::sleep(rhythm) => {
                    let mut state = self.lock();
                    for expired in state.pool.expire(Instant::now()) {
                        self.expired(&mut state, &expired.task_id);
                    }
                    self.apply_retention(&mut state);
                }
                () = self.0.swept.notified() => {}
            }
        }
    }

    fn rhythm(&self) -> Duration {
        let retention = self
            .settings()
            .keep_finished
            .age
            .map(|age| (age / 2).max(Duration::from_millis(10)));
        let pool = self.lock().pool.next_sweep();
        retention.map_or(pool, |retention| retention.min(pool))
    }
}

/// How long tasks over a lowered limit have to end, if the pool says so.
fn excess_grace(state: &State, action: &str) -> Option<Duration> {
    let seconds = state.pool.excess(named(action)).grace;
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

/// The wire's empty action means the global pool.
pub(super) fn named(action: &str) -> Option<&str> {
    Some(action).filter(|action| !action.is_empty())
}
