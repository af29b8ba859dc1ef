//! From a hub's `error` reply to what a user reads: which exit code it earns, and the way out. The texts matched here
//! are sticky-overseer v2's, which are a contract.

use runyard_common::{exit::Exit, report::Failure};
use serde::Deserialize;

/// A hub's `error` reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Why.
    pub message: String,
    /// The running task that a start would have duplicated.
    pub existing_task_id: String,
}

impl Refusal {
    /// Whether the hub does not know this type of message: it is a sticky-overseer, or older than this client.
    pub fn is_unknown_type(&self) -> bool {
        self.message.starts_with("unknown message type: ")
    }

    /// Whether the hub has no such action.
    pub fn is_unknown_action(&self) -> bool {
        self.message.starts_with("unknown action: ")
    }

    /// Whether the hub has no such task.
    pub fn is_unknown_task(&self) -> bool {
        self.message == "task not found"
    }

    /// Whether the task has had no worker yet.
    pub fn is_without_worker(&self) -> bool {
        self.message == "no worker for task"
    }

    /// What the user reads. `about` names the task or action of the request, if there was one.
    pub fn failure(&self, hub: &str, about: &str) -> Failure {
        let failed = |message: String| Failure::new(Exit::Failed, message);
        if self.is_unknown_task() {
            return Failure::new(
                Exit::NotFound,
                format!("the hub at {hub} has no task `{about}`"),
            )
            .hint("`overseerctl list` shows those it has");
        }
        if self.is_unknown_action() {
            return Failure::new(
                Exit::NotFound,
                format!("the hub at {hub} has no action `{about}`"),
            );
        }
        if let Some(kind) = self.message.strip_prefix("unknown message type: ") {
            return failed(format!("the hub at {hub} does not understand `{kind}`")).hint(
                "it is a sticky-overseer or an older overseerctl; `overseerctl doctor` tells which",
            );
        }
        let failure = failed(self.message.clone());
        match self.message.as_str() {
            "task already running or starting" => failed(format!(
                "the id `{about}` is taken: {}",
                self.message
            ))
            .hint(
                "choose another --id, or add --replace to forget a finished task of this id first",
            ),
            "task is not in errored state" => {
                failed(format!("task `{about}` cannot be reset: {}", self.message))
                    .hint("`overseerctl list` shows its state")
            }
            "no worker for task" => failed(format!("task `{about}` has not run yet"))
                .hint(format!("`overseerctl follow {about}` waits for its output")),
            message if message.starts_with("duplicate task: ") => failure.hint(format!(
                "`overseerctl follow {0}` shows it, `overseerctl stop {0}` makes room",
                self.existing_task_id
            )),
            message if message.starts_with("validation error: ") => failure.hint(format!(
                "`overseerctl describe {about}` shows the parameters"
            )),
            message if message.contains("limit reached") => failure.hint(format!(
                "`overseerctl pool {about}` shows the pool, `overseerctl pool set` changes it"
            )),
            message if message.starts_with("task is not finished") => {
                failed(format!("task `{about}` cannot be removed: {message}"))
            }
            message if message.starts_with("history: no store") => {
                failure.hint("start the hub with --db FILE, or set `db` in its configuration")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str, about: &str) -> Failure {
        Refusal {
            message: message.to_owned(),
            existing_task_id: "d2".to_owned(),
        }
        .failure("ws://h:1/ws", about)
    }

    #[test]
    fn what_is_not_there_has_an_exit_code_of_its_own() {
        let task = failure("task not found", "t1");
        assert_eq!(
            (task.exit(), task.message()),
            (Exit::NotFound, "the hub at ws://h:1/ws has no task `t1`")
        );
        let action = failure("unknown action: \"nope\"", "nope");
        assert_eq!(
            (action.exit(), action.message()),
            (
                Exit::NotFound,
                "the hub at ws://h:1/ws has no action `nope`"
            )
        );
    }

    #[test]
    fn every_other_refusal_keeps_the_words_of_the_hub_and_adds_a_way_out() {
        let duplicate = failure("duplicate task: already running as d2", "");
        assert_eq!(duplicate.exit(), Exit::Failed);
        assert!(duplicate.hints()[0].contains("follow d2"), "{duplicate:?}");
        let taken = failure("task already running or starting", "t1");
        assert!(
            taken
                .message()
                .contains("`t1` is taken: task already running"),
            "{taken:?}"
        );
        assert!(taken.hints()[0].contains("--replace"));
        assert!(
            failure(
                "pool rejected task: pool: task rejected — limit reached and queue is full",
                "a"
            )
            .hints()[0]
                .contains("pool a")
        );
        assert!(
            failure(
                "validation error: exec: required parameter \"c\" is missing",
                "a"
            )
            .hints()[0]
                .contains("describe a")
        );
        assert!(
            failure("unknown message type: remove", "")
                .message()
                .contains("does not understand `remove`")
        );
        assert_eq!(failure("something new", "").message(), "something new");
    }
}
