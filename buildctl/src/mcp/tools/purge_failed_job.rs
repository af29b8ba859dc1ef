//! `purgeFailedJob`: forgets a job that failed.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Effect, Refusal, Reply, Verb, job};
use crate::{
    job::{JobId, State},
    mcp::schema,
    service::Builds,
};

pub(super) struct PurgeFailedJob;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
}

/// What was forgotten.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// Which job.
    job_id: JobId,
    /// Whether it is gone.
    success: bool,
    /// For people.
    message: String,
}

#[async_trait]
impl Verb for PurgeFailedJob {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "purgeFailedJob";
    const TITLE: &'static str = "Forget a failed job";
    const DESCRIPTION: &'static str = "\
Removes a FAILED job altogether: its record, its logs and its jobs of the engine. Afterwards nobody can say why it failed; \
cleanup keeps the record.";
    const EFFECT: Effect = Effect::Settles;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let id = job(&arguments.job_id)?;
        if builds.status(id).await?.job.state == State::Succeeded {
            return Err(Refusal(format!(
                "job {id} has SUCCEEDED, and this tool forgets failed ones only; cleanup removes what a job left behind"
            )));
        }
        builds.purge(id).await?;
        Ok(Answer {
            job_id: id,
            success: true,
            message: format!("Job {id} purged successfully"),
        }
        .into())
    }
}
