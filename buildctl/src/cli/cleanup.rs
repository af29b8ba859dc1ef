//! `buildctl cleanup`: remove what ended jobs left behind, and keep their records.

use std::time::Duration;

use runyard_common::{duration, exit::Exit, output::Table};

use super::{Context, block_on};
use crate::{api::CleanupAnswer, job::JobId, service::Cleanup};

/// Remove what ended jobs left behind: logs, folders, temporary images
///
/// Their records stay, until `purge`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// One job
    #[arg(value_name = "JOB", required_unless_present_any = ["all", "older_than"])]
    id: Option<JobId>,
    /// All that have ended
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// All that have ended so long ago
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "id")]
    older_than: Option<Duration>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let what = match args.id {
        Some(id) => Cleanup::Job(id),
        None => Cleanup::Ended {
            older_than: args.older_than.unwrap_or_default(),
        },
    };
    let place = context.place()?;
    block_on(async {
        let cleaned = place.builds().cleanup(what).await;
        let answer = CleanupAnswer::from(cleaned.map_err(|error| context.failure(error))?);
        let mut table = Table::headless();
        for id in &answer.cleaned_jobs {
            table.push([id.to_string()]);
        }
        table.push([answer.message.clone()]);
        context.printer.both(&answer, &table)?;
        Ok(if answer.success {
            Exit::Done
        } else {
            Exit::Failed
        })
    })
}
