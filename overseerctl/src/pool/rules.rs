//! What the configuration means: the limit and the queue settings in force for an action. No task is known here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Limits;
use crate::api::{ExcessConfig, PoolConfig, QueueConfig};

/// In force where neither the action nor the global pool configures a queue.
static NO_QUEUE: QueueConfig = QueueConfig {
    enabled: false,
    size: 0,
    order: String::new(),
    max_age: 0,
    displace: String::new(),
};

/// In force for an action without settings.
static NO_EXCESS: ExcessConfig = ExcessConfig {
    action: String::new(),
    order: String::new(),
    grace: 0,
};

const IDLE_SWEEP: Duration = Duration::from_secs(5);
const SHORTEST_SWEEP: Duration = Duration::from_millis(1);

/// The settings of all pools. A scope of `None` is the global pool, `Some` an action's.
#[derive(Debug)]
pub(super) struct Rules {
    global: PoolConfig,
    actions: BTreeMap<String, PoolConfig>,
}

impl Rules {
    pub(super) fn new(global: PoolConfig, actions: BTreeMap<String, PoolConfig>) -> Self {
        Self { global, actions }
    }

    pub(super) fn knows(&self, action: &str) -> bool {
        self.actions.contains_key(action)
    }

    /// So many slots there are; `None` is unlimited, also for an action without settings.
    pub(super) fn limit(&self, scope: Option<&str>) -> Option<usize> {
        positive(self.scope(scope)?.limit)
    }

    /// The limit as clients are told it.
    pub(super) fn shown_limit(&self, scope: Option<&str>) -> i64 {
        self.scope(scope).unwrap_or(&self.global).limit
    }

    pub(super) fn excess(&self, scope: Option<&str>) -> &ExcessConfig {
        self.scope(scope).map_or(&NO_EXCESS, |pool| &pool.excess)
    }

    pub(super) fn queue(&self, action: &str) -> QueueRules {
        QueueRules::from(self.queue_config(action))
    }

    pub(super) fn config(&self, action: &str) -> PoolConfig {
        self.actions.get(action).cloned().unwrap_or_default()
    }

    pub(super) fn holds_on_restart(&self, action: &str) -> bool {
        [None, Some(action)]
            .into_iter()
            .filter_map(|scope| self.scope(scope))
            .any(|pool| pool.hold_on_restart)
    }

    pub(super) fn set(&mut self, scope: Option<&str>, change: Limits) {
        // A copy: what one scope changes must not show in another that it took its settings from.
        let in_force = match scope {
            None => self.global.queue.as_ref().unwrap_or(&NO_QUEUE),
            Some(action) => self.queue_config(action),
        };
        let queue = QueueConfig {
            size: change.queue_size,
            ..in_force.clone()
        };
        let pool = match scope {
            None => &mut self.global,
            Some(action) => self.actions.entry(action.to_owned()).or_default(),
        };
        pool.limit = change.limit;
        pool.queue = Some(queue);
        if let Some(excess) = change.excess {
            pool.excess = excess;
        }
    }

    /// Half the smallest `max_age`. Disabled queues count: starts may still wait there from before they were disabled.
    pub(super) fn sweep_interval(&self) -> Duration {
        [&self.global]
            .into_iter()
            .chain(self.actions.values())
            .filter_map(|pool| max_age(pool.queue.as_ref()?))
            .min()
            .map_or(IDLE_SWEEP, |age| (age / 2).max(SHORTEST_SWEEP))
    }

    fn scope(&self, scope: Option<&str>) -> Option<&PoolConfig> {
        match scope {
            None => Some(&self.global),
            Some(action) => self.actions.get(action),
        }
    }

    fn queue_config(&self, action: &str) -> &QueueConfig {
        let own = self
            .actions
            .get(action)
            .and_then(|pool| pool.queue.as_ref());
        own.or(self.global.queue.as_ref()).unwrap_or(&NO_QUEUE)
    }
}

/// Settings of one queue, its words understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueRules {
    /// Whether starts may wait here.
    pub(super) enabled: bool,
    /// So many may; `None` is unlimited.
    pub(super) size: Option<usize>,
    /// Which end is admitted first.
    pub(super) newest_first: bool,
    max_age: Option<Duration>,
    displace: Displace,
}

/// Who may displace a start that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Displace {
    Anyone,
    Forced,
    Nobody,
}

impl QueueRules {
    /// Whether a start that waits since then has waited too long.
    pub(super) fn is_stale(self, since: Instant, now: Instant) -> bool {
        self.max_age
            .is_some_and(|age| now.saturating_duration_since(since) > age)
    }

    /// Whether a newcomer may displace another start from this queue.
    pub(super) fn lets_displace(self, forced: bool) -> bool {
        match self.displace {
            Displace::Anyone => true,
            Displace::Forced => forced,
            Displace::Nobody => false,
        }
    }
}

impl From<&QueueConfig> for QueueRules {
    fn from(queue: &QueueConfig) -> Self {
        Self {
            enabled: queue.enabled,
            size: positive(queue.size),
            newest_first: queue.order == "last",
            max_age: max_age(queue),
            displace: match queue.displace.as_str() {
                "prohibit" => Displace::Nobody,
                "false" => Displace::Forced,
                _ => Displace::Anyone,
            },
        }
    }
}

fn max_age(queue: &QueueConfig) -> Option<Duration> {
    let seconds = u64::try_from(queue.max_age).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// A limit as configured, where zero and less mean that there is none.
fn positive(limit: i64) -> Option<usize> {
    usize::try_from(limit).ok().filter(|&limit| limit > 0)
}
