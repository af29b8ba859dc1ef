//! Stopping tasks. A stop that works has no reply, and may have no visible effect at all, so that only the task's row
//! tells the end of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use runyard_common::report::Failure;
use serde::Serialize;
use serde_json::json;

use super::{Client, Prospect, Refusal, Wake};

/// How long an event is waited for before the row is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The same while the hub decides what follows an exit.
const DECIDING: Duration = Duration::from_millis(5);

/// What a stop did, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// It was told to stop.
    Stopping,
    /// It waited in a queue, and is gone.
    Dequeued,
    /// It has ended.
    Stopped,
}

impl Stopped {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Dequeued => "dequeued",
            Self::Stopped => "stopped",
        }
    }
}

impl Client {
    /// Asks a task to stop; with `kill`, an extension, its processes are killed at once. Returns when the hub has taken
    /// the request.
    pub fn stop(&mut self, task_id: &str, kill: bool) -> Result<Stopped, Failure> {
        let mut body = json!({ "task_id": task_id });
        if kill {
            self.require_extensions("`--kill`")?;
            body["force"] = true.into();
        }
        let stop = self.send("stop", body)?;
        let fence = self.send_fence()?;
        let (mut refused, mut stopped, mut others) = (None, Stopped::Stopping, Vec::new());
        self.until(&fence, |message| {
            if message.id == stop && message.kind == "error" {
                refused = Some(message.read::<Refusal>()?);
            } else if message.task_id == task_id && message.kind == "dequeued" {
                stopped = Stopped::Dequeued;
            } else {
                others.push(message);
            }
            Ok(())
        })?;
        self.inbox.extend(others);
        refused.map_or(Ok(stopped), |refusal| {
            Err(refusal.failure(&self.hub(), task_id))
        })
    }

    /// Hears of a task from now on.
    pub fn subscribe(&mut self, task_id: &str) -> Result<(), Failure> {
        self.request("subscribe", json!({ "task_id": task_id }), task_id)
            .map(drop)
    }

    /// Waits until tasks that were told to stop have ended, for as long as it takes. The client must have subscribed to
    /// them before they were.
    pub fn wait_until_stopped(
        &mut self,
        tasks: &mut BTreeMap<String, Stopped>,
    ) -> Result<(), Failure> {
        loop {
            let live = self.list(None)?;
            let is_live = |id: &String| {
                live.iter()
                    .any(|task| task.task_id == *id && task.prospect() != Prospect::Over)
            };
            for (_, stopped) in tasks
                .iter_mut()
                .filter(|(id, stopped)| **stopped == Stopped::Stopping && !is_live(id))
            {
                *stopped = Stopped::Stopped;
            }
            if tasks.values().all(|stopped| *stopped != Stopped::Stopping) {
                return Ok(());
            }
            let is_deciding = live.iter().any(|task| {
                tasks.contains_key(&task.task_id) && task.prospect() == Prospect::Deciding
            });
            self.wait_for_an_end(tasks, if is_deciding { DECIDING } else { LOOK_AGAIN })?;
        }
    }

    fn wait_for_an_end(
        &mut self,
        tasks: &BTreeMap<String, Stopped>,
        patience: Duration,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        loop {
            match self.next(Some(deadline))? {
                Wake::Message(message)
                    if matches!(message.kind.as_str(), "exited" | "dequeued")
                        && tasks.contains_key(&message.task_id) =>
                {
                    return Ok(());
                }
                Wake::Message(_) => {}
                Wake::Interrupted | Wake::Deadline => return Ok(()),
            }
        }
    }
}
