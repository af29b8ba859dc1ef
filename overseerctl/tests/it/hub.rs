//! A real daemon and raw WebSocket clients, so that a test reads like a conversation on the wire.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the failure")]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use runyard_common::testing::{self, Daemon};
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket, protocol::WebSocketConfig};

/// A daemon of its own for one test.
pub(crate) struct Hub {
    pub(crate) daemon: Daemon,
    pub(crate) address: String,
    pub(crate) dir: TempDir,
}

/// Actions that most tests need: a shell, a one-slot pool with a queue, another without.
pub(crate) const ACTIONS: &str = r#"
actions:
  echo: {type: exec, config: {entrypoint: echo, command: ["[[.msg]]"], parameters: {msg: null}}}
  sh: {type: exec, config: {entrypoint: sh, command: ["-c", "[[.s]]"], parameters: {s: null}}}
  one:
    type: exec
    task_pool: {limit: 1, queue: {enabled: true, size: 2}}
    config: {entrypoint: sh, command: ["-c", "[[.s]]"], parameters: {s: null}}
  strict:
    type: exec
    task_pool: {limit: 1}
    config: {entrypoint: sh, command: ["-c", "[[.s]]"], parameters: {s: null}}
"#;

impl Hub {
    /// A daemon with the usual actions.
    pub(crate) fn usual() -> Self {
        Self::start(ACTIONS)
    }

    /// A daemon with this configuration, on a free port.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[], |_| {})
    }

    /// A daemon with more flags, and a command that the test may change before it is run.
    pub(crate) fn start_with(
        config: &str,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let dir = testing::tempdir();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(testing::tool_binary("overseerctl"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .args(flags)
            .current_dir(dir.path());
        change(&mut command);
        let (daemon, address) = Daemon::start(command, announced);
        Self {
            daemon,
            address,
            dir,
        }
    }

    /// A daemon with the usual actions behind TLS, its certificate's file, and the URL of its socket. Nobody known has
    /// signed the certificate.
    pub(crate) fn with_tls() -> (Self, PathBuf, String) {
        let dir = testing::tempdir();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = dir.path().join("cert.pem");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let tls = format!(
            "tls: {{cert: {0}/cert.pem, key: {0}/key.pem}}\n{ACTIONS}",
            dir.path().display()
        );
        let hub = Self::start(&tls);
        std::fs::copy(&certificate, hub.dir.path().join("cert.pem")).unwrap();
        let url = hub.address.replace("127.0.0.1", "wss://localhost");
        let certificate = hub.dir.path().join("cert.pem");
        (hub, certificate, format!("{url}/ws"))
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address, &[]).unwrap()
    }

    /// A plain HTTP exchange: the whole answer as text.
    pub(crate) fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A GET of `path`.
    pub(crate) fn get(&self, path: &str) -> String {
        self.http(&format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        ))
    }
}

/// The address in the line that says where the daemon listens.
pub(crate) fn announced(line: &str) -> Option<String> {
    let (_, rest) = line
        .split_once("addr=")
        .filter(|_| line.contains("listening"))?;
    Some(rest.split_whitespace().next()?.to_owned())
}

/// One connection, message by message.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    next_id: u32,
}

impl Client {
    /// Connects, with these headers added to the handshake.
    pub(crate) fn connect(
        address: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut request =
            tungstenite::ClientRequestBuilder::new(format!("ws://{address}/ws").parse().unwrap());
        for (name, value) in headers {
            request = request.with_header(*name, *value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let mut handshake = tungstenite::client::client_with_config(request, stream, Some(config));
        loop {
            match handshake {
                Ok((socket, _)) => return Ok(Self { socket, next_id: 1 }),
                Err(tungstenite::HandshakeError::Interrupted(more)) => handshake = more.handshake(),
                Err(tungstenite::HandshakeError::Failure(error)) => return Err(error),
            }
        }
    }

    /// Sends a text frame as it is.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends a binary frame as it is.
    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a request of this type and these fields with an id of its own, which is returned.
    pub(crate) fn ask(&mut self, kind: &str, fields: &Value) -> String {
        let id = format!("q{}", self.next_id);
        self.next_id += 1;
        let mut message = json!({"type": kind, "id": id});
        message
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        self.send(&message);
        id
    }

    /// Asks and returns the direct reply; whatever else arrives before it is dropped.
    pub(crate) fn call(&mut self, kind: &str, fields: &Value) -> Value {
        let id = self.ask(kind, fields);
        self.until(|message| message["id"] == id.as_str())
    }

    /// Starts a process that ignores SIGTERM, and returns its pid.
    pub(crate) fn start_stubborn(&mut self, task: &str) -> u32 {
        let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
        self.start("sh", task, script);
        let said = self.event("output", task);
        said["data"].as_str().unwrap().parse().unwrap()
    }

    /// Starts a task and returns its `started`.
    pub(crate) fn start(&mut self, action: &str, task_id: &str, script: &str) -> Value {
        let reply = self.call(
            "start",
            &json!({"action": action, "task_id": task_id, "params": {"s": script}}),
        );
        assert_eq!(reply["type"], "started", "{reply}");
        reply
    }

    /// The next message, raw; `None` when the connection has ended.
    pub(crate) fn next_text(&mut self) -> Option<String> {
        let deadline = Instant::now() + testing::patience();
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    assert!(Instant::now() < deadline, "waited in vain for a message");
                }
                Err(_) => return None,
            }
        }
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Value {
        let text = self.next_text().expect("the connection has ended");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The first message that is wanted; others are dropped.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.next();
            if wanted(&message) {
                return message;
            }
        }
    }

    /// All messages up to and with the first that is wanted.
    pub(crate) fn all_until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next());
            if messages.last().is_some_and(&wanted) {
                return messages;
            }
        }
    }

    /// Waits for a message of this type about this task; others are dropped.
    pub(crate) fn event(&mut self, kind: &str, task_id: &str) -> Value {
        self.until(|message| message["type"] == kind && message["task_id"] == task_id)
    }

    /// Everything that was sent to this connection before now: a request whose reply is a fence.
    pub(crate) fn drain(&mut self) -> Vec<Value> {
        let id = self.ask("metrics", &json!({"task_id": "no-such-task-fence"}));
        let mut messages = self.all_until(|message| message["id"] == id.as_str());
        messages.pop();
        messages
    }

    /// Whether the connection has ended, all messages read.
    pub(crate) fn is_closed(&mut self) -> bool {
        while self.next_text().is_some() {}
        true
    }

    /// The row of a task in `list`.
    pub(crate) fn row(&mut self, task_id: &str) -> Option<Value> {
        let reply = self.call("list", &json!({}));
        reply["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["task_id"] == task_id)
            .cloned()
    }

    /// Looks at `list` until the task's row satisfies.
    pub(crate) fn row_when(&mut self, task_id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        testing::eventually(testing::patience(), || self.row(task_id).filter(&wanted))
    }
}

/// Types of messages, in order.
pub(crate) fn types(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["type"].as_str().unwrap_or("?"))
        .collect()
}

/// Keys of a message, in the order of the wire.
pub(crate) fn keys(message: &Value) -> Vec<&str> {
    message
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}
