//! Following a job to its end. Its status decides, not its log: both are watched side by side, and trouble with either is waited
//! out for a while.
//!
//! ```text
//!  log ────────▶ lines ──▶ screen         broken ──▶ again, where it ended ──▶ given up, with a word
//!  status ─────▶ state ──▶ end            unreachable ──▶ again ──▶ after a while: exit 4
//!  Ctrl-C ─────▶ left, the job goes on    or, if that was asked for, the job is killed
//! ```

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use runyard_common::{backoff::Backoff, exit::Exit, report::Failure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{
    Context,
    interrupt::{Interrupt, Interrupts},
    lasting::{self, Seen},
    screen::Screen,
};
use crate::{
    job::JobId,
    service::{BuildError, Builds, JobView, LogQuery},
};

/// How long a wish to kill may take to be heard.
const WISH: Duration = Duration::from_secs(30);

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// One question for the end of a job.
    pub(super) round: Duration,
    /// Between two such questions at least.
    pub(super) breath: Duration,
    /// Whoever could say how the job is may be away.
    pub(super) absence: Duration,
    /// The last lines of an ended job, after each other.
    last_words: Duration,
    /// Between a log that broke and the next try.
    pub(super) again: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            round: Duration::from_secs(20),
            breath: Duration::from_secs(1),
            absence: Duration::from_mins(3),
            last_words: Duration::from_secs(5),
            again: Backoff {
                initial: Duration::from_millis(200),
                factor: 2.0,
                max: Duration::from_secs(5),
                jitter: 0.2,
            },
        }
    }
}

/// A job that is followed.
pub(super) struct Following<'a> {
    pub(super) context: &'a Context,
    pub(super) builds: &'a dyn Builds,
    pub(super) id: JobId,
    pub(super) query: LogQuery,
    /// Whether Ctrl-C ends the job.
    pub(super) kills: bool,
    pub(super) patience: Patience,
}

/// How following ended.
pub(super) enum End {
    /// With the job.
    Ended(Box<JobView>),
    /// Before it.
    Left(Interrupt),
}

impl Following<'_> {
    /// Follows the job to its end, or until somebody has seen enough.
    pub(super) async fn run(
        mut self,
        screen: &mut Screen,
        interrupts: &mut Interrupts,
    ) -> Result<End, Failure> {
        let patience = self.patience;
        let query = std::mem::take(&mut self.query);
        let mut log = lasting::follow(self.builds, self.id, query, patience.again);
        let mut reads = true;
        let mut end = pin!(end_of(self.builds, self.id, patience));
        let mut ended: Option<Box<JobView>> = None;
        let mut spoke = Instant::now();
        let mut beat = interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(view) = ended.take_if(|_| !reads || spoke.elapsed() > patience.last_words) {
                screen.ended(&view);
                return Ok(End::Ended(view));
            }
            tokio::select! {
                seen = log.next(), if reads => {
                    spoke = Instant::now();
                    match seen {
                        Some(Seen::Status(view)) if view.job.state.is_terminal() => ended = Some(view),
                        Some(seen) => reads = show(screen, self.id, seen),
                        None => reads = false,
                    }
                }
                view = &mut end, if ended.is_none() => {
                    spoke = Instant::now();
                    ended = Some(view.map_err(|error| self.lost(error))?);
                }
                interrupt = interrupts.next() => {
                    if !self.interrupted(screen).await {
                        return Ok(End::Left(interrupt));
                    }
                }
                _ = beat.tick() => screen.beat(),
            }
        }
    }

    /// Whether an interrupt was taken for a wish to end the job, whose end is waited for then.
    async fn interrupted(&mut self, screen: &mut Screen) -> bool {
        if !std::mem::take(&mut self.kills) {
            return false;
        }
        let reason = Some("interrupted".to_owned());
        match timeout(WISH, self.builds.kill(self.id, reason)).await {
            Ok(Ok(_)) => {
                screen.note("the job is being killed; press Ctrl-C again not to wait for its end");
                true
            }
            Ok(Err(error)) => {
                screen.note(&format!("the job cannot be killed: {error}"));
                false
            }
            Err(_) => {
                screen.note("nobody answers the wish to kill the job");
                false
            }
        }
    }

    fn lost(&self, error: BuildError) -> Failure {
        let is_absent = matches!(error, BuildError::Unreachable(_));
        let failure = self.context.failure(error);
        if !is_absent {
            return failure;
        }
        failure.hint(format!(
            "the job goes on; go on watching it: {}",
            self.context.command("watch", &self.id.to_string())
        ))
    }

    /// What to tell whoever leaves before the end.
    pub(super) fn farewell(context: &Context, id: JobId) -> Vec<String> {
        let id = id.to_string();
        vec![
            format!("detached; job {id} goes on"),
            format!("  watch it: {}", context.command("watch", &id)),
            format!("  end it:   {}", context.command("kill", &id)),
        ]
    }
}

/// Shows something of the log; whether more may come.
fn show(screen: &mut Screen, id: JobId, seen: Seen) -> bool {
    match seen {
        Seen::Line(line, cursor) => screen.line(id, &line, &cursor),
        Seen::Status(view) => screen.status(&view),
        Seen::Lost => screen.note("== some of the log is no longer kept"),
        Seen::GivenUp(why) => {
            screen.note(&format!(
                "== the log cannot be followed any more ({why}); waiting for the job's end"
            ));
            return false;
        }
    }
    true
}

/// The job when it has ended. Whoever could tell may be away for a while.
async fn end_of(
    builds: &dyn Builds,
    id: JobId,
    patience: Patience,
) -> Result<Box<JobView>, BuildError> {
    let mut heard = Instant::now();
    loop {
        let asked = Instant::now();
        match builds.wait(id, patience.round).await {
            Ok(view) if view.job.state.is_terminal() => return Ok(Box::new(view)),
            Ok(_) => heard = Instant::now(),
            Err(error @ (BuildError::NotFound(_) | BuildError::Forbidden(_))) => return Err(error),
            Err(error) if heard.elapsed() >= patience.absence => return Err(error),
            Err(_) => {}
        }
        // One that answers at once is not asked again at once.
        sleep(patience.breath.saturating_sub(asked.elapsed())).await;
    }
}

/// What the end of a job is for a shell: 1 unless it succeeded.
pub(super) fn verdict(context: &Context, view: &JobView) -> Result<Exit, Failure> {
    let job = &view.job;
    let Some(failure) = &job.failure else {
        return Ok(Exit::Done);
    };
    let id = job.id.to_string();
    let logs = match failure.phase {
        Some(phase) => context.command("logs", &format!("{id} --phase {phase}")),
        None => context.command("status", &id),
    };
    let error = super::screen::printable(&failure.error);
    Err(Failure::new(Exit::Failed, error).hint(format!("look closer: {logs}")))
}

#[cfg(test)]
mod tests;
