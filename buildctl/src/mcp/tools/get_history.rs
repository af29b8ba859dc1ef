//! `getHistory`: jobs that have ended, with what was asked for.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Effect, Refusal, Reply, Verb, list_jobs, shorten};
use crate::{
    api::{HistoryAnswer, JobHistory},
    job::State,
    mcp::schema,
    service::{Builds, JobFilter},
};

pub(super) struct GetHistory;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Arguments {
    /// Only jobs of this owner.
    #[schemars(with = "String")]
    owner: String,
    /// Only jobs that ended so.
    #[schemars(schema_with = "schema::state")]
    status: Option<State>,
    /// At most so many [default: 10].
    #[schemars(with = "u64", range(min = 1, max = 50), extend("default" = 10))]
    limit: Option<usize>,
    /// After so many: `next_offset` of an earlier answer.
    #[schemars(with = "u64", extend("default" = 0))]
    offset: usize,
}

/// A page of ended jobs.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// The page, newest first.
    jobs: Vec<JobHistory>,
    /// How many match.
    total: usize,
    /// Where to go on, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<usize>,
}

#[async_trait]
impl Verb for GetHistory {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "getHistory";
    const TITLE: &'static str = "Jobs of the past";
    const DESCRIPTION: &'static str = "\
Jobs that have ended, newest first, with what was asked for, how long each phase took and what was published. listJobs is \
shorter and shows jobs that go on, too.";
    const EFFECT: Effect = Effect::Reads;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        _: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let offset = arguments.offset;
        let owner = arguments.owner.trim();
        let filter = JobFilter {
            owner: (!owner.is_empty()).then(|| owner.to_owned()),
            state: arguments.status,
            ended: Some(true),
            limit: Some(arguments.limit.unwrap_or(10).clamp(1, 50)),
            offset,
        };
        let HistoryAnswer { jobs, total } = (&builds.list(filter).await?).into();
        let mut answer = Answer {
            jobs,
            total,
            next_offset: None,
        };
        shorten(&mut answer, |answer| {
            answer.jobs.len() > 1 && answer.jobs.pop().is_some()
        });
        answer.next_offset = list_jobs::next(offset, answer.jobs.len(), total);
        Ok(answer.into())
    }
}
