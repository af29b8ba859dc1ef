//! A job's log that goes on whatever happens on the way: when the stream breaks, it is taken up again where it ended. That a log
//! cannot be read is said once and is no failure of the job; how the job goes is seen by its status, elsewhere.

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use runyard_common::backoff::Backoff;

use crate::{
    client::Attempts,
    job::JobId,
    logs::{Cursor, Line, told::Told},
    service::{BuildError, Builds, Event, JobView, LogQuery},
};

/// How often in a row a stream may break without a word.
const PATIENCE: u32 = 6;

/// What is seen of a log.
#[derive(Debug)]
pub(super) enum Seen {
    /// A line, and the cursor behind it.
    Line(Line, Cursor),
    /// The job changed.
    Status(Box<JobView>),
    /// Something of the log is gone.
    Lost,
    /// The log cannot be read any more; nothing follows.
    GivenUp(String),
}

/// The log of a job from where the query says, to its end; `again` is the wait between a stream that broke and the next one.
pub(super) fn follow(
    builds: &dyn Builds,
    id: JobId,
    query: LogQuery,
    again: Backoff,
) -> BoxStream<'_, Seen> {
    let reader = Reader {
        builds,
        id,
        told: Told::from(query.cursor.clone()),
        query,
        attempts: Attempts::new(PATIENCE, again),
        stream: None,
        is_over: false,
    };
    let seen = stream::unfold(reader, async |mut reader| {
        reader.next().await.map(|seen| (seen, reader))
    });
    seen.boxed()
}

struct Reader<'a> {
    builds: &'a dyn Builds,
    id: JobId,
    query: LogQuery,
    told: Told,
    attempts: Attempts,
    stream: Option<BoxStream<'static, Result<Event, BuildError>>>,
    is_over: bool,
}

impl Reader<'_> {
    async fn next(&mut self) -> Option<Seen> {
        while !self.is_over {
            let event = match &mut self.stream {
                Some(stream) => stream.next().await,
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(error) => Some(Err(error)),
                },
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(seen) = self.take(event) {
                        return Some(seen);
                    }
                }
                Some(Err(error)) => {
                    if let Some(given_up) = self.break_off(&error.to_string()).await {
                        return Some(given_up);
                    }
                }
                None => {
                    if let Some(given_up) = self.break_off("it ended before the job").await {
                        return Some(given_up);
                    }
                }
            }
        }
        None
    }

    async fn open(&mut self) -> Result<(), BuildError> {
        self.told.expect_again();
        let stream = self.builds.follow(self.id, self.query.clone()).await?;
        self.attempts.opened();
        self.stream = Some(stream);
        Ok(())
    }

    /// What is seen of an event; nothing of a line that was seen before.
    fn take(&mut self, event: Event) -> Option<Seen> {
        match event {
            Event::Line(line, cursor) => {
                self.attempts.heard();
                self.query.go_on(&cursor);
                let is_new = self.told.is_new(&line, &cursor);
                is_new.then_some(Seen::Line(line, cursor))
            }
            Event::Status(view) => {
                // The last event is the job as it ended, after all lines.
                self.is_over = view.job.state.is_terminal();
                Some(Seen::Status(view))
            }
            Event::Lost => Some(Seen::Lost),
        }
    }

    async fn break_off(&mut self, why: &str) -> Option<Seen> {
        self.stream = None;
        let Some(wait) = self.attempts.wait() else {
            self.is_over = true;
            return Some(Seen::GivenUp(why.to_owned()));
        };
        tokio::time::sleep(wait).await;
        None
    }
}
