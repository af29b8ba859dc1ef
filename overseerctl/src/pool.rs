//! Who may run now, who waits, who is refused: limits, queues, displacement, expiry and eviction as one plain value.
//!
//! Nothing here does I/O, locks, or reads a clock. Every method takes what it needs, changes the value and returns what
//! its owner, the hub, has to do: start a payload, stop a task, tell clients about a dropped start. The hub calls it
//! under its own lock and performs the answers outside.
//!
//! ```text
//!                    request: room
//!            ┌──────────────────────────────┐
//!            │                              ▼
//!   start ───┤ request: no room  waiting ─admit─▶ holding ◀──hold── restart, reset
//!            ├────────────────────▶  │              │  │
//!            │ request: queue full   │       set: evicted, the slot stays taken
//!            ▼                       ▼              │  │
//!         refused        remove, purge, expire,     ▼  ▼
//!                        drain, displaced,         release ──▶ slot free, now `admit`
//!                        reconfigure
//! ```
//!
//! # Rules, as sticky-overseer v2 has them
//!
//! - The global limit counts every slot, an action's limit that action's slots; zero or less is unlimited.
//! - Queues are always per action. Their settings are the action's, else the global pool's, else "disabled".
//! - A start runs at once when both limits have room, even while others wait; else it waits, else it is refused.
//! - `force` does not get past a limit. It lets a start displace where `displace` is `false`, and it makes the
//!   waiting start itself safe from displacement.
//! - The displaced start is the oldest one that is not forced. `displace: prohibit` never gives one up, `false` only to
//!   a forced newcomer, everything else, unset included, does.
//! - A start that waited longer than `max_age` is dropped by the next sweep, or when its turn comes; until then it keeps
//!   its place in the queue.
//! - `order: last` admits the newest first, everything else the oldest. Between actions, the one that queued a start
//!   most recently comes first.
//!
//! # Where it differs from v2, and why
//!
//! - A slot is given only if both limits have room for it, and only a holder can release one. v2 admits one start per
//!   exit, whoever exited, so that an action overruns its limit.
//! - Displacement looks into the newcomer's own queue only. v2 goes on to other actions' queues; but sizes are per
//!   queue, so a victim there frees no place here: v2 drops the victim, says `queued` to the newcomer and loses both.
//!   For the same reason nothing is displaced from a queue that a lowered `queue_size` left longer than its size.
//! - A task evicted by a lowered limit vanishes from the count that clients see at once, as in v2, but its slot is free
//!   only when its process has ended.
//! - Changing an action that lives on the global queue gives it a queue of its own that differs in size alone. v2 gives
//!   it a disabled one.
//!
//! # Restarts
//!
//! By default a task gives its slot back with every exit, and a restart takes one with [`Pool::hold`], over the limit if
//! need be. With `hold_on_restart` ([`Pool::holds_on_restart`]) the hub does not release at an exit that a restart
//! follows; the slot, and its age, stay the task's. There is nothing more to it.

mod queues;
mod rules;
mod slots;
#[cfg(test)]
mod tests;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use self::{queues::Queues, rules::Rules, slots::Slots};
use crate::{
    api::{ExcessConfig, PoolConfig, PoolInfo, QueueItemInfo},
    time::Timestamp,
};

/// Why a start was refused, as v2 words it.
pub const REJECTED: &str = "pool: task rejected — limit reached and queue is full";

/// A wish to run a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<T> {
    /// Id of the task, unique among all that hold a slot or wait.
    pub task_id: String,
    /// Name of its action.
    pub action: String,
    /// Whether the client said `force`.
    pub forced: bool,
    /// What the hub needs to perform the start; the pool only keeps it.
    pub payload: T,
}

/// A start in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting<T> {
    /// Id of the task.
    pub task_id: String,
    /// Name of its action, and of its queue.
    pub action: String,
    /// Whether the client said `force`: then it cannot be displaced.
    pub forced: bool,
    /// What the hub needs to perform the start.
    pub payload: T,
    /// When it was queued, for clients.
    pub queued_at: Timestamp,
    /// When it was queued, for its expiry: the monotonic clock does not jump.
    pub since: Instant,
}

/// What became of a [`Pool::request`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a start that may run has a slot already"]
pub enum Admission<T> {
    /// Run it: its slot is taken.
    Run(Start<T>),
    /// It waits.
    Queued {
        /// Length of its queue, itself included.
        position: usize,
        /// The start that was dropped to make room for it.
        displaced: Option<Waiting<T>>,
    },
    /// It may neither run nor wait, see [`REJECTED`]; nothing has changed.
    Rejected(Start<T>),
}

/// What [`Pool::admit`] took out of the queues.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the starts have slots already"]
pub struct Admitted<T> {
    /// Run these, in this order: their slots are taken.
    pub run: Vec<Start<T>>,
    /// These had waited too long when their turn came.
    pub expired: Vec<Waiting<T>>,
}

/// What `set_pool` changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// So many tasks run at once; zero or less is unlimited.
    pub limit: i64,
    /// So many may wait; zero or less is unlimited.
    pub queue_size: i64,
    /// How this and later reductions are enforced; `None` leaves it as it is.
    pub excess: Option<ExcessConfig>,
}

/// The slots and queues of all actions. See the module documentation for its rules.
///
/// After everything that may have freed a slot or raised a limit ([`release`](Self::release), [`set`](Self::set),
/// [`reconfigure`](Self::reconfigure)) the hub calls [`admit`](Self::admit).
#[derive(Debug)]
pub struct Pool<T> {
    rules: Rules,
    slots: Slots,
    queues: Queues<T>,
}

impl<T> Pool<T> {
    /// An empty pool. `actions` names every configured action, those without pool settings of their own included.
    pub fn new(global: PoolConfig, actions: BTreeMap<String, PoolConfig>) -> Self {
        Self {
            rules: Rules::new(global, actions),
            slots: Slots::default(),
            queues: Queues::new(),
        }
    }

    // === Starts ===

    /// Runs, queues or refuses a start, at the time `now` on the monotonic clock and `at` on clients' clocks.
    ///
    /// The hub refuses an id that is in use with a better message before it gets here; should one come through, it is
    /// rejected, so that no id is ever in two places.
    pub fn request(&mut self, start: Start<T>, now: Instant, at: Timestamp) -> Admission<T> {
        if self.knows(&start.task_id) {
            return Admission::Rejected(start);
        }
        if self.has_room(&start.action) {
            self.slots.take(&start.task_id, &start.action);
            return Admission::Run(start);
        }
        match self.find_place(&start) {
            Place::None => Admission::Rejected(start),
            Place::Free => self.queue(start, None, now, at),
            Place::Of(victim) => {
                let displaced = self.queues.remove(&victim);
                self.queue(start, displaced, now, at)
            }
        }
    }

    /// Gives waiting starts as many slots as there are.
    ///
    /// Should the hub fail to perform one, it releases it and admits again. A start that expired is dropped when its
    /// turn comes; [`expire`](Self::expire) finds the others.
    pub fn admit(&mut self, now: Instant) -> Admitted<T> {
        let mut admitted = Admitted {
            run: Vec::new(),
            expired: Vec::new(),
        };
        for action in self.queues.actions_by_recency() {
            let rules = self.rules.queue(&action);
            while self.has_room(&action) {
                match self.queues.pop(&action, rules.newest_first) {
                    None => break,
                    Some(waiting) if rules.is_stale(waiting.since, now) => {
                        admitted.expired.push(waiting);
                    }
                    Some(waiting) => {
                        self.slots.take(&waiting.task_id, &action);
                        admitted.run.push(waiting.into());
                    }
                }
            }
        }
        admitted
    }

    /// Takes a slot for a task that runs whatever the limits say: restarts and resets bypass the pool, but are counted.
    ///
    /// Says whether it took one. A task that holds one already keeps it as it is; one that waits goes on waiting, so
    /// [`remove`](Self::remove) it first.
    pub fn hold(&mut self, task_id: &str, action: &str) -> bool {
        let free = !self.knows(task_id);
        if free {
            self.slots.take(task_id, action);
        }
        free
    }

    /// Frees a task's slot, and says whether it had one.
    pub fn release(&mut self, task_id: &str) -> bool {
        self.slots.free(task_id)
    }

    // === Queues ===

    /// Takes one start out of its queue.
    pub fn remove(&mut self, task_id: &str) -> Option<Waiting<T>> {
        self.queues.remove(task_id)
    }

    /// Empties the queue of one action, or all queues: by action, and oldest first in each.
    pub fn purge(&mut self, action: Option<&str>) -> Vec<Waiting<T>> {
        match action {
            Some(action) => self.queues.take_where(action, |_| true),
            None => self.drain(),
        }
    }

    /// Takes out all starts that have waited longer than their queue's `max_age`.
    pub fn expire(&mut self, now: Instant) -> Vec<Waiting<T>> {
        let mut expired = Vec::new();
        for action in self.queues.actions() {
            let rules = self.rules.queue(&action);
            expired.extend(
                self.queues
                    .take_where(&action, |waiting| rules.is_stale(waiting.since, now)),
            );
        }
        expired
    }

    /// Takes out all that wait, for the shutdown. Holders stay until they are released.
    pub fn drain(&mut self) -> Vec<Waiting<T>> {
        let actions = self.queues.actions();
        actions
            .iter()
            .flat_map(|action| self.queues.take_where(action, |_| true))
            .collect()
    }

    /// How long to wait before the next [`expire`](Self::expire): half the smallest `max_age` configured, at least a
    /// millisecond; five seconds where there is none. May change with every [`set`](Self::set) and
    /// [`reconfigure`](Self::reconfigure).
    pub fn next_sweep(&self) -> Duration {
        self.rules.sweep_interval()
    }

    // === Settings ===

    /// Changes the limits of one action, or the global ones, and returns the tasks that have to stop, in that order.
    ///
    /// Those count as stopped in [`info`](Self::info) from now on, and are not returned again, but keep their slots
    /// until they are released. The rest of the queue's settings, whether there is one at all included, stays as it is
    /// in force for the action. An action that the configuration does not know gets settings of its own, as in v2.
    #[must_use = "evicted tasks have to be stopped"]
    pub fn set(&mut self, action: Option<&str>, change: Limits) -> Vec<String> {
        self.rules.set(action, change);
        let Some(limit) = self.rules.limit(action) else {
            return Vec::new();
        };
        let surplus = self.slots.running(action).saturating_sub(limit);
        let newest_first = self.rules.excess(action).order == "last";
        self.slots.evict(action, surplus, newest_first)
    }

    /// Replaces all settings, those made by [`set`](Self::set) included.
    ///
    /// Holders and queues stay, however far over the new limits; only starts of actions that are gone are taken out
    /// and returned.
    #[must_use = "these starts will never run"]
    pub fn reconfigure(
        &mut self,
        global: PoolConfig,
        actions: BTreeMap<String, PoolConfig>,
    ) -> Vec<Waiting<T>> {
        self.rules = Rules::new(global, actions);
        let mut gone = self.queues.actions();
        gone.retain(|action| !self.rules.knows(action));
        gone.iter()
            .flat_map(|action| self.queues.take_where(action, |_| true))
            .collect()
    }

    // === Questions ===

    /// State of one action's pool, or of the global one, as clients see it. For an unknown action the limit is the
    /// global one, as v2 answers.
    pub fn info(&self, action: Option<&str>) -> PoolInfo {
        let queue_items: Vec<_> = self
            .queues
            .iter(action)
            .map(|(position, waiting)| queue_item(position, waiting))
            .collect();
        PoolInfo {
            limit: self.rules.shown_limit(action),
            running: self.slots.running(action),
            queue_depth: queue_items.len(),
            queue_items,
        }
    }

    /// Settings of one action as they are now. No queue means that the global one's settings apply.
    pub fn config(&self, action: &str) -> PoolConfig {
        self.rules.config(action)
    }

    /// How a lowered limit of one action, or of the global pool, is enforced.
    pub fn excess(&self, action: Option<&str>) -> &ExcessConfig {
        self.rules.excess(action)
    }

    /// Whether tasks of this action keep their slots while they wait for a restart: the action or the global pool asks
    /// for it, since either limit may be the one that is meant to hold.
    pub fn holds_on_restart(&self, action: &str) -> bool {
        self.rules.holds_on_restart(action)
    }

    /// Whether a start of this id waits.
    pub fn contains_waiting(&self, task_id: &str) -> bool {
        self.queues.contains(task_id)
    }

    /// All that wait: by action, and oldest first in each queue.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting<T>> {
        self.queues.iter(None).map(|(_, waiting)| waiting)
    }

    fn knows(&self, task_id: &str) -> bool {
        self.slots.contains(task_id) || self.queues.contains(task_id)
    }

    /// Whether both limits leave a slot to one more task of `action`.
    fn has_room(&self, action: &str) -> bool {
        [None, Some(action)].into_iter().all(|scope| {
            self.rules
                .limit(scope)
                .is_none_or(|limit| self.slots.taken(scope) < limit)
        })
    }

    /// Looks for a place in the queue of the action. One victim makes room for one newcomer only where the queue is no
    /// longer than its size.
    fn find_place(&self, start: &Start<T>) -> Place {
        let rules = self.rules.queue(&start.action);
        if !rules.enabled {
            return Place::None;
        }
        let depth = self.queues.depth(&start.action);
        match rules.size.map(|size| depth.cmp(&size)) {
            None | Some(Ordering::Less) => Place::Free,
            Some(Ordering::Equal) if rules.lets_displace(start.forced) => {
                let victim = self.queues.oldest_unforced(&start.action);
                victim.map_or(Place::None, |task_id| Place::Of(task_id.to_owned()))
            }
            Some(Ordering::Equal | Ordering::Greater) => Place::None,
        }
    }

    fn queue(
        &mut self,
        start: Start<T>,
        displaced: Option<Waiting<T>>,
        now: Instant,
        at: Timestamp,
    ) -> Admission<T> {
        let Start {
            task_id,
            action,
            forced,
            payload,
        } = start;
        let waiting = Waiting {
            task_id,
            action,
            forced,
            payload,
            queued_at: at,
            since: now,
        };
        let position = self.queues.push(waiting);
        Admission::Queued {
            position,
            displaced,
        }
    }
}

/// What its queue has for a newcomer.
enum Place {
    None,
    Free,
    /// The place of this task, which has to go.
    Of(String),
}

impl<T> From<Waiting<T>> for Start<T> {
    fn from(waiting: Waiting<T>) -> Self {
        let Waiting {
            task_id,
            action,
            forced,
            payload,
            queued_at: _,
            since: _,
        } = waiting;
        Self {
            task_id,
            action,
            forced,
            payload,
        }
    }
}

fn queue_item<T>(position: usize, waiting: &Waiting<T>) -> QueueItemInfo {
    QueueItemInfo {
        task_id: waiting.task_id.clone(),
        action: waiting.action.clone(),
        queued_at: waiting.queued_at,
        position,
        forced: waiting.forced,
    }
}
