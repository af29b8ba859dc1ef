//! The resources of `/v1`: jobs as they are recorded, and lines of logs with all that is known of each. The original has none
//! of this; its shapes are in [`super::StatusAnswer`] and its like.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    job::{JobId, State},
    logs::{Line, Stream},
    phase::{Phase, Run},
    service::{JobView, LogPage},
};

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LineAnswer {
    /// Which run said it: `build`, `test-cmd-0`, `test-entry`, `publish`, `cleanup`.
    #[schemars(with = "String")]
    pub run: Run,
    /// The phase of that run; none for a cleanup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Who said it.
    pub stream: Stream,
    /// When, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub time: Option<Timestamp>,
    /// The text.
    pub text: String,
    /// Whether the line goes on in the next one of this run and stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl From<Line> for LineAnswer {
    fn from(line: Line) -> Self {
        Self {
            run: line.run,
            phase: line.run.phase(),
            stream: line.stream,
            time: line.time,
            text: line.text,
            partial: line.partial,
        }
    }
}

impl From<LineAnswer> for Line {
    fn from(line: LineAnswer) -> Self {
        Self {
            run: line.run,
            stream: line.stream,
            time: line.time,
            text: line.text,
            partial: line.partial,
        }
    }
}

/// A page of a job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinesAnswer {
    /// Its lines.
    pub lines: Vec<LineAnswer>,
    /// The cursor of the next page.
    pub next: String,
    /// Whether the job has ended and nothing more will come.
    pub complete: bool,
    /// Whether more can be read now.
    pub more: bool,
    /// Whether something before these lines is no longer kept.
    pub lost: bool,
}

impl From<LogPage> for LinesAnswer {
    fn from(page: LogPage) -> Self {
        Self {
            lines: page.lines.into_iter().map(Into::into).collect(),
            next: page.next.to_string(),
            complete: page.complete,
            more: page.more,
            lost: page.lost,
        }
    }
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobsAnswer {
    /// The jobs.
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    pub jobs: Vec<JobView>,
    /// How many match.
    pub total: usize,
}

/// The last word of a followed log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndAnswer {
    /// Of which job.
    pub job_id: JobId,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<State>,
}
