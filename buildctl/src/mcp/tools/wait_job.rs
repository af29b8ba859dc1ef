//! `waitJob`: waits for a job's end, and tells of its progress meanwhile to whoever asked for that.
//!
//! Clients give up on a call after a minute, so that no wait is longer than 50 s.

use std::{future::Future, pin::pin, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Context, Effect, Refusal, Reply, Verb, beginning, get_status::Answer, job};
use crate::{
    job::{JobId, State},
    logs::plain::plain,
    mcp::{desk, schema},
    service::{BuildError, Builds, Event, JobView, LogQuery},
};

/// The longest wait, in seconds.
const LONGEST: u64 = 50;

/// The wait of those who do not say, in seconds.
const USUAL: u64 = 45;

/// Between two reports of lines.
const BREATH: Duration = Duration::from_secs(1);

/// How long nothing is said at most.
const SILENCE: Duration = Duration::from_secs(5);

/// The most bytes of a line in a report.
const EXCERPT: usize = 160;

pub(super) struct WaitJob;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["job_id"]))]
pub(super) struct Arguments {
    /// Which job, as submitJob or listJobs name it.
    #[schemars(schema_with = "schema::job_id")]
    job_id: String,
    /// How long to wait at most, in seconds [default: 45]; what is more than 50 is 50.
    #[schemars(with = "u64", range(max = 50), extend("default" = 45))]
    timeout_s: Option<f64>,
}

impl Arguments {
    fn limit(&self) -> Duration {
        let usual = Duration::from_secs(USUAL);
        let said = self.timeout_s.map(|seconds| seconds.max(0.0));
        said.map_or(usual, |seconds| {
            // What no duration can hold is long.
            let said = Duration::try_from_secs_f64(seconds);
            said.map_or(Duration::from_secs(LONGEST), |said| {
                said.min(Duration::from_secs(LONGEST))
            })
        })
    }
}

#[async_trait]
impl Verb for WaitJob {
    type Arguments = Arguments;
    type Answer = Answer;

    const NAME: &'static str = "waitJob";
    const TITLE: &'static str = "Wait for a job";
    const DESCRIPTION: &'static str = "\
Waits until a job has ended, at most timeout_s (up to 50) seconds, and answers as getStatus. If `ended` is false, the job goes \
on: call waitJob again. Cancelling the wait leaves the job running.";
    const EFFECT: Effect = Effect::Reads;

    async fn call(
        builds: &dyn Builds,
        arguments: Arguments,
        context: &Context,
    ) -> Result<Reply<Answer>, Refusal> {
        let id = job(&arguments.job_id)?;
        let limit = arguments.limit();
        let end = builds.wait(id, limit);
        let token = context.meta.get_progress_token();
        let view = match token.filter(|_| desk::can_stream(context)) {
            None => uncancelled(context, end).await??,
            Some(token) => {
                let report = Report::new(context, token);
                uncancelled(context, reporting(builds, id, end, report)).await??
            }
        };
        Ok(Answer::of(&view, false))
    }
}

/// What comes of it, unless the call is cancelled before.
async fn uncancelled<T>(context: &Context, work: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::select! {
        done = work => Ok(done),
        // Nobody hears this any more.
        () = context.ct.cancelled() => Err(Refusal("the wait was cancelled; the job goes on".to_owned())),
    }
}

/// Waits for the end and tells what happens until then.
async fn reporting(
    builds: &dyn Builds,
    id: JobId,
    end: impl Future<Output = Result<JobView, BuildError>>,
    mut report: Report<'_>,
) -> Result<JobView, BuildError> {
    let mut events = news(builds, id).await?;
    let mut end = pin!(end);
    let mut ticks = interval(BREATH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = false;
    loop {
        tokio::select! {
            // What has happened is told before the end is.
            biased;
            event = events.next(), if !ended => match event {
                Some(Ok(event)) => report.hear(event).await,
                // The log is over, or cannot be read; the wait goes on.
                Some(Err(_)) | None => ended = true,
            },
            view = &mut end => return view,
            _ = ticks.tick() => report.tick().await,
        }
    }
}

/// The job's changes and lines from now on.
async fn news(
    builds: &dyn Builds,
    id: JobId,
) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError> {
    let last = LogQuery {
        tail: std::num::NonZeroUsize::new(1),
        ..LogQuery::default()
    };
    builds.follow(id, last).await
}

/// What the client is told: a number that grows, and how the job is doing.
struct Report<'a> {
    context: &'a Context,
    token: ProgressToken,
    began: Instant,
    /// Seconds, as they were said last.
    said: f64,
    said_at: Instant,
    state: Option<State>,
    line: String,
    news: bool,
}

impl<'a> Report<'a> {
    fn new(context: &'a Context, token: ProgressToken) -> Self {
        let now = Instant::now();
        Self {
            context,
            token,
            began: now,
            said: 0.0,
            said_at: now,
            state: None,
            line: String::new(),
            news: false,
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Status(view) if self.state != Some(view.job.state) => {
                self.state = Some(view.job.state);
                self.line.clear();
                self.tell().await;
            }
            Event::Line(line, _) => {
                let text = plain(&line.text);
                beginning(&text, EXCERPT).clone_into(&mut self.line);
                self.news = true;
            }
            Event::Status(_) | Event::Lost => {}
        }
    }

    async fn tick(&mut self) {
        if self.news || self.said_at.elapsed() >= SILENCE {
            self.tell().await;
        }
    }

    async fn tell(&mut self) {
        let elapsed = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        self.said = elapsed.max(self.said + 0.001);
        self.said_at = Instant::now();
        self.news = false;
        let progress = ProgressNotificationParam::new(self.token.clone(), self.said);
        let progress = progress.with_message(self.words());
        // A client that has gone cancels the call by that.
        let _ = self.context.peer.notify_progress(progress).await;
    }

    fn words(&self) -> String {
        let state = self
            .state
            .map_or_else(|| "waiting".to_owned(), |state| state.to_string());
        match &*self.line {
            "" => state,
            line => format!("{state}: {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_longer_than_clients_are_patient() {
        let limit = |timeout_s| {
            Arguments {
                job_id: String::new(),
                timeout_s,
            }
            .limit()
            .as_secs_f64()
        };
        for (said, waited) in [
            (None, 45.0),
            (Some(10.0), 10.0),
            (Some(0.5), 0.5),
            (Some(300.0), 50.0),
            (Some(1e300), 50.0),
            (Some(-1.0), 0.0),
            (Some(f64::NAN), 0.0),
        ] {
            assert!(
                (limit(said) - waited).abs() < 1e-9,
                "{said:?}: {}",
                limit(said)
            );
        }
    }
}
