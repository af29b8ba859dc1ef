//! `overseerctl config`: the hub's configuration as it would be used, whether it can be used, and an example.

use clap::Subcommand;
use runyard_common::exit::Exit;

use super::Context;
use crate::{
    config::{self, Loaded, ServeArgs},
    serve,
};

/// Every key with its default and its meaning.
const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// Look at the hub's configuration; no hub is asked.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the values that `serve` would use, and where each came from
    Show(ServeArgs),
    /// Say whether `serve` would start
    Check(ServeArgs),
    /// Print an example with every key and its default
    Example,
}

pub(super) fn run(Args { verb }: Args, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Show(args) => {
            let loaded = load(&args)?;
            context.printer.answer(&loaded.show)?;
        }
        Verb::Check(args) => {
            let loaded = load(&args)?;
            let actions = serve::build_actions(&loaded.config, &context.registry)?;
            let place = loaded
                .config
                .path
                .as_ref()
                .map_or_else(|| "defaults".to_owned(), |path| path.display().to_string());
            context
                .printer
                .line(format_args!("ok: {place}, {} actions", actions.len()))?;
        }
        Verb::Example => context.printer.raw(EXAMPLE.as_bytes())?,
    }
    Ok(Exit::Done)
}

fn load(args: &ServeArgs) -> anyhow::Result<Loaded> {
    let loaded = config::load(args, &|name| std::env::var(name).ok())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}
