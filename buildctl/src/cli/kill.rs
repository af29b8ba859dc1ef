//! `buildctl kill`: end jobs, whether they run or wait.

use runyard_common::{exit::Exit, output::Table};

use super::{Context, block_on};
use crate::{api::KillAnswer, job::JobId};

/// End jobs
///
/// A job that is killed has failed, with the error `Job killed by user`. One that has ended already stays as it is, and the exit
/// code is 1.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Their ids
    #[arg(required = true, value_name = "JOB")]
    ids: Vec<JobId>,
    /// Why, for those who look at them later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let mut answers = Vec::new();
        let mut table = Table::headless();
        for id in &args.ids {
            let killed = place.builds().kill(*id, args.reason.clone()).await;
            let answer = KillAnswer::of(*id, killed.map_err(|error| context.failure(error))?);
            table.push([id.to_string(), answer.message.clone()]);
            answers.push(answer);
        }
        let exit = if answers.iter().all(|answer| answer.success) {
            Exit::Done
        } else {
            Exit::Failed
        };
        match &answers[..] {
            [answer] => context.printer.both(answer, &table)?,
            answers => context.printer.both(answers, &table)?,
        }
        Ok(exit)
    })
}
