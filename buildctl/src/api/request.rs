//! Requests of the REST routes. All of them are read generously (see [`super::lenient`]) by whatever reads JSON, so that a route
//! needs no more than `Json<SubmitRequest>`; what the original does not know is optional.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::{JobConfig, Nanoseconds, lenient::Lenient, schema};
use crate::{job::State, phase::Phase};

/// Reads a request in whatever format generously.
macro_rules! generous {
    ($($request:ident),*) => {$(
        impl<'de> Deserialize<'de> for $request {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = Value::deserialize(deserializer)?;
                Self::deserialize(Lenient(value)).map_err(de::Error::custom)
            }
        }

        impl Serialize for $request {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    )*};
}
generous!(
    SubmitRequest,
    StatusRequest,
    LogsRequest,
    KillRequest,
    CleanupRequest,
    HistoryRequest,
    PurgeRequest
);

/// `POST /json/submitJob`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(extend("required" = ["job_config"]), transform = schema::without_defaults)]
pub struct SubmitRequest {
    /// What to do.
    #[serde(deserialize_with = "JobConfig::strictly")]
    #[schemars(with = "JobConfig")]
    pub job_config: JobConfig,
    /// A second submission with the same key is the same job. Not in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST /json/getStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(extend("required" = ["job_id"]), transform = schema::without_defaults)]
pub struct StatusRequest {
    /// Which job.
    pub job_id: String,
}

/// `POST /json/getLogs`. What the original does not have bounds the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(extend("required" = ["job_id"]), transform = schema::without_defaults)]
pub struct LogsRequest {
    /// Which job.
    pub job_id: String,
    /// Only this phase: `build`, `test` or `publish`. Another text means all, as in the original.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Where an earlier answer ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Begin this many lines before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
    /// About as many bytes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
    /// Only lines that match this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// Only lines that look like errors, with what surrounds them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub errors_only: bool,
}

impl LogsRequest {
    /// The phase, if it names one.
    pub fn phase(&self) -> Option<Phase> {
        let name = self.phase.trim();
        Phase::ALL
            .into_iter()
            .find(|phase| phase.name().eq_ignore_ascii_case(name))
    }
}

/// `POST /json/killJob`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(extend("required" = ["job_id"]), transform = schema::without_defaults)]
pub struct KillRequest {
    /// Which job.
    pub job_id: String,
    /// Why, for those who look at the job later. Not in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /json/cleanup`: one job, or all that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(transform = schema::without_defaults)]
pub struct CleanupRequest {
    /// Which job.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job_id: String,
    /// All that have ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Of those only such that ended so long ago. Not in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Nanoseconds>,
}

/// `POST /json/getHistory`. What the original does not have narrows the answer, before its paging.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(transform = schema::without_defaults)]
pub struct HistoryRequest {
    /// At most so many [default: 50].
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: i64,
    /// After so many.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: i64,
    /// Of this owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// In this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<State>,
}

impl HistoryRequest {
    /// How many, if nothing is said: as the original answers.
    pub const LIMIT: usize = 50;

    /// At most so many: 50 for what is not positive, as the original does it.
    pub fn limit(&self) -> usize {
        usize::try_from(self.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(Self::LIMIT)
    }

    /// After so many: 0 for what is negative.
    pub fn offset(&self) -> usize {
        usize::try_from(self.offset).unwrap_or(0)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// `POST /json/purgeJob`: forgets an ended job. Not in the original, which has it as a tool of MCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, remote = "Self")]
#[schemars(extend("required" = ["job_id"]), transform = schema::without_defaults)]
pub struct PurgeRequest {
    /// Which job.
    pub job_id: String,
}
