//! `cargo xtask dev <tool>`: a tool that lives inside of something else, tried by hand: its release build where its host
//! finds it, the host running, the next command to type. Ctrl-C ends it, and nothing is left.

mod interrupt;
mod milo_driver;

use anyhow::{Result, bail};
use clap::Args;

use crate::workspace::{known_tools, release_binary};

/// What `dev` takes.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// The tool
    tool: String,
    /// The agent's HTTP port; the two after it are used, too
    #[arg(long, value_name = "PORT", default_value_t = 4646, value_parser = clap::value_parser!(u16).range(1..=65_533))]
    port: u16,
    /// More arguments for the host: `-- -log-level=debug`
    #[arg(last = true, value_name = "ARGS")]
    more: Vec<String>,
}

/// Runs a tool's host until Ctrl-C.
pub(crate) fn run(args: &DevArgs) -> Result<()> {
    for tool in known_tools(Some(&args.tool))? {
        match tool {
            "milo-driver" => {
                // Found out before anything is built.
                let nomad = milo_driver::nomad()?;
                let binary = release_binary(tool)?;
                milo_driver::run(&nomad, &binary, args.port, &args.more)?;
            }
            other => {
                bail!("{other} needs no host: run it by itself (tools that have one: milo-driver)")
            }
        }
    }
    Ok(())
}
