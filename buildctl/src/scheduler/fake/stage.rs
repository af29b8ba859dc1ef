//! What goes on among pretended runs: each one's state is a function of how it goes, when it was started and stopped, and the
//! time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::play::{End, Play, outcome};
use crate::{
    clock::later,
    job::{Job, JobId},
    logs::{Chunk, Line, Position},
    phase::{Ending, FailureKind, Observed, Outcome, Progress, Run, RunFailure},
    scheduler::SchedulerError,
};

type Key = (JobId, Run);

/// All runs, and which ones there ever were.
#[derive(Default)]
pub(super) struct Stage {
    acts: BTreeMap<Key, Act>,
    started: BTreeMap<Key, usize>,
    /// Runs that were stopped before they were started.
    withdrawn: BTreeSet<Key>,
}

/// One run.
struct Act {
    play: Play,
    outcome: Outcome,
    accepted: Timestamp,
    stopped: Option<Timestamp>,
    lost: Option<Timestamp>,
    /// Bytes of its log that are gone.
    rotated: u64,
}

impl Act {
    fn begin(&self) -> Timestamp {
        later(self.accepted, self.play.waits)
    }

    /// When and how it ends, as of what is known.
    fn end(&self) -> (Timestamp, Ending) {
        let natural = (later(self.begin(), self.play.takes), self.natural());
        let lost = self.lost.map(|at| (at, lost()));
        let stopped = self.stopped.map(|at| {
            // One that waits is gone at once; one that runs takes its time, or ends by itself meanwhile.
            let waits = at < self.begin();
            let end = if waits {
                at
            } else {
                later(at, self.play.obeys)
            };
            (end.min(natural.0), Ending::Cancelled)
        });
        let forced = [lost, stopped].into_iter().flatten();
        let first = forced.min_by_key(|end| end.0);
        first.filter(|end| end.0 <= natural.0).unwrap_or(natural)
    }

    fn natural(&self) -> Ending {
        match &self.play.ends {
            End::Succeeds => Ending::Succeeded {
                outcome: self.outcome.clone(),
            },
            End::As(ending) => Ending::clone(ending),
        }
    }

    fn observed(&self, run: Run, now: Timestamp) -> Observed {
        let (end, ending) = self.end();
        let begin = self.begin();
        let ended = (end <= now).then_some(end);
        let began = begin <= now && begin <= end;
        let progress = match (ended, began) {
            (Some(_), _) => Progress::Ended { ending },
            (None, true) => Progress::Running,
            (None, false) => Progress::Waiting {
                reason: self.play.reason.clone(),
                since: self.accepted,
            },
        };
        Observed {
            run,
            progress,
            place: began.then(|| "fake-1".to_owned()),
            started_at: began.then_some(begin),
            ended_at: ended,
            unaccounted: ended.is_some() && self.play.silent,
            usage: None,
        }
    }

    /// What it has said by now, each line with the byte behind it.
    fn said(&self, run: Run, now: Timestamp) -> Vec<(u64, Line)> {
        let until = self.end().0.min(now);
        let mut place = 0;
        let mut lines = Vec::new();
        for (after, stream, text) in &self.play.says {
            let time = later(self.begin(), *after);
            if time > until {
                continue;
            }
            place += text.len() as u64 + 1;
            let line = Line {
                run,
                stream: *stream,
                time: Some(time),
                text: text.clone(),
                partial: false,
            };
            lines.push((place, line));
        }
        lines
    }
}

fn lost() -> Ending {
    Ending::Failed(RunFailure {
        kind: FailureKind::NodeLost,
        message: "node fake-1 was lost".to_owned(),
        moved: Vec::new(),
        built: None,
    })
}

impl Stage {
    /// Whether this was the first start.
    pub(super) fn start(&mut self, job: &Job, run: Run, play: Play, now: Timestamp) -> bool {
        let key = (job.id, run);
        if self.withdrawn.contains(&key) || self.started.contains_key(&key) {
            return false;
        }
        *self.started.entry(key).or_default() += 1;
        let act = Act {
            play,
            outcome: outcome(job, run),
            accepted: now,
            stopped: None,
            lost: None,
            rotated: 0,
        };
        self.acts.insert(key, act);
        true
    }

    pub(super) fn starts(&self, id: JobId, run: Run) -> usize {
        self.started.get(&(id, run)).copied().unwrap_or(0)
    }

    pub(super) fn observe(&self, id: JobId, now: Timestamp) -> Vec<Observed> {
        let acts = self.acts.iter().filter(|((job, _), _)| *job == id);
        acts.map(|((_, run), act)| act.observed(*run, now))
            .collect()
    }

    /// Stops a run; when it will end then.
    pub(super) fn stop(&mut self, id: JobId, run: Run, now: Timestamp) -> Option<Timestamp> {
        let key = (id, run);
        let Some(act) = self.acts.get_mut(&key) else {
            self.withdrawn.insert(key);
            return None;
        };
        if act.end().0 > now {
            act.stopped.get_or_insert(now);
        }
        Some(act.end().0).filter(|end| *end < Timestamp::MAX)
    }

    pub(super) fn lose(&mut self, id: JobId, run: Run, now: Timestamp) {
        if let Some(act) = self.acts.get_mut(&(id, run)) {
            act.lost = Some(now);
        }
    }

    pub(super) fn forget(&mut self, id: JobId, run: Run) {
        self.acts.remove(&(id, run));
    }

    pub(super) fn collect(&mut self, id: JobId) {
        self.acts.retain(|(job, _), _| *job != id);
    }

    pub(super) fn rotate(&mut self, id: JobId, run: Run, bytes: u64) {
        if let Some(act) = self.acts.get_mut(&(id, run)) {
            act.rotated = bytes;
        }
    }

    pub(super) fn log_end(&self, key: Key, now: Timestamp) -> Result<Position, SchedulerError> {
        let Some(act) = self.acts.get(&key) else {
            let collected = self.started.contains_key(&key);
            let nothing = (!collected).then(Position::default);
            return nothing.ok_or(SchedulerError::Unknown);
        };
        let out = act.said(key.1, now).last().map_or(0, |(end, _)| *end);
        Ok(Position { out, err: 0 })
    }

    pub(super) fn page(
        &self,
        key: Key,
        from: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Chunk, SchedulerError> {
        let mut chunk = Chunk {
            next: from,
            ..Chunk::default()
        };
        let Some(act) = self.acts.get(&key) else {
            // It may be about to be started; of one that was, nothing is left.
            let collected = self.started.contains_key(&key);
            return (!collected).then_some(chunk).ok_or(SchedulerError::Unknown);
        };
        chunk.lost = from.out < act.rotated;
        let start = from.out.max(act.rotated);
        chunk.next.out = start;
        let mut size = 0;
        let mut all = true;
        for (end, line) in act.said(key.1, now) {
            if end <= start {
                continue;
            }
            if size > 0 && size + line.text.len() > limit {
                all = false;
                break;
            }
            size += line.text.len() + 1;
            // From the middle of a line, the rest of it.
            let begin = end - line.text.len() as u64 - 1;
            let cut = usize::try_from(start.saturating_sub(begin)).unwrap_or(usize::MAX);
            let text = line.text.get(cut..).unwrap_or_default().to_owned();
            chunk.lines.push(Line { text, ..line });
            chunk.next.out = end;
            chunk.ends.push(chunk.next);
        }
        chunk.complete = all && act.end().0 <= now;
        Ok(chunk)
    }
}
