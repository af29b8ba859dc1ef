//! One task: a value with a phase, and what each event makes of it. No clock, no process, no socket lives here; the hub
//! performs what the methods return.
//!
//! ```text
//!                    spawned                exited                     nothing follows
//!   start ─▶ Starting ──────▶ Running ──────────────▶ Settling ────────────────────────▶ Done
//!               │  ▲             │ stop                  │  ├── threshold reached ─────▶ Errored ─┐ reset
//!               │  │             ▼                       │  ├── was stopped ───────────▶ Stopped  │
//!               │  │          Stopping ──── exited ──────┘  └── retry ─▶ Delay ─┐ stop ▶ Stopped  │
//!               │  └──────────────────────── timer ─────────────────────────────┘                 │
//!               │  ▲                                                                               │
//!               │  └───────────────────────────────────────────────────────────────────────────────┘
//!               └── spawn failed: forgotten (first start) or Errored (restart, reset)
//! ```
//!
//! `stop` is accepted in every phase: a worker that is still starting is stopped as soon as it exists; a task without
//! a worker just becomes Stopped. Clients of v2 see Settling, Delay and Done as `active`, Stopping as `stopped`.

use std::{sync::Arc, time::Instant};

use tokio::task::AbortHandle;

use crate::{
    api::{Params, Phase, RetryPolicy, TaskInfo, TaskMetrics, TaskState, WorkerState},
    driver::{Driver, StopHandle, StopLevel, WorkerExit},
    retry::{self, Decision, ExitHistory},
    time::Timestamp,
};

/// Restart that waits for its time; dropping it cancels it.
#[derive(Debug)]
pub struct Timer(pub AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the task is doing, with what belongs to that.
#[derive(Debug)]
pub enum State {
    /// Its worker is being started.
    Starting(StopHandle),
    /// Its worker runs.
    Running(StopHandle),
    /// Its worker was asked to stop.
    Stopping(StopHandle),
    /// Its worker has ended; what follows is decided, but others come first.
    Settling,
    /// Waiting for its restart.
    Delay(Timer),
    /// Ended by itself.
    Done,
    /// Stopped on request.
    Stopped,
    /// Gave up.
    Errored,
}

/// One task.
pub struct Task {
    /// Its id.
    pub id: Arc<str>,
    /// Its action.
    pub action: Arc<str>,
    /// What its action ran when it was started; a reload does not change it.
    pub driver: Arc<dyn Driver>,
    /// As sent.
    pub params: Arc<Params>,
    /// As sent, or the action's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Whether it keeps its pool slot while it waits for a restart.
    pub hold_on_restart: bool,
    /// What makes another start a duplicate of it.
    pub fingerprint: Option<String>,
    /// What it is doing.
    pub state: State,
    /// Pid of the newest worker.
    pub pid: u32,
    /// Whether it ever had a worker.
    pub had_worker: bool,
    /// Automatic restarts so far.
    pub restarts: u64,
    /// Restarts scheduled so far.
    pub restarts_scheduled: u64,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// Start of the newest worker.
    pub started_at: Option<Timestamp>,
    /// The same on the clock that never jumps.
    started: Instant,
    /// End of the newest worker that ended.
    pub exited_at: Option<Timestamp>,
    /// Exit of the newest worker.
    pub exit: Option<WorkerExit>,
    /// Exit code of the worker that ended last, of whichever run.
    last_code: i32,
    /// Wall-clock time of all ended workers.
    runtime_ms: u64,
    /// Exits counted when it gave up.
    pub exit_count: usize,
    /// Why a start of it failed last.
    pub error: String,
    history: ExitHistory,
    intentional: bool,
}

/// What a `stop` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A worker is ending.
    Signalled,
    /// There was no worker to end.
    AtOnce,
}

/// What follows the end of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Nothing.
    End,
    /// The task gave up.
    GiveUp {
        /// Exits counted.
        exit_count: usize,
    },
    /// A restart.
    Restart {
        /// After this long.
        delay: crate::duration::GoDuration,
        /// Its number.
        attempt: u64,
    },
}

impl Task {
    /// A task whose first worker is being started.
    pub fn starting(plan: &Plan, stop: StopHandle) -> Self {
        Self {
            id: Arc::clone(&plan.task_id),
            action: Arc::clone(&plan.action),
            driver: Arc::clone(&plan.driver),
            params: Arc::clone(&plan.params),
            retry: plan.retry.clone(),
            hold_on_restart: plan.hold_on_restart,
            fingerprint: plan.fingerprint.clone(),
            state: State::Starting(stop),
            pid: 0,
            had_worker: false,
            restarts: 0,
            restarts_scheduled: 0,
            created_at: Timestamp::now(),
            started_at: None,
            started: Instant::now(),
            exited_at: None,
            exit: None,
            last_code: 0,
            runtime_ms: 0,
            exit_count: 0,
            error: String::new(),
            history: ExitHistory::default(),
            intentional: false,
        }
    }

    /// The phase as a word.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Starting(_) => Phase::Starting,
            State::Running(_) => Phase::Running,
            State::Stopping(_) => Phase::Stopping,
            State::Settling => Phase::Settling,
            State::Delay(_) => Phase::Delay,
            State::Done => Phase::Done,
            State::Stopped => Phase::Stopped,
            State::Errored => Phase::Errored,
        }
    }

    /// Whether it will do nothing more unless somebody asks.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Done | State::Stopped | State::Errored)
    }

    /// Whether it has a worker, or will soon.
    pub fn has_worker(&self) -> bool {
        matches!(
            self.state,
            State::Starting(_) | State::Running(_) | State::Stopping(_)
        )
    }

    /// Its worker runs with this pid.
    pub fn spawned(&mut self, pid: u32, at: Timestamp) {
        self.pid = pid;
        self.had_worker = true;
        self.exit = None;
        self.started_at = Some(at);
        self.started = Instant::now();
        self.error.clear();
        let state = std::mem::replace(&mut self.state, State::Settling);
        self.state = match state {
            State::Starting(stop) if self.intentional => State::Stopping(stop),
            State::Starting(stop) => State::Running(stop),
            other => other,
        };
    }

    /// Another worker of it is being started, for a restart or a reset.
    pub fn starting_again(&mut self, stop: StopHandle) {
        self.intentional = false;
        self.state = State::Starting(stop);
    }

    /// A reset: old exits no longer count.
    pub fn forget_exits(&mut self) {
        self.history = ExitHistory::default();
    }

    /// A restart or a reset could not start a worker.
    pub fn spawn_failed(&mut self, error: &str) {
        error.clone_into(&mut self.error);
        self.state = if self.intentional {
            State::Stopped
        } else {
            State::Errored
        };
    }

    /// Somebody wants it to end.
    pub fn stop(&mut self, level: StopLevel) -> Stopped {
        self.intentional = true;
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Running(stop) | State::Stopping(stop) => {
                stop.raise(level);
                State::Stopping(stop)
            }
            State::Starting(stop) => {
                stop.raise(level);
                State::Starting(stop)
            }
            State::Settling => State::Settling,
            State::Delay(_) | State::Done | State::Stopped | State::Errored => State::Stopped,
        };
        if self.has_worker() {
            Stopped::Signalled
        } else {
            Stopped::AtOnce
        }
    }

    /// Its worker ended. Returns whether that was asked for.
    pub fn exited(&mut self, exit: WorkerExit, at: Timestamp) -> bool {
        self.state = State::Settling;
        self.exit = Some(exit);
        self.last_code = exit.code;
        if exit.out_of_memory {
            "out of memory: the limit of its control group was reached".clone_into(&mut self.error);
        }
        self.exited_at = Some(at);
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.runtime_ms = self.runtime_ms.saturating_add(elapsed);
        self.intentional
    }

    /// What is to follow the exit; `random` is in `[0, 1)`. Asked once per exit.
    pub fn decide(&mut self, now: Instant, random: f64) -> Next {
        let (false, Some(policy), Some(exit)) = (self.intentional, &self.retry, self.exit) else {
            return Next::End;
        };
        let ended = retry::Exit {
            code: exit.code,
            signalled: exit.signal.is_some(),
        };
        match retry::decide(policy, &mut self.history, ended, self.restarts, now, random) {
            Decision::End => Next::End,
            Decision::GiveUp { exit_count } => Next::GiveUp { exit_count },
            Decision::Restart { delay, attempt } => Next::Restart { delay, attempt },
        }
    }

    /// Carries out what was decided, unless it was stopped meanwhile. `timer` starts the clock of a restart.
    pub fn settle(&mut self, next: Next, timer: impl FnOnce() -> Timer) -> Next {
        let next = if self.intentional { Next::End } else { next };
        self.state = match next {
            Next::End if self.intentional => State::Stopped,
            Next::End => State::Done,
            Next::GiveUp { exit_count } => {
                self.exit_count = exit_count;
                State::Errored
            }
            Next::Restart { .. } => {
                self.restarts_scheduled += 1;
                State::Delay(timer())
            }
        };
        next
    }

    /// As `tasks` shows it.
    pub fn info(&self) -> TaskInfo {
        let phase = self.phase();
        TaskInfo {
            task_id: Arc::clone(&self.id),
            action: Arc::clone(&self.action),
            params: Arc::clone(&self.params),
            queued_at: None,
            state: self.wire_state(),
            retry_policy: self.retry.clone(),
            current_pid: self.pid,
            worker_state: self.had_worker.then(|| self.worker_state()),
            restart_count: self.restarts,
            created_at: self.created_at,
            last_started_at: self.started_at,
            last_exited_at: self.exited_at,
            last_exit_code: self.exit.map(|exit| exit.code),
            error_message: self.error.clone(),
            phase: Some(phase),
        }
    }

    /// As the `metrics` message shows it; `lines` is its topic's count.
    pub fn metrics(&self, lines: u64) -> TaskMetrics {
        TaskMetrics {
            output_lines: lines,
            restart_count: self.restarts_scheduled,
            runtime_ms: self.runtime_ms,
            last_exit_code: self.last_code,
        }
    }

    fn wire_state(&self) -> TaskState {
        match self.state {
            State::Errored => TaskState::Errored,
            State::Stopped | State::Stopping(_) => TaskState::Stopped,
            _ if self.intentional => TaskState::Stopped,
            _ => TaskState::Active,
        }
    }

    fn worker_state(&self) -> WorkerState {
        match self.state {
            State::Running(_) | State::Stopping(_) => WorkerState::Running,
            _ => WorkerState::Exited,
        }
    }
}

/// Everything needed to start a task for the first time.
#[derive(Clone)]
pub struct Plan {
    /// Its id.
    pub task_id: Arc<str>,
    /// Its action.
    pub action: Arc<str>,
    /// What runs it.
    pub driver: Arc<dyn Driver>,
    /// As sent.
    pub params: Arc<Params>,
    /// As sent, or the action's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// See [`Task::hold_on_restart`].
    pub hold_on_restart: bool,
    /// See [`Task::fingerprint`].
    pub fingerprint: Option<String>,
}
