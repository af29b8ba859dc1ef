//! `buildctl mcp`: the tools for agents on standard input and output, over a service or over this machine.

use runyard_common::exit::Exit;

use super::{Context, block_on};
use crate::mcp;

/// Be an MCP server on standard input and output
///
/// For clients that start their servers: `{"command": "buildctl", "args": ["mcp"]}`. It speaks to the service of --url, or builds
/// on this machine. Jobs go on when it ends.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let builds = context.place()?.into_builds();
    block_on(async {
        mcp::stdio(builds).await?;
        Ok(Exit::Done)
    })
}
