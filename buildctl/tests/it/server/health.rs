//! How others watch the service, and what it gives to everybody.

use std::process::Command;

use buildctl::job::JobId;
use serde_json::json;

use super::*;
use crate::service::config;

#[tokio::test]
async fn an_engine_that_is_away_makes_the_service_unwell_and_not_ready_but_it_lives() {
    let stage = Stage::new(Bench::new()).await;
    stage.bench.engine.set_unreachable(true);
    let health = stage.get("/health").await;
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("unhealthy"))
    );
    assert_eq!(
        health.json()["services"],
        json!({"fake": "unhealthy", "ledger": "healthy"})
    );
    assert!(
        health.json()["problems"]["fake"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    assert_eq!(stage.get("/ready").await.status, 503);
    assert_eq!(stage.get("/live").await.status, 200);
    let metrics = stage.get("/metrics").await;
    assert!(
        metrics.body.contains("health_check{service=\"fake\"} 0\n"),
        "{}",
        metrics.body
    );
}

#[tokio::test]
async fn a_service_that_drains_is_not_ready() {
    let stage = Stage::new(Bench::new()).await;
    assert_eq!(stage.get("/ready").await.json()["status"], "ready");
    assert_eq!(stage.get("/health").await.json()["status"], "healthy");
    stage.readiness.begin_drain();
    let ready = stage.get("/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (503, &json!("draining"))
    );
}

#[tokio::test]
async fn numbers_are_in_prometheus_form() {
    let stage = Stage::new(Bench::new()).await;
    let id = stage.bench.submit(config("app")).await;
    let job = stage.bench.settled(id).await;
    stage.metrics.record(None, &job);
    let metrics = stage.get("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    for line in [
        "# TYPE build_duration_seconds histogram",
        "health_check{service=\"fake\"} 1",
        "buildctl_open_sockets 0",
    ] {
        assert!(metrics.body.contains(line), "{line}\n{}", metrics.body);
    }
    assert!(!metrics.body.contains(&id.to_string()));
}

#[tokio::test]
async fn the_program_is_handed_out_whole_and_once() {
    let stage = Stage::new(Bench::new()).await;
    let own = format!("/proc/{}/exe", std::process::id());
    let Ok(sum) = Command::new("sha256sum").arg(&own).output() else {
        eprintln!("skipped: needs sha256sum");
        return;
    };
    let digest = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    let tag = format!("\"{digest}\"");
    let head = stage.request("HEAD /v1/runner", &[], "").await;
    assert_eq!((head.status, head.header("etag")), (200, Some(&*tag)));
    let length = std::fs::metadata(&own).unwrap().len();
    assert_eq!(head.header("content-length"), Some(&*length.to_string()));
    let known = stage
        .request("GET /v1/runner", &[&format!("If-None-Match: {tag}")], "")
        .await;
    assert_eq!((known.status, &*known.body), (304, ""));
    assert_eq!(stage.get("/v1/runner?arch=mips").await.status, 404);
    assert!(downloaded(&stage).await == std::fs::read(&own).unwrap());
}

async fn downloaded(stage: &Stage) -> Vec<u8> {
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let request = format!("GET /v1/runner HTTP/1.0\r\nHost: {}\r\n\r\n", stage.address);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    answer.split_off(head + 4)
}

#[tokio::test]
async fn the_page_is_one_file_that_may_talk_to_its_service_only() {
    let stage = Stage::new(Bench::new()).await;
    let page = stage.get("/").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(policy.contains("connect-src 'self'") && policy.contains("frame-ancestors 'none'"));
    assert!(page.body.starts_with("<!doctype html>"));
}

#[tokio::test]
async fn every_route_is_in_the_document() {
    let stage = Stage::new(Bench::new()).await;
    let document = stage.get("/v1/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 15);
    for (path, methods) in paths {
        let path = path.replace("{job_id}", &JobId::random().to_string());
        for method in methods.as_object().unwrap().keys() {
            let answer = stage
                .request(&format!("{} {path}", method.to_uppercase()), &[], "{}")
                .await;
            let is_routed = answer.status != 405 && !answer.body.contains("there is nothing at");
            assert!(is_routed, "{method} {path}: {}", answer.body);
        }
    }
}
