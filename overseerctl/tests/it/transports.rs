//! Ways in: TCP, Unix sockets, standard input and output; who is let in; and the HTTP routes beside the WebSocket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Command, Stdio},
};

use runyard_common::testing::{self, Daemon};
use serde_json::{Value, json};

use crate::hub::{ACTIONS, Client, Hub, announced};

fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or("")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn a_plain_get_of_the_socket_is_a_bad_request() {
    let hub = Hub::usual();
    let answer = hub.get("/ws");
    assert_eq!(status(&answer), "400");
    assert!(
        answer.to_lowercase().contains("sec-websocket-version: 13"),
        "{answer}"
    );
    assert_eq!(body(&answer), "Bad Request\n");
    let answer = hub.get("/nothing/here");
    assert_eq!(
        (status(&answer), body(&answer)),
        ("404", "404 page not found\n")
    );
}

#[test]
fn health_metrics_documents_and_page_are_served() {
    let hub = Hub::usual();
    hub.client().call(
        "start",
        &json!({"action": "echo", "task_id": "t", "params": {"msg": "x"}}),
    );
    assert_eq!(status(&hub.get("/health")), "200");
    assert_eq!(status(&hub.get("/ready")), "200");
    let metrics = hub.get("/metrics");
    assert!(
        metrics.contains("overseer_tasks_started_total{action=\"echo\"} 1"),
        "{metrics}"
    );
    let manifest: Value = serde_json::from_str(body(&hub.get("/ws/manifest"))).unwrap();
    assert_eq!(manifest["protocol"], "sticky-overseer");
    assert_eq!(manifest["actions"].as_array().unwrap().len(), 4);
    let openapi = hub.http(&format!(
        "POST /openapi.json HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        hub.address
    ));
    let document: Value = serde_json::from_str(body(&openapi)).unwrap();
    assert_eq!(document["swagger"], "2.0");
    let page = hub.get("/");
    assert!(
        page.contains("content-security-policy: default-src 'self'"),
        "{page}"
    );
    assert!(body(&page).to_lowercase().contains("<!doctype html>"));
}

/// R16
#[test]
fn pages_from_elsewhere_are_refused() {
    let hub = Hub::usual();
    let connect = |origin: &str| Client::connect(&hub.address, &[("Origin", origin)]);
    assert!(connect(&format!("http://{}", hub.address)).is_ok());
    assert!(connect("http://localhost:3000").is_ok());
    for origin in ["http://evil.example", "null"] {
        let Err(tungstenite::Error::Http(answer)) = connect(origin) else {
            panic!("{origin} was let in")
        };
        assert_eq!(answer.status(), 403, "{origin}");
    }
    let open = Hub::start(&format!("allowed_origins: ['*']\n{ACTIONS}"));
    assert!(Client::connect(&open.address, &[("Origin", "http://evil.example")]).is_ok());
}

#[test]
fn peers_outside_the_trusted_networks_are_refused() {
    let hub = Hub::start(&format!("trusted_cidrs: [10.99.0.0/16]\n{ACTIONS}"));
    let Err(tungstenite::Error::Http(answer)) = Client::connect(&hub.address, &[]) else {
        panic!("let in")
    };
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.body().as_deref(), Some(&b"forbidden\n"[..]));
    assert_eq!(
        status(&hub.get("/openapi.json")),
        "200",
        "never guarded by networks"
    );
    assert_eq!(status(&hub.get("/metrics")), "403");
    assert_eq!(status(&hub.get("/health")), "200");
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let hub = Hub::start(&format!("token: s3cret\n{ACTIONS}"));
    let Err(tungstenite::Error::Http(answer)) = Client::connect(&hub.address, &[]) else {
        panic!("let in")
    };
    assert_eq!(answer.status(), 401);
    assert!(Client::connect(&hub.address, &[("Authorization", "Bearer wrong")]).is_err());
    let mut client = Client::connect(&hub.address, &[("Authorization", "Bearer s3cret")]).unwrap();
    assert_eq!(client.call("list", &json!({}))["type"], "tasks");
    assert_eq!(status(&hub.get("/metrics?token=s3cret")), "200");
    assert_eq!(status(&hub.get("/metrics")), "401");
    assert!(
        !hub.daemon.output().contains("s3cret"),
        "the log keeps the secret"
    );
}

#[test]
fn a_unix_socket_is_private_and_goes_with_the_daemon() {
    let dir = testing::tempdir();
    let path = dir.path().join("hub.sock");
    let mut hub = Hub::start_with(ACTIONS, &["--listen", path.to_str().unwrap()], |_| {});
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200");
    assert!(hub.daemon.stop().success());
    assert!(!path.exists());
}

/// R15
#[test]
fn a_file_at_the_sockets_path_survives_and_a_live_socket_is_respected() {
    let dir = testing::tempdir();
    let file = dir.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    let serve = |path: &std::path::Path| {
        Command::new(testing::tool_binary("overseerctl"))
            .arg("serve")
            .arg("--listen")
            .arg(path)
            .output()
            .unwrap()
    };
    let output = serve(&file);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("precious"),
        "{output:?}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    let socket = dir.path().join("live.sock");
    let _hub = Hub::start_with(ACTIONS, &["--listen", socket.to_str().unwrap()], |_| {});
    assert!(!serve(&socket).status.success(), "somebody listens there");
    assert!(UnixStream::connect(&socket).is_ok());
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = testing::tempdir();
    let socket = dir.path().join("stale.sock");
    let mut first = Hub::start_with(ACTIONS, &["--listen", socket.to_str().unwrap()], |_| {});
    first.daemon.kill();
    assert!(socket.exists(), "a killed daemon cannot tidy up");
    let _second = Hub::start_with(ACTIONS, &["--listen", socket.to_str().unwrap()], |_| {});
    assert!(UnixStream::connect(&socket).is_ok());
}

/// R14
#[test]
fn standard_input_is_served_until_its_end() {
    let dir = testing::tempdir();
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, ACTIONS).unwrap();
    let mut daemon = Command::new(testing::tool_binary("overseerctl"))
        .args(["serve", "--listen", "STDIO", "--config"])
        .arg(&config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = daemon.stdin.take().unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let filler = "x".repeat(100_000);
    writeln!(input, "{}", json!({"type": "start", "id": "1", "action": "echo", "task_id": "t", "params": {"msg": filler}})).unwrap();
    assert_eq!(next()["type"], "started");
    assert_eq!(
        next()["data"].as_str().unwrap().len(),
        100_000,
        "lines of any length"
    );
    assert_eq!(next()["type"], "exited");
    writeln!(input, "\n{}", json!({"type": "start", "id": "2", "action": "sh", "task_id": "u", "params": {"s": "exec sleep 3600"}})).unwrap();
    let pid = u32::try_from(next()["pid"].as_u64().unwrap()).unwrap();
    writeln!(input, "{}", json!({"type": "purge", "id": "3"})).unwrap();
    drop(input);
    assert_eq!(
        next()["id"],
        "3",
        "what was asked before the end is answered"
    );
    assert!(daemon.wait().unwrap().success());
    assert!(!testing::is_alive(pid));
}

#[test]
fn tls_is_served_where_a_certificate_is_set() {
    let (_hub, certificate, url) = Hub::with_tls();
    let output = Command::new(testing::tool_binary("overseerctl"))
        .args(["--url", &url, "--ca"])
        .arg(certificate)
        .args(["run", "echo", "msg=over tls"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "over tls\n",
        "{output:?}"
    );
}

#[test]
fn two_daemons_on_one_address_do_not_both_serve() {
    let hub = Hub::usual();
    let output = Command::new(testing::tool_binary("overseerctl"))
        .args(["serve", "--listen", &hub.address])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&hub.address),
        "{output:?}"
    );
}

#[test]
fn a_dead_connection_is_noticed_by_pings() {
    let hub = Hub::start(&format!(
        "ping: {{interval: 50ms, timeout: 200ms}}\n{ACTIONS}"
    ));
    let mut client = hub.client();
    client.call("list", &json!({}));
    // Nothing is read from here on, so no ping is answered.
    let gone = || {
        hub.get("/metrics")
            .lines()
            .find_map(|line| line.strip_prefix("overseer_clients ").map(|n| n == "0"))
    };
    testing::eventually(testing::patience(), || gone().filter(|gone| *gone));
}

#[test]
fn the_daemon_tells_where_it_listens() {
    let (mut daemon, address) = Daemon::start(
        {
            let mut command = Command::new(testing::tool_binary("overseerctl"));
            command.args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--config",
                "/nonexistent/config.yaml",
            ]);
            command
        },
        announced,
    );
    assert!(address.starts_with("127.0.0.1:"));
    assert!(daemon.stop().success());
}
