//! What follows for a job from its record and from what was seen: [`step`], a pure function. Who looks, writes the record and
//! carries the actions out is [`crate::service::Reconciler`]; nothing here reads a clock, a ledger or a scheduler.
//!
//! ```text
//!            Claim            Start(build)        build runs         build ended,          all tests passed
//!            held by us       waits for a place                      Start(tests)          Start(publish)
//!  PENDING ───────────▶ PENDING ──────────────▶ BUILDING ──────────▶ TESTING ───────────▶ PUBLISHING ──────▶ SUCCEEDED
//!   │  ▲                  │                        │   │                │                  ▲   │               │
//!   │  └ held by another: │                        │   └── no tests: ───┼──────────────────┘   │               │
//!   │    wait, refuse or  │                        │       Start(publish)                      │               │
//!   │    Cancel(it)       │                        │                    │                      │               │
//!   └─────────────────────┴───── kill, failure, timeout ────────────────┴──────────────────────┘               │
//!                                      │                                                                       │
//!                                      ▼ `failure` is set: Stop(run) for every run that has not ended,         │
//!                                      │ until all have ended (or did not within the drain limit)              │
//!                                   FAILED                                                                     │
//!                                      │                                                                       │
//!                                      └──▶ settling: Release the claim, Start(cleanup) of the temporary image, ◀──┘
//!                                           Deliver notices one after the other ──▶ settled
//! ```
//!
//! # Why it may be interrupted anywhere
//!
//! - A decision is in the record before anything is done about it: a run is *intended* (it is in [`Job::runs`] as waiting)
//!   before it is started. Actions follow from the record, not from the transition: the next step says them again until their
//!   effect is seen, and each of them may be repeated.
//! - A job ends only when none of its runs goes on and none can begin any more: stopping a run that was intended and is not
//!   there keeps it from ever starting (see [`crate::scheduler`]), also by a replica that decided to start it a while ago.
//! - A run that was seen is never started again, whatever becomes of it: a build that is lost with its node fails, and
//!   says so.
//! - Ended runs stay ended and nothing goes back, whatever an older observation says.

mod notices;
mod runs;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    clock::{later, since},
    job::{Failure, Job, JobId, Notice, State, Temporary},
    ledger::Claim,
    phase::{Ending, FailureKind, MovedTag, Observed, Outcome, Phase, Progress, Run},
    spec::Conflict,
};

pub use notices::{Delivery, Events};

/// How long after its intention a run that nobody has seen may be started: much less than an engine remembers ended runs,
/// so that one of which it has forgotten everything is not taken for one that never was.
pub const START_WINDOW: Duration = Duration::from_hours(1);

/// How much longer than its limit a run is waited for: runs hold their limits themselves and say more about it.
pub const SLACK: Duration = Duration::from_mins(2);

/// How often a job that waits for another one looks again without being told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a job and its service want, as far as steps depend on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The runs of the test phase.
    pub tests: Vec<Run>,
    /// What to do while another job holds the image.
    pub conflict: Conflict,
    /// How long the build may take.
    pub build: Duration,
    /// How long each test may take.
    pub test: Duration,
    /// How long the publication may take.
    pub publish: Duration,
    /// How long a job may wait for its image, and a run for a place.
    pub queue: Duration,
    /// How long a stopped run may take to end.
    pub drain: Duration,
    /// Why this job cannot be carried out after all: its configuration is no longer accepted.
    pub invalid: Option<String>,
    /// Which events to tell of; none without a webhook.
    pub events: Option<Events>,
}

impl Rules {
    fn limit(&self, run: Run) -> Duration {
        match run {
            Run::Build => self.build,
            Run::TestCommand(_) | Run::TestEntry => self.test,
            Run::Publish | Run::Cleanup => self.publish,
        }
    }
}

/// What was seen since the last step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// What the scheduler says of the job's runs, asked after the actions that are reported here; none if it was not asked or
    /// does not answer.
    pub runs: Option<Vec<Observed>>,
    /// What came of actions.
    pub reports: Vec<Report>,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Of [`Action::Claim`].
    Claim(Claim),
    /// [`Action::Release`] is done.
    Released,
    /// The scheduler will not start this run, ever.
    Refused {
        /// Which.
        run: Run,
        /// Why.
        why: String,
    },
    /// The scheduler has taken the wish to stop this run.
    Stopped(Run),
    /// Of [`Action::Deliver`].
    Delivered {
        /// Which notice.
        delivery: Uuid,
        /// What the receiver said.
        result: Delivery,
    },
}

/// What is to be done. Each may be repeated without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Claim the job's image.
    Claim,
    /// Give the claim up.
    Release,
    /// Record the wish to kill another job, which makes room for this one.
    Cancel(JobId),
    /// Start a run.
    Start(Run),
    /// Stop a run, and keep it from starting.
    Stop(Run),
    /// Post this notice; the attempt is already counted.
    Deliver(Uuid),
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The record as it should be now; write it before doing anything.
    pub job: Job,
    /// What to do then.
    pub actions: Vec<Action>,
    /// When to look again even if nothing is heard.
    pub wake: Option<Timestamp>,
    /// The job that this one waits for.
    pub behind: Option<JobId>,
}

/// Whether nothing is left to do for a job: it is [over](is_over), and its notices are delivered or given up.
pub fn is_settled(job: &Job) -> bool {
    is_over(job) && job.notices.iter().all(|notice| notice.due.is_none())
}

/// Whether a job has ended, gave its claim up, its temporary image is gone or left, and none of its runs goes on: at most notices
/// are still to be posted.
pub fn is_over(job: &Job) -> bool {
    job.state.is_terminal()
        && !job.claimed
        && !job.temporary.is_to_go()
        && job.runs.values().all(|run| ending(run).is_some())
}

/// What follows from a record and what was seen.
pub fn step(job: &Job, seen: &Seen, now: Timestamp, rules: &Rules) -> Step {
    let mut round = Round::new(job, now, rules);
    round.hear(&seen.reports);
    if let Some(runs) = &seen.runs {
        round.absorb(runs);
    }
    while round.moves() {}
    round.settle();
    round.act();
    round.tell();
    if round.job != *job {
        round.job.updated_at = now;
    }
    Step {
        job: round.job,
        actions: round.actions,
        wake: round.wake,
        behind: round.behind,
    }
}

/// The record with what the scheduler says worked in, for whoever only looks: what is certain and no decision. A job that has
/// ended by this but not in its record is not shown as ended.
pub fn project(job: &Job, observed: &[Observed], now: Timestamp) -> Job {
    let mut job = job.clone();
    if job.state.is_terminal() {
        return job;
    }
    for run in observed {
        if let Some(known) = job.runs.get_mut(&run.run) {
            runs::merge(known, run, now);
        }
    }
    let started = job.runs.get(&Run::Build).and_then(|run| run.started_at);
    if let (State::Pending, Some(started)) = (job.state, started) {
        job.state = State::Building;
        job.phases.entry(Phase::Build).or_default().start = Some(started);
    }
    job
}

fn ending(run: &Observed) -> Option<&Ending> {
    match &run.progress {
        Progress::Ended { ending } => Some(ending),
        Progress::Waiting { .. } | Progress::Running => None,
    }
}

/// One step, being made.
struct Round<'a> {
    job: Job,
    now: Timestamp,
    rules: &'a Rules,
    actions: Vec<Action>,
    wake: Option<Timestamp>,
    behind: Option<JobId>,
    /// Who holds the image, if that was just found out.
    holder: Option<JobId>,
    /// Intended runs that are not there: new ones, and ones that the scheduler does not know.
    absent: BTreeSet<Run>,
    /// Runs that the scheduler was told to stop, and has taken that.
    stopped: BTreeSet<Run>,
    /// An intended run that nobody saw for so long that it must not be started any more.
    vanished: Option<Run>,
    /// Whether the scheduler was asked, so that waiting and running can be told from not knowing.
    asked: bool,
}

impl<'a> Round<'a> {
    fn new(job: &Job, now: Timestamp, rules: &'a Rules) -> Self {
        Self {
            job: job.clone(),
            now,
            rules,
            actions: Vec::new(),
            wake: None,
            behind: None,
            holder: None,
            absent: BTreeSet::new(),
            stopped: BTreeSet::new(),
            vanished: None,
            asked: false,
        }
    }

    fn hear(&mut self, reports: &[Report]) {
        for report in reports {
            match report {
                Report::Claim(Claim::Held) => {
                    self.job.claimed = true;
                    self.job.behind = None;
                }
                Report::Claim(Claim::HeldBy(holder)) => self.holder = Some(*holder),
                Report::Released => self.job.claimed = false,
                Report::Refused { run, why } => self.refused(*run, why),
                Report::Delivered { delivery, result } => {
                    notices::delivered(&mut self.job.notices, *delivery, result, self.now);
                }
                Report::Stopped(run) => {
                    self.stopped.insert(*run);
                }
            }
        }
    }

    /// Takes the next arrow, if there is one to take.
    fn moves(&mut self) -> bool {
        if self.job.state.is_terminal() {
            return false;
        }
        if self.job.failure.is_some() {
            return self.drained();
        }
        if self.job.kill.is_some() {
            return self.fail(self.job.state.phase(), Failure::KILLED.to_owned());
        }
        if let Some(why) = &self.rules.invalid {
            return self.fail(self.job.state.phase(), why.clone());
        }
        if let Some(late) = self.overdue() {
            return late;
        }
        match self.job.state {
            State::Pending if !self.job.claimed => self.claims(),
            State::Pending => self.begins(),
            State::Building => self.built(),
            State::Testing => self.tested(),
            State::Publishing => self.published(),
            State::Succeeded | State::Failed => false,
        }
    }

    /// PENDING, and the image is not ours.
    fn claims(&mut self) -> bool {
        let Some(holder) = self.holder else {
            self.actions.push(Action::Claim);
            return false;
        };
        if self.rules.conflict == Conflict::Reject {
            let error = "cannot start build: lock is already held by another process";
            return self.fail(None, error.to_owned());
        }
        if since(self.now, self.job.created_at) >= self.rules.queue {
            let limit = runyard_common::duration::format(self.rules.queue);
            let error =
                format!("waited {limit} for job {holder}, which works on the same image and ref");
            return self.fail(None, error);
        }
        if self.rules.conflict == Conflict::CancelPrevious {
            self.actions.push(Action::Cancel(holder));
        }
        self.behind = Some(holder);
        self.job.behind = Some(holder);
        self.wake_at(later(self.job.created_at, self.rules.queue));
        self.wake_at(later(self.now, PATIENCE));
        false
    }

    /// PENDING, and the image is ours: the build is started, and awaited.
    fn begins(&mut self) -> bool {
        if !self.job.runs.contains_key(&Run::Build) {
            self.intend(Run::Build);
            return true;
        }
        let build = &self.job.runs[&Run::Build];
        match (&build.progress, build.started_at) {
            (Progress::Waiting { .. }, _) => false,
            // It ended without having begun.
            (Progress::Ended { ending }, None) if !matches!(ending, Ending::Succeeded { .. }) => {
                let error = failure_text(Phase::Build, Run::Build, ending);
                self.fail(Some(Phase::Build), error)
            }
            (Progress::Running | Progress::Ended { .. }, started) => {
                let start = started.unwrap_or(self.now);
                self.enters(State::Building, Phase::Build, start);
                true
            }
        }
    }

    fn built(&mut self) -> bool {
        let Some(ending) = self.job.runs.get(&Run::Build).and_then(ending) else {
            return false;
        };
        if !matches!(
            ending,
            Ending::Succeeded {
                outcome: Outcome::Built(_)
            }
        ) {
            let error = failure_text(Phase::Build, Run::Build, ending);
            return self.fail(Some(Phase::Build), error);
        }
        self.completes(Phase::Build);
        let (state, phase, runs) = if self.rules.tests.is_empty() {
            (State::Publishing, Phase::Publish, vec![Run::Publish])
        } else {
            (State::Testing, Phase::Test, self.rules.tests.clone())
        };
        self.enters(state, phase, self.now);
        for run in runs {
            self.intend(run);
        }
        true
    }

    fn tested(&mut self) -> bool {
        let mut passed = true;
        for run in &self.rules.tests {
            match self.job.runs.get(run).and_then(ending) {
                Some(Ending::Succeeded {
                    outcome: Outcome::Tested,
                }) => {}
                Some(ending) => {
                    let error = failure_text(Phase::Test, *run, ending);
                    return self.fail(Some(Phase::Test), error);
                }
                None => passed = false,
            }
        }
        if passed {
            self.completes(Phase::Test);
            self.enters(State::Publishing, Phase::Publish, self.now);
            self.intend(Run::Publish);
        }
        passed
    }

    fn published(&mut self) -> bool {
        let Some(ending) = self.job.runs.get(&Run::Publish).and_then(ending) else {
            return false;
        };
        let Ending::Succeeded {
            outcome: Outcome::Published { tags, .. },
        } = ending
        else {
            let error = failure_text(Phase::Publish, Run::Publish, ending);
            return self.fail(Some(Phase::Publish), error);
        };
        if let Some(error) = self.other_image(tags) {
            return self.fail(Some(Phase::Publish), error);
        }
        self.completes(Phase::Publish);
        self.ends(State::Succeeded);
        true
    }

    /// What is wrong if a tag is not on the image that was built.
    fn other_image(&self, tags: &[MovedTag]) -> Option<String> {
        let built = &self.job.built.as_ref()?.digest;
        let wrong = tags.iter().find(|tag| tag.digest != *built)?;
        Some(format!(
            "Publish phase failed: tag {} points to {}, and not to {built}, which was tested",
            wrong.tag, wrong.digest
        ))
    }

    /// Everything has ended after a failure, or took too long to.
    fn drained(&mut self) -> bool {
        let limit = later(self.drain_began(), self.rules.drain);
        let going = self.job.runs.values_mut();
        let going: Vec<&mut Observed> = going.filter(|run| ending(run).is_none()).collect();
        // Who cannot even be told to stop is waited for, or it would go on beside whoever has the image next.
        let told = going.iter().all(|run| self.stopped.contains(&run.run));
        if !going.is_empty() && (self.now < limit || !told) {
            self.wake_at(limit.max(later(self.now, PATIENCE)));
            return false;
        }
        for run in going {
            let message = "it was stopped and did not end".to_owned();
            run.progress = runs::failed(FailureKind::Infrastructure, message);
        }
        self.job.phases.retain(|_, span| span.start.is_some());
        self.ends(State::Failed);
        true
    }

    fn drain_began(&self) -> Timestamp {
        let phase = self.job.failure.as_ref().and_then(|failure| failure.phase);
        self.job
            .phases
            .get(&phase.unwrap_or(Phase::Build))
            .and_then(|span| span.end)
            .unwrap_or(self.job.created_at)
    }

    /// The job will fail; its runs are stopped first.
    fn fail(&mut self, phase: Option<Phase>, error: String) -> bool {
        self.job.failure = Some(Failure { phase, error });
        let span = self
            .job
            .phases
            .entry(phase.unwrap_or(Phase::Build))
            .or_default();
        span.end.get_or_insert(self.now);
        true
    }

    fn enters(&mut self, state: State, phase: Phase, start: Timestamp) {
        self.job.state = state;
        self.job.phases.entry(phase).or_default().start = Some(start);
        self.plan(format!("{phase}.started"));
    }

    /// A phase did what it was for: when the last of its runs ended, as they say.
    fn completes(&mut self, phase: Phase) {
        let runs = self
            .job
            .runs
            .values()
            .filter(|run| run.run.phase() == Some(phase));
        let end = runs
            .filter_map(|run| run.ended_at)
            .max()
            .unwrap_or(self.now);
        let span = self.job.phases.entry(phase).or_default();
        span.end = Some(span.start.map_or(end, |start| end.max(start)));
        self.plan(format!("{phase}.completed"));
    }

    fn ends(&mut self, state: State) {
        self.job.state = state;
        self.job.finished_at = Some(self.now);
        let phase = self.job.failure.as_ref().and_then(|failure| failure.phase);
        if let Some(phase) = phase.filter(|phase| self.job.phases.contains_key(phase)) {
            self.plan(format!("{phase}.failed"));
        }
        let how = if state == State::Succeeded {
            "completed"
        } else {
            "failed"
        };
        self.plan(format!("job.{how}"));
        if !self.job.claimed {
            // It may have been claimed by somebody who could not write that down any more.
            self.actions.push(Action::Release);
        }
    }

    /// What remains once a job has ended.
    fn settle(&mut self) {
        if !self.job.state.is_terminal() {
            return;
        }
        if self.job.claimed {
            self.actions.push(Action::Release);
        }
        if self.job.temporary.is_to_go() {
            self.clean();
        }
        self.forget();
    }

    /// Runs that still go on long after the job's end are no longer waited for.
    fn forget(&mut self) {
        let ended = self.job.finished_at.unwrap_or(self.job.updated_at);
        let limit = self.rules.publish + START_WINDOW + self.rules.drain;
        if since(self.now, ended) < limit {
            return;
        }
        for run in self
            .job
            .runs
            .values_mut()
            .filter(|run| ending(run).is_none())
        {
            run.progress = runs::failed(FailureKind::Infrastructure, "it did not end".to_owned());
        }
        if self.job.temporary.is_to_go() {
            self.job.temporary = Temporary::Left;
        }
    }

    fn clean(&mut self) {
        let Some(run) = self.job.runs.get(&Run::Cleanup) else {
            return self.intend(Run::Cleanup);
        };
        let began = match (&run.progress, run.started_at) {
            (Progress::Waiting { since, .. }, _) => *since,
            (_, Some(started)) => started,
            (_, None) => self.now,
        };
        let limit = later(
            began,
            self.rules.publish + self.rules.queue.min(START_WINDOW),
        );
        // Its success is seen where runs are taken in.
        if ending(run).is_some() || self.now >= limit {
            self.job.temporary = Temporary::Left;
        } else {
            self.wake_at(limit);
        }
    }

    /// What the runs of the record ask for.
    fn act(&mut self) {
        let draining = self.job.failure.is_some() || self.job.state.is_terminal();
        let left = !self.job.temporary.is_to_go();
        for (run, observed) in &self.job.runs {
            if ending(observed).is_some() {
                continue;
            }
            if draining && (*run != Run::Cleanup || left) {
                self.actions.push(Action::Stop(*run));
            } else if self.absent.contains(run) {
                self.actions.push(Action::Start(*run));
            }
        }
    }

    fn wake_at(&mut self, when: Timestamp) {
        self.wake = Some(self.wake.map_or(when, |wake| wake.min(when)));
    }

    /// A notice of what happened, if somebody wants to be told.
    fn plan(&mut self, event: String) {
        let wanted = self
            .rules
            .events
            .is_some_and(|events| events.include(&event));
        let known = self.job.notices.iter().any(|notice| notice.event == event);
        if wanted && !known {
            self.job.notices.push(Notice {
                delivery: notices::delivery(self.job.id, &event),
                event,
                at: self.now,
                attempts: 0,
                due: Some(self.now),
                result: None,
                body: None,
                given_up: false,
            });
        }
    }

    /// Whose turn it is among the notices.
    fn tell(&mut self) {
        notices::bound(&mut self.job.notices);
        match notices::next(&mut self.job.notices, self.now) {
            notices::Turn::Nobody => {}
            notices::Turn::Later(when) => self.wake_at(when),
            notices::Turn::Now { delivery, until } => {
                notices::write(&mut self.job, delivery);
                self.actions.push(Action::Deliver(delivery));
                self.wake_at(until);
            }
        }
    }
}

/// What clients read of a phase that failed by this end of a run.
fn failure_text(phase: Phase, run: Run, ending: &Ending) -> String {
    let name = match phase {
        Phase::Build => "Build",
        Phase::Test => "Test",
        Phase::Publish => "Publish",
    };
    match ending {
        Ending::Cancelled => Failure::KILLED.to_owned(),
        Ending::Succeeded { .. } => {
            format!("{name} phase failed: {run} ended without saying what came of it")
        }
        Ending::Failed(failure) => {
            let which = match phase {
                Phase::Test if !failure.message.starts_with(&run.to_string()) => format!("{run}: "),
                _ => String::new(),
            };
            let way_out = match failure.kind {
                FailureKind::NodeLost | FailureKind::Collected => {
                    "; it is not run again by itself, submit the job again"
                }
                _ => "",
            };
            format!("{name} phase failed: {which}{}{way_out}", failure.message)
        }
    }
}

#[cfg(test)]
mod tests;
