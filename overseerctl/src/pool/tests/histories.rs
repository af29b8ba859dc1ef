//! Random histories of a pool, step by step beside a model that states the rules with two plain lists.

use proptest::prelude::*;

use super::*;

const ACTIONS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    Request {
        task: u8,
        action: usize,
        forced: bool,
    },
    Release(u8),
    Admit,
    Hold {
        task: u8,
        action: usize,
    },
    Remove(u8),
    Purge(Option<usize>),
    Expire,
    Set {
        scope: Option<usize>,
        limit: i64,
        size: i64,
        order: Option<&'static str>,
    },
    Reconfigure {
        global: PoolConfig,
        actions: Vec<Option<PoolConfig>>,
    },
    Drain,
    Pass(u64),
}

fn any_queue() -> impl Strategy<Value = QueueConfig> {
    let order = prop::sample::select(vec!["", "first", "last"]);
    let displace = prop::sample::select(vec!["", "true", "false", "prohibit"]);
    (
        prop::bool::weighted(0.85),
        -1..4_i64,
        order,
        -1..4_i64,
        displace,
    )
        .prop_map(|(enabled, size, order, max_age, displace)| {
            let (order, displace) = (order.to_owned(), displace.to_owned());
            QueueConfig {
                enabled,
                size,
                order,
                max_age,
                displace,
            }
        })
}

fn any_pool() -> impl Strategy<Value = PoolConfig> {
    (
        -1..4_i64,
        prop::option::of(any_queue()),
        prop::sample::select(vec!["", "last"]),
    )
        .prop_map(|(limit, queue, order)| {
            let excess = ExcessConfig {
                order: order.to_owned(),
                ..ExcessConfig::default()
            };
            PoolConfig {
                limit,
                queue,
                excess,
                hold_on_restart: false,
            }
        })
}

fn any_op() -> impl Strategy<Value = Op> {
    let task = 0..24_u8;
    let action = 0..ACTIONS.len();
    let scope = prop::option::of(action.clone());
    let order = prop::option::of(prop::sample::select(vec!["first", "last"]));
    let known = prop::collection::vec(prop::option::weighted(0.7, any_pool()), ACTIONS.len());
    prop_oneof![
        30 => (task.clone(), action.clone(), any::<bool>())
            .prop_map(|(task, action, forced)| Op::Request { task, action, forced }),
        15 => task.clone().prop_map(Op::Release),
        10 => Just(Op::Admit),
        4 => (task.clone(), action).prop_map(|(task, action)| Op::Hold { task, action }),
        4 => task.prop_map(Op::Remove),
        1 => scope.clone().prop_map(Op::Purge),
        3 => Just(Op::Expire),
        4 => (scope, -1..5_i64, -1..4_i64, order)
            .prop_map(|(scope, limit, size, order)| Op::Set { scope, limit, size, order }),
        1 => (any_pool(), known).prop_map(|(global, actions)| Op::Reconfigure { global, actions }),
        1 => Just(Op::Drain),
        8 => (1..3_u64).prop_map(Op::Pass),
    ]
}

/// What a model's start or task is; where it is says the list that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    task: u8,
    action: &'static str,
    forced: bool,
    since: u64,
    evicted: bool,
}

/// The rules once more, with two lists in order of arrival and nothing else.
struct Model {
    global: PoolConfig,
    actions: BTreeMap<String, PoolConfig>,
    holders: Vec<Entry>,
    waiting: Vec<Entry>,
    /// Actions, the one that queued last first.
    recent: Vec<&'static str>,
    clock: u64,
}

impl Model {
    fn queue(&self, action: &str) -> QueueConfig {
        let own = self.actions.get(action).and_then(|pool| pool.queue.clone());
        own.or(self.global.queue.clone()).unwrap_or_default()
    }

    fn taken(&self, action: Option<&str>) -> usize {
        self.holders
            .iter()
            .filter(|entry| action.is_none_or(|action| entry.action == action))
            .count()
    }

    fn within(&self, action: Option<&str>, taken: usize) -> bool {
        let limit = action.map_or(self.global.limit, |action| {
            self.actions.get(action).map_or(0, |pool| pool.limit)
        });
        limit <= 0 || i64::try_from(taken).unwrap() <= limit
    }

    fn has_room(&self, action: &str) -> bool {
        self.within(None, self.taken(None) + 1)
            && self.within(Some(action), self.taken(Some(action)) + 1)
    }

    fn stale(&self, entry: &Entry) -> bool {
        let age = i64::try_from(self.clock - entry.since).unwrap();
        let max_age = self.queue(entry.action).max_age;
        max_age > 0 && age > max_age
    }

    fn find(list: &mut Vec<Entry>, fits: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let at = list.iter().position(fits)?;
        Some(list.remove(at))
    }

    fn knows(&self, task: u8) -> bool {
        self.holders
            .iter()
            .chain(&self.waiting)
            .any(|entry| entry.task == task)
    }

    fn request(&mut self, entry: Entry) -> String {
        if self.knows(entry.task) {
            return "rejected".to_owned();
        }
        if self.has_room(entry.action) {
            self.holders.push(entry);
            return "run".to_owned();
        }
        let queue = self.queue(entry.action);
        let own: Vec<Entry> = self
            .waiting
            .iter()
            .filter(|other| other.action == entry.action)
            .cloned()
            .collect();
        if !queue.enabled {
            return "rejected".to_owned();
        }
        let mut gone = String::new();
        if queue.size > 0 && own.len() >= usize::try_from(queue.size).unwrap() {
            let surplus = i64::try_from(own.len()).unwrap() + 1 - queue.size;
            let allowed = match queue.displace.as_str() {
                "prohibit" => false,
                "false" => entry.forced,
                _ => true,
            };
            let victim = own.iter().find(|other| !other.forced);
            match (surplus, victim) {
                (1, Some(victim)) if allowed => {
                    gone = format!(", t{} displaced", victim.task);
                    self.waiting.retain(|other| other != victim);
                }
                _ => return "rejected".to_owned(),
            }
        }
        let action = entry.action;
        self.recent.retain(|recent| *recent != action);
        self.recent.insert(0, action);
        self.waiting.push(entry);
        let depth = self
            .waiting
            .iter()
            .filter(|other| other.action == action)
            .count();
        format!("queued {depth}{gone}")
    }

    /// Tasks that run now, and those that expired.
    fn admit(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut run, mut expired) = (Vec::new(), Vec::new());
        for action in self.recent.clone() {
            while self.has_room(action) {
                let mut own =
                    (0..self.waiting.len()).filter(|&at| self.waiting[at].action == action);
                let last = self.queue(action).order == "last";
                let Some(at) = (if last { own.next_back() } else { own.next() }) else {
                    break;
                };
                let entry = self.waiting.remove(at);
                if self.stale(&entry) {
                    expired.push(id(entry.task));
                } else {
                    run.push(id(entry.task));
                    self.holders.push(entry);
                }
            }
        }
        (run, expired)
    }

    fn take(&mut self, fits: impl Fn(&Self, &Entry) -> bool) -> Vec<String> {
        let (mut out, kept): (Vec<Entry>, Vec<Entry>) = self
            .waiting
            .clone()
            .into_iter()
            .partition(|entry| fits(self, entry));
        self.waiting = kept;
        out.sort_by_key(|entry| entry.action);
        out.iter().map(|entry| id(entry.task)).collect()
    }

    fn set(
        &mut self,
        scope: Option<&'static str>,
        limit: i64,
        size: i64,
        order: Option<&str>,
    ) -> Vec<String> {
        let queue = scope.map_or_else(
            || self.global.queue.clone().unwrap_or_default(),
            |action| self.queue(action),
        );
        let pool = match scope {
            None => &mut self.global,
            Some(action) => self.actions.entry(action.to_owned()).or_default(),
        };
        pool.limit = limit;
        pool.queue = Some(QueueConfig { size, ..queue });
        if let Some(order) = order {
            pool.excess.order = order.to_owned();
        }
        let last = pool.excess.order == "last";
        let counted =
            |entry: &Entry| !entry.evicted && scope.is_none_or(|action| entry.action == action);
        let mut evicted = Vec::new();
        while !self.within(
            scope,
            self.holders.iter().filter(|entry| counted(entry)).count(),
        ) {
            let mut candidates = self.holders.iter_mut().filter(|entry| counted(entry));
            let entry = if last {
                candidates.next_back()
            } else {
                candidates.next()
            }
            .unwrap();
            entry.evicted = true;
            evicted.push(id(entry.task));
        }
        evicted
    }
}

fn id(task: u8) -> String {
    format!("t{task}")
}

fn owned(waiting: &[Waiting<u64>]) -> Vec<String> {
    ids(waiting).into_iter().map(ToOwned::to_owned).collect()
}

/// The pool and its model side by side, and the books on every start that was accepted.
struct History {
    pool: Pool<u64>,
    model: Model,
    epoch: Instant,
    /// Payload of the next request: every request has its own.
    requests: u64,
    /// Accepted starts whose end is not known yet.
    open: BTreeMap<u64, String>,
}

impl History {
    fn new(global: &PoolConfig, actions: &BTreeMap<String, PoolConfig>) -> Self {
        let model = Model {
            global: global.clone(),
            actions: actions.clone(),
            holders: Vec::new(),
            waiting: Vec::new(),
            recent: Vec::new(),
            clock: 0,
        };
        let pool = Pool::new(global.clone(), actions.clone());
        Self {
            pool,
            model,
            epoch: Instant::now(),
            requests: 0,
            open: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.epoch + Duration::from_secs(self.model.clock)
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Request {
                task,
                action,
                forced,
            } => self.request(task, ACTIONS[action], forced),
            Op::Admit => self.admit(),
            Op::Release(task) => {
                let expected =
                    Model::find(&mut self.model.holders, |entry| entry.task == task).is_some();
                assert_eq!(self.pool.release(&id(task)), expected);
            }
            Op::Hold { task, action } => self.hold(task, ACTIONS[action]),
            Op::Remove(task) => {
                let expected = self.model.take(|_, entry| entry.task == task);
                let removed: Vec<_> = self.pool.remove(&id(task)).into_iter().collect();
                self.ended(&removed, &expected);
            }
            Op::Purge(action) => {
                let action = action.map(|action| ACTIONS[action]);
                let expected = self
                    .model
                    .take(|_, entry| action.is_none_or(|action| entry.action == action));
                let purged = self.pool.purge(action);
                self.ended(&purged, &expected);
            }
            Op::Expire => {
                let expected = self.model.take(Model::stale);
                let expired = self.pool.expire(self.now());
                self.ended(&expired, &expected);
            }
            Op::Set {
                scope,
                limit,
                size,
                order,
            } => self.set(scope.map(|action| ACTIONS[action]), limit, size, order),
            Op::Reconfigure { global, actions } => self.reconfigure(global, actions),
            Op::Drain => self.drain(),
            Op::Pass(seconds) => self.model.clock += seconds,
        }
        self.check();
    }

    fn request(&mut self, task: u8, action: &'static str, forced: bool) {
        let entry = Entry {
            task,
            action,
            forced,
            since: self.model.clock,
            evicted: false,
        };
        let expected = self.model.request(entry);
        self.requests += 1;
        let start = Start {
            task_id: id(task),
            action: action.to_owned(),
            forced,
            payload: self.requests,
        };
        let admission = self.pool.request(start, self.now(), Timestamp::now());
        assert_eq!(words(&admission), expected);
        match admission {
            Admission::Run(start) => self.within_limits(&start.action),
            Admission::Rejected(start) => assert_eq!(start.payload, self.requests),
            Admission::Queued { displaced, .. } => {
                if let Some(gone) = displaced {
                    let task_id = gone.task_id.clone();
                    self.ended(&[gone], &[task_id]);
                }
                let queue = self.model.queue(action);
                let depth = i64::try_from(self.pool.info(Some(action)).queue_depth).unwrap();
                assert!(
                    queue.size <= 0 || depth <= queue.size,
                    "{depth} wait where {} may",
                    queue.size
                );
                self.open.insert(self.requests, id(task));
            }
        }
    }

    fn admit(&mut self) {
        let (run, expired) = self.model.admit();
        let admitted = self.pool.admit(self.now());
        self.ended(&admitted.expired, &expired);
        assert_eq!(
            admitted
                .run
                .iter()
                .map(|start| start.task_id.clone())
                .collect::<Vec<_>>(),
            run
        );
        for start in &admitted.run {
            assert_eq!(
                self.open.remove(&start.payload).as_ref(),
                Some(&start.task_id)
            );
            self.within_limits(&start.action);
        }
        self.in_order(&admitted.run);
        let again = self.pool.admit(self.now());
        assert!(
            again.run.is_empty() && again.expired.is_empty(),
            "the first admit left {again:?}"
        );
    }

    /// Payloads grow with time, so they tell the order of arrival.
    fn in_order(&self, run: &[Start<u64>]) {
        for action in ACTIONS {
            let mut arrivals: Vec<u64> = run
                .iter()
                .filter(|start| start.action == action)
                .map(|start| start.payload)
                .collect();
            if self.model.queue(action).order == "last" {
                arrivals.reverse();
            }
            assert!(
                arrivals.is_sorted(),
                "{action} was admitted as {arrivals:?}"
            );
        }
    }

    /// Every slot that was given, not held, leaves both limits kept.
    fn within_limits(&self, action: &str) {
        for scope in [None, Some(action)] {
            let taken = self.pool.slots.taken(scope);
            assert!(
                self.model.within(scope, taken),
                "{taken} slots of {scope:?} are taken"
            );
        }
    }

    fn hold(&mut self, task: u8, action: &'static str) {
        let expected = !self.model.knows(task);
        if expected {
            let entry = Entry {
                task,
                action,
                forced: false,
                since: self.model.clock,
                evicted: false,
            };
            self.model.holders.push(entry);
        }
        assert_eq!(self.pool.hold(&id(task), action), expected);
    }

    fn set(&mut self, scope: Option<&'static str>, limit: i64, size: i64, order: Option<&str>) {
        let expected = self.model.set(scope, limit, size, order);
        let before = scope
            .and_then(|action| self.model.actions.get(action))
            .unwrap_or(&self.model.global);
        let excess = order.map(|_| before.excess.clone());
        assert_eq!(
            self.pool.set(
                scope,
                Limits {
                    limit,
                    queue_size: size,
                    excess
                }
            ),
            expected
        );
        let info = self.pool.info(scope);
        assert!(
            limit <= 0 || i64::try_from(info.running).unwrap() <= limit,
            "{} run after {limit}",
            info.running
        );
        assert_eq!(info.limit, limit);
    }

    fn reconfigure(&mut self, global: PoolConfig, actions: Vec<Option<PoolConfig>>) {
        let named = ACTIONS
            .into_iter()
            .zip(actions)
            .filter_map(|(name, pool)| Some((name.to_owned(), pool?)));
        self.model.actions = named.collect();
        self.model.global = global;
        let expected = self
            .model
            .take(|model, entry| !model.actions.contains_key(entry.action));
        let gone = self
            .pool
            .reconfigure(self.model.global.clone(), self.model.actions.clone());
        self.ended(&gone, &expected);
    }

    fn drain(&mut self) {
        let expected = self.model.take(|_, _| true);
        let drained = self.pool.drain();
        self.ended(&drained, &expected);
    }

    /// Books starts that left a queue without being run.
    fn ended(&mut self, gone: &[Waiting<u64>], expected: &[String]) {
        assert_eq!(owned(gone), expected);
        for waiting in gone {
            assert_eq!(
                self.open.remove(&waiting.payload).as_ref(),
                Some(&waiting.task_id)
            );
        }
    }

    fn check(&self) {
        self.pool.slots.check();
        self.pool.queues.check();
        assert_eq!(self.pool.waiting().count(), self.open.len());
        for task in 0..24 {
            let (holds, waits) = (
                self.pool.slots.contains(&id(task)),
                self.pool.contains_waiting(&id(task)),
            );
            assert!(!(holds && waits), "t{task} is in two places");
        }
        for scope in [None, Some("a"), Some("b"), Some("c")] {
            let fits = |entry: &&Entry| scope.is_none_or(|action| entry.action == action);
            let running = self
                .model
                .holders
                .iter()
                .filter(fits)
                .filter(|entry| !entry.evicted)
                .count();
            let mut waiting: Vec<&Entry> = self.model.waiting.iter().filter(fits).collect();
            waiting.sort_by_key(|entry| entry.action);
            let info = self.pool.info(scope);
            let rows = info.queue_items.iter().map(|item| item.task_id.clone());
            assert_eq!((info.running, info.queue_depth), (running, waiting.len()));
            assert!(rows.eq(waiting.iter().map(|entry| id(entry.task))));
        }
        for action in ACTIONS {
            assert_eq!(
                self.pool.config(action),
                self.model.actions.get(action).cloned().unwrap_or_default()
            );
        }
    }

    /// Ends everything and finds nothing left.
    fn close(mut self) {
        self.drain();
        for task in 0..24 {
            self.perform(Op::Release(task));
        }
        assert!(self.open.is_empty(), "{:?} never ended", self.open);
        assert_eq!(
            (self.pool.info(None).running, self.pool.waiting().count()),
            (0, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_follows_the_rules_and_loses_nothing(
        global in any_pool(),
        actions in prop::collection::vec(prop::option::weighted(0.8, any_pool()), ACTIONS.len()),
        ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let named = ACTIONS.into_iter().zip(actions).filter_map(|(name, pool)| Some((name.to_owned(), pool?)));
        let mut history = History::new(&global, &named.collect());
        for op in ops {
            history.perform(op);
        }
        history.close();
    }
}
