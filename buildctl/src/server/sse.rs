//! A log as it grows, as server-sent events:
//!
//! | event | id | data |
//! |---|---|---|
//! | `line` | the cursor behind it | [`LineAnswer`] |
//! | `status` | | the job, as `GET /v1/jobs/ID` answers it |
//! | `lost` | | `{}`: something that was said is no longer kept |
//! | `end` | | [`EndAnswer`]; nothing follows |
//! | `away` | | `{}`: the service ends; go on elsewhere, or here when it is back |
//! | `error` | | an [`ErrorAnswer`](crate::api::ErrorAnswer); nothing follows |
//!
//! Who was cut off goes on with the last id, as `Last-Event-ID` or `cursor`. An id is exact behind each line of a local job; on
//! Nomad, and with a filter, behind the last line of what was read at once, and elsewhere it is that of the part before: lines
//! may come twice then, in the order in which they came, and none is left out. The lines of a `tail` have an empty id, but for the last one: who is cut off within it asks for it once more.

use std::{convert::Infallible, io::Write as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream};
use runyard_common::shutdown::Shutdown;
use serde::Serialize;

use super::answer::Refusal;
use crate::{
    api::{EndAnswer, LineAnswer},
    job::{JobId, State},
    service::{BuildError, Event},
};

/// What keeps a silent connection from being taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes that are written at once at most.
const FULL: usize = 64 << 10;

/// The first words, which also tell browsers when to come back.
const GREETING: &str = "retry: 1000\n\n";

/// Whether a client asks for events by their media type.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept.is_some_and(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.starts_with("text/event-stream"))
    })
}

/// The id of the last event that a client has seen.
pub(super) fn last_event(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("last-event-id")?.to_str().ok()?;
    (!id.is_empty()).then(|| id.to_owned())
}

pub(super) fn answer(
    id: JobId,
    events: BoxStream<'static, Result<Event, BuildError>>,
    shutdown: Shutdown,
) -> Response {
    let feed = Feed {
        id,
        events,
        shutdown,
        status: None,
        over: false,
    };
    let greeting =
        stream::once(async { Ok::<_, Infallible>(Bytes::from_static(GREETING.as_bytes())) });
    let parts = stream::unfold(feed, |feed| async {
        let (part, feed) = feed.part().await?;
        Some((Ok(part), feed))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx would keep lines back until a buffer is full.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(greeting.chain(parts))).into_response()
}

/// A follower's events on their way to text.
struct Feed {
    id: JobId,
    events: BoxStream<'static, Result<Event, BuildError>>,
    shutdown: Shutdown,
    status: Option<State>,
    over: bool,
}

impl Feed {
    /// The next part of the stream: one event and all that are there already, or a sign of life.
    async fn part(mut self) -> Option<(Bytes, Self)> {
        if self.over {
            return None;
        }
        let mut text = Vec::new();
        tokio::select! {
            event = self.events.next() => self.tell(event, &mut text),
            () = self.shutdown.drain() => {
                self.over = true;
                text.extend_from_slice(b"event: away\ndata: {}\n\n");
            }
            () = tokio::time::sleep(KEEP_ALIVE) => text.extend_from_slice(b": keep-alive\n\n"),
        }
        while !self.over && text.len() < FULL {
            let Some(event) = self.events.next().now_or_never() else {
                break;
            };
            self.tell(event, &mut text);
        }
        Some((Bytes::from(text), self))
    }

    fn tell(&mut self, event: Option<Result<Event, BuildError>>, text: &mut Vec<u8>) {
        match event {
            Some(Ok(Event::Line(line, cursor))) => {
                // Writing to memory cannot fail.
                let _ = writeln!(text, "id: {cursor}");
                say(text, "line", &LineAnswer::from(line));
            }
            Some(Ok(Event::Status(view))) => {
                self.status = Some(view.job.state);
                say(text, "status", &view);
            }
            Some(Ok(Event::Lost)) => text.extend_from_slice(b"event: lost\ndata: {}\n\n"),
            Some(Err(error)) => {
                self.over = true;
                say(text, "error", &Refusal::from(error).0);
            }
            None => {
                self.over = true;
                let end = EndAnswer {
                    job_id: self.id,
                    status: self.status,
                };
                say(text, "end", &end);
            }
        }
    }
}

/// One event. JSON has no line breaks, so that one line of data holds it.
fn say(text: &mut Vec<u8>, event: &str, data: &impl Serialize) {
    let begin = text.len();
    // Writing to memory cannot fail.
    let _ = write!(text, "event: {event}\ndata: ");
    if let Err(error) = serde_json::to_writer(&mut *text, data) {
        tracing::error!(%error, event, "an event cannot be written");
        text.truncate(begin);
        return;
    }
    text.extend_from_slice(b"\n\n");
}
