//! Claims about the pool, each rule by example. `histories` has the random ones.

mod histories;

use super::*;
use crate::api::QueueConfig;

// === Fixtures ===

fn queue(size: i64) -> QueueConfig {
    QueueConfig {
        enabled: true,
        size,
        ..QueueConfig::default()
    }
}

fn limit(limit: i64) -> PoolConfig {
    PoolConfig {
        limit,
        ..PoolConfig::default()
    }
}

fn limit_and_queue(limit: i64, queue: QueueConfig) -> PoolConfig {
    PoolConfig {
        limit,
        queue: Some(queue),
        ..PoolConfig::default()
    }
}

fn limits(limit: i64, queue_size: i64) -> Limits {
    Limits {
        limit,
        queue_size,
        excess: None,
    }
}

/// A pool, a clock that only the test moves, and answers as plain words.
struct Bench {
    pool: Pool<()>,
    now: Instant,
}

impl Bench {
    fn new<const N: usize>(global: PoolConfig, actions: [(&str, PoolConfig); N]) -> Self {
        let actions = actions.map(|(name, pool)| (name.to_owned(), pool));
        Self {
            pool: Pool::new(global, BTreeMap::from(actions)),
            now: Instant::now(),
        }
    }

    /// One action `a` with this pool, and no global settings.
    fn of(pool: PoolConfig) -> Self {
        Self::new(PoolConfig::default(), [("a", pool)])
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn ask(&mut self, task_id: &str, action: &str, forced: bool) -> Admission<()> {
        let start = Start {
            task_id: task_id.to_owned(),
            action: action.to_owned(),
            forced,
            payload: (),
        };
        let admission = self.pool.request(start, self.now, Timestamp::now());
        self.check();
        admission
    }

    fn start(&mut self, task_id: &str, action: &str) -> String {
        words(&self.ask(task_id, action, false))
    }

    fn force(&mut self, task_id: &str, action: &str) -> String {
        words(&self.ask(task_id, action, true))
    }

    /// Starts tasks that must not be refused.
    fn fill<const N: usize>(&mut self, action: &str, task_ids: [&str; N]) {
        for task_id in task_ids {
            assert_ne!(self.start(task_id, action), "rejected");
        }
    }

    fn admit(&mut self) -> Vec<String> {
        let admitted = self.pool.admit(self.now);
        self.check();
        assert_eq!(admitted.expired, []);
        admitted
            .run
            .into_iter()
            .map(|start| start.task_id)
            .collect()
    }

    fn release_and_admit(&mut self, task_id: &str) -> Vec<String> {
        assert!(self.pool.release(task_id), "{task_id} holds no slot");
        self.admit()
    }

    fn waiting(&self) -> Vec<&str> {
        self.pool
            .waiting()
            .map(|waiting| waiting.task_id.as_str())
            .collect()
    }

    fn running(&self, action: Option<&str>) -> usize {
        self.pool.info(action).running
    }

    fn check(&self) {
        self.pool.slots.check();
        self.pool.queues.check();
    }
}

fn words<T>(admission: &Admission<T>) -> String {
    match admission {
        Admission::Run(_) => "run".to_owned(),
        Admission::Rejected(_) => "rejected".to_owned(),
        Admission::Queued {
            position,
            displaced: None,
        } => format!("queued {position}"),
        Admission::Queued {
            position,
            displaced: Some(gone),
        } => {
            format!("queued {position}, {} displaced", gone.task_id)
        }
    }
}

fn ids<T>(waiting: &[Waiting<T>]) -> Vec<&str> {
    waiting
        .iter()
        .map(|waiting| waiting.task_id.as_str())
        .collect()
}

// === Limits ===

#[test]
fn limits_of_zero_or_less_are_unlimited() {
    for none in [0, -1, i64::MIN] {
        let mut bench = Bench::new(limit(none), [("a", limit(none))]);
        for n in 0..100 {
            assert_eq!(bench.start(&format!("t{n}"), "a"), "run");
        }
    }
}

#[test]
fn the_global_limit_counts_all_actions() {
    let mut bench = Bench::new(limit(2), [("a", limit(0)), ("b", limit(0))]);
    assert_eq!(bench.start("1", "a"), "run");
    assert_eq!(bench.start("2", "b"), "run");
    assert_eq!(bench.start("3", "a"), "rejected");
    assert_eq!(bench.start("4", "unheard-of"), "rejected");
}

#[test]
fn an_actions_limit_counts_that_action_alone() {
    let mut bench = Bench::new(limit(3), [("a", limit(1)), ("b", limit(0))]);
    assert_eq!(bench.start("1", "a"), "run");
    assert_eq!(bench.start("2", "a"), "rejected");
    assert_eq!(bench.start("3", "b"), "run");
    assert_eq!(bench.start("4", "b"), "run");
    assert_eq!(bench.start("5", "b"), "rejected");
}

#[test]
fn an_id_in_use_is_rejected_and_stays_where_it_is() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["runs", "waits"]);
    assert_eq!(bench.start("runs", "a"), "rejected");
    assert_eq!(bench.start("waits", "b"), "rejected");
    assert_eq!((bench.running(None), bench.waiting()), (1, vec!["waits"]));
}

#[test]
fn a_rejected_start_comes_back_whole_and_leaves_no_trace() {
    let mut pool = Pool::new(limit(1), BTreeMap::new());
    let now = Instant::now();
    assert!(pool.hold("other", "a"));
    let start = Start {
        task_id: "x".to_owned(),
        action: "a".to_owned(),
        forced: true,
        payload: vec![1, 2],
    };
    assert_eq!(
        pool.request(start.clone(), now, Timestamp::now()),
        Admission::Rejected(start.clone())
    );
    assert!(pool.release("other"));
    assert_eq!(
        pool.request(start.clone(), now, Timestamp::now()),
        Admission::Run(start)
    );
}

#[test]
fn a_queued_start_keeps_payload_and_times() {
    let mut pool = Pool::new(limit_and_queue(1, queue(0)), BTreeMap::new());
    let (since, at) = (Instant::now(), Timestamp::now());
    assert!(pool.hold("other", "a"));
    let start = Start {
        task_id: "x".to_owned(),
        action: "a".to_owned(),
        forced: false,
        payload: "load",
    };
    let queued = Admission::Queued {
        position: 1,
        displaced: None,
    };
    assert_eq!(pool.request(start.clone(), since, at), queued);
    let removed = pool.remove("x").unwrap();
    assert_eq!((removed.queued_at, removed.since), (at, since));
    assert_eq!(Start::from(removed), start);
}

// === Queues ===

#[test]
fn without_a_queue_a_start_over_the_limit_is_rejected() {
    let disabled = QueueConfig {
        enabled: false,
        ..queue(9)
    };
    for pool in [limit(1), limit_and_queue(1, disabled)] {
        let mut bench = Bench::of(pool);
        bench.fill("a", ["1"]);
        assert_eq!(bench.start("2", "a"), "rejected");
        assert_eq!(bench.force("3", "a"), "rejected");
    }
}

#[test]
fn queue_settings_are_the_actions_or_else_the_global_ones() {
    let disabled = QueueConfig::default();
    let global = limit_and_queue(1, queue(2));
    let mut bench = Bench::new(
        global,
        [
            ("inherits", limit(0)),
            ("own", limit_and_queue(0, queue(1))),
            ("off", limit_and_queue(0, disabled)),
        ],
    );
    bench.fill("inherits", ["0", "1", "2"]);
    bench.fill("own", ["3"]);
    let prohibit = QueueConfig {
        displace: "prohibit".to_owned(),
        ..queue(1)
    };
    assert_eq!(bench.start("4", "off"), "rejected");
    assert_eq!(bench.start("5", "inherits"), "queued 2, 1 displaced");
    assert_eq!(bench.start("6", "own"), "queued 1, 3 displaced");
    let _ = bench.pool.reconfigure(
        limit_and_queue(1, prohibit),
        BTreeMap::from([("inherits".into(), limit(0))]),
    );
    assert_eq!(bench.start("7", "inherits"), "rejected");
}

#[test]
fn queues_are_per_action_even_when_their_settings_are_global() {
    let mut bench = Bench::new(
        limit_and_queue(1, queue(1)),
        [("a", limit(0)), ("b", limit(0))],
    );
    bench.fill("a", ["0"]);
    assert_eq!(bench.start("1", "a"), "queued 1");
    assert_eq!(bench.start("2", "b"), "queued 1");
    assert_eq!(
        (
            bench.pool.info(None).queue_depth,
            bench.pool.info(Some("b")).queue_depth
        ),
        (2, 1)
    );
}

#[test]
fn a_queue_size_of_zero_or_less_is_unlimited() {
    for size in [0, -5] {
        let mut bench = Bench::of(limit_and_queue(1, queue(size)));
        bench.fill("a", ["0"]);
        for n in 1..=100 {
            assert_eq!(bench.start(&format!("t{n}"), "a"), format!("queued {n}"));
        }
    }
}

#[test]
fn a_start_runs_at_once_when_there_is_room_even_if_others_wait() {
    let mut bench = Bench::new(
        PoolConfig::default(),
        [("a", limit_and_queue(1, queue(0))), ("b", limit(0))],
    );
    bench.fill("a", ["1", "2"]);
    assert_eq!(bench.start("3", "b"), "run");
    assert!(bench.pool.release("1"));
    assert_eq!(bench.start("4", "a"), "run");
    assert_eq!(bench.waiting(), ["2"]);
}

#[test]
fn force_does_not_get_past_a_limit() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["1", "2"]);
    assert_eq!(bench.force("3", "a"), "queued 2");
    assert_eq!(bench.release_and_admit("1"), ["2"]);
}

#[test]
fn the_oldest_is_admitted_first_unless_the_order_is_last() {
    for (order, expected) in [
        ("", ["1", "2"]),
        ("first", ["1", "2"]),
        ("LAST", ["1", "2"]),
        ("last", ["3", "2"]),
    ] {
        let queue = QueueConfig {
            order: order.to_owned(),
            ..queue(0)
        };
        let mut bench = Bench::of(limit_and_queue(1, queue));
        bench.fill("a", ["0", "1", "2", "3"]);
        let admitted = [
            bench.release_and_admit("0"),
            bench.release_and_admit(expected[0]),
        ]
        .concat();
        assert_eq!(admitted, expected, "order {order:?}");
    }
}

// === Displacement ===

fn full_queue(displace: &str, size: i64) -> Bench {
    let mut bench = Bench::of(limit_and_queue(
        1,
        QueueConfig {
            displace: displace.to_owned(),
            ..queue(size)
        },
    ));
    bench.fill("a", ["0"]);
    bench
}

#[test]
fn a_full_queue_drops_its_oldest_for_a_newcomer() {
    for displace in ["", "true", "anything"] {
        let mut bench = full_queue(displace, 2);
        bench.fill("a", ["1", "2"]);
        assert_eq!(bench.start("3", "a"), "queued 2, 1 displaced");
        assert_eq!(bench.waiting(), ["2", "3"]);
    }
}

#[test]
fn displace_false_yields_to_forced_starts_only() {
    let mut bench = full_queue("false", 2);
    bench.fill("a", ["1", "2"]);
    assert_eq!(bench.start("3", "a"), "rejected");
    assert_eq!(bench.force("4", "a"), "queued 2, 1 displaced");
}

#[test]
fn displace_prohibit_yields_to_nobody() {
    let mut bench = full_queue("prohibit", 1);
    bench.fill("a", ["1"]);
    assert_eq!(bench.start("2", "a"), "rejected");
    assert_eq!(bench.force("3", "a"), "rejected");
}

#[test]
fn forced_starts_are_never_displaced() {
    let mut bench = full_queue("true", 3);
    assert_eq!(bench.force("1", "a"), "queued 1");
    bench.fill("a", ["2"]);
    assert_eq!(bench.force("3", "a"), "queued 3");
    assert_eq!(bench.force("4", "a"), "queued 3, 2 displaced");
    assert_eq!(bench.force("5", "a"), "rejected");
    assert_eq!(bench.start("6", "a"), "rejected");
    assert_eq!(bench.waiting(), ["1", "3", "4"]);
}

#[test]
fn a_newest_first_queue_also_gives_up_its_oldest() {
    let mut bench = Bench::of(limit_and_queue(
        1,
        QueueConfig {
            order: "last".to_owned(),
            ..queue(2)
        },
    ));
    bench.fill("a", ["0", "1", "2"]);
    assert_eq!(bench.start("3", "a"), "queued 2, 1 displaced");
}

#[test]
fn another_actions_queue_is_never_displaced_from() {
    let mut bench = Bench::new(
        limit_and_queue(1, queue(1)),
        [("a", limit(0)), ("b", limit(0))],
    );
    bench.fill("a", ["0", "1"]);
    assert_eq!(bench.force("2", "b"), "queued 1");
    assert_eq!(bench.start("3", "b"), "rejected");
    assert_eq!(bench.waiting(), ["1", "2"]);
}

#[test]
fn a_queue_longer_than_its_lowered_size_gives_up_nobody() {
    let mut bench = full_queue("true", 3);
    bench.fill("a", ["1", "2", "3"]);
    assert_eq!(bench.pool.set(Some("a"), limits(1, 1)), [""; 0]);
    assert_eq!(bench.force("4", "a"), "rejected");
    assert_eq!(bench.waiting(), ["1", "2", "3"]);
}

// === Admission ===

#[test]
fn the_action_that_queued_last_is_admitted_first() {
    let mut bench = Bench::new(limit_and_queue(1, queue(0)), []);
    bench.fill("x", ["x0", "x1"]);
    bench.fill("z", ["z1"]);
    bench.fill("y", ["y1"]);
    bench.fill("x", ["x2"]);
    let mut order = bench.release_and_admit("x0");
    for _ in 0..3 {
        let last = order.last().cloned().unwrap();
        order.extend(bench.release_and_admit(&last));
    }
    assert_eq!(order, ["x1", "x2", "y1", "z1"]);
}

#[test]
fn recency_is_not_lost_when_the_newest_start_leaves() {
    let mut bench = Bench::new(limit_and_queue(1, queue(0)), []);
    bench.fill("a", ["0", "a1"]);
    bench.fill("b", ["b1"]);
    bench.fill("a", ["a2"]);
    assert!(bench.pool.remove("a2").is_some());
    assert_eq!(bench.release_and_admit("0"), ["a1"]);
}

#[test]
fn as_many_are_admitted_as_there_is_room_for() {
    let mut bench = Bench::of(limit_and_queue(3, queue(0)));
    bench.fill("a", ["1", "2", "3", "4", "5", "6"]);
    assert!(bench.pool.release("1") && bench.pool.release("3"));
    assert_eq!(bench.admit(), ["4", "5"]);
    assert_eq!(bench.admit(), [""; 0]);
}

#[test]
fn an_action_at_its_limit_does_not_block_others() {
    let mut bench = Bench::new(
        limit_and_queue(2, queue(0)),
        [("a", limit(1)), ("b", limit(0))],
    );
    bench.fill("a", ["a0"]);
    bench.fill("b", ["b0", "b1"]);
    bench.fill("a", ["a1"]);
    assert_eq!(bench.release_and_admit("b0"), ["b1"]);
}

#[test]
fn another_actions_exit_does_not_overrun_an_actions_limit() {
    let mut bench = Bench::new(
        PoolConfig::default(),
        [("a", limit_and_queue(1, queue(0))), ("b", limit(0))],
    );
    bench.fill("a", ["a0", "a1"]);
    bench.fill("b", ["b0"]);
    assert_eq!(bench.release_and_admit("b0"), [""; 0]);
    assert_eq!(bench.running(Some("a")), 1);
}

#[test]
fn releasing_what_holds_no_slot_changes_nothing() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["1", "2"]);
    assert!(!bench.pool.release("unknown"));
    assert!(!bench.pool.release("2"));
    assert_eq!(bench.admit(), [""; 0]);
    assert!(bench.pool.release("1"));
    assert!(!bench.pool.release("1"));
    assert_eq!(bench.admit(), ["2"]);
}

// === Restarts ===

#[test]
fn a_held_slot_ignores_limits_and_is_counted() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["1", "2"]);
    assert!(bench.pool.hold("restarted", "a"));
    assert_eq!(bench.running(Some("a")), 2);
    assert_eq!(bench.release_and_admit("1"), [""; 0]);
    assert_eq!(bench.release_and_admit("restarted"), ["2"]);
}

#[test]
fn a_task_holds_one_slot_however_often_it_asks() {
    let mut bench = Bench::of(limit_and_queue(2, queue(0)));
    bench.fill("a", ["1", "2", "3"]);
    assert!(!bench.pool.hold("1", "a"));
    assert!(!bench.pool.hold("3", "a"));
    bench.check();
    assert_eq!((bench.running(None), bench.waiting()), (2, vec!["3"]));
}

#[test]
fn either_pool_can_ask_to_hold_on_restart() {
    let holding = PoolConfig {
        hold_on_restart: true,
        ..PoolConfig::default()
    };
    let bench = Bench::new(
        PoolConfig::default(),
        [("a", holding.clone()), ("b", limit(0))],
    );
    assert!(bench.pool.holds_on_restart("a"));
    assert!(!bench.pool.holds_on_restart("b"));
    assert!(!bench.pool.holds_on_restart("unknown"));
    assert!(
        Bench::new(holding, [("b", limit(0))])
            .pool
            .holds_on_restart("b")
    );
}

// === Leaving a queue ===

#[test]
fn a_removed_start_is_gone_once() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["1", "2", "3"]);
    assert!(bench.pool.contains_waiting("2") && !bench.pool.contains_waiting("1"));
    assert_eq!(
        bench
            .pool
            .remove("2")
            .map(|waiting| waiting.task_id)
            .as_deref(),
        Some("2")
    );
    assert_eq!(bench.pool.remove("2"), None);
    assert_eq!(bench.pool.remove("1"), None);
    assert!(!bench.pool.contains_waiting("2"));
    assert_eq!(bench.release_and_admit("1"), ["3"]);
}

#[test]
fn purge_empties_one_queue_or_all() {
    let mut bench = Bench::new(limit_and_queue(1, queue(0)), []);
    bench.fill("b", ["0", "b1", "b2"]);
    bench.fill("a", ["a1"]);
    bench.fill("c", ["c1"]);
    assert_eq!(ids(&bench.pool.purge(Some("b"))), ["b1", "b2"]);
    assert_eq!(ids(&bench.pool.purge(Some("b"))), [""; 0]);
    assert_eq!(ids(&bench.pool.purge(None)), ["a1", "c1"]);
    assert_eq!(bench.release_and_admit("0"), [""; 0]);
}

#[test]
fn drain_empties_the_queues_and_keeps_the_holders() {
    let mut bench = Bench::new(limit_and_queue(1, queue(0)), []);
    bench.fill("b", ["0", "b1"]);
    bench.fill("a", ["a1", "a2"]);
    assert_eq!(ids(&bench.pool.drain()), ["a1", "a2", "b1"]);
    assert_eq!((bench.running(None), bench.waiting().len()), (1, 0));
}

// === Age ===

fn aging(max_age: i64, size: i64) -> Bench {
    let mut bench = Bench::of(limit_and_queue(
        1,
        QueueConfig {
            max_age,
            ..queue(size)
        },
    ));
    bench.fill("a", ["0"]);
    bench
}

#[test]
fn a_start_expires_after_its_max_age_not_at_it() {
    let mut bench = aging(2, 0);
    bench.fill("a", ["1"]);
    bench.pass(1);
    bench.fill("a", ["2"]);
    bench.pass(1);
    assert_eq!(ids(&bench.pool.expire(bench.now)), [""; 0]);
    bench.pass(1);
    assert_eq!(ids(&bench.pool.expire(bench.now)), ["1"]);
    bench.pass(1);
    assert_eq!(ids(&bench.pool.expire(bench.now)), ["2"]);
}

#[test]
fn a_max_age_of_zero_or_less_never_expires() {
    for max_age in [0, -1] {
        let mut bench = aging(max_age, 0);
        bench.fill("a", ["1"]);
        bench.pass(1_000_000);
        assert_eq!(ids(&bench.pool.expire(bench.now)), [""; 0]);
        assert_eq!(bench.release_and_admit("0"), ["1"]);
    }
}

#[test]
fn admission_drops_stale_starts_and_goes_on_to_the_next() {
    let mut bench = aging(5, 0);
    bench.fill("a", ["1", "2"]);
    bench.pass(6);
    bench.fill("a", ["3"]);
    assert!(bench.pool.release("0"));
    let admitted = bench.pool.admit(bench.now);
    assert_eq!(ids(&admitted.expired), ["1", "2"]);
    assert_eq!(admitted.run[0].task_id, "3");
}

#[test]
fn a_stale_start_keeps_its_place_until_it_is_swept() {
    let queue = QueueConfig {
        max_age: 5,
        displace: "prohibit".to_owned(),
        ..queue(1)
    };
    let mut bench = Bench::of(limit_and_queue(1, queue));
    bench.fill("a", ["0", "1"]);
    bench.pass(6);
    assert_eq!(bench.start("2", "a"), "rejected");
    assert_eq!(ids(&bench.pool.expire(bench.now)), ["1"]);
    assert_eq!(bench.start("2", "a"), "queued 1");
}

#[test]
fn the_sweep_comes_every_half_of_the_smallest_max_age() {
    let aged = |max_age| {
        limit_and_queue(
            1,
            QueueConfig {
                max_age,
                ..queue(0)
            },
        )
    };
    let sweep = |global, a, b| {
        Bench::new(aged(global), [("a", aged(a)), ("b", aged(b))])
            .pool
            .next_sweep()
    };
    assert_eq!(sweep(0, 0, 0), Duration::from_secs(5));
    assert_eq!(sweep(-7, 0, 0), Duration::from_secs(5));
    assert_eq!(sweep(60, 0, 20), Duration::from_secs(10));
    assert_eq!(sweep(1, 9, 0), Duration::from_millis(500));
}

// === Changes at run time ===

#[test]
fn a_raised_limit_admits() {
    let mut bench = Bench::of(limit_and_queue(1, queue(0)));
    bench.fill("a", ["1", "2", "3", "4"]);
    assert_eq!(bench.pool.set(Some("a"), limits(3, 0)), [""; 0]);
    assert_eq!(bench.admit(), ["2", "3"]);
}

#[test]
fn a_lowered_limit_evicts_the_oldest_unless_the_order_is_last() {
    for (order, expected) in [
        ("", ["1", "2"]),
        ("first", ["1", "2"]),
        ("last", ["4", "3"]),
    ] {
        let mut bench = Bench::of(limit(4));
        bench.fill("a", ["1", "2", "3", "4"]);
        let excess = Some(ExcessConfig {
            order: order.to_owned(),
            action: "requeue".to_owned(),
            grace: 3,
        });
        assert_eq!(
            bench.pool.set(
                Some("a"),
                Limits {
                    excess,
                    ..limits(2, 0)
                }
            ),
            expected
        );
    }
}

#[test]
fn excess_is_kept_when_a_change_does_not_name_it() {
    let excess = ExcessConfig {
        order: "last".to_owned(),
        ..ExcessConfig::default()
    };
    let mut bench = Bench::of(PoolConfig { excess, ..limit(3) });
    bench.fill("a", ["1", "2", "3"]);
    assert_eq!(bench.pool.set(Some("a"), limits(2, 0)), ["3"]);
    let excess = Some(ExcessConfig::default());
    assert_eq!(
        bench.pool.set(
            Some("a"),
            Limits {
                excess,
                ..limits(1, 0)
            }
        ),
        ["1"]
    );
}

#[test]
fn a_lowered_limit_evicts_only_in_its_own_scope() {
    let mut bench = Bench::new(PoolConfig::default(), [("a", limit(0)), ("b", limit(0))]);
    bench.fill("a", ["a1"]);
    bench.fill("b", ["b1", "b2"]);
    bench.fill("a", ["a2", "a3"]);
    assert_eq!(bench.pool.set(Some("b"), limits(1, 0)), ["b1"]);
    assert_eq!(bench.pool.set(None, limits(2, 0)), ["a1", "b2"]);
    assert_eq!(
        (
            bench.running(None),
            bench.running(Some("a")),
            bench.running(Some("b"))
        ),
        (2, 2, 0)
    );
}

#[test]
fn an_unlimited_limit_evicts_nobody() {
    for none in [0, -3] {
        let mut bench = Bench::of(limit(2));
        bench.fill("a", ["1", "2"]);
        assert_eq!(bench.pool.set(Some("a"), limits(none, 0)), [""; 0]);
        assert_eq!(bench.pool.set(None, limits(none, 0)), [""; 0]);
    }
}

#[test]
fn an_evicted_task_is_not_counted_but_keeps_its_slot_until_released() {
    let mut bench = Bench::of(limit_and_queue(3, queue(0)));
    bench.fill("a", ["1", "2", "3", "4"]);
    assert_eq!(bench.pool.set(Some("a"), limits(2, 0)), ["1"]);
    assert_eq!((bench.running(Some("a")), bench.running(None)), (2, 2));
    assert_eq!(bench.admit(), [""; 0]);
    assert_eq!(bench.release_and_admit("1"), [""; 0]);
    assert_eq!((bench.running(Some("a")), bench.running(None)), (2, 2));
    assert_eq!(bench.release_and_admit("2"), ["4"]);
}

#[test]
fn nobody_is_evicted_twice() {
    let mut bench = Bench::of(limit(3));
    bench.fill("a", ["1", "2", "3"]);
    assert_eq!(bench.pool.set(Some("a"), limits(2, 0)), ["1"]);
    assert_eq!(bench.pool.set(Some("a"), limits(2, 0)), [""; 0]);
    assert_eq!(bench.pool.set(None, limits(1, 0)), ["2"]);
    assert_eq!(bench.pool.set(Some("a"), limits(1, 0)), [""; 0]);
}

#[test]
fn a_restarted_task_counts_as_young() {
    let mut bench = Bench::of(limit(3));
    bench.fill("a", ["1", "2"]);
    assert!(bench.pool.release("1") && bench.pool.hold("1", "a"));
    assert_eq!(bench.pool.set(Some("a"), limits(1, 0)), ["2"]);
}

#[test]
fn changing_an_action_on_the_global_queue_keeps_queueing() {
    let shared = QueueConfig {
        max_age: 7,
        order: "last".to_owned(),
        displace: "prohibit".to_owned(),
        ..queue(5)
    };
    let mut bench = Bench::new(
        limit_and_queue(0, shared.clone()),
        [("a", limit(1)), ("b", limit(1))],
    );
    assert_eq!(bench.pool.set(Some("a"), limits(2, 1)), [""; 0]);
    let changed = limit_and_queue(2, QueueConfig { size: 1, ..shared });
    assert_eq!(bench.pool.config("a"), changed);
    assert_eq!(
        bench.pool.config("b"),
        limit(1),
        "another action's settings changed too"
    );
    bench.fill("a", ["1", "2", "3"]);
    assert_eq!(bench.start("4", "a"), "rejected");
    bench.fill("b", ["b0", "b1", "b2"]);
}

#[test]
fn a_global_change_reaches_the_actions_on_the_global_queue_and_no_others() {
    let mut bench = Bench::new(
        limit_and_queue(2, queue(9)),
        [("a", limit(0)), ("own", limit_and_queue(0, queue(7)))],
    );
    assert_eq!(bench.pool.set(None, limits(2, 1)), [""; 0]);
    assert_eq!(bench.pool.config("own"), limit_and_queue(0, queue(7)));
    bench.fill("a", ["1", "2", "3"]);
    assert_eq!(bench.start("4", "a"), "queued 1, 3 displaced");
    bench.fill("own", ["5", "6"]);
    assert_eq!(bench.waiting(), ["4", "5", "6"]);
}

#[test]
fn a_change_cannot_enable_a_queue() {
    let mut bench = Bench::of(limit(1));
    for scope in [None, Some("a")] {
        assert_eq!(bench.pool.set(scope, limits(1, 10)), [""; 0]);
    }
    bench.fill("a", ["1"]);
    assert_eq!(bench.start("2", "a"), "rejected");
}

#[test]
fn the_settings_shown_are_the_settings_in_force() {
    let mut bench = Bench::of(PoolConfig {
        hold_on_restart: true,
        ..limit_and_queue(4, queue(5))
    });
    let excess = ExcessConfig {
        action: "stop".to_owned(),
        order: "last".to_owned(),
        grace: 2,
    };
    assert_eq!(
        bench.pool.set(
            Some("a"),
            Limits {
                limit: 2,
                queue_size: 3,
                excess: Some(excess.clone())
            }
        ),
        [""; 0]
    );
    let expected = PoolConfig {
        limit: 2,
        queue: Some(queue(3)),
        excess,
        hold_on_restart: true,
    };
    assert_eq!(bench.pool.config("a"), expected);
    assert_eq!(bench.pool.info(Some("a")).limit, 2);
    assert_eq!(bench.pool.config("unknown"), PoolConfig::default());
}

#[test]
fn a_reload_keeps_holders_and_queues_and_evicts_nobody() {
    let mut bench = Bench::new(
        limit_and_queue(2, queue(0)),
        [("a", limit(0)), ("b", limit(0))],
    );
    bench.fill("a", ["1", "2", "3"]);
    bench.fill("b", ["4", "5"]);
    let gone = bench
        .pool
        .reconfigure(limit(1), BTreeMap::from([("a".to_owned(), limit(0))]));
    bench.check();
    assert_eq!(ids(&gone), ["4", "5"]);
    assert_eq!((bench.running(None), bench.waiting()), (2, vec!["3"]));
    assert_eq!(bench.start("6", "a"), "rejected");
    assert_eq!(bench.release_and_admit("1"), [""; 0]);
    assert_eq!(bench.release_and_admit("2"), ["3"]);
}

#[test]
fn a_reload_undoes_what_was_set() {
    let mut bench = Bench::of(limit(4));
    assert_eq!(bench.pool.set(Some("a"), limits(2, 3)), [""; 0]);
    assert_eq!(bench.pool.set(Some("made-up"), limits(2, 3)), [""; 0]);
    assert_eq!(bench.pool.info(Some("made-up")).limit, 2);
    let _ = bench
        .pool
        .reconfigure(limit(9), BTreeMap::from([("a".to_owned(), limit(4))]));
    assert_eq!(bench.pool.config("a"), limit(4));
    assert_eq!(bench.pool.info(Some("made-up")).limit, 9);
}

// === Info ===

#[test]
fn info_shows_an_actions_limit_or_the_global_one_for_an_unknown_action() {
    let bench = Bench::new(limit(9), [("a", limit(3)), ("bare", PoolConfig::default())]);
    let shown =
        [None, Some("a"), Some("bare"), Some("unknown")].map(|scope| bench.pool.info(scope).limit);
    assert_eq!(shown, [9, 3, 0, 9]);
}

#[test]
fn info_lists_waiting_starts_oldest_first_with_places_from_zero() {
    let mut bench = Bench::new(
        limit_and_queue(
            1,
            QueueConfig {
                order: "last".to_owned(),
                ..queue(0)
            },
        ),
        [],
    );
    bench.fill("b", ["0", "b1"]);
    bench.fill("a", ["a1"]);
    assert_eq!(bench.force("b2", "b"), "queued 2");
    let row = |item: &QueueItemInfo| {
        format!(
            "{} {} {} {}",
            item.task_id, item.action, item.position, item.forced
        )
    };
    let info = bench.pool.info(None);
    let rows: Vec<_> = info.queue_items.iter().map(row).collect();
    assert_eq!(rows, ["a1 a 0 false", "b1 b 0 false", "b2 b 1 true"]);
    assert_eq!((info.limit, info.running, info.queue_depth), (1, 1, 3));
    let info = bench.pool.info(Some("b"));
    assert_eq!(
        info.queue_items.iter().map(row).collect::<Vec<_>>(),
        ["b1 b 0 false", "b2 b 1 true"]
    );
    assert_eq!((info.limit, info.running, info.queue_depth), (1, 1, 2));
}
