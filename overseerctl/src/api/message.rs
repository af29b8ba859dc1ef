//! What the hub sends: one enum whose variants are the `type` words of the wire, in the wire's key order.

use serde::{Deserialize, Serialize};

use super::types::{ActionInfo, ActionMetrics, GlobalMetrics, PoolInfo, TaskInfo, TaskMetrics};
use crate::time::Timestamp;

/// Which of a worker's two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A message from the hub to a client.
///
/// The first seventeen are sticky-overseer v2's; those after `Error` are extensions and only go to a connection that
/// asked for them with `hello`, or as the direct reply to an extension request.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// A worker runs. `id` is the starter's, empty for automatic restarts.
    Started {
        /// Correlation id of the start.
        id: String,
        /// The task.
        task_id: String,
        /// Of the new worker; 0 for a virtual one.
        pid: u32,
        /// Pid of the worker it replaces, for automatic restarts.
        #[serde(skip_serializing_if = "is_zero")]
        restart_of: u32,
        /// When it started.
        ts: Timestamp,
    },
    /// One line of output.
    Output {
        /// The task.
        task_id: String,
        /// The worker that wrote it.
        pid: u32,
        /// Where it wrote it.
        stream: OutputStream,
        /// The line without its end.
        data: String,
        /// When it was read.
        ts: Timestamp,
        /// Place in the task's output, from 1, over both streams and all restarts.
        #[serde(skip_serializing_if = "is_zero_u64")]
        seq: u64,
        /// Extension: the line was longer than the limit and its tail is missing.
        #[serde(skip_serializing_if = "is_false")]
        truncated: bool,
    },
    /// A worker ended.
    Exited {
        /// The task.
        task_id: String,
        /// The worker.
        pid: u32,
        /// Its code; -1 for death by signal.
        exit_code: i32,
        /// Whether somebody had asked it to stop.
        intentional: bool,
        /// When it ended.
        ts: Timestamp,
        /// Extension: the signal that killed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Extension: its control group ran out of memory.
        #[serde(skip_serializing_if = "is_false")]
        out_of_memory: bool,
    },
    /// A restart is scheduled.
    Restarting {
        /// The task.
        task_id: String,
        /// The worker that ended.
        pid: u32,
        /// Time until the restart, jitter included.
        restart_delay: crate::duration::GoDuration,
        /// Number of this restart, from 1.
        attempt: u64,
        /// Same as its `exited`.
        ts: Timestamp,
    },
    /// The task gave up.
    Errored {
        /// The task.
        task_id: String,
        /// The worker that ended last.
        pid: u32,
        /// Exits counted against the threshold.
        exit_count: usize,
        /// Same as its `exited`.
        ts: Timestamp,
    },
    /// A start has to wait.
    Queued {
        /// Correlation id of the start.
        id: String,
        /// The task.
        task_id: String,
        /// Its action.
        action: String,
        /// Depth of the queue after insertion.
        position: usize,
        /// When.
        ts: Timestamp,
    },
    /// A waiting start is gone without having run.
    Dequeued {
        /// The task.
        task_id: String,
        /// Why.
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
        /// When.
        ts: Timestamp,
    },
    /// A pool's limits changed.
    PoolUpdated {
        /// The action; empty for the global pool.
        #[serde(skip_serializing_if = "String::is_empty")]
        action: String,
        /// As it is now.
        pool: PoolInfo,
    },
    /// Reply to `list`.
    Tasks {
        /// Correlation id.
        id: String,
        /// All tasks, running, ended and queued.
        tasks: Vec<TaskInfo>,
    },
    /// Reply to `describe`.
    Actions {
        /// Correlation id.
        id: String,
        /// The actions, by name.
        actions: Vec<ActionInfo>,
    },
    /// Reply to `pool_info` and `set_pool`.
    PoolInfo {
        /// Correlation id.
        id: String,
        /// The action; empty for the global pool.
        #[serde(skip_serializing_if = "String::is_empty")]
        action: String,
        /// As it is now.
        pool: PoolInfo,
    },
    /// Reply to `purge`.
    Purged {
        /// Correlation id.
        id: String,
        /// The action; empty for all queues.
        #[serde(skip_serializing_if = "String::is_empty")]
        action: String,
        /// Waiting starts removed.
        count: usize,
    },
    /// Reply to `metrics`; none of the three when the action or task is unknown.
    Metrics {
        /// Correlation id.
        id: String,
        /// Without action and task.
        #[serde(skip_serializing_if = "Option::is_none")]
        global: Option<GlobalMetrics>,
        /// Of the action asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        action: Option<ActionMetrics>,
        /// Of the task asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        task: Option<TaskMetrics>,
    },
    /// Reply to `subscribe`.
    Subscribed {
        /// Correlation id.
        id: String,
        /// The task.
        task_id: String,
    },
    /// Reply to `unsubscribe`.
    Unsubscribed {
        /// Correlation id.
        id: String,
        /// The task.
        task_id: String,
    },
    /// Reply to `manifest`.
    Manifest {
        /// Correlation id.
        id: String,
        /// The document, also at `/ws/manifest`.
        manifest: serde_json::Value,
    },
    /// A request was refused.
    Error {
        /// Correlation id; empty when the request had none.
        id: String,
        /// Why.
        message: String,
        /// The running task that a start would duplicate.
        #[serde(skip_serializing_if = "String::is_empty")]
        existing_task_id: String,
    },
    /// Extension: reply to `hello`.
    Hello {
        /// Correlation id.
        id: String,
        /// Name of this program.
        server: &'static str,
        /// Its version.
        version: &'static str,
        /// Of the features asked for, those that this connection now has.
        features: Vec<&'static str>,
    },
    /// Extension (feature `acks`): reply to `stop`.
    Stopping {
        /// Correlation id.
        id: String,
        /// The task.
        task_id: String,
        /// What it is doing now.
        phase: super::types::Phase,
    },
    /// Extension (feature `acks`): the end of a replay.
    ReplayEnd {
        /// Correlation id.
        id: String,
        /// The task.
        task_id: String,
        /// Messages replayed.
        count: usize,
        /// Lowest seq replayed; 0 if none.
        first_seq: u64,
        /// Highest seq replayed; 0 if none.
        last_seq: u64,
    },
    /// Extension: reply to `remove`.
    Removed {
        /// Correlation id.
        id: String,
        /// The task.
        task_id: String,
    },
    /// Extension (feature `task_events`): a finished task was forgotten, by `remove` or by retention.
    TaskRemoved {
        /// The task.
        task_id: String,
        /// When.
        ts: Timestamp,
    },
    /// Extension (feature `lagged`): output was dropped for this client because it reads too slowly.
    Lagged {
        /// The task.
        task_id: String,
        /// Lines it did not get.
        dropped: u64,
        /// When.
        ts: Timestamp,
    },
    /// Extension: reply to `history`, exits from the store.
    History {
        /// Correlation id.
        id: String,
        /// Runs, newest first.
        runs: Vec<crate::store::Run>,
    },
}

impl Message {
    /// A refusal of the request `id`.
    pub fn error(id: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Error {
            id: id.into(),
            message: message.into(),
            existing_task_id: String::new(),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_false(b: &bool) -> bool {
    !*b
}
