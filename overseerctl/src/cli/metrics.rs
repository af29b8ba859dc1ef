//! `overseerctl metrics`: counters since the hub's start.

use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::{Value, json};

use super::Context;

/// Show counters since the hub's start.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Of this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// Of this action
    #[arg(long, value_name = "ACTION", conflicts_with = "task")]
    action: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let (body, field, name) = match (&args.task, &args.action) {
        (Some(task), _) => (json!({ "task_id": task }), "task", task.as_str()),
        (None, Some(action)) => (json!({ "action": action }), "action", action.as_str()),
        (None, None) => (json!({}), "global", ""),
    };
    let counters = client.request("metrics", body, name)?.field(field)?;
    let Value::Object(counters) = counters else {
        let message = format!(
            "the hub at {} has no counters of {field} `{name}`",
            client.hub()
        );
        let failure = Failure::new(Exit::NotFound, message);
        return Err(match field {
            "action" => failure.hint("an action has counters once a task of it was started"),
            _ => failure.hint("`overseerctl list` shows the tasks"),
        }
        .into());
    };
    let mut table = Table::headless();
    for (name, value) in &counters {
        table.push([name.replace('_', " "), value.to_string()]);
    }
    context.printer.both(&counters, &table)?;
    Ok(Exit::Done)
}
