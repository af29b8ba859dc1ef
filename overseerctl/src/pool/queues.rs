//! Who waits: one queue per action, and where each task id is. Sizes, ages and limits are not known here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::Waiting;

/// All starts that wait.
///
/// Tickets grow with every start queued, whatever its action, so the smallest of a queue is its oldest.
#[derive(Debug)]
pub(super) struct Queues<T> {
    /// Only actions for which something waits.
    by_action: BTreeMap<String, Queue<T>>,
    places: HashMap<String, Place>,
    tickets: u64,
}

#[derive(Debug)]
struct Queue<T> {
    items: BTreeMap<u64, Waiting<T>>,
    /// The last ticket drawn here, which may be gone: newest first takes it out while others stay.
    last_ticket: u64,
}

#[derive(Debug)]
struct Place {
    action: String,
    ticket: u64,
}

impl<T> Queues<T> {
    pub(super) fn new() -> Self {
        Self {
            by_action: BTreeMap::new(),
            places: HashMap::new(),
            tickets: 0,
        }
    }

    /// Appends to the queue of the start's action and returns that queue's new length.
    pub(super) fn push(&mut self, waiting: Waiting<T>) -> usize {
        self.tickets += 1;
        let ticket = self.tickets;
        let action = waiting.action.clone();
        let before = self.places.insert(
            waiting.task_id.clone(),
            Place {
                action: action.clone(),
                ticket,
            },
        );
        debug_assert!(before.is_none(), "task {} waits twice", waiting.task_id);
        let queue = self.by_action.entry(action).or_insert_with(|| Queue {
            items: BTreeMap::new(),
            last_ticket: ticket,
        });
        queue.items.insert(ticket, waiting);
        queue.last_ticket = ticket;
        queue.items.len()
    }

    pub(super) fn pop(&mut self, action: &str, newest_first: bool) -> Option<Waiting<T>> {
        let mut tickets = self.by_action.get(action)?.items.keys().copied();
        let ticket = if newest_first {
            tickets.next_back()
        } else {
            tickets.next()
        }?;
        self.take(action, ticket)
    }

    pub(super) fn remove(&mut self, task_id: &str) -> Option<Waiting<T>> {
        let place = self.places.get(task_id)?;
        let (action, ticket) = (place.action.clone(), place.ticket);
        self.take(&action, ticket)
    }

    /// Takes out of one queue all that fit, oldest first.
    pub(super) fn take_where(
        &mut self,
        action: &str,
        fits: impl Fn(&Waiting<T>) -> bool,
    ) -> Vec<Waiting<T>> {
        let tickets: Vec<u64> = self
            .items(action)
            .filter(|(_, waiting)| fits(waiting))
            .map(|(&ticket, _)| ticket)
            .collect();
        tickets
            .into_iter()
            .filter_map(|ticket| self.take(action, ticket))
            .collect()
    }

    /// Task id of the oldest start in one queue that may be displaced.
    pub(super) fn oldest_unforced(&self, action: &str) -> Option<&str> {
        let (_, oldest) = self.items(action).find(|(_, waiting)| !waiting.forced)?;
        Some(&oldest.task_id)
    }

    pub(super) fn depth(&self, action: &str) -> usize {
        self.by_action
            .get(action)
            .map_or(0, |queue| queue.items.len())
    }

    pub(super) fn contains(&self, task_id: &str) -> bool {
        self.places.contains_key(task_id)
    }

    /// Actions for which something waits, by name.
    pub(super) fn actions(&self) -> Vec<String> {
        self.by_action.keys().cloned().collect()
    }

    /// Actions for which something waits, the one that queued a start last first.
    pub(super) fn actions_by_recency(&self) -> Vec<String> {
        let mut queues: Vec<_> = self.by_action.iter().collect();
        queues.sort_unstable_by_key(|(_, queue)| Reverse(queue.last_ticket));
        queues
            .into_iter()
            .map(|(action, _)| action.clone())
            .collect()
    }

    /// What waits for one action, or all that waits, with places in the queue from 0: by action, and oldest first in
    /// each.
    pub(super) fn iter<'a>(
        &'a self,
        scope: Option<&'a str>,
    ) -> impl Iterator<Item = (usize, &'a Waiting<T>)> {
        self.by_action
            .iter()
            .filter(move |(action, _)| scope.is_none_or(|scope| *action == scope))
            .flat_map(|(_, queue)| queue.items.values().enumerate())
    }

    fn items(&self, action: &str) -> impl Iterator<Item = (&u64, &Waiting<T>)> {
        self.by_action
            .get(action)
            .into_iter()
            .flat_map(|queue| &queue.items)
    }

    /// The only way out: keeps the index true and leaves no empty queue behind.
    fn take(&mut self, action: &str, ticket: u64) -> Option<Waiting<T>> {
        let queue = self.by_action.get_mut(action)?;
        let waiting = queue.items.remove(&ticket)?;
        if queue.items.is_empty() {
            self.by_action.remove(action);
        }
        self.places.remove(&waiting.task_id);
        Some(waiting)
    }

    /// Fails if the index differs from the queues, or an empty queue is kept.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut waiting = 0;
        for (action, queue) in &self.by_action {
            assert!(!queue.items.is_empty(), "queue of {action} is empty");
            for (&ticket, item) in &queue.items {
                let place = &self.places[&item.task_id];
                assert_eq!(
                    (&place.action, place.ticket, &item.action),
                    (action, ticket, action)
                );
                waiting += 1;
            }
        }
        assert_eq!(self.places.len(), waiting);
    }
}
