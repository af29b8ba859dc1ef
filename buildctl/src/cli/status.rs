//! `buildctl status`: how far a job is.

use runyard_common::exit::Exit;

use super::{Context, answer, block_on};
use crate::job::JobId;

/// Show how far a job is
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its id
    #[arg(value_name = "JOB")]
    id: JobId,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let view = place.builds().status(args.id).await;
        answer::status(
            &context.printer,
            &view.map_err(|error| context.failure(error))?,
        )?;
        Ok(Exit::Done)
    })
}
