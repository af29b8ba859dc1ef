//! Webhooks of jobs: what is posted, in which order, and what becomes of it; and what is counted meanwhile.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::State as With,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use buildctl::metrics::{self, Metered, Metrics};

use super::*;

/// Someone who is told of events, and who does not listen the first few times.
#[derive(Clone, Default)]
struct Receiver {
    heard: Arc<Mutex<Vec<(String, String)>>>,
    deaf: Arc<AtomicUsize>,
}

async fn take(With(receiver): With<Receiver>, headers: HeaderMap) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let heard = (header("x-buildctl-event"), header("x-buildctl-delivery"));
    receiver.heard.lock().unwrap().push(heard);
    let deaf = receiver
        .deaf
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
    if deaf.is_ok() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

impl Receiver {
    async fn listen(&self) -> String {
        let app = Router::new()
            .route("/", post(take))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    fn events(&self) -> Vec<String> {
        self.heard
            .lock()
            .unwrap()
            .iter()
            .map(|(event, _)| event.clone())
            .collect()
    }
}

/// Lets time pass until the job is settled.
async fn settled(bench: &Bench, id: JobId) -> Job {
    let pass = async {
        loop {
            bench.clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        job = bench.settled(id) => job,
        () = pass => unreachable!("time does not end"),
    }
}

#[tokio::test]
async fn events_are_posted_in_order_and_once() {
    let (bench, receiver) = (Bench::new(), Receiver::default());
    let webhook_url = receiver.listen().await;
    let id = bench
        .submit(JobConfig {
            webhook_url,
            ..config("app")
        })
        .await;
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
}

#[tokio::test]
async fn a_post_that_failed_is_repeated_and_the_next_waits_for_it() {
    let (bench, receiver) = (Bench::new(), Receiver::default());
    receiver.deaf.store(2, Ordering::Relaxed);
    let webhook_url = receiver.listen().await;
    let id = bench
        .submit(JobConfig {
            webhook_url,
            ..config("app")
        })
        .await;
    let job = settled(&bench, id).await;
    assert_eq!(
        receiver.events()[..4],
        [
            "build.started",
            "build.started",
            "build.started",
            "build.completed"
        ]
    );
    let deliveries: Vec<String> = receiver
        .heard
        .lock()
        .unwrap()
        .iter()
        .map(|(_, delivery)| delivery.clone())
        .collect();
    assert!(deliveries[0] == deliveries[2] && deliveries[2] != deliveries[3]);
    assert_eq!(job.notices[0].attempts, 3);
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
    let job = settled(&bench, id).await;
    assert_eq!(job.state, State::Succeeded);
    assert!(
        job.notices
            .iter()
            .all(|notice| notice.event != "job.completed")
    );
    assert!(
        job.notices[0]
            .result
            .as_ref()
            .unwrap()
            .starts_with("given up after 3 attempts")
    );
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
