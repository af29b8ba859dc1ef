//! What is recorded and what is read back: runs of workers, and starts that wait.

use serde::{Deserialize, Serialize};

use crate::api::Params;
use crate::time::Timestamp;

/// How a run ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its worker has not ended.
    Running,
    /// Its worker ended, with an exit code or by a signal.
    Exited,
    /// Nobody knows: the daemon ended before it did.
    Lost,
    /// Its worker could not be started.
    Failed,
}

impl Outcome {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }

    /// The outcome with this word.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Running, Self::Exited, Self::Lost, Self::Failed]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

/// A worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStarted {
    /// Its task.
    pub task_id: String,
    /// The task's action.
    pub action: String,
    /// As the start sent them.
    pub params: Params,
    /// 0 for a virtual worker.
    pub pid: u32,
    /// Pid of the worker that it replaces after an automatic restart; 0 otherwise.
    pub restart_of: u32,
    /// When it started.
    pub started_at: Timestamp,
}

/// A worker has ended. Task and pid tell which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunExited {
    /// Its task.
    pub task_id: String,
    /// As in its [`RunStarted`].
    pub pid: u32,
    /// Its code, -1 for death by a signal; absent if it is not known.
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether somebody had asked it to stop.
    pub intentional: bool,
    /// When it ended.
    pub exited_at: Timestamp,
    /// Normally [`Outcome::Exited`]; [`Outcome::Lost`] for a worker that the daemon gave up on.
    pub outcome: Outcome,
}

/// A worker could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFailed {
    /// Its task.
    pub task_id: String,
    /// The task's action.
    pub action: String,
    /// As the start sent them.
    pub params: Params,
    /// Pid of the worker that it was to replace after an automatic restart; 0 otherwise.
    pub restart_of: u32,
    /// Why.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

/// One worker's life, as history tells it. Absent fields are left out on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its task.
    pub task_id: String,
    /// The task's action.
    pub action: String,
    /// As the start sent them.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// 0 for a virtual worker, and for one that could not be started.
    pub pid: u32,
    /// Pid of the worker that it replaced after an automatic restart; 0, and left out, otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restart_of: u32,
    /// When it started, or failed to.
    pub started_at: Timestamp,
    /// When it ended; absent if it has not, or if nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_at: Option<Timestamp>,
    /// Its code; -1 for death by a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether somebody had asked it to stop.
    pub intentional: bool,
    /// How it ended, or that it has not.
    pub outcome: Outcome,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<RunStarted> for Run {
    fn from(started: RunStarted) -> Self {
        Self {
            task_id: started.task_id,
            action: started.action,
            params: started.params,
            pid: started.pid,
            restart_of: started.restart_of,
            started_at: started.started_at,
            exited_at: None,
            exit_code: None,
            signal: None,
            intentional: false,
            outcome: Outcome::Running,
            error: None,
        }
    }
}

impl From<RunFailed> for Run {
    fn from(failed: RunFailed) -> Self {
        Self {
            task_id: failed.task_id,
            action: failed.action,
            params: failed.params,
            pid: 0,
            restart_of: failed.restart_of,
            started_at: failed.at,
            exited_at: Some(failed.at),
            exit_code: None,
            signal: None,
            intentional: false,
            outcome: Outcome::Failed,
            error: Some(failed.error),
        }
    }
}

/// How a run ended, for a run that is known already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunEnd {
    pub(super) exited_at: Option<Timestamp>,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) intentional: bool,
    pub(super) outcome: Outcome,
}

impl RunEnd {
    /// Nobody saw it.
    pub(super) const LOST: Self = Self {
        exited_at: None,
        exit_code: None,
        signal: None,
        intentional: false,
        outcome: Outcome::Lost,
    };

    pub(super) fn apply(self, run: &mut Run) {
        run.exited_at = self.exited_at;
        run.exit_code = self.exit_code;
        run.signal = self.signal;
        run.intentional = self.intentional;
        run.outcome = self.outcome;
    }
}

/// A start that waits in a pool queue, with all that is needed to queue it again.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedStart {
    /// Its task.
    pub task_id: String,
    /// The task's action.
    pub action: String,
    /// As the start sent them.
    pub params: Params,
    /// As the start sent it.
    pub retry_policy: Option<serde_json::Value>,
    /// Whether the start said `force`.
    pub forced: bool,
    /// Correlation id of the start.
    pub id: String,
    /// When it was queued.
    pub queued_at: Timestamp,
}

/// Which runs are asked for. The default asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryQuery {
    /// Only those of this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Only those of this action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// So many at most, the newest; 0 is no limit.
    pub limit: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_left_out_on_the_wire_and_may_be_missing() {
        let started_at = "2026-02-21T03:24:40Z".parse().unwrap();
        let run = Run::from(RunStarted {
            task_id: "t".into(),
            action: "a".into(),
            params: Params::new(),
            pid: 7,
            restart_of: 0,
            started_at,
        });
        let text = r#"{"task_id":"t","action":"a","pid":7,"started_at":"2026-02-21T03:24:40Z","intentional":false,"outcome":"running"}"#;
        assert_eq!(serde_json::to_string(&run).unwrap(), text);
        assert_eq!(serde_json::from_str::<Run>(text).unwrap(), run);
    }

    #[test]
    fn outcomes_are_stored_by_the_words_of_the_wire() {
        for outcome in [
            Outcome::Running,
            Outcome::Exited,
            Outcome::Lost,
            Outcome::Failed,
        ] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
            assert_eq!(Outcome::from_word(outcome.as_str()), Some(outcome));
        }
    }
}
