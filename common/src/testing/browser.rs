//! A headless Chromium that looks at a tool's built-in page, driven over its debugging protocol.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use super::{Daemon, patience, tempdir};

/// A headless Chromium with one page; it ends with the value.
#[derive(Debug)]
pub struct Browser {
    page: WebSocket<TcpStream>,
    next: u64,
    _daemon: Daemon,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page.
    ///
    /// # Panics
    ///
    /// When the browser does not start, or does not answer.
    pub fn open(chromium: &Path, url: &str) -> Self {
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
        let stream = TcpStream::connect(&address).expect("a connection to the browser");
        stream
            .set_read_timeout(Some(patience()))
            .expect("an answer of the browser");
        let debugger = target(&address);
        let (page, _) =
            tungstenite::client(debugger, stream).expect("the browser speaks WebSocket");
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
        self.page
            .send(Message::text(request.to_string()))
            .expect("an answer of the browser");
        loop {
            let message = self.page.read().expect("an answer of the browser");
            let reply: Value =
                serde_json::from_str(message.to_text().expect("an answer of the browser"))
                    .unwrap_or_default();
            if reply["id"] == id {
                return reply["result"].clone();
            }
        }
    }

    /// What an expression is in the page.
    ///
    /// # Panics
    ///
    /// When the browser does not answer.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &params)["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Panics
    ///
    /// When it is not within [`patience`].
    #[track_caller]
    pub fn eventually(&mut self, expression: &str) {
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
    let mut stream = TcpStream::connect(address).expect("a connection to the browser");
    write!(stream, "GET /json HTTP/1.1\r\nHost: {address}\r\n\r\n")
        .expect("an answer of the browser");
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer
            .read_line(&mut line)
            .expect("an answer of the browser");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("an answer of the browser");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    answer
        .read_exact(&mut body)
        .expect("an answer of the browser");
    let targets: Value = serde_json::from_slice(&body).expect("an answer of the browser");
    let mut pages = targets
        .as_array()
        .expect("an answer of the browser")
        .iter()
        .filter(|target| target["type"] == "page");
    pages.next().expect("an answer of the browser")["webSocketDebuggerUrl"]
        .as_str()
        .expect("an answer of the browser")
        .to_owned()
}
