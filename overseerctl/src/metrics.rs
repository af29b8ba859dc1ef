//! Counters of the daemon and of its actions, and their Prometheus form.
//!
//! Per-task numbers are no counters of their own: they live in the task and its topic.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::api::{ActionMetrics, GlobalMetrics};

/// One monotonic number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the whole daemon.
#[derive(Debug, Default)]
pub struct Counters {
    total: Lifecycle,
    /// Starts that had to wait.
    pub enqueued: Counter,
    /// Waiting starts removed without being run.
    pub dequeued: Counter,
    /// Of those, the ones that made room for another.
    pub displaced: Counter,
    /// Of those, the ones that waited too long.
    pub expired: Counter,
    /// Clients closed because they did not read.
    pub slow_clients: Counter,
    /// Connections accepted.
    pub connections: Counter,
    actions: Mutex<BTreeMap<String, Arc<ActionCounters>>>,
}

/// What happens to tasks, counted.
#[derive(Debug, Default)]
struct Lifecycle {
    started: Counter,
    completed: Counter,
    errored: Counter,
    restarted: Counter,
    lines: Counter,
}

/// Counters of one action; counting here counts for the daemon too.
#[derive(Debug)]
pub struct ActionCounters {
    own: Lifecycle,
    daemon: Arc<Counters>,
}

impl ActionCounters {
    fn both(&self, pick: impl Fn(&Lifecycle) -> &Counter, n: u64) {
        pick(&self.own).add(n);
        pick(&self.daemon.total).add(n);
    }

    /// A task was started.
    pub fn started(&self) {
        self.both(|life| &life.started, 1);
    }

    /// A worker ended.
    pub fn completed(&self) {
        self.both(|life| &life.completed, 1);
    }

    /// A task gave up.
    pub fn errored(&self) {
        self.both(|life| &life.errored, 1);
    }

    /// A restart was scheduled.
    pub fn restarted(&self) {
        self.both(|life| &life.restarted, 1);
    }

    /// Lines were published.
    pub fn output(&self, lines: u64) {
        self.both(|life| &life.lines, lines);
    }

    /// As the `metrics` message shows them.
    pub fn snapshot(&self) -> ActionMetrics {
        ActionMetrics {
            tasks_started: self.own.started.get(),
            tasks_completed: self.own.completed.get(),
            tasks_errored: self.own.errored.get(),
            tasks_restarted: self.own.restarted.get(),
            total_output_lines: self.own.lines.get(),
        }
    }
}

impl Counters {
    /// The counters of an action, made when first asked for.
    pub fn action(self: &Arc<Self>, name: &str) -> Arc<ActionCounters> {
        let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = actions.get(name) {
            return Arc::clone(counters);
        }
        let counters = Arc::new(ActionCounters {
            own: Lifecycle::default(),
            daemon: Arc::clone(self),
        });
        actions.insert(name.to_owned(), Arc::clone(&counters));
        counters
    }

    /// Counters of an action that has been used.
    pub fn known_action(&self, name: &str) -> Option<ActionMetrics> {
        let actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        actions.get(name).map(|counters| counters.snapshot())
    }

    /// All actions that have been used, by name.
    pub fn actions(&self) -> Vec<(String, ActionMetrics)> {
        let actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        actions
            .iter()
            .map(|(name, counters)| (name.clone(), counters.snapshot()))
            .collect()
    }

    /// As the `metrics` message shows them.
    pub fn snapshot(&self) -> GlobalMetrics {
        GlobalMetrics {
            tasks_started: self.total.started.get(),
            tasks_completed: self.total.completed.get(),
            tasks_errored: self.total.errored.get(),
            tasks_restarted: self.total.restarted.get(),
            total_output_lines: self.total.lines.get(),
            enqueued: self.enqueued.get(),
            dequeued: self.dequeued.get(),
            displaced: self.displaced.get(),
            expired: self.expired.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_counts_for_the_daemon_too() {
        let counters = Arc::new(Counters::default());
        counters.action("a").started();
        counters.action("a").output(5);
        counters.action("b").started();
        assert_eq!(counters.known_action("a").unwrap().total_output_lines, 5);
        assert_eq!(counters.snapshot().tasks_started, 2);
        assert!(
            counters.known_action("c").is_none(),
            "an action nobody used is unknown"
        );
    }
}
