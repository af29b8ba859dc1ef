//! How tasks are ended and forgotten: stop, remove, retention, and the end of the daemon.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Hub, Refusal, State};
use crate::{
    api::{Message, Phase},
    driver::StopLevel,
    frame,
    outbox::ClientId,
    task::State as TaskState,
    time::Timestamp,
};

/// What a `remove` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The task is forgotten.
    Done,
    /// It lives; stop it first.
    Live,
    /// There is none.
    NotFound,
}

/// What became of a `stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Dequeued,
    Task(Phase),
}

impl Hub {
    /// Stops a task: a waiting start is dropped, a worker gets its stop signal, a restart is cancelled. `kill` skips the
    /// grace. Returns what the task is doing now; `None` when it was waiting in a queue.
    ///
    /// Clients of sticky-overseer get no reply to a stop that works; they see `exited`, `dequeued`, or nothing.
    pub fn stop(&self, task_id: &str, kill: bool) -> Result<Option<Phase>, Refusal> {
        if task_id.is_empty() {
            return Err(Refusal::TaskIdRequired);
        }
        let level = if kill {
            StopLevel::Kill
        } else {
            StopLevel::Stop { grace: None }
        };
        match self.lock_and_stop(task_id, level)? {
            Stop::Dequeued => Ok(None),
            Stop::Task(phase) => Ok(Some(phase)),
        }
    }

    fn lock_and_stop(&self, task_id: &str, level: StopLevel) -> Result<Stop, Refusal> {
        let mut state = self.lock();
        if state.pool.remove(task_id).is_some() {
            self.dequeued(&mut state, task_id, "pool: task dequeued");
            // Sticky-overseer says it twice, with two reasons; clients match on either.
            state.broadcast(&Message::Dequeued {
                task_id: task_id.to_owned(),
                reason: "stopped".to_owned(),
                ts: Timestamp::now(),
            });
            return Ok(Stop::Dequeued);
        }
        self.stop_task(&mut state, task_id, level)
            .map(Stop::Task)
            .ok_or(Refusal::NotFound)
    }

    /// Stops a registered task, whatever it is doing. `None` if there is none.
    pub(super) fn stop_task(
        &self,
        state: &mut State,
        task_id: &str,
        level: StopLevel,
    ) -> Option<Phase> {
        let task = state.tasks.get_mut(task_id)?;
        let was_waiting = matches!(task.state, TaskState::Delay(_));
        tracing::info!(task = task_id, ?level, "stop requested");
        task.stop(level);
        let phase = task.phase();
        if was_waiting {
            // A slot that was held over the delay is free now; nobody announces a cancelled restart.
            if state.pool.release(task_id) {
                tokio::spawn(self.clone().admit_waiting());
            }
            self.finished(state, task_id);
        }
        Some(phase)
    }

    /// Forgets a finished task, so that its id can be used again.
    pub fn remove(&self, task_id: &str, client: ClientId) -> Removal {
        let mut state = self.lock();
        let removal = match state.tasks.get(task_id) {
            None if state.pool.contains_waiting(task_id) => Removal::Live,
            None => Removal::NotFound,
            Some(task) if !task.is_finished() => Removal::Live,
            Some(_) => Removal::Done,
        };
        if removal == Removal::Done {
            state.forget(task_id);
            let message = Message::TaskRemoved {
                task_id: task_id.to_owned(),
                ts: Timestamp::now(),
            };
            state.tell_watchers(&message, Some(client));
        }
        removal
    }

    /// A task finished: remembers that, and forgets whoever is over the retention limits.
    pub(super) fn finished(&self, state: &mut State, task_id: &str) {
        let retention = self.settings().keep_finished;
        if retention.count == 0 && retention.age.is_none() {
            return;
        }
        if let Some((id, _)) = state.tasks.get_key_value(task_id) {
            let id = Arc::clone(id);
            state.finished.push_back((id, Instant::now()));
        }
        self.apply_retention(state);
    }

    /// Forgets finished tasks that are too many or too old.
    pub(super) fn apply_retention(&self, state: &mut State) {
        let retention = self.settings().keep_finished;
        let too_old = |at: Instant| retention.age.is_some_and(|age| at.elapsed() > age);
        loop {
            let too_many = retention.count > 0 && state.finished.len() > retention.count;
            let Some((task_id, _)) = state
                .finished
                .pop_front_if(|(_, at)| too_many || too_old(*at))
            else {
                return;
            };
            if state
                .tasks
                .get(&task_id)
                .is_some_and(crate::task::Task::is_finished)
            {
                state.forget(&task_id);
                let message = Message::TaskRemoved {
                    task_id: task_id.to_string(),
                    ts: Timestamp::now(),
                };
                state.tell_watchers(&message, None);
            }
        }
    }

    /// Ends everything: no new starts, no restarts, waiting starts dropped, every worker stopped. Returns when the last
    /// worker has ended, at once if there is none.
    pub async fn shut_down(&self) {
        self.begin_shutdown();
        loop {
            let ended = self.0.ended.notified();
            if self.lock().workers == 0 {
                return;
            }
            ended.await;
        }
    }

    fn begin_shutdown(&self) {
        let mut state = self.lock();
        state.closing = true;
        for waiting in state.pool.drain() {
            self.dequeued(&mut state, &waiting.task_id, "pool: shutdown");
        }
        let live: Vec<Arc<str>> = state
            .tasks
            .values()
            .filter(|task| !task.is_finished())
            .map(|task| Arc::clone(&task.id))
            .collect();
        for task_id in live {
            self.stop_task(&mut state, &task_id, StopLevel::Stop { grace: None });
        }
    }

    /// Kills whatever still lives; the grace is over.
    pub fn kill_all(&self) {
        let mut state = self.lock();
        let live: Vec<Arc<str>> = state
            .tasks
            .values()
            .filter(|task| task.has_worker())
            .map(|task| Arc::clone(&task.id))
            .collect();
        for task_id in live {
            tracing::warn!(task = %task_id, "killed: it did not stop in time");
            self.stop_task(&mut state, &task_id, StopLevel::Kill);
        }
    }

    /// Workers that run or are being started.
    pub fn workers(&self) -> usize {
        self.lock().workers
    }

    /// Tells every client that this is the end, and waits until they have read it, or for `patience`.
    pub async fn close_clients(&self, patience: Duration) {
        for client in self.lock().clients.values() {
            client
                .outbox
                .finish(Some(frame::close(1001, "shutting down")));
        }
        let all_gone = async {
            loop {
                let ended = self.0.ended.notified();
                if self.lock().clients.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        // Whoever has not read it by then is cut off.
        let _ = tokio::time::timeout(patience, all_gone).await;
    }
}

impl State {
    /// Forgets a finished task of this id, if there is one: it is about to be replaced.
    pub(super) fn forget_finished(&mut self, task_id: &str) {
        if self
            .tasks
            .get(task_id)
            .is_some_and(crate::task::Task::is_finished)
        {
            self.forget(task_id);
        }
    }

    fn forget(&mut self, task_id: &str) {
        self.tasks.remove(task_id);
        self.forget_topic(task_id);
    }
}
