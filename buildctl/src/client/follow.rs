//! Following a job over server-sent events: events as they come, and on after a cut, without a line twice.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    thread,
    time::Duration,
};

use runyard_common::{backoff::Backoff, http::client::Response};
use serde::de::DeserializeOwned;

use super::{Client, asked, at, attempts::Attempts, refused, send, unexpected};
use crate::{
    api::{ErrorAnswer, LineAnswer},
    job::JobId,
    logs::{Cursor, Line, told::Told},
    service::{BuildError, Event, JobView, LogQuery},
};

/// How long one stream lasts at most. The client's limit of time counts for an answer as a whole, and a dead connection says
/// nothing; going on costs one request.
const LASTS: Duration = Duration::from_mins(5);

/// How often in a row a stream may fail without telling anything.
const PATIENCE: u32 = 12;

/// Between such failures.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(250),
    factor: 2.0,
    max: Duration::from_secs(10),
    jitter: 0.2,
};

/// A job that is followed: an iterator over its events, which ends when the job has ended and all is told, or after an error.
#[derive(Debug)]
pub struct Follow<'c> {
    client: &'c Client,
    id: JobId,
    query: LogQuery,
    stream: Option<BufReader<Response>>,
    attempts: Attempts,
    told: Told,
    /// The end of the log that was asked for, until all of it is there: behind a cut it is asked for anew.
    tail: Vec<Line>,
    /// What was understood and not yet told.
    ready: VecDeque<Event>,
    /// The job as it was told last: after a cut it is told again.
    status: Option<Box<JobView>>,
    over: bool,
}

impl<'c> Follow<'c> {
    pub(super) fn begin(
        client: &'c Client,
        id: JobId,
        query: LogQuery,
    ) -> Result<Self, BuildError> {
        let mut follow = Self {
            client,
            id,
            told: Told::from(query.cursor.clone()),
            query,
            stream: None,
            attempts: Attempts::new(PATIENCE, AGAIN),
            tail: Vec::new(),
            ready: VecDeque::new(),
            status: None,
            over: false,
        };
        follow.connect()?;
        Ok(follow)
    }

    /// The cursor behind what was told.
    pub fn cursor(&self) -> &Cursor {
        self.told.cursor()
    }

    fn connect(&mut self) -> Result<(), BuildError> {
        let call = self.client.http.get(&at(self.id, &["logs"]));
        let call = asked(call, &self.query)
            .query("follow", "1")
            .header("accept", "text/event-stream")
            .read_timeout(LASTS);
        let response = send(call, Some(self.id))?;
        self.stream = Some(BufReader::new(response));
        self.attempts.opened();
        Ok(())
    }

    /// The next thing that the service says; nothing for a sign of life.
    fn step(&mut self) -> Result<Option<Event>, BuildError> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(event));
        }
        let Some(stream) = &mut self.stream else {
            return self.go_on().map(|()| None);
        };
        let Some(message) = Message::read(stream) else {
            self.stream = None;
            return Ok(None);
        };
        self.understand(&message)?;
        let event = self.ready.pop_front();
        if event.is_some() {
            self.attempts.heard();
        }
        Ok(event)
    }

    /// Connects anew, behind what was told.
    fn go_on(&mut self) -> Result<(), BuildError> {
        let Some(wait) = self.attempts.wait() else {
            let url = self.client.url();
            return Err(BuildError::Unreachable(format!(
                "{url} breaks off before it has said anything new, {PATIENCE} times in a row"
            )));
        };
        thread::sleep(wait);
        self.tail.clear();
        self.told.expect_again();
        self.query.go_on(self.told.cursor());
        match self.connect() {
            Err(BuildError::Unreachable(_)) if !self.attempts.is_last() => Ok(()),
            result => result,
        }
    }

    fn understand(&mut self, message: &Message) -> Result<(), BuildError> {
        match message.event.as_str() {
            "line" => {
                let line: Line = parsed::<LineAnswer>(&message.data)?.into();
                let cursor: Cursor = message.id.parse().map_err(|error| unexpected(&error))?;
                if self.query.tail.is_some() && cursor == Cursor::default() {
                    self.tail.push(line);
                } else {
                    self.release_tail();
                    self.tell(line, cursor);
                }
            }
            "status" => {
                let view: Box<JobView> = parsed(&message.data)?;
                if self.status.as_ref() != Some(&view) {
                    self.status = Some(view.clone());
                    self.ready.push_back(Event::Status(view));
                }
            }
            "lost" => self.ready.push_back(Event::Lost),
            "error" => {
                let answer: ErrorAnswer = parsed(&message.data)?;
                return Err(refused::error(answer, Some(self.id), ""));
            }
            "end" => {
                self.release_tail();
                self.over = true;
            }
            // The service ends: another one may be there at once.
            "away" => self.stream = None,
            // A sign of life, or something that later services say.
            _ => {}
        }
        Ok(())
    }

    fn release_tail(&mut self) {
        for line in std::mem::take(&mut self.tail) {
            self.tell(line, Cursor::default());
        }
    }

    fn tell(&mut self, line: Line, cursor: Cursor) {
        if self.told.is_new(&line, &cursor) {
            self.ready.push_back(Event::Line(line, cursor));
        }
    }

    /// The next event, or nothing for a sign of life. None when all is told.
    pub(super) fn poll(&mut self) -> Option<Result<Option<Event>, BuildError>> {
        if self.over {
            return self.ready.pop_front().map(|event| Ok(Some(event)));
        }
        let step = self.step();
        self.over |= step.is_err();
        match step {
            Ok(None) if self.over => None,
            step => Some(step),
        }
    }
}

impl Iterator for Follow<'_> {
    type Item = Result<Event, BuildError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.poll()? {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn parsed<T: DeserializeOwned>(data: &str) -> Result<T, BuildError> {
    serde_json::from_str(data).map_err(|error| unexpected(&error))
}

/// One message of the stream, as WHATWG's HTML describes them in "Server-sent events".
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    event: String,
    id: String,
    data: String,
}

impl Message {
    /// Reads up to the next empty line; none at the end, or when the stream breaks.
    fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut message = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let count = stream.read_until(b'\n', &mut line).ok()?;
            if count == 0 || line.pop() != Some(b'\n') {
                return None;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\r');
            if text.is_empty() {
                return Some(message);
            }
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut message.event),
                "id" => value.clone_into(&mut message.id),
                "data" => message.data.push_str(value),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_signs_of_life_are_empty() {
        let mut text: &[u8] =
            b"retry: 1000\n\n: keep-alive\n\nid: build.5.0\nevent: line\r\ndata: {}\n\nevent: cut";
        let mut next = || Message::read(&mut text);
        assert_eq!(next(), Some(Message::default()));
        assert_eq!(next(), Some(Message::default()));
        let message = next().unwrap();
        assert_eq!(
            (&*message.event, &*message.id, &*message.data),
            ("line", "build.5.0", "{}")
        );
        assert_eq!(next(), None);
    }
}
