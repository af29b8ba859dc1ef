//! `buildctl wait`: wait for a job's end, silently.

use std::time::Duration;

use runyard_common::{duration, exit::Exit, report::Failure};
use tokio::time::Instant;

use super::{Context, answer, block_on, follow::verdict};
use crate::{
    job::JobId,
    service::{BuildError, Builds, JobView},
};

/// How long one question may wait.
const ROUND: Duration = Duration::from_secs(20);

/// Wait for a job's end
///
/// The exit code is 0 if it succeeded, and 1 if it failed or was killed, or if the time was over before its end, which is said.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its id
    #[arg(value_name = "JOB")]
    id: JobId,
    /// How long to wait at most; without it, for ever
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let view = end(place.builds(), args).await;
        let view = view.map_err(|error| context.failure(error))?;
        answer::status(&context.printer, &view)?;
        if view.job.state.is_terminal() {
            return Ok(verdict(context, &view)?);
        }
        let waited = duration::format(args.timeout.unwrap_or_default());
        let text = format!(
            "the job has not ended within {waited}: it is {}",
            view.job.state
        );
        Err(Failure::new(Exit::Failed, text)
            .hint("it goes on; wait again, or longer: --timeout")
            .into())
    })
}

async fn end(builds: &dyn Builds, args: &Args) -> Result<JobView, BuildError> {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let left = args
            .timeout
            .map(|limit| limit.saturating_sub(began.elapsed()));
        let view = builds
            .wait(args.id, left.map_or(ROUND, |left| left.min(ROUND)))
            .await?;
        let left = args
            .timeout
            .map(|limit| limit.saturating_sub(began.elapsed()));
        if view.job.state.is_terminal() || left.is_some_and(|left| left.is_zero()) {
            return Ok(view);
        }
        // One that answers at once is not asked again at once.
        let breath = Duration::from_millis(500).saturating_sub(asked.elapsed());
        tokio::time::sleep(left.map_or(breath, |left| left.min(breath))).await;
    }
}
