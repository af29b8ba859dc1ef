//! `overseerctl follow`: a task's output, old and new, until nothing more will come.

use std::time::Instant;

use runyard_common::{exit::Exit, report::Failure};

use super::{
    Context,
    lines::{LineArgs, Lines},
    moment,
};
use crate::client::{Dequeued, Ending, Follow, Step};

/// Show what a task has said and says, until it ends; restarts are followed too.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,

    /// Leave out what is older: 10m, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment::since)]
    since: Option<String>,

    #[command(flatten)]
    lines: LineArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let follow = Follow::attach(&mut client, &args.id, args.since.as_deref())?;
    tell(follow, context, &args.lines)
}

/// Prints a task's events until its end. How the task ended is no failure of ours.
pub(super) fn tell(
    mut follow: Follow<'_>,
    context: &Context,
    args: &LineArgs,
) -> anyhow::Result<Exit> {
    let mut lines = Lines::new(&context.printer, args);
    loop {
        let step = match follow.next(Some(Instant::now()))? {
            Step::Deadline => {
                lines.flush()?;
                follow.next(None)?
            }
            step => step,
        };
        match step {
            Step::Event(event) => lines.event(&event)?,
            Step::Over(ending) => {
                lines.flush()?;
                check(&ending, follow.task_id())?;
                return Ok(Exit::Done);
            }
            Step::Interrupted | Step::Deadline => {}
        }
    }
}

/// The endings that are failures although no worker failed.
pub(super) fn check(ending: &Ending, task_id: &str) -> Result<(), Failure> {
    match ending {
        Ending::Exited(_) | Ending::GaveUp(_) => Ok(()),
        Ending::Dropped(reason) => Err(Dequeued {
            task_id: task_id.to_owned(),
            reason: reason.clone(),
        }
        .failure()),
        Ending::NotRestarted(_) => Err(Failure::new(
            Exit::Failed,
            format!("task `{task_id}` was to be restarted, and was not"),
        )
        .hint("the hub's log says why")),
    }
}
