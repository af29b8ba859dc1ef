//! `overseerctl manifest`: the hub's own description of its protocol.

use runyard_common::exit::Exit;
use serde_json::json;

use super::Context;

/// Print the hub's description of its protocol and actions.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let manifest = context
        .connect()?
        .request("manifest", json!({}), "")?
        .field("manifest")?;
    context.printer.value(&manifest)?;
    Ok(Exit::Done)
}
