//! `overseerctl remove`: forgets finished tasks. An extension: a sticky-overseer never forgets.

use runyard_common::{exit::Exit, output::Table};
use serde_json::json;

use super::{Context, stop};

/// Forget finished tasks, so that their ids can be used again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The tasks
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let (mut removed, mut refused) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match client.request("remove", json!({ "task_id": id }), id) {
            Ok(_) => removed.push(json!({ "task_id": id, "state": "removed" })),
            Err(failure) if matches!(failure.exit(), Exit::NotFound | Exit::Failed) => {
                refused.push(failure);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    let mut table = Table::headless();
    for row in &removed {
        table.push([row["task_id"].as_str().unwrap_or_default(), "removed"]);
    }
    context.printer.both(&removed, &table)?;
    stop::all_or(refused, args.ids.len(), "removed")
}
