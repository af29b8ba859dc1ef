//! The hub: owns every task, the pool and the subscriptions, and performs what the pure values decide.
//!
//! One mutex guards `State`. Every lifecycle transition happens under it and only *enqueues* messages (an outbox never
//! blocks), so the order in which clients see events is the order in which they were decided. Nothing is spawned,
//! waited for or written under it. Output does not come here at all: it goes through the task's [`Topic`].
//!
//! | file | what it holds |
//! |---|---|
//! | `hub.rs` | the state, clients and subscriptions, how messages go out |
//! | `hub/start.rs` | start, admission from the queue, spawning, reset, submit |
//! | `hub/exit.rs` | the end of a worker, what follows it, restarts |
//! | `hub/stop.rs` | stop, remove, retention, shutdown |
//! | `hub/pools.rs` | pool queries, limits, purge, expiry |
//! | `hub/query.rs` | list, replay, describe, metrics, manifest, history |
//! | `hub/reload.rs` | a new configuration for a running hub |
//!
//! # Order of messages
//!
//! `started` < `output`… < `exited` for every worker, always: the starter is subscribed before the spawn, the worker is
//! first polled after `started` went out, and it resolves after its last line was published. After an exit the pool slot
//! is freed and whoever waited is started *before* `restarting` or `errored` of the task that ended, as sticky-overseer
//! does it.

mod exit;
mod pools;
mod query;
mod reload;
mod start;
mod stop;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

pub use query::{ReplayRefusal, parse_since};
pub use start::{Refusal, Start};
pub use stop::Removal;

use crate::{
    api::{Message, PoolConfig, RetryPolicy},
    driver::Driver,
    frame,
    logfile::{LogFile, TaskLogs},
    metrics::Counters,
    outbox::{ClientId, Feature, Outbox, SlowClient},
    pool::Pool,
    ring::RingLimits,
    store::Store,
    task::{Plan, Task},
    topic::{Sinks, TaskLog, Topic},
};

/// How a hub behaves; the part of the configuration that is not an action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Name in the `OpenAPI` document.
    pub name: String,
    /// What is kept of each worker for replay.
    pub ring: RingLimits,
    /// When a client that does not read is given up.
    pub slow_client: SlowClient,
    /// Finished tasks kept.
    pub keep_finished: Retention,
    /// Whether an action's `retry` applies to its tasks; sticky-overseer only shows it.
    pub apply_config_retry: bool,
    /// Whether waiting starts are taken up again by the next daemon.
    pub persist_queue: bool,
}

/// How long finished tasks are remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At most so many; zero keeps all, as sticky-overseer does.
    pub count: usize,
    /// At most so long; `None` keeps them for ever.
    pub age: Option<Duration>,
}

/// One configured action: its driver, and what the hub itself needs to know of it.
#[derive(Clone)]
pub struct Action {
    /// What runs its tasks.
    pub driver: Arc<dyn Driver>,
    /// Policy of tasks whose start brings none.
    pub retry: RetryPolicy,
    /// Its pool as configured.
    pub task_pool: PoolConfig,
    /// Parameters that make two starts duplicates.
    pub dedupe_key: Vec<String>,
}

/// All configured actions by name.
pub type Actions = BTreeMap<String, Action>;

/// Where things are written besides the clients.
#[derive(Debug, Default)]
pub struct Outlets {
    /// JSON lines of everything that happens.
    pub events: Option<LogFile>,
    /// A file a task.
    pub task_logs: Option<TaskLogs>,
    /// History, and the queue if it is to survive.
    pub store: Option<Store>,
}

/// Handle of the hub; clones are the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    settings: RwLock<Arc<Settings>>,
    actions: RwLock<Arc<Actions>>,
    outlets: Outlets,
    counters: Arc<Counters>,
    next_client: AtomicU64,
    state: Mutex<State>,
    /// Something ended: a worker, a client. Shutdown waits for it.
    ended: Notify,
    /// The pool's sweeper has a new rhythm.
    swept: Notify,
}

struct State {
    tasks: HashMap<Arc<str>, Task>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
    /// Finished tasks in the order in which they finished; may name tasks that are gone or live again.
    finished: VecDeque<(Arc<str>, std::time::Instant)>,
    pool: Pool<Waiting>,
    clients: HashMap<ClientId, Client>,
    /// Workers that run or are being started.
    workers: usize,
    /// No new starts: the daemon is ending.
    closing: bool,
}

struct Client {
    outbox: Arc<Outbox>,
    subscriptions: HashSet<Arc<str>>,
}

/// A start that waits in the pool's queue.
#[derive(Clone)]
pub struct Waiting {
    plan: Plan,
    /// Correlation id, echoed in its `started`.
    id: String,
    /// Who is subscribed when it starts, if still connected.
    client: Option<ClientId>,
}

impl Hub {
    /// A hub without clients and tasks.
    pub fn new(
        settings: Settings,
        global_pool: PoolConfig,
        actions: Actions,
        outlets: Outlets,
    ) -> Self {
        let pools = actions
            .iter()
            .map(|(name, action)| (name.clone(), action.task_pool.clone()))
            .collect();
        let state = State {
            tasks: HashMap::new(),
            topics: HashMap::new(),
            finished: VecDeque::new(),
            pool: Pool::new(global_pool, pools),
            clients: HashMap::new(),
            workers: 0,
            closing: false,
        };
        Self(Arc::new(Shared {
            settings: RwLock::new(Arc::new(settings)),
            actions: RwLock::new(Arc::new(actions)),
            outlets,
            counters: Arc::new(Counters::default()),
            next_client: AtomicU64::new(1),
            state: Mutex::new(state),
            ended: Notify::new(),
            swept: Notify::new(),
        }))
    }

    /// Counters of this hub.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(
            &self
                .0
                .settings
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Actions in force.
    pub fn actions(&self) -> Arc<Actions> {
        Arc::clone(
            &self
                .0
                .actions
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// A new connection.
    pub fn connect(&self) -> Arc<Outbox> {
        let id = self.0.next_client.fetch_add(1, Ordering::Relaxed);
        let outbox = Outbox::new(id, self.settings().slow_client);
        self.0.counters.connections.inc();
        let client = Client {
            outbox: Arc::clone(&outbox),
            subscriptions: HashSet::new(),
        };
        let mut state = self.lock();
        if state.closing {
            outbox.finish(Some(frame::close(1001, "shutting down")));
        }
        state.clients.insert(id, client);
        outbox
    }

    /// A connection is gone.
    pub fn disconnect(&self, client: ClientId) {
        let mut state = self.lock();
        if let Some(gone) = state.clients.remove(&client) {
            gone.outbox.abandon();
            for task_id in &gone.subscriptions {
                state.unsubscribe(client, task_id);
            }
        }
        drop(state);
        self.0.ended.notify_waiters();
    }

    /// Subscribes a connection to a task, which need not exist.
    pub fn subscribe(&self, client: ClientId, task_id: &str) {
        let ring = self.settings().ring;
        self.lock().subscribe(client, task_id, ring);
    }

    /// Ends a subscription, if there is one.
    pub fn unsubscribe(&self, client: ClientId, task_id: &str) {
        let mut state = self.lock();
        if let Some(client) = state.clients.get_mut(&client) {
            client.subscriptions.remove(task_id);
        }
        state.unsubscribe(client, task_id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sinks(&self, plan: &Plan) -> Sinks {
        Sinks {
            events: self.0.outlets.events.clone(),
            log: self.0.outlets.task_logs.as_ref().map(|logs| TaskLog {
                logs: logs.clone(),
                file: logs.file(&plan.task_id),
            }),
            counters: Some(self.0.counters.action(&plan.action)),
        }
    }

    /// Appends a message to the event log.
    fn log_event(&self, message: &Message) {
        if let Some(events) = &self.0.outlets.events {
            events.push(Bytes::from(frame::json_line(message)));
        }
    }
}

impl State {
    /// The topic of a task id, made when first needed.
    fn topic(&mut self, task_id: &str, ring: RingLimits) -> Arc<Topic> {
        if let Some(topic) = self.topics.get(task_id) {
            return Arc::clone(topic);
        }
        let id: Arc<str> = task_id.into();
        let topic = Topic::new(Arc::clone(&id), ring);
        self.topics.insert(id, Arc::clone(&topic));
        topic
    }

    fn subscribe(&mut self, client: ClientId, task_id: &str, ring: RingLimits) {
        let topic = self.topic(task_id, ring);
        if let Some(client) = self.clients.get_mut(&client) {
            client.subscriptions.insert(Arc::clone(topic.task_id()));
            topic.subscribe(&client.outbox);
        } else {
            self.forget_topic(task_id);
        }
    }

    fn unsubscribe(&mut self, client: ClientId, task_id: &str) {
        if let Some(topic) = self.topics.get(task_id) {
            topic.unsubscribe(client);
        }
        self.forget_topic(task_id);
    }

    /// Drops a topic that has neither a task nor a listener.
    fn forget_topic(&mut self, task_id: &str) {
        let deserted = self
            .topics
            .get(task_id)
            .is_some_and(|topic| topic.is_deserted());
        if deserted && !self.tasks.contains_key(task_id) {
            self.topics.remove(task_id);
        }
    }

    /// Sends a message to everybody.
    fn broadcast(&self, message: &Message) {
        if self.clients.is_empty() {
            return;
        }
        let frame = frame::encode(message);
        for client in self.clients.values() {
            client.outbox.push(frame.clone());
        }
    }

    /// Sends a lifecycle message of a task to its listeners and to those who watch all tasks.
    fn announce(&self, task_id: &str, message: &Message) {
        if let Some(topic) = self.topics.get(task_id) {
            topic.announce(message, self.watchers());
        }
    }

    /// Sends a message only to those who watch all tasks, except `client`.
    fn tell_watchers(&self, message: &Message, client: Option<ClientId>) {
        let mut frame = None;
        for outbox in self.watchers().filter(|outbox| Some(outbox.id()) != client) {
            outbox.push(frame.get_or_insert_with(|| frame::encode(message)).clone());
        }
    }

    fn watchers(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.clients
            .values()
            .map(|client| &client.outbox)
            .filter(|outbox| outbox.has(Feature::TaskEvents))
    }
}
