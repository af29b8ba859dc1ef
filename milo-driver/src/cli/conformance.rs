//! `milo-driver conformance`: a driver plugin against what a Nomad agent needs of it, or what it costs.

use std::path::PathBuf;

use runyard_common::{
    exit::Exit,
    output::{Printer, Table},
    report::Failure,
};
use serde_json::{Map, Value};

use crate::conformance::{
    self, Verdict, Wish,
    measure::{self, MOST_TASKS, Measurement, Memory},
};

/// Play a Nomad agent against a driver plugin, and say what it does wrong
///
/// The plugin is launched three times, as an agent does. With --task, tasks are run, too: through all calls, commands in them,
/// a kill -9 of the plugin, a recovery, and every kind of end; commands need /bin/sh and coreutils in the task. With --measure,
/// the rules are left alone and so many such tasks run at once, for times and memory.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The plugin's program
    #[arg(value_name = "PLUGIN")]
    plugin: PathBuf,
    /// The `config {}` block of the agent's plugin block, as JSON
    #[arg(long, value_name = "JSON", value_parser = block)]
    plugin_config: Option<Map<String, Value>>,
    /// The `config {}` block of a task that runs until it is stopped, as JSON
    #[arg(long, value_name = "JSON", value_parser = block)]
    task: Option<Map<String, Value>>,
    /// Where the task's folders are made, with what it needs in `local/`; a temporary folder otherwise
    #[arg(long, value_name = "DIR", requires = "task")]
    dir: Option<PathBuf>,
    /// Measure instead, with so many tasks at once; the task prints a line to stdout when it is up
    #[arg(long, value_name = "N", requires = "task", value_parser = tasks)]
    measure: Option<usize>,
    /// Arguments of the plugin
    #[arg(last = true, value_name = "ARGS")]
    handed_on: Vec<String>,
}

fn block(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(block)) => Ok(block),
        Ok(_) => Err("it must be an object, as in {\"jar_path\": \"local/app.jar\"}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn tasks(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST_TASKS).contains(&count) => Ok(count),
        _ => Err(format!(
            "it must be a number of tasks from 1 to {MOST_TASKS}"
        )),
    }
}

pub(super) fn run(args: Args, printer: &Printer) -> anyhow::Result<Exit> {
    if !args.plugin.is_file() {
        let text = format!("there is no program {}", args.plugin.display());
        return Err(Failure::new(Exit::NotFound, text).into());
    }
    let wish = Wish {
        args: args.handed_on,
        config: args.plugin_config.unwrap_or_default(),
        task: args.task,
        dir: args.dir,
    };
    if let Some(tasks) = args.measure {
        let measured = measure::measure(&args.plugin, &wish, tasks);
        let measured = measured.map_err(|error| Failure::new(Exit::Failed, error))?;
        printer.both(&measured, &numbers(&measured))?;
        return Ok(Exit::Done);
    }
    let report = conformance::run(&args.plugin, &wish);
    let mut table = Table::headless();
    for check in &report.checks {
        let (verdict, because) = match &check.verdict {
            Verdict::Pass => ("ok", String::new()),
            Verdict::Fail(because) => ("FAIL", format!("{because} → {}", check.why)),
            Verdict::Skipped(because) => ("skipped", because.clone()),
        };
        table.push([verdict, check.name, &because]);
    }
    printer.both(&report, &table)?;
    match report.failures() {
        0 => Ok(Exit::Done),
        count => {
            tracing::error!("{count} of {} rules were broken", report.checks.len());
            Ok(Exit::Failed)
        }
    }
}

fn numbers(measured: &Measurement) -> Table {
    let mut table = Table::headless();
    let began = [
        ("launch", measured.launch),
        ("StartTask", measured.start),
        ("first byte of stdout", measured.first_byte),
    ];
    let ended = [
        ("launch after kill -9", measured.relaunch),
        ("RecoverTask", measured.recover),
        ("kill until WaitTask answers", measured.exit_seen),
        ("StopTask", measured.stop),
        ("DestroyTask", measured.destroy),
    ];
    for (name, times) in began {
        table.push([name.to_owned(), times.to_string()]);
    }
    for memory in &measured.memory {
        table.push([format!("memory at {} tasks", memory.tasks), weight(memory)]);
    }
    for (name, times) in ended {
        table.push([name.to_owned(), times.to_string()]);
    }
    table
}

fn weight(memory: &Memory) -> String {
    let (plugin, shims) = (memory.plugin, memory.shims);
    format!(
        "plugin {} kB RSS, {} kB PSS; {} shims of at most {} kB RSS, {} kB PSS together",
        plugin.rss_kb, plugin.pss_kb, shims.count, shims.most_rss_kb, shims.pss_kb
    )
}
