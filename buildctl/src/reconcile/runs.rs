//! How observations of runs are taken into the record: nothing goes back, and what a run's end means for the job as a whole
//! (an image was pushed, tags were moved) is noted whether or not the job still wants it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Round, SLACK, START_WINDOW, ending};
use crate::{
    clock::{later, since},
    job::{Job, State, Temporary},
    phase::{Built, Ending, FailureKind, Observed, Outcome, Phase, Progress, Run, RunFailure},
};

/// How much of a run's words a record keeps, in characters.
const WORDS: usize = 2000;

/// Takes a newer observation of a run in. An ended run stays as it is, and none goes back.
pub(super) fn merge(known: &mut Observed, new: &Observed, now: Timestamp) {
    let progress = match (&known.progress, &new.progress) {
        (Progress::Ended { .. }, _) | (Progress::Running, Progress::Waiting { .. }) => return,
        (Progress::Waiting { since: a, .. }, Progress::Waiting { since: b, reason }) => {
            Progress::Waiting {
                since: *a.min(b),
                reason: reason.clone(),
            }
        }
        (_, new) => new.clone(),
    };
    known.progress = told_briefly(progress);
    known.place = new.place.clone().or_else(|| known.place.take());
    known.started_at = known.started_at.or(new.started_at);
    known.ended_at = known.ended_at.or(new.ended_at);
    known.unaccounted |= new.unaccounted;
    known.usage = known.usage.or(new.usage);
    if known.progress == Progress::Running {
        known.started_at.get_or_insert(now);
    }
}

/// A job may have many runs, and its record has to fit where ledgers keep it: nobody's words may fill it.
fn told_briefly(progress: Progress) -> Progress {
    let cut = |text: String| super::notices::brief(text, WORDS);
    match progress {
        Progress::Waiting { reason, since } => Progress::Waiting {
            reason: reason.map(cut),
            since,
        },
        Progress::Ended {
            ending: Ending::Failed(failure),
        } => Progress::Ended {
            ending: Ending::Failed(RunFailure {
                message: cut(failure.message),
                ..failure
            }),
        },
        other => other,
    }
}

/// What the job learns from the end of a run.
fn harvest(job: &mut Job, run: Run) {
    let Some(observed) = job.runs.get(&run) else {
        return;
    };
    let began = observed.started_at.is_some();
    let unaccounted = observed.unaccounted;
    match (run, ending(observed).cloned()) {
        (
            Run::Build,
            Some(
                Ending::Succeeded {
                    outcome: Outcome::Built(built),
                }
                | Ending::Failed(RunFailure {
                    built: Some(built), ..
                }),
            ),
        ) => pushed(job, built),
        // It may have pushed before nobody saw it any more, and nobody knows the digest.
        (Run::Build, Some(Ending::Failed(failure)))
            if began && matches!(failure.kind, FailureKind::NodeLost | FailureKind::Collected) =>
        {
            job.temporary = Temporary::Left;
        }
        (Run::Build, Some(Ending::Failed(_) | Ending::Cancelled)) if began && unaccounted => {
            job.temporary = Temporary::Suspected;
        }
        (
            Run::Publish,
            Some(Ending::Succeeded {
                outcome: Outcome::Published { tags, left },
            }),
        ) => {
            job.published = tags;
            job.temporary = match left {
                None => Temporary::Removed,
                Some(_) => Temporary::Left,
            };
        }
        (Run::Publish, Some(Ending::Failed(failure))) => job.published = failure.moved,
        (Run::Cleanup, Some(Ending::Succeeded { .. })) => job.temporary = Temporary::Removed,
        _ => {}
    }
}

fn pushed(job: &mut Job, built: Built) {
    job.built = Some(built);
    job.temporary = Temporary::Pushed;
}

fn unknown(run: Run) -> String {
    format!("the scheduler no longer knows what became of {run}")
}

pub(super) fn failed(kind: FailureKind, message: String) -> Progress {
    Progress::Ended {
        ending: Ending::Failed(run_failure(kind, message)),
    }
}

fn run_failure(kind: FailureKind, message: String) -> RunFailure {
    RunFailure {
        kind,
        message,
        moved: Vec::new(),
        built: None,
    }
}

impl Round<'_> {
    /// Notes that a run is to be started.
    pub(super) fn intend(&mut self, run: Run) {
        self.absent.insert(run);
        self.job.runs.entry(run).or_insert(Observed {
            run,
            progress: Progress::Waiting {
                reason: None,
                since: self.now,
            },
            place: None,
            started_at: None,
            ended_at: None,
            unaccounted: false,
            usage: None,
        });
    }

    /// The scheduler will not start it.
    pub(super) fn refused(&mut self, run: Run, why: &str) {
        if let Some(observed) = self.job.runs.get_mut(&run)
            && matches!(observed.progress, Progress::Waiting { .. })
        {
            let why = super::notices::brief(why.to_owned(), WORDS);
            observed.progress = failed(FailureKind::Infrastructure, why);
        }
    }

    /// Takes in what the scheduler says, after what is reported.
    pub(super) fn absorb(&mut self, observed: &[Observed]) {
        self.asked = true;
        let ending_now = self.job.failure.is_some() || self.job.state.is_terminal();
        for new in observed {
            // A run that was not intended is none of this record's, unless somebody started it after the job's end.
            if ending_now && !self.job.runs.contains_key(&new.run) {
                self.job.runs.insert(new.run, new.clone());
            }
            let Some(known) = self.job.runs.get_mut(&new.run) else {
                continue;
            };
            let ended = ending(known).is_some();
            merge(known, new, self.now);
            if !ended {
                harvest(&mut self.job, new.run);
            }
        }
        let there: BTreeSet<Run> = observed.iter().map(|run| run.run).collect();
        self.miss(&there);
    }

    /// Runs of the record that the scheduler does not know.
    fn miss(&mut self, there: &BTreeSet<Run>) {
        let missing = self.job.runs.values().filter(|run| ending(run).is_none());
        let missing: Vec<Run> = missing
            .map(|run| run.run)
            .filter(|run| !there.contains(run))
            .collect();
        for run in missing {
            let stopped = self.stopped.contains(&run);
            let lost = match &self.job.runs[&run].progress {
                Progress::Waiting { .. } if stopped => Some(Progress::Ended {
                    ending: Ending::Cancelled,
                }),
                Progress::Waiting { since: then, .. } => {
                    if since(self.now, *then) >= START_WINDOW {
                        self.vanished = Some(run);
                    }
                    None
                }
                _ => Some(failed(FailureKind::Collected, unknown(run))),
            };
            match (lost, self.job.runs.get_mut(&run)) {
                (Some(progress), Some(known)) => {
                    known.progress = progress;
                    harvest(&mut self.job, run);
                }
                _ if self.vanished != Some(run) => {
                    self.absent.insert(run);
                }
                _ => {}
            }
        }
    }

    /// Whether a run of the present phase waits or runs longer than it may; the job fails then. `None` if not.
    pub(super) fn overdue(&mut self) -> Option<bool> {
        if !self.asked {
            return None;
        }
        let phase = match self.job.state {
            State::Pending => Phase::Build,
            state => state.phase()?,
        };
        if let Some(run) = self.vanished {
            let ending = Ending::Failed(run_failure(FailureKind::Collected, unknown(run)));
            let error = super::failure_text(phase, run, &ending);
            return Some(self.fail(Some(phase), error));
        }
        let mut soonest = None;
        for run in self.job.runs.values() {
            let Some((limit, error)) = self.limit_of(run) else {
                continue;
            };
            if self.now >= limit {
                return Some(self.fail(Some(phase), error));
            }
            soonest = Some(soonest.map_or(limit, |soonest: Timestamp| soonest.min(limit)));
        }
        if let Some(soonest) = soonest {
            self.wake_at(soonest);
        }
        None
    }

    /// When a run that has not ended will be late, and what is said of it then.
    fn limit_of(&self, run: &Observed) -> Option<(Timestamp, String)> {
        let name = match run.run.phase()? {
            Phase::Build => "Build",
            Phase::Test => "Test",
            Phase::Publish => "Publish",
        };
        let span = runyard_common::duration::format;
        match &run.progress {
            Progress::Waiting { since, reason } => {
                let why = reason
                    .as_deref()
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default();
                let queue = self.rules.queue;
                let error = format!(
                    "{name} phase failed: {} waited {} for a place to run{why}",
                    run.run,
                    span(queue)
                );
                Some((later(*since, queue), error))
            }
            Progress::Running => {
                let limit = self.rules.limit(run.run);
                let error = format!(
                    "{name} phase failed: {} did not end within its limit of {}",
                    run.run,
                    span(limit)
                );
                Some((later(run.started_at?, limit + SLACK), error))
            }
            Progress::Ended { .. } => None,
        }
    }
}
