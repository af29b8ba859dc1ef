//! Who holds a slot. Limits are not known here: a slot is taken because the pool says so.

use std::collections::HashMap;

/// The slots that are taken, counted in all and by action. A scope of `None` is all of them, `Some` an action's.
#[derive(Debug, Default)]
pub(super) struct Slots {
    holders: HashMap<String, Holder>,
    total: Count,
    /// Only actions that have a holder.
    by_action: HashMap<String, Count>,
    tickets: u64,
}

#[derive(Debug)]
struct Holder {
    action: String,
    /// Grows with every slot taken: their order by age, exact where two clock readings may be the same.
    ticket: u64,
    /// Told to stop because a limit was lowered.
    evicted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    taken: usize,
    evicted: usize,
}

impl Slots {
    /// Takes a slot for a task that has none.
    pub(super) fn take(&mut self, task_id: &str, action: &str) {
        self.tickets += 1;
        let holder = Holder {
            action: action.to_owned(),
            ticket: self.tickets,
            evicted: false,
        };
        let before = self.holders.insert(task_id.to_owned(), holder);
        debug_assert!(before.is_none(), "task {task_id} takes a second slot");
        self.total.taken += 1;
        self.by_action.entry(action.to_owned()).or_default().taken += 1;
    }

    pub(super) fn free(&mut self, task_id: &str) -> bool {
        let Some(holder) = self.holders.remove(task_id) else {
            return false;
        };
        self.total.lose(&holder);
        if let Some(count) = self.by_action.get_mut(&holder.action) {
            count.lose(&holder);
            if count.taken == 0 {
                self.by_action.remove(&holder.action);
            }
        }
        true
    }

    pub(super) fn contains(&self, task_id: &str) -> bool {
        self.holders.contains_key(task_id)
    }

    /// Slots in use, those of evicted tasks included.
    pub(super) fn taken(&self, scope: Option<&str>) -> usize {
        self.count(scope).taken
    }

    /// Slots in use, those of evicted tasks not included.
    pub(super) fn running(&self, scope: Option<&str>) -> usize {
        let count = self.count(scope);
        count.taken - count.evicted
    }

    /// Marks so many holders as evicted, oldest or newest first, and returns their ids. None is returned twice.
    pub(super) fn evict(
        &mut self,
        scope: Option<&str>,
        surplus: usize,
        newest_first: bool,
    ) -> Vec<String> {
        let mut candidates: Vec<_> = self
            .holders
            .iter()
            .filter(|(_, holder)| {
                !holder.evicted && scope.is_none_or(|action| holder.action == action)
            })
            .map(|(task_id, holder)| (holder.ticket, task_id.clone()))
            .collect();
        candidates.sort_unstable();
        if newest_first {
            candidates.reverse();
        }
        candidates.truncate(surplus);
        candidates
            .into_iter()
            .map(|(_, task_id)| task_id)
            .inspect(|task_id| self.mark_evicted(task_id))
            .collect()
    }

    fn mark_evicted(&mut self, task_id: &str) {
        if let Some(holder) = self.holders.get_mut(task_id) {
            holder.evicted = true;
            self.total.evicted += 1;
            if let Some(count) = self.by_action.get_mut(&holder.action) {
                count.evicted += 1;
            }
        }
    }

    fn count(&self, scope: Option<&str>) -> Count {
        match scope {
            None => self.total,
            Some(action) => self.by_action.get(action).copied().unwrap_or_default(),
        }
    }

    /// Fails if a count is not what counting gives.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut by_action: HashMap<String, Count> = HashMap::new();
        let mut total = Count::default();
        for holder in self.holders.values() {
            for count in [
                &mut total,
                by_action.entry(holder.action.clone()).or_default(),
            ] {
                count.taken += 1;
                count.evicted += usize::from(holder.evicted);
            }
        }
        assert_eq!((self.total, &self.by_action), (total, &by_action));
    }
}

impl Count {
    fn lose(&mut self, holder: &Holder) {
        self.taken -= 1;
        self.evicted -= usize::from(holder.evicted);
    }
}
