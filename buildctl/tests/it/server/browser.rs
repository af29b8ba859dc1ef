//! The built-in page in a real browser, where there is a Chromium.

use std::{fs, net::TcpStream as Blocking, path::PathBuf, process::Command, time::Duration};

use buildctl::{job::State, logs::Stream, phase::Run, scheduler::fake::Play};
use runyard_common::testing::{self, Daemon, tempdir};
use serde_json::json;
use tungstenite::{Message, WebSocket};

use super::*;
use crate::service::config;

fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        std::env::split_paths(&path)
            .map(|folder| folder.join("chromium"))
            .find(|file| file.is_file())
    });
    if found.is_none() {
        eprintln!("skipped: needs chromium in PATH or CHROMIUM_BIN");
    }
    found
}

/// A headless Chromium, driven over its debugging protocol.
struct Browser {
    page: WebSocket<Blocking>,
    next: u64,
    _daemon: Daemon,
    _profile: testing::TempDir,
}

impl Browser {
    fn open(chromium: PathBuf, url: &str) -> Self {
        let profile = tempdir();
        let mut command = Command::new(chromium);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-port=0",
        ]);
        command
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank");
        let (daemon, address) = Daemon::start(command, |line| {
            let rest = line.strip_prefix("DevTools listening on ws://")?;
            rest.split('/').next().map(str::to_owned)
        });
        let stream = Blocking::connect(&address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        let debugger = target(&address);
        let (page, _) = tungstenite::client(debugger, stream).unwrap();
        let mut browser = Self {
            page,
            next: 1,
            _daemon: daemon,
            _profile: profile,
        };
        browser.call("Page.navigate", &json!({"url": url}));
        browser
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.next;
        self.next += 1;
        let request = json!({"id": id, "method": method, "params": params});
        self.page.send(Message::text(request.to_string())).unwrap();
        loop {
            let message = self.page.read().unwrap();
            let reply: Value = serde_json::from_str(message.to_text().unwrap()).unwrap_or_default();
            if reply["id"] == id {
                return reply["result"].clone();
            }
        }
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &params)["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    fn eventually(&mut self, expression: &str) {
        let began = std::time::Instant::now();
        while self.evaluate(expression) != true {
            let page = "document.body.innerText";
            assert!(
                began.elapsed() < patience(),
                "not true in the page: {expression}\n{}",
                self.evaluate(page)
            );
        }
    }
}

/// The debugging address of the page.
fn target(address: &str) -> String {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut stream = Blocking::connect(address).unwrap();
    write!(stream, "GET /json HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body).unwrap();
    let targets: Value = serde_json::from_slice(&body).unwrap();
    let mut pages = targets
        .as_array()
        .unwrap()
        .iter()
        .filter(|target| target["type"] == "page");
    pages.next().unwrap()["webSocketDebuggerUrl"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_a_token_lists_builds_follows_one_and_kills_it() {
    let Some(chromium) = chromium() else { return };
    let folder = tempdir();
    let file = folder.path().join("tokens");
    fs::write(&file, "of-the-page\n").unwrap();
    let bench = Bench::with(&|_, run| match run {
        Run::Build => Play {
            says: vec![
                (
                    Duration::ZERO,
                    Stream::Stdout,
                    "<b>seen</b> in the page".to_owned(),
                ),
                (Duration::from_secs(5), Stream::Stderr, "later".to_owned()),
            ],
            ..Play::endless()
        },
        _ => Play::default(),
    });
    let stage = Stage::with(bench, &[("BUILDCTL_TOKEN_FILE", file.to_str().unwrap())]).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let (url, clock) = (
        format!("http://{}/", stage.address),
        stage.bench.clock.clone(),
    );
    let browsing = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::open(chromium, &url);
        browser.eventually("document.querySelector('#ask').open === true");
        browser.evaluate(
            "document.querySelector('#token').value = 'of-the-page'; document.querySelector('#ask form button').click()",
        );
        browser.eventually(&format!(
            "document.querySelector('tr[data-job-id=\"{id}\"]')?.dataset.state === 'BUILDING'"
        ));
        assert_eq!(
            browser.evaluate("sessionStorage.getItem('buildctl.token')"),
            "of-the-page"
        );
        browser.evaluate("document.querySelector('tr.job').click()");
        browser.eventually(
            "document.querySelector('#log').innerText.includes('<b>seen</b> in the page')",
        );
        clock.advance(Duration::from_secs(6));
        browser.eventually("document.querySelector('#log .stderr')?.textContent === 'later\\n'");
        browser.evaluate("document.querySelector('#kill').click()");
        browser.eventually("document.querySelector('#sure').open === true");
        browser.evaluate("document.querySelector('#sure button[value=kill]').click()");
        browser.eventually("document.querySelector('#job').dataset.complete === 'true'");
        browser.eventually("document.querySelector('#error').textContent === 'Job killed by user'");
        browser.eventually(&format!(
            "document.querySelector('tr[data-job-id=\"{id}\"]').dataset.state === 'FAILED'"
        ));
    });
    browsing.await.unwrap();
    stage.bench.settled(id).await;
}
