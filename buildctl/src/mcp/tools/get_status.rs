//! `getStatus`: how far a job is, and what to do next.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Effect, Refusal, Reply, Verb, job};
use crate::{
    api::StatusAnswer,
    job::{Job, State},
    mcp::{resources, schema},
    service::{Builds, JobView},
};

pub(super) struct GetStatus;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
    /// Whether to show what was asked for, too.
    include_config: bool,
}

/// How far a job is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    #[serde(flatten)]
    status: StatusAnswer,
    /// Whether it has ended: SUCCEEDED or FAILED.
    ended: bool,
    /// What to do next.
    hint: String,
}

impl Answer {
    /// The answer about a job, and links to what has more.
    pub(super) fn of(view: &JobView, include_config: bool) -> Reply<Self> {
        let job = &view.job;
        let mut status = StatusAnswer::from(view);
        if !include_config {
            status.config = None;
        }
        let links = std::iter::once(resources::job_link(job.id)).chain(resources::log_links(job));
        Reply {
            links: links.collect(),
            answer: Self {
                status,
                ended: job.state.is_terminal(),
                hint: hint(job),
            },
        }
    }
}

/// What a model best does about a job.
fn hint(job: &Job) -> String {
    let id = job.id;
    match job.state {
        State::Succeeded => {
            "The image is published; `published` has its tags and digest.".to_owned()
        }
        State::Failed => {
            let phase = job.failure.as_ref().and_then(|failure| failure.phase);
            let phase = phase.map_or_else(String::new, |phase| format!(", phase `{phase}`"));
            format!("Call getLogs with job_id {id}{phase} and errors_only true to see why.")
        }
        State::Pending | State::Building | State::Testing | State::Publishing => {
            format!("The job goes on; call waitJob with job_id {id}.")
        }
    }
}

#[async_trait]
impl Verb for GetStatus {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "getStatus";
    const TITLE: &'static str = "Status of a job";
    const DESCRIPTION: &'static str = "\
How far a job is: its status (PENDING, BUILDING, TESTING, PUBLISHING, SUCCEEDED, FAILED), why it failed or what it waits for, \
its runs, the digest and the tags that were published. To wait for its end, use waitJob instead.";
    const EFFECT: Effect = Effect::Reads;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let view = builds.status(job(&arguments.job_id)?).await?;
        Ok(Answer::of(&view, arguments.include_config))
    }
}
