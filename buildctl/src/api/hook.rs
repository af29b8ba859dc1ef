//! What a webhook posts: the body only. When and how it is sent is [`crate::webhook`]'s.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{JobLogs, JobMetrics, Nanoseconds, metrics::duration_of, words};
use crate::{
    job::{Job, JobId, Notice, State},
    phase::Phase,
};

/// The body of a post: the fields of the original, then ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookPayload {
    /// Which job.
    pub job_id: JobId,
    /// How far it was when this happened.
    pub status: State,
    /// When this happened.
    pub timestamp: Timestamp,
    /// How long the job took, if it has ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duration: Nanoseconds,
    /// Who the job is for.
    pub owner: String,
    /// What it built.
    pub repo_url: String,
    /// Which version of it.
    pub git_ref: String,
    /// The image.
    pub image_name: String,
    /// Its tags, the job's own first.
    #[serde(
        deserialize_with = "words::null_is_empty",
        serialize_with = "words::null_if_empty"
    )]
    pub image_tags: Vec<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Never sent: logs have no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<JobLogs>,
    /// When its phases began and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<JobMetrics>,
    /// The phase that this is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Never sent: the signature of the body stands in a header.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
    /// What happened, such as `build.completed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub event: String,
    /// The same in every repetition of this post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Uuid>,
    /// The digest of the image, as the registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The commit that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(duration: &Nanoseconds) -> bool {
    duration.0 == 0
}

impl WebhookPayload {
    /// The body of a notice. It tells of the job as it was at the event, not as it is at the delivery.
    pub fn of(job: &Job, notice: &Notice) -> Self {
        let (subject, verb) = notice.event.split_once('.').unwrap_or(("job", "completed"));
        let failed = verb == "failed";
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == subject);
        let failure = job.failure.as_ref().filter(|_| failed);
        let status = match (failed, phase) {
            (true, _) => State::Failed,
            (false, Some(Phase::Build)) => State::Building,
            (false, Some(Phase::Test)) => State::Testing,
            (false, Some(Phase::Publish)) => State::Publishing,
            (false, None) => State::Succeeded,
        };
        let about = phase.or(failure.and_then(|failure| failure.phase));
        let config = job.config.shown(job.id);
        Self {
            job_id: job.id,
            status,
            timestamp: notice.at,
            duration: if phase.is_none() {
                duration_of(job)
            } else {
                Nanoseconds(0)
            },
            owner: config.owner,
            repo_url: config.repo_url,
            git_ref: config.git_ref,
            image_name: config.image_name,
            image_tags: config.image_tags,
            error: failure
                .map(|failure| failure.error.clone())
                .unwrap_or_default(),
            logs: None,
            metrics: Some(JobMetrics::of(job)),
            phase: about.map(Phase::name).unwrap_or_default().to_owned(),
            signature: String::new(),
            event: notice.event.clone(),
            delivery: Some(notice.delivery),
            digest: job.built.as_ref().map(|built| built.digest.to_string()),
            commit: job.built.as_ref().and_then(|built| built.commit.clone()),
        }
    }
}
