//! The typed client of a hub, for the command line, tests and other programs: requests with their replies, and what the
//! hub says unasked. Blocking, without an async runtime; what a user sees of it is [`crate::cli`]'s.
//!
//! It works with sticky-overseer v2 as well as with this program's own hub, by what both keep: messages of one
//! connection are handled one after the other. So the reply to any later request is a *fence*: everything before it has
//! been answered. That is how [`Client::logs`] knows the end of a replay, and [`Client::stop`] that nobody objected.
//! Which of the two it talks to matters for extensions only, see [`Client::dialect`].

mod follow;
mod link;
mod merge;
mod message;
mod refusal;
mod start;
mod stop;
mod target;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use runyard_common::{exit::Exit, report::Failure};
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::{
    ClientRequestBuilder, Error, HandshakeError, Message, WebSocket,
    http::{StatusCode, Uri, uri::InvalidUri},
    protocol::{CloseFrame, WebSocketConfig},
};
use uuid::Uuid;

pub use follow::{Ending, Follow, Step};
pub use merge::Merge;
pub use message::{
    Body, Dequeued, Errored, Event, Exited, Lagged, Output, Prospect, Queued, Received, Restarting,
    Started, Task,
};
pub use refusal::Refusal;
pub use start::{Start, Startup};
pub use stop::Stopped;
pub use target::{DEFAULT_URL, Place, Target};

use self::link::{Link, Ready};

/// Features of the protocol's extensions that never send a message of a new type unasked.
const QUIET_FEATURES: [&str; 4] = ["acks", "lagged", "remove", "history"];

/// A connection to a hub.
pub struct Client {
    socket: WebSocket<Link>,
    target: Target,
    /// Messages that came while a reply was waited for, oldest first.
    inbox: VecDeque<Received>,
    /// Makes this connection's correlation ids its own: `started` carries its starter's id to every subscriber.
    session: String,
    requests: u64,
    dialect: Option<Dialect>,
    interrupt: Option<OwnedFd>,
    closed: Option<CloseFrame>,
}

/// Which protocol a hub speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Sticky-overseer v2, without extensions.
    Original,
    /// This program's own.
    Runyard {
        /// The program, as it calls itself.
        server: String,
        /// Its version.
        version: String,
        /// Extensions that this connection may use.
        features: Vec<String>,
    },
}

/// What ended a wait for messages.
#[derive(Clone, Debug)]
pub enum Wake {
    /// A message came.
    Message(Received),
    /// The descriptor given to [`Client::wake_on`] is readable.
    Interrupted,
    /// The deadline is over.
    Deadline,
}

impl Client {
    /// Connects, and shakes hands as a WebSocket.
    ///
    /// Fails with [`Exit::Unreachable`] if nobody or nobody useful answers, with [`Exit::Failed`] if the hub refuses
    /// this client, with [`Exit::Config`] if a certificate cannot be used.
    pub fn connect(target: &Target) -> Result<Self, Failure> {
        let link = Link::open(target)?;
        // A line of 10 MB, the most that hubs send, may become 63 MB of JSON.
        let config = WebSocketConfig::default()
            .max_frame_size(None)
            .max_message_size(None);
        let shaken =
            tungstenite::client::client_with_config(handshake(target)?, link, Some(config));
        let (socket, _) = shaken.map_err(|error| not_upgraded(target, error))?;
        socket
            .get_ref()
            .unblock()
            .map_err(|error| link::unreachable(target, error))?;
        Ok(Self {
            socket,
            target: target.clone(),
            inbox: VecDeque::new(),
            session: Uuid::new_v4().simple().to_string()[..12].to_owned(),
            requests: 0,
            dialect: None,
            interrupt: None,
            closed: None,
        })
    }

    /// The hub's address, for messages.
    pub fn hub(&self) -> String {
        self.target.place.to_string()
    }

    /// Lets [`Client::next`] also end when `descriptor` becomes readable; whoever gave it drains it.
    pub fn wake_on(&mut self, descriptor: OwnedFd) {
        self.interrupt = Some(descriptor);
    }

    /// Which protocol the hub speaks. Asked once a connection: a sticky-overseer answers `hello` with an error that
    /// names the type, our own hub with what it can do.
    pub fn dialect(&mut self) -> Result<&Dialect, Failure> {
        let dialect = match self.dialect.take() {
            Some(known) => known,
            None => self.hello(&QUIET_FEATURES)?,
        };
        Ok(self.dialect.insert(dialect))
    }

    /// Asks for extensions by name. Those that the hub does not know are left out of the answer.
    pub fn hello(&mut self, features: &[&str]) -> Result<Dialect, Failure> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Hello {
            server: String,
            version: String,
            features: Vec<String>,
        }
        match self.ask("hello", json!({ "features": features }))? {
            Ok(reply) => {
                let Hello {
                    server,
                    version,
                    features,
                } = reply.read()?;
                Ok(Dialect::Runyard {
                    server,
                    version,
                    features,
                })
            }
            Err(refusal) if refusal.is_unknown_type() => Ok(Dialect::Original),
            Err(refusal) => Err(refusal.failure(&self.hub(), "")),
        }
    }

    /// Fails unless the hub speaks our own dialect; `what` says what that is needed for.
    pub fn require_extensions(&mut self, what: &str) -> Result<(), Failure> {
        match self.dialect()? {
            Dialect::Runyard { .. } => Ok(()),
            Dialect::Original => Err(Failure::new(
                Exit::Failed,
                format!(
                    "the hub at {} is a sticky-overseer, which has no {what}",
                    self.hub()
                ),
            )),
        }
    }

    /// All tasks, running, ended and waiting; oldest first, waiting ones last. `since` (RFC 3339) leaves out those that
    /// neither started nor ended since.
    pub fn list(&mut self, since: Option<&str>) -> Result<Vec<Task>, Failure> {
        let reply = self.request(
            "list",
            since.map_or_else(|| json!({}), |since| json!({ "since": since })),
            "",
        )?;
        reply.tasks()
    }

    /// One task.
    pub fn task(&mut self, task_id: &str) -> Result<Task, Failure> {
        let found = self
            .list(None)?
            .into_iter()
            .find(|task| task.task_id == task_id);
        found.ok_or_else(|| {
            let message = "task not found".to_owned();
            Refusal {
                message,
                ..Refusal::default()
            }
            .failure(&self.hub(), task_id)
        })
    }

    /// One action, or all by name when `action` is empty.
    pub fn describe(&mut self, action: &str) -> Result<Vec<Value>, Failure> {
        let reply = self.request("describe", json!({ "action": action }), action)?;
        let mut actions = match reply.field("actions")? {
            Value::Array(actions) => actions,
            _ => Vec::new(),
        };
        actions.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        Ok(actions)
    }

    /// What the newest worker of a task said, as far as the hub remembers it, at or after `since` (RFC 3339).
    pub fn logs(&mut self, task_id: &str, since: Option<&str>) -> Result<Vec<Event>, Failure> {
        let replay = self.send("replay", replay_of(task_id, since))?;
        let fence = self.send_fence()?;
        let (mut merge, mut refused) = (Merge::default(), None);
        self.until(&fence, |message| {
            if message.id == replay && message.kind == "error" {
                refused = Some(message.read::<Refusal>()?);
            } else if message.task_id == task_id
                && let Some(event) = Event::of(message)?
            {
                merge.hold(event);
            }
            Ok(())
        })?;
        match refused {
            Some(refusal) => Err(refusal.failure(&self.hub(), task_id)),
            None => Ok(merge.release()),
        }
    }

    /// Sends a request and waits for its reply. `about` is the task or action that errors name.
    pub fn request(&mut self, kind: &str, body: Value, about: &str) -> Result<Received, Failure> {
        match self.ask(kind, body)? {
            Ok(reply) => Ok(reply),
            Err(refusal) => Err(self.explain(&refusal, about)),
        }
    }

    /// Sends a request and waits for its reply, be it a refusal.
    pub fn ask(&mut self, kind: &str, body: Value) -> Result<Result<Received, Refusal>, Failure> {
        let id = self.send(kind, body)?;
        let mut others = Vec::new();
        let reply = self.until(&id, |message| {
            others.push(message);
            Ok(())
        })?;
        self.inbox.extend(others);
        if reply.kind == "error" {
            Ok(Err(reply.read()?))
        } else {
            Ok(Ok(reply))
        }
    }

    /// What a user reads of a refusal; an unknown action is answered with those there are.
    pub(crate) fn explain(&mut self, refusal: &Refusal, about: &str) -> Failure {
        let failure = refusal.failure(&self.hub(), about);
        if !refusal.is_unknown_action() {
            return failure;
        }
        // Without the list the failure is still true.
        let known = self.describe("").unwrap_or_default();
        let names: Vec<&str> = known
            .iter()
            .filter_map(|action| action["name"].as_str())
            .collect();
        if names.is_empty() {
            failure.hint("it has no actions at all")
        } else {
            failure.hint(format!("it has: {}", names.join(", ")))
        }
    }

    /// Sends a request, and returns the id that its reply will carry.
    pub fn send(&mut self, kind: &str, mut body: Value) -> Result<String, Failure> {
        self.requests += 1;
        let id = format!("{}-{}", self.session, self.requests);
        body["type"] = kind.into();
        body["id"] = id.as_str().into();
        match self.socket.send(Message::text(body.to_string())) {
            Ok(()) => Ok(id),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.flush().map(|()| id)
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Sends a request that changes nothing and is always answered: when its reply comes, all requests before it have
    /// been handled.
    fn send_fence(&mut self) -> Result<String, Failure> {
        self.send("metrics", json!({ "task_id": Uuid::new_v4().to_string() }))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.target.timeout;
        loop {
            match self.socket.flush() {
                Ok(()) => return Ok(()),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.lost(error)),
            }
            match self.socket.get_ref().wait(true, None, Some(deadline)) {
                Ok(Ready::Deadline) => return Err(self.silent()),
                Ok(_) => {}
                Err(error) => return Err(self.lost(Error::Io(error))),
            }
        }
    }

    /// Reads until the reply `id` comes; `other` gets everything before it. The hub may be silent for the timeout.
    fn until(
        &mut self,
        id: &str,
        mut other: impl FnMut(Received) -> Result<(), Failure>,
    ) -> Result<Received, Failure> {
        loop {
            let deadline = Instant::now() + self.target.timeout;
            match self.receive(Some(deadline), false)? {
                Wake::Message(message) if message.id == id => return Ok(message),
                Wake::Message(message) => other(message)?,
                Wake::Deadline | Wake::Interrupted => return Err(self.silent()),
            }
        }
    }

    /// The next message, at most until the deadline; one in the past looks without waiting.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Wake, Failure> {
        match self.inbox.pop_front() {
            Some(message) => Ok(Wake::Message(message)),
            None => self.receive(deadline, true),
        }
    }

    fn receive(&mut self, deadline: Option<Instant>, interruptible: bool) -> Result<Wake, Failure> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Received::decode(text).map(Wake::Message),
                Ok(Message::Binary(bytes)) => {
                    let text = bytes
                        .try_into()
                        .map_err(|error: std::str::Utf8Error| self.lost(error.into()))?;
                    return Received::decode(text).map(Wake::Message);
                }
                Ok(Message::Close(frame)) => self.closed = frame,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let other = self
                        .interrupt
                        .as_ref()
                        .filter(|_| interruptible)
                        .map(AsFd::as_fd);
                    match self.socket.get_ref().wait(false, other, deadline) {
                        Ok(Ready::Link) => {}
                        Ok(Ready::Other) => return Ok(Wake::Interrupted),
                        Ok(Ready::Deadline) => return Ok(Wake::Deadline),
                        Err(error) => return Err(self.lost(Error::Io(error))),
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    /// The connection ended although this client had not finished.
    fn lost(&self, error: Error) -> Failure {
        let message = format!("the hub at {} closed the connection", self.hub());
        let failure = Failure::new(Exit::Unreachable, message);
        match &self.closed {
            Some(CloseFrame { code, reason }) => failure.caused_by(format!("{reason} ({code})")),
            None => match error {
                Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_) => failure,
                Error::Io(error) => failure.caused_by(error),
                error => failure.caused_by(error),
            },
        }
    }

    fn silent(&self) -> Failure {
        let seconds = self.target.timeout;
        Failure::new(
            Exit::Unreachable,
            format!(
                "the hub at {} did not answer within {seconds:?}",
                self.hub()
            ),
        )
        .hint("wait longer with --timeout")
    }

    /// How long a reply may take.
    fn patience(&self) -> Duration {
        self.target.timeout
    }
}

fn replay_of(task_id: &str, since: Option<&str>) -> Value {
    let mut body = json!({ "task_id": task_id });
    if let Some(since) = since {
        body["since"] = since.into();
    }
    body
}

fn handshake(target: &Target) -> Result<ClientRequestBuilder, Failure> {
    let uri = match &target.place {
        Place::Unix { .. } => "ws://localhost/ws".to_owned(),
        Place::Tcp {
            host,
            port,
            tls,
            path,
        } => {
            let scheme = if *tls { "wss" } else { "ws" };
            format!("{scheme}://{}{path}", target::authority(host, *port))
        }
    };
    let uri: Uri = uri.parse().map_err(|error: InvalidUri| {
        Failure::new(
            Exit::Usage,
            format!("`{}` is no address of a hub", target.place),
        )
        .caused_by(error)
    })?;
    let request = ClientRequestBuilder::new(uri);
    Ok(match &target.token {
        Some(token) => request.with_header("Authorization", format!("Bearer {}", token.expose())),
        None => request,
    })
}

fn not_upgraded(
    target: &Target,
    error: HandshakeError<tungstenite::ClientHandshake<Link>>,
) -> Failure {
    let hub = &target.place;
    match error {
        HandshakeError::Interrupted(_) => Failure::new(
            Exit::Unreachable,
            format!(
                "the hub at {hub} did not answer within {:?}",
                target.timeout
            ),
        )
        .hint("wait longer with --timeout"),
        HandshakeError::Failure(Error::Http(response)) => match response.status() {
            StatusCode::UNAUTHORIZED if target.token.is_some() => Failure::new(
                Exit::Failed,
                format!("the hub at {hub} does not accept this token"),
            ),
            StatusCode::UNAUTHORIZED => {
                Failure::new(Exit::Failed, format!("the hub at {hub} wants a token"))
                    .hint("give it with --token-file FILE, or in the variable OVERSEER_TOKEN")
            }
            StatusCode::FORBIDDEN => Failure::new(
                Exit::Failed,
                format!("the hub at {hub} does not trust this client"),
            )
            .hint("the hub's `trusted_cidrs` (or `unix_socket_users`) say whom it trusts"),
            status => Failure::new(
                Exit::Unreachable,
                format!("what answers at {hub} is no hub: HTTP {status}"),
            )
            .hint("a hub's WebSocket is at /ws"),
        },
        HandshakeError::Failure(Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            link::unreachable(target, error)
                .hint("a private authority's certificate is named with --ca FILE")
        }
        HandshakeError::Failure(Error::Io(error)) => link::unreachable(target, error),
        HandshakeError::Failure(error) => Failure::new(
            Exit::Unreachable,
            format!("what answers at {hub} is no hub"),
        )
        .caused_by(error),
    }
}
