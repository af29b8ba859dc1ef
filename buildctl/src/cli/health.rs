//! `buildctl health`: whether builds can be made now.

use runyard_common::{exit::Exit, output::Table};

use super::{Context, block_on};
use crate::api::HealthAnswer;

/// Ask whether builds can be made now
///
/// The exit code is 0 if everything answers, 1 if something does not, and 4 if the service cannot be reached.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, context: &Context) -> anyhow::Result<Exit> {
    let place = context.place()?;
    block_on(async {
        let health = place.builds().health().await;
        let health = health.map_err(|error| context.failure(error))?;
        let (answer, is_well) = HealthAnswer::of(&health, jiff::Timestamp::now());
        let mut table = Table::headless().row([place.name(), answer.status.clone()]);
        for (part, state) in &answer.services {
            let why = answer.problems.get(part).map(|why| format!(": {why}"));
            table.push([part.clone(), format!("{state}{}", why.unwrap_or_default())]);
        }
        context.printer.both(&answer, &table)?;
        Ok(if is_well { Exit::Done } else { Exit::Failed })
    })
}
