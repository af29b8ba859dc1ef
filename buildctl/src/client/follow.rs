//! Following a job over server-sent events: events as they come, and on after a cut, without a line twice.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader},
    thread,
    time::Duration,
};

use runyard_common::{
    backoff::{Backoff, random},
    http::client::Response,
};
use serde::de::DeserializeOwned;

use super::{Client, asked, at, refused, send, unexpected};
use crate::{
    api::{ErrorAnswer, LineAnswer},
    job::JobId,
    logs::{Cursor, Line, Position},
    phase::Run,
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

/// Lines that are remembered in case they come again; of longer parts some would be told twice.
const REMEMBERED: usize = 100_000;

/// A job that is followed: an iterator over its events, which ends when the job has ended and all is told, or after an error.
#[derive(Debug)]
pub struct Follow<'c> {
    client: &'c Client,
    id: JobId,
    query: LogQuery,
    stream: Option<BufReader<Response>>,
    seen: Seen,
    /// The job as it was told last: after a cut it is told again.
    status: Option<Box<JobView>>,
    failures: u32,
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
            seen: Seen::from(query.cursor.clone()),
            query,
            stream: None,
            status: None,
            failures: 0,
            over: false,
        };
        follow.connect()?;
        Ok(follow)
    }

    /// The cursor behind what was told.
    pub fn cursor(&self) -> &Cursor {
        &self.seen.cursor
    }

    fn connect(&mut self) -> Result<(), BuildError> {
        let call = self.client.http.get(&at(self.id, &["logs"]));
        let call = asked(call, &self.query)
            .query("follow", "1")
            .header("accept", "text/event-stream")
            .read_timeout(LASTS);
        let response = send(call, Some(self.id))?;
        self.stream = Some(BufReader::new(response));
        Ok(())
    }

    /// The next thing that the service says; nothing for a sign of life.
    fn step(&mut self) -> Result<Option<Event>, BuildError> {
        let Some(stream) = &mut self.stream else {
            return self.go_on().map(|()| None);
        };
        let Some(message) = Message::read(stream) else {
            self.stream = None;
            return Ok(None);
        };
        let event = self.understand(&message)?;
        if event.is_some() {
            self.failures = 0;
        }
        Ok(event)
    }

    /// Connects anew, behind what was told.
    fn go_on(&mut self) -> Result<(), BuildError> {
        if self.failures > 0 {
            thread::sleep(AGAIN.delay(self.failures - 1, random()));
        }
        self.failures += 1;
        if self.failures > PATIENCE {
            let url = self.client.url();
            return Err(BuildError::Unreachable(format!(
                "{url} breaks off before it has said anything new, {PATIENCE} times in a row"
            )));
        }
        self.seen.expect_again();
        if self.seen.cursor != Cursor::default() {
            self.query.cursor = Some(self.seen.cursor.clone());
            self.query.tail = None;
        }
        match self.connect() {
            Err(BuildError::Unreachable(_)) if self.failures < PATIENCE => Ok(()),
            result => result,
        }
    }

    fn understand(&mut self, message: &Message) -> Result<Option<Event>, BuildError> {
        match message.event.as_str() {
            "line" => {
                let line: Line = parsed::<LineAnswer>(&message.data)?.into();
                let cursor: Cursor = message.id.parse().map_err(|error| unexpected(&error))?;
                let is_new = self.seen.is_new(&line, &cursor);
                Ok(is_new.then_some(Event::Line(line, cursor)))
            }
            "status" => {
                let view: Box<JobView> = parsed(&message.data)?;
                let is_new = self.status.as_ref() != Some(&view);
                self.status = Some(view.clone());
                Ok(is_new.then_some(Event::Status(view)))
            }
            "lost" => Ok(Some(Event::Lost)),
            "error" => {
                let answer: ErrorAnswer = parsed(&message.data)?;
                Err(refused::error(answer, Some(self.id), ""))
            }
            "end" => {
                self.over = true;
                Ok(None)
            }
            // The service ends: another one may be there at once.
            "away" => {
                self.stream = None;
                Ok(None)
            }
            // A sign of life, or something that later services say.
            _ => Ok(None),
        }
    }

    /// The next event, or nothing for a sign of life. None when all is told.
    pub(super) fn poll(&mut self) -> Option<Result<Option<Event>, BuildError>> {
        if self.over {
            return None;
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

/// What was told since the places that the cursor names: behind a cut, the service tells that again.
#[derive(Debug, Default)]
struct Seen {
    cursor: Cursor,
    since: BTreeMap<Run, VecDeque<u64>>,
    again: BTreeMap<Run, VecDeque<u64>>,
}

impl Seen {
    fn from(cursor: Option<Cursor>) -> Self {
        Self {
            cursor: cursor.unwrap_or_default(),
            ..Self::default()
        }
    }

    fn expect_again(&mut self) {
        self.again = std::mem::take(&mut self.since);
    }

    /// Whether a line was not told before. What does not begin as it was told before is new altogether.
    fn is_new(&mut self, line: &Line, cursor: &Cursor) -> bool {
        let place =
            |cursor: &Cursor| -> Position { cursor.0.get(&line.run).copied().unwrap_or_default() };
        let mark = mark(line);
        let since = self.since.entry(line.run).or_default();
        if place(cursor) != place(&self.cursor) {
            since.clear();
        } else if since.len() < REMEMBERED {
            since.push_back(mark);
        }
        self.cursor.clone_from(cursor);
        let Some(again) = self.again.get_mut(&line.run) else {
            return true;
        };
        if again.pop_front() == Some(mark) {
            return false;
        }
        self.again.remove(&line.run);
        true
    }
}

fn mark(line: &Line) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (line.stream, line.time, &line.text, line.partial).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Stream;

    fn line(run: Run, text: &str) -> Line {
        Line {
            run,
            stream: Stream::Stdout,
            time: None,
            text: text.to_owned(),
            partial: false,
        }
    }

    fn cursor(text: &str) -> Cursor {
        text.parse().unwrap()
    }

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

    #[test]
    fn what_comes_again_behind_a_cut_is_not_told_twice() {
        let mut seen = Seen::default();
        let told = [
            ("a", ""),
            ("b", "build.20.0"),
            ("same", "build.20.0"),
            ("same", "build.20.0"),
        ];
        for (text, at) in told {
            assert!(seen.is_new(&line(Run::Build, text), &cursor(at)), "{text}");
        }
        seen.expect_again();
        let news = ["same", "same", "same", "c"]
            .map(|text| seen.is_new(&line(Run::Build, text), &cursor("build.20.0")));
        assert_eq!(news, [false, false, true, true]);
        // Cut off again: all four come again.
        seen.expect_again();
        let news = ["same", "same", "same", "c", "d"]
            .map(|text| seen.is_new(&line(Run::Build, text), &cursor("build.20.0")));
        assert_eq!(news, [false, false, false, false, true]);
    }

    #[test]
    fn behind_a_tail_nothing_is_taken_for_told() {
        let mut seen = Seen::default();
        for text in ["1", "2", "3"] {
            assert!(seen.is_new(&line(Run::Build, text), &cursor("build.90.0")));
        }
        seen.expect_again();
        for text in ["4", "2", "3"] {
            assert!(
                seen.is_new(&line(Run::Build, text), &cursor("build.90.0")),
                "{text}"
            );
        }
    }

    #[test]
    fn runs_are_told_apart() {
        let mut seen = Seen::default();
        let (one, two) = (Run::TestCommand(0), Run::TestCommand(1));
        assert!(seen.is_new(&line(one, "x"), &cursor("")));
        assert!(seen.is_new(&line(two, "x"), &cursor("")));
        seen.expect_again();
        assert!(!seen.is_new(&line(two, "x"), &cursor("")));
        assert!(seen.is_new(&line(two, "x"), &cursor("")));
        assert!(!seen.is_new(&line(one, "x"), &cursor("")));
    }
}
