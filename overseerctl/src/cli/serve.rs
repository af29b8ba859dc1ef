//! `overseerctl serve`: hands over to the daemon.

use std::sync::Arc;

use runyard_common::exit::Exit;

use super::Context;
use crate::{
    config::{self, ServeArgs},
    serve,
};

/// Run the hub until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

pub(super) fn run(Args { serve: args }: Args, context: &Context) -> anyhow::Result<Exit> {
    if args.list_handlers {
        for kind in context.registry.kinds() {
            context.printer.line(kind)?;
        }
        return Ok(Exit::Done);
    }
    let load = move || config::load(&args, &|name| std::env::var(name).ok());
    serve::run(Arc::new(load), &context.registry)
}
