//! `overseerctl purge`: drops starts that wait.

use runyard_common::{exit::Exit, output::Table};
use serde_json::json;

use super::Context;

/// Drop all starts that wait in the queue of an action, or in all queues.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The action [default: all]
    #[arg(value_name = "ACTION")]
    action: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let action = args.action.as_deref().unwrap_or_default();
    if !action.is_empty() {
        // A hub purges the queue of an action that it does not have, and finds nothing.
        client.describe(action)?;
    }
    let count = client
        .request("purge", json!({ "action": action }), action)?
        .field("count")?;
    let mut answer = json!({ "count": count });
    if !action.is_empty() {
        answer["action"] = action.into();
    }
    context.printer.both(
        &answer,
        &Table::headless().row(["purged".to_owned(), count.to_string()]),
    )?;
    Ok(Exit::Done)
}
