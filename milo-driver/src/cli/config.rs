//! `milo-driver config`: the command line's configuration as it would be used, and an example.

use clap::Subcommand;
use runyard_common::{exit::Exit, output::Printer, report::Failure};

use crate::settings::Loaded;

/// Every key with its default and its meaning.
const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// Look at the configuration of the command line
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the values in force, and where each comes from
    Show,
    /// Print an example with every key and its default
    Example,
}

pub(super) fn run(
    args: &Args,
    printer: &Printer,
    load: impl FnOnce() -> Result<Loaded, Failure>,
) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Show => printer.answer(&load()?.shown)?,
        Verb::Example => printer.raw(EXAMPLE.as_bytes())?,
    }
    Ok(Exit::Done)
}
