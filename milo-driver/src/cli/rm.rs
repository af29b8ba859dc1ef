//! `milo-driver rm`: a task and all its records.

use runyard_common::{exit::Exit, output::Table, report::Failure};
use serde_json::json;

use super::{
    Context,
    known::{self, Standing},
};
use crate::task::Origin;

/// Remove a task and all its records
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its name, its id, or the beginning of its key
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// Kill it if it runs, and remove a Nomad agent's task too
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let launcher = context.launcher()?;
    let mut removed = Vec::new();
    let mut table = Table::headless();
    for name in &args.tasks {
        let known = known::one(&context.state(), name)?;
        if !args.force {
            refuse_what_is_needed(name, &known)?;
        }
        launcher.dismiss(&known.dir)?;
        table.push(["removed", name]);
        removed.push(json!({ "task": known.intent.task.id }));
    }
    context.printer.both(&removed, &table)?;
    Ok(Exit::Done)
}

fn refuse_what_is_needed(name: &str, known: &known::Known) -> Result<(), Failure> {
    if known.intent.task.origin == Origin::Nomad {
        return Err(
            Failure::new(Exit::Failed, format!("`{name}` belongs to a Nomad agent"))
                .hint("stop it there (nomad job stop, nomad alloc stop), or use --force"),
        );
    }
    if matches!(known.standing(), Standing::Running(_) | Standing::Created) {
        return Err(Failure::new(Exit::Failed, format!("`{name}` runs"))
            .hint(format!("milo-driver stop {name}, or use --force")));
    }
    Ok(())
}
