//! Questions that change nothing: list, replay, describe, metrics, manifest, history.

use std::collections::BTreeMap;

use runyard_common::metrics::Exposition;

use super::{Action, Hub, Refusal, pools::named};
use crate::{
    api::{ActionInfo, ActionMetrics, Message, Phase, TaskInfo, TaskState},
    manifest,
    outbox::Outbox,
    store::{HistoryQuery, Run},
    time::{Timestamp, TimestampError},
    topic::Replayed,
};

impl Hub {
    /// All tasks, oldest first, then the waiting starts. `since` leaves out tasks that neither started nor ended since;
    /// waiting starts are always shown.
    pub fn list(&self, since: Option<Timestamp>) -> Vec<TaskInfo> {
        let state = self.lock();
        let recent = |info: &TaskInfo| {
            since.is_none_or(|since| info.last_started_at.max(info.last_exited_at) >= Some(since))
        };
        let mut tasks: Vec<TaskInfo> = state
            .tasks
            .values()
            .map(crate::task::Task::info)
            .filter(recent)
            .collect();
        let waiting: Vec<TaskInfo> = state
            .pool
            .waiting()
            .map(|item| TaskInfo {
                task_id: item.task_id.as_str().into(),
                action: item.action.as_str().into(),
                params: std::sync::Arc::default(),
                queued_at: Some(item.queued_at),
                state: TaskState::Queued,
                retry_policy: None,
                current_pid: 0,
                worker_state: None,
                restart_count: 0,
                created_at: Timestamp::ZERO,
                last_started_at: None,
                last_exited_at: None,
                last_exit_code: None,
                error_message: String::new(),
                phase: Some(Phase::Queued),
            })
            .collect();
        drop(state);
        tasks.sort_by_key(|info| info.created_at);
        tasks.extend(waiting);
        tasks
    }

    /// Sends a client what the newest worker of a task said.
    pub fn replay(
        &self,
        task_id: &str,
        since: &str,
        to: &Outbox,
    ) -> Result<Replayed, ReplayRefusal> {
        if task_id.is_empty() {
            return Err(ReplayRefusal::TaskIdRequired);
        }
        let topic = {
            let state = self.lock();
            let task = state.tasks.get(task_id).ok_or(ReplayRefusal::NotFound)?;
            let topic = state.topics.get(task_id).filter(|_| task.had_worker);
            topic
                .map(std::sync::Arc::clone)
                .ok_or(ReplayRefusal::NoWorker)?
        };
        let since = parse_since(since).map_err(|_| ReplayRefusal::InvalidSince)?;
        topic.replay(since, to).ok_or(ReplayRefusal::NoWorker)
    }

    /// One action, or all of them by name, with their pools as they are now.
    pub fn describe(&self, name: &str) -> Result<Vec<ActionInfo>, Refusal> {
        let actions = self.actions();
        match named(name) {
            None => Ok(actions
                .iter()
                .map(|(name, action)| self.action_info(name, action))
                .collect()),
            Some(name) => {
                let action = actions
                    .get(name)
                    .ok_or_else(|| Refusal::UnknownAction(name.to_owned()))?;
                Ok(vec![self.action_info(name, action)])
            }
        }
    }

    fn action_info(&self, name: &str, action: &Action) -> ActionInfo {
        let mut info = action.driver.describe();
        name.clone_into(&mut info.name);
        info.task_pool = self.lock().pool.config(name);
        info
    }

    /// The `metrics` reply: of a task, else of an action, else of the daemon.
    pub fn metrics(&self, id: String, action: &str, task_id: &str) -> Message {
        let (mut global, mut of_action, mut of_task) = (None, None, None);
        if !task_id.is_empty() {
            let state = self.lock();
            let lines = state.topics.get(task_id).map_or(0, |topic| topic.lines());
            of_task = state.tasks.get(task_id).map(|task| task.metrics(lines));
        } else if let Some(action) = named(action) {
            of_action = self.0.counters.known_action(action);
        } else {
            global = Some(self.0.counters.snapshot());
        }
        Message::Metrics {
            id,
            global,
            action: of_action,
            task: of_task,
        }
    }

    /// The document that describes this hub's protocol and actions.
    pub fn manifest(&self) -> serde_json::Value {
        manifest::manifest(&self.describe("").unwrap_or_default())
    }

    /// Past runs from the store, newest first; `None` without a store.
    pub fn history(&self, query: &HistoryQuery) -> Option<Result<Vec<Run>, String>> {
        let store = self.0.outlets.store.as_ref()?;
        Some(store.history(query).map_err(|error| error.to_string()))
    }

    /// Everything in Prometheus' text format.
    pub fn exposition(&self) -> String {
        let mut out = Exposition::new();
        let totals = self.0.counters.snapshot();
        let mut counter = |name, help, value: u64| {
            out.counter(name, help).sample(&[], value);
        };
        counter(
            "overseer_queue_enqueued_total",
            "Starts that had to wait.",
            totals.enqueued,
        );
        counter(
            "overseer_queue_dequeued_total",
            "Waiting starts removed without being run.",
            totals.dequeued,
        );
        counter(
            "overseer_queue_displaced_total",
            "Waiting starts that made room for another.",
            totals.displaced,
        );
        counter(
            "overseer_queue_expired_total",
            "Waiting starts that waited too long.",
            totals.expired,
        );
        counter(
            "overseer_connections_total",
            "Connections accepted.",
            self.0.counters.connections.get(),
        );
        counter(
            "overseer_slow_clients_total",
            "Clients closed for not reading.",
            self.0.counters.slow_clients.get(),
        );
        self.expose_actions(&mut out);
        self.expose_state(&mut out);
        out.finish()
    }

    fn expose_actions(&self, out: &mut Exposition) {
        type Pick = fn(&ActionMetrics) -> u64;
        const FAMILIES: [(&str, &str, Pick); 5] = [
            (
                "overseer_tasks_started_total",
                "Tasks started, by action.",
                |numbers| numbers.tasks_started,
            ),
            (
                "overseer_workers_exited_total",
                "Workers that ended, by action.",
                |numbers| numbers.tasks_completed,
            ),
            (
                "overseer_tasks_errored_total",
                "Tasks that gave up, by action.",
                |numbers| numbers.tasks_errored,
            ),
            (
                "overseer_restarts_total",
                "Restarts scheduled, by action.",
                |numbers| numbers.tasks_restarted,
            ),
            (
                "overseer_output_lines_total",
                "Lines published, by action.",
                |numbers| numbers.total_output_lines,
            ),
        ];
        let actions = self.0.counters.actions();
        for (name, help, pick) in FAMILIES {
            let mut family = out.counter(name, help);
            for (action, numbers) in &actions {
                family.sample(&[("action", action)], pick(numbers));
            }
        }
    }

    fn expose_state(&self, out: &mut Exposition) {
        let state = self.lock();
        let mut phases = BTreeMap::<&'static str, u64>::new();
        for task in state.tasks.values() {
            *phases.entry(task.phase().as_str()).or_default() += 1;
        }
        let mut family = out.gauge("overseer_tasks", "Tasks known, by phase.");
        for (phase, count) in phases {
            family.sample(&[("phase", phase)], count);
        }
        let pool = state.pool.info(None);
        out.gauge("overseer_pool_running", "Pool slots taken.")
            .sample(&[], pool.running as u64);
        out.gauge("overseer_pool_limit", "Global limit; 0 is unlimited.")
            .sample(&[], pool.limit.max(0));
        out.gauge("overseer_queue_depth", "Starts that wait.")
            .sample(&[], pool.queue_depth as u64);
        out.gauge("overseer_clients", "Connections now.")
            .sample(&[], state.clients.len() as u64);
    }
}

/// Why a replay was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayRefusal {
    /// `task_id` is missing.
    #[error("task_id is required")]
    TaskIdRequired,
    /// No such task.
    #[error("task not found")]
    NotFound,
    /// It has no worker yet.
    #[error("no worker for task")]
    NoWorker,
    /// `since` is no RFC 3339 timestamp.
    #[error("invalid since timestamp")]
    InvalidSince,
}

/// The wire's `since`: empty means none.
pub fn parse_since(since: &str) -> Result<Option<Timestamp>, TimestampError> {
    if since.is_empty() {
        return Ok(None);
    }
    since.parse().map(Some)
}
