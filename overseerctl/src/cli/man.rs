//! `overseerctl man`: the manual page.

use clap::CommandFactory;
use runyard_common::{cli, exit::Exit};

use super::{Cli, Context};

/// Print the manual page, as `man -l -` reads it
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut page = Vec::new();
    cli::man(&Cli::command(), &mut page)?;
    context.printer.raw(&page)?;
    Ok(Exit::Done)
}
