//! Following one task to its end: what it said, what it says, its restarts, and when nothing more will come.
//!
//! The last is what the protocol does not say. After an exit the hub may restart the task or not, and a stop during the
//! restart's delay is silent. So the task's row in `list` is asked for whenever an event could have been the last one:
//!
//! ```text
//!             ┌────────────── started ──────────────┐
//!             ▼                                     │
//!   attach ▶ Live ── exited ──▶ Asking ── may restart ──▶ Waiting ── from time to time ──▶ Asking
//!             │                   │                          │
//!             │ stopped, errored, │ nothing follows          │ errored, dequeued
//!             ▼ dequeued          ▼                          ▼
//!            Over ◀───────────────┴──────────────────────────┘
//! ```

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use runyard_common::report::Failure;
use serde_json::{Value, json};

use super::{
    Client, Wake,
    merge::Merge,
    message::{Body, Event, Exited, Prospect, Received, Task},
    refusal::Refusal,
    replay_of,
};
use crate::duration::GoDuration;

/// Rhythm of asking while a restart is waited for: a stop of the task would be silent.
const WAITING: Duration = Duration::from_secs(1);

/// Rhythm of asking while the hub decides.
const DECIDING: Duration = Duration::from_millis(5);

/// How late a sticky-overseer's restart may be before it is taken for failed, which it does not report.
const OVERDUE: Duration = Duration::from_secs(10);

/// A task that is being followed.
pub struct Follow<'c> {
    client: &'c mut Client,
    task_id: String,
    merge: Merge,
    /// Events that are in order and not told yet.
    ready: VecDeque<Event>,
    /// The worker's last exit.
    exit: Option<Exited>,
    state: State,
    /// When a restart that was announced is overdue.
    overdue: Option<Instant>,
}

/// See the drawing above.
#[derive(Debug)]
enum State {
    Live,
    Asking { list: String, deadline: Instant },
    Waiting { ask_at: Instant },
    Over(Ending),
}

/// What came of a wait.
#[derive(Clone, Debug)]
pub enum Step {
    /// Something happened to the task.
    Event(Box<Event>),
    /// Nothing more will happen to it by itself.
    Over(Ending),
    /// The client's other descriptor is readable, see [`Client::wake_on`].
    Interrupted,
    /// The deadline is over.
    Deadline,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its worker ended and is not restarted. Without an exit, it ended before this client looked and nothing of it is
    /// remembered.
    Exited(Option<Exited>),
    /// It gave up after too many exits.
    GaveUp(Option<Exited>),
    /// It left its queue without having run; the text says why.
    Dropped(String),
    /// A restart was announced and did not come.
    NotRestarted(Option<Exited>),
}

impl<'c> Follow<'c> {
    /// Follows a task from as far back as the hub remembers its newest worker, or from `since` (RFC 3339): subscribes,
    /// asks for a replay, and puts both in order.
    pub fn attach(
        client: &'c mut Client,
        task_id: &str,
        since: Option<&str>,
    ) -> Result<Self, Failure> {
        client.send("subscribe", json!({ "task_id": task_id }))?;
        let replay = client.send("replay", replay_of(task_id, since))?;
        // The list is the fence of the replay, and tells whether the task lives.
        let list = client.send("list", json!({}))?;
        let (mut merge, mut refused) = (Merge::default(), None);
        let reply = client.until(&list, |message| {
            if message.id == replay && message.kind == "error" {
                refused = Some(message.read::<Refusal>()?);
            } else if message.task_id == task_id
                && let Some(event) = Event::of(message)?
            {
                merge.hold(event);
            }
            Ok(())
        })?;
        let row = row_of(&reply, task_id)?;
        if let Some(refusal) = refused.filter(|refusal| !is_only_early(refusal, row.as_ref())) {
            return Err(refusal.failure(&client.hub(), task_id));
        }
        let mut follow = Self::live(client, task_id);
        follow.ready = merge.release().into();
        follow.merge = merge;
        follow.exit = follow
            .ready
            .iter()
            .filter_map(|event| exit_of(&event.body))
            .next_back();
        follow.judge(row.as_ref());
        Ok(follow)
    }

    /// Follows a task that the client has been subscribed to since before it was started.
    pub fn live(client: &'c mut Client, task_id: &str) -> Self {
        Self {
            client,
            task_id: task_id.to_owned(),
            merge: Merge::default(),
            ready: VecDeque::new(),
            exit: None,
            state: State::Live,
            overdue: None,
        }
    }

    /// The task.
    pub fn task_id(&self) -> &str {
        &self.task_id
    }

    /// The client, to say something in between.
    pub fn client(&mut self) -> &mut Client {
        self.client
    }

    /// What happens next, at most until the deadline; one in the past looks without waiting.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Step, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Step::Event(Box::new(event)));
            }
            let own = match &self.state {
                State::Over(ending) => return Ok(Step::Over(ending.clone())),
                State::Live => None,
                State::Asking { deadline, .. } => Some(*deadline),
                State::Waiting { ask_at } => Some(*ask_at),
            };
            let until = [deadline, own].into_iter().flatten().min();
            match self.client.next(until)? {
                Wake::Message(message) => self.take(message)?,
                Wake::Interrupted => return Ok(Step::Interrupted),
                Wake::Deadline if own.is_some_and(|own| own <= Instant::now()) => self.overdue()?,
                Wake::Deadline => return Ok(Step::Deadline),
            }
        }
    }

    /// The time of the present state is over.
    fn overdue(&mut self) -> Result<(), Failure> {
        match self.state {
            State::Asking { .. } => Err(self.client.silent()),
            _ => self.ask(),
        }
    }

    fn ask(&mut self) -> Result<(), Failure> {
        let list = self.client.send("list", json!({}))?;
        self.state = State::Asking {
            list,
            deadline: Instant::now() + self.client.patience(),
        };
        Ok(())
    }

    fn take(&mut self, message: Received) -> Result<(), Failure> {
        if matches!(&self.state, State::Asking { list, .. } if *list == message.id) {
            let row = row_of(&message, &self.task_id)?;
            self.judge(row.as_ref());
            return Ok(());
        }
        if message.task_id != self.task_id {
            return Ok(());
        }
        if let Some(event) = Event::of(message)?.filter(|event| self.merge.passes(event)) {
            self.observe(&event.body)?;
            self.ready.push_back(event);
        }
        Ok(())
    }

    /// What a live event means for the future.
    fn observe(&mut self, body: &Body) -> Result<(), Failure> {
        match body {
            Body::Started(_) => (self.state, self.overdue) = (State::Live, None),
            Body::Exited(exited) => {
                self.exit = Some(exited.clone());
                if exited.intentional {
                    self.state = State::Over(Ending::Exited(self.exit.clone()));
                } else {
                    self.ask()?;
                }
            }
            Body::Restarting(restarting) => {
                let delay = restarting
                    .restart_delay
                    .parse()
                    .map_or(Duration::ZERO, GoDuration::as_std);
                let now = Instant::now();
                self.overdue = now.checked_add(delay + OVERDUE);
                self.state = State::Waiting {
                    ask_at: now + WAITING,
                };
            }
            Body::Errored(_) => self.state = State::Over(Ending::GaveUp(self.exit.clone())),
            Body::Dequeued(dequeued) => {
                self.state = State::Over(Ending::Dropped(dequeued.reason.clone()));
            }
            Body::Output(_) | Body::Queued(_) | Body::Lagged(_) => {}
        }
        Ok(())
    }

    /// What the task's row means for the future. A task without a row has been removed.
    fn judge(&mut self, row: Option<&Task>) {
        let now = Instant::now();
        let Some(task) = row else {
            self.state = State::Over(Ending::Exited(self.exit.clone()));
            return;
        };
        self.state = match task.prospect() {
            Prospect::Over => State::Over(self.ending(task)),
            Prospect::Deciding => State::Waiting {
                ask_at: now + DECIDING,
            },
            Prospect::Live if self.is_stale(task) => State::Waiting {
                ask_at: now + DECIDING,
            },
            Prospect::Live => State::Live,
            Prospect::Waiting => {
                let overdue = *self.overdue.get_or_insert_with(|| {
                    now + longest_delay(task.retry_policy.as_ref()) + OVERDUE
                });
                // Our own hub says so when a restart fails.
                if task.phase.is_empty() && overdue < now {
                    State::Over(Ending::NotRestarted(self.exit.clone()))
                } else {
                    State::Waiting {
                        ask_at: now + WAITING,
                    }
                }
            }
        };
    }

    /// Whether a row says that a worker runs whose exit was told already: a sticky-overseer tells first.
    fn is_stale(&self, task: &Task) -> bool {
        let exit = self.exit.as_ref().filter(|_| task.phase.is_empty());
        exit.is_some_and(|exit| exit.pid != 0 && exit.pid == task.current_pid)
    }

    fn ending(&self, task: &Task) -> Ending {
        let exit = self.exit.clone().or_else(|| {
            let exit_code = task.last_exit_code?;
            Some(Exited {
                task_id: task.task_id.clone(),
                pid: task.current_pid,
                exit_code,
                ..Exited::default()
            })
        });
        if task.doing() == "errored" {
            Ending::GaveUp(exit)
        } else {
            Ending::Exited(exit)
        }
    }
}

/// Whether a refused replay only means that the task has not run yet.
fn is_only_early(refusal: &Refusal, row: Option<&Task>) -> bool {
    let is_queued = row.is_some_and(|task| task.doing() == "queued");
    refusal.is_without_worker() || (refusal.is_unknown_task() && is_queued)
}

fn row_of(reply: &Received, task_id: &str) -> Result<Option<Task>, Failure> {
    Ok(reply
        .tasks()?
        .into_iter()
        .find(|task| task.task_id == task_id))
}

fn exit_of(body: &Body) -> Option<Exited> {
    match body {
        Body::Exited(exited) => Some(exited.clone()),
        _ => None,
    }
}

/// The longest that a policy lets a restart wait.
fn longest_delay(policy: Option<&Value>) -> Duration {
    let part = |name: &str| {
        let text = policy
            .and_then(|policy| policy[name].as_str())
            .unwrap_or_default();
        text.parse().map_or(Duration::ZERO, GoDuration::as_std)
    };
    part("restart_delay") + part("restart_jitter")
}
