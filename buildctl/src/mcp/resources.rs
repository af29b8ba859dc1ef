//! Jobs and their logs as documents, for clients that read and watch documents instead of calling tools.
//!
//! | document | what it is |
//! |---|---|
//! | `buildctl://jobs/{id}` | how far a job is: JSON, as `getStatus` |
//! | `buildctl://jobs/{id}/logs/{phase}` | the end of a phase's log: text |

mod watch;

use std::{collections::BTreeSet, fmt, num::NonZeroUsize};

use rmcp::{
    ErrorData,
    model::{
        CacheScope, ListResourcesResult, ReadResourceResult, Resource, ResourceContents,
        ResourceTemplate,
    },
};
use serde_json::json;

pub(super) use watch::{Watches, listen, subscribable};

use crate::{
    api::{LogsAnswer, StatusAnswer},
    job::{Job, JobId},
    logs::{Line, plain::plain},
    phase::Phase,
    service::{BuildError, Builds, JobFilter, JobView, LogQuery},
};

/// Jobs on a page of the list.
const PAGE: usize = 25;

/// The most lines and bytes of a log in one document.
const LINES: usize = 5000;
const BYTES: usize = 256 << 10;

/// What a line costs in a page besides its text.
const LINE: usize = 32;

/// For how long what does not change any more may be kept, in milliseconds. It may be removed.
const ENDED: u64 = 60_000;

/// A document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Document {
    Job(JobId),
    Log(JobId, Phase),
}

impl Document {
    fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("buildctl://jobs/")?.split('/');
        let id = parts.next()?.parse().ok()?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, _, _) => Some(Self::Job(id)),
            (Some("logs"), Some(name), None) => {
                let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name)?;
                Some(Self::Log(id, phase))
            }
            _ => None,
        }
    }

    fn job(self) -> JobId {
        match self {
            Self::Job(id) | Self::Log(id, _) => id,
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => write!(f, "buildctl://jobs/{id}"),
            Self::Log(id, phase) => write!(f, "buildctl://jobs/{id}/logs/{phase}"),
        }
    }
}

/// A link to how far a job is.
pub(super) fn job_link(id: JobId) -> Resource {
    Resource::new(Document::Job(id).to_string(), format!("job-{id}"))
        .with_title(format!("Job {id}"))
        .with_description("How far the job is.")
        .with_mime_type("application/json")
}

/// A link to a phase's log.
pub(super) fn log_link(id: JobId, phase: Phase) -> Resource {
    Resource::new(
        Document::Log(id, phase).to_string(),
        format!("job-{id}-{phase}-log"),
    )
    .with_title(format!("Log of the {phase} of job {id}"))
    .with_description(format!("The end of the log of the job's {phase}."))
    .with_mime_type("text/plain")
}

/// Links to the logs of the phases that have begun.
pub(super) fn log_links(job: &Job) -> Vec<Resource> {
    let begun: BTreeSet<Phase> = job.runs.keys().filter_map(|run| run.phase()).collect();
    begun
        .into_iter()
        .map(|phase| log_link(job.id, phase))
        .collect()
}

/// The kinds of documents there are.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new("buildctl://jobs/{job_id}", "job")
            .with_title("Job")
            .with_description("How far a job is, as getStatus tells it.")
            .with_mime_type("application/json"),
        ResourceTemplate::new("buildctl://jobs/{job_id}/logs/{phase}", "log")
            .with_title("Log of a phase")
            .with_description("The end of the log of a job's build, test or publish phase; getLogs reads all of it.")
            .with_mime_type("text/plain"),
    ]
}

/// A page of the documents there are, those of the newest jobs first.
pub(super) async fn list(
    builds: &dyn Builds,
    cursor: Option<&str>,
) -> Result<ListResourcesResult, ErrorData> {
    let offset = cursor.map_or(Ok(0), str::parse).map_err(|_| {
        let message = "the cursor is none of this list: begin without one";
        ErrorData::invalid_params(message, None)
    })?;
    let filter = JobFilter {
        limit: Some(PAGE),
        offset,
        ..JobFilter::default()
    };
    let page = builds.list(filter).await.map_err(|error| failed(&error))?;
    let links = |view: &JobView| {
        let mut links = vec![job_link(view.job.id)];
        links.extend(log_links(&view.job));
        links
    };
    let mut result =
        ListResourcesResult::with_all_items(page.jobs.iter().flat_map(links).collect());
    let next = offset.saturating_add(page.jobs.len());
    result.next_cursor = (!page.jobs.is_empty() && next < page.total).then(|| next.to_string());
    Ok(result.with_ttl_ms(0).with_cache_scope(CacheScope::Private))
}

/// A document.
pub(super) async fn read(builds: &dyn Builds, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let document = Document::parse(uri).ok_or_else(|| unknown(uri))?;
    let (text, mime, ended) = match document {
        Document::Job(id) => {
            let view = builds.status(id).await.map_err(|error| of(uri, error))?;
            let answer = StatusAnswer::from(&view);
            let text = serde_json::to_string_pretty(&answer).map_err(|error| {
                ErrorData::internal_error(format!("the job cannot be written: {error}"), None)
            })?;
            (text, "application/json", view.job.state.is_terminal())
        }
        Document::Log(id, phase) => {
            let (text, complete) = log(builds, id, phase)
                .await
                .map_err(|error| of(uri, error))?;
            (text, "text/plain", complete)
        }
    };
    let contents = ResourceContents::text(text, uri).with_mime_type(mime);
    Ok(ReadResourceResult::new(vec![contents])
        .with_ttl_ms(if ended { ENDED } else { 0 })
        .with_cache_scope(CacheScope::Private))
}

/// The end of a phase's log, and whether no more will come.
async fn log(builds: &dyn Builds, id: JobId, phase: Phase) -> Result<(String, bool), BuildError> {
    let query = LogQuery {
        phase: Some(phase),
        tail: NonZeroUsize::new(LINES),
        max_bytes: Some(BYTES),
        ..LogQuery::default()
    };
    let mut page = builds.logs(id, query).await?;
    let bytes: usize = page.lines.iter().map(|line| line.text.len() + LINE).sum();
    // A page has no room for a line that may be as long as lines are.
    let is_cut = page.lines.len() >= LINES || bytes + Line::LONGEST + LINE > BYTES;
    for line in &mut page.lines {
        line.text = plain(&line.text);
    }
    let complete = page.complete;
    let mut answer = LogsAnswer::of(id, &page, Some(phase));
    let lines = answer.logs.of(phase).take().unwrap_or_default();
    let mut text = String::with_capacity(bytes + 128);
    if is_cut {
        text.push_str(
            "[buildctl] the beginning of this log may be left out; getLogs reads all of it\n",
        );
    }
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, complete))
}

fn unknown(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(
        format!("there is no resource `{uri}`"),
        Some(json!({"uri": uri})),
    )
}

fn of(uri: &str, error: BuildError) -> ErrorData {
    match error {
        BuildError::NotFound(_) => unknown(uri),
        other => failed(&other),
    }
}

fn failed(error: &BuildError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0c7a1c5e-6d6e-4c3a-9b0a-111111111111";

    #[test]
    fn a_document_is_what_its_name_says() {
        let id: JobId = ID.parse().unwrap();
        for document in [
            Document::Job(id),
            Document::Log(id, Phase::Build),
            Document::Log(id, Phase::Publish),
        ] {
            assert_eq!(Document::parse(&document.to_string()), Some(document));
        }
        for other in [
            "buildctl://jobs/",
            "buildctl://jobs/7",
            "buildctl://jobs/{ID}/logs",
            "buildctl://jobs/{ID}/logs/all",
            "buildctl://jobs/{ID}/logs/build/x",
            "file:///etc/passwd",
        ] {
            assert_eq!(Document::parse(&other.replace("{ID}", ID)), None, "{other}");
        }
    }
}
