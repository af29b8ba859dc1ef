//! What is recorded and not written yet. A plain value: no lock, no thread, no SQL.
//!
//! Records of the same run, or of the same waiting start, merge while they wait. So the backlog holds at most one
//! record for each run that has not ended, one for each start that waits, one for each of either that the database
//! still shows and that is over — all bounded by what is alive in the daemon — and ended runs up to a fixed size.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem;

use super::record::{QueuedStart, Run, RunEnd, RunExited, RunFailed, RunStarted};

/// Bytes of ended runs that may wait while the database cannot be written.
const ENDED_LIMIT: usize = 8 << 20;

/// Memory of a run besides its texts, roughly.
const RUN_OVERHEAD: usize = 400;

/// Numbers runs in the order of their starts; the database's key.
pub(super) type RunNumber = i64;

/// What the database holds already, as far as merging must know.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The highest number given to a run.
    pub(super) last_run: RunNumber,
    /// The highest place given to a waiting start.
    pub(super) last_place: i64,
    /// Task ids of the starts that wait.
    pub(super) queued: HashSet<String>,
}

/// What waits to be written, and what is needed to tell which run an exit belongs to.
#[derive(Debug)]
pub(super) struct Backlog {
    known: Known,
    /// Runs that have not ended, by task and pid.
    open: HashMap<(String, u32), RunNumber>,
    pending: Batch,
    /// Ended runs in `pending`, oldest end first, and their size.
    ended: VecDeque<RunNumber>,
    ended_size: usize,
    dropped: u64,
}

/// What is written in one transaction.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    /// Runs that are new to the database.
    pub(super) runs: BTreeMap<RunNumber, Run>,
    /// Ends of runs that it knows.
    pub(super) ends: HashMap<RunNumber, RunEnd>,
    /// Changes of the queue, by task.
    pub(super) queue: HashMap<String, QueueChange>,
}

/// What becomes of a waiting start.
#[derive(Debug, PartialEq)]
pub(super) enum QueueChange {
    /// It waits, at this place.
    Put(i64, QueuedStart),
    /// It is gone.
    Remove,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len() + self.ends.len() + self.queue.len()
    }
}

impl Backlog {
    pub(super) fn new(known: Known) -> Self {
        Self {
            known,
            open: HashMap::new(),
            pending: Batch::default(),
            ended: VecDeque::new(),
            ended_size: 0,
            dropped: 0,
        }
    }

    /// Records that wait.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Runs dropped because too many waited, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn started(&mut self, started: RunStarted) {
        let key = (started.task_id.clone(), started.pid);
        let number = self.insert(started.into());
        if let Some(orphan) = self.open.insert(key, number) {
            self.end(orphan, RunEnd::LOST);
        }
    }

    pub(super) fn exited(&mut self, exited: RunExited) {
        let RunExited {
            task_id,
            pid,
            exit_code,
            signal,
            intentional,
            exited_at,
            outcome,
        } = exited;
        if let Some(number) = self.open.remove(&(task_id, pid)) {
            self.end(
                number,
                RunEnd {
                    exited_at: Some(exited_at),
                    exit_code,
                    signal,
                    intentional,
                    outcome,
                },
            );
        }
    }

    pub(super) fn failed(&mut self, failed: RunFailed) {
        let number = self.insert(failed.into());
        self.note_ended(number);
    }

    pub(super) fn enqueue(&mut self, start: QueuedStart) {
        self.known.last_place += 1;
        self.pending.queue.insert(
            start.task_id.clone(),
            QueueChange::Put(self.known.last_place, start),
        );
    }

    pub(super) fn dequeue(&mut self, task_id: &str) {
        if self.known.queued.contains(task_id) {
            self.pending
                .queue
                .insert(task_id.to_owned(), QueueChange::Remove);
        } else {
            self.pending.queue.remove(task_id);
        }
    }

    /// Hands out what waits. From here on it counts as written; whoever takes it sees to that.
    pub(super) fn take(&mut self) -> Batch {
        self.ended.clear();
        self.ended_size = 0;
        for (task_id, change) in &self.pending.queue {
            match change {
                QueueChange::Put(..) => self.known.queued.insert(task_id.clone()),
                QueueChange::Remove => self.known.queued.remove(task_id),
            };
        }
        mem::take(&mut self.pending)
    }

    fn insert(&mut self, run: Run) -> RunNumber {
        self.known.last_run += 1;
        self.pending.runs.insert(self.known.last_run, run);
        self.known.last_run
    }

    fn end(&mut self, number: RunNumber, end: RunEnd) {
        if let Some(run) = self.pending.runs.get_mut(&number) {
            end.apply(run);
            self.note_ended(number);
        } else {
            self.pending.ends.insert(number, end);
        }
    }

    /// An ended run is pure history: when there is too much of it, the oldest goes.
    fn note_ended(&mut self, number: RunNumber) {
        self.ended.push_back(number);
        self.ended_size += self.pending.runs.get(&number).map_or(0, size);
        while self.ended_size > ENDED_LIMIT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.ended_size -= self.pending.runs.remove(&oldest).as_ref().map_or(0, size);
            self.dropped += 1;
        }
    }
}

/// Roughly the memory that a run takes.
fn size(run: &Run) -> usize {
    let params: usize = run
        .params
        .iter()
        .map(|(name, value)| name.len() + value.len() + RUN_OVERHEAD / 4)
        .sum();
    RUN_OVERHEAD
        + run.task_id.len()
        + run.action.len()
        + run.error.as_ref().map_or(0, String::len)
        + params
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::Outcome;
    use super::*;
    use crate::api::Params;
    use crate::time::Timestamp;

    fn started(task_id: &str, pid: u32) -> RunStarted {
        RunStarted {
            task_id: task_id.into(),
            action: "a".into(),
            params: Params::new(),
            pid,
            restart_of: 0,
            started_at: Timestamp::from_unix(pid.into(), 0),
        }
    }

    fn exited(task_id: &str, pid: u32) -> RunExited {
        RunExited {
            task_id: task_id.into(),
            pid,
            exit_code: Some(0),
            signal: None,
            intentional: false,
            exited_at: Timestamp::from_unix(100, 0),
            outcome: Outcome::Exited,
        }
    }

    fn queued(task_id: &str) -> QueuedStart {
        QueuedStart {
            task_id: task_id.into(),
            action: "a".into(),
            params: Params::new(),
            retry_policy: None,
            forced: false,
            id: String::new(),
            queued_at: Timestamp::ZERO,
        }
    }

    #[test]
    fn an_exit_merges_with_a_start_that_still_waits() {
        let mut backlog = Backlog::new(Known::default());
        backlog.started(started("t", 1));
        backlog.exited(exited("t", 1));
        let batch = backlog.take();
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.runs[&1].outcome, Outcome::Exited);
    }

    #[test]
    fn an_exit_finds_its_run_after_the_start_was_written() {
        let mut backlog = Backlog::new(Known {
            last_run: 41,
            ..Known::default()
        });
        backlog.started(started("t", 1));
        backlog.started(started("t", 2));
        backlog.take();
        backlog.exited(exited("t", 1));
        backlog.exited(exited("t", 1));
        backlog.exited(exited("stranger", 1));
        let batch = backlog.take();
        assert_eq!(batch.ends.keys().collect::<Vec<_>>(), [&42]);
        assert!(batch.runs.is_empty());
    }

    #[test]
    fn a_run_whose_pid_starts_again_unseen_is_lost() {
        let mut backlog = Backlog::new(Known::default());
        backlog.started(started("t", 0));
        backlog.started(started("t", 0));
        let batch = backlog.take();
        assert_eq!(
            (batch.runs[&1].outcome, batch.runs[&1].exited_at),
            (Outcome::Lost, None)
        );
        assert_eq!(batch.runs[&2].outcome, Outcome::Running);
    }

    #[test]
    fn ended_runs_are_bounded_and_runs_that_live_are_not_dropped() {
        let mut backlog = Backlog::new(Known::default());
        backlog.started(started("alive", 1));
        let error = "x".repeat(1 << 20);
        for _ in 0..100 {
            backlog.failed(RunFailed {
                task_id: "t".into(),
                action: "a".into(),
                params: Params::new(),
                restart_of: 0,
                error: error.clone(),
                at: Timestamp::ZERO,
            });
        }
        let kept = ENDED_LIMIT / error.len() - 1; // less one for what a run takes besides
        assert_eq!(backlog.dropped(), 100 - kept as u64);
        let batch = backlog.take();
        assert!(batch.runs.contains_key(&1));
        assert!(batch.runs.contains_key(&101), "the newest stays");
        assert_eq!(batch.runs.len(), 1 + kept);
    }

    #[test]
    fn a_start_that_came_and_went_unwritten_leaves_no_trace() {
        let mut backlog = Backlog::new(Known::default());
        backlog.enqueue(queued("t"));
        backlog.dequeue("t");
        assert!(backlog.take().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enqueue(u8),
        Dequeue(u8),
        Take,
    }

    proptest! {
        #[test]
        fn written_batches_add_up_to_the_queue(
            steps in prop::collection::vec(
                prop_oneof![
                    3 => (0..4_u8).prop_map(Step::Enqueue),
                    3 => (0..4_u8).prop_map(Step::Dequeue),
                    1 => Just(Step::Take),
                ],
                0..60,
            ),
        ) {
            let mut backlog = Backlog::new(Known::default());
            let mut model: Vec<String> = Vec::new();
            let mut table: BTreeMap<String, i64> = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Take]) {
                match step {
                    Step::Enqueue(n) => {
                        backlog.enqueue(queued(&n.to_string()));
                        model.retain(|task_id| *task_id != n.to_string());
                        model.push(n.to_string());
                    }
                    Step::Dequeue(n) => {
                        backlog.dequeue(&n.to_string());
                        model.retain(|task_id| *task_id != n.to_string());
                    }
                    Step::Take => for (task_id, change) in backlog.take().queue {
                        match change {
                            QueueChange::Put(place, _) => table.insert(task_id, place),
                            QueueChange::Remove => table.remove(&task_id),
                        };
                    },
                }
                prop_assert!(backlog.len() <= 4);
            }
            let mut written: Vec<_> = table.into_iter().collect();
            written.sort_by_key(|(_, place)| *place);
            let written: Vec<_> = written.into_iter().map(|(task_id, _)| task_id).collect();
            prop_assert_eq!(written, model);
        }
    }
}
