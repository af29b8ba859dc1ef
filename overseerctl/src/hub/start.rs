//! How tasks begin: checks, admission, the spawn itself, and `reset`.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;

use super::{Action, Hub, State, Waiting};
use crate::{
    api::{Message, Params, RetryPolicy},
    driver::{Driver, Output, StopHandle, StopSignal, TaskContext, Worker},
    frame,
    outbox::{ClientId, Outbox},
    pool::{self, Admission},
    quote::go_quote,
    store::{QueuedStart, RunFailed, RunStarted},
    task::{Plan, State as TaskState, Task},
    time::Timestamp,
    topic::Topic,
};

/// A wish to start a task.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Correlation id; empty for tasks that no client asked for.
    pub id: String,
    /// Which action.
    pub action: String,
    /// Id of the task; empty makes one up.
    pub task_id: String,
    /// As sent.
    pub params: Params,
    /// Overrides the action's.
    pub retry: Option<RetryPolicy>,
    /// May displace a waiting start, and is never displaced itself.
    pub force: bool,
    /// Extension: a finished task of the same id is forgotten first.
    pub replace: bool,
}

/// Why a request was refused, in the words that clients of sticky-overseer match on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The daemon is ending.
    #[error("shutting down")]
    Closing,
    /// `action` is missing.
    #[error("action is required")]
    ActionRequired,
    /// No such action.
    #[error("unknown action: {}", go_quote(.0))]
    UnknownAction(String),
    /// The driver refuses the parameters.
    #[error("validation error: {0}")]
    Validation(String),
    /// A task with the same dedupe key lives.
    #[error("duplicate task: already running as {0}")]
    Duplicate(Arc<str>),
    /// The id is taken.
    #[error("task already running or starting")]
    Exists,
    /// The pool has no room, or the worker could not be started.
    #[error("pool rejected task: {0}")]
    Rejected(String),
    /// `task_id` is missing.
    #[error("task_id is required")]
    TaskIdRequired,
    /// No such task.
    #[error("task not found")]
    NotFound,
    /// Only an errored task can be reset.
    #[error("task is not in errored state")]
    NotErrored,
    /// The retry policy makes no sense.
    #[error("invalid retry_policy: {0}")]
    RetryPolicy(String),
    /// A reset could not start a worker.
    #[error("{0}")]
    Spawn(String),
}

impl Refusal {
    /// The reply to the request `id`.
    pub fn message(&self, id: &str) -> Message {
        let existing_task_id = match self {
            Self::Duplicate(existing) => existing.to_string(),
            _ => String::new(),
        };
        Message::Error {
            id: id.to_owned(),
            message: self.to_string(),
            existing_task_id,
        }
    }
}

/// A worker about to be spawned; its task is already registered as starting.
pub(super) struct Launch {
    task_id: Arc<str>,
    action: Arc<str>,
    driver: Arc<dyn Driver>,
    params: Arc<Params>,
    topic: Arc<Topic>,
    stop: StopSignal,
    occasion: Occasion,
}

/// Why a worker is spawned, which decides who hears of it.
pub(super) enum Occasion {
    /// A start; `id` is its correlation id.
    First { id: String },
    /// An automatic restart after `of`.
    Restart { of: u32, attempt: u64 },
    /// A reset asked for by one client, who alone gets the `started`.
    Reset { id: String, client: Arc<Outbox> },
}

/// What became of a start.
enum Admitted {
    Launch(Box<Launch>),
    Queued,
}

impl Hub {
    /// Starts a task for a client, which is subscribed to it. Returns when its worker runs or when it is queued; the
    /// answer (`started` or `queued`) has then been sent.
    pub async fn start(&self, start: Start, client: Option<ClientId>) -> Result<(), Refusal> {
        match self.admit_start(start, client)? {
            Admitted::Queued => Ok(()),
            Admitted::Launch(launch) => {
                let launched = self.launch(*launch).await;
                launched.map_err(|error| {
                    tokio::spawn(self.clone().admit_waiting());
                    Refusal::Rejected(error)
                })
            }
        }
    }

    /// Starts a task that no client asked for: the door for services and for programs that embed a hub. Returns its id.
    pub async fn submit(&self, mut start: Start) -> Result<String, Refusal> {
        if start.task_id.is_empty() {
            start.task_id = new_id();
        }
        let task_id = start.task_id.clone();
        self.start(start, None).await?;
        Ok(task_id)
    }

    /// Admits as many waiting starts as there is room for, and spawns them one after the other.
    pub(super) async fn admit_waiting(self) {
        loop {
            let launches = self.take_admitted();
            if launches.is_empty() {
                return;
            }
            for launch in launches {
                let task_id = Arc::clone(&launch.task_id);
                if let Err(error) = self.launch(launch).await {
                    let mut state = self.lock();
                    self.dequeued(&mut state, &task_id, &error);
                }
            }
        }
    }

    /// Starts an errored task again, with its old exits forgotten. Only the caller hears of it.
    pub async fn reset(
        &self,
        id: &str,
        task_id: &str,
        client: &Arc<Outbox>,
    ) -> Result<(), Refusal> {
        if task_id.is_empty() {
            return Err(Refusal::TaskIdRequired);
        }
        let launch = self.begin_reset(id, task_id, client)?;
        self.launch(launch).await.map_err(Refusal::Spawn)
    }

    fn begin_reset(
        &self,
        id: &str,
        task_id: &str,
        client: &Arc<Outbox>,
    ) -> Result<Launch, Refusal> {
        let actions = self.actions();
        let mut state = self.lock();
        let State {
            tasks,
            topics,
            pool,
            workers,
            closing,
            ..
        } = &mut *state;
        let task = tasks.get_mut(task_id).ok_or(Refusal::NotFound)?;
        if !matches!(task.state, TaskState::Errored) {
            return Err(Refusal::NotErrored);
        }
        if *closing {
            return Err(Refusal::Closing);
        }
        let action = actions
            .get(&*task.action)
            .ok_or_else(|| Refusal::UnknownAction(task.action.to_string()))?;
        task.driver = Arc::clone(&action.driver);
        task.forget_exits();
        pool.hold(&task.id, &task.action);
        *workers += 1;
        let topic = topics
            .get(task_id)
            .map(Arc::clone)
            .ok_or(Refusal::NotFound)?;
        Ok(Launch::again(
            task,
            topic,
            Occasion::Reset {
                id: id.to_owned(),
                client: Arc::clone(client),
            },
        ))
    }

    /// All checks of a start, in the order in which clients see them fail, and its reservation.
    fn admit_start(&self, start: Start, client: Option<ClientId>) -> Result<Admitted, Refusal> {
        if start.action.is_empty() {
            return Err(Refusal::ActionRequired);
        }
        let actions = self.actions();
        let action = actions
            .get(&start.action)
            .ok_or_else(|| Refusal::UnknownAction(start.action.clone()))?;
        action
            .driver
            .validate(&start.params)
            .map_err(Refusal::Validation)?;
        if let Some(policy) = &start.retry {
            policy.check().map_err(Refusal::RetryPolicy)?;
        }
        let fingerprint = fingerprint(&start, &action.dedupe_key);
        let mut state = self.lock();
        if state.closing {
            return Err(Refusal::Closing);
        }
        if let Some(existing) = fingerprint
            .as_deref()
            .and_then(|wanted| state.live_duplicate(wanted))
        {
            return Err(Refusal::Duplicate(existing));
        }
        let task_id: Arc<str> = if start.task_id.is_empty() {
            new_id().into()
        } else {
            start.task_id.as_str().into()
        };
        if start.replace {
            state.forget_finished(&task_id);
        }
        if state.tasks.contains_key(&task_id) || state.pool.contains_waiting(&task_id) {
            return Err(Refusal::Exists);
        }
        let hold_on_restart = state.pool.holds_on_restart(&start.action);
        let plan = self.plan(task_id, action, &start, fingerprint, hold_on_restart);
        self.enter_pool(
            &mut state,
            &Waiting {
                plan,
                id: start.id,
                client,
            },
            start.force,
        )
    }

    fn plan(
        &self,
        task_id: Arc<str>,
        action: &Action,
        start: &Start,
        fingerprint: Option<String>,
        hold_on_restart: bool,
    ) -> Plan {
        let configured = (self.settings().apply_config_retry && !action.retry.is_empty())
            .then(|| action.retry.clone());
        Plan {
            task_id,
            action: start.action.as_str().into(),
            driver: Arc::clone(&action.driver),
            params: Arc::new(start.params.clone()),
            retry: start.retry.clone().or(configured).map(Arc::new),
            hold_on_restart,
            fingerprint,
        }
    }

    fn enter_pool(
        &self,
        state: &mut State,
        waiting: &Waiting,
        forced: bool,
    ) -> Result<Admitted, Refusal> {
        let now = Timestamp::now();
        let start = pool::Start {
            task_id: waiting.plan.task_id.to_string(),
            action: waiting.plan.action.to_string(),
            forced,
            payload: waiting.clone(),
        };
        match state.pool.request(start, Instant::now(), now) {
            Admission::Run(start) => Ok(Admitted::Launch(Box::new(
                self.register(state, start.payload),
            ))),
            Admission::Queued {
                position,
                displaced,
            } => {
                if let Some(displaced) = displaced {
                    self.0.counters.displaced.inc();
                    self.dequeued(
                        state,
                        &displaced.task_id,
                        "pool: displaced by incoming task",
                    );
                }
                self.queued(state, waiting, position, forced, now);
                Ok(Admitted::Queued)
            }
            Admission::Rejected(_) => Err(Refusal::Rejected(pool::REJECTED.to_owned())),
        }
    }

    fn queued(
        &self,
        state: &State,
        waiting: &Waiting,
        position: usize,
        forced: bool,
        ts: Timestamp,
    ) {
        let Waiting { plan, id, .. } = waiting;
        self.0.counters.enqueued.inc();
        if let Some(store) = self
            .0
            .outlets
            .store
            .as_ref()
            .filter(|_| self.settings().persist_queue)
        {
            store.enqueue(QueuedStart {
                task_id: plan.task_id.to_string(),
                action: plan.action.to_string(),
                params: (*plan.params).clone(),
                retry_policy: plan
                    .retry
                    .as_deref()
                    .and_then(|policy| serde_json::to_value(policy).ok()),
                forced,
                id: id.clone(),
                queued_at: ts,
            });
        }
        state.broadcast(&Message::Queued {
            id: id.clone(),
            task_id: plan.task_id.to_string(),
            action: plan.action.to_string(),
            position,
            ts,
        });
    }

    /// Tells everybody that a waiting start is gone.
    pub(super) fn dequeued(&self, state: &mut State, task_id: &str, reason: &str) {
        self.0.counters.dequeued.inc();
        if let Some(store) = self.0.outlets.store.as_ref().filter(|_| !state.closing) {
            store.dequeue(task_id);
        }
        state.broadcast(&Message::Dequeued {
            task_id: task_id.to_owned(),
            reason: reason.to_owned(),
            ts: Timestamp::now(),
        });
        state.forget_topic(task_id);
    }

    fn take_admitted(&self) -> Vec<Launch> {
        let mut state = self.lock();
        if state.closing {
            return Vec::new();
        }
        let admitted = state.pool.admit(Instant::now());
        for expired in admitted.expired {
            self.expired(&mut state, &expired.task_id);
        }
        let admitted = admitted.run.into_iter();
        admitted
            .map(|start| {
                if let Some(store) = &self.0.outlets.store {
                    store.dequeue(&start.task_id);
                }
                self.register(&mut state, start.payload)
            })
            .collect()
    }

    /// Registers a task that has a slot: from here on its id is taken, and the starter listens.
    fn register(&self, state: &mut State, waiting: Waiting) -> Launch {
        let Waiting { plan, id, client } = waiting;
        let ring = self.settings().ring;
        let topic = state.topic(&plan.task_id, ring);
        topic.begin(self.sinks(&plan));
        if let Some(client) = client {
            state.subscribe(client, &plan.task_id, ring);
        }
        let (handle, stop) = StopSignal::new();
        let task = Task::starting(&plan, handle);
        state.tasks.insert(Arc::clone(&plan.task_id), task);
        state.workers += 1;
        let Plan {
            task_id,
            action,
            driver,
            params,
            ..
        } = plan;
        Launch {
            task_id,
            action,
            driver,
            params,
            topic,
            stop,
            occasion: Occasion::First { id },
        }
    }

    /// Spawns the worker of a registered task.
    pub(super) async fn launch(&self, launch: Launch) -> Result<(), String> {
        let context = TaskContext {
            task_id: Arc::clone(&launch.task_id),
            params: Arc::clone(&launch.params),
            output: Output::new(Arc::clone(&launch.topic)),
            stop: launch.stop.clone(),
        };
        let driver = Arc::clone(&launch.driver);
        let started = AssertUnwindSafe(driver.start(context)).catch_unwind().await;
        match started.unwrap_or_else(|_| Err("the driver panicked".to_owned())) {
            Ok(worker) => {
                self.spawned(launch, worker);
                Ok(())
            }
            Err(error) => {
                self.not_spawned(&launch, &error);
                Err(error)
            }
        }
    }

    fn spawned(&self, launch: Launch, worker: Worker) {
        let (pid, now) = (worker.pid(), Timestamp::now());
        let mut state = self.lock();
        launch.topic.open(pid);
        if let Some(task) = state.tasks.get_mut(&launch.task_id) {
            task.spawned(pid, now);
            if let Occasion::Restart { attempt, .. } = launch.occasion {
                task.restarts = attempt;
            }
        }
        self.announce_started(&state, &launch, pid, now);
        drop(state);
        tracing::info!(task = %launch.task_id, action = %launch.action, pid, "started");
        tokio::spawn(self.clone().supervise(launch.task_id, worker));
    }

    fn announce_started(&self, state: &State, launch: &Launch, pid: u32, ts: Timestamp) {
        let (id, restart_of) = match &launch.occasion {
            Occasion::First { id } | Occasion::Reset { id, .. } => (id.clone(), 0),
            Occasion::Restart { of, .. } => (String::new(), *of),
        };
        let message = Message::Started {
            id,
            task_id: launch.task_id.to_string(),
            pid,
            restart_of,
            ts,
        };
        match &launch.occasion {
            Occasion::First { .. } => {
                self.0.counters.action(&launch.action).started();
                state.announce(&launch.task_id, &message);
                self.log_event(&message);
            }
            Occasion::Restart { .. } => state.announce(&launch.task_id, &message),
            Occasion::Reset { client, .. } => {
                client.push(frame::encode(&message));
                state.tell_watchers(&message, Some(client.id()));
                self.log_event(&message);
            }
        }
        if let Some(store) = &self.0.outlets.store {
            store.started(RunStarted {
                task_id: launch.task_id.to_string(),
                action: launch.action.to_string(),
                params: (*launch.params).clone(),
                pid,
                restart_of,
                started_at: ts,
            });
        }
    }

    fn not_spawned(&self, launch: &Launch, error: &str) {
        tracing::warn!(task = %launch.task_id, action = %launch.action, error, "could not start");
        let mut state = self.lock();
        state.workers -= 1;
        state.pool.release(&launch.task_id);
        if let Some(store) = &self.0.outlets.store {
            let restart_of = match launch.occasion {
                Occasion::Restart { of, .. } => of,
                Occasion::First { .. } | Occasion::Reset { .. } => 0,
            };
            store.failed(RunFailed {
                task_id: launch.task_id.to_string(),
                action: launch.action.to_string(),
                params: (*launch.params).clone(),
                restart_of,
                error: error.to_owned(),
                at: Timestamp::now(),
            });
        }
        match launch.occasion {
            Occasion::First { .. } => {
                state.tasks.remove(&launch.task_id);
                state.forget_topic(&launch.task_id);
            }
            Occasion::Restart { .. } | Occasion::Reset { .. } => {
                self.gave_up(&mut state, &launch.task_id, error);
            }
        }
        drop(state);
        self.0.ended.notify_waiters();
    }

    /// A restart or a reset found nothing to run: the task is errored, and says so.
    fn gave_up(&self, state: &mut State, task_id: &str, error: &str) {
        let Some(task) = state.tasks.get_mut(task_id) else {
            return;
        };
        task.spawn_failed(error);
        let errored = matches!(task.state, TaskState::Errored);
        let (pid, exit_count, action) = (task.pid, task.exit_count, Arc::clone(&task.action));
        if errored {
            self.0.counters.action(&action).errored();
            let ts = Timestamp::now();
            state.announce(
                task_id,
                &Message::Errored {
                    task_id: task_id.to_owned(),
                    pid,
                    exit_count,
                    ts,
                },
            );
        }
        self.finished(state, task_id);
    }
}

impl Launch {
    /// Another worker for a task that had one.
    pub(super) fn again(task: &mut Task, topic: Arc<Topic>, occasion: Occasion) -> Self {
        let (handle, stop): (StopHandle, StopSignal) = StopSignal::new();
        task.starting_again(handle);
        Self {
            task_id: Arc::clone(&task.id),
            action: Arc::clone(&task.action),
            driver: Arc::clone(&task.driver),
            params: Arc::clone(&task.params),
            topic,
            stop,
            occasion,
        }
    }
}

impl State {
    /// A task that lives, or waits to, with the same fingerprint.
    fn live_duplicate(&self, wanted: &str) -> Option<Arc<str>> {
        let same = |fingerprint: &Option<String>| fingerprint.as_deref() == Some(wanted);
        let task = self
            .tasks
            .values()
            .find(|task| !task.is_finished() && same(&task.fingerprint));
        task.map(|task| Arc::clone(&task.id)).or_else(|| {
            let mut waiting = self.pool.waiting();
            waiting
                .find(|item| same(&item.payload.plan.fingerprint))
                .map(|item| item.task_id.as_str().into())
        })
    }
}

/// What makes two starts duplicates: the action and the values of its dedupe key, as sent.
fn fingerprint(start: &Start, dedupe_key: &[String]) -> Option<String> {
    if dedupe_key.is_empty() {
        return None;
    }
    let mut keys: Vec<&String> = dedupe_key.iter().collect();
    keys.sort_unstable();
    let values = keys
        .into_iter()
        .map(|key| format!("{key}={}", start.params.get(key).map_or("", String::as_str)));
    Some(
        std::iter::once(start.action.clone())
            .chain(values)
            .collect::<Vec<_>>()
            .join("\0"),
    )
}

/// A random id for a task whose starter named none.
fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
