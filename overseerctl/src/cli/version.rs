//! `overseerctl version`: what this program is.

use runyard_common::{exit::Exit, output::Table};
use serde_json::json;

use super::Context;

/// Print the version of this program and of the protocol it speaks
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let (name, version, protocol) = (
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        "sticky-overseer v2",
    );
    let answer = json!({ "name": name, "version": version, "protocol": protocol });
    let text = format!("{name} {version} (protocol: {protocol})");
    context
        .printer
        .both(&answer, &Table::headless().row([text]))?;
    Ok(Exit::Done)
}
