//! `overseerctl reset`: starts an errored task again.

use runyard_common::exit::Exit;
use serde_json::json;

use super::{Context, start};
use crate::client::Startup;

/// Start a task again that gave up; its earlier exits are forgotten.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    let started = client
        .request("reset", json!({ "task_id": args.id }), &args.id)?
        .read()?;
    let action = client.task(&args.id)?.action;
    start::print(&Startup::Started(started), &action, &context.printer)?;
    Ok(Exit::Done)
}
