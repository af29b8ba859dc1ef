//! `cleanup`: removes what an ended job left behind.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Context, Effect, Refusal, Reply, Verb, job};
use crate::{
    api::CleanupAnswer,
    mcp::schema,
    service::{self, Builds},
};

pub(super) struct Cleanup;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
}

#[async_trait]
impl Verb for Cleanup {
    type Arguments = Arguments;
    type Answer = CleanupAnswer;

    const NAME: &'static str = "cleanup";
    const TITLE: &'static str = "Clean up after a job";
    const DESCRIPTION: &'static str = "\
Removes what a job that has ended left behind: its logs, its temporary image, its jobs of the engine. Its record stays in \
getHistory, and what it published stays where it is.";
    const EFFECT: Effect = Effect::Settles;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<CleanupAnswer>, Refusal> {
        let id = job(&arguments.job_id)?;
        let cleaned = builds.cleanup(service::Cleanup::Job(id)).await?;
        Ok(CleanupAnswer::from(cleaned).into())
    }
}
