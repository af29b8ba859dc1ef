//! The record of a job: what was asked for and how far it has come. A plain value that [`crate::ledger`] stores and only
//! [`crate::reconcile`] changes; what clients see of it is made in [`crate::api`].

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    api::JobConfig,
    phase::{Built, Ending, MovedTag, Observed, Outcome, Phase, Progress, Run},
    trace::TraceParent,
};

/// A job's name: a version 4 UUID, or a version 5 UUID of the idempotency key that it was submitted with. Whoever knows it
/// may act on the job where no authentication is configured.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct JobId(Uuid);

/// The namespace of jobs that are named by an idempotency key.
const KEYED: Uuid = Uuid::from_u128(0x5c1d_9c0e_2a43_4b0b_9b6f_3f0a_8a1d_77e2);

impl JobId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The one that this key always gives.
    pub fn of_key(key: &str) -> Self {
        Self(Uuid::new_v5(&KEYED, key.as_bytes()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A text that is no job id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no job id (a UUID, as `submit` prints it)")]
pub struct NoJobId(String);

impl FromStr for JobId {
    type Err = NoJobId;

    fn from_str(text: &str) -> Result<Self, NoJobId> {
        Uuid::try_parse(text.trim())
            .map(Self)
            .map_err(|_| NoJobId(text.to_owned()))
    }
}

/// How far a job is; the names on the wire. There is no state for killed jobs: they are FAILED, with [`Failure::KILLED`] as
/// their error, because the original's clients end their wait at SUCCEEDED and FAILED only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Accepted; waits for its image to be free, or for a place to build.
    Pending,
    /// The build runs.
    Building,
    /// Tests run.
    Testing,
    /// Tags are being moved.
    Publishing,
    /// Every tag is where it should be.
    Succeeded,
    /// It did not come to that.
    Failed,
}

impl State {
    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The phase that a job in this state is in.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Building => Some(Phase::Build),
            Self::Testing => Some(Phase::Test),
            Self::Publishing => Some(Phase::Publish),
            Self::Pending | Self::Succeeded | Self::Failed => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Building => "BUILDING",
            Self::Testing => "TESTING",
            Self::Publishing => "PUBLISHING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        })
    }
}

/// A job, as a ledger keeps it. Readable by the service only: `config` may hold a webhook's secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What was asked for, defaults filled in.
    pub config: JobConfig,
    /// How far it is.
    pub state: State,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When this record last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Whether it holds the claim on its image (see [`crate::ledger::Ledger::claim`]).
    #[serde(default)]
    pub claimed: bool,
    /// The job that has the image, if that is what this one waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<JobId>,
    /// What is known of each of its runs.
    #[serde(default)]
    pub runs: BTreeMap<Run, Observed>,
    /// When each phase began and ended.
    #[serde(default)]
    pub phases: BTreeMap<Phase, Span>,
    /// What was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Built>,
    /// What was published, in order; with a failed publication, what stayed moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<MovedTag>,
    /// That somebody wants it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<Kill>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Whether the temporary image still is in the registry, as far as is known.
    #[serde(default)]
    pub temporary: Temporary,
    /// The trace of whoever submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceParent>,
    /// Webhook deliveries that are to be made or were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

impl Job {
    /// A job that was just submitted.
    pub fn new(id: JobId, config: JobConfig, now: Timestamp) -> Self {
        Self {
            id,
            config,
            state: State::Pending,
            created_at: now,
            updated_at: now,
            finished_at: None,
            claimed: false,
            behind: None,
            runs: BTreeMap::new(),
            phases: BTreeMap::new(),
            built: None,
            published: Vec::new(),
            kill: None,
            failure: None,
            temporary: Temporary::Absent,
            trace: None,
            notices: Vec::new(),
        }
    }

    /// The span of log lines about it: none, if it belongs to no trace.
    pub fn span(&self) -> tracing::Span {
        self.trace
            .map_or_else(tracing::Span::none, |trace| trace.span())
    }

    /// Why its temporary image is still in the registry, if it was left there.
    pub fn left(&self) -> Option<String> {
        if self.temporary != Temporary::Left {
            return None;
        }
        let ended = |run: Run| match &self.runs.get(&run)?.progress {
            Progress::Ended { ending } => Some(ending),
            Progress::Waiting { .. } | Progress::Running => None,
        };
        let why = match (ended(Run::Cleanup), ended(Run::Publish)) {
            (Some(Ending::Failed(failure)), _) => Some(failure.message.clone()),
            (
                _,
                Some(Ending::Succeeded {
                    outcome: Outcome::Published { left, .. },
                }),
            ) => left.clone(),
            _ => None,
        };
        Some(why.unwrap_or_else(|| match &self.built {
            Some(built) => format!("{} was not removed", built.temporary),
            None => "its build was lost, and may have pushed a temporary image".to_owned(),
        }))
    }
}

/// When something began and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
}

/// The wish to end a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// When it was uttered.
    pub at: Timestamp,
    /// Why, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which phase; none for a job that never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The whole text, as clients get it.
    pub error: String,
}

impl Failure {
    /// The error of killed jobs, as the original words it.
    pub const KILLED: &str = "Job killed by user";
}

/// What is known of a temporary image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temporary {
    /// None was pushed.
    #[default]
    Absent,
    /// It is in the registry.
    Pushed,
    /// The build ended without an account of what it did, and may have pushed it.
    Suspected,
    /// It was removed.
    Removed,
    /// The registry would not remove it; its own retention has to.
    Left,
}

impl Temporary {
    /// Whether it is still to be removed.
    pub fn is_to_go(self) -> bool {
        matches!(self, Self::Pushed | Self::Suspected)
    }
}

/// One webhook delivery, planned when the job reached the event, made at least once unless it is given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened, such as `build.completed` or `job.failed`.
    pub event: String,
    /// Names this delivery, so that a receiver can tell a repetition.
    pub delivery: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// When to try next; none once it is delivered or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// What became of it: the last answer or error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What is posted, from the first attempt to the end of the last one, so that all attempts post the same bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Whether nobody tries any more, though the receiver does not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}
