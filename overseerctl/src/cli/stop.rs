//! `overseerctl stop`: stops tasks, and if wished waits for their end.

use std::collections::BTreeMap;

use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde::Serialize;

use super::Context;
use crate::client::{Client, Stopped};

/// Stop tasks: SIGTERM, and SIGKILL after the hub's grace.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The tasks
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Wait until they have ended
    #[arg(short, long)]
    wait: bool,

    /// Kill them at once, without a grace
    #[arg(long)]
    kill: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    task_id: &'a str,
    state: Stopped,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let (mut stopped, mut refused) = (BTreeMap::new(), Vec::new());
    for id in &args.ids {
        match stop(&mut client, id, args) {
            Ok(state) => drop(stopped.insert(id.clone(), state)),
            Err(failure) if matches!(failure.exit(), Exit::NotFound | Exit::Failed) => {
                refused.push(failure);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    if args.wait {
        client.wait_until_stopped(&mut stopped)?;
    }
    let rows: Vec<Row<'_>> = stopped
        .iter()
        .map(|(task_id, state)| Row {
            task_id,
            state: *state,
        })
        .collect();
    let mut table = Table::headless();
    for row in &rows {
        table.push([row.task_id, row.state.as_str()]);
    }
    context.printer.both(&rows, &table)?;
    all_or(refused, args.ids.len(), "stopped")
}

fn stop(client: &mut Client, id: &str, args: &Args) -> Result<Stopped, Failure> {
    if args.wait {
        client.subscribe(id)?;
    }
    client.stop(id, args.kill)
}

/// Done if nothing was refused; else the only refusal, or one that counts them.
pub(super) fn all_or(mut refused: Vec<Failure>, all: usize, done: &str) -> anyhow::Result<Exit> {
    match (refused.len(), all) {
        (0, _) => Ok(Exit::Done),
        (1, _) => Err(refused.remove(0).into()),
        (count, all) => {
            let messages: Vec<&str> = refused.iter().map(Failure::message).collect();
            let message = format!(
                "{count} of {all} tasks could not be {done}:\n{}",
                messages.join("\n")
            );
            Err(Failure::new(refused[0].exit(), message).into())
        }
    }
}
