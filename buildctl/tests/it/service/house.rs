//! What goes when a job has ended, and what begins when a service does.

use std::collections::BTreeSet;

use buildctl::service::{BuildError, Cleanup, JobFilter, LogQuery};

use super::*;

async fn ended(bench: &Bench, image: &str) -> JobId {
    let id = bench.submit(config(image)).await;
    bench.settled(id).await;
    id
}

async fn lines(bench: &Bench, id: JobId) -> usize {
    bench
        .service
        .logs(id, LogQuery::default())
        .await
        .unwrap()
        .lines
        .len()
}

fn talking() -> Bench {
    Bench::with(&|_, _| Play::default().saying(["a line"]))
}

#[tokio::test]
async fn cleaning_up_removes_what_the_engine_has_and_keeps_the_record() {
    let bench = talking();
    let id = ended(&bench, "app").await;
    assert!(lines(&bench, id).await > 0);
    let cleaned = bench.service.cleanup(Cleanup::Job(id)).await.unwrap();
    assert_eq!((cleaned.jobs, cleaned.problems), (vec![id], vec![]));
    assert_eq!(lines(&bench, id).await, 0);
    assert_eq!(bench.status(id).await.job.state, State::Succeeded);
}

#[tokio::test]
async fn only_what_ended_long_enough_ago_is_cleaned_up() {
    let bench = talking();
    let old = ended(&bench, "old").await;
    bench.clock.advance(Duration::from_hours(2));
    let young = ended(&bench, "young").await;
    let older_than = Duration::from_hours(1);
    let cleaned = bench
        .service
        .cleanup(Cleanup::Ended { older_than })
        .await
        .unwrap();
    assert_eq!(cleaned.jobs, [old]);
    assert!(lines(&bench, young).await > 0);
}

#[tokio::test]
async fn a_job_that_goes_on_is_neither_cleaned_up_nor_purged() {
    let bench = Bench::with(&|_, _| Play::endless());
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    let refused = bench.service.cleanup(Cleanup::Job(id)).await.unwrap_err();
    assert!(
        matches!(&refused, BuildError::WrongState(why) if why.contains("is BUILDING: kill it")),
        "{refused}"
    );
    assert!(matches!(
        bench.service.purge(id).await,
        Err(BuildError::WrongState(_))
    ));
}

#[tokio::test]
async fn a_purged_job_is_gone_altogether() {
    let bench = talking();
    let id = ended(&bench, "app").await;
    bench.service.purge(id).await.unwrap();
    assert!(matches!(
        bench.service.status(id).await,
        Err(BuildError::NotFound(_))
    ));
    assert_eq!(
        bench
            .service
            .list(JobFilter::default())
            .await
            .unwrap()
            .total,
        0
    );
}

#[tokio::test]
async fn logs_go_after_their_time_and_records_after_theirs() {
    let bench = talking();
    let id = ended(&bench, "app").await;
    let mut collected = BTreeSet::new();
    bench.service.sweep(&mut collected).await;
    assert!(lines(&bench, id).await > 0);
    bench.clock.advance(Duration::from_hours(25));
    bench.service.sweep(&mut collected).await;
    assert_eq!((lines(&bench, id).await, collected.len()), (0, 1));
    bench.clock.advance(Duration::from_hours(240));
    bench.service.sweep(&mut collected).await;
    assert!(bench.service.status(id).await.is_err());
}

#[tokio::test]
async fn jobs_of_before_are_attended_to_when_a_service_starts() {
    let bench = Bench::new();
    let job = Job::new(JobId::random(), config("app"), bench.clock.now());
    bench.ledger.create(&job).await.unwrap();
    bench.service.tend().await;
    assert_eq!(bench.settled(job.id).await.state, State::Succeeded);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_by_owner_state_and_page() {
    let bench = Bench::new();
    let mut ids = Vec::new();
    for image in ["a", "b", "c"] {
        ids.push(ended(&bench, image).await);
        bench.clock.advance(Duration::from_secs(1));
    }
    let other = JobConfig {
        owner: "other".to_owned(),
        ..config("d")
    };
    let other = bench.submit(other).await;
    bench.settled(other).await;
    let list = async |filter: JobFilter| {
        let list = bench.service.list(filter).await.unwrap();
        (
            list.jobs.iter().map(|view| view.job.id).collect::<Vec<_>>(),
            list.total,
        )
    };
    let team = JobFilter {
        owner: Some("team".to_owned()),
        limit: Some(1),
        offset: 1,
        ..JobFilter::default()
    };
    assert_eq!(list(team).await, (vec![ids[1]], 3));
    let failed = JobFilter {
        state: Some(State::Failed),
        ..JobFilter::default()
    };
    assert_eq!(list(failed).await, (vec![], 0));
    let going = JobFilter {
        ended: Some(false),
        ..JobFilter::default()
    };
    assert_eq!(list(going).await, (vec![], 0));
    assert_eq!(
        list(JobFilter::default()).await,
        (vec![other, ids[2], ids[1], ids[0]], 4)
    );
}
