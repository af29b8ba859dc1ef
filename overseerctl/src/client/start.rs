//! Starting a task, so that none of its output is missed.

use std::collections::BTreeMap;

use runyard_common::report::Failure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Client, Wake,
    message::{Dequeued, Queued, Received, Started},
};

/// A wish to start a task.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Which action.
    pub action: String,
    /// Id of the task; empty lets the hub make one up.
    pub task_id: String,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// May displace a waiting start, and is never displaced itself.
    pub force: bool,
    /// Forget a finished task of the same id first; an extension.
    pub replace: bool,
    /// Retry policy as on the wire; absent leaves it to the action.
    pub retry_policy: Option<Value>,
}

/// What became of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// Its worker runs.
    Started(Started),
    /// It has to wait.
    Queued(Queued),
}

impl Startup {
    /// The task's id.
    pub fn task_id(&self) -> &str {
        match self {
            Self::Started(started) => &started.task_id,
            Self::Queued(queued) => &queued.task_id,
        }
    }
}

impl Client {
    /// Starts a task. Returns when it runs or has to wait.
    pub fn start(&mut self, start: &Start) -> Result<Startup, Failure> {
        if start.replace {
            self.require_extensions("`--replace`")?;
        }
        let reply = match self.ask("start", body(start))? {
            Ok(reply) => reply,
            Err(refusal) => {
                let about_id = refusal.message == "task already running or starting";
                let about = if about_id {
                    &start.task_id
                } else {
                    &start.action
                };
                return Err(self.explain(&refusal, &about.clone()));
            }
        };
        match reply.kind.as_str() {
            "queued" => Ok(Startup::Queued(reply.read()?)),
            _ => Ok(Startup::Started(reply.read()?)),
        }
    }

    /// Starts a task and subscribes to it *before* that, under an id of its own: a sticky-overseer subscribes its caller
    /// only after the worker has begun to speak.
    pub fn start_and_listen(&mut self, start: &Start) -> Result<Startup, Failure> {
        let mut start = start.clone();
        if start.task_id.is_empty() {
            start.task_id = Uuid::new_v4().to_string();
        }
        self.send("subscribe", json!({ "task_id": start.task_id }))?;
        self.start(&start)
    }

    /// Waits until a start that was queued runs, for as long as it takes.
    ///
    /// Fails with exit code 1 when it leaves the queue without having run.
    pub fn wait_until_started(&mut self, queued: &Queued) -> Result<Started, Failure> {
        loop {
            let Wake::Message(message) = self.next(None)? else {
                continue;
            };
            if message.task_id == queued.task_id
                && let Some(outcome) = outcome(&message)?
            {
                return outcome.map_err(|dequeued| dequeued.failure());
            }
        }
    }
}

fn outcome(message: &Received) -> Result<Option<Result<Started, Dequeued>>, Failure> {
    match message.kind.as_str() {
        "started" => Ok(Some(Ok(message.read()?))),
        "dequeued" => Ok(Some(Err(message.read()?))),
        _ => Ok(None),
    }
}

fn body(start: &Start) -> Value {
    let mut body = json!({ "action": start.action });
    if !start.task_id.is_empty() {
        body["task_id"] = start.task_id.as_str().into();
    }
    if !start.params.is_empty() {
        body["params"] = json!(start.params);
    }
    if let Some(policy) = &start.retry_policy {
        body["retry_policy"] = policy.clone();
    }
    if start.force {
        body["force"] = true.into();
    }
    if start.replace {
        body["replace"] = true.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_on_the_wire() {
        let mut start = Start {
            action: "a".into(),
            ..Start::default()
        };
        assert_eq!(body(&start), json!({"action": "a"}));
        start.params.insert("k".into(), "v".into());
        start.retry_policy = Some(json!({}));
        start.force = true;
        start.task_id = "t".into();
        let whole = json!({"action": "a", "task_id": "t", "params": {"k": "v"}, "retry_policy": {}, "force": true});
        assert_eq!(body(&start), whole);
    }
}
