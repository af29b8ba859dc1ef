//! `overseerctl history`: past runs from the hub's store. An extension.

use std::time::Duration;

use runyard_common::{exit::Exit, output::Table};
use serde_json::{Value, json};

use super::{Context, moment};
use crate::time::Timestamp;

/// Show past runs from the hub's store, newest first.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only of this task
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// Only of this action
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,

    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let body =
        json!({ "task_id": text(&args.task), "action": text(&args.action), "limit": args.limit });
    let runs = match client.request("history", body, "")?.field("runs")? {
        Value::Array(runs) => runs,
        _ => Vec::new(),
    };
    let mut table = Table::new(["task", "action", "started", "took", "outcome"]).right("took");
    for run in &runs {
        let text = |key: &str| run[key].as_str().unwrap_or_default().to_owned();
        table.push([
            text("task_id"),
            text("action"),
            text("started_at"),
            took(run),
            outcome(run),
        ]);
    }
    context.printer.both(&runs, &table)?;
    Ok(Exit::Done)
}

fn took(run: &Value) -> String {
    let time = |key: &str| {
        run[key]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
    };
    let took = time("exited_at")
        .zip(time("started_at"))
        .map(|(end, begin)| end.duration_since(begin));
    match took {
        Some(took) if took < Duration::from_secs(1) => format!("{}ms", took.as_millis()),
        Some(took) => moment::span(took),
        None => "-".to_owned(),
    }
}

/// How a run ended, in a few words.
fn outcome(run: &Value) -> String {
    let ended = match (
        run["signal"].as_i64(),
        run["exit_code"].as_i64(),
        run["error"].as_str(),
    ) {
        (Some(signal), _, _) => format!("signal {signal}"),
        (None, Some(code), _) => format!("exit {code}"),
        (None, None, Some(error)) => format!("failed: {error}"),
        (None, None, None) => run["outcome"].as_str().unwrap_or_default().to_owned(),
    };
    if run["intentional"] == true {
        format!("{ended}, stopped")
    } else {
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_in_a_few_words() {
        let run = json!({"started_at": "2026-01-31T12:00:00Z", "exited_at": "2026-01-31T12:01:05Z", "signal": 15, "exit_code": -1, "intentional": true});
        assert_eq!(
            (took(&run).as_str(), outcome(&run).as_str()),
            ("1m5s", "signal 15, stopped")
        );
        assert_eq!(outcome(&json!({"outcome": "lost"})), "lost");
        assert_eq!(
            outcome(&json!({"outcome": "failed", "error": "no such file"})),
            "failed: no such file"
        );
        assert_eq!(
            took(&json!({"outcome": "running", "started_at": "2026-01-31T12:00:00Z"})),
            "-"
        );
    }
}
