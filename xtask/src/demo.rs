//! The demo: every daemon on its embedded default, each tool's main job for real, one table of what came of it.

mod buildctl;
mod milo_driver;
mod overseerctl;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    deps,
    step::say,
    workspace::{known_tools, release_binaries},
};

/// What `demo` takes.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Just this tool
    tool: Option<String>,
}

/// One line of the result table.
pub(crate) struct Shown {
    /// The tool.
    pub(crate) tool: &'static str,
    /// What was done.
    pub(crate) what: &'static str,
    /// What came of it, or why it did not work.
    pub(crate) result: Result<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Shown {
    /// Does it, and takes the time.
    pub(crate) fn of(
        tool: &'static str,
        what: &'static str,
        demonstration: impl FnOnce() -> Result<String>,
    ) -> Self {
        let begin = Instant::now();
        let result = demonstration();
        Self {
            tool,
            what,
            result,
            took: begin.elapsed(),
        }
    }
}

/// Looks again until there is a result, for half a minute at most.
pub(crate) fn wait_for(what: &str, look: impl Fn() -> Result<Option<String>>) -> Result<String> {
    let begin = Instant::now();
    while begin.elapsed().as_secs() < 30 {
        if let Some(result) = look()? {
            return Ok(result);
        }
    }
    bail!("waited 30 s in vain for: {what}")
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    deps::ensure();
    let mut shown = Vec::new();
    let tools = known_tools(args.tool.as_deref())?;
    for (tool, binary) in tools.iter().zip(release_binaries(&tools)?) {
        shown.extend(match *tool {
            "overseerctl" => overseerctl::demonstrate(&binary)?,
            "milo-driver" => milo_driver::demonstrate(&binary)?,
            "buildctl" => buildctl::demonstrate(&binary)?,
            other => bail!("{other} has no demo"),
        });
    }
    say(&format!(
        "\n{:12} {:44} {:>8}  result",
        "tool", "what", "took"
    ));
    for line in &shown {
        let result = match &line.result {
            Ok(result) => result.clone(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        say(&format!(
            "{:12} {:44} {:>5} ms  {result}",
            line.tool,
            line.what,
            line.took.as_millis()
        ));
    }
    let failed = shown.iter().filter(|line| line.result.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} demonstrations failed", shown.len());
    }
    Ok(())
}
