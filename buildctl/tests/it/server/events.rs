//! Logs as server-sent events.

use std::time::Duration;

use buildctl::{
    job::{JobId, State},
    logs::Stream,
    phase::Run,
    scheduler::fake::Play,
};

use super::*;
use crate::service::config;

/// A build that says a line every second for so long.
pub(super) fn talking() -> Bench {
    Bench::with(&|_, run| match run {
        Run::Build => Play {
            takes: Duration::from_secs(10),
            says: (0..10)
                .map(|n| {
                    (
                        Duration::from_secs(n),
                        Stream::Stdout,
                        format!("second {n}"),
                    )
                })
                .collect(),
            ..Play::default()
        },
        _ => Play::default().saying([format!("{run} is done")]),
    })
}

pub(super) fn all() -> Vec<String> {
    let runs = ["test-cmd-0", "test-cmd-1", "publish"].map(|run| format!("{run} is done"));
    (0..10).map(|n| format!("second {n}")).chain(runs).collect()
}

pub(super) async fn ended(bench: &Bench) -> JobId {
    let id = bench.submit(config("app")).await;
    bench.in_state(id, State::Building).await;
    bench.clock.advance(Duration::from_secs(11));
    bench.settled(id).await;
    id
}

struct Message {
    event: String,
    id: String,
    data: Value,
}

fn messages(answer: &Answer) -> Vec<Message> {
    let parts = answer
        .body
        .split("\n\n")
        .filter(|part| part.contains("event: "));
    let field = |part: &str, name: &str| {
        let line = part
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default().to_owned()
    };
    parts
        .map(|part| Message {
            event: field(part, "event"),
            id: field(part, "id"),
            data: serde_json::from_str(&field(part, "data")).unwrap(),
        })
        .collect()
}

fn texts(messages: &[Message]) -> Vec<String> {
    let lines = messages.iter().filter(|message| message.event == "line");
    lines
        .map(|line| line.data["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_log_is_told_to_its_end_and_says_how_it_ended() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    let answer = stage.get(&format!("/v1/jobs/{id}/logs?follow=1")).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    let messages = messages(&answer);
    assert_eq!(texts(&messages), all());
    let end = messages.last().unwrap();
    assert_eq!(
        (&*end.event, &end.data["status"]),
        ("end", &Value::from("SUCCEEDED"))
    );
    let line = messages
        .iter()
        .find(|message| message.event == "line")
        .unwrap();
    assert_eq!(
        (&line.data["run"], &line.data["phase"], &line.data["stream"]),
        (&"build".into(), &"build".into(), &"stdout".into())
    );
}

#[tokio::test]
async fn a_browser_goes_on_behind_the_last_id_that_it_saw() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    let first = messages(&stage.get(&format!("/v1/jobs/{id}/logs?follow=1")).await);
    let tests = first
        .iter()
        .find(|message| message.data["run"] == "test-cmd-0")
        .unwrap();
    let headers = [
        "Accept: text/event-stream",
        &format!("Last-Event-ID: {}", tests.id),
    ];
    let line = format!("GET /v1/jobs/{id}/logs?cursor=ignored.for.this");
    let rest = messages(&stage.request(&line, &headers, "").await);
    assert_eq!(texts(&rest), all()[11..]);
}

#[tokio::test]
async fn parts_are_asked_for_by_phase_tail_and_words() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    let of = async |query: &str| {
        texts(&messages(
            &stage
                .get(&format!("/v1/jobs/{id}/logs?follow=1&{query}"))
                .await,
        ))
    };
    assert_eq!(of("phase=test").await, all()[10..12]);
    assert_eq!(of("tail=2").await, all()[11..]);
    assert_eq!(of("grep=second%20[78]").await, all()[7..9]);
    for wrong in ["cursor=nothing", "phase=none", "grep=("] {
        let answer = stage
            .get(&format!("/v1/jobs/{id}/logs?follow=1&{wrong}"))
            .await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.body);
    }
    let unknown = stage
        .get(&format!("/v1/jobs/{}/logs?follow=1", JobId::random()))
        .await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn a_service_that_ends_says_so() {
    let stage = Stage::new(talking()).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let path = format!("/v1/jobs/{id}/logs?follow=1");
    let (answer, ()) = tokio::join!(stage.get(&path), async {
        // The stream is there when its job is read.
        while stage.bench.engine.most_readers() == 0 {
            tokio::task::yield_now().await;
        }
        stage.trigger.drain();
    });
    assert_eq!(messages(&answer).last().unwrap().event, "away");
}
