//! How jobs go: to success, into each failure, and to the end that somebody wants.

use buildctl::{
    job::{Failure, Temporary},
    names::Digest,
    phase::{Ending, FailureKind, MovedTag, Phase, RunFailure},
    scheduler::fake::End,
    service::{BuildError, JobFilter},
};

use super::*;

#[tokio::test]
async fn a_job_is_built_tested_and_published() {
    let bench = Bench::new();
    let submitted = bench.service.submit(config("app"), None).await.unwrap();
    assert_eq!(
        (submitted.status, submitted.existing),
        (State::Building, false)
    );
    let id = submitted.job_id;
    let view = bench.service.wait(id, patience()).await.unwrap();
    assert_eq!(view.job.state, State::Succeeded);
    let job = bench.settled(id).await;
    let tags: Vec<String> = job
        .published
        .iter()
        .map(|moved| moved.tag.to_string())
        .collect();
    assert_eq!(tags, [id.to_string(), "v1".to_owned()]);
    assert_eq!((job.temporary, job.claimed), (Temporary::Removed, false));
    assert!(
        Phase::ALL
            .iter()
            .all(|phase| job.phases[phase].start <= job.phases[phase].end)
    );
    let expected = ["build", "publish", "test-cmd-0", "test-cmd-1"].map(|run| (run.to_owned(), 1));
    assert_eq!(starts(&bench.engine, id), expected.into());
}

#[tokio::test]
async fn a_failed_build_is_neither_tested_nor_published() {
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play::fails(2, "Dockerfile:3: RUN make: exit code 2"),
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    let job = bench.settled(id).await;
    assert_eq!(
        error(&job),
        "Build phase failed: Dockerfile:3: RUN make: exit code 2"
    );
    assert_eq!(starts(&bench.engine, id), [("build".to_owned(), 1)].into());
}

#[tokio::test]
async fn a_failed_test_keeps_the_image_from_being_published_and_it_is_removed() {
    let bench = Bench::with(&|_, run| match run {
        Run::TestCommand(1) => Play::fails(1, "exit code 1"),
        Run::TestCommand(_) => Play::endless(),
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    let job = bench.settled(id).await;
    assert_eq!(error(&job), "Test phase failed: test-cmd-1: exit code 1");
    assert_eq!(job.temporary, Temporary::Removed);
    let expected = ["build", "cleanup", "test-cmd-0", "test-cmd-1"].map(|run| (run.to_owned(), 1));
    assert_eq!(starts(&bench.engine, id), expected.into());
}

#[tokio::test]
async fn a_failed_publication_says_what_moved() {
    let bench = Bench::with(&|job, run| match run {
        Run::Publish => {
            let digest: Digest = format!("sha256:{}", "c".repeat(64)).parse().unwrap();
            let moved = MovedTag {
                tag: job.id.to_string().parse().unwrap(),
                digest,
                previous: None,
            };
            Play {
                ends: End::As(Box::new(Ending::Failed(RunFailure {
                    kind: FailureKind::Infrastructure,
                    message: "the registry went away".to_owned(),
                    moved: vec![moved],
                    built: None,
                }))),
                ..Play::default()
            }
        }
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    let job = bench.settled(id).await;
    assert_eq!(error(&job), "Publish phase failed: the registry went away");
    assert_eq!(
        (job.published.len(), job.temporary),
        (1, Temporary::Removed)
    );
}

#[tokio::test]
async fn what_a_build_may_have_pushed_that_cannot_say_so_is_removed() {
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play {
            silent: true,
            ..Play::fails(1, "the run's process was killed")
        },
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    assert_eq!(bench.settled(id).await.temporary, Temporary::Removed);
    let expected = ["build", "cleanup"].map(|run| (run.to_owned(), 1));
    assert_eq!(starts(&bench.engine, id), expected.into());
}

#[tokio::test]
async fn a_temporary_image_that_cannot_be_removed_is_noted() {
    let bench = Bench::with(&|_, run| match run {
        Run::TestCommand(_) => Play::fails(1, "exit code 1"),
        Run::Cleanup => Play::fails(1, "the registry does not delete"),
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    assert_eq!(bench.settled(id).await.temporary, Temporary::Left);
}

#[tokio::test]
async fn a_job_is_killed_in_each_phase() {
    for phase in [Run::Build, Run::TestCommand(0), Run::Publish] {
        let bench = Bench::new();
        bench.engine.script(move |_, run| {
            if run == phase {
                Play::endless()
            } else {
                Play::default()
            }
        });
        let id = bench.submit(config("app")).await;
        let running = |job: &Job| {
            job.runs
                .get(&phase)
                .is_some_and(|run| run.started_at.is_some())
        };
        bench.until(id, running).await;
        let killed = bench
            .service
            .kill(id, Some("enough".to_owned()))
            .await
            .unwrap();
        assert!(killed.killed);
        let job = bench.settled(id).await;
        assert_eq!((job.state, error(&job)), (State::Failed, Failure::KILLED));
        assert_eq!(
            job.runs[&phase].progress,
            buildctl::phase::Progress::Ended {
                ending: Ending::Cancelled
            }
        );
        assert!(job.published.is_empty());
        let again = bench.service.kill(id, None).await.unwrap();
        assert_eq!(
            (again.killed, again.message.as_str()),
            (false, "Job has already ended: FAILED")
        );
    }
}

#[tokio::test]
async fn a_job_is_killed_while_it_waits_for_a_place() {
    let bench = Bench::with(&|_, _| Play::blocked("no node has room"));
    let id = bench.submit(config("app")).await;
    bench
        .until(id, |job| job.runs.contains_key(&Run::Build))
        .await;
    bench.service.kill(id, None).await.unwrap();
    assert_eq!(error(&bench.settled(id).await), Failure::KILLED);
}

#[tokio::test]
async fn a_job_that_waits_too_long_for_a_place_fails_with_the_reason() {
    let bench = Bench::with(&|_, _| Play::blocked("no node has 4096 MB of memory free"));
    let id = bench.submit(config("app")).await;
    bench
        .until(id, |job| job.runs.contains_key(&Run::Build))
        .await;
    let view = bench.status(id).await;
    assert_eq!(view.job.state, State::Pending);
    bench.clock.advance(Duration::from_hours(2));
    let job = bench.settled(id).await;
    assert!(
        error(&job).starts_with("Build phase failed: build waited 1h for a place to run"),
        "{}",
        error(&job)
    );
}

#[tokio::test]
async fn a_run_that_the_engine_refuses_fails_the_job_with_its_words() {
    let bench = Bench::with(&|_, _| Play {
        refused: Some("the driver docker is not enabled".to_owned()),
        ..Play::default()
    });
    let id = bench.submit(config("app")).await;
    assert_eq!(
        error(&bench.settled(id).await),
        "Build phase failed: the driver docker is not enabled"
    );
}

#[tokio::test]
async fn a_lost_node_fails_the_job_and_nothing_is_run_twice() {
    let bench = Bench::with(&|_, _| Play::endless());
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    bench.engine.lose_node(id, Run::Build);
    let job = bench.settled(id).await;
    assert!(
        error(&job).starts_with("Build phase failed: node fake-1 was lost; it is not run again")
    );
    assert_eq!(bench.engine.starts(id, Run::Build), 1);
}

#[tokio::test]
async fn an_engine_that_was_away_is_waited_for() {
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play::default().taking(Duration::from_mins(1)),
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    bench.engine.set_unreachable(true);
    assert_eq!(
        bench.status(id).await.job.state,
        State::Building,
        "the record is what is known"
    );
    bench.clock.advance(Duration::from_secs(61));
    bench.engine.set_unreachable(false);
    assert_eq!(bench.settled(id).await.state, State::Succeeded);
}

#[tokio::test]
async fn who_only_looks_writes_nothing() {
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play::endless().saying(["one", "two"]),
        _ => Play::default(),
    });
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    // Whoever attends comes to rest first.
    bench.service.reconciler().advance(id).await.unwrap();
    let before = bench.ledger.writes();
    for _ in 0..3 {
        bench.service.status(id).await.unwrap();
        bench
            .service
            .logs(id, buildctl::service::LogQuery::default())
            .await
            .unwrap();
        bench.service.wait(id, Duration::ZERO).await.unwrap();
        bench.service.list(JobFilter::default()).await.unwrap();
        bench.service.health().await.unwrap();
        let mut events = bench
            .service
            .follow(id, buildctl::service::LogQuery::default())
            .await
            .unwrap();
        events.next().await.unwrap().unwrap();
    }
    assert_eq!(bench.ledger.writes(), before);
}

#[tokio::test]
async fn clients_see_no_secret() {
    let bench = Bench::new();
    let mut secretive = config("app");
    secretive.webhook_secret = "hunter2".to_owned();
    secretive.webhook_headers = [("Authorization".to_owned(), "Bearer hunter2".to_owned())].into();
    let id = bench.submit(secretive).await;
    let view = bench.status(id).await;
    let list = bench.service.list(JobFilter::default()).await.unwrap();
    for text in [
        serde_json::to_string(&view).unwrap(),
        format!("{view:?}{list:?}"),
    ] {
        assert!(
            !text.contains("hunter2") && text.contains("[redacted]"),
            "{text}"
        );
    }
    assert_eq!(bench.record(id).await.config.webhook_secret, "hunter2");
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_all_that_is_wrong() {
    let bench = Bench::new();
    let mut wrong = config("app");
    wrong.owner = String::new();
    wrong.registry_url = String::new();
    match bench.service.submit(wrong, None).await.unwrap_err() {
        BuildError::Invalid(errors) => {
            assert_eq!(errors[0], "owner is required");
            assert!(errors.len() > 1);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.ledger.writes(), 0);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let bench = Bench::new();
    let id = JobId::random();
    assert!(matches!(
        bench.service.status(id).await,
        Err(BuildError::NotFound(_))
    ));
    assert!(matches!(
        bench.service.kill(id, None).await,
        Err(BuildError::NotFound(_))
    ));
    assert!(matches!(
        bench.service.purge(id).await,
        Err(BuildError::NotFound(_))
    ));
}

#[tokio::test]
async fn health_says_what_does_not_answer() {
    let bench = Bench::new();
    assert!(
        bench
            .service
            .health()
            .await
            .unwrap()
            .services
            .iter()
            .all(|(_, well)| well.is_ok())
    );
    bench.engine.set_unreachable(true);
    let health = bench.service.health().await.unwrap();
    assert_eq!(health.services[0].0, "fake");
    assert!(health.services[0].1.is_err() && health.services[1].1.is_ok());
}
