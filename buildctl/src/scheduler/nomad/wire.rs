//! What Nomad says of jobs, evaluations, allocations and files, as far as it matters here; and the few calls that every part of
//! this backend makes (Nomad documentation, "Jobs", "Allocations", "Client HTTP API"). Meanings are [`super::observe`]'s.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::client::{ApiError, NomadApi};
use crate::{job::JobId, phase::Run};

/// The key of a Nomad job's metadata that names our job, as the original names it.
pub(super) const OF_JOB: &str = "build-service-job-id";
/// The key that says which run it is.
pub(super) const OF_RUN: &str = "buildctl-run";
/// The key that says what its task is; see [`TaskKind`].
pub(super) const OF_TASK: &str = "buildctl-task";
/// The only task of every job.
pub(super) const TASK: &str = "main";

/// What the task of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// `buildctl run-phase`, which leaves a result and writes records.
    Runner,
    /// The tested image itself, of which only the exit code and the plain output are known.
    Image,
}

impl TaskKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Image => "image",
        }
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A job, as a list or itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NomadJob {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) stop: bool,
    pub(super) status: String,
    /// Nanoseconds.
    pub(super) submit_time: i64,
    pub(super) modify_index: u64,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) job_summary: Summary,
}

/// Counts of allocations; only when they changed matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Summary {
    pub(super) modify_index: u64,
}

impl NomadJob {
    /// Which run of which job it is; none for jobs of others.
    pub(super) fn run(&self) -> Option<(JobId, Run)> {
        run_of(&self.id)
    }

    pub(super) fn kind(&self) -> TaskKind {
        match self.meta.get(OF_TASK).map(String::as_str) {
            Some("image") => TaskKind::Image,
            _ => TaskKind::Runner,
        }
    }

    pub(super) fn submitted(&self) -> Timestamp {
        time(self.submit_time).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Reads the name of a Nomad job as [`Run::of_job`] writes it.
pub(super) fn run_of(name: &str) -> Option<(JobId, Run)> {
    const UUID: usize = 36;
    let test = |rest: &str| {
        let (id, index) = (rest.get(..UUID)?, rest.get(UUID..)?.strip_prefix('-')?);
        Some((id.to_owned(), Run::TestCommand(index.parse().ok()?)))
    };
    let other = || {
        let split = name.len().checked_sub(UUID)?;
        let run = name.get(..split)?.strip_suffix('-')?.parse().ok()?;
        Some((name.get(split..)?.to_owned(), run))
    };
    let (id, run) = name.strip_prefix("test-cmd-").map_or_else(other, test)?;
    let id: JobId = id.parse().ok()?;
    (run.of_job(&id) == name).then_some((id, run))
}

/// An evaluation: an attempt to place a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Evaluation {
    pub(super) status: String,
    pub(super) status_description: String,
    pub(super) triggered_by: String,
    pub(super) create_index: u64,
    /// Nanoseconds.
    pub(super) create_time: i64,
    #[serde(rename = "FailedTGAllocs", deserialize_with = "null_is_default")]
    pub(super) failed: BTreeMap<String, Placement>,
}

/// Why a group could not be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Placement {
    pub(super) nodes_evaluated: u64,
    pub(super) nodes_in_pool: u64,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) nodes_available: BTreeMap<String, u64>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) constraint_filtered: BTreeMap<String, u64>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) dimension_exhausted: BTreeMap<String, u64>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) quota_exhausted: Vec<String>,
}

/// An allocation: an instance of a job on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Allocation {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) node_name: String,
    pub(super) client_status: String,
    pub(super) client_description: String,
    pub(super) desired_status: String,
    pub(super) desired_description: String,
    pub(super) create_index: u64,
    /// Nanoseconds.
    pub(super) create_time: i64,
    /// Nanoseconds.
    pub(super) modify_time: i64,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) task_states: BTreeMap<String, TaskState>,
}

impl Allocation {
    pub(super) fn task(&self) -> Option<&TaskState> {
        self.task_states.get(TASK)
    }

    /// Whether nothing of it runs any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(
            self.client_status.as_str(),
            "complete" | "failed" | "lost" | "unknown"
        )
    }
}

/// How a task is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TaskState {
    pub(super) state: String,
    pub(super) failed: bool,
    pub(super) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) events: Vec<TaskEvent>,
}

/// What happened to a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TaskEvent {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) display_message: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) details: BTreeMap<String, String>,
}

/// A file of an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct FileInfo {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) is_dir: bool,
}

/// A registration that creates only: index 0 is that of no job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registration<'a> {
    job: &'a Value,
    enforce_index: bool,
    job_modify_index: u64,
}

/// A time in nanoseconds, as Nomad writes some of them; 0 is none.
pub(super) fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok())?
}

/// What a thing that is not there is.
pub(crate) fn absent<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ApiError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl NomadApi {
    /// Registers a job if there is none of its name: whether there was none.
    pub(super) async fn register(&self, job: &Value) -> Result<bool, ApiError> {
        let body = Registration {
            job,
            enforce_index: true,
            job_modify_index: 0,
        };
        match self.put(&["jobs"], &body).send().await {
            Ok(_) => Ok(true),
            Err(ApiError::Exists) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn job(&self, name: &str) -> Result<Option<NomadJob>, ApiError> {
        match absent(self.get(&["job", name]).send().await)? {
            Some(answer) => answer.json().map(Some),
            None => Ok(None),
        }
    }

    /// The Nomad jobs that match an expression, and the index of that list.
    pub(super) async fn jobs(&self, filter: &str) -> Result<(Vec<NomadJob>, u64), ApiError> {
        let call = self.get(&["jobs"]).query("meta", "true");
        let answer = call.query("filter", filter).send().await?;
        Ok((answer.json()?, answer.index))
    }

    /// All runs of a job that Nomad knows.
    pub(super) async fn runs(&self, id: JobId) -> Result<BTreeMap<Run, NomadJob>, ApiError> {
        let (jobs, _) = self.jobs(&format!("ID contains \"{id}\"")).await?;
        let mine = |job: NomadJob| match job.run() {
            Some((of, run)) if of == id => Some((run, job)),
            _ => None,
        };
        Ok(jobs.into_iter().filter_map(mine).collect())
    }

    pub(super) async fn allocations(&self, name: &str) -> Result<Vec<Allocation>, ApiError> {
        let call = self.get(&["job", name, "allocations"]);
        absent(call.send().await)?.map_or(Ok(Vec::new()), |answer| answer.json())
    }

    pub(super) async fn evaluations(&self, name: &str) -> Result<Vec<Evaluation>, ApiError> {
        let call = self.get(&["job", name, "evaluations"]);
        absent(call.send().await)?.map_or(Ok(Vec::new()), |answer| answer.json())
    }

    /// Stops a job; with `purge`, forgets it at once. One that is not there is no error.
    pub(super) async fn deregister(&self, name: &str, purge: bool) -> Result<(), ApiError> {
        let purge = if purge { "true" } else { "false" };
        let call = self.delete(&["job", name]).query("purge", purge);
        absent(call.send().await).map(drop)
    }

    /// Files in a folder of an allocation; none if there is no such folder, or no such allocation (any more).
    pub(super) async fn files(
        &self,
        allocation: &str,
        folder: &str,
    ) -> Result<Option<Vec<FileInfo>>, ApiError> {
        let call = self.get(&["client", "fs", "ls", allocation]);
        match absent(call.query("path", folder).send().await)? {
            Some(answer) => answer.json().map(Some),
            None => Ok(None),
        }
    }

    /// Part of a file. A file that is not there is answered with 200 and an error for a body, so this asks for the parts of
    /// files only that were listed just now, and takes what begins like that error for it.
    pub(super) async fn part(
        &self,
        allocation: &str,
        file: &str,
        from: u64,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        let call = self
            .get(&["client", "fs", "readat", allocation])
            .query("path", file);
        let call = call.query("offset", &from.to_string());
        let answer = absent(call.query("limit", &limit.to_string()).send().await)?;
        let body = answer.map(|answer| answer.body);
        Ok(body.filter(|body| !is_missing(body, file)))
    }
}

/// `stat /var/nomad/alloc/…/main.stdout.7: no such file or directory`
fn is_missing(body: &[u8], file: &str) -> bool {
    let text = String::from_utf8_lossy(body);
    text.starts_with("stat /") && text.contains(file) && text.ends_with("no such file or directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nomad_jobs_read_as_they_were_written() {
        let id = JobId::random();
        let runs = [
            Run::Build,
            Run::TestCommand(0),
            Run::TestCommand(12),
            Run::TestEntry,
            Run::Publish,
            Run::Cleanup,
        ];
        for run in runs {
            assert_eq!(run_of(&run.of_job(&id)), Some((id, run)));
        }
        for other in [
            "",
            "build-",
            "web",
            &format!("x{id}"),
            &format!("build-{id}-1"),
            &format!("test-cmd-{id}"),
        ] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }

    #[test]
    fn nulls_are_nothing() {
        let job: NomadJob =
            serde_json::from_str(r#"{"ID":"build-x","Meta":null,"Stop":true}"#).unwrap();
        assert!(job.stop && job.meta.is_empty() && job.kind() == TaskKind::Runner);
        let allocation: Allocation =
            serde_json::from_str(r#"{"ID":"a","TaskStates":null}"#).unwrap();
        assert!(allocation.task().is_none());
    }

    #[test]
    fn a_file_that_is_not_there_is_no_content() {
        let file = "alloc/logs/main.stdout.7";
        let error = format!("stat /data/x/{file}: no such file or directory");
        assert!(is_missing(error.as_bytes(), file));
        assert!(!is_missing(b"stat /x is a program", file));
    }
}
