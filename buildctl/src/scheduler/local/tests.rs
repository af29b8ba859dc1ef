//! Runs with a fake runner: a shell script that says how often it was begun and does what its test wants.

#[path = "../../../tests/it/support/fake_runner.rs"]
mod fake_runner;

use std::{
    fs,
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::StreamExt;
use jiff::Timestamp;
use runyard_common::testing::{patience, tempdir};
use tokio::time::timeout;

use self::fake_runner::{FakeRunner, GATE, asked};
use super::*;
use crate::{
    api::{JobConfig, TestConfig},
    job::{State, Temporary},
    phase::{Built, FailureKind, Outcome, RunFailure},
};

/// What a run that succeeds writes; the runs here are tests, which have the shortest outcome.
const DONE: &str = r#"{"ending":"succeeded","outcome":{"outcome":"tested"}}"#;

fn job(created: i64) -> Job {
    let at = Timestamp::from_second(created).unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let config = JobConfig {
        image_tags: vec!["v1".into()],
        test: Some(TestConfig {
            commands: vec!["true".into(), "true".into()],
            ..TestConfig::default()
        }),
        ..asked("app")
    };
    Job {
        state: State::Testing,
        claimed: true,
        built: Some(Built {
            commit: None,
            image_id: "x".into(),
            temporary: "registry.example:5000/temp-app:main-1".parse().unwrap(),
            digest: digest.parse().unwrap(),
        }),
        temporary: Temporary::Pushed,
        ..Job::new(JobId::random(), config, at)
    }
}

const TEST: Run = Run::TestCommand(0);
const OTHER: Run = Run::TestCommand(1);

/// A state, and a fake runner.
struct Stage {
    runner: FakeRunner,
    config: LocalConfig,
    swept: Arc<AtomicUsize>,
}

impl Stage {
    /// A runner that does `script` between its first words and its result.
    fn new(script: &str) -> Self {
        let runner = FakeRunner::new(tempdir(), &format!("{script}\nfinish '{DONE}'"));
        let mut config = runner.config(runner.path("state"));
        config.grace = Duration::from_millis(200);
        config.concurrency = NonZeroUsize::new(4).unwrap();
        Self {
            runner,
            config,
            swept: Arc::default(),
        }
    }

    fn concurrency(mut self, count: usize) -> Self {
        self.config.concurrency = NonZeroUsize::new(count).unwrap();
        self
    }

    fn scheduler(&self) -> LocalScheduler {
        let swept = Arc::clone(&self.swept);
        let sweep = Arc::new(move |_: &_| {
            swept.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        LocalScheduler::open(self.config.clone(), sweep).unwrap()
    }

    fn folder_of(&self, job: &Job, run: Run) -> RunFolder {
        RunFolder::of(&StateRoot::open(&self.config.root).unwrap(), job.id, run)
    }

    fn process_of(&self, job: &Job, run: Run) -> process::Evidence {
        match self.folder_of(job, run).begun().unwrap() {
            Begun::As { process, .. } => process,
            other => panic!("it has not begun: {other:?}"),
        }
    }
}

/// Waits until the observation of a run is as wanted.
async fn until(
    scheduler: &LocalScheduler,
    job: &Job,
    run: Run,
    wanted: impl Fn(&Progress) -> bool,
) -> Observed {
    let mut changes = scheduler.changes();
    let wait = async {
        loop {
            let observed = scheduler.observe(job).await.unwrap();
            let found = observed.into_iter().find(|it| it.run == run);
            if let Some(found) = found.filter(|it| wanted(&it.progress)) {
                return found;
            }
            changes.next().await;
        }
    };
    timeout(patience(), wait).await.expect("it comes to that")
}

async fn ending(scheduler: &LocalScheduler, job: &Job, run: Run) -> Ending {
    let ended = until(scheduler, job, run, |it| {
        matches!(it, Progress::Ended { .. })
    })
    .await;
    match ended.progress {
        Progress::Ended { ending } => ending,
        _ => unreachable!(),
    }
}

async fn running(scheduler: &LocalScheduler, job: &Job, run: Run) {
    until(scheduler, job, run, |it| *it == Progress::Running).await;
    // Its first words are there: the script has set up what it does about signals.
    let chunk = scheduler.read_log(job, run, Position::default(), 1000, patience());
    assert_eq!(chunk.await.unwrap().lines[0].text, "hello");
}

fn succeeded() -> Ending {
    Ending::Succeeded {
        outcome: Outcome::Tested,
    }
}

fn infrastructure(ending: &Ending) -> &str {
    match ending {
        Ending::Failed(RunFailure {
            kind: FailureKind::Infrastructure,
            message,
            ..
        }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_run_leaves_a_result_and_a_log() {
    let (stage, job) = (Stage::new(""), job(1));
    let scheduler = stage.scheduler();
    assert_eq!(scheduler.observe(&job).await.unwrap(), []);
    assert_eq!(scheduler.start(&job, TEST).await.unwrap(), Started::Now);
    assert_eq!(ending(&scheduler, &job, TEST).await, succeeded());
    let observed = scheduler.observe(&job).await.unwrap().remove(0);
    assert!(observed.started_at.is_some() && observed.ended_at.is_some());
    let chunk = scheduler
        .read_log(&job, TEST, Position::default(), 1000, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(chunk.lines[0].text, "hello");
    assert!(chunk.complete);
    assert_eq!(scheduler.log_end(&job, TEST).await.unwrap(), chunk.next);
    assert_eq!(scheduler.start(&job, TEST).await.unwrap(), Started::Already);
    assert_eq!(stage.runner.begun().len(), 1);
}

#[tokio::test]
async fn of_many_starts_one_is_the_first_and_the_run_is_begun_once() {
    let (stage, job) = (Stage::new(""), job(1));
    let schedulers: Vec<_> = (0..8).map(|_| stage.scheduler()).collect();
    let starts = schedulers.iter().map(|it| it.start(&job, TEST));
    let started = futures_util::future::join_all(starts).await;
    let first = started.iter().filter(|it| matches!(it, Ok(Started::Now)));
    assert_eq!(first.count(), 1);
    assert_eq!(ending(&schedulers[0], &job, TEST).await, succeeded());
    assert_eq!(stage.runner.begun().len(), 1);
}

#[tokio::test]
async fn the_older_job_comes_first_and_nothing_runs_beside_what_may() {
    let stage = Stage::new(GATE).concurrency(1);
    let scheduler = stage.scheduler();
    let (running_job, younger, older) = (job(1), job(3), job(2));
    scheduler.start(&running_job, TEST).await.unwrap();
    running(&scheduler, &running_job, TEST).await;
    scheduler.start(&younger, TEST).await.unwrap();
    scheduler.start(&older, TEST).await.unwrap();
    let waits = |reason: &'static str| move |it: &Progress| matches!(it, Progress::Waiting { reason: Some(said), .. } if said == reason);
    until(&scheduler, &younger, TEST, waits("1 run ahead")).await;
    until(
        &scheduler,
        &older,
        TEST,
        waits("the place to build is taken"),
    )
    .await;
    assert_eq!(stage.runner.begun().len(), 1);
    stage.runner.go();
    for job in [&running_job, &younger, &older] {
        assert_eq!(ending(&scheduler, job, TEST).await, succeeded());
    }
    let order = [&running_job, &older, &younger].map(|job| format!("{}/{TEST}", job.id));
    assert_eq!(stage.runner.begun(), order);
    assert_eq!(fs::read_dir(scheduler.root().queue()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_publication_needs_no_place() {
    let stage = Stage::new(
        "case $BUILDCTL_RUN in */test*) until [ -e \"$stage/go\" ]; do sleep 0.01; done;; esac",
    )
    .concurrency(1);
    let (scheduler, job) = (stage.scheduler(), job(1));
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    scheduler.start(&job, Run::Publish).await.unwrap();
    assert_eq!(ending(&scheduler, &job, Run::Publish).await, succeeded());
    stage.runner.go();
    assert_eq!(ending(&scheduler, &job, TEST).await, succeeded());
}

#[tokio::test]
async fn a_waiting_run_that_is_stopped_never_begins() {
    let stage = Stage::new(GATE).concurrency(1);
    let (scheduler, job) = (stage.scheduler(), job(1));
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    scheduler.start(&job, OTHER).await.unwrap();
    until(&scheduler, &job, OTHER, |it| {
        matches!(it, Progress::Waiting { .. })
    })
    .await;
    // By another one, as another process would.
    stage.scheduler().stop(&job, OTHER).await.unwrap();
    assert_eq!(ending(&scheduler, &job, OTHER).await, Ending::Cancelled);
    stage.runner.go();
    assert_eq!(ending(&scheduler, &job, TEST).await, succeeded());
    assert_eq!(
        scheduler.start(&job, OTHER).await.unwrap(),
        Started::Already
    );
    assert_eq!(ending(&scheduler, &job, OTHER).await, Ending::Cancelled);
    assert_eq!(stage.runner.begun().len(), 1);
}

#[tokio::test]
async fn a_run_that_was_stopped_is_cancelled_even_if_it_then_succeeds() {
    let stage = Stage::new(&format!(
        "trap \"finish '{DONE}'; exit 0\" TERM\necho\n{GATE}"
    ));
    let (scheduler, job) = (stage.scheduler(), job(1));
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    let second_line = Position { out: 40, err: 0 };
    scheduler
        .read_log(&job, TEST, second_line, 1000, patience())
        .await
        .unwrap();
    scheduler.stop(&job, TEST).await.unwrap();
    assert_eq!(ending(&scheduler, &job, TEST).await, Ending::Cancelled);
    let raw = fs::read_to_string(stage.folder_of(&job, TEST).result_file()).unwrap();
    assert!(raw.contains("succeeded"), "{raw}");
}

#[tokio::test]
async fn a_run_that_was_stopped_before_its_start_never_begins() {
    let (stage, job) = (Stage::new(""), job(1));
    let scheduler = stage.scheduler();
    make_folder(&scheduler.root().job(job.id)).unwrap();
    scheduler.stop(&job, TEST).await.unwrap();
    assert_eq!(scheduler.start(&job, TEST).await.unwrap(), Started::Already);
    assert_eq!(scheduler.observe(&job).await.unwrap(), []);
    assert_eq!(stage.runner.begun(), [""; 0]);
}

#[test]
fn a_run_that_has_begun_is_not_begun_again() {
    let (stage, job) = (Stage::new(""), job(1));
    let folder = stage.folder_of(&job, TEST);
    make_folder(folder.path()).unwrap();
    let mut first = launch::spawn(&stage.config.runner, &folder, Vec::new()).unwrap();
    let second = launch::spawn(&stage.config.runner, &folder, Vec::new()).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
    assert!(first.wait().unwrap().success());
    assert_eq!(stage.runner.begun().len(), 1);
}

#[tokio::test]
async fn a_stop_after_the_end_changes_nothing() {
    let (stage, job) = (Stage::new(""), job(1));
    let scheduler = stage.scheduler();
    assert!(matches!(
        scheduler.stop(&job, TEST).await,
        Err(SchedulerError::Unknown)
    ));
    scheduler.start(&job, TEST).await.unwrap();
    assert_eq!(ending(&scheduler, &job, TEST).await, succeeded());
    scheduler.stop(&job, TEST).await.unwrap();
    assert_eq!(ending(&scheduler, &job, TEST).await, succeeded());
}

#[tokio::test]
async fn a_run_that_will_not_end_is_killed_with_all_that_it_started() {
    let stage = Stage::new(&format!(
        "trap '' TERM\nsetsid sleep 300 & echo $! >\"$stage/child\"\nsleep 300 & echo\n{GATE}"
    ));
    let (scheduler, job) = (stage.scheduler(), job(1));
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    let second_line = Position { out: 40, err: 0 };
    scheduler
        .read_log(&job, TEST, second_line, 1000, patience())
        .await
        .unwrap();
    let process = stage.process_of(&job, TEST);
    scheduler.stop(&job, TEST).await.unwrap();
    assert_eq!(ending(&scheduler, &job, TEST).await, Ending::Cancelled);
    assert!(!process.is_alive());
    let child = fs::read_to_string(stage.runner.path("child"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    runyard_common::testing::eventually(patience(), || {
        (!runyard_common::testing::is_alive(child)).then_some(())
    });
    assert_eq!(stage.swept.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_runner_that_is_killed_is_a_failure_of_the_infrastructure() {
    let (stage, job) = (Stage::new(GATE), job(1));
    let scheduler = stage.scheduler();
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    stage
        .process_of(&job, TEST)
        .signal(rustix::process::Signal::KILL);
    let ending = ending(&scheduler, &job, TEST).await;
    assert!(infrastructure(&ending).contains("signal 9"), "{ending:?}");
    assert_eq!(stage.swept.load(Ordering::SeqCst), 1);
    let log = scheduler.read_log(&job, TEST, Position::default(), 1000, Duration::ZERO);
    let log = log.await.unwrap();
    assert!(
        log.lines.last().unwrap().text.contains("signal 9"),
        "{log:?}"
    );
    assert!(log.complete);
}

#[tokio::test]
async fn a_runner_that_ends_without_a_result_is_quoted() {
    let (stage, job) = (Stage::new("printf 'panicked'; exit 3"), job(1));
    let scheduler = stage.scheduler();
    scheduler.start(&job, TEST).await.unwrap();
    let ending = ending(&scheduler, &job, TEST).await;
    assert!(
        infrastructure(&ending).contains("exit code 3"),
        "{ending:?}"
    );
    let log = scheduler.read_log(&job, TEST, Position::default(), 1000, Duration::ZERO);
    let texts: Vec<_> = log
        .await
        .unwrap()
        .lines
        .into_iter()
        .map(|it| it.text)
        .collect();
    assert_eq!(texts[..2], ["hello", "panicked"]);
    assert!(texts[2].contains("exit code 3"), "{texts:?}");
}

#[tokio::test]
async fn a_runner_that_is_missing_is_named() {
    let (mut stage, job) = (Stage::new(""), job(1));
    stage.config.runner = stage.runner.path("none");
    let scheduler = stage.scheduler();
    scheduler.start(&job, TEST).await.unwrap();
    let ending = ending(&scheduler, &job, TEST).await;
    let missing = stage.runner.path("none").display().to_string();
    assert!(infrastructure(&ending).contains(&missing), "{ending:?}");
}

/// Has a runtime, and so all tasks of a scheduler, come and go, as if its process had died.
fn in_a_process<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let value = runtime.block_on(work);
    runtime.shutdown_background();
    value
}

#[test]
fn what_was_started_goes_on_when_whoever_started_it_is_gone() {
    let (stage, job) = (Stage::new(GATE).concurrency(1), job(1));
    in_a_process(async {
        let scheduler = stage.scheduler();
        scheduler.start(&job, TEST).await.unwrap();
        running(&scheduler, &job, TEST).await;
        scheduler.start(&job, OTHER).await.unwrap();
    });
    in_a_process(async {
        let scheduler = stage.scheduler();
        let observed = scheduler.observe(&job).await.unwrap();
        assert_eq!(observed[0].progress, Progress::Running);
        assert!(matches!(observed[1].progress, Progress::Waiting { .. }));
        scheduler.resume(&job).await.unwrap();
        stage.runner.go();
        for run in [TEST, OTHER] {
            assert_eq!(ending(&scheduler, &job, run).await, succeeded());
        }
    });
    assert_eq!(stage.runner.begun().len(), 2);
}

#[test]
fn a_runner_that_died_while_nobody_was_there_is_settled_by_whoever_looks() {
    let (stage, job) = (Stage::new(GATE), job(1));
    in_a_process(async {
        let scheduler = stage.scheduler();
        scheduler.start(&job, TEST).await.unwrap();
        running(&scheduler, &job, TEST).await;
    });
    let process = stage.process_of(&job, TEST);
    process.signal(rustix::process::Signal::KILL);
    runyard_common::testing::eventually(patience(), || (!process.is_alive()).then_some(()));
    in_a_process(async {
        let first = ending(&stage.scheduler(), &job, TEST).await;
        infrastructure(&first);
        assert_eq!(ending(&stage.scheduler(), &job, TEST).await, first);
    });
    assert_eq!(stage.swept.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reader_is_woken_by_a_line_and_by_the_end() {
    let stage = Stage::new(&format!("{GATE}\necho '2026-11-21T10:00:01Z E more'"));
    let (scheduler, job) = (stage.scheduler(), job(1));
    let none = scheduler.read_log(&job, TEST, Position::default(), 1000, Duration::ZERO);
    assert_eq!(
        none.await.unwrap(),
        Chunk::default(),
        "it is not started yet"
    );
    let (reader, job_of) = (scheduler.clone(), job.clone());
    let reading = tokio::spawn(async move {
        let (mut from, mut texts) = (Position::default(), Vec::new());
        loop {
            let chunk = reader
                .read_log(&job_of, TEST, from, 1000, patience())
                .await
                .unwrap();
            texts.extend(chunk.lines.into_iter().map(|it| it.text));
            if chunk.complete {
                return texts;
            }
            from = chunk.next;
        }
    });
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    stage.runner.go();
    let texts = timeout(patience(), reading).await.unwrap().unwrap();
    assert_eq!(texts, ["hello", "more"]);
}

#[tokio::test]
async fn collecting_ends_what_runs_and_leaves_nothing() {
    let stage = Stage::new(GATE).concurrency(1);
    let (scheduler, mut job) = (stage.scheduler(), job(1));
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    scheduler.start(&job, OTHER).await.unwrap();
    let process = stage.process_of(&job, TEST);
    timeout(patience(), scheduler.collect(&job))
        .await
        .unwrap()
        .unwrap();
    assert!(!process.is_alive());
    assert_eq!(scheduler.observe(&job).await.unwrap(), []);
    assert_eq!(
        fs::read_dir(scheduler.root().job(job.id)).unwrap().count(),
        0
    );
    scheduler.collect(&job).await.unwrap();
    job.runs.insert(
        TEST,
        Observed {
            run: TEST,
            progress: Progress::Ended {
                ending: succeeded(),
            },
            place: None,
            started_at: None,
            ended_at: None,
            unaccounted: false,
            usage: None,
        },
    );
    let log = scheduler.read_log(&job, TEST, Position::default(), 1000, patience());
    let log = log.await.unwrap();
    assert!(log.complete && log.lost, "{log:?}");
}

#[tokio::test]
async fn only_what_has_no_record_and_does_not_run_is_an_orphan() {
    let stage = Stage::new(GATE);
    let scheduler = stage.scheduler();
    let (at_work, recorded, orphan) = (job(1), job(2), job(3));
    for job in [&at_work, &recorded, &orphan] {
        scheduler.start(job, TEST).await.unwrap();
        running(&scheduler, job, TEST).await;
    }
    for job in [&recorded, &orphan] {
        scheduler.stop(job, TEST).await.unwrap();
        ending(&scheduler, job, TEST).await;
    }
    fs::write(scheduler.root().job(recorded.id).join("record.json"), "{}").unwrap();
    let untouched = scheduler.remove_orphans(Duration::from_hours(1)).unwrap();
    assert_eq!(untouched, []);
    assert_eq!(
        scheduler.remove_orphans(Duration::ZERO).unwrap(),
        [orphan.id]
    );
    assert!(!scheduler.root().job(orphan.id).exists());
    assert!(scheduler.root().job(recorded.id).exists());
    stage.runner.go();
    ending(&scheduler, &at_work, TEST).await;
}

#[tokio::test]
async fn a_supervisor_that_is_missing_is_named() {
    let (mut stage, job) = (Stage::new(""), job(1));
    stage.config.supervisor = stage.runner.path("none");
    let scheduler = stage.scheduler();
    make_folder(&scheduler.root().job(job.id)).unwrap();
    let error = scheduler.attend(job.id).await.unwrap_err().to_string();
    assert!(
        error.contains(&stage.runner.path("none").display().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_power_failure_leaves_is_settled_and_not_carried_out_again() {
    let (stage, job) = (Stage::new(""), job(1));
    let scheduler = stage.scheduler();
    let [begun, not_told] = [TEST, OTHER].map(|run| stage.folder_of(&job, run));
    for folder in [&begun, &not_told] {
        make_folder(folder.path()).unwrap();
        fs::write(folder.work_file(), "").unwrap();
    }
    fs::write(begun.work_file(), "{").unwrap();
    fs::write(begun.pid_file(), "").unwrap();
    infrastructure(&ending(&scheduler, &job, TEST).await);
    assert_eq!(scheduler.start(&job, OTHER).await.unwrap(), Started::Now);
    assert_eq!(ending(&scheduler, &job, OTHER).await, succeeded());
    assert_eq!(stage.runner.begun().len(), 1);
}

#[tokio::test]
async fn a_store_is_not_pruned_while_a_run_uses_it() {
    let (mut stage, job) = (Stage::new(GATE), job(1));
    stage.config.cache_limit = Some(0);
    let scheduler = stage.scheduler();
    scheduler.start(&job, TEST).await.unwrap();
    running(&scheduler, &job, TEST).await;
    let store = scheduler.root().storage().join(cache::owner_key("team"));
    fs::write(store.join("layer"), [1; 5000]).unwrap();
    let pruned = scheduler.prune_caches().unwrap();
    assert_eq!(pruned.len(), 1);
    assert_eq!(pruned[0].problem.as_deref(), Some("a run uses it"));
    stage.runner.go();
    ending(&scheduler, &job, TEST).await;
}

#[tokio::test]
async fn a_run_that_waits_for_its_store_hears_of_a_stop_at_once() {
    let stage = Stage::new("").concurrency(1);
    let (scheduler, job) = (stage.scheduler(), job(1));
    let store = scheduler.root().storage().join(cache::owner_key("team"));
    make_folder(&store).unwrap();
    let pruning = lock::Lock::exclusive(&store.join("lock")).unwrap();
    scheduler.start(&job, TEST).await.unwrap();
    // It has the only place, which is the last thing that it takes before its share of the store.
    let place = scheduler.root().slots().join("0");
    let mut changes = Subscription::to(&scheduler.root().slots());
    let taken = async {
        while !place.exists() || !lock::is_held(&place).unwrap() {
            changes.next().await;
        }
    };
    timeout(patience(), taken).await.expect("it has its place");
    stage.scheduler().stop(&job, TEST).await.unwrap();
    assert_eq!(ending(&scheduler, &job, TEST).await, Ending::Cancelled);
    // Others get its place, although the store is still being pruned.
    let freed = async {
        while lock::is_held(&place).unwrap() {
            changes.next().await;
        }
    };
    timeout(patience(), freed).await.expect("its place is free");
    drop(pruning);
    assert_eq!(stage.runner.begun().len(), 0);
}

#[tokio::test]
async fn what_a_run_is_to_do_names_secrets_and_brings_the_jobs_own_tag_first() {
    let mut stage = Stage::new("");
    let mut job = job(1);
    job.config.registry_credentials_path = "secret/team/registry".into();
    let at = crate::secrets::SecretRef::Env("REGISTRY".into());
    stage
        .config
        .credentials
        .insert("secret/team/registry".into(), at.clone());
    let work = work_of(&job, Run::Publish, &stage.config).unwrap();
    let crate::runner::work::Task::Publish { tags, digest, .. } = work.task else {
        panic!("{work:?}");
    };
    let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, [job.id.to_string(), "v1".to_owned()]);
    assert_eq!(digest, job.built.as_ref().unwrap().digest);
    let credential = crate::runner::work::Credential::Reference {
        at,
        optional: false,
    };
    assert_eq!(work.registry_credentials, Some(credential));

    let error = work_of(&job, Run::TestEntry, &stage.config).unwrap_err();
    assert_eq!(error, NoWork::NoRun(Run::TestEntry));
    let error = work_of(&job, Run::TestCommand(2), &stage.config).unwrap_err();
    assert_eq!(error, NoWork::NoRun(Run::TestCommand(2)));
    job.built = None;
    let error = work_of(&job, Run::Publish, &stage.config).unwrap_err();
    assert_eq!(error, NoWork::NothingBuilt(Run::Publish));
}
