//! A log as it grows, over a WebSocket: `GET /json/streamLogs?job_id=ID`. The original documents this and never registered it.
//! Every message is a text frame with one [`StreamMessage`], a line of the log: what was said so far, then what is said, and
//! when the job has ended and all is told, a close frame with 1000 and the job's last state.
//!
//! What clients send is read and means nothing. One that takes too long to read, or does not answer pings, is let go.

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, SinkExt, StreamExt, stream::BoxStream};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use runyard_common::shutdown::Shutdown;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    Bytes, Message,
    handshake::derive_accept_key,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

use super::{
    Context,
    answer::{Asked, Refusal, job},
};
use crate::{
    api::StreamMessage,
    job::{JobId, State as JobState},
    logs::{Cursor, Line, Stream},
    phase::{Phase, Run},
    service::{BuildError, Event, LogQuery},
};

/// How long a client may take to make room for more.
const SLOW: Duration = Duration::from_secs(30);

/// Between pings.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest line in one message; what is longer comes in several.
const LONGEST: usize = 1 << 20;

/// Messages that are written before the kernel is handed them.
const BATCH: usize = 256;

/// What can be asked, besides the job.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    #[serde(alias = "jobID", alias = "jobId")]
    job_id: String,
    phase: Option<Phase>,
    cursor: Option<String>,
    tail: Option<usize>,
}

impl Wanted {
    fn query(&self) -> Result<LogQuery, Refusal> {
        let cursor = self.cursor.as_deref().map(str::parse).transpose();
        Ok(LogQuery {
            phase: self.phase,
            cursor: cursor.map_err(Refusal::bad_request)?,
            tail: self.tail.and_then(NonZeroUsize::new),
            ..LogQuery::default()
        })
    }
}

/// The handshake (RFC 6455, section 4.2). What is wrong with the request is said before it.
pub(super) async fn stream(
    State(context): State<Context>,
    Asked(wanted): Asked<Wanted>,
    mut request: Request,
) -> Result<Response, Refusal> {
    if wanted.job_id.is_empty() {
        let error = "job_id parameter required";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error, ""));
    }
    let id = job(&wanted.job_id)?;
    let query = wanted.query()?;
    let accept = handshake(&request)?;
    let Some(member) = context.crowd.enter() else {
        let error = "too many WebSockets are open";
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, ""));
    };
    let events = context.builds.follow(id, query).await?;
    let conversation = Conversation {
        id,
        events,
        shutdown: context.shutdown.clone(),
        status: None,
        begun: HashMap::new(),
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => conversation.hold(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
        drop(member);
    });
    let headers = [
        (header::UPGRADE, "websocket".to_owned()),
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// The key that answers the client's.
fn handshake(request: &Request) -> Result<String, Refusal> {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let asked = request.method() == Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
        && has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13");
    match key.filter(|_| asked) {
        Some(key) => Ok(derive_accept_key(key.as_bytes())),
        None => Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "a WebSocket is spoken here",
            "open one (version 13), or read GET /v1/jobs/ID/logs?follow=1",
        )),
    }
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// One client that listens.
struct Conversation {
    id: JobId,
    events: BoxStream<'static, Result<Event, BuildError>>,
    shutdown: Shutdown,
    status: Option<JobState>,
    /// Lines of which parts have come.
    begun: HashMap<(Run, Stream), String>,
}

/// Why a conversation ends.
enum End {
    /// With a word that the client gets to hear.
    Said(CloseCode, String),
    /// The client is gone, or does not listen.
    Gone,
}

impl Conversation {
    async fn hold<S: AsyncRead + AsyncWrite + Unpin>(mut self, io: S) {
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .max_message_size(Some(64 << 10))
            .max_frame_size(Some(64 << 10));
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let Err(end) = self.talk(&mut socket).await;
        if let End::Said(code, reason) = end {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            // The client may be gone; one that is there answers, and that ends the stream.
            let farewell = async {
                socket.close(Some(frame)).await?;
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
                Ok::<_, tungstenite::Error>(())
            };
            let _ = timeout(LAST_WORDS, farewell).await;
        }
    }

    /// Tells events until there is a reason to end.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut WebSocketStream<S>,
    ) -> Result<std::convert::Infallible, End> {
        let mut heard = Instant::now();
        let mut ping = tokio::time::interval_at(heard + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                event = self.events.next() => self.tell(socket, event).await?,
                message = socket.next() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Gone),
                    Some(Ok(_)) => heard = Instant::now(),
                },
                () = self.shutdown.drain() => {
                    return Err(End::Said(CloseCode::Away, "the service ends".to_owned()));
                }
                _ = ping.tick() => {
                    if heard.elapsed() > 2 * HEARTBEAT {
                        return Err(End::Gone);
                    }
                    in_time(socket.send(Message::Ping(Bytes::new()))).await?;
                }
            }
        }
    }

    /// Tells an event, and those that are there already, and hands them over.
    async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut WebSocketStream<S>,
        first: Option<Result<Event, BuildError>>,
    ) -> Result<(), End> {
        let mut event = first;
        for left in (0..BATCH).rev() {
            match self.message(event) {
                Ok(Some(message)) => in_time(socket.feed(message)).await?,
                Ok(None) => {}
                Err(end) => {
                    in_time(socket.flush()).await?;
                    return Err(end);
                }
            }
            let more = (left > 0).then(|| self.events.next().now_or_never());
            match more.flatten() {
                Some(next) => event = next,
                None => break,
            }
        }
        in_time(socket.flush()).await
    }

    fn message(
        &mut self,
        event: Option<Result<Event, BuildError>>,
    ) -> Result<Option<Message>, End> {
        match event {
            Some(Ok(Event::Line(line, cursor))) => {
                Ok(self.whole(line).map(|line| self.spell(&line, &cursor)))
            }
            Some(Ok(Event::Status(view))) => {
                self.status = Some(view.job.state);
                Ok(None)
            }
            Some(Ok(Event::Lost)) => {
                let line = Line {
                    run: Run::Build,
                    stream: Stream::System,
                    time: None,
                    text: "what was said before is no longer kept".to_owned(),
                    partial: false,
                };
                Ok(Some(self.spell(&line, &Cursor::default())))
            }
            Some(Err(error)) => {
                let answer = Refusal::from(error).0;
                Err(End::Said(CloseCode::Error, answer.error))
            }
            None => {
                let status = self.status.map(|status| status.to_string());
                Err(End::Said(CloseCode::Normal, status.unwrap_or_default()))
            }
        }
    }

    /// A line with all its parts, once the last one has come.
    fn whole(&mut self, mut line: Line) -> Option<Line> {
        let key = (line.run, line.stream);
        if let Some(mut text) = self.begun.remove(&key) {
            text.push_str(&line.text);
            line.text = text;
        }
        if line.partial && line.text.len() < LONGEST {
            self.begun.insert(key, line.text);
            return None;
        }
        Some(line)
    }

    fn spell(&self, line: &Line, cursor: &Cursor) -> Message {
        let message = StreamMessage::of(self.id, line, cursor, Timestamp::now());
        // Texts and numbers always serialise.
        Message::text(serde_json::to_string(&message).unwrap_or_default())
    }
}

async fn in_time(writing: impl Future<Output = Result<(), tungstenite::Error>>) -> Result<(), End> {
    match timeout(SLOW, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => {
            tracing::info!("a client does not read its log, and is let go");
            Err(End::Gone)
        }
    }
}
