//! `killJob`: ends a job.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Context, Effect, Refusal, Reply, Verb, job};
use crate::{api::KillAnswer, mcp::schema, service::Builds};

pub(super) struct KillJob;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
    /// Why, for those who look at the job later.
    #[schemars(with = "String")]
    reason: String,
}

#[async_trait]
impl Verb for KillJob {
    type Arguments = Arguments;
    type Answer = KillAnswer;

    const NAME: &'static str = "killJob";
    const TITLE: &'static str = "End a job";
    const DESCRIPTION: &'static str = "\
Ends a job that waits or runs, with whatever it has started. It becomes FAILED with the error `Job killed by user`; its log so \
far can be read. `success` is false if it had ended already.";
    const EFFECT: Effect = Effect::Settles;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<KillAnswer>, Refusal> {
        let id = job(&arguments.job_id)?;
        let reason = arguments.reason.trim();
        let reason = (!reason.is_empty()).then(|| reason.to_owned());
        let killed = builds.kill(id, reason).await?;
        Ok(KillAnswer::of(id, killed).into())
    }
}
