//! Jobs as resources of `/v1`.

use std::time::Duration;

use buildctl::{job::State, scheduler::fake::Play};
use serde_json::json;

use super::{
    events::{all, ended, talking},
    *,
};
use crate::service::config;

#[tokio::test]
async fn a_job_has_a_place_where_it_is_waited_for() {
    let stage = Stage::new(talking()).await;
    let body = json!({"job_config": config("app"), "idempotency_key": "one"});
    let answer = stage.post("/v1/jobs", &body).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let place = answer.header("location").unwrap().to_owned();
    assert_eq!(
        stage.post("/v1/jobs", &body).await.status,
        200,
        "the same one"
    );
    let other = json!({"job_config": config("other"), "idempotency_key": "one"});
    assert_eq!(stage.post("/v1/jobs", &other).await.status, 409);

    let id = answer.json()["job_id"].as_str().unwrap().parse().unwrap();
    stage.bench.in_state(id, State::Building).await;
    let at_once = stage.get(&format!("{place}?wait=0s")).await;
    assert_eq!(at_once.json()["state"], "BUILDING");
    let path = format!("{place}?wait=30s");
    let (waited, ()) = tokio::join!(stage.get(&path), async {
        stage.bench.clock.advance(Duration::from_secs(11));
    });
    assert_eq!(waited.json()["state"], "SUCCEEDED");
    assert_eq!(stage.get(&format!("{place}?wait=soon")).await.status, 400);
    assert_eq!(
        stage
            .request(&format!("DELETE {place}"), &[], "")
            .await
            .status,
        204
    );
    assert_eq!(stage.get(&place).await.status, 404);
}

#[tokio::test]
async fn whoever_waits_is_answered_when_the_service_ends() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless())).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let path = format!("/v1/jobs/{id}?wait=60s");
    let (answer, ()) = tokio::join!(stage.get(&path), async {
        // Connections are taken in order: when these are answered, the first one is heard.
        for _ in 0..3 {
            stage.get("/live").await;
        }
        stage.trigger.drain();
    });
    assert_eq!(answer.json()["state"], "BUILDING");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let stage = Stage::new(Bench::new()).await;
    for image in ["a", "b", "c"] {
        let id = stage.bench.submit(config(image)).await;
        stage.bench.settled(id).await;
        stage.bench.clock.advance(Duration::from_secs(1));
    }
    let of = async |query: &str| {
        let list = stage.get(&format!("/v1/jobs?{query}")).await.json();
        let jobs = list["jobs"].as_array().unwrap().iter();
        let names: Vec<String> = jobs
            .map(|job| job["config"]["image_name"].as_str().unwrap().into())
            .collect();
        (names.concat(), list["total"].as_u64().unwrap())
    };
    assert_eq!(of("").await, ("cba".into(), 3));
    assert_eq!(of("limit=1&offset=1").await, ("b".into(), 3));
    assert_eq!(of("status=failed").await, (String::new(), 0));
    assert_eq!(of("ended=true&owner=team").await, ("cba".into(), 3));
    assert_eq!(of("owner=others").await, (String::new(), 0));
    assert_eq!(stage.get("/v1/jobs?status=odd").await.status, 400);
    assert_eq!(stage.get("/v1/jobs?limit=many").await.status, 400);
}

#[tokio::test]
async fn no_answer_has_a_secret() {
    let stage = Stage::new(Bench::new()).await;
    let mut secret = config("app");
    secret.webhook_url = "http://127.0.0.1:9/hook".into();
    secret.webhook_secret = "m4rked".into();
    secret
        .webhook_headers
        .insert("X-Key".into(), "m4rked-too".into());
    let id = stage.bench.submit(secret).await;
    stage.bench.in_state(id, State::Succeeded).await;
    for path in [
        format!("/v1/jobs/{id}"),
        "/v1/jobs".into(),
        format!("/json/job/{id}/status"),
        format!("/v1/jobs/{id}/logs?follow=1"),
    ] {
        let answer = stage.get(&path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("m4rked"), "{path}: {}", answer.body);
    }
    let history = stage.post("/json/getHistory", &json!({})).await;
    assert!(history.body.contains(&id.to_string()) && !history.body.contains("m4rked"));
}

#[tokio::test]
async fn a_log_is_read_in_pages() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    let (mut texts, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = stage
            .get(&format!("/v1/jobs/{id}/logs?max_bytes=60&cursor={cursor}"))
            .await
            .json();
        let lines = page["lines"].as_array().unwrap().iter();
        texts.extend(lines.map(|line| line["text"].as_str().unwrap().to_owned()));
        page["next"].as_str().unwrap().clone_into(&mut cursor);
        pages += 1;
        if page["complete"] == true {
            break;
        }
        assert_eq!(page["more"], true);
    }
    assert_eq!(texts, all());
    assert!(pages > 3, "{pages}");
}
