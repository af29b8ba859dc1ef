//! `buildctl purge`: forget ended jobs altogether.

use runyard_common::{exit::Exit, output::Table};
use serde_json::json;

use super::{Context, block_on};
use crate::job::JobId;

/// Forget ended jobs altogether: records, logs and all
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Their ids
    #[arg(required = true, value_name = "JOB")]
    ids: Vec<JobId>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let mut table = Table::headless();
        for id in &args.ids {
            let purged = place.builds().purge(*id).await;
            purged.map_err(|error| context.failure(error))?;
            table.push([id.to_string(), "forgotten".to_owned()]);
        }
        context
            .printer
            .both(&json!({ "purged": args.ids }), &table)?;
        Ok(Exit::Done)
    })
}
