//! A headless Chromium that looks at the built-in page, driven over its debugging protocol.

use std::{net::TcpStream, path::PathBuf, process::Command, time::Instant};

use runyard_common::testing::{Daemon, TempDir, patience, tempdir};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Where Chromium is; that it is nowhere is said.
pub(crate) fn chromium() -> Option<PathBuf> {
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
pub(crate) struct Browser {
    page: WebSocket<TcpStream>,
    next: u64,
    _daemon: Daemon,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page.
    pub(crate) fn open(chromium: PathBuf, url: &str) -> Self {
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
        let stream = TcpStream::connect(&address).unwrap();
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

    /// What an expression is in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &params)["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub(crate) fn eventually(&mut self, expression: &str) {
        let began = Instant::now();
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
    let mut stream = TcpStream::connect(address).unwrap();
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
