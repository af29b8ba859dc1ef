//! Calls to a real server, over TCP, Unix sockets and TLS.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::backoff::Backoff;
use crate::http::problem::Problem;
use crate::http::server::{self, Listen, ServeOptions, Tls, TlsConfig};
use crate::report;

/// A server in a thread of its own, as the blocking client needs it; it ends when this is dropped.
struct Server {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(router: Router) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), None, router)
    }

    fn on(listen: Listen, tls: Option<Tls>, router: Router) -> Self {
        let (announce, announced) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let bound = server::bind(&listen).await.unwrap();
                announce.send(bound.address().to_string()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                server::serve(bound, tls, router, ServeOptions::default(), stopped)
                    .await
                    .unwrap();
            });
        });
        Self {
            address: announced.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn client(&self) -> Client {
        self.client_with(quick())
    }

    fn client_with(&self, options: ClientOptions) -> Client {
        Client::new(
            "tester/1.0",
            &format!("http://{}/api/", self.address),
            options,
        )
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Options whose retries do not make a test wait.
fn quick() -> ClientOptions {
    let backoff = Backoff {
        initial: Duration::from_millis(1),
        ..Backoff::default()
    };
    ClientOptions {
        retry: Retry {
            backoff,
            ..Retry::default()
        },
        ..ClientOptions::default()
    }
}

/// A route that answers `status` until the third request, and counts them.
fn flaky(status: StatusCode) -> (Router, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counting = count.clone();
    let handler = async move || {
        let request = counting.fetch_add(1, Ordering::SeqCst) + 1;
        if request < 3 {
            status.into_response()
        } else {
            "at last".into_response()
        }
    };
    (
        Router::new().route(
            "/api/x",
            get(handler.clone()).put(handler.clone()).post(handler),
        ),
        count,
    )
}

fn shown(failure: Failure) -> String {
    report::render(&failure.into(), false)
}

#[test]
fn a_call_goes_below_the_base_with_query_headers_token_and_body() {
    let echo = async |request: Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1000).await.unwrap();
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        axum::Json(json!({
            "uri": parts.uri.to_string(),
            "agent": header("user-agent"),
            "authorization": header("authorization"),
            "x": header("x-a"),
            "body": serde_json::from_slice::<Value>(&body).unwrap(),
        }))
    };
    let server = Server::start(Router::new().fallback(echo));
    let client = server.client_with(ClientOptions {
        token: Some("t0ken".into()),
        ..quick()
    });
    let call = client
        .post(&path(&["tasks", "a b/c"]))
        .query("q", "1&2")
        .header("x-a", "y")
        .json(&json!({"n": 1}));
    assert_eq!(
        call.send().unwrap().json::<Value>().unwrap(),
        json!({
            "uri": "/api/tasks/a%20b%2Fc?q=1%262", "agent": "tester/1.0", "authorization": "Bearer t0ken", "x": "y",
            "body": {"n": 1},
        })
    );
}

#[test]
fn what_may_pass_is_tried_again() {
    for status in [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
    ] {
        let (router, count) = flaky(status);
        let server = Server::start(router);
        assert_eq!(
            server.client().get("x").send().unwrap().text().unwrap(),
            "at last"
        );
        assert_eq!(count.load(Ordering::SeqCst), 3, "{status}");
    }
}

#[test]
fn a_post_and_an_error_that_will_not_pass_are_not_tried_again() {
    let (router, count) = flaky(StatusCode::SERVICE_UNAVAILABLE);
    let server = Server::start(router);
    let failure = server.client().post("x").send().unwrap_err();
    assert_eq!(
        (failure.exit(), count.load(Ordering::SeqCst)),
        (Exit::Unreachable, 1)
    );

    let (router, count) = flaky(StatusCode::INTERNAL_SERVER_ERROR);
    let server = Server::start(router);
    let failure = server.client().get("x").send().unwrap_err();
    assert_eq!(
        (failure.exit(), count.load(Ordering::SeqCst)),
        (Exit::Failed, 1)
    );
}

#[test]
fn a_wait_beyond_the_total_time_is_not_begun() {
    let (router, count) = flaky(StatusCode::SERVICE_UNAVAILABLE);
    let server = Server::start(router);
    let backoff = Backoff {
        initial: Duration::from_hours(1),
        max: Duration::from_hours(1),
        ..Backoff::default()
    };
    let retry = Retry {
        backoff,
        ..Retry::default()
    };
    let options = ClientOptions {
        total_timeout: Some(Duration::from_secs(30)),
        retry,
        ..quick()
    };
    assert_eq!(
        server
            .client_with(options)
            .get("x")
            .send()
            .unwrap_err()
            .exit(),
        Exit::Unreachable
    );
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Client::new("tester/1.0", &format!("http://127.0.0.1:{port}"), quick()).unwrap();
    let failure = client.get("/x").send().unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    let text = shown(failure);
    assert!(
        text.starts_with(&format!(
            "error: cannot reach http://127.0.0.1:{port}\n  caused by: "
        )),
        "{text}"
    );
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_server_that_says_nothing_is_unreachable() {
    let server = Server::start(Router::new().route("/api/x", get(std::future::pending::<()>)));
    let client = server.client();
    let failure = client
        .get("x")
        .read_timeout(Duration::from_millis(50))
        .send()
        .unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    assert!(
        failure
            .message()
            .starts_with("no answer in time to GET http://127.0.0.1:"),
        "{failure}"
    );
}

#[test]
fn a_problem_is_told_in_its_own_words() {
    let problem =
        Problem::new(StatusCode::CONFLICT, "task `web` runs already").hint("stop it first");
    let server = Server::start(Router::new().route("/api/x", post(problem)));
    let failure = server.client().post("x").send().unwrap_err();
    assert_eq!(failure.exit(), Exit::Failed);
    assert_eq!(
        shown(failure),
        "error: task `web` runs already\n  hint: stop it first\n"
    );
}

#[test]
fn a_problem_of_the_servers_own_names_the_request() {
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it broke").request_id("r9");
    let server = Server::start(Router::new().route("/api/x", get(problem)));
    let text = shown(server.client().get("x").send().unwrap_err());
    assert_eq!(
        text,
        "error: it broke\n  hint: the server's log knows more: request r9\n"
    );
}

#[test]
fn an_answer_that_is_no_problem_is_quoted() {
    let server = Server::start(Router::new().route(
        "/api/x",
        get((StatusCode::IM_A_TEAPOT, "short and stout\n")),
    ));
    let text = shown(server.client().get("x?secret=1").send().unwrap_err());
    let place = format!("GET http://{}/api/x", server.address);
    assert_eq!(
        text,
        format!(
            "error: {place} was answered with 418 I'm a teapot\n  caused by: short and stout\n"
        )
    );
}

#[test]
fn statuses_earn_their_exit_codes() {
    let status =
        async |headers: HeaderMap| StatusCode::from_bytes(headers["x-want"].as_bytes()).unwrap();
    let server = Server::start(Router::new().route("/api/x", get(status)));
    let client = server.client_with(ClientOptions {
        retry: Retry::NEVER,
        ..ClientOptions::default()
    });
    let exit = |want: &str| {
        client
            .get("x")
            .header("x-want", want)
            .send()
            .unwrap_err()
            .exit()
    };
    let codes = ["404", "410", "401", "500", "502", "503", "504"].map(exit);
    let (missing, no, away) = (Exit::NotFound, Exit::Failed, Exit::Unreachable);
    assert_eq!(codes, [missing, missing, no, no, away, away, away]);
    assert_eq!(
        client
            .get("x")
            .header("x-want", "404")
            .send_any()
            .unwrap()
            .status(),
        404
    );
}

#[test]
fn a_body_that_is_not_what_was_expected_is_told() {
    let server = Server::start(Router::new().route("/api/x", get(async || "[]")));
    let failure = server
        .client()
        .get("x")
        .send()
        .unwrap()
        .json::<bool>()
        .unwrap_err();
    assert_eq!(failure.exit(), Exit::Failed);
    assert!(
        failure.message().starts_with("the answer to GET http://"),
        "{failure}"
    );
}

#[test]
fn what_cannot_be_sent_is_told_before_anything_is() {
    let client = Client::new("tester/1.0", "http://127.0.0.1:1", quick()).unwrap();
    let failure = client
        .get("/")
        .header("x-a", "line\nbreak")
        .send()
        .unwrap_err();
    assert_eq!(
        failure.message(),
        "`x-a` cannot be sent as a header with this value"
    );
    let client = Client::new(
        "t/1",
        "http://127.0.0.1:1",
        ClientOptions {
            token: Some("a\nb".into()),
            ..quick()
        },
    );
    assert_eq!(
        client.unwrap().get("/").send().unwrap_err().exit(),
        Exit::Config
    );
}

#[test]
fn a_base_that_is_no_url_is_a_configuration_error() {
    for base in ["localhost:8080", "ftp://x", "http://", "::"] {
        let failure = Client::new("tester/1.0", base, quick()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Config, "{base}");
        assert_eq!(failure.message(), format!("`{base}` is no URL of a server"));
    }
}

#[test]
fn a_password_in_the_base_is_not_shown() {
    let client = Client::new("tester/1.0", "http://ann:secret@127.0.0.1:1/", quick()).unwrap();
    assert_eq!(client.base(), "http://ann:***@127.0.0.1:1");
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_a_base_too() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("hub.sock");
    let router = Router::new().route("/x", get(async || "by file"));
    let server = Server::on(
        Listen::Unix {
            path: socket.clone(),
        },
        None,
        router,
    );
    let client = Client::new("tester/1.0", &server.address, quick()).unwrap();
    assert_eq!(client.get("x").send().unwrap().text().unwrap(), "by file");
    assert_eq!(client.base(), format!("unix:{}", socket.display()));
}

/// An authority in files, with a certificate for 127.0.0.1 and one for a client.
fn authority(directory: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn tls_server(directory: &Path, client_ca: bool) -> Server {
    let config = TlsConfig {
        cert: directory.join("server.pem"),
        key: directory.join("server.key"),
        client_ca: client_ca.then(|| directory.join("ca.pem")),
    };
    let router = Router::new().route("/x", get(async || "in private"));
    Server::on(
        "127.0.0.1:0".parse().unwrap(),
        Some(config.load().unwrap()),
        router,
    )
}

fn tls_client(server: &Server, options: ClientOptions) -> Client {
    Client::new(
        "tester/1.0",
        &format!("https://{}", server.address),
        options,
    )
    .unwrap()
}

#[test]
fn a_ca_file_is_trusted_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    authority(directory.path());
    let server = tls_server(directory.path(), false);
    let ours = ClientOptions {
        ca: Some(directory.path().join("ca.pem")),
        ..quick()
    };
    assert_eq!(
        tls_client(&server, ours)
            .get("x")
            .send()
            .unwrap()
            .text()
            .unwrap(),
        "in private"
    );
    // The server's own certificate did not sign itself: as the only authority it makes nobody
    // trustworthy.
    let wrong = ClientOptions {
        ca: Some(directory.path().join("client.pem")),
        retry: Retry::NEVER,
        ..quick()
    };
    assert_eq!(
        tls_client(&server, wrong)
            .get("x")
            .send()
            .unwrap_err()
            .exit(),
        Exit::Unreachable
    );
}

#[test]
fn a_server_that_wants_a_client_certificate_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    authority(directory.path());
    let server = tls_server(directory.path(), true);
    let nameless = ClientOptions {
        ca: Some(directory.path().join("ca.pem")),
        retry: Retry::NEVER,
        ..quick()
    };
    assert_eq!(
        tls_client(&server, nameless.clone())
            .get("x")
            .send()
            .unwrap_err()
            .exit(),
        Exit::Unreachable
    );
    let identity = ClientIdentity {
        cert: directory.path().join("client.pem"),
        key: directory.path().join("client.key"),
    };
    let known = ClientOptions {
        identity: Some(identity),
        ..nameless
    };
    assert_eq!(
        tls_client(&server, known)
            .get("x")
            .send()
            .unwrap()
            .text()
            .unwrap(),
        "in private"
    );
}

#[test]
fn a_certificate_file_that_cannot_be_used_is_a_configuration_error() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing here\n").unwrap();
    for path in [empty.clone(), directory.path().join("missing.pem")] {
        let options = ClientOptions {
            ca: Some(path.clone()),
            ..quick()
        };
        let failure = Client::new("tester/1.0", "https://127.0.0.1:1", options).unwrap_err();
        assert_eq!(failure.exit(), Exit::Config);
        assert!(
            failure.message().contains(&path.display().to_string()),
            "{failure}"
        );
    }
    let config = TlsConfig {
        cert: empty.clone(),
        key: empty,
        client_ca: None,
    };
    assert_eq!(config.load().unwrap_err().exit(), Exit::Config);
}
