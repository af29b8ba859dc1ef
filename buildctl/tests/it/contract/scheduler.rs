//! The contract of `buildctl::scheduler`. A backend makes a job from a [`Script`] and has a scheduler; everything else is here.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use buildctl::{
    api::JobConfig,
    clock::Clock,
    job::{Job, JobId},
    logs::{Line, Position, Stream},
    phase::{Ending, FailureKind, Observed, Outcome, Progress, Run},
    scheduler::{
        SharedScheduler, Started,
        fake::{FakeScheduler, Play},
    },
};
use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::testing::patience;
use tokio::time::timeout;

/// What a program does.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Says these lines to its standard output and ends with this code.
    Says(Vec<String>, i32),
    /// Says a line and goes on until it is stopped.
    Stays(String),
}

/// What a job does: in a `RUN` step of its build, and in each of its test commands.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) build: Behaviour,
    pub(crate) tests: Vec<Behaviour>,
}

impl Script {
    fn quiet(tests: Vec<Behaviour>) -> Self {
        Self {
            build: Behaviour::Says(Vec::new(), 0),
            tests,
        }
    }
}

/// Somewhere to try a scheduler.
#[async_trait]
pub(crate) trait Stage: Sync {
    /// The scheduler; always the same.
    fn scheduler(&self) -> SharedScheduler;

    /// A new job that does this.
    async fn job(&self, script: &Script) -> Job;

    /// Whether several attendants may decide on one job, so that a run must not begin once it was stopped.
    fn has_replicas(&self) -> bool {
        true
    }
}

/// The scheduler of tests.
pub(crate) struct Fake {
    scheduler: FakeScheduler,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            scheduler: FakeScheduler::new(Clock::System),
        }
    }
}

#[async_trait]
impl Stage for Fake {
    fn scheduler(&self) -> SharedScheduler {
        Arc::new(self.scheduler.clone())
    }

    async fn job(&self, script: &Script) -> Job {
        let script = script.clone();
        self.scheduler.script(move |_, run| match run {
            Run::Build => play(&script.build),
            Run::TestCommand(index) => play(&script.tests[usize::from(index)]),
            _ => Play::default(),
        });
        let config = JobConfig {
            image_name: "app".to_owned(),
            ..JobConfig::default()
        };
        Job::new(JobId::random(), config, Timestamp::now())
    }
}

fn play(behaviour: &Behaviour) -> Play {
    match behaviour {
        Behaviour::Says(lines, 0) => Play::default().saying(lines.clone()),
        Behaviour::Says(lines, code) => {
            Play::fails(*code, &format!("exit code {code}")).saying(lines.clone())
        }
        Behaviour::Stays(line) => Play::endless().saying([line.clone()]),
    }
}

/// Makes a test of each promise, on what `$maker` makes; nothing, if it makes nothing and has said why.
macro_rules! scheduler_contract {
    ($backend:ident, $maker:expr) => {
        crate::contract::scheduler::scheduler_contract!(@each $backend, $maker,
            a_job_of_which_nothing_was_started_has_no_runs
            a_build_says_what_it_built
            a_run_is_carried_out_once_however_often_it_is_started
            of_two_starts_at_once_one_is_the_first
            a_command_that_fails_says_its_exit_code
            tests_run_on_what_was_built_side_by_side
            a_stopped_run_is_cancelled_and_keeps_its_log
            a_run_that_was_stopped_before_its_start_never_begins
            stopping_an_ended_run_changes_nothing
            a_log_is_read_in_parts_and_its_last_one_says_so
            a_log_that_was_read_to_its_end_has_nothing_more
            who_waits_for_more_of_a_log_hears_of_the_end
            a_log_is_read_on_behind_any_of_its_lines
            a_run_that_was_not_started_has_an_empty_log
            what_is_collected_is_gone
            a_scheduler_in_order_is_healthy
        );
    };
    (@each $backend:ident, $maker:expr, $($claim:ident)*) => {
        mod $backend {
            mod scheduler {
                use super::super::*;
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $claim() {
                        if let Some(stage) = $maker.await {
                            crate::contract::scheduler::$claim(&stage).await;
                        }
                    }
                )*
            }
        }
    };
}
pub(crate) use scheduler_contract;

/// Waits, on the scheduler's own word, until a run is as wanted.
async fn until(
    scheduler: &SharedScheduler,
    job: &Job,
    run: Run,
    wanted: impl Fn(&Progress) -> bool,
) -> Observed {
    let mut changes = scheduler.changes();
    let seen = async {
        loop {
            let all = scheduler.observe(job).await.unwrap();
            if let Some(seen) = all
                .into_iter()
                .find(|seen| seen.run == run && wanted(&seen.progress))
            {
                return seen;
            }
            while changes.next().await != Some(job.id) {}
        }
    };
    let seen = timeout(patience(), seen).await;
    seen.unwrap_or_else(|_| panic!("{run} of {} does not become as wanted", job.id))
}

async fn end(scheduler: &SharedScheduler, job: &Job, run: Run) -> Ending {
    let seen = until(scheduler, job, run, |progress| {
        matches!(progress, Progress::Ended { .. })
    })
    .await;
    assert!(seen.ended_at.is_some(), "{seen:?}");
    match seen.progress {
        Progress::Ended { ending } => ending,
        other => panic!("{other:?} is no end"),
    }
}

async fn running(scheduler: &SharedScheduler, job: &Job, run: Run) {
    let seen = until(scheduler, job, run, |progress| {
        *progress == Progress::Running
    })
    .await;
    assert!(
        seen.started_at.is_some() && seen.ended_at.is_none(),
        "{seen:?}"
    );
}

/// A job whose image is built.
async fn built(stage: &impl Stage, script: Script) -> (SharedScheduler, Job) {
    let scheduler = stage.scheduler();
    let mut job = stage.job(&script).await;
    assert_eq!(
        scheduler.start(&job, Run::Build).await.unwrap(),
        Started::Now
    );
    match end(&scheduler, &job, Run::Build).await {
        Ending::Succeeded {
            outcome: Outcome::Built(built),
        } => job.built = Some(built),
        other => panic!("the build ended with {other:?}"),
    }
    (scheduler, job)
}

/// Reads a log from a place on, in parts; where it ends then, and whether it said that it is complete.
async fn read(
    scheduler: &SharedScheduler,
    job: &Job,
    run: Run,
    from: Position,
    limit: usize,
) -> (Vec<Vec<Line>>, Position, bool) {
    let (mut at, mut parts) = (from, Vec::new());
    loop {
        let chunk = scheduler
            .read_log(job, run, at, limit, Duration::ZERO)
            .await
            .unwrap();
        assert!(!chunk.lost);
        let stands = chunk.next == at;
        at = chunk.next;
        parts.push(chunk.lines);
        if chunk.complete || stands {
            return (parts, at, chunk.complete);
        }
    }
}

/// What programs said in these lines.
fn said(lines: impl IntoIterator<Item = Line>) -> Vec<String> {
    let programs = lines
        .into_iter()
        .filter(|line| line.stream != Stream::System);
    programs.map(|line| line.text).collect()
}

fn lines(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("line {index} of many"))
        .collect()
}

pub(crate) async fn a_job_of_which_nothing_was_started_has_no_runs(stage: &impl Stage) {
    let job = stage.job(&Script::quiet(vec![])).await;
    assert_eq!(stage.scheduler().observe(&job).await.unwrap(), []);
}

pub(crate) async fn a_build_says_what_it_built(stage: &impl Stage) {
    let (_, job) = built(stage, Script::quiet(vec![])).await;
    let built = job.built.unwrap();
    assert!(built.digest.as_str().starts_with("sha256:") && !built.image_id.is_empty());
}

pub(crate) async fn a_run_is_carried_out_once_however_often_it_is_started(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![])).await;
    let before = scheduler.observe(&job).await.unwrap();
    assert_eq!(
        scheduler.start(&job, Run::Build).await.unwrap(),
        Started::Already
    );
    assert_eq!(scheduler.observe(&job).await.unwrap(), before);
}

pub(crate) async fn of_two_starts_at_once_one_is_the_first(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(1), 0)])).await;
    let run = Run::TestCommand(0);
    let (a, b) = tokio::join!(scheduler.start(&job, run), scheduler.start(&job, run));
    let mut both = [a.unwrap(), b.unwrap()];
    both.sort_by_key(|started| *started == Started::Already);
    assert_eq!(both, [Started::Now, Started::Already]);
    end(&scheduler, &job, run).await;
    let (parts, ..) = read(&scheduler, &job, run, Position::default(), 1 << 20).await;
    assert_eq!(said(parts.concat()), lines(1), "it ran once");
}

pub(crate) async fn a_command_that_fails_says_its_exit_code(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(1), 3)])).await;
    scheduler.start(&job, Run::TestCommand(0)).await.unwrap();
    match end(&scheduler, &job, Run::TestCommand(0)).await {
        Ending::Failed(failure) => {
            assert_eq!(failure.kind, FailureKind::Exit { code: 3 });
            assert!(
                !failure.message.is_empty() && !failure.message.contains('\n'),
                "{failure:?}"
            );
        }
        other => panic!("the test ended with {other:?}"),
    }
}

pub(crate) async fn tests_run_on_what_was_built_side_by_side(stage: &impl Stage) {
    let tests = vec![
        Behaviour::Stays("up".to_owned()),
        Behaviour::Says(vec!["b".to_owned()], 0),
    ];
    let (scheduler, job) = built(stage, Script::quiet(tests)).await;
    scheduler.start(&job, Run::TestCommand(0)).await.unwrap();
    running(&scheduler, &job, Run::TestCommand(0)).await;
    scheduler.start(&job, Run::TestCommand(1)).await.unwrap();
    let second = end(&scheduler, &job, Run::TestCommand(1)).await;
    assert_eq!(
        second,
        Ending::Succeeded {
            outcome: Outcome::Tested
        }
    );
    scheduler.stop(&job, Run::TestCommand(0)).await.unwrap();
    assert_eq!(
        end(&scheduler, &job, Run::TestCommand(0)).await,
        Ending::Cancelled
    );
}

/// A job whose first test goes on, and has said so.
async fn staying(stage: &impl Stage) -> (SharedScheduler, Job) {
    let (scheduler, job) = built(
        stage,
        Script::quiet(vec![Behaviour::Stays("here".to_owned())]),
    )
    .await;
    scheduler.start(&job, Run::TestCommand(0)).await.unwrap();
    let heard = async {
        let mut at = Position::default();
        loop {
            let wait = Duration::from_secs(5);
            let chunk = scheduler
                .read_log(&job, Run::TestCommand(0), at, 1 << 20, wait)
                .await
                .unwrap();
            at = chunk.next;
            if said(chunk.lines).contains(&"here".to_owned()) {
                return;
            }
        }
    };
    timeout(patience(), heard)
        .await
        .expect("it says that it is there");
    (scheduler, job)
}

pub(crate) async fn a_stopped_run_is_cancelled_and_keeps_its_log(stage: &impl Stage) {
    let (scheduler, job) = staying(stage).await;
    let run = Run::TestCommand(0);
    scheduler.stop(&job, run).await.unwrap();
    assert_eq!(end(&scheduler, &job, run).await, Ending::Cancelled);
    let (parts, _, complete) = read(&scheduler, &job, run, Position::default(), 1 << 20).await;
    assert!(complete && said(parts.concat()).contains(&"here".to_owned()));
    assert_eq!(scheduler.start(&job, run).await.unwrap(), Started::Already);
    assert_eq!(end(&scheduler, &job, run).await, Ending::Cancelled);
}

pub(crate) async fn a_run_that_was_stopped_before_its_start_never_begins(stage: &impl Stage) {
    if !stage.has_replicas() {
        return;
    }
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(1), 0)])).await;
    scheduler.stop(&job, Run::TestCommand(0)).await.unwrap();
    assert_eq!(
        scheduler.start(&job, Run::TestCommand(0)).await.unwrap(),
        Started::Already
    );
    let seen = scheduler.observe(&job).await.unwrap();
    let test = seen.iter().find(|seen| seen.run == Run::TestCommand(0));
    let cancelled = Progress::Ended {
        ending: Ending::Cancelled,
    };
    assert!(
        test.is_none_or(|test| test.progress == cancelled && test.started_at.is_none()),
        "{test:?}"
    );
}

pub(crate) async fn stopping_an_ended_run_changes_nothing(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![])).await;
    let before = scheduler.observe(&job).await.unwrap();
    scheduler.stop(&job, Run::Build).await.unwrap();
    assert_eq!(scheduler.observe(&job).await.unwrap(), before);
}

pub(crate) async fn a_log_is_read_in_parts_and_its_last_one_says_so(stage: &impl Stage) {
    const LIMIT: usize = 2000;
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(500), 0)])).await;
    let run = Run::TestCommand(0);
    scheduler.start(&job, run).await.unwrap();
    end(&scheduler, &job, run).await;
    let (parts, _, complete) = read(&scheduler, &job, run, Position::default(), LIMIT).await;
    assert!(complete && parts.len() > 3);
    for part in &parts {
        let bytes: usize = part.iter().map(|line| line.text.len()).sum();
        assert!(bytes <= LIMIT + 100, "{bytes} bytes at once");
        assert!(part.iter().all(|line| line.run == run));
    }
    assert_eq!(said(parts.concat()), lines(500));
}

pub(crate) async fn a_log_is_read_on_behind_any_of_its_lines(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(20), 0)])).await;
    let run = Run::TestCommand(0);
    scheduler.start(&job, run).await.unwrap();
    end(&scheduler, &job, run).await;
    let from = |at| scheduler.read_log(&job, run, at, 1 << 20, Duration::ZERO);
    let whole = from(Position::default()).await.unwrap();
    assert_eq!(whole.ends.len(), whole.lines.len());
    for (index, end) in whole.ends.iter().enumerate() {
        let rest = from(*end).await.unwrap().lines;
        assert_eq!(rest, whole.lines[index + 1..], "behind line {index}");
    }
}

pub(crate) async fn a_log_that_was_read_to_its_end_has_nothing_more(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(50), 0)])).await;
    let run = Run::TestCommand(0);
    scheduler.start(&job, run).await.unwrap();
    end(&scheduler, &job, run).await;
    let (_, at, _) = read(&scheduler, &job, run, Position::default(), 1 << 20).await;
    assert_eq!(scheduler.log_end(&job, run).await.unwrap(), at);
    let (parts, end, complete) = read(&scheduler, &job, run, at, 1 << 20).await;
    assert!(parts.concat().is_empty() && complete && end == at);
}

pub(crate) async fn who_waits_for_more_of_a_log_hears_of_the_end(stage: &impl Stage) {
    let (scheduler, job) = staying(stage).await;
    let run = Run::TestCommand(0);
    let (_, at, complete) = read(&scheduler, &job, run, Position::default(), 1 << 20).await;
    assert!(!complete, "it goes on");
    let wait = async {
        let mut at = at;
        loop {
            let chunk = scheduler
                .read_log(&job, run, at, 1 << 20, patience())
                .await
                .unwrap();
            at = chunk.next;
            if chunk.complete {
                return;
            }
        }
    };
    let (heard, stopped) = tokio::join!(timeout(patience(), wait), scheduler.stop(&job, run));
    stopped.unwrap();
    heard.expect("the end of the run ends the wait");
}

pub(crate) async fn a_run_that_was_not_started_has_an_empty_log(stage: &impl Stage) {
    let (scheduler, job) = built(stage, Script::quiet(vec![Behaviour::Says(lines(1), 0)])).await;
    let read = scheduler.read_log(
        &job,
        Run::TestCommand(0),
        Position::default(),
        100,
        Duration::ZERO,
    );
    let chunk = read.await.unwrap();
    assert!(chunk.lines.is_empty() && !chunk.complete && !chunk.lost);
}

pub(crate) async fn what_is_collected_is_gone(stage: &impl Stage) {
    let (scheduler, job) = staying(stage).await;
    scheduler.collect(&job).await.unwrap();
    assert_eq!(scheduler.observe(&job).await.unwrap(), []);
    scheduler.collect(&job).await.unwrap();
}

pub(crate) async fn a_scheduler_in_order_is_healthy(stage: &impl Stage) {
    stage.scheduler().healthy().await.unwrap();
}
