//! Values that messages carry: tasks, actions, pools, retry policies, counters.
//!
//! Serialisation follows Go's `encoding/json` as the original uses it: `omitempty` fields vanish when zero, durations
//! are strings such as `1m30s`, timestamps RFC 3339 with up to nine fractional digits.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{duration::GoDuration, time::Timestamp};

/// Action parameters by name. Ordered, so that error messages and template ranges come out the same every time.
pub type Params = BTreeMap<String, String>;

/// State of a task as clients see it.
///
/// A task that ended by itself stays `active`, with [`WorkerState::Exited`]; there is no "completed".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Accepted: starting, running, waiting for a restart, or ended by itself.
    Active,
    /// Somebody asked it to stop.
    Stopped,
    /// The retry policy's threshold was reached; `reset` starts it again.
    Errored,
    /// Waiting in a pool queue.
    Queued,
}

/// Whether the task's newest worker still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// The process, or the virtual worker, is alive.
    Running,
    /// It has ended and its exit was reported.
    Exited,
}

/// What a task is really doing: finer than [`TaskState`], an added field of `tasks` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waiting in a pool queue.
    Queued,
    /// Its worker is being started.
    Starting,
    /// Its worker runs.
    Running,
    /// Its worker was asked to stop and has not ended yet.
    Stopping,
    /// Its worker has ended and the hub is deciding what follows.
    Settling,
    /// Waiting for its restart delay to pass.
    Delay,
    /// Ended by itself, and nothing follows.
    Done,
    /// Stopped on request.
    Stopped,
    /// Gave up; see [`TaskState::Errored`].
    Errored,
}

impl Phase {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Settling => "settling",
            Self::Delay => "delay",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Errored => "errored",
        }
    }
}

/// When a worker that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// After every exit, code 0 included, as sticky-overseer does.
    #[default]
    Always,
    /// Only after an exit code outside `success_exit_codes`.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartMode {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde's skip_serializing_if hands over a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::Always
    }
}

/// Exponential growth of the restart delay, with a cap (an extension).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// Each further exit multiplies the delay by this; at least 1.
    pub factor: f64,
    /// The delay never exceeds this; zero means five minutes.
    #[serde(default, skip_serializing_if = "GoDuration::is_zero")]
    pub max: GoDuration,
}

/// Automatic restarts of one task.
///
/// An empty policy restarts for ever without delay; no policy at all never restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RetryPolicy {
    /// Pause before a restart.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub restart_delay: GoDuration,
    /// A uniform random part of `[0, restart_jitter)` is added to every delay.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub restart_jitter: GoDuration,
    /// Only exits within this window count towards the threshold; zero counts all.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub error_window: GoDuration,
    /// So many counted exits make the task errored; zero or less never does.
    #[serde(skip_serializing_if = "is_zero")]
    pub error_threshold: i64,
    /// Extension: which exits are followed by a restart.
    #[serde(skip_serializing_if = "RestartMode::is_default")]
    pub restart: RestartMode,
    /// Extension: exit codes that mean success; empty means just 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success_exit_codes: Vec<i32>,
    /// Extension: growth of the delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

impl RetryPolicy {
    /// Whether no field is set, so that a configuration that merely mentions `retry` asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Limit and queue of one pool: the global one, or an action's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolConfig {
    /// So many tasks run at once; zero or less is unlimited.
    pub limit: i64,
    /// Absent means "as the global pool says".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueConfig>,
    /// What becomes of running tasks when the limit is lowered below their number.
    pub excess: ExcessConfig,
    /// Extension: a task that waits for a restart keeps its slot, so that the limit holds over restarts too.
    #[serde(skip_serializing_if = "is_false")]
    pub hold_on_restart: bool,
}

/// Queue of one pool. The strings are as configured: `order` is `first` or `last` (empty means `first`), `displace`
/// is `true`, `false` or `prohibit` (empty allows it).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Whether starts over the limit wait instead of being refused.
    pub enabled: bool,
    /// So many may wait; zero or less is unlimited.
    pub size: i64,
    /// Which end is admitted first.
    pub order: String,
    /// Seconds after which a waiting start is dropped; zero never.
    pub max_age: i64,
    /// Whether a full queue makes room by dropping its oldest item.
    pub displace: String,
}

/// How a lowered limit is enforced, as configured: `action` is `stop` or `requeue` (treated as `stop`), `order` is
/// `first` (oldest first, the default) or `last`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExcessConfig {
    /// `stop` or `requeue`.
    pub action: String,
    /// `first` or `last`.
    pub order: String,
    /// Seconds between SIGTERM and SIGKILL for tasks stopped this way; zero means the daemon's own grace.
    pub grace: i64,
}

/// One parameter of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Value when the start does not name it; absent means the parameter is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// CEL expression over `value`; empty accepts everything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub validate: String,
}

/// One action as `describe` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ActionInfo {
    /// Its name in the configuration.
    pub name: String,
    /// Kind of its driver, such as `exec`.
    #[serde(rename = "type")]
    pub kind: String,
    /// From `meta.description`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Declared parameters; `null` for one that is required and unchecked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Option<ParamSpec>>,
    /// Its pool, as now in force.
    pub task_pool: PoolConfig,
    /// Retry policy of its tasks unless a start brings its own; always present for exec actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Parameters that make two starts duplicates of each other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dedupe_key: Vec<String>,
}

/// One row of `tasks`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskInfo {
    /// Its id.
    pub task_id: Arc<str>,
    /// Its action's name.
    pub action: Arc<str>,
    /// Parameters as sent, defaults not applied.
    #[serde(skip_serializing_if = "no_params")]
    pub params: Arc<Params>,
    /// Only for queued rows; rendered in the daemon's local zone, as the original does.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "crate::time::local_option"
    )]
    pub queued_at: Option<Timestamp>,
    /// State as v2 knows it.
    pub state: TaskState,
    /// As the start sent it, or as the configuration made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Pid of the newest worker; stays after its exit, absent for virtual workers.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub current_pid: u32,
    /// Absent until there has been a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_state: Option<WorkerState>,
    /// Automatic restarts so far.
    pub restart_count: u64,
    /// When it was admitted; Go's zero time for queued rows.
    pub created_at: Timestamp,
    /// Start of the newest worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_started_at: Option<Timestamp>,
    /// End of the newest worker that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exited_at: Option<Timestamp>,
    /// Exit code of the newest worker, once it has ended; -1 for death by signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
    /// Why the last start, restart or reset failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_message: String,
    /// Extension: what it is really doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// State of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PoolInfo {
    /// Limit in force; zero or less is unlimited.
    pub limit: i64,
    /// Slots taken.
    pub running: usize,
    /// Waiting starts.
    pub queue_depth: usize,
    /// The waiting starts, oldest first in each queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue_items: Vec<QueueItemInfo>,
}

/// One waiting start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueItemInfo {
    /// Its task id.
    pub task_id: String,
    /// Its action.
    pub action: String,
    /// When it was queued; rendered in the daemon's local zone.
    #[serde(with = "crate::time::local")]
    pub queued_at: Timestamp,
    /// Place in its queue, from 0.
    pub position: usize,
    /// Whether the start said `force`.
    pub forced: bool,
}

/// Counters of the whole daemon since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GlobalMetrics {
    /// Tasks started, restarts and resets not counted.
    pub tasks_started: u64,
    /// Workers that ended.
    pub tasks_completed: u64,
    /// Tasks that became errored.
    pub tasks_errored: u64,
    /// Restarts scheduled.
    pub tasks_restarted: u64,
    /// Lines delivered.
    pub total_output_lines: u64,
    /// Starts that had to wait.
    pub enqueued: u64,
    /// Waiting starts removed without being run, for whatever reason.
    pub dequeued: u64,
    /// Of those, the ones that made room for another.
    pub displaced: u64,
    /// Of those, the ones that waited too long.
    pub expired: u64,
}

/// Counters of one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ActionMetrics {
    /// See [`GlobalMetrics::tasks_started`].
    pub tasks_started: u64,
    /// See [`GlobalMetrics::tasks_completed`].
    pub tasks_completed: u64,
    /// See [`GlobalMetrics::tasks_errored`].
    pub tasks_errored: u64,
    /// See [`GlobalMetrics::tasks_restarted`].
    pub tasks_restarted: u64,
    /// See [`GlobalMetrics::total_output_lines`].
    pub total_output_lines: u64,
}

/// Counters of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskMetrics {
    /// Lines delivered.
    pub output_lines: u64,
    /// Restarts scheduled.
    pub restart_count: u64,
    /// Wall-clock time of all its ended workers, in milliseconds.
    pub runtime_ms: u64,
    /// Of the worker that ended last.
    pub last_exit_code: i32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_false(b: &bool) -> bool {
    !*b
}

fn no_params(params: &Arc<Params>) -> bool {
    params.is_empty()
}
