//! `milo-driver conformance`: a driver plugin against what a Nomad agent needs of it.

use std::path::PathBuf;

use runyard_common::{
    exit::Exit,
    output::{Printer, Table},
    report::Failure,
};
use serde_json::{Map, Value};

use crate::conformance::{self, Verdict, Wish};

/// Play a Nomad agent against a driver plugin, and say what it does wrong
///
/// The plugin is launched three times, as an agent does. With --task, a task is run, too: through all calls, a kill -9 of the
/// plugin and a recovery.
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
