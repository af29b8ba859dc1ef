//! Whole conversations with a served router, over real sockets.

use std::future::pending;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::http::problem::Problem;
use crate::shutdown::Readiness;

/// A server in a task, until it is told to drain.
struct Served {
    address: Address,
    drain: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Served {
    async fn start(router: Router, options: ServeOptions) -> Self {
        let bound = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self::on(bound, router, options)
    }

    fn on(bound: Bound, router: Router, options: ServeOptions) -> Self {
        let address = bound.address().clone();
        let (drain, drained) = oneshot::channel();
        let shutdown = async {
            let _ = drained.await;
        };
        let task = tokio::spawn(serve(bound, None, router, options, shutdown));
        Self {
            address,
            drain: Some(drain),
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.tcp().unwrap())
            .await
            .unwrap()
    }

    /// One request on a connection of its own; the whole answer.
    async fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn drain(&mut self) {
        self.drain.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        self.task.await.unwrap().unwrap();
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Reads until `what` has come.
async fn read_until(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(what) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_request_is_answered_and_carries_its_peer() {
    let router = Router::new().route(
        "/peer",
        get(async |Extension(peer): Extension<Peer>| peer.to_string()),
    );
    let served = Served::start(router, ServeOptions::default()).await;
    let answer = served.ask("GET /peer HTTP/1.1", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(body(&answer).starts_with("127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn draining_closes_idle_connections_and_refuses_new_ones() {
    let mut served = Served::start(hello(), ServeOptions::default()).await;
    let mut kept_alive = served.connect().await;
    kept_alive
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut kept_alive, "hello").await;
    served.drain();
    assert_eq!(kept_alive.read(&mut [0; 8]).await.unwrap(), 0);
    let address = served.address.tcp().unwrap();
    served.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_connection_that_never_spoke_does_not_hold_up_the_drain() {
    let mut served = Served::start(hello(), ServeOptions::default()).await;
    let mut silent = served.connect().await;
    // A second connection's answer says that the first was accepted before it.
    served.ask("GET / HTTP/1.1", "").await;
    served.drain();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    served.ended().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished() {
    let (entered, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (in_handler, go_on) = (entered.clone(), finish.clone());
    let handler = async move || {
        in_handler.notify_one();
        go_on.notified().await;
        "late"
    };
    let mut served = Served::start(
        Router::new().route("/", get(handler)),
        ServeOptions::default(),
    )
    .await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    served.drain();
    finish.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(body(&answer), "late");
    served.ended().await;
}

#[tokio::test]
async fn the_deadline_cuts_off_what_does_not_finish() {
    let entered = Arc::new(Notify::new());
    let in_handler = entered.clone();
    let handler = async move || {
        in_handler.notify_one();
        pending::<()>().await;
    };
    let options = ServeOptions {
        drain_deadline: Duration::from_millis(20),
        ..ServeOptions::default()
    };
    let mut served = Served::start(Router::new().route("/", get(handler)), options).await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    served.drain();
    served.ended().await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let options = ServeOptions {
        header_timeout: Duration::from_millis(20),
        ..ServeOptions::default()
    };
    let served = Served::start(hello(), options).await;
    let mut stream = served.connect().await;
    stream.write_all(b"GET / HT").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let options = ServeOptions {
        max_connections: 1,
        ..ServeOptions::default()
    };
    let served = Served::start(hello(), options).await;
    let mut first = served.connect().await;
    first
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut first, "hello").await;
    let mut second = served.connect().await;
    second
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), second.read(&mut [0; 8])).await;
    assert!(
        early.is_err(),
        "the second connection was served beside the first"
    );
    drop(first);
    read_until(&mut second, "hello").await;
}

#[tokio::test]
async fn a_handler_that_panics_takes_only_its_connection_down() {
    let router = hello().route(
        "/bug",
        get(async || -> &'static str { panic!("a bug in a handler") }),
    );
    let served = Served::start(router, ServeOptions::default()).await;
    assert_eq!(served.ask("GET /bug HTTP/1.1", "").await, "");
    assert_eq!(body(&served.ask("GET / HTTP/1.1", "").await), "hello");
}

#[tokio::test]
async fn an_upgraded_connection_outlives_the_drain() {
    let router = Router::new().route(
        "/echo",
        get(async |mut request: Request| {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                io.write_all(&word).await.unwrap();
            });
            (
                StatusCode::SWITCHING_PROTOCOLS,
                [("connection", "upgrade"), ("upgrade", "echo")],
            )
        }),
    );
    let mut served = Served::start(router, ServeOptions::default()).await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    served.drain();
    served.ended().await;
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_served_and_removed_when_draining_begins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.sock");
    let bound = bind(&Listen::Unix { path: path.clone() }).await.unwrap();
    let mut served = Served::on(bound, hello(), ServeOptions::default());
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(body(&answer), "hello");
    served.drain();
    served.ended().await;
    assert!(!path.exists());
}

fn layered(limit: usize) -> Router {
    let router = Router::new()
        .route("/id", get(async |Extension(id): Extension<RequestId>| id.0))
        .route(
            "/no",
            get(async || Problem::new(StatusCode::CONFLICT, "it runs already")),
        )
        .route("/sum", post(async |body: Bytes| body.len().to_string()));
    standard_layers(
        problem_fallbacks(router),
        &LayerOptions { body_limit: limit },
    )
}

#[tokio::test]
async fn a_clients_request_id_is_kept_and_a_harmful_one_is_not() {
    let served = Served::start(layered(10), ServeOptions::default()).await;
    let answer = served
        .ask("GET /id HTTP/1.1\r\nx-request-id: abc-1", "")
        .await;
    assert_eq!(body(&answer), "abc-1");
    assert!(answer.contains("x-request-id: abc-1\r\n"), "{answer}");
    let answer = served
        .ask("GET /id HTTP/1.1\r\nx-request-id: a \"b\"", "")
        .await;
    assert_eq!(body(&answer).len(), 32);
    assert!(
        answer.contains(&format!("x-request-id: {}\r\n", body(&answer))),
        "{answer}"
    );
    let again = served.ask("GET /id HTTP/1.1", "").await;
    assert_ne!(body(&answer), body(&again));
}

#[tokio::test]
async fn a_problem_names_its_request() {
    let served = Served::start(layered(10), ServeOptions::default()).await;
    let answer = served.ask("GET /no HTTP/1.1\r\nx-request-id: r7", "").await;
    assert!(answer.starts_with("HTTP/1.1 409 Conflict\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/problem+json\r\n"),
        "{answer}"
    );
    assert_eq!(
        body(&answer),
        r#"{"type":"about:blank","title":"Conflict","status":409,"detail":"it runs already","request_id":"r7"}"#
    );
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let served = Served::start(layered(10), ServeOptions::default()).await;
    let answer = served.ask("GET /nowhere HTTP/1.1", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("there is nothing at `/nowhere`"),
        "{answer}"
    );
    let answer = served.ask("PUT /id HTTP/1.1", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("`/id` does not take PUT"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_whether_its_length_is_told_or_not() {
    let served = Served::start(layered(10), ServeOptions::default()).await;
    let sum = async |head: &str, body: &str| {
        served
            .ask(&format!("POST /sum HTTP/1.1\r\n{head}"), body)
            .await
    };
    assert_eq!(body(&sum("content-length: 10", "0123456789").await), "10");
    let told = sum("content-length: 11", "0123456789a").await;
    assert!(
        told.starts_with("HTTP/1.1 413 ") && told.contains("longer than 10 bytes"),
        "{told}"
    );
    let chunked = sum(
        "transfer-encoding: chunked",
        "b\r\n0123456789a\r\n0\r\n\r\n",
    )
    .await;
    assert!(chunked.starts_with("HTTP/1.1 413 "), "{chunked}");
}

#[tokio::test]
async fn readiness_follows_the_latch_and_the_drain() {
    let (readiness, latch) = Readiness::new();
    let served = Served::start(
        health_routes(readiness.clone(), || "up 1\n".to_owned()),
        ServeOptions::default(),
    )
    .await;
    let ask = async |path: &str| served.ask(&format!("GET {path} HTTP/1.1"), "").await;
    let starting = ask("/ready").await;
    assert!(
        starting.starts_with("HTTP/1.1 503 ") && starting.ends_with(r#"{"status":"starting"}"#),
        "{starting}"
    );
    latch.release();
    assert!(ask("/ready").await.starts_with("HTTP/1.1 200 "));
    readiness.begin_drain();
    let draining = ask("/ready").await;
    assert!(
        draining.starts_with("HTTP/1.1 503 ") && draining.ends_with(r#"{"status":"draining"}"#),
        "{draining}"
    );
    assert_eq!(body(&ask("/health").await), r#"{"status":"ok"}"#);
    let metrics = ask("/metrics").await;
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{metrics}"
    );
    assert_eq!(body(&metrics), "up 1\n");
}
