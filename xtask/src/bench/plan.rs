//! The order of the measurements: what a case is, which side runs when, when to stop. Knows no tool and prints only
//! progress, on stderr.
//!
//! One round goes through all cases; in each case the sides run ours, peer, peer, ours, so that a drift of the machine
//! hits both alike. Rounds are the outer loop: a disturbance of some seconds spoils one sample of one case, not all
//! samples of it.

use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;

use super::stats::Summary;

/// What the two columns stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The tool of this repository.
    Ours,
    /// What it is compared with.
    Peer,
}

impl Side {
    /// The column's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
        }
    }
}

/// How large the load of one run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Just enough to touch every page and code path once; its numbers are thrown away.
    WarmUp,
    /// A run of about a second.
    Quick,
    /// A run of some seconds.
    Full,
}

impl Size {
    /// The load for this size.
    pub(super) fn pick(self, warm_up: u64, quick: u64, full: u64) -> u64 {
        match self {
            Self::WarmUp => warm_up,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// What our number must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Shown for information.
    None,
    /// At least this many times better than the peer.
    Ratio(f64),
    /// Below this value, in the metric's unit.
    Below(f64),
    /// This value or more, in the metric's unit.
    AtLeast(f64),
    /// At most this much more than the peer, in the metric's unit: for a peer that is a floor.
    Over(f64),
    /// Any value: the run came to its end with nothing lost.
    Complete,
}

/// One number that every run of a case yields.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) target: Target,
}

impl Metric {
    /// A metric without a target.
    pub(super) fn new(name: &'static str, unit: &'static str, better: Better) -> Self {
        Self {
            name,
            unit,
            better,
            target: Target::None,
        }
    }

    /// The same metric with a target.
    pub(super) fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }
}

/// What one run yields: a value for each metric of its case, in their order, `None` where the side has no such thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) values: Vec<Option<f64>>,
    /// What a reader should know besides the numbers.
    pub(super) note: Option<String>,
}

impl From<Vec<Option<f64>>> for Reading {
    fn from(values: Vec<Option<f64>>) -> Self {
        Self { values, note: None }
    }
}

/// Runs one side of a case once, in a tool's laboratory `L`. An error voids the side's numbers.
type Run<L> = Box<dyn Fn(&L, Side, Size) -> Result<Reading>>;

/// One thing to measure. `L` is what all cases of a tool share: binaries, configuration, cores.
pub(super) struct Case<L> {
    /// What `--scenario` calls it; several cases may share one.
    pub(super) scenario: &'static str,
    pub(super) title: String,
    pub(super) metrics: Vec<Metric>,
    /// Whether a discarded run comes first.
    pub(super) warm_up: bool,
    /// Upper limit of rounds, for runs that are long or whose numbers hardly vary.
    pub(super) max_rounds: u32,
    /// Whether one run a side makes a round, instead of ours-peer-peer-ours.
    pub(super) once: bool,
    pub(super) run: Run<L>,
}

impl<L> Case<L> {
    /// A case that warms up and takes part in every round.
    pub(super) fn new(
        scenario: &'static str,
        title: impl Into<String>,
        metrics: Vec<Metric>,
        run: impl Fn(&L, Side, Size) -> Result<Reading> + 'static,
    ) -> Self {
        let run: Run<L> = Box::new(run);
        Self {
            scenario,
            title: title.into(),
            metrics,
            warm_up: true,
            max_rounds: u32::MAX,
            once: false,
            run,
        }
    }

    /// The same case without a warm-up.
    pub(super) fn cold(self) -> Self {
        Self {
            warm_up: false,
            ..self
        }
    }

    /// The same case, for at most `rounds` rounds.
    pub(super) fn at_most(self, rounds: u32) -> Self {
        Self {
            max_rounds: rounds,
            ..self
        }
    }

    /// The same case with one run a side in a round.
    pub(super) fn once(self) -> Self {
        Self { once: true, ..self }
    }
}

/// All runs of one side of a case.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    /// One entry a run.
    pub(super) readings: Vec<Vec<Option<f64>>>,
    /// Why the numbers do not count; the first reason found.
    pub(super) void: Option<String>,
    pub(super) note: Option<String>,
}

impl Column {
    /// The samples of one metric.
    pub(super) fn samples(&self, metric: usize) -> Vec<f64> {
        self.readings
            .iter()
            .filter_map(|reading| *reading.get(metric)?)
            .collect()
    }

    /// Median and spread of one metric; `None` when void or not applicable.
    pub(super) fn summary(&self, metric: usize) -> Option<Summary> {
        if self.void.is_some() {
            None
        } else {
            Summary::of(&self.samples(metric))
        }
    }

    fn add(&mut self, outcome: Result<Reading>) {
        match outcome {
            Ok(reading) => {
                self.readings.push(reading.values);
                self.note = reading.note.or(self.note.take());
            }
            Err(error) => self.void = Some(format!("{error:#}")),
        }
    }
}

/// A case's title and metrics with what both sides measured.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) scenario: &'static str,
    pub(super) title: String,
    pub(super) metrics: Vec<Metric>,
    pub(super) ours: Column,
    /// `None` when there is no peer on this machine.
    pub(super) peer: Option<Column>,
}

impl Outcome {
    fn of<L>(case: &Case<L>, with_peer: bool) -> Self {
        let (title, metrics) = (case.title.clone(), case.metrics.clone());
        let peer = with_peer.then(Column::default);
        Self {
            scenario: case.scenario,
            title,
            metrics,
            ours: Column::default(),
            peer,
        }
    }

    fn column(&mut self, side: Side) -> &mut Column {
        match side {
            Side::Ours => &mut self.ours,
            Side::Peer => self.peer.get_or_insert_default(),
        }
    }
}

/// How much work the user asked for.
#[derive(Clone, Debug)]
pub(super) struct Effort {
    scenarios: Vec<String>,
    size: Size,
    rounds: u32,
    /// No case begins after this time, and no round that is not expected to end within it.
    budget: Option<Duration>,
}

impl Effort {
    /// Effort for the command line's flags. Rounds that were asked for by number are all run, whatever they take.
    pub(super) fn new(scenarios: &[String], quick: bool, rounds: Option<u32>) -> Self {
        let (size, default_rounds, seconds) = if quick {
            (Size::Quick, 1, 100)
        } else {
            (Size::Full, 5, 14 * 60)
        };
        let budget = rounds.is_none().then_some(Duration::from_secs(seconds));
        Self {
            scenarios: scenarios.to_vec(),
            size,
            rounds: rounds.unwrap_or(default_rounds),
            budget,
        }
    }

    /// Keeps the cases of the scenarios that were asked for.
    ///
    /// # Errors
    ///
    /// A scenario that no case belongs to.
    pub(super) fn select<L>(&self, mut cases: Vec<Case<L>>) -> Result<Vec<Case<L>>> {
        let mut known: Vec<_> = cases.iter().map(|case| case.scenario).collect();
        known.dedup();
        let is_known =
            |wanted: &&String| known.iter().any(|name| name.eq_ignore_ascii_case(wanted));
        if let Some(unknown) = self.scenarios.iter().find(|wanted| !is_known(wanted)) {
            bail!("no scenario `{unknown}` (known: {})", known.join(", "));
        }
        cases.retain(|case| self.wants(case.scenario));
        Ok(cases)
    }

    fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty()
            || self
                .scenarios
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(scenario))
    }

    /// One line for the report's header.
    pub(super) fn describe(&self) -> String {
        let load = if self.size == Size::Quick {
            "quick"
        } else {
            "full"
        };
        format!(
            "{load} load, up to {} rounds of ours-peer-peer-ours, median of all runs",
            self.rounds
        )
    }
}

/// Measures all cases, round by round.
pub(super) fn execute<L>(
    cases: &[Case<L>],
    lab: &L,
    with_peer: bool,
    effort: &Effort,
) -> Vec<Outcome> {
    let clock = Clock {
        begin: Instant::now(),
        budget: effort.budget,
    };
    let mut outcomes: Vec<_> = cases
        .iter()
        .map(|case| Outcome::of(case, with_peer))
        .collect();
    for round in 0..effort.rounds {
        let round_begin = Instant::now();
        let taking_part = cases
            .iter()
            .zip(&mut outcomes)
            .enumerate()
            .filter(|(_, (case, _))| round < case.max_rounds);
        for (number, (case, outcome)) in taking_part {
            if clock.allows(Duration::ZERO) {
                clock.progress(&format!(
                    "round {}/{}  {}",
                    round + 1,
                    effort.rounds,
                    case.title
                ));
                let first = round == 0;
                let brief = case.once || first && clock.is_behind(number, cases.len());
                let turn = Turn {
                    first,
                    order: order(with_peer, brief),
                    size: effort.size,
                };
                turn.take(case, lab, outcome);
            } else if round == 0 {
                outcome.ours.note = Some("not measured, the time budget was used up".into());
            }
        }
        if round + 1 < effort.rounds && !clock.allows(round_begin.elapsed()) {
            clock.progress("the time budget allows no further round");
            break;
        }
    }
    outcomes
}

/// One case in one round.
struct Turn {
    first: bool,
    order: &'static [Side],
    size: Size,
}

impl Turn {
    fn take<L>(&self, case: &Case<L>, lab: &L, outcome: &mut Outcome) {
        if self.first && case.warm_up {
            for side in [Side::Ours, Side::Peer]
                .into_iter()
                .filter(|side| self.order.contains(side))
            {
                // A failure here shows again, with numbers attached, in the runs that count.
                let _warm = (case.run)(lab, side, Size::WarmUp);
            }
        }
        for side in self.order {
            let column = outcome.column(*side);
            // One void run voids the number; more runs would only take time.
            if column.void.is_none() {
                column.add((case.run)(lab, *side, self.size));
            }
        }
    }
}

/// One line for the report's header: how many runs of our side the time allowed.
pub(super) fn describe_runs(outcomes: &[Outcome]) -> String {
    let runs = || outcomes.iter().map(|outcome| outcome.ours.readings.len());
    let (fewest, most) = (
        runs().min().unwrap_or_default(),
        runs().max().unwrap_or_default(),
    );
    format!("{fewest} to {most} a side, warm-ups not counted")
}

/// Time since the first run, and how much there is.
struct Clock {
    begin: Instant,
    budget: Option<Duration>,
}

impl Clock {
    /// Whether something that takes `more` would end within the budget.
    fn allows(&self, more: Duration) -> bool {
        self.budget
            .is_none_or(|budget| self.begin.elapsed() + more < budget)
    }

    /// Whether a larger share of the budget is used than of the cases is done. On a slow machine, fewer runs of every case
    /// are better than all runs of some.
    fn is_behind(&self, done: usize, cases: usize) -> bool {
        let share = u32::try_from(done + 1).unwrap_or(u32::MAX);
        let all = u32::try_from(cases).unwrap_or(u32::MAX).max(1);
        self.budget
            .is_some_and(|budget| self.begin.elapsed() > budget * share / all)
    }

    fn progress(&self, line: &str) {
        // Progress that cannot be shown is no reason to stop measuring.
        let _closed = writeln!(
            std::io::stderr().lock(),
            "[{:4} s] {line}",
            self.begin.elapsed().as_secs()
        );
    }
}

fn order(with_peer: bool, once: bool) -> &'static [Side] {
    match (with_peer, once) {
        (true, false) => &[Side::Ours, Side::Peer, Side::Peer, Side::Ours],
        (true, true) => &[Side::Ours, Side::Peer],
        (false, false) => &[Side::Ours, Side::Ours],
        (false, true) => &[Side::Ours],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn effort(quick: bool, rounds: u32) -> Effort {
        Effort::new(&[], quick, Some(rounds))
    }

    fn speed() -> Vec<Metric> {
        vec![Metric::new("speed", "lines/s", Better::More)]
    }

    /// A laboratory that notes who ran.
    type Diary = RefCell<Vec<(Side, Size)>>;

    fn noting_case(scenario: &'static str) -> Case<Diary> {
        Case::new(scenario, scenario, speed(), |diary: &Diary, side, size| {
            diary.borrow_mut().push((side, size));
            Ok(vec![Some(1.0)].into())
        })
    }

    fn history(with_peer: bool, rounds: u32, case: Case<Diary>) -> Vec<(Side, Size)> {
        let diary = Diary::default();
        execute(&[case], &diary, with_peer, &effort(true, rounds));
        diary.into_inner()
    }

    #[test]
    fn a_round_runs_ours_peer_peer_ours_after_one_warm_up_each() {
        use Side::{Ours, Peer};
        use Size::{Quick, WarmUp};
        let expected = [
            (Ours, WarmUp),
            (Peer, WarmUp),
            (Ours, Quick),
            (Peer, Quick),
            (Peer, Quick),
            (Ours, Quick),
        ];
        assert_eq!(history(true, 1, noting_case("S1")), expected);
    }

    #[test]
    fn only_the_first_round_warms_up() {
        assert_eq!(history(true, 3, noting_case("S1")).len(), 2 + 3 * 4);
    }

    #[test]
    fn without_a_peer_only_our_side_runs() {
        assert!(
            history(false, 2, noting_case("S1"))
                .iter()
                .all(|(side, _)| *side == Side::Ours)
        );
    }

    #[test]
    fn a_case_can_limit_its_rounds_and_runs() {
        assert_eq!(
            history(true, 5, noting_case("S1").cold().once().at_most(2)).len(),
            4
        );
    }

    #[test]
    fn one_void_run_voids_the_number_and_ends_the_side() {
        let case = Case::new("S1", "one", speed(), |count: &RefCell<u32>, _, _| {
            *count.borrow_mut() += 1;
            if *count.borrow() == 2 {
                bail!("a gap");
            }
            Ok(vec![Some(5.0)].into())
        });
        let outcomes = execute(&[case.cold()], &RefCell::new(0), false, &effort(true, 4));
        assert_eq!(outcomes[0].ours.void.as_deref(), Some("a gap"));
        assert_eq!(
            describe_runs(&outcomes),
            "1 to 1 a side, warm-ups not counted"
        );
        assert_eq!(outcomes[0].ours.summary(0), None);
        assert_eq!(outcomes[0].ours.samples(0), [5.0]);
    }

    #[test]
    fn the_clock_allows_what_ends_within_the_budget() {
        let begin = Instant::now();
        let clock = Clock {
            begin,
            budget: Some(Duration::from_mins(10)),
        };
        assert!(clock.allows(Duration::from_mins(5)));
        assert!(!clock.allows(Duration::from_mins(10)));
        assert!(
            Clock {
                begin,
                budget: None
            }
            .allows(Duration::MAX)
        );
    }

    #[test]
    fn the_clock_is_behind_when_time_runs_faster_than_cases() {
        let half_gone = Instant::now().checked_sub(Duration::from_secs(50)).unwrap();
        let clock = Clock {
            begin: half_gone,
            budget: Some(Duration::from_secs(100)),
        };
        assert!(clock.is_behind(2, 10));
        assert!(!clock.is_behind(7, 10));
        assert!(
            !Clock {
                begin: half_gone,
                budget: None
            }
            .is_behind(0, 10)
        );
    }

    #[test]
    fn a_case_that_the_budget_does_not_reach_says_so() {
        let spent = Effort {
            budget: Some(Duration::ZERO),
            ..effort(true, 9)
        };
        let outcomes = execute(&[noting_case("S1")], &Diary::default(), true, &spent);
        assert_eq!(outcomes[0].ours.readings.len(), 0);
        assert_eq!(
            outcomes[0].ours.note.as_deref(),
            Some("not measured, the time budget was used up")
        );
    }

    #[test]
    fn scenarios_are_chosen_without_regard_to_case() {
        let cases = ["S1", "S1", "S2"].map(noting_case).into();
        let chosen = Effort::new(&["s1".into()], true, None)
            .select(cases)
            .unwrap();
        assert_eq!(chosen.len(), 2);
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_the_known_ones() {
        let outcome = Effort::new(&["S7".into()], true, None)
            .select(["S1", "S1", "S2"].map(noting_case).into());
        assert_eq!(
            outcome.err().unwrap().to_string(),
            "no scenario `S7` (known: S1, S2)"
        );
    }

    #[test]
    fn a_metric_that_a_side_lacks_has_no_samples() {
        let mut column = Column::default();
        column.add(Ok(vec![Some(1.0), None].into()));
        assert!(column.summary(1).is_none());
        assert!(column.summary(0).is_some());
    }
}
