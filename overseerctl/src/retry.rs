//! Whether a worker that ended is started again, and after which pause: arithmetic over a policy and past exits.
//!
//! Nothing here waits, reads a clock, or draws a random number. What was stopped on purpose, or has no policy, is not
//! asked about: it ends.
//!
//! ```text
//!   exit ──▶ does this exit ask for a restart? ──no──▶ End
//!                     │ yes: it is counted
//!                     ▼
//!            are there error_threshold exits within error_window? ──yes──▶ GiveUp
//!                     │ no
//!                     ▼
//!                  Restart after restart_delay, grown by backoff, plus jitter
//! ```
//!
//! As in sticky-overseer v2 every exit counts and is followed by a restart, code 0 included, unless the policy says
//! otherwise with `restart` and `success_exit_codes`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    api::{Backoff, RestartMode, RetryPolicy},
    duration::GoDuration,
};

/// Cap of a growing delay when the policy names none.
const DEFAULT_MAX_DELAY: u64 = 5 * 60 * 1_000_000_000;

/// Least pause between two workers of a task: without it a command that fails at once, under a policy without delay,
/// keeps a core busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// So many exits within the window are remembered even if no threshold asks for them; a growing delay grows no further
/// with more.
const REMEMBERED: usize = 1024;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; on the wire -1 after a death by signal.
    pub code: i32,
    /// Whether a signal killed it: that is never a success, whatever `code` says.
    pub signalled: bool,
}

/// What follows an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start another worker.
    Restart {
        /// The pause before it as clients are told; [`effective_wait`] is how long to wait.
        delay: GoDuration,
        /// Number of this restart in the task's life, from 1.
        attempt: u64,
    },
    /// Too many exits: the task is errored.
    GiveUp {
        /// Exits that count.
        exit_count: usize,
    },
    /// Nothing follows.
    End,
}

/// The exits of a task that count, as far as its policy may ask for them.
///
/// Its size is bounded: without an `error_window` it is just a number, with one at most as many instants as the
/// threshold, or 1024 if that is more.
#[derive(Clone, Debug, Default)]
pub struct ExitHistory {
    total: usize,
    recent: VecDeque<Instant>,
}

impl ExitHistory {
    /// Adds an exit, and returns how many count now, this one included.
    fn record(&mut self, policy: &RetryPolicy, now: Instant) -> usize {
        self.total = self.total.saturating_add(1);
        let window = policy.error_window.as_std();
        if window.is_zero() {
            self.recent = VecDeque::new();
            return self.total;
        }
        let expired = |exit: &Instant| now.saturating_duration_since(*exit) > window;
        while self.recent.front().is_some_and(expired) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() > threshold(policy).unwrap_or(0).max(REMEMBERED) {
            self.recent.pop_front();
        }
        self.recent.len()
    }
}

/// Decides what follows an exit that nobody asked for.
///
/// `restart_count` is how often the task was restarted so far; `random` is uniform in `[0, 1)` and picks the jitter.
/// An exit that asks for no restart leaves `history` as it is.
pub fn decide(
    policy: &RetryPolicy,
    history: &mut ExitHistory,
    exit: Exit,
    restart_count: u64,
    now: Instant,
    random: f64,
) -> Decision {
    if !wants_restart(policy, exit) {
        return Decision::End;
    }
    let exit_count = history.record(policy, now);
    if threshold(policy).is_some_and(|threshold| exit_count >= threshold) {
        return Decision::GiveUp { exit_count };
    }
    Decision::Restart {
        delay: delay(policy, exit_count, random),
        attempt: restart_count.saturating_add(1),
    }
}

/// How long to wait before a restart that clients were told comes after `delay`: never less than ten milliseconds.
pub fn effective_wait(delay: GoDuration) -> Duration {
    delay.as_std().max(SHORTEST_WAIT)
}

impl RetryPolicy {
    /// `base` with every field that is set in `over` taken from there; `backoff` is one field.
    ///
    /// A field is set when it is not its zero value, so `over` cannot turn off what `base` turns on.
    #[must_use]
    pub fn merge(base: &Self, over: &Self) -> Self {
        let pick = |is_set: bool| if is_set { over } else { base };
        Self {
            restart_delay: pick(!over.restart_delay.is_zero()).restart_delay,
            restart_jitter: pick(!over.restart_jitter.is_zero()).restart_jitter,
            error_window: pick(!over.error_window.is_zero()).error_window,
            error_threshold: pick(over.error_threshold != 0).error_threshold,
            restart: pick(over.restart != RestartMode::default()).restart,
            success_exit_codes: pick(!over.success_exit_codes.is_empty())
                .success_exit_codes
                .clone(),
            backoff: pick(over.backoff.is_some()).backoff,
        }
    }

    /// Says what makes no sense in this policy.
    pub fn check(&self) -> Result<(), String> {
        match self.backoff {
            Some(backoff) if !is_growth(backoff.factor) => Err(format!(
                "backoff.factor must be a finite number of at least 1, not {}",
                backoff.factor
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn wants_restart(policy: &RetryPolicy, exit: Exit) -> bool {
    match policy.restart {
        RestartMode::Always => true,
        RestartMode::OnFailure => !is_success(policy, exit),
        RestartMode::Never => false,
    }
}

fn is_success(policy: &RetryPolicy, exit: Exit) -> bool {
    let codes = match policy.success_exit_codes.as_slice() {
        [] => &[0],
        codes => codes,
    };
    !exit.signalled && codes.contains(&exit.code)
}

/// The error threshold, where there is one.
fn threshold(policy: &RetryPolicy) -> Option<usize> {
    usize::try_from(policy.error_threshold)
        .ok()
        .filter(|&exits| exits > 0)
}

/// The pause after the `exit_count`th exit. The cap holds for the delay without its jitter.
fn delay(policy: &RetryPolicy, exit_count: usize, random: f64) -> GoDuration {
    let base = nanos(policy.restart_delay);
    let grown = policy
        .backoff
        .map_or(base, |backoff| grow(base, backoff, exit_count));
    let jitter = fraction(nanos(policy.restart_jitter), random);
    i64::try_from(grown.saturating_add(jitter)).map_or(GoDuration::MAX, GoDuration::from_nanos)
}

/// `base * factor^(exit_count - 1)`, never more than the cap; in nanoseconds.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a delay of months need not be exact; casts back from floats saturate, which is what a cap wants"
)]
fn grow(base: u64, backoff: Backoff, exit_count: usize) -> u64 {
    let cap = match nanos(backoff.max) {
        0 => DEFAULT_MAX_DELAY,
        max => max,
    };
    let factor = if is_growth(backoff.factor) {
        backoff.factor
    } else {
        1.0
    };
    let steps = i32::try_from(exit_count.saturating_sub(1)).unwrap_or(i32::MAX);
    // No delay times infinity is not a number, which is cast to zero: no delay stays none.
    let grown = (base as f64 * factor.powi(steps)) as u64;
    grown.max(base).min(cap)
}

/// The part of `whole` that `random` in `[0, 1)` picks; less than `whole` for every `random`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "jitter need not be exact; casts back from floats saturate, and not a number becomes zero"
)]
fn fraction(whole: u64, random: f64) -> u64 {
    ((whole as f64 * random) as u64).min(whole.saturating_sub(1))
}

fn is_growth(factor: f64) -> bool {
    factor.is_finite() && factor >= 1.0
}

/// A duration in nanoseconds, negative ones as none.
fn nanos(duration: GoDuration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILURE: Exit = Exit {
        code: 1,
        signalled: false,
    };
    const SUCCESS: Exit = Exit {
        code: 0,
        signalled: false,
    };
    const KILLED: Exit = Exit {
        code: -1,
        signalled: true,
    };

    fn ms(milliseconds: u64) -> GoDuration {
        GoDuration::from_std(Duration::from_millis(milliseconds))
    }

    fn backoff(factor: f64, max: GoDuration) -> Backoff {
        Backoff { factor, max }
    }

    fn threshold(error_threshold: i64) -> RetryPolicy {
        RetryPolicy {
            error_threshold,
            ..RetryPolicy::default()
        }
    }

    /// A task under one policy, on a clock that only the test moves.
    struct Task {
        policy: RetryPolicy,
        history: ExitHistory,
        now: Instant,
    }

    impl Task {
        fn new(policy: RetryPolicy) -> Self {
            Self {
                policy,
                history: ExitHistory::default(),
                now: Instant::now(),
            }
        }

        fn exits_with(&mut self, exit: Exit, random: f64) -> Decision {
            decide(&self.policy, &mut self.history, exit, 0, self.now, random)
        }

        fn exits(&mut self, exit: Exit) -> Decision {
            self.exits_with(exit, 0.0)
        }

        fn exits_after(&mut self, pause: Duration) -> Decision {
            self.now += pause;
            self.exits(FAILURE)
        }

        /// The delays after so many exits in a row.
        fn delays(&mut self, exits: usize) -> Vec<GoDuration> {
            (0..exits).map(|_| delay_of(self.exits(FAILURE))).collect()
        }
    }

    fn delay_of(decision: Decision) -> GoDuration {
        match decision {
            Decision::Restart { delay, .. } => delay,
            other => panic!("no restart but {other:?}"),
        }
    }

    fn restarts(decision: Decision) -> bool {
        matches!(decision, Decision::Restart { .. })
    }

    // === Which exits ===

    #[test]
    fn an_empty_policy_restarts_for_ever_without_delay() {
        let mut task = Task::new(RetryPolicy::default());
        assert!(task.delays(5000).into_iter().all(|delay| delay.is_zero()));
    }

    #[test]
    fn by_default_code_0_is_restarted_and_counted_too() {
        let mut task = Task::new(threshold(2));
        assert!(restarts(task.exits(SUCCESS)));
        assert_eq!(task.exits(SUCCESS), Decision::GiveUp { exit_count: 2 });
    }

    #[test]
    fn on_failure_a_success_ends_the_task_and_does_not_count() {
        let mut task = Task::new(RetryPolicy {
            restart: RestartMode::OnFailure,
            ..threshold(2)
        });
        assert!(restarts(task.exits(FAILURE)));
        for _ in 0..9 {
            assert_eq!(task.exits(SUCCESS), Decision::End);
        }
        assert_eq!(task.exits(FAILURE), Decision::GiveUp { exit_count: 2 });
    }

    #[test]
    fn success_codes_replace_zero() {
        let policy = RetryPolicy {
            restart: RestartMode::OnFailure,
            success_exit_codes: vec![3, 143],
            ..RetryPolicy::default()
        };
        let mut task = Task::new(policy);
        assert_eq!(
            task.exits(Exit {
                code: 143,
                signalled: false
            }),
            Decision::End
        );
        assert!(restarts(task.exits(SUCCESS)));
    }

    #[test]
    fn a_death_by_signal_is_never_a_success() {
        let policy = RetryPolicy {
            restart: RestartMode::OnFailure,
            success_exit_codes: vec![-1, 0],
            ..RetryPolicy::default()
        };
        let mut task = Task::new(policy);
        assert!(restarts(task.exits(KILLED)));
        assert!(restarts(task.exits(Exit {
            code: 0,
            signalled: true
        })));
        assert_eq!(
            task.exits(Exit {
                code: -1,
                signalled: false
            }),
            Decision::End
        );
    }

    #[test]
    fn never_means_never() {
        let mut task = Task::new(RetryPolicy {
            restart: RestartMode::Never,
            ..threshold(1)
        });
        for exit in [SUCCESS, FAILURE, KILLED] {
            assert_eq!(task.exits(exit), Decision::End);
        }
    }

    // === Giving up ===

    #[test]
    fn a_threshold_of_zero_or_less_never_gives_up() {
        for none in [0, -1, i64::MIN] {
            assert_eq!(Task::new(threshold(none)).delays(2000).len(), 2000);
        }
    }

    #[test]
    fn a_threshold_of_one_gives_up_at_once() {
        assert_eq!(
            Task::new(threshold(1)).exits(FAILURE),
            Decision::GiveUp { exit_count: 1 }
        );
    }

    #[test]
    fn exits_older_than_the_window_do_not_count() {
        let mut task = Task::new(RetryPolicy {
            error_window: ms(1000),
            ..threshold(3)
        });
        let second = Duration::from_secs(1);
        assert!(restarts(task.exits_after(Duration::ZERO)));
        assert!(restarts(task.exits_after(second + Duration::from_nanos(1))));
        assert!(
            restarts(task.exits_after(second)),
            "exactly as old as the window still counts"
        );
        assert_eq!(
            task.exits_after(Duration::ZERO),
            Decision::GiveUp { exit_count: 3 }
        );
    }

    #[test]
    fn without_a_window_all_exits_count() {
        let mut task = Task::new(threshold(3));
        let year = Duration::from_hours(365 * 24);
        assert!(restarts(task.exits_after(year)));
        assert!(restarts(task.exits_after(year)));
        assert_eq!(task.exits_after(year), Decision::GiveUp { exit_count: 3 });
    }

    #[test]
    fn a_threshold_beyond_what_is_remembered_is_still_reached() {
        let exits = i64::try_from(3 * REMEMBERED).unwrap();
        let mut task = Task::new(RetryPolicy {
            error_window: ms(1000),
            ..threshold(exits)
        });
        assert_eq!(task.delays(3 * REMEMBERED - 1).len(), 3 * REMEMBERED - 1);
        assert_eq!(
            task.exits(FAILURE),
            Decision::GiveUp {
                exit_count: 3 * REMEMBERED
            }
        );
    }

    #[test]
    fn the_history_is_bounded() {
        let mut windowed = Task::new(RetryPolicy {
            error_window: ms(1000),
            ..threshold(0)
        });
        windowed.delays(5 * REMEMBERED);
        assert_eq!(windowed.history.recent.len(), REMEMBERED);
        let mut counted = Task::new(threshold(0));
        counted.delays(5 * REMEMBERED);
        assert_eq!(counted.history.recent.capacity(), 0);
        assert_eq!(counted.history.total, 5 * REMEMBERED);
    }

    // === Delays ===

    #[test]
    fn attempts_go_on_from_the_restarts_so_far() {
        let policy = RetryPolicy::default();
        let attempt = |restart_count| {
            let history = &mut ExitHistory::default();
            match decide(
                &policy,
                history,
                FAILURE,
                restart_count,
                Instant::now(),
                0.0,
            ) {
                Decision::Restart { attempt, .. } => attempt,
                other => panic!("no restart but {other:?}"),
            }
        };
        assert_eq!(
            (attempt(0), attempt(41), attempt(u64::MAX)),
            (1, 42, u64::MAX)
        );
    }

    #[test]
    fn the_delay_doubles_up_to_its_cap() {
        let policy = RetryPolicy {
            restart_delay: ms(100),
            backoff: Some(backoff(2.0, ms(1000))),
            ..RetryPolicy::default()
        };
        assert_eq!(
            Task::new(policy).delays(6),
            [100, 200, 400, 800, 1000, 1000].map(ms)
        );
    }

    #[test]
    fn a_growing_delay_without_a_cap_stops_at_five_minutes() {
        let policy = RetryPolicy {
            restart_delay: ms(60_000),
            backoff: Some(backoff(3.0, GoDuration::default())),
            ..RetryPolicy::default()
        };
        assert_eq!(
            Task::new(policy).delays(4),
            [60_000, 180_000, 300_000, 300_000].map(ms)
        );
    }

    #[test]
    fn a_calm_window_lets_the_delay_fall_back() {
        let policy = RetryPolicy {
            restart_delay: ms(100),
            error_window: ms(5000),
            backoff: Some(backoff(2.0, ms(1000))),
            ..RetryPolicy::default()
        };
        let mut task = Task::new(policy);
        assert_eq!(task.delays(3), [100, 200, 400].map(ms));
        assert_eq!(delay_of(task.exits_after(Duration::from_secs(6))), ms(100));
    }

    #[test]
    fn a_factor_that_makes_no_sense_is_one() {
        for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -2.0, 0.0, 0.5] {
            let policy = RetryPolicy {
                restart_delay: ms(100),
                backoff: Some(backoff(factor, ms(1000))),
                ..RetryPolicy::default()
            };
            assert_eq!(
                Task::new(policy).delays(3),
                [100, 100, 100].map(ms),
                "factor {factor}"
            );
        }
    }

    #[test]
    fn no_delay_does_not_grow() {
        let policy = RetryPolicy {
            backoff: Some(backoff(1e300, ms(1000))),
            ..RetryPolicy::default()
        };
        assert!(
            Task::new(policy)
                .delays(50)
                .into_iter()
                .all(|delay| delay.is_zero())
        );
    }

    #[test]
    fn the_longest_durations_do_not_overflow() {
        let longest = GoDuration::MAX;
        let policy = RetryPolicy {
            restart_delay: longest,
            restart_jitter: longest,
            backoff: Some(backoff(f64::MAX, longest)),
            ..RetryPolicy::default()
        };
        let mut task = Task::new(policy);
        for _ in 0..3 {
            assert_eq!(delay_of(task.exits_with(FAILURE, 0.999)), longest);
        }
    }

    #[test]
    fn jitter_is_added_and_never_reaches_its_bound() {
        let policy = RetryPolicy {
            restart_delay: ms(100),
            restart_jitter: ms(50),
            ..RetryPolicy::default()
        };
        let mut task = Task::new(policy);
        let mut delay = |random| delay_of(task.exits_with(FAILURE, random)).as_std();
        assert_eq!(delay(0.0), Duration::from_millis(100));
        assert_eq!(delay(0.5), Duration::from_millis(125));
        for random in [1.0, 7.0, f64::INFINITY] {
            assert_eq!(delay(random), Duration::from_nanos(149_999_999));
        }
        for random in [f64::NAN, -1.0] {
            assert_eq!(delay(random), Duration::from_millis(100));
        }
    }

    #[test]
    fn negative_durations_count_as_zero() {
        let minus: GoDuration = "-1s".parse().unwrap();
        let policy = RetryPolicy {
            restart_delay: minus,
            restart_jitter: minus,
            error_window: minus,
            backoff: Some(backoff(2.0, minus)),
            ..threshold(3)
        };
        let mut task = Task::new(policy);
        assert!(delay_of(task.exits_with(FAILURE, 0.9)).is_zero());
        assert!(delay_of(task.exits_after(Duration::from_mins(1))).is_zero());
        assert_eq!(task.exits(FAILURE), Decision::GiveUp { exit_count: 3 });
        let policy = RetryPolicy {
            restart_delay: ms(200_000),
            backoff: Some(backoff(2.0, minus)),
            ..RetryPolicy::default()
        };
        assert_eq!(Task::new(policy).delays(2), [200_000, 300_000].map(ms));
    }

    #[test]
    fn a_restart_waits_ten_milliseconds_at_least() {
        assert_eq!(
            effective_wait(GoDuration::default()),
            Duration::from_millis(10)
        );
        assert_eq!(
            effective_wait("-1h".parse().unwrap()),
            Duration::from_millis(10)
        );
        assert_eq!(effective_wait(ms(9)), Duration::from_millis(10));
        assert_eq!(effective_wait(ms(11)), Duration::from_millis(11));
    }

    // === Policies ===

    fn full() -> RetryPolicy {
        RetryPolicy {
            restart_delay: ms(1),
            restart_jitter: ms(2),
            error_window: ms(3),
            error_threshold: 4,
            restart: RestartMode::OnFailure,
            success_exit_codes: vec![5],
            backoff: Some(backoff(6.0, ms(7))),
        }
    }

    #[test]
    fn a_merge_with_nothing_changes_nothing() {
        let nothing = RetryPolicy::default();
        assert_eq!(RetryPolicy::merge(&full(), &nothing), full());
        assert_eq!(RetryPolicy::merge(&nothing, &full()), full());
        assert_eq!(RetryPolicy::merge(&nothing, &nothing), nothing);
    }

    #[test]
    fn every_field_that_is_set_overrides() {
        let over = RetryPolicy {
            restart_delay: ms(10),
            restart_jitter: ms(20),
            error_window: ms(30),
            error_threshold: -40,
            restart: RestartMode::Never,
            success_exit_codes: vec![50, 51],
            backoff: Some(backoff(60.0, GoDuration::default())),
        };
        assert_eq!(RetryPolicy::merge(&full(), &over), over);
    }

    #[test]
    fn a_field_overrides_alone() {
        let over = RetryPolicy {
            restart_jitter: ms(20),
            ..RetryPolicy::default()
        };
        let expected = RetryPolicy {
            restart_jitter: ms(20),
            ..full()
        };
        assert_eq!(RetryPolicy::merge(&full(), &over), expected);
    }

    #[test]
    fn a_check_names_the_factor_it_refuses() {
        for (factor, shown) in [
            (0.5, "0.5"),
            (-1.0, "-1"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            let policy = RetryPolicy {
                backoff: Some(backoff(factor, ms(1))),
                ..RetryPolicy::default()
            };
            let expected =
                format!("backoff.factor must be a finite number of at least 1, not {shown}");
            assert_eq!(policy.check(), Err(expected));
        }
        for fine in [
            None,
            Some(backoff(1.0, ms(0))),
            Some(backoff(f64::MAX, ms(1))),
        ] {
            assert_eq!(
                RetryPolicy {
                    backoff: fine,
                    ..full()
                }
                .check(),
                Ok(())
            );
        }
    }

    // === For all policies ===

    fn any_duration() -> impl Strategy<Value = GoDuration> {
        let any = any::<u64>().prop_map(|ns| GoDuration::from_std(Duration::from_nanos(ns)));
        prop_oneof![
            Just(GoDuration::default()),
            (0..100_000_u64).prop_map(ms),
            any
        ]
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        let factor = prop_oneof![1.0..4.0_f64, any::<f64>()];
        (factor, any_duration()).prop_map(|(factor, max)| Backoff { factor, max })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_delay_is_between_its_bounds(
            restart_delay in any_duration(),
            restart_jitter in any_duration(),
            backoff in prop::option::of(any_backoff()),
            exits in 1..40_usize,
            random in 0.0..1.0_f64,
        ) {
            let cap = match backoff {
                None => restart_delay.as_std(),
                Some(backoff) if backoff.max.is_zero() => Duration::from_mins(5),
                Some(backoff) => backoff.max.as_std(),
            };
            let least = restart_delay.as_std().min(cap);
            let longest = GoDuration::MAX.as_std();
            let policy = RetryPolicy { restart_delay, restart_jitter, backoff, ..RetryPolicy::default() };
            let mut task = Task::new(policy);
            for _ in 0..exits {
                let delay = delay_of(task.exits_with(FAILURE, random)).as_std();
                let jitter = restart_jitter.as_std();
                prop_assert!(delay >= least);
                prop_assert!(delay <= cap.saturating_add(jitter).min(longest));

            }
        }

        #[test]
        fn a_delay_never_shrinks_from_exit_to_exit(
            restart_delay in any_duration(),
            backoff in any_backoff(),
            exits in 1..200_usize,
        ) {
            let policy = RetryPolicy { restart_delay, backoff: Some(backoff), ..RetryPolicy::default() };
            prop_assert!(Task::new(policy).delays(exits).is_sorted_by_key(|delay| delay.as_std()));
        }

        #[test]
        fn giving_up_comes_with_the_exit_that_fills_the_window(
            error_threshold in 1..6_i64,
            window in prop_oneof![Just(0), 1..50_u64],
            pauses in prop::collection::vec(0..40_u64, 1..40),
        ) {
            let policy = RetryPolicy { error_window: ms(window), ..threshold(error_threshold) };
            let mut task = Task::new(policy);
            let (mut at, mut exits) = (0, Vec::new());
            for pause in pauses {
                at += pause;
                exits.push(at);
                let count = exits.iter().filter(|&&exit| window == 0 || exit + window >= at).count();
                let decision = task.exits_after(Duration::from_millis(pause));
                if i64::try_from(count).unwrap() >= error_threshold {
                    prop_assert_eq!(decision, Decision::GiveUp { exit_count: count });
                    break;
                }
                prop_assert!(restarts(decision));
            }
        }
    }
}
