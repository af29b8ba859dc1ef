//! Random histories: attendants that look, write and act in any order and are killed anywhere, an engine whose runs begin, end
//! and get lost, observations that are missing or old, clocks that jump, and somebody who kills.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::job::Kill;

/// How much of what a step asks for is done before the attendant dies.
type Diligence = usize;

#[derive(Clone, Copy, Debug)]
enum Look {
    Fresh,
    Missing,
    Old,
}

#[derive(Clone, Debug)]
enum Event {
    /// An attendant makes a round.
    Round(Look, Diligence),
    /// An attendant that decided long ago wakes up and does what it decided.
    Sleeper(usize),
    Begins(usize),
    Ends(usize, u8),
    Lost(usize),
    Kill,
    Time(i64),
    OtherHolder(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let look = prop_oneof![5 => Just(Look::Fresh), 1 => Just(Look::Missing), 1 => Just(Look::Old)];
    prop_oneof![
        8 => (look, 0..5_usize).prop_map(|(look, diligence)| Event::Round(look, diligence)),
        2 => (0..8_usize).prop_map(Event::Sleeper),
        4 => (0..5_usize).prop_map(Event::Begins),
        4 => (0..5_usize, 0..10_u8).prop_map(|(run, how)| Event::Ends(run, how)),
        1 => (0..5_usize).prop_map(Event::Lost),
        1 => Just(Event::Kill),
        2 => (-7200..7200_i64).prop_map(Event::Time),
        1 => any::<bool>().prop_map(Event::OtherHolder),
    ]
}

/// The engine, the ledger and everything else around a job.
struct World {
    job: Job,
    now: Timestamp,
    runs: BTreeMap<Run, Progress>,
    withdrawn: BTreeSet<Run>,
    /// An observation of before.
    old: Vec<Observed>,
    claim: Option<bool>,
    reports: Vec<Report>,
    /// What was decided and not done.
    undone: Vec<Action>,
    obeys: bool,
    posted: Vec<Uuid>,
}

impl World {
    fn new(obeys: bool) -> Self {
        Self {
            job: new_job(),
            now: T0,
            runs: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            old: Vec::new(),
            claim: None,
            reports: Vec::new(),
            undone: Vec::new(),
            obeys,
            posted: Vec::new(),
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Round(look, diligence) => self.round(*look, *diligence),
            Event::Sleeper(index) => {
                if let Some(action) = self.undone.get(*index).copied() {
                    self.does(action);
                }
            }
            Event::Begins(index) => self.moves(*index, |_| Progress::Running),
            Event::Ends(index, how) => self.moves(*index, |run| Progress::Ended {
                ending: ending_of(run, *how),
            }),
            Event::Lost(index) => self.moves(*index, |_| Progress::Ended {
                ending: failure(FailureKind::NodeLost, "lost"),
            }),
            Event::Kill if !self.job.state.is_terminal() && self.job.failure.is_none() => {
                self.job.kill.get_or_insert(Kill {
                    at: self.now,
                    reason: None,
                });
            }
            Event::Time(seconds) => {
                let by = jiff::SignedDuration::from_secs(*seconds);
                self.now = self.now.checked_add(by).unwrap();
            }
            Event::OtherHolder(holds) if self.claim != Some(true) => {
                self.claim = holds.then_some(false);
            }
            Event::Kill | Event::OtherHolder(_) => {}
        }
    }

    /// Moves one of the runs that have not ended.
    fn moves(&mut self, index: usize, to: impl Fn(Run) -> Progress) {
        let going = self
            .runs
            .iter_mut()
            .filter(|(_, progress)| !matches!(progress, Progress::Ended { .. }));
        if let Some((run, progress)) = going.into_iter().nth(index % 2) {
            *progress = to(*run);
        }
    }

    fn observe(&self) -> Vec<Observed> {
        self.runs
            .iter()
            .map(|(run, progress)| observed(*run, progress.clone()))
            .collect()
    }

    fn round(&mut self, look: Look, diligence: Diligence) {
        let runs = match look {
            Look::Fresh => Some(self.observe()),
            Look::Missing => None,
            // An old view is no answer to what was done since.
            Look::Old => {
                self.reports
                    .retain(|report| !matches!(report, Report::Stopped(_)));
                Some(self.old.clone())
            }
        };
        self.old = self.observe();
        let seen = Seen {
            runs,
            reports: std::mem::take(&mut self.reports),
        };
        let next = step(&self.job, &seen, self.now, &rules());
        self.check(&next);
        self.job = next.job;
        for (index, action) in next.actions.into_iter().enumerate() {
            if index < diligence {
                self.does(action);
            } else if !matches!(action, Action::Deliver(_)) {
                // A post takes less than the time after which it counts as lost.
                self.undone.push(action);
            }
        }
    }

    /// What must hold for any step.
    fn check(&self, next: &Step) {
        let (before, after) = (&self.job, &next.job);
        if before.state.is_terminal() {
            assert_eq!(
                (after.state, &after.failure),
                (before.state, &before.failure),
                "an ended job stays as it ended"
            );
        }
        if after.kill.is_some() && after.state.is_terminal() {
            assert_eq!(
                after.failure.as_ref().map(|failure| failure.error.as_str()),
                Some(Failure::KILLED)
            );
            assert_eq!(after.state, State::Failed);
        }
        for (run, known) in &before.runs {
            if let Some(ending) = ending(known) {
                assert_eq!(
                    super::ending(&after.runs[run]),
                    Some(ending),
                    "an ended run stays as it ended"
                );
            }
        }
        let planned: Vec<&str> = events(after);
        assert_eq!(
            planned[..before.notices.len()],
            events(before),
            "notices stay in order"
        );
        assert_eq!(
            planned.len(),
            planned.iter().collect::<BTreeSet<_>>().len(),
            "no event is told twice"
        );
        let end = planned.iter().position(|event| event.starts_with("job."));
        assert!(
            end.is_none_or(|end| end + 1 == planned.len()),
            "nothing follows the end: {planned:?}"
        );
        assert_eq!(end.is_some(), after.state.is_terminal());
        for action in &next.actions {
            if let Action::Start(run) = action {
                Self::check_start(*run, after);
            }
        }
    }

    fn check_start(run: Run, job: &Job) {
        assert!(
            matches!(job.runs[&run].progress, Progress::Waiting { .. }),
            "what was seen is not started again"
        );
        if run == Run::Cleanup {
            assert!(job.state.is_terminal());
            return;
        }
        assert!(!job.state.is_terminal() && job.kill.is_none() && job.failure.is_none());
        let passed = |test: &Run| ending(&job.runs[test]) == Some(&success(*test));
        if run.phase() > Some(Phase::Build) {
            assert!(job.built.is_some());
        }
        if run == Run::Publish {
            assert!(
                rules().tests.iter().all(passed),
                "published before all tests passed"
            );
        }
    }

    fn does(&mut self, action: Action) {
        match action {
            Action::Claim => {
                if self.claim.is_none() && !self.job.state.is_terminal() {
                    self.claim = Some(true);
                }
                let held = self.claim == Some(true);
                let holder = JobId::of_key("another");
                self.reports.push(Report::Claim(if held {
                    Claim::Held
                } else {
                    Claim::HeldBy(holder)
                }));
            }
            Action::Release => {
                if self.job.state.is_terminal() && self.claim == Some(true) {
                    self.claim = None;
                }
                self.reports.push(Report::Released);
            }
            Action::Start(run) => self.starts(run),
            Action::Stop(run) => self.stops(run),
            Action::Deliver(delivery) => {
                self.posted.push(delivery);
                self.reports.push(Report::Delivered {
                    delivery,
                    result: Delivery::Done("200".to_owned()),
                });
            }
            Action::Cancel(_) => {}
        }
    }

    fn starts(&mut self, run: Run) {
        if self.withdrawn.contains(&run) || self.runs.contains_key(&run) {
            return;
        }
        let after_end = self.job.state.is_terminal() && run != Run::Cleanup;
        assert!(
            !after_end,
            "{run} begins after the job ended: {:?}",
            self.job
        );
        let since = self.now;
        self.runs.insert(
            run,
            Progress::Waiting {
                reason: None,
                since,
            },
        );
    }

    fn stops(&mut self, run: Run) {
        match self.runs.get_mut(&run) {
            None => drop(self.withdrawn.insert(run)),
            Some(Progress::Ended { .. }) => {}
            Some(progress @ Progress::Waiting { .. }) => {
                *progress = Progress::Ended {
                    ending: Ending::Cancelled,
                }
            }
            Some(progress) if self.obeys => {
                *progress = Progress::Ended {
                    ending: Ending::Cancelled,
                }
            }
            Some(_) => {}
        }
        self.reports.push(Report::Stopped(run));
    }

    /// From here on all goes its way, except for runs that never end: the job must come to rest.
    fn comes_to_rest(&mut self) {
        if self.claim == Some(false) {
            self.claim = None;
        }
        for _ in 0..200 {
            if is_settled(&self.job) {
                return;
            }
            self.round(Look::Fresh, usize::MAX);
            self.now = later(self.now, Duration::from_mins(5));
        }
        panic!("it does not come to rest: {:?}", self.job);
    }
}

fn ending_of(run: Run, how: u8) -> Ending {
    match how {
        0..=6 => success(run),
        7 => failure(FailureKind::Exit { code: 1 }, "exit code 1"),
        8 => failure(FailureKind::Collected, "gone"),
        _ => Ending::Cancelled,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_a_promise(events in prop::collection::vec(event(), 0..60), obeys: bool) {
        let mut world = World::new(obeys);
        for event in &events {
            world.happens(event);
        }
        world.comes_to_rest();
        let job = &world.job;
        prop_assert!(world.claim != Some(true) , "the claim is released");
        prop_assert!(job.temporary != Temporary::Pushed);
        prop_assert_eq!(job.state == State::Failed, job.failure.is_some());
        if job.kill.is_some() {
            prop_assert_eq!(job.state, State::Failed);
        }
        let mut told: Vec<Uuid> = Vec::new();
        for delivery in &world.posted {
            if !told.contains(delivery) {
                told.push(*delivery);
            }
        }
        let planned = job.notices.iter().map(|notice| notice.delivery);
        let first = planned.filter(|delivery| told.contains(delivery));
        let first: Vec<Uuid> = first.collect();
        prop_assert_eq!(told, first, "notices go out in order");
    }
}
