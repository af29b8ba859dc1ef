//! `buildctl wait`: wait for a job's end, silently.

use std::time::Duration;

use runyard_common::{duration, exit::Exit, report::Failure};
use tokio::time::Instant;

use super::{
    Context, answer, block_on,
    follow::{Patience, verdict},
};
use crate::{
    job::JobId,
    service::{BuildError, Builds, JobView},
};

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
        let view = end(place.builds(), args.id, args.timeout, Patience::default()).await;
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

/// The job at its end, or after so long. Whoever has told of it once may be away for a while.
pub(super) async fn end(
    builds: &dyn Builds,
    id: JobId,
    limit: Option<Duration>,
    patience: Patience,
) -> Result<JobView, BuildError> {
    let began = Instant::now();
    let left = || limit.map(|limit| limit.saturating_sub(began.elapsed()));
    let mut heard: Option<(JobView, Instant)> = None;
    loop {
        let asked = Instant::now();
        let round = left().map_or(patience.round, |left| left.min(patience.round));
        match builds.wait(id, round).await {
            Ok(view) if view.job.state.is_terminal() => return Ok(view),
            Ok(view) => heard = Some((view, Instant::now())),
            Err(BuildError::Unreachable(_)) if is_recent(heard.as_ref(), patience.absence) => {}
            Err(error) => return Err(error),
        }
        if let Some((view, _)) = heard.take_if(|_| left().is_some_and(|left| left.is_zero())) {
            return Ok(view);
        }
        // One that answers at once is not asked again at once.
        let breath = patience.breath.saturating_sub(asked.elapsed());
        tokio::time::sleep(left().map_or(breath, |left| left.min(breath))).await;
    }
}

fn is_recent(heard: Option<&(JobView, Instant)>, absence: Duration) -> bool {
    heard.is_some_and(|(_, at)| at.elapsed() < absence)
}
