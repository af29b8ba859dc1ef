//! When the phases of a job began and ended and how long they took, as answers tell it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Nanoseconds, words};
use crate::{
    job::{Job, Span},
    phase::{Observed, Phase},
};

/// Times of a job. Durations are always present, and 0 until the phase has ended, as in the original.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobMetrics {
    /// When the job was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job_start: Option<Timestamp>,
    /// When the build began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub build_start: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub build_end: Option<Timestamp>,
    /// When the first test began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub test_start: Option<Timestamp>,
    /// When the last one ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub test_end: Option<Timestamp>,
    /// When the publication began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub publish_start: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub publish_end: Option<Timestamp>,
    /// When the job ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job_end: Option<Timestamp>,
    /// How long the build took, in nanoseconds.
    #[schemars(with = "i64")]
    pub build_duration: Nanoseconds,
    /// How long the tests took, in nanoseconds.
    #[schemars(with = "i64")]
    pub test_duration: Nanoseconds,
    /// How long the publication took, in nanoseconds.
    #[schemars(with = "i64")]
    pub publish_duration: Nanoseconds,
    /// How long the job took, in nanoseconds.
    #[schemars(with = "i64")]
    pub total_duration: Nanoseconds,
    /// What its runs used, as far as they have ended and say so.
    pub resource_usage: ResourceUsage,
}

/// What the runs of a job used; 0 for what is not known. The original never filled it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ResourceUsage {
    /// Percent of a core that a run used on average, the most of any.
    #[serde(serialize_with = "words::go_float")]
    pub max_cpu: f64,
    /// MB that a run used at once, the most of any.
    #[serde(serialize_with = "words::go_float")]
    pub max_memory: f64,
    /// MB; nobody measures it, so always 0.
    #[serde(serialize_with = "words::go_float")]
    pub disk_used: f64,
}

impl JobMetrics {
    /// Those of a job.
    pub fn of(job: &Job) -> Self {
        let span = |phase| job.phases.get(&phase).copied().unwrap_or_default();
        let (build, test, publish) = (span(Phase::Build), span(Phase::Test), span(Phase::Publish));
        Self {
            job_start: Some(job.created_at),
            build_start: build.start,
            build_end: build.end,
            test_start: test.start,
            test_end: test.end,
            publish_start: publish.start,
            publish_end: publish.end,
            job_end: job.finished_at,
            build_duration: length(build),
            test_duration: length(test),
            publish_duration: length(publish),
            total_duration: duration_of(job),
            resource_usage: ResourceUsage::of(job),
        }
    }
}

impl ResourceUsage {
    /// Those of a job.
    pub fn of(job: &Job) -> Self {
        let most = |of: fn(&Observed) -> Option<f64>| {
            let known = job.runs.values().filter_map(of);
            known.fold(0.0, f64::max)
        };
        Self {
            max_cpu: most(Observed::cpu_percent).round(),
            max_memory: most(Observed::memory_mb),
            disk_used: 0.0,
        }
    }
}

/// From the submission to the end; 0 until then.
pub(super) fn duration_of(job: &Job) -> Nanoseconds {
    length(Span {
        start: Some(job.created_at),
        end: job.finished_at,
    })
}

/// The length of a span that has ended; never negative, whatever clocks did.
fn length(span: Span) -> Nanoseconds {
    let nanoseconds = match (span.start, span.end) {
        (Some(start), Some(end)) => end.as_nanosecond() - start.as_nanosecond(),
        _ => 0,
    };
    Nanoseconds(i64::try_from(nanoseconds.max(0)).unwrap_or(i64::MAX))
}
