//! Our own client, and a service behind a URL as if it were in this process.

use std::{num::NonZeroUsize, time::Duration};

use buildctl::{
    client::{Client, Remote},
    config::{ClientArgs, ClientConfig},
    job::{JobId, State},
    phase::Run,
    scheduler::fake::Play,
    service::{BuildError, Builds, Cleanup, Event, JobFilter, LogQuery},
};
use futures_util::StreamExt;
use tokio::net::TcpListener;

use super::{
    events::{all, ended, talking},
    *,
};
use crate::service::config;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn succeeded() -> JobFilter {
    JobFilter {
        state: Some(State::Succeeded),
        owner: Some("team".into()),
        ..JobFilter::default()
    }
}

async fn remote(config: ClientConfig) -> Remote {
    blocking(move || Remote::new(&config).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_behind_a_url_answers_as_one_in_this_process() {
    let stage = Stage::new(talking()).await;
    let away = remote(stage.client_config()).await;
    let here = &stage.bench.service;
    let submitted = away
        .submit(config("app"), Some("key".into()))
        .await
        .unwrap();
    let id = submitted.job_id;
    assert!(
        away.submit(config("app"), Some("key".into()))
            .await
            .unwrap()
            .existing
    );
    stage.bench.in_state(id, State::Building).await;
    assert!(
        !away
            .wait(id, Duration::from_millis(1))
            .await
            .unwrap()
            .job
            .state
            .is_terminal()
    );
    let waiting = tokio::spawn({
        let away = away.clone();
        async move { away.wait(id, Duration::from_mins(1)).await }
    });
    stage.bench.clock.advance(Duration::from_secs(11));
    assert_eq!(waiting.await.unwrap().unwrap().job.state, State::Succeeded);
    stage.bench.settled(id).await;

    assert_eq!(
        away.status(id).await.unwrap(),
        here.status(id).await.unwrap()
    );
    let query = LogQuery {
        max_bytes: Some(200),
        ..LogQuery::default()
    };
    assert_eq!(
        away.logs(id, query.clone()).await.unwrap(),
        here.logs(id, query).await.unwrap()
    );
    let filter = succeeded();
    assert_eq!(
        away.list(filter.clone()).await.unwrap(),
        here.list(filter).await.unwrap()
    );
    assert_eq!(away.health().await.unwrap(), here.health().await.unwrap());
    assert!(!away.kill(id, None).await.unwrap().killed);
    let all_ended = Cleanup::Ended {
        older_than: Duration::ZERO,
    };
    assert_eq!(away.cleanup(all_ended).await.unwrap().jobs, [id]);
    assert_eq!(away.cleanup(Cleanup::Job(id)).await.unwrap().jobs, [id]);
    away.purge(id).await.unwrap();
    assert!(matches!(away.status(id).await, Err(BuildError::NotFound(of)) if of == id));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_come_back_as_what_they_were() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless())).await;
    let away = remote(stage.client_config()).await;
    let id = away.submit(config("app"), None).await.unwrap().job_id;
    let conflict = away.submit(config("app"), None).await.unwrap_err();
    assert!(
        matches!(conflict, BuildError::Conflict { holder } if holder == id),
        "{conflict:?}"
    );
    assert!(matches!(
        away.purge(id).await,
        Err(BuildError::WrongState(_))
    ));
    let mut invalid = config("app");
    invalid.owner.clear();
    let error = away.submit(invalid, None).await.unwrap_err();
    assert!(
        matches!(&error, BuildError::Invalid(wrong) if wrong[0] == "owner is required"),
        "{error:?}"
    );
    let query = LogQuery {
        grep: Some("(".into()),
        ..LogQuery::default()
    };
    assert!(matches!(
        away.logs(id, query.clone()).await,
        Err(BuildError::BadRequest(_))
    ));
    assert!(matches!(
        away.follow(id, query).await.err(),
        Some(BuildError::BadRequest(_))
    ));
    let unknown = JobId::random();
    assert!(matches!(
        away.follow(unknown, LogQuery::default()).await.err(),
        Some(BuildError::NotFound(_))
    ));
    stage.bench.ledger.set_unreachable(true);
    assert!(matches!(
        away.list(JobFilter::default()).await,
        Err(BuildError::Unreachable(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_with_the_url_and_a_way_out() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let args = ClientArgs {
        url: Some(format!("http://{address}")),
        token_file: None,
    };
    let config = ClientConfig::load(&args, &|_| None).unwrap();
    let error = blocking(move || Client::new(&config).unwrap().health().unwrap_err()).await;
    let BuildError::Unreachable(text) = error else {
        panic!("{error:?}")
    };
    assert!(
        text.starts_with(&format!("cannot reach http://{address}: ")),
        "{text}"
    );
    assert!(text.contains("--url"), "{text}");
}

/// Lets connections through to a service, and cuts each of the first ones after so many bytes of its answers.
async fn cutter(to: SocketAddr, cuts: &'static [u64]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut cuts = cuts.iter().copied();
        while let Ok((near, _)) = listener.accept().await {
            let after = cuts.next().unwrap_or(u64::MAX);
            tokio::spawn(async move {
                let far = TcpStream::connect(to).await.unwrap();
                let (mut near_read, mut near_write) = near.into_split();
                let (far_read, mut far_write) = far.into_split();
                let up = tokio::spawn(async move {
                    // The client hangs up when it likes.
                    let _ = tokio::io::copy(&mut near_read, &mut far_write).await;
                });
                let mut first = far_read.take(after);
                let _ = tokio::io::copy(&mut first, &mut near_write).await;
                up.abort();
            });
        }
    });
    address
}

async fn heard_through(
    address: SocketAddr,
    id: JobId,
    query: LogQuery,
) -> (Vec<String>, Result<Option<State>, BuildError>) {
    let args = ClientArgs {
        url: Some(format!("http://{address}")),
        token_file: None,
    };
    let config = ClientConfig::load(&args, &|_| None).unwrap();
    blocking(move || {
        let client = Client::new(&config).unwrap();
        let (mut texts, mut last) = (Vec::new(), None);
        for event in client.follow(id, query).unwrap() {
            match event {
                Ok(Event::Line(line, _)) => texts.push(line.text),
                Ok(Event::Status(view)) => last = Some(view.job.state),
                Ok(Event::Lost) => texts.push("lost".into()),
                Err(error) => return (texts, Err(error)),
            }
        }
        (texts, Ok(last))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_after_cuts_and_hears_every_line_once() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    // In the head of the answer behind its status, within lines, between them, and within what is told again.
    for cuts in [
        &[700, 1100][..],
        &[1500, 900, 2100],
        &[2300, 1000, 1001, 1002],
        &[3000],
    ] {
        let through = cutter(stage.address, cuts).await;
        let (texts, last) = heard_through(through, id, LogQuery::default()).await;
        assert_eq!(
            (texts, last.unwrap()),
            (all(), Some(State::Succeeded)),
            "{cuts:?}"
        );
    }
}

/// A build that says so much that it is read in several parts; some of it looks like errors.
fn wordy() -> Bench {
    Bench::with(&|_, run| match run {
        Run::Build => Play::default().saying((0..4000).map(|number| {
            let word = if number % 700 == 0 { "error" } else { "line" };
            format!("{word} {number} {}", "x".repeat(40))
        })),
        _ => Play::default(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_lose_and_repeat_nothing_of_a_long_log_whatever_was_asked_for() {
    let stage = Stage::new(wordy()).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.settled(id).await;
    let queries = [
        LogQuery::default(),
        LogQuery {
            grep: Some("7 x".into()),
            ..LogQuery::default()
        },
        LogQuery {
            tail: NonZeroUsize::new(500),
            ..LogQuery::default()
        },
        LogQuery {
            errors_only: true,
            ..LogQuery::default()
        },
    ];
    for query in queries {
        let (wanted, _) = heard_through(stage.address, id, query.clone()).await;
        assert!(wanted.len() >= 40, "{query:?}: {wanted:?}");
        let through = cutter(stage.address, &CUTS).await;
        let (texts, last) = heard_through(through, id, query.clone()).await;
        assert_eq!(last.unwrap(), Some(State::Succeeded), "{query:?}");
        assert_eq!(texts, wanted, "{query:?}");
    }
}

/// After so many bytes each; some before anything new has come.
const CUTS: [u64; 8] = [2_000, 9_000, 700, 40_000, 9_500, 300_000, 1_000, 330_000];

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_hears_lines_as_they_come_and_the_end_last() {
    let stage = Stage::new(talking()).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let away = remote(stage.client_config()).await;
    let mut events = away.follow(id, LogQuery::default()).await.unwrap();
    let (mut texts, mut last) = (Vec::new(), None);
    while let Some(event) = timeout(patience(), events.next()).await.expect("an event") {
        match event.unwrap() {
            Event::Line(line, _) => {
                texts.push(line.text);
                stage.bench.clock.advance(Duration::from_secs(1));
            }
            Event::Status(view) => last = Some(view.job.state),
            Event::Lost => {}
        }
    }
    assert_eq!((texts, last), (all(), Some(State::Succeeded)));
}
