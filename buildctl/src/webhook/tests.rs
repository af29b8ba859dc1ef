//! Posts to a receiver on this machine.

use std::sync::Mutex;

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};

use super::*;
use crate::{
    api::{JobConfig, WebhookPayload},
    job::JobId,
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a receiver got.
type Inbox = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

async fn receiver(status: StatusCode, location: Option<&'static str>) -> (String, Inbox) {
    let inbox = Inbox::default();
    let take = move |State(inbox): State<Inbox>, headers: HeaderMap, body: Bytes| async move {
        inbox.lock().unwrap().push((headers, body));
        let location = location.map(|to| [("location", to)]);
        (
            status,
            location.map_or_else(HeaderMap::new, |to| {
                to.into_iter()
                    .map(|(name, value)| {
                        (
                            HeaderName::from_static(name),
                            HeaderValue::from_static(value),
                        )
                    })
                    .collect()
            }),
        )
    };
    let app = Router::new()
        .route("/hook", post(take))
        .with_state(Arc::clone(&inbox));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, inbox)
}

fn webhooks() -> Webhooks {
    Webhooks::new(Egress {
        allow_private: true,
        hosts: Vec::new(),
    })
}

fn job(url: String) -> Job {
    let config = JobConfig {
        owner: "o".to_owned(),
        webhook_url: url,
        webhook_secret: "key".to_owned(),
        webhook_headers: [
            ("X-Team", "a"),
            ("User-Agent", "mine"),
            ("Host", "other"),
            ("bad name", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        ..JobConfig::default()
    };
    Job {
        trace: TRACE.parse().ok(),
        ..Job::new(JobId::of_key("k"), config, Timestamp::UNIX_EPOCH)
    }
}

fn notice() -> Notice {
    Notice {
        event: "build.started".to_owned(),
        delivery: uuid::Uuid::from_u128(7),
        at: Timestamp::UNIX_EPOCH,
        attempts: 1,
        due: None,
        result: None,
        body: None,
        given_up: false,
    }
}

/// A notice with its body, as it is when it is posted.
fn written(job: &Job) -> Notice {
    let mut notice = notice();
    notice.body = serde_json::to_string(&WebhookPayload::of(job, &notice)).ok();
    notice
}

#[test]
fn signatures_are_those_of_the_standard() {
    // RFC 4231, test case 2.
    assert_eq!(
        signature("Jefe", b"what do ya want for nothing?"),
        "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[tokio::test]
async fn a_post_is_signed_and_names_its_event() {
    let (url, inbox) = receiver(StatusCode::NO_CONTENT, None).await;
    let job = job(url);
    let notice = written(&job);
    let result = webhooks().post(&job, &notice).await;
    assert_eq!(result, Delivery::Done("204 No Content".to_owned()));
    let (headers, body) = inbox.lock().unwrap().pop().unwrap();
    assert_eq!(body, notice.body.unwrap());
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-webhook-signature"), signature("key", &body));
    assert_eq!(header("x-buildctl-event"), "build.started");
    assert_eq!(
        header("x-buildctl-delivery"),
        "00000000-0000-0000-0000-000000000007"
    );
    assert_eq!(
        (header("x-team"), header("user-agent")),
        ("a".to_owned(), "mine".to_owned())
    );
    assert_eq!(header("traceparent"), TRACE);
    assert!(header("host").starts_with("127.0.0.1:"));
    assert_eq!(header("content-type"), "application/json");
    let payload: WebhookPayload = serde_json::from_slice(&body).unwrap();
    assert_eq!(payload.status, crate::job::State::Building);
    assert!(
        !String::from_utf8_lossy(&body).contains("key\""),
        "the secret stays here"
    );
}

#[test]
fn answers_that_will_stay_the_same_are_told_from_those_that_may_pass() {
    let means = |status: u16, asked: Option<&'static str>| {
        let asked = asked.map(|asked| (header::RETRY_AFTER, HeaderValue::from_static(asked)));
        let now = Timestamp::constant(1_795_248_000, 0);
        meaning(
            StatusCode::from_u16(status).unwrap(),
            &asked.into_iter().collect(),
            now,
        )
    };
    for status in [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451] {
        let said = means(status, Some("5"));
        assert!(matches!(said, Delivery::Hopeless(_)), "{said:?}");
    }
    for status in [301, 408, 425, 429, 500, 502, 503, 504] {
        let Delivery::Failed { why, pause } = means(status, Some("5")) else {
            panic!("{status}");
        };
        assert!(why.contains(&status.to_string()), "{why}");
        assert_eq!(pause, Some(Duration::from_secs(5)));
    }
    let date = means(503, Some("Sat, 21 Nov 2026 08:02:00 GMT"));
    assert!(
        matches!(date, Delivery::Failed { pause: Some(pause), .. } if pause.as_secs() == 120),
        "{date:?}"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_success_is_a_failure_and_no_redirect_is_followed() {
    let (elsewhere, inbox) = receiver(StatusCode::OK, None).await;
    let leaked: &'static str = Box::leak(elsewhere.into_boxed_str());
    let (url, _) = receiver(StatusCode::FOUND, Some(leaked)).await;
    let job = job(url);
    let result = webhooks().post(&job, &written(&job)).await;
    let why = "the receiver answered 302 Found".to_owned();
    assert_eq!(result, Delivery::Failed { why, pause: None });
    assert!(inbox.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_a_failure_that_does_not_show_the_url() {
    let url = "http://127.0.0.1:1/hook?token=secret".to_owned();
    let job = job(url);
    let Delivery::Failed { why, .. } = webhooks().post(&job, &written(&job)).await else {
        panic!("it cannot be delivered");
    };
    assert!(!why.contains("secret") && why.contains("refused"), "{why}");
}

#[tokio::test]
async fn a_name_of_this_machine_is_refused_and_nothing_is_sent() {
    let (url, inbox) = receiver(StatusCode::OK, None).await;
    let url = url.replace("127.0.0.1", "localhost");
    let job = job(url);
    let result = Webhooks::default().post(&job, &written(&job)).await;
    assert!(
        matches!(&result, Delivery::Hopeless(why) if why.contains("`localhost`")),
        "{result:?}"
    );
    assert!(inbox.lock().unwrap().is_empty());
}
