//! `overseerctl completions`: a completion script.

use clap::{CommandFactory, builder::PossibleValuesParser};
use runyard_common::{cli, exit::Exit, report::Failure};

use super::{Cli, Context};

/// Shells that there are scripts for.
const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// Print a completion script for a shell
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = PossibleValuesParser::new(SHELLS))]
    shell: String,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let shell = args
        .shell
        .parse()
        .map_err(|error: String| Failure::new(Exit::Internal, error))?;
    let mut script = Vec::new();
    cli::completions(&mut Cli::command(), shell, &mut script)?;
    context.printer.raw(&script)?;
    Ok(Exit::Done)
}
