//! Replicas of a service on one ledger and one engine, each killed at any point and started again: no run begins twice, and
//! every job comes to its end.

use std::sync::Mutex;

use async_trait::async_trait;
use buildctl::{
    ledger::{Claim, Created, LedgerError, Replaced, Versioned},
    logs::{Chunk, Position},
    phase::Observed,
    scheduler::{Attended, Scheduler, SchedulerError, Started},
};
use futures_util::stream::BoxStream;
use runyard_common::doctor::Finding;
use tokio::sync::Notify;

use super::*;

/// What befalls a replica: calls take their time, and at some of them it dies, before or after they are done.
#[derive(Clone)]
struct Fate(Arc<FateInner>);

struct FateInner {
    dice: Mutex<u64>,
    /// One of so many calls is the last.
    odds: u64,
    died: Notify,
}

impl Fate {
    fn new(seed: u64, odds: u64) -> Self {
        Self(Arc::new(FateInner {
            dice: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            odds,
            died: Notify::new(),
        }))
    }

    /// A number below `sides`.
    fn roll(&self, sides: u64) -> u64 {
        let mut dice = self.0.dice.lock().unwrap();
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice % sides
    }

    async fn strikes(&self) {
        for _ in 0..self.roll(4) {
            tokio::task::yield_now().await;
        }
        if self.roll(self.0.odds) == 0 {
            self.0.died.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

struct Mortal<T> {
    inner: T,
    fate: Fate,
}

impl<T> Mortal<T> {
    async fn call<O>(&self, call: impl Future<Output = O>) -> O {
        self.fate.strikes().await;
        let answer = call.await;
        self.fate.strikes().await;
        answer
    }
}

#[async_trait]
impl Ledger for Mortal<Arc<MemoryLedger>> {
    async fn create(&self, job: &Job) -> Result<Created, LedgerError> {
        self.call(self.inner.create(job)).await
    }
    async fn get(&self, id: JobId) -> Result<Option<Versioned>, LedgerError> {
        self.call(self.inner.get(id)).await
    }
    async fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError> {
        self.call(self.inner.replace(job, version)).await
    }
    async fn list(&self) -> Result<Vec<Versioned>, LedgerError> {
        self.call(self.inner.list()).await
    }
    async fn remove(&self, id: JobId) -> Result<(), LedgerError> {
        self.call(self.inner.remove(id)).await
    }
    async fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError> {
        self.call(self.inner.claim(key, id)).await
    }
    async fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError> {
        self.call(self.inner.release(key, id)).await
    }
    fn changes(&self) -> BoxStream<'static, JobId> {
        self.inner.changes()
    }
    async fn healthy(&self) -> Result<(), LedgerError> {
        self.inner.healthy().await
    }
}

#[async_trait]
impl Scheduler for Mortal<FakeScheduler> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    async fn attend(&self, id: JobId) -> Result<Attended, SchedulerError> {
        self.inner.attend(id).await
    }
    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError> {
        self.call(self.inner.start(job, run)).await
    }
    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError> {
        self.call(self.inner.observe(job)).await
    }
    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError> {
        self.call(self.inner.stop(job, run)).await
    }
    async fn read_log(
        &self,
        job: &Job,
        run: Run,
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError> {
        self.inner.read_log(job, run, from, limit, wait).await
    }
    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError> {
        self.inner.log_end(job, run).await
    }
    async fn collect(&self, job: &Job) -> Result<(), SchedulerError> {
        self.inner.collect(job).await
    }
    fn changes(&self) -> BoxStream<'static, JobId> {
        self.inner.changes()
    }
    async fn doctor(&self) -> Vec<Finding> {
        self.inner.doctor().await
    }
    async fn healthy(&self) -> Result<(), SchedulerError> {
        self.inner.healthy().await
    }
}

/// Drives a job by one replica after the other, each until it dies.
async fn replica(bench: &Bench, fate: &Fate, id: JobId) {
    loop {
        let ledger = Mortal {
            inner: bench.ledger.clone(),
            fate: fate.clone(),
        };
        let engine = Mortal {
            inner: bench.engine.clone(),
            fate: fate.clone(),
        };
        let reconciler = Reconciler::new(
            Arc::new(ledger),
            Arc::new(engine),
            policy(),
            Webhooks::default(),
        );
        let reconciler = reconciler.with_clock(bench.clock.clone());
        tokio::select! {
            () = reconciler.drive(id) => return,
            () = fate.0.died.notified() => {}
        }
    }
}

/// How the runs of the job with this number go.
fn plays(number: u64, run: Run) -> Play {
    match (number % 4, run) {
        (1, Run::TestCommand(1)) => Play::fails(1, "exit code 1"),
        (2, Run::TestCommand(0)) => Play::endless(),
        (3, Run::Publish) => Play::fails(1, "the registry went away"),
        _ => Play::default(),
    }
}

#[tokio::test]
async fn replicas_that_die_anywhere_start_nothing_twice_and_bring_every_job_to_its_end() {
    for seed in 0..60 {
        let bench = Bench::new();
        bench.engine.script(move |_, run| plays(seed, run));
        let job = Job::new(JobId::random(), config("app"), bench.clock.now());
        let id = job.id;
        bench.ledger.create(&job).await.unwrap();
        let fates = [Fate::new(seed * 2 + 1, 12), Fate::new(seed * 2 + 2, 12)];
        let kill = async {
            if seed % 4 == 2 || seed % 5 == 0 {
                for _ in 0..fates[0].roll(40) {
                    tokio::task::yield_now().await;
                }
                let bench = &bench;
                bench
                    .until(id, |job| {
                        seed % 4 != 2 || job.runs.contains_key(&Run::TestCommand(0))
                    })
                    .await;
                bench.service.kill(id, None).await.unwrap();
            }
        };
        let story = async {
            tokio::join!(
                replica(&bench, &fates[0], id),
                replica(&bench, &fates[1], id),
                kill
            )
        };
        let told = Box::pin(timeout(patience(), story)).await;
        let job = bench.record(id).await;
        assert!(told.is_ok(), "seed {seed} comes to no end: {job:#?}");
        check(&bench, seed, &job);
    }
}

fn check(bench: &Bench, seed: u64, job: &Job) {
    assert!(is_settled(job), "seed {seed}: {job:#?}");
    let starts = starts(&bench.engine, job.id);
    assert!(
        starts.values().all(|count| *count == 1),
        "seed {seed}: {starts:?}"
    );
    let killed = job.kill.is_some();
    let fails = matches!(seed % 4, 1 | 3);
    assert_eq!(
        job.state == State::Succeeded,
        !killed && !fails && seed % 4 != 2,
        "seed {seed}: {job:#?}"
    );
    if killed {
        assert_eq!(error(job), "Job killed by user");
    }
    assert!(
        !starts.contains_key("publish") || matches!(seed % 4, 0 | 3),
        "seed {seed}: {starts:?}"
    );
}
