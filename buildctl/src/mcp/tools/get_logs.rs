//! `getLogs`: as much of a log as a model can read, and where the rest is.

use std::num::NonZeroUsize;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Effect, Refusal, Reply, Verb, job};
use crate::{
    api::{JobLogs, LogsAnswer},
    job::JobId,
    logs::{Cursor, plain::plain},
    mcp::{resources, schema},
    phase::Phase,
    service::{Builds, LogPage, LogQuery},
};

/// Lines of those who do not say.
const LINES: usize = 200;

/// The most lines.
const MOST_LINES: usize = 2000;

/// Bytes of those who do not say. An answer is sent twice, as text and as structure.
const BYTES: usize = 24 << 10;

/// The most bytes.
const MOST_BYTES: usize = 48 << 10;

pub(super) struct GetLogs;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
    /// Only the log of this phase.
    #[schemars(schema_with = "schema::phase")]
    phase: String,
    /// Only lines that look like errors, with what surrounds them. The first thing to ask for when a job failed.
    errors_only: bool,
    /// Only lines that match this regular expression (RE2 syntax; `(?i)` in front ignores case).
    #[schemars(with = "String")]
    grep: String,
    /// The last so many lines [default: 200]. Not used with a cursor.
    #[schemars(with = "u64", range(min = 1, max = 2000), extend("default" = 200))]
    tail: Option<usize>,
    /// Read on where an earlier answer ended: its `cursor`.
    #[schemars(with = "String")]
    cursor: String,
    /// About as many bytes of text at most [default: 24576].
    #[schemars(with = "u64", range(min = 256, max = 49152), extend("default" = 24576))]
    max_bytes: Option<usize>,
}

impl Arguments {
    fn phase(&self) -> Result<Option<Phase>, Refusal> {
        let name = self.phase.trim();
        if name.is_empty() {
            return Ok(None);
        }
        let known = Phase::ALL
            .into_iter()
            .find(|phase| phase.name().eq_ignore_ascii_case(name));
        known.map(Some).ok_or_else(|| {
            Refusal(format!(
                "phase: `{name}` is no phase (known: build, test, publish)"
            ))
        })
    }

    fn cursor(&self) -> Result<Option<Cursor>, Refusal> {
        let text = self.cursor.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let cursor = text.parse::<Cursor>();
        cursor
            .map(Some)
            .map_err(|error| Refusal(format!("cursor: {error}")))
    }

    fn query(&self) -> Result<LogQuery, Refusal> {
        let cursor = self.cursor()?;
        let lines = self.tail.unwrap_or(LINES).clamp(1, MOST_LINES);
        Ok(LogQuery {
            phase: self.phase()?,
            tail: NonZeroUsize::new(lines).filter(|_| cursor.is_none()),
            cursor,
            max_bytes: Some(self.max_bytes.unwrap_or(BYTES).clamp(256, MOST_BYTES)),
            grep: (!self.grep.is_empty()).then(|| self.grep.clone()),
            errors_only: self.errors_only,
        })
    }
}

/// A part of a job's log.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// Of which job.
    job_id: JobId,
    #[serde(flatten)]
    logs: JobLogs,
    /// Where this answer ends; give it to getLogs to read on.
    cursor: String,
    /// Whether the job has ended and this is the end of its log.
    complete: bool,
    /// Whether more can be read now, behind the cursor.
    more: bool,
}

impl Answer {
    fn of(id: JobId, mut page: LogPage, phase: Option<Phase>) -> Self {
        for line in &mut page.lines {
            line.text = plain(&line.text);
        }
        let LogsAnswer {
            job_id,
            logs,
            cursor,
            complete,
            more,
        } = LogsAnswer::of(id, &page, phase);
        Self {
            job_id,
            logs,
            cursor,
            complete,
            more,
        }
    }
}

#[async_trait]
impl Verb for GetLogs {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "getLogs";
    const TITLE: &'static str = "Logs of a job";
    const DESCRIPTION: &'static str = "\
The log of a job, by phase; by default the last 200 lines, 24 KiB at most. For a job that failed, ask with errors_only first. \
grep picks lines; cursor reads on where an earlier answer ended. Lines of the build's own programs begin with [main/stdout] or \
[main/stderr], those of the service with [buildctl].";
    const EFFECT: Effect = Effect::Reads;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let id = job(&arguments.job_id)?;
        let query = arguments.query()?;
        let phase = query.phase;
        let page = builds.logs(id, query).await?;
        let mut spoke: Vec<Phase> = page
            .lines
            .iter()
            .filter_map(|line| line.run.phase())
            .collect();
        spoke.extend(phase);
        spoke.sort_unstable();
        spoke.dedup();
        Ok(Reply {
            answer: Answer::of(id, page, phase),
            links: spoke
                .into_iter()
                .map(|phase| resources::log_link(id, phase))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_whatever_is_asked_for() {
        let plain = Arguments::default().query().unwrap();
        assert_eq!(
            (plain.tail.map(usize::from), plain.max_bytes),
            (Some(200), Some(24 << 10))
        );
        let greedy = Arguments {
            tail: Some(usize::MAX),
            max_bytes: Some(usize::MAX),
            ..Arguments::default()
        };
        let greedy = greedy.query().unwrap();
        assert_eq!(
            (greedy.tail.map(usize::from), greedy.max_bytes),
            (Some(2000), Some(48 << 10))
        );
        let on = Arguments {
            cursor: "build.10.0".to_owned(),
            ..Arguments::default()
        }
        .query()
        .unwrap();
        assert_eq!((on.tail, on.max_bytes), (None, Some(24 << 10)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |arguments: Arguments| arguments.query().unwrap_err().0;
        let phase = wrong(Arguments {
            phase: "tests".to_owned(),
            ..Arguments::default()
        });
        assert_eq!(
            phase,
            "phase: `tests` is no phase (known: build, test, publish)"
        );
        let cursor = wrong(Arguments {
            cursor: "7".to_owned(),
            ..Arguments::default()
        });
        assert_eq!(
            cursor,
            "cursor: `7` is no log cursor (they come from an earlier answer)"
        );
    }
}
