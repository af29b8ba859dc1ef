//! `buildctl status`: how far jobs are.

use runyard_common::exit::Exit;

use super::{Context, answer, block_on, history};
use crate::{api::StatusAnswer, job::JobId};

/// Show how far a job is
///
/// Of several jobs, each is a row, or an object of a list; with `-o ndjson` a line. If one is not there, nothing is shown of any.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its id
    #[arg(required = true, value_name = "JOB")]
    ids: Vec<JobId>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let mut views = Vec::with_capacity(args.ids.len());
        for id in &args.ids {
            let view = place.builds().status(*id).await;
            views.push(view.map_err(|error| context.failure(error))?);
        }
        if let [view] = &views[..] {
            answer::status(&context.printer, view)?;
        } else {
            let answers: Vec<StatusAnswer> = views.iter().map(StatusAnswer::from).collect();
            let table = history::table(views.iter().map(|view| &view.job));
            context.printer.both(&answers, &table)?;
        }
        Ok(Exit::Done)
    })
}
