//! Two jobs for one image, and one job submitted twice.

use buildctl::{
    job::Failure, ledger::directory::DirectoryLedger, service::BuildError, state::StateRoot,
};
use futures_util::future::join_all;
use runyard_common::testing::tempdir;

use super::*;

fn wanting(conflict: Conflict) -> JobConfig {
    JobConfig {
        on_conflict: Some(conflict),
        ..config("app")
    }
}

/// A bench whose builds go on until they are stopped.
fn busy() -> Bench {
    Bench::with(&|_, run| {
        if run == Run::Build {
            Play::endless()
        } else {
            Play::default()
        }
    })
}

#[tokio::test]
async fn a_second_job_is_refused_while_the_first_works() {
    let bench = busy();
    let first = bench.submit(config("app")).await;
    match bench.service.submit(config("app"), None).await.unwrap_err() {
        error @ BuildError::Conflict { holder } => {
            assert_eq!(holder, first);
            assert_eq!(
                error.to_string(),
                "cannot start build: lock is already held by another process"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        bench.ledger.list().await.unwrap().len(),
        1,
        "nothing is left of it"
    );
    bench.submit(config("other")).await;
    bench.service.kill(first, None).await.unwrap();
    bench.settled(first).await;
    bench.submit(config("app")).await;
}

#[tokio::test]
async fn queued_jobs_take_their_turns_in_order() {
    let bench = busy();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(bench.submit(wanting(Conflict::Queue)).await);
        bench.clock.advance(Duration::from_secs(1));
    }
    for (index, id) in ids.iter().enumerate() {
        bench.in_state(*id, State::Building).await;
        for later in &ids[index + 1..] {
            assert_eq!(
                bench.engine.starts(*later, Run::Build),
                0,
                "the one after {index} waits"
            );
        }
        bench.service.kill(*id, None).await.unwrap();
    }
    for id in ids {
        bench.settled(id).await;
    }
}

#[tokio::test]
async fn who_hears_of_its_own_job_only_hears_that_the_one_before_it_has_ended() {
    let folder = tempdir();
    let root = StateRoot::open(&folder.path().join("state")).unwrap();
    let ledger = DirectoryLedger::new(root);
    // It stands still, so that nobody looks again for having waited long.
    let clock = Clock::manual(Timestamp::constant(1_763_000_000, 0));
    let mut queued = Vec::new();
    for _ in 0..2 {
        let job = Job::new(JobId::random(), wanting(Conflict::Queue), clock.now());
        ledger.create(&job).await.unwrap();
        clock.advance(Duration::from_secs(1));
        queued.push(job.id);
    }
    let (first, second) = (queued[0], queued[1]);
    let own = Arc::new(ledger.clone().only(second));
    let engine = Arc::new(FakeScheduler::new(clock.clone()));
    let reconciler = Reconciler::new(own, engine, policy(), Webhooks::default());
    let reconciler = reconciler.with_clock(clock.clone());
    let mut changes = ledger.changes();
    let record = async || ledger.get(second).await.unwrap().unwrap().job;
    let driver = tokio::spawn(async move { reconciler.drive(second).await });
    while record().await.behind != Some(first) {
        timeout(patience(), changes.next()).await.expect("news");
    }
    // It has looked again because of what it wrote itself, and only listens now.
    let silence = Duration::from_millis(300);
    while timeout(silence, changes.next()).await.is_ok() {}
    let mut known = ledger.get(first).await.unwrap().unwrap();
    known.job.state = State::Failed;
    ledger.replace(&known.job, known.version).await.unwrap();
    while !record().await.claimed {
        timeout(patience(), changes.next()).await.expect("news");
    }
    driver.abort();
}

#[tokio::test]
async fn a_newer_job_takes_the_place_of_older_ones_if_it_wants_to() {
    let bench = busy();
    let first = bench.submit(wanting(Conflict::CancelPrevious)).await;
    bench.in_state(first, State::Building).await;
    bench.clock.advance(Duration::from_secs(1));
    let second = bench.submit(wanting(Conflict::CancelPrevious)).await;
    bench.in_state(second, State::Building).await;
    let job = bench.settled(first).await;
    assert_eq!((job.state, error(&job)), (State::Failed, Failure::KILLED));
    assert_eq!(
        job.kill.unwrap().reason,
        Some(format!("job {second} takes its place"))
    );
    assert_eq!(bench.record(second).await.kill, None);
}

#[tokio::test]
async fn a_queued_job_can_be_killed_and_does_not_wait_for_ever() {
    let bench = busy();
    bench.submit(wanting(Conflict::Queue)).await;
    bench.clock.advance(Duration::from_secs(1));
    let second = bench.submit(wanting(Conflict::Queue)).await;
    let third = bench.submit(wanting(Conflict::Queue)).await;
    bench.service.kill(second, None).await.unwrap();
    assert_eq!(error(&bench.settled(second).await), Failure::KILLED);
    bench.clock.advance(Duration::from_hours(2));
    // The first one is stopped for its limit of time; whether the third one sees that or its own first is left to chance.
    let third = bench
        .until(third, |job| job.failure.is_some() || job.claimed)
        .await;
    assert!(
        third.claimed || error(&third).starts_with("waited 1h for job"),
        "{third:?}"
    );
}

#[tokio::test]
async fn the_same_key_is_the_same_job() {
    let bench = busy();
    let key = || Some("ci-42".to_owned());
    let all = (0..10).map(|_| bench.service.submit(config("app"), key()));
    let all: Vec<_> = join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        all.iter().filter(|submitted| !submitted.existing).count(),
        1
    );
    let id = all[0].job_id;
    assert!(all.iter().all(|submitted| submitted.job_id == id));
    assert_eq!(id, JobId::of_key("ci-42"));
    bench.in_state(id, State::Building).await;
    assert_eq!(bench.engine.starts(id, Run::Build), 1);
    let other = bench
        .service
        .submit(config("other"), key())
        .await
        .unwrap_err();
    assert!(matches!(other, BuildError::KeyReused(reused) if reused == id));
    let empty = bench
        .service
        .submit(config("app"), Some(" ".to_owned()))
        .await
        .unwrap_err();
    assert!(matches!(empty, BuildError::BadRequest(_)));
}

#[tokio::test]
async fn a_free_image_goes_to_whoever_came_first() {
    let bench = busy();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let job = Job::new(JobId::random(), wanting(Conflict::Queue), bench.clock.now());
        bench.ledger.create(&job).await.unwrap();
        bench.clock.advance(Duration::from_secs(1));
        ids.push(job.id);
    }
    // Nobody attends to the first one yet.
    let step = bench.service.reconciler().advance(ids[1]).await.unwrap();
    assert_eq!((step.behind, step.job.claimed), (Some(ids[0]), false));
    let step = bench.service.reconciler().advance(ids[0]).await.unwrap();
    assert!(step.job.claimed);
    assert_eq!(bench.engine.starts(ids[1], Run::Build), 0);
}
