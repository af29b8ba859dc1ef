//! Answers of the REST routes and their making from the domain. The fields of the original come first, in its order and forms;
//! what is ours follows, and is absent when it says nothing. No secret passes this module: configurations are
//! [`shown`](JobConfig::shown).

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    JobConfig, JobMetrics, Nanoseconds,
    logs::{JobLogs, LogText},
    metrics::duration_of,
    words,
};
use crate::{
    job::{Job, JobId, State},
    phase::{MovedTag, Observed, Phase, Progress},
    service::{BuildError, Cleaned, Health, JobList, JobView, Killed, LogPage},
};

/// Answer of `getStatus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusAnswer {
    /// Which job.
    pub job_id: JobId,
    /// How far it is.
    pub status: State,
    /// What was asked for, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub config: Option<JobConfig>,
    /// When its phases began and ended.
    pub metrics: JobMetrics,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The rest.
    #[serde(flatten)]
    pub more: Details,
}

/// What answers say of a job beyond the original's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Details {
    /// The phase that the job is in, or failed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The phase that it failed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_phase: Option<Phase>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Why its temporary image is still in the registry, once nobody will remove it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// The commit that was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The digest of the image, as the registry has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The image that was published, without tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The tags that were moved; after a failed publication, those that stayed moved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedTag>,
    /// Its runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunAnswer>,
    /// When it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub created_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
}

/// A tag that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedTag {
    /// Its name.
    pub tag: String,
    /// Where it points to.
    pub digest: String,
    /// Where it pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

impl From<&MovedTag> for PublishedTag {
    fn from(moved: &MovedTag) -> Self {
        Self {
            tag: moved.tag.to_string(),
            digest: moved.digest.to_string(),
            previous: moved.previous.as_ref().map(ToString::to_string),
        }
    }
}

/// A run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunAnswer {
    /// `build`, `test-cmd-0`, `test-entry`, `publish`, `cleanup`.
    pub run: String,
    /// `waiting`, `running`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
}

impl From<&Observed> for RunAnswer {
    fn from(observed: &Observed) -> Self {
        use crate::phase::Ending;
        let (state, reason) = match &observed.progress {
            Progress::Waiting { reason, .. } => ("waiting", reason.clone()),
            Progress::Running => ("running", None),
            Progress::Ended { ending } => match ending {
                Ending::Succeeded { .. } => ("succeeded", None),
                Ending::Failed(failure) => ("failed", Some(failure.message.clone())),
                Ending::Cancelled => ("cancelled", None),
            },
        };
        Self {
            run: observed.run.to_string(),
            state: state.to_owned(),
            reason,
            place: observed.place.clone(),
            started_at: observed.started_at,
            ended_at: observed.ended_at,
        }
    }
}

impl Details {
    /// Those of a job.
    pub fn of(job: &Job) -> Self {
        let failed_phase = job.failure.as_ref().and_then(|failure| failure.phase);
        let tags: Vec<PublishedTag> = job.published.iter().map(Into::into).collect();
        Self {
            phase: job.state.phase().or(failed_phase),
            failed_phase,
            waiting_for: waiting_for(job),
            left: job.left(),
            commit: job.built.as_ref().and_then(|built| built.commit.clone()),
            digest: job.built.as_ref().map(|built| built.digest.to_string()),
            image: (!tags.is_empty()).then(|| image_of(&job.config)),
            published: tags,
            runs: job.runs.values().map(Into::into).collect(),
            created_at: Some(job.created_at),
            finished_at: job.finished_at,
        }
    }
}

fn image_of(config: &JobConfig) -> String {
    let registry = config.registry_url.trim_end_matches('/');
    let registry = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    format!("{registry}/{}", config.image_name)
}

fn waiting_for(job: &Job) -> Option<String> {
    let reason = |observed: &Observed| match &observed.progress {
        Progress::Waiting { reason, .. } => reason.clone(),
        Progress::Running | Progress::Ended { .. } => None,
    };
    match job.state {
        State::Succeeded | State::Failed => None,
        // Until somebody has looked, it waits for nothing but that.
        State::Pending if !job.claimed => job
            .behind
            .map(|holder| format!("job {holder} works on the same image and ref")),
        State::Pending | State::Building | State::Testing | State::Publishing => {
            job.runs.values().find_map(reason)
        }
    }
}

fn error_of(job: &Job) -> String {
    job.failure
        .as_ref()
        .map(|failure| failure.error.clone())
        .unwrap_or_default()
}

impl From<&JobView> for StatusAnswer {
    fn from(JobView { job }: &JobView) -> Self {
        Self {
            job_id: job.id,
            status: job.state,
            config: Some(job.config.shown(job.id)),
            metrics: JobMetrics::of(job),
            error: error_of(job),
            more: Details::of(job),
        }
    }
}

/// Answer of `getLogs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogsAnswer {
    /// Of which job.
    pub job_id: JobId,
    /// Its lines.
    pub logs: JobLogs,
    /// Where to read on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cursor: String,
    /// Whether the job has ended and nothing more will come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// Whether more can be read now, behind the cursor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl LogsAnswer {
    /// The answer of a page; with a phase the other two are null.
    pub fn of(id: JobId, page: &LogPage, phase: Option<Phase>) -> Self {
        let mut logs = LogText::of(id, &page.lines).into_logs(phase);
        if page.lost {
            logs.begin_with("[buildctl] what was said before is no longer kept");
        }
        if page.more {
            logs.end_with("[buildctl] this answer is full; ask again with its cursor for more");
        }
        Self {
            job_id: id,
            logs,
            cursor: page.next.to_string(),
            complete: page.complete,
            more: page.more,
        }
    }
}

/// Answer of `killJob`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillAnswer {
    /// Which job.
    pub job_id: JobId,
    /// Whether there was something to end.
    pub success: bool,
    /// For people.
    pub message: String,
}

impl KillAnswer {
    /// The answer about job `id`.
    pub fn of(id: JobId, killed: Killed) -> Self {
        Self {
            job_id: id,
            success: killed.killed,
            message: killed.message,
        }
    }
}

/// Answer of `cleanup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CleanupAnswer {
    /// Whether everything could be removed.
    pub success: bool,
    /// The jobs that were cleaned up.
    #[serde(
        default,
        deserialize_with = "words::null_is_empty",
        serialize_with = "words::null_if_empty"
    )]
    #[schemars(with = "Option<Vec<JobId>>")]
    pub cleaned_jobs: Vec<JobId>,
    /// For people.
    pub message: String,
}

impl From<Cleaned> for CleanupAnswer {
    fn from(cleaned: Cleaned) -> Self {
        Self {
            success: cleaned.problems.is_empty(),
            cleaned_jobs: cleaned.jobs,
            message: if cleaned.problems.is_empty() {
                "Cleanup completed".to_owned()
            } else {
                cleaned.problems.join("; ")
            },
        }
    }
}

/// Answer of `getHistory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryAnswer {
    /// The page, newest first; null if it is empty, as in the original.
    #[serde(
        default,
        deserialize_with = "words::null_is_empty",
        serialize_with = "words::null_if_empty"
    )]
    #[schemars(with = "Option<Vec<JobHistory>>")]
    pub jobs: Vec<JobHistory>,
    /// How many there are.
    pub total: usize,
}

/// A job of the past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobHistory {
    /// Which.
    pub id: JobId,
    /// What was asked for, without secrets.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub config: JobConfig,
    /// How it ended.
    pub status: State,
    /// When it was accepted.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// How long it took, in nanoseconds.
    #[schemars(with = "i64")]
    pub duration: Nanoseconds,
    /// When its phases began and ended.
    pub metrics: JobMetrics,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The phase that it failed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_phase: Option<Phase>,
    /// The digest of the image, as the registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl From<&Job> for JobHistory {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id,
            config: job.config.shown(job.id),
            status: job.state,
            created_at: job.created_at,
            duration: duration_of(job),
            metrics: JobMetrics::of(job),
            error: error_of(job),
            failed_phase: job.failure.as_ref().and_then(|failure| failure.phase),
            digest: job.built.as_ref().map(|built| built.digest.to_string()),
        }
    }
}

impl From<&JobList> for HistoryAnswer {
    fn from(list: &JobList) -> Self {
        Self {
            jobs: list.jobs.iter().map(|view| (&view.job).into()).collect(),
            total: list.total,
        }
    }
}

/// Answer of `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthAnswer {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// Part → `healthy` or `unhealthy`.
    pub services: std::collections::BTreeMap<String, String>,
    /// When it was looked at.
    pub timestamp: String,
    /// Part → what is wrong with it.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub problems: std::collections::BTreeMap<String, String>,
}

impl HealthAnswer {
    /// The answer, and whether its HTTP status is 200 (else 503).
    pub fn of(health: &Health, now: Timestamp) -> (Self, bool) {
        let word = |ok: bool| if ok { "healthy" } else { "unhealthy" }.to_owned();
        let services = health.services.iter();
        let healthy = services.clone().all(|(_, state)| state.is_ok());
        let answer = Self {
            status: word(healthy),
            services: services
                .clone()
                .map(|(part, state)| (part.clone(), word(state.is_ok())))
                .collect(),
            timestamp: now.to_string(),
            problems: services
                .filter_map(|(part, state)| Some((part.clone(), state.clone().err()?)))
                .collect(),
        };
        (answer, healthy)
    }
}

/// Answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyAnswer {
    /// `ready`, or what it waits for.
    pub status: String,
    /// When it was looked at.
    pub timestamp: String,
}

/// Every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorAnswer {
    /// What is wrong, in the original's words where it has some.
    pub error: String,
    /// The HTTP status.
    pub code: u16,
    /// More about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl ErrorAnswer {
    /// An error with its HTTP status.
    pub fn new(code: u16, error: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code,
            details: details.into(),
        }
    }

    /// What is said about a body that cannot be read.
    pub fn unreadable(why: impl Into<String>) -> Self {
        Self::new(400, "Invalid request body", why)
    }
}

impl From<&BuildError> for ErrorAnswer {
    /// The conflict of two jobs is 409 here and 500 in the original, whose clients take all but 200 alike.
    fn from(error: &BuildError) -> Self {
        let text = error.to_string();
        match error {
            BuildError::Invalid(wrong) => {
                Self::new(400, "Job configuration validation failed", wrong.join("; "))
            }
            BuildError::BadRequest(_) => Self::unreadable(text),
            BuildError::NotFound(id) => Self::new(404, text, format!("no job has the id {id}")),
            BuildError::Conflict { holder } => Self::new(
                409,
                "Failed to create job",
                format!("{text} (job {holder} works on this image and ref)"),
            ),
            BuildError::WrongState(_) | BuildError::KeyReused(_) => Self::new(409, text, ""),
            BuildError::Forbidden(_) => Self::new(403, text, ""),
            BuildError::Unreachable(_) => Self::new(503, "Service unavailable", text),
            BuildError::Internal(_) => Self::new(500, "Internal error", text),
        }
    }
}
