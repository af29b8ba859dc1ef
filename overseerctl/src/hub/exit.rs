//! How workers end, and what follows: the pool's next, an errored task, a restart.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;

use super::{
    Hub, State,
    start::{Launch, Occasion},
};
use crate::{
    api::Message,
    driver::{Worker, WorkerExit},
    retry,
    ring::Event,
    store::{Outcome, RunExited},
    task::{Next, State as TaskState, Timer},
    time::Timestamp,
};

/// Exit code of a virtual worker that panicked; the same as a program's for an internal error (BSD's `EX_SOFTWARE`).
const PANICKED: i32 = 70;

impl Hub {
    /// Sees one worker to its end.
    pub(super) async fn supervise(self, task_id: Arc<str>, worker: Worker) {
        let pid = worker.pid();
        let exit = AssertUnwindSafe(worker.into_run())
            .catch_unwind()
            .await
            .unwrap_or_else(|_| WorkerExit::code(PANICKED));
        self.exited(&task_id, pid, exit).await;
    }

    /// The end of a worker, in sticky-overseer's order: `exited`, then whoever waited for the slot, then what follows.
    async fn exited(&self, task_id: &Arc<str>, pid: u32, exit: WorkerExit) {
        let now = Timestamp::now();
        let Some(next) = self.report_exit(task_id, pid, exit, now) else {
            return;
        };
        self.clone().admit_waiting().await;
        self.settle(task_id, pid, next, now);
        self.0.ended.notify_waiters();
    }

    /// Says that the worker ended, frees its slot, and decides what follows.
    fn report_exit(
        &self,
        task_id: &Arc<str>,
        pid: u32,
        exit: WorkerExit,
        ts: Timestamp,
    ) -> Option<Next> {
        let mut state = self.lock();
        let State {
            tasks,
            topics,
            pool,
            workers,
            closing,
            ..
        } = &mut *state;
        *workers -= 1;
        let task = tasks.get_mut(task_id)?;
        let intentional = task.exited(exit, ts);
        let next = if *closing {
            Next::End
        } else {
            task.decide(Instant::now(), fraction())
        };
        let holds = task.hold_on_restart && matches!(next, Next::Restart { .. });
        if !holds {
            pool.release(task_id);
        }
        let action = Arc::clone(&task.action);
        if let Some(topic) = topics.get(task_id) {
            topic.close(Event::Exited {
                ts,
                exit,
                intentional,
            });
        }
        self.0.counters.action(&action).completed();
        self.announce_exit(&state, task_id, pid, exit, intentional, ts);
        tracing::info!(task = %task_id, pid, code = exit.code, signal = exit.signal, intentional, "exited");
        Some(next)
    }

    fn announce_exit(
        &self,
        state: &State,
        task_id: &str,
        pid: u32,
        exit: WorkerExit,
        intentional: bool,
        ts: Timestamp,
    ) {
        let task_id = task_id.to_owned();
        if let Some(store) = &self.0.outlets.store {
            let WorkerExit {
                code: exit_code,
                signal,
                ..
            } = exit;
            store.exited(RunExited {
                task_id: task_id.clone(),
                pid,
                exit_code: Some(exit_code),
                signal,
                intentional,
                exited_at: ts,
                outcome: Outcome::Exited,
            });
        }
        let message = Message::Exited {
            task_id: task_id.clone(),
            pid,
            exit_code: exit.code,
            intentional,
            ts,
            signal: exit.signal,
            out_of_memory: exit.out_of_memory,
        };
        state.announce(&task_id, &message);
        self.log_event(&message);
    }

    /// Carries out what was decided, unless a stop came in between.
    fn settle(&self, task_id: &Arc<str>, pid: u32, next: Next, ts: Timestamp) {
        let mut state = self.lock();
        let next = if state.closing { Next::End } else { next };
        let Some(task) = state.tasks.get_mut(task_id) else {
            return;
        };
        let next = task.settle(next, || self.timer(task_id, next));
        let action = Arc::clone(&task.action);
        if !matches!(next, Next::Restart { .. }) && state.pool.release(task_id) {
            // It held its slot for a restart that a stop has cancelled.
            tokio::spawn(self.clone().admit_waiting());
        }
        match next {
            Next::End => self.finished(&mut state, task_id),
            Next::GiveUp { exit_count } => {
                self.0.counters.action(&action).errored();
                tracing::warn!(task = %task_id, exit_count, "errored");
                state.announce(
                    task_id,
                    &Message::Errored {
                        task_id: task_id.to_string(),
                        pid,
                        exit_count,
                        ts,
                    },
                );
                self.finished(&mut state, task_id);
            }
            Next::Restart { delay, attempt } => {
                self.0.counters.action(&action).restarted();
                let message = Message::Restarting {
                    task_id: task_id.to_string(),
                    pid,
                    restart_delay: delay,
                    attempt,
                    ts,
                };
                state.announce(task_id, &message);
            }
        }
    }

    /// Starts the clock of a restart.
    fn timer(&self, task_id: &Arc<str>, next: Next) -> Timer {
        let (hub, task_id) = (self.clone(), Arc::clone(task_id));
        let (wait, attempt) = match next {
            Next::Restart { delay, attempt } => (retry::effective_wait(delay), attempt),
            Next::End | Next::GiveUp { .. } => unreachable!("only a restart has a clock"),
        };
        let clock = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // In a task of its own: leaving the delay aborts this one.
            tokio::spawn(async move { hub.restart(&task_id, attempt).await });
        });
        Timer(clock.abort_handle())
    }

    /// The delay is over. The task may have been stopped, removed or replaced meanwhile.
    async fn restart(&self, task_id: &Arc<str>, attempt: u64) {
        if let Some(launch) = self.begin_restart(task_id, attempt) {
            // A failure was reported by `launch` as `errored`; somebody may wait for the slot.
            if self.launch(launch).await.is_err() {
                self.clone().admit_waiting().await;
            }
        }
    }

    fn begin_restart(&self, task_id: &Arc<str>, attempt: u64) -> Option<Launch> {
        let mut state = self.lock();
        let State {
            tasks,
            topics,
            pool,
            workers,
            closing,
            ..
        } = &mut *state;
        let task = tasks.get_mut(task_id).filter(|_| !*closing)?;
        if !matches!(task.state, TaskState::Delay(_)) || task.restarts + 1 != attempt {
            return None;
        }
        let topic = topics.get(task_id).map(Arc::clone)?;
        pool.hold(task_id, &task.action);
        *workers += 1;
        let occasion = Occasion::Restart {
            of: task.pid,
            attempt,
        };
        Some(Launch::again(task, topic, occasion))
    }
}

/// A number in `[0, 1)` for the jitter of a restart.
fn fraction() -> f64 {
    let (_, bits) = uuid::Uuid::new_v4().as_u64_pair();
    // The low 52 bits of a version 4 UUID are random.
    #[expect(clippy::cast_precision_loss, reason = "52 bits fit a double exactly")]
    let fraction = (bits & ((1 << 52) - 1)) as f64 / (1u64 << 52) as f64;
    fraction
}
