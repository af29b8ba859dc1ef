//! Agents and the service: conversations over HTTP in both eras of the protocol and by a pipe, over the fake scheduler and the
//! ledger in memory.

mod eras;
mod http;
mod logs;
mod pipe;
mod resources;
mod schemas;
mod tools;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode},
};
use buildctl::{
    clock::Clock,
    job::{Job, JobId, State},
    ledger::{Ledger, memory::MemoryLedger},
    logs::Stream,
    mcp,
    phase::Run,
    scheduler::fake::{FakeScheduler, Play},
    service::{Builds, Reconciler, Service},
    webhook::{Egress, Webhooks},
};
use futures_util::StreamExt;
use runyard_common::testing::patience;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::service::policy;

/// What the metadata of requests is called in the newer era.
const META: &str = "io.modelcontextprotocol";

/// A service with agents before it.
struct Office {
    ledger: Arc<MemoryLedger>,
    engine: FakeScheduler,
    builds: Arc<dyn Builds>,
    door: Router,
}

/// Builds go as the name of their image says; everything else succeeds at once.
fn play(job: &Job, run: Run) -> Play {
    match (run, &*job.config.image_name) {
        (Run::Build, "endless") => Play::endless().saying(["STEP 1: FROM scratch"]),
        (Run::Build, "long") => {
            let lines = (0..3000).map(|n| format!("\u{1b}[1mstep {n}\u{1b}[0m of \"the\" build"));
            Play::default().saying(lines)
        }
        (Run::Build, "second") => Play {
            takes: Duration::from_secs(1),
            says: vec![(
                Duration::ZERO,
                Stream::Stdout,
                "STEP 1: FROM scratch".to_owned(),
            )],
            ..Play::default()
        },
        (Run::TestCommand(0), "broken") => Play::fails(1, "exit code 1").saying([
            "collected 3 items",
            "tests/test_a.py FAILED",
            "1 failed, 2 passed",
        ]),
        (run, _) => Play::default().saying([format!("{run} says this")]),
    }
}

/// A service over these seams: one of several replicas, if there are others over the same.
fn replica(ledger: &Arc<MemoryLedger>, engine: &FakeScheduler) -> Arc<dyn Builds> {
    let webhooks = Webhooks::new(Egress {
        allow_private: true,
        hosts: Vec::new(),
    });
    let scheduler = Arc::new(engine.clone());
    let reconciler = Reconciler::new(ledger.clone(), scheduler.clone(), policy(), webhooks);
    Arc::new(Service::new(ledger.clone(), scheduler, reconciler))
}

fn door(builds: &Arc<dyn Builds>) -> Router {
    Router::new().nest("/mcp", mcp::service(Arc::clone(builds)))
}

/// An answer to a request: its status, its headers, and its messages, as one JSON document or as a stream of them.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    messages: Vec<Value>,
}

impl Answer {
    /// The one that answers; whatever came before it are notifications.
    #[track_caller]
    fn last(&self) -> &Value {
        self.messages.last().expect("a message")
    }

    #[track_caller]
    fn result(&self) -> &Value {
        let last = self.last();
        assert!(last["error"].is_null(), "{last}");
        &last["result"]
    }

    #[track_caller]
    fn code(&self) -> i64 {
        self.last()["error"]["code"].as_i64().expect("an error")
    }

    fn is_stream(&self) -> bool {
        self.headers["content-type"] == "text/event-stream"
    }
}

/// A request with these headers, as a client of this machine sends it.
fn request(headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::post("/mcp").body(body.into()).unwrap();
    let usual = [
        ("host", "127.0.0.1:8080"),
        ("content-type", "application/json"),
    ];
    for (name, value) in usual.iter().chain(headers) {
        let name: HeaderName = name.parse().unwrap();
        request
            .headers_mut()
            .insert(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn send(door: &Router, request: Request<Body>) -> Answer {
    let answered = timeout(patience(), async {
        let response = door.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts, to_bytes(body, 16 << 20).await.unwrap())
    });
    let (parts, bytes) = answered.await.expect("an answer");
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let stream = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let messages = match serde_json::from_str(&text) {
        Ok(message) => vec![message],
        Err(_) => stream
            .filter_map(|data| serde_json::from_str(data.trim()).ok())
            .collect(),
    };
    Answer {
        status: parts.status,
        headers: parts.headers,
        messages,
    }
}

/// A message of the older era.
fn old(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// What clients of the older era send with their messages.
const OLD: [(&str, &str); 2] = [
    ("accept", "application/json, text/event-stream"),
    ("mcp-protocol-version", "2025-11-25"),
];

/// A message of the newer era, and its headers.
fn new(method: &str, params: &Value) -> Request<Body> {
    let mut params = params.clone();
    params["_meta"][format!("{META}/protocolVersion")] = "2026-07-28".into();
    params["_meta"][format!("{META}/clientCapabilities")] = json!({});
    let name = params["name"]
        .as_str()
        .or(params["uri"].as_str())
        .or(params["taskId"].as_str())
        .unwrap_or_default();
    let mut headers = vec![
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
    ];
    let name = name.to_owned();
    if !name.is_empty() {
        headers.push(("mcp-name", &name));
    }
    request(&headers, old(method, &params).to_string())
}

impl Office {
    fn open() -> Self {
        let ledger = Arc::new(MemoryLedger::default());
        let engine = FakeScheduler::new(Clock::System);
        engine.script(play);
        let builds = replica(&ledger, &engine);
        Self {
            door: door(&builds),
            ledger,
            engine,
            builds,
        }
    }

    /// Asks in the older era.
    async fn ask(&self, method: &str, params: &Value) -> Answer {
        send(&self.door, request(&OLD, old(method, params).to_string())).await
    }

    /// Asks in the newer era.
    async fn ask_anew(&self, method: &str, params: &Value) -> Answer {
        send(&self.door, new(method, params)).await
    }

    /// Calls a tool: its result.
    async fn tool(&self, name: &str, arguments: Value) -> Value {
        let params = json!({"name": name, "arguments": arguments});
        self.ask("tools/call", &params).await.result().clone()
    }

    /// Calls a tool that answers: its structured answer, which is the same as its text.
    async fn answer(&self, name: &str, arguments: Value) -> Value {
        let result = self.tool(name, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        let text: Value =
            serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        text
    }

    /// Calls a tool that refuses: what it says.
    async fn refusal(&self, name: &str, arguments: Value) -> String {
        let result = self.tool(name, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Submits a job for this image, with a test.
    async fn submit(&self, image: &str) -> JobId {
        let mut arguments = arguments(image);
        arguments["test"] = json!({"commands": ["make test"]});
        let answer = self.answer("submitJob", arguments).await;
        answer["job_id"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until a job is in this state.
    async fn until(&self, id: JobId, state: State) {
        let mut changes = self.ledger.changes();
        let seen = async {
            while self.ledger.get(id).await.unwrap().unwrap().job.state != state {
                while changes.next().await != Some(id) {}
            }
        };
        timeout(patience(), seen).await.expect("the state");
    }

    async fn ended(&self, image: &str, state: State) -> JobId {
        let id = self.submit(image).await;
        self.until(id, state).await;
        id
    }
}

/// What a job for this image needs.
fn arguments(image: &str) -> Value {
    json!({
        "owner": "team",
        "repo_url": "https://git.test/app.git",
        "image_name": image,
        "registry_url": "registry.test:5000"
    })
}
