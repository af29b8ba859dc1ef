//! `overseerctl list`: tasks as rows. As JSON an array of what the hub sends, oldest first.

use clap::builder::PossibleValuesParser;
use runyard_common::{exit::Exit, output::Table};
use serde_json::Value;

use super::{Context, moment};
use crate::client::Task;

/// The hub's words for states, then those for phases.
const STATES: [&str; 11] = [
    "active", "stopped", "errored", "queued", "starting", "running", "stopping", "settling",
    "delay", "done", "exited",
];

/// List tasks: running, ended and waiting.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Leave out tasks that neither started nor ended since: 10m, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment::since)]
    since: Option<String>,

    /// Show only tasks in these states
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = PossibleValuesParser::new(STATES))]
    state: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut tasks = context.connect()?.list(args.since.as_deref())?;
    tasks.retain(|task| args.state.is_empty() || args.state.iter().any(|state| is_in(task, state)));
    let rows: Vec<&Value> = tasks.iter().map(|task| &task.row).collect();
    context.printer.both(&rows, &table(&tasks))?;
    Ok(Exit::Done)
}

fn is_in(task: &Task, state: &str) -> bool {
    task.state == state || task.doing() == state
}

fn table(tasks: &[Task]) -> Table {
    let columns = ["task", "action", "state", "pid", "exit", "restarts", "age"];
    let mut table = Table::new(columns)
        .right("pid")
        .right("exit")
        .right("restarts")
        .right("age");
    for task in tasks {
        table.push(row(task));
    }
    table
}

/// The cells of one task; `age` is that of its newest worker, or how long it has waited.
pub(super) fn row(task: &Task) -> [String; 7] {
    let some = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let begin = task
        .queued_at
        .as_deref()
        .or(task.last_started_at.as_deref());
    [
        task.task_id.clone(),
        task.action.clone(),
        task.doing().to_owned(),
        some(
            Some(task.current_pid)
                .filter(|pid| *pid > 0)
                .map(|pid| pid.to_string()),
        ),
        some(task.last_exit_code.map(|code| code.to_string())),
        task.restart_count.to_string(),
        moment::age(begin),
    ]
}
