//! What a client understands of a hub's messages: only the fields that it uses, all optional, so that older and newer
//! hubs and sticky-overseer are read alike. The full vocabulary is [`crate::api`]'s.

use std::{collections::BTreeMap, fmt};

use runyard_common::{exit::Exit, report::Failure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tungstenite::Utf8Bytes;

use crate::{api::OutputStream, time::Timestamp};

/// A message as it came, with what is needed to tell whom it is for.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its `type`.
    pub kind: String,
    /// Correlation id; empty for what nobody asked for.
    pub id: String,
    /// The task it is about; empty if none.
    pub task_id: String,
    text: Utf8Bytes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    task_id: String,
}

impl Received {
    /// Reads the head of a message.
    pub fn decode(text: Utf8Bytes) -> Result<Self, Failure> {
        let Head { kind, id, task_id } =
            serde_json::from_str(&text).map_err(|error| undecodable(&text, error))?;
        Ok(Self {
            kind,
            id,
            task_id,
            text,
        })
    }

    /// Reads the rest of it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| undecodable(&self.text, error))
    }

    /// One field of it; null if it has none of this name.
    pub fn field(&self, name: &str) -> Result<Value, Failure> {
        let mut whole: serde_json::Map<String, Value> = self.read()?;
        Ok(whole.remove(name).unwrap_or_default())
    }

    /// The rows of a `tasks` reply, oldest first, waiting ones last: a sticky-overseer sends them in no order.
    pub fn tasks(&self) -> Result<Vec<Task>, Failure> {
        let rows = match self.field("tasks")? {
            Value::Array(rows) => rows,
            _ => Vec::new(),
        };
        let mut tasks = rows
            .into_iter()
            .map(Task::of)
            .collect::<Result<Vec<_>, _>>()?;
        tasks.sort_by_cached_key(|task| {
            let begin = task.queued_at.as_deref().unwrap_or(&task.created_at);
            let begin = begin.parse::<Timestamp>().ok();
            (task.queued_at.is_some(), begin, task.task_id.clone())
        });
        Ok(tasks)
    }

    /// The message as it came, without the line feed.
    pub fn json(&self) -> &str {
        self.text.trim_end()
    }
}

fn undecodable(text: &str, error: serde_json::Error) -> Failure {
    let start: String = text.chars().take(80).collect();
    Failure::new(
        Exit::Failed,
        format!("the hub sent a message that cannot be read: {start}"),
    )
    .caused_by(error)
}

/// A worker runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Started {
    /// The task.
    pub task_id: String,
    /// The worker; 0 for a virtual one.
    pub pid: u32,
    /// The worker that it replaces, after an automatic restart.
    #[serde(skip_serializing_if = "is_zero")]
    pub restart_of: u32,
    /// When.
    pub ts: String,
}

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The task.
    pub task_id: String,
    /// The worker that wrote it.
    #[serde(default)]
    pub pid: u32,
    /// Where it wrote it.
    pub stream: OutputStream,
    /// The line without its end.
    pub data: String,
    /// When.
    #[serde(default)]
    pub ts: String,
    /// Place in the task's output, from 1; 0 for a line that a sticky-overseer replays although its filter dropped it.
    #[serde(default)]
    pub seq: u64,
}

/// A worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exited {
    /// The task.
    pub task_id: String,
    /// The worker.
    pub pid: u32,
    /// Its code; -1 for death by a signal.
    pub exit_code: i32,
    /// Whether somebody had asked it to stop.
    pub intentional: bool,
    /// The signal that killed it, where the hub tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When.
    pub ts: String,
}

/// A restart is scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restarting {
    /// The task.
    pub task_id: String,
    /// The worker that ended.
    pub pid: u32,
    /// Time until the restart, as Go writes durations.
    pub restart_delay: String,
    /// Number of this restart, from 1.
    pub attempt: u64,
}

/// The task gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Errored {
    /// The task.
    pub task_id: String,
    /// The worker that ended last.
    pub pid: u32,
    /// Exits counted against the threshold.
    pub exit_count: u64,
}

/// A start has to wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queued {
    /// The task.
    pub task_id: String,
    /// Its action.
    pub action: String,
    /// Depth of the queue with it.
    pub position: u64,
}

/// A waiting start is gone without having run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dequeued {
    /// The task.
    pub task_id: String,
    /// Why.
    pub reason: String,
}

impl Dequeued {
    /// What the user reads who wanted it to run.
    pub fn failure(&self) -> Failure {
        let Self { task_id, reason } = self;
        Failure::new(
            Exit::Failed,
            format!("task `{task_id}` left the queue without having run: {reason}"),
        )
    }
}

/// Output was dropped for this client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lagged {
    /// The task.
    pub task_id: String,
    /// Lines that did not come.
    pub dropped: u64,
}

/// What happened to one task.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it was.
    pub body: Body,
    /// The message that said so.
    pub message: Received,
}

/// What happened to one task, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// See [`Started`].
    Started(Started),
    /// See [`Output`].
    Output(Output),
    /// See [`Exited`].
    Exited(Exited),
    /// See [`Restarting`].
    Restarting(Restarting),
    /// See [`Errored`].
    Errored(Errored),
    /// See [`Queued`].
    Queued(Queued),
    /// See [`Dequeued`].
    Dequeued(Dequeued),
    /// See [`Lagged`].
    Lagged(Lagged),
}

impl Event {
    /// Understands a message; `None` if it is about no task's life.
    pub fn of(message: Received) -> Result<Option<Self>, Failure> {
        let body = match message.kind.as_str() {
            "started" => Body::Started(message.read()?),
            "output" => Body::Output(message.read()?),
            "exited" => Body::Exited(message.read()?),
            "restarting" => Body::Restarting(message.read()?),
            "errored" => Body::Errored(message.read()?),
            "queued" => Body::Queued(message.read()?),
            "dequeued" => Body::Dequeued(message.read()?),
            "lagged" => Body::Lagged(message.read()?),
            _ => return Ok(None),
        };
        Ok(Some(Self { body, message }))
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(Started {
                restart_of: 0, pid, ..
            }) => write!(f, "started as pid {pid}"),
            Self::Started(started) => write!(f, "restarted as pid {}", started.pid),
            Self::Output(output) => f.write_str(&output.data),
            Self::Exited(exited) => match exited.signal {
                Some(signal) => write!(f, "ended by signal {signal}"),
                None if exited.exit_code < 0 => f.write_str("ended by a signal"),
                None => write!(f, "exited with code {}", exited.exit_code),
            },
            Self::Restarting(Restarting {
                restart_delay,
                attempt,
                ..
            }) => {
                write!(f, "restarts in {restart_delay} (attempt {attempt})")
            }
            Self::Errored(errored) => write!(f, "gave up after {} exits", errored.exit_count),
            Self::Queued(queued) => write!(
                f,
                "waits in the queue of `{}`, position {}",
                queued.action, queued.position
            ),
            Self::Dequeued(dequeued) => write!(f, "left the queue: {}", dequeued.reason),
            Self::Lagged(lagged) => write!(
                f,
                "{} lines did not come: this client reads too slowly",
                lagged.dropped
            ),
        }
    }
}

/// One row of `list`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Its id.
    pub task_id: String,
    /// Its action.
    pub action: String,
    /// As sent.
    pub params: BTreeMap<String, String>,
    /// `active`, `stopped`, `errored` or `queued`.
    pub state: String,
    /// Present if it has one.
    pub retry_policy: Option<Value>,
    /// Of the newest worker; 0 if there was none.
    pub current_pid: u32,
    /// `running`, `exited`, or empty if there was no worker.
    pub worker_state: String,
    /// Automatic restarts so far.
    pub restart_count: u64,
    /// When it was admitted; Go's zero time for queued rows.
    pub created_at: String,
    /// Only in queued rows.
    pub queued_at: Option<String>,
    /// Start of the newest worker.
    pub last_started_at: Option<String>,
    /// End of the newest worker that ended.
    pub last_exited_at: Option<String>,
    /// Of the newest worker, once it has ended.
    pub last_exit_code: Option<i32>,
    /// Why its last start failed.
    pub error_message: String,
    /// What it is really doing; empty from a sticky-overseer.
    pub phase: String,
    /// The row as it came.
    #[serde(skip)]
    pub row: Value,
}

/// What is to be expected of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It waits in a queue, or its worker runs or is about to: events will come.
    Live,
    /// Its worker has ended and the hub is about to say what follows.
    Deciding,
    /// It may be restarted, or stopped without a word.
    Waiting,
    /// Nothing follows by itself.
    Over,
}

impl Task {
    /// Reads a row.
    fn of(row: Value) -> Result<Self, Failure> {
        let task = Self::deserialize(&row).map_err(|error| undecodable(&row.to_string(), error))?;
        Ok(Self { row, ..task })
    }

    /// What the task is doing, in one word: its phase if the hub tells it, else the nearest that can be concluded.
    pub fn doing(&self) -> &str {
        match (
            self.phase.as_str(),
            self.state.as_str(),
            self.worker_state.as_str(),
        ) {
            ("", "stopped", "running") => "stopping",
            ("", "active", "running") => "running",
            ("", "active", "") => "starting",
            // Restarting or done: a sticky-overseer does not tell.
            ("", "active", _) => "exited",
            ("", state, _) => state,
            (phase, _, _) => phase,
        }
    }

    /// What is to be expected of it.
    pub fn prospect(&self) -> Prospect {
        match self.doing() {
            "queued" | "starting" | "running" | "stopping" => Prospect::Live,
            "settling" => Prospect::Deciding,
            "delay" => Prospect::Waiting,
            // A sticky-overseer restarts whatever has a policy and is still active.
            "exited" if self.retry_policy.is_some() => Prospect::Waiting,
            _ => Prospect::Over,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(row: Value) -> Task {
        Task::of(row).unwrap()
    }

    #[test]
    fn unknown_fields_and_missing_ones_are_no_matter() {
        let text = r#"{"type":"exited","task_id":"t","pid":7,"exit_code":-1,"new":[1]}"#;
        let event = Event::of(Received::decode(text.into()).unwrap())
            .unwrap()
            .unwrap();
        let Body::Exited(exited) = &event.body else {
            panic!("{event:?}")
        };
        assert_eq!((exited.pid, exited.exit_code, exited.signal), (7, -1, None));
        assert_eq!(event.body.to_string(), "ended by a signal");
        assert!(
            Event::of(Received::decode(r#"{"type":"subscribed","id":"1"}"#.into()).unwrap())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_is_no_message_is_named() {
        let failure = Received::decode("hello".into()).unwrap_err();
        assert_eq!(
            failure.message(),
            "the hub sent a message that cannot be read: hello"
        );
    }

    #[test]
    fn a_phase_is_believed_and_else_concluded() {
        let rows = [
            (
                json!({"state": "active", "worker_state": "exited", "phase": "delay"}),
                "delay",
                Prospect::Waiting,
            ),
            (
                json!({"state": "active", "worker_state": "exited", "phase": "done"}),
                "done",
                Prospect::Over,
            ),
            (
                json!({"state": "active", "worker_state": "exited", "retry_policy": {}}),
                "exited",
                Prospect::Waiting,
            ),
            (
                json!({"state": "active", "worker_state": "exited"}),
                "exited",
                Prospect::Over,
            ),
            (
                json!({"state": "active", "worker_state": "running"}),
                "running",
                Prospect::Live,
            ),
            (json!({"state": "active"}), "starting", Prospect::Live),
            (
                json!({"state": "stopped", "worker_state": "running"}),
                "stopping",
                Prospect::Live,
            ),
            (
                json!({"state": "stopped", "worker_state": "exited"}),
                "stopped",
                Prospect::Over,
            ),
            (json!({"state": "queued"}), "queued", Prospect::Live),
            (
                json!({"state": "errored", "worker_state": "exited", "retry_policy": {}}),
                "errored",
                Prospect::Over,
            ),
        ];
        for (row, doing, prospect) in rows {
            let task = task(row.clone());
            assert_eq!((task.doing(), task.prospect()), (doing, prospect), "{row}");
        }
    }
}
