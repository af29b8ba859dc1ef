//! The daemon as a whole, over a Unix socket of the test's own.

use std::{fs, path::Path};

use axum::extract::{Path as UrlPath, State};
use buildctl::{client::Client, config::ConsulConfig, serve};
use runyard_common::{exit::Exit, testing::tempdir};

use tokio::sync::mpsc;

use super::*;

fn settings(folder: &Path, socket: &str) -> Config {
    let (root, socket) = (folder.join("state"), folder.join(socket));
    let args = SettingsArgs {
        root: Some(root.display().to_string()),
        listen: Some(format!("unix:{}", socket.display())),
        ..SettingsArgs::default()
    };
    Config::load(&args, &|_| None).unwrap().config
}

async fn health_of(config: &Config) -> Vec<(String, Result<(), String>)> {
    let args = ClientArgs {
        url: Some(config.listen.to_string()),
        token_file: None,
    };
    let client = ClientConfig::load(&args, &|_| None).unwrap();
    tokio::task::spawn_blocking(move || {
        let client = Client::new(&client).unwrap();
        client.health().unwrap().services
    })
    .await
    .unwrap()
}

/// What `/mcp` answers to a client that says this of itself.
async fn tools(config: &Config, host: &str, more: &str) -> String {
    let http::Listen::Unix { path } = &config.listen else {
        panic!("{:?}", config.listen);
    };
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
    let head = "Content-Type: application/json\r\nAccept: application/json, text/event-stream";
    let request = format!(
        "POST /mcp HTTP/1.0\r\nHost: {host}\r\n{head}\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Whether `/mcp` answers in JSON-RPC, and only to whom the guard lets in.
async fn speaks_mcp(config: &Config) -> bool {
    for (host, origin) in [
        ("evil.example", ""),
        ("localhost", "Origin: https://evil.example\r\n"),
    ] {
        let answer = tools(config, host, origin).await;
        assert!(answer.starts_with("HTTP/1.0 403 "), "{answer}");
        assert!(answer.contains("\"error\":\"Forbidden\""), "{answer}");
    }
    let own = "Origin: http://localhost:6274\r\n";
    let answers = [
        tools(config, "localhost", "").await,
        tools(config, "localhost", own).await,
    ];
    answers
        .iter()
        .all(|answer| answer.contains("\"submitJob\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_answers_and_ends_when_told_and_a_second_one_may_stand_beside_it() {
    let folder = tempdir();
    let mut running = Vec::new();
    for socket in ["one.sock", "two.sock"] {
        let config = settings(folder.path(), socket);
        let (trigger, shutdown) = Shutdown::manual();
        let daemon = tokio::spawn({
            let config = config.clone();
            async move { serve::daemon(&config, shutdown).await }
        });
        let path = folder.path().join(socket);
        while !path.exists() {
            assert!(!daemon.is_finished(), "{:?}", daemon.await);
            tokio::task::yield_now().await;
        }
        running.push((config, trigger, daemon));
    }
    for (config, trigger, daemon) in running {
        let services = health_of(&config).await;
        let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ledger", "local"]);
        assert!(speaks_mcp(&config).await);
        trigger.drain();
        let exit = timeout(patience(), daemon).await.expect("its end");
        assert_eq!(exit.unwrap().unwrap(), Exit::Done);
    }
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().ends_with(".sock")),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_belong_to_no_job_are_removed_now_and_then() {
    let folder = tempdir();
    let args = SettingsArgs {
        root: Some(folder.path().join("state").display().to_string()),
        listen: Some(format!("unix:{}", folder.path().join("it.sock").display())),
        ..SettingsArgs::default()
    };
    let variable = |name: &str| (name == "BUILDCTL_HOUSEKEEPING_TIDY").then(|| "100ms".to_owned());
    let config = Config::load(&args, &variable).unwrap().config;
    let (trigger, shutdown) = Shutdown::manual();
    let daemon = tokio::spawn(async move { serve::daemon(&config, shutdown).await });
    let jobs = folder.path().join("state/jobs");
    while !folder.path().join("it.sock").exists() {
        assert!(!daemon.is_finished(), "{:?}", daemon.await);
        tokio::task::yield_now().await;
    }
    fs::create_dir_all(&jobs).unwrap();
    // One that is old, and one that may be about to become a job's.
    let hour = std::time::Duration::from_hours(1);
    let [old, new] = [hour * 2, hour / 2].map(|age| {
        let made = folder.path().join("made");
        fs::create_dir(&made).unwrap();
        let then = std::time::SystemTime::now() - age;
        fs::File::open(&made).unwrap().set_modified(then).unwrap();
        let path = jobs.join(buildctl::job::JobId::random().to_string());
        fs::rename(made, &path).unwrap();
        path
    });
    let gone = async {
        while old.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(patience(), gone).await.expect("its removal");
    assert!(new.exists());
    trigger.drain();
    let exit = timeout(patience(), daemon).await.expect("its end");
    assert_eq!(exit.unwrap().unwrap(), Exit::Done);
}

/// What was written to a key of a Consul.
type Written = (String, Value);

async fn write(
    State(written): State<mpsc::UnboundedSender<Written>>,
    UrlPath(key): UrlPath<String>,
    body: axum::body::Bytes,
) {
    let value = serde_json::from_slice(&body).unwrap_or_default();
    written.send((key, value)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_mirrored_where_the_original_watches() {
    let (sender, mut written) = mpsc::unbounded_channel();
    let consul = axum::Router::new()
        .route("/v1/kv/{*key}", axum::routing::put(write))
        .with_state(sender);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, consul).await });
    let folder = tempdir();
    let mut config = settings(folder.path(), "one.sock");
    config.consul = Some(ConsulConfig {
        address,
        token: None,
        prefix: "nomad-build-service".to_owned(),
    });
    let (trigger, shutdown) = Shutdown::manual();
    let daemon = tokio::spawn({
        let config = config.clone();
        async move { serve::daemon(&config, shutdown).await }
    });
    let socket = folder.path().join("one.sock");
    // It is there a moment before anybody listens at it.
    let mut stream = loop {
        assert!(!daemon.is_finished(), "{:?}", daemon.await);
        match tokio::net::UnixStream::connect(&socket).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    // Nobody answers there: it fails, which is news.
    let job = r#"{"job_config":{"owner":"o","repo_url":"http://127.0.0.1:1/x","image_name":"i","registry_url":"127.0.0.1:1"}}"#;
    let request = format!(
        "POST /json/submitJob HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{job}",
        job.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let submitted: Value = serde_json::from_str(body).unwrap();
    let id = submitted["job_id"].as_str().unwrap();
    let (key, value) = timeout(patience(), written.recv()).await.unwrap().unwrap();
    assert_eq!(key, format!("nomad-build-service/jobs/{id}"));
    assert_eq!(value["config"]["owner"], "o");
    trigger.drain();
    timeout(patience(), daemon).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempdir();
    fs::write(folder.path().join("state"), "a file").unwrap();
    let config = settings(folder.path(), "one.sock");
    let (_trigger, shutdown) = Shutdown::manual();
    let error = serve::daemon(&config, shutdown).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("cannot use `") && text.contains("/state`"),
        "{text}"
    );
    assert!(!folder.path().join("one.sock").exists());
}
