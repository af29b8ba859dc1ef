//! `buildctl config`: the service's configuration as it would be used, whether it can be used, and an example.

use clap::Subcommand;
use runyard_common::exit::Exit;

use super::{Context, environment};
use crate::config::{Config, Loaded, SettingsArgs};

/// Every key with its default and its meaning.
const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// Look at the configuration of the service; no service is asked
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the values that `serve` would use, and where each came from
    Show(SettingsArgs),
    /// Say whether `serve` could use it
    Check(SettingsArgs),
    /// Print an example with every key and its default
    Example,
}

pub(super) fn run(Args { verb }: Args, context: &Context) -> anyhow::Result<Exit> {
    match verb {
        Verb::Show(args) => {
            let loaded = load(args, context)?;
            context.printer.answer(&loaded.shown)?;
        }
        Verb::Check(args) => {
            load(args, context)?;
            context.printer.line("ok")?;
        }
        Verb::Example => context.printer.raw(EXAMPLE.as_bytes())?,
    }
    Ok(Exit::Done)
}

fn load(args: SettingsArgs, context: &Context) -> anyhow::Result<Loaded> {
    let loaded = Config::load(&context.settings(args), &environment)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

impl Context {
    /// The flags of a verb of the service, with those that stand before the verb.
    pub(super) fn settings(&self, args: SettingsArgs) -> SettingsArgs {
        SettingsArgs {
            config: args.config.or_else(|| self.place.config.clone()),
            root: args.root.or_else(|| self.place.root.clone()),
            token_file: self.client.token_file.clone(),
            ..args
        }
    }
}
