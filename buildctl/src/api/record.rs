//! A job as the original keeps it in Consul, where its command line's `--watch` reads it. Logs are left out: they would not fit
//! into a value, and whoever watches does not read them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{JobConfig, JobLogs, JobMetrics};
use crate::{
    job::{Job, JobId, State},
    phase::{Phase, Run},
    spec::claim_key_of,
};

/// The value of the key `<prefix>/jobs/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Which job.
    pub id: JobId,
    /// What was asked for, without secrets.
    pub config: JobConfig,
    /// How far it is.
    pub status: State,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When its build began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The same as `started_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// The same as `finished_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// The phase that it is in, or failed in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current_phase: String,
    /// The Nomad job of the build.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub build_job_id: String,
    /// The Nomad jobs of the tests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_job_ids: Vec<String>,
    /// The Nomad job of the publication.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub publish_job_id: String,
    /// Null, null, null.
    #[serde(default)]
    pub logs: JobLogs,
    /// When its phases began and ended.
    #[serde(default)]
    pub metrics: JobMetrics,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The phase that it failed in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed_phase: String,
    /// What it claims.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lock_key: String,
    /// Always absent: a claim is no session.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lock_session_id: String,
}

impl From<&Job> for JobRecord {
    fn from(job: &Job) -> Self {
        let name = |phase: Option<Phase>| phase.map(Phase::name).unwrap_or_default().to_owned();
        let failed = job.failure.as_ref().and_then(|failure| failure.phase);
        let started = job.phases.get(&Phase::Build).and_then(|span| span.start);
        let of = |run: Run| match job.runs.get(&run) {
            Some(_) => run.of_job(&job.id),
            None => String::new(),
        };
        let tests = job
            .runs
            .keys()
            .filter(|run| run.phase() == Some(Phase::Test));
        Self {
            id: job.id,
            config: job.config.shown(job.id),
            status: job.state,
            created_at: job.created_at,
            updated_at: job.updated_at,
            started_at: started,
            finished_at: job.finished_at,
            start_time: started,
            end_time: job.finished_at,
            current_phase: name(job.state.phase().or(failed)),
            build_job_id: of(Run::Build),
            test_job_ids: tests.map(|run| run.of_job(&job.id)).collect(),
            publish_job_id: of(Run::Publish),
            logs: JobLogs::default(),
            metrics: JobMetrics::of(job),
            error: job
                .failure
                .as_ref()
                .map(|f| f.error.clone())
                .unwrap_or_default(),
            failed_phase: name(failed),
            lock_key: claim_key_of(&job.config),
            lock_session_id: String::new(),
        }
    }
}
