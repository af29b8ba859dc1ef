//! `buildctl serve`: hands over to the daemon.

use runyard_common::exit::Exit;

use super::{Context, environment};
use crate::{
    config::{Config, SettingsArgs},
    serve,
};

/// Run the service until SIGTERM or Ctrl-C
///
/// REST, WebSocket, server-sent events and MCP at one address, and a page for people. Builds go on when it ends.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(Args { settings }: Args, context: &Context) -> anyhow::Result<Exit> {
    serve::run(Config::load(&context.settings(settings), &environment)?)
}
