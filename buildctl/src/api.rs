//! The wire types: requests and answers as the original service has them (`snake_case`, durations in nanoseconds, `null` lists,
//! `{error, code, details}`), and their making from the domain. Everything that is not in the original is optional in requests
//! and additional in answers.
//!
//! | module | holds |
//! |---|---|
//! | `config` | [`JobConfig`] and its parts |
//! | `request`, `answer` | bodies of the REST routes |
//! | `logs`, `metrics` | parts of answers |
//! | `hook` | what webhooks post |
//! | `resource` | what `/v1` has beyond that |
//! | `record` | what the original's `--watch` reads in Consul |
//! | [`lenient`], `words` | how generously all of this is read |
//! | `schema` | what is told of it in JSON schemas |

mod answer;
mod config;
mod hook;
pub mod lenient;
mod logs;
mod metrics;
mod record;
mod request;
mod resource;
mod schema;
mod words;

#[cfg(test)]
mod tests;

/// Answer of `submitJob`.
pub use crate::service::Submitted as SubmitAnswer;
pub use answer::{
    CleanupAnswer, Details, ErrorAnswer, HealthAnswer, HistoryAnswer, JobHistory, KillAnswer,
    LogsAnswer, PublishedTag, ReadyAnswer, RunAnswer, StatusAnswer,
};
pub(crate) use config::{DOCKERFILE, GIT_REF};
pub use config::{
    JobConfig, Nanoseconds, PhaseResources, ResourceLimits, TestConfig, TestConstraint, VaultSecret,
};
pub use hook::WebhookPayload;
pub use logs::{JobLogs, StreamMessage, labelled, whole_lines};
pub use metrics::{JobMetrics, ResourceUsage};
pub use record::JobRecord;
pub use request::{
    CleanupRequest, HistoryRequest, KillRequest, LogsRequest, PurgeRequest, StatusRequest,
    SubmitRequest,
};
pub use resource::{EndAnswer, JobsAnswer, LineAnswer, LinesAnswer};
