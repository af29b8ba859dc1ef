//! `listJobs`: jobs in a few words each.

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Effect, Refusal, Reply, Verb, beginning, shorten};
use crate::{
    api::Details,
    job::{Job, JobId, State},
    logs::plain::plain,
    mcp::schema,
    phase::Phase,
    service::{Builds, JobFilter},
};

/// The most bytes of an error in a list.
const EXCERPT: usize = 300;

pub(super) struct ListJobs;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Arguments {
    /// Only jobs of this owner.
    #[schemars(with = "String")]
    owner: String,
    /// Only jobs in this state.
    #[schemars(schema_with = "schema::state")]
    status: Option<State>,
    /// Only jobs that go on (true), or only such that have ended (false).
    #[schemars(with = "bool")]
    active: Option<bool>,
    /// At most so many [default: 20].
    #[schemars(with = "u64", range(min = 1, max = 100), extend("default" = 20))]
    limit: Option<usize>,
    /// After so many: `next_offset` of an earlier answer.
    #[schemars(with = "u64", extend("default" = 0))]
    offset: usize,
}

/// A page of jobs.
#[derive(Serialize, JsonSchema)]
pub(super) struct Answer {
    /// The page, newest first.
    jobs: Vec<Brief>,
    /// How many match.
    total: usize,
    /// Where to go on, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<usize>,
}

/// A job in a few words.
#[derive(Serialize, JsonSchema)]
struct Brief {
    /// Which.
    job_id: JobId,
    /// How far it is.
    status: State,
    /// The phase that it is in, or failed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    /// Who it is for.
    owner: String,
    /// What it makes.
    image: String,
    /// Of which ref.
    git_ref: String,
    /// When it was accepted.
    #[schemars(with = "String")]
    created_at: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    finished_at: Option<Timestamp>,
    /// Why it failed, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Job> for Brief {
    fn from(job: &Job) -> Self {
        let details = Details::of(job);
        let error = job.failure.as_ref().map(|failure| plain(&failure.error));
        let reason = error.or(details.waiting_for);
        Self {
            job_id: job.id,
            status: job.state,
            phase: details.phase,
            owner: job.config.owner.clone(),
            image: format!(
                "{}/{}",
                job.config.registry_url.trim_end_matches('/'),
                job.config.image_name
            ),
            git_ref: job.config.git_ref.clone(),
            created_at: job.created_at,
            finished_at: job.finished_at,
            reason: reason.map(|reason| beginning(&reason, EXCERPT).to_owned()),
        }
    }
}

/// Where a page of `count` that begins after `offset` goes on.
pub(super) fn next(offset: usize, count: usize, total: usize) -> Option<usize> {
    let next = offset.saturating_add(count);
    (count > 0 && next < total).then_some(next)
}

#[async_trait]
impl Verb for ListJobs {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "listJobs";
    const TITLE: &'static str = "List jobs";
    const DESCRIPTION: &'static str = "\
Jobs in a few words each, newest first: those that go on and those that have ended. Use it to find the job_id of a job that \
somebody else submitted.";
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
            ended: arguments.active.map(|active| !active),
            limit: Some(arguments.limit.unwrap_or(20).clamp(1, 100)),
            offset,
        };
        let list = builds.list(filter).await?;
        let mut answer = Answer {
            jobs: list.jobs.iter().map(|view| (&view.job).into()).collect(),
            total: list.total,
            next_offset: None,
        };
        shorten(&mut answer, |answer| {
            answer.jobs.len() > 1 && answer.jobs.pop().is_some()
        });
        answer.next_offset = next(offset, answer.jobs.len(), answer.total);
        Ok(answer.into())
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn a_page_goes_on_where_it_ends_if_there_is_more() {
        assert_eq!(next(0, 20, 45), Some(20));
        assert_eq!(next(40, 5, 45), None);
        assert_eq!(next(100, 0, 45), None);
        assert_eq!(next(usize::MAX, 1, 45), None);
    }
}
