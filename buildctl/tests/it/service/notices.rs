//! Webhooks of jobs: what is posted, in which order, how often, and what becomes of it; and what is counted meanwhile.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State as With,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use buildctl::{
    clock::{later, since},
    metrics::{self, Metered, Metrics},
    service::Cleanup,
};

use super::*;

/// How long an attempt may take before it counts as lost.
const LEASE: Duration = Duration::from_mins(1);

/// What arrived in one post.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Post {
    event: String,
    delivery: String,
    signature: String,
    body: String,
}

/// Someone who is told of events.
#[derive(Clone, Default)]
struct Receiver {
    heard: Arc<Mutex<Vec<Post>>>,
    /// What the first posts are answered; all after them are taken.
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Says(u16),
    /// Not to come again for this many seconds.
    Busy(u64),
    Never,
}

async fn take(With(receiver): With<Receiver>, headers: HeaderMap, body: String) -> Reply {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    receiver.posts().push(Post {
        event: header("x-buildctl-event"),
        delivery: header("x-buildctl-delivery"),
        signature: header("x-webhook-signature"),
        body,
    });
    let answer = receiver.answers.lock().unwrap().pop_front();
    match answer {
        None => (StatusCode::OK, HeaderMap::new()),
        Some(Answer::Says(status)) => (StatusCode::from_u16(status).unwrap(), HeaderMap::new()),
        Some(Answer::Busy(pause)) => {
            let pause = pause.to_string().parse().unwrap();
            let headers = HeaderMap::from_iter([(axum::http::header::RETRY_AFTER, pause)]);
            (StatusCode::TOO_MANY_REQUESTS, headers)
        }
        Some(Answer::Never) => std::future::pending().await,
    }
}

type Reply = (StatusCode, HeaderMap);

impl Receiver {
    /// One that answers its first posts like this.
    fn that(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        }
    }

    /// What a job of an image asks for that is to be told of here.
    async fn wanted_by(&self, image: &str) -> JobConfig {
        let app = Router::new()
            .route("/", post(take))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let webhook_url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        JobConfig {
            webhook_url,
            webhook_secret: "key".to_owned(),
            ..config(image)
        }
    }

    fn posts(&self) -> std::sync::MutexGuard<'_, Vec<Post>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> Vec<String> {
        self.posts().iter().map(|post| post.event.clone()).collect()
    }

    /// Waits until so many posts have arrived.
    async fn has_heard(&self, count: usize) {
        let heard = async {
            while self.posts().len() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(patience(), heard).await.expect("a post");
    }
}

/// Sees the job settled: whenever an attempt has failed, it is time for the next one.
async fn settled(bench: &Bench, id: JobId) -> Job {
    loop {
        let now = bench.clock.now();
        let due = |job: &Job| {
            let first = job.notices.iter().find(|notice| notice.due.is_some());
            let failed = first.filter(|notice| notice.result.is_some());
            let due = failed.and_then(|notice| notice.due);
            due.filter(|due| *due > now && *due != later(now, LEASE))
        };
        let job = bench
            .until(id, |job| is_settled(job) || due(job).is_some())
            .await;
        match due(&job) {
            None => return job,
            Some(due) => bench.clock.advance(since(due, now)),
        }
    }
}

#[tokio::test]
async fn events_are_posted_in_order_and_once() {
    let (bench, receiver) = (Bench::new(), Receiver::default());
    let id = bench.submit(receiver.wanted_by("app").await).await;
    let job = settled(&bench, id).await;
    let expected = [
        "build.started",
        "build.completed",
        "test.started",
        "test.completed",
        "publish.started",
        "publish.completed",
        "job.completed",
    ];
    assert_eq!(receiver.events(), expected);
    assert!(
        job.notices
            .iter()
            .all(|notice| notice.result.as_deref() == Some("200 OK") && notice.attempts == 1)
    );
    assert!(job.notices.iter().all(|notice| notice.body.is_none()));
}

#[tokio::test]
async fn a_post_that_failed_is_repeated_byte_for_byte_and_the_next_waits_for_it() {
    let bench = Bench::new();
    let receiver = Receiver::that([Answer::Says(503), Answer::Busy(7)]);
    let id = bench.submit(receiver.wanted_by("app").await).await;
    // It goes on meanwhile, so that a body made later would tell more.
    bench.in_state(id, State::Succeeded).await;
    let began = bench.clock.now();
    let job = settled(&bench, id).await;
    let posts = receiver.posts().clone();
    assert_eq!(posts[0].event, "build.started");
    assert!(posts[0].signature.starts_with("sha256="), "{posts:?}");
    assert_eq!((&posts[1], &posts[2]), (&posts[0], &posts[0]));
    assert_eq!(posts[3].event, "build.completed");
    assert_ne!(posts[3].delivery, posts[0].delivery);
    assert_eq!(job.notices[0].attempts, 3);
    let waited = since(bench.clock.now(), began);
    assert!(
        (7.8..8.3).contains(&waited.as_secs_f64()),
        "a second, and the seven that were asked for: {waited:?}"
    );
}

#[tokio::test]
async fn a_receiver_that_is_gone_does_not_keep_a_job_from_its_end() {
    let bench = Bench::new();
    let webhook_url = "http://127.0.0.1:1/".to_owned();
    let only_failures = JobConfig {
        webhook_url,
        webhook_on_failure: true,
        ..config("app")
    };
    let id = bench.submit(only_failures).await;
    let ended = bench
        .until(id, |job| job.state == State::Succeeded && !job.claimed)
        .await;
    let cleaned = bench.service.cleanup(Cleanup::Job(id)).await.unwrap();
    assert_eq!((cleaned.jobs, cleaned.problems), (vec![id], vec![]));
    let job = settled(&bench, id).await;
    assert_eq!(since(bench.clock.now(), ended.created_at).as_secs(), 3600);
    let events = job.notices.iter().map(|notice| &notice.event);
    assert!(!events.clone().any(|event| event == "job.completed"));
    for notice in &job.notices {
        let told = notice.result.as_ref().unwrap();
        assert!(
            notice.given_up && told.starts_with("given up after "),
            "{told}"
        );
    }
    assert!(job.notices[0].attempts > 10, "{job:?}");
    assert!(job.notices[1..].iter().all(|notice| notice.attempts == 1));
}

#[tokio::test]
async fn an_answer_that_will_stay_the_same_is_not_asked_for_again_and_is_counted() {
    let bench = Bench::new();
    let counted = Arc::new(Metrics::default());
    let watch = tokio::spawn(metrics::watch(counted.clone(), bench.ledger.clone()));
    tokio::task::yield_now().await;
    let receiver = Receiver::that([Answer::Says(422)]);
    let id = bench.submit(receiver.wanted_by("app").await).await;
    let job = bench.settled(id).await;
    let events = receiver.events();
    assert_eq!((events.len(), &*events[1]), (7, "build.completed"));
    let first = &job.notices[0];
    assert_eq!(
        (first.attempts, first.given_up, first.result.as_deref()),
        (
            1,
            true,
            Some("given up: the receiver answered 422 Unprocessable Entity")
        )
    );
    let lines = [
        "buildctl_webhooks_total{result=\"given_up\"} 1",
        "buildctl_webhooks_total{result=\"delivered\"} 6",
    ];
    let seen = async {
        let counted = || counted.exposition(bench.clock.now());
        while !lines.iter().all(|line| counted().contains(line)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(patience(), seen).await.expect("both are counted");
    watch.abort();
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_nothing_up_and_is_asked_again_after_a_while() {
    let bench = Bench::new();
    let (hangs, takes) = (Receiver::that([Answer::Never]), Receiver::default());
    let slow = bench.submit(hangs.wanted_by("slow").await).await;
    hangs.has_heard(1).await;
    let other = bench.submit(takes.wanted_by("app").await).await;
    bench.settled(other).await;
    bench
        .until(slow, |job| job.state.is_terminal() && !job.claimed)
        .await;
    bench.clock.advance(LEASE);
    let job = bench.settled(slow).await;
    let posts = hangs.posts().clone();
    assert_eq!(posts[1], posts[0]);
    assert_eq!((job.notices[0].attempts, posts.len()), (2, 8));
}

#[tokio::test]
async fn replicas_post_each_attempt_once() {
    let bench = Bench::new();
    let receiver = Receiver::that([503; 4].map(Answer::Says));
    let id = bench.submit(receiver.wanted_by("app").await).await;
    let webhooks = || {
        Webhooks::new(Egress {
            allow_private: true,
            hosts: Vec::new(),
        })
    };
    let others: Vec<_> = (0..3)
        .map(|_| {
            let engine = Arc::new(bench.engine.clone());
            let other = Reconciler::new(bench.ledger.clone(), engine, policy(), webhooks());
            let other = other.with_clock(bench.clock.clone());
            tokio::spawn(async move { other.drive(id).await })
        })
        .collect();
    let job = settled(&bench, id).await;
    for other in others {
        timeout(patience(), other).await.unwrap().unwrap();
    }
    let attempts: u32 = job.notices.iter().map(|notice| notice.attempts).sum();
    assert_eq!((attempts, receiver.posts().len()), (11, 11));
}

#[tokio::test]
async fn jobs_are_counted_as_they_change() {
    let bench = Bench::new();
    let counted = Arc::new(Metrics::default());
    let watch = tokio::spawn(metrics::watch(counted.clone(), bench.ledger.clone()));
    tokio::task::yield_now().await;
    let id = bench.submit(config("app")).await;
    bench.settled(id).await;
    let line = "total_jobs{status=\"success\",phase=\"\",owner=\"team\"} 1";
    let seen = async {
        while !counted.exposition(bench.clock.now()).contains(line) {
            tokio::task::yield_now().await;
        }
    };
    timeout(patience(), seen).await.expect("the job is counted");
    assert!(
        counted
            .exposition(bench.clock.now())
            .contains("concurrent_jobs_total 0")
    );
    watch.abort();
}

#[tokio::test]
async fn requests_to_the_engine_are_counted_by_their_end() {
    use buildctl::scheduler::Scheduler;

    let (bench, counted) = (Bench::new(), Arc::new(Metrics::default()));
    let engine = Metered::new(Arc::new(bench.engine.clone()), counted.clone());
    engine.healthy().await.unwrap();
    bench.engine.set_unreachable(true);
    engine.healthy().await.unwrap_err();
    let text = counted.exposition(bench.clock.now());
    for code in ["ok", "unreachable"] {
        let line = format!("buildctl_backend_requests_total{{op=\"healthy\",code=\"{code}\"}} 1");
        assert!(text.contains(&line), "{text}");
    }
}
