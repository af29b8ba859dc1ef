//! What is seen of a job, as events for programs: `--progress ndjson`, one JSON object in each line. The last one of a job that was
//! followed to its end is `ended`; the answer itself is on standard output.
//!
//! | `event` | with |
//! |---|---|
//! | `accepted` | `job_id`, `place` |
//! | `status` | `job_id`, `status`, `phase` and `waiting_for` if there is such |
//! | `line` | a line of the log, as `logs -o json` has it: `job_id`, `phase`, `run`, `stream`, `timestamp`, `message`, `cursor` |
//! | `note` | `message`: what is no line of the log, such as a log that is not kept any more |
//! | `heartbeat` | `seconds` since the beginning, after each 15 s without anything else |
//! | `ended` | `job_id`, `status`, `seconds`, and `error` if it failed |
//! | `left` | `message`: the job goes on, and how to come back to it |

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    api::{StatusAnswer, StreamMessage},
    job::{JobId, State},
    phase::Phase,
    service::JobView,
};

/// Something that is seen of a job.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    Accepted {
        job_id: JobId,
        place: &'a str,
    },
    Status {
        job_id: JobId,
        status: State,
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
        #[serde(skip_serializing_if = "Option::is_none")]
        waiting_for: Option<String>,
    },
    Line(StreamMessage),
    Note {
        message: &'a str,
    },
    Heartbeat {
        seconds: u64,
    },
    Ended {
        job_id: JobId,
        status: State,
        seconds: u64,
        #[serde(skip_serializing_if = "String::is_empty")]
        error: String,
    },
    Left {
        message: &'a str,
    },
}

impl Event<'_> {
    /// How far a job is.
    pub(super) fn status(view: &JobView) -> Self {
        let answer = StatusAnswer::from(view);
        Self::Status {
            job_id: answer.job_id,
            status: answer.status,
            phase: answer.more.phase,
            waiting_for: answer.more.waiting_for,
        }
    }

    /// How it ended, so many seconds after it was first looked at.
    pub(super) fn ended(view: &JobView, seconds: u64) -> Self {
        let answer = StatusAnswer::from(view);
        Self::Ended {
            job_id: answer.job_id,
            status: answer.status,
            seconds,
            error: answer.error,
        }
    }
}

/// Where events go.
pub(super) struct Events {
    out: Box<dyn Write + Send>,
    /// When the last one went there.
    spoke: Instant,
}

impl Events {
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            spoke: Instant::now(),
        }
    }

    /// Tells one, in a line of its own.
    pub(super) fn tell(&mut self, event: &Event<'_>) {
        self.spoke = Instant::now();
        // Nobody reads any more if this fails, and the job goes on.
        let _ = serde_json::to_string(event)
            .map_err(Into::into)
            .and_then(|line| writeln!(self.out, "{line}"))
            .and_then(|()| self.out.flush());
    }

    /// The same, if nothing was told for so long.
    pub(super) fn beat(&mut self, event: &Event<'_>, silence: Duration) {
        if self.spoke.elapsed() >= silence {
            self.tell(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use runyard_common::testing::Paper;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::JobConfig,
        job::Job,
        logs::{Cursor, Line, Stream},
        phase::Run,
    };

    #[test]
    fn every_event_is_an_object_in_a_line_that_says_what_it_is() {
        let paper = Paper::default();
        let mut events = Events::to(paper.clone());
        let now = Timestamp::constant(1_763_000_000, 0);
        let mut job = Job::new(JobId::random(), JobConfig::default(), now);
        let id = job.id;
        job.state = State::Building;
        events.tell(&Event::Accepted {
            job_id: id,
            place: "here",
        });
        events.tell(&Event::status(&JobView::of(job.clone())));
        let line = Line {
            run: Run::Build,
            stream: Stream::Stdout,
            time: Some(now),
            text: "a \"b\"\u{1b}".to_owned(),
            partial: false,
        };
        events.tell(&Event::Line(StreamMessage::of(
            id,
            &line,
            &Cursor::default(),
            now,
        )));
        events.tell(&Event::Note {
            message: "two\nlines",
        });
        events.beat(&Event::Heartbeat { seconds: 0 }, Duration::from_secs(15));
        events.beat(&Event::Heartbeat { seconds: 7 }, Duration::ZERO);
        job.state = State::Succeeded;
        events.tell(&Event::ended(&JobView::of(job), 8));
        let text = paper.text();
        let told: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let kinds: Vec<&str> = told
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["accepted", "status", "line", "note", "heartbeat", "ended"]
        );
        assert_eq!(
            told[0],
            json!({"event": "accepted", "job_id": id, "place": "here"})
        );
        assert_eq!(told[1]["status"], "BUILDING");
        assert_eq!(
            (&told[2]["message"], &told[2]["run"]),
            (&json!("a \"b\"\u{1b}"), &json!("build"))
        );
        let ended = json!({"event": "ended", "job_id": id, "status": "SUCCEEDED", "seconds": 8});
        assert_eq!(told[5], ended);
    }
}
