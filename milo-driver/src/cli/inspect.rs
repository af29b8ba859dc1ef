//! `milo-driver inspect`: everything that is on record about a task, and how it stands.

use runyard_common::exit::Exit;
use serde_json::{Value, json};

use super::{
    Context,
    known::{self, Standing},
};

/// Show everything about a task
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its name, its id, or the beginning of its key
    #[arg(value_name = "TASK")]
    task: String,
    /// Also show the values of its environment, which may be secrets
    #[arg(long)]
    show_secrets: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let known = known::one(&context.state(), &args.task)?;
    let mut task = serde_json::to_value(&known.intent.task)?;
    if !args.show_secrets {
        hide(&mut task["env"]);
    }
    let (state, started, exit) = match known.standing() {
        Standing::Created => ("created", None, None),
        Standing::Running(started) => ("running", Some(started), None),
        Standing::Exited(exit) => ("exited", known.dir.started()?, Some(exit)),
        Standing::Lost => ("lost", known.dir.started()?, None),
    };
    context.printer.value(&json!({
        "task": task,
        "key": known.intent.task.id.key(),
        "container": known.intent.task.id.container(),
        "state": state,
        "started": started,
        "exit": exit,
        "created_at": known.intent.created_at,
        "crun": known.intent.crun,
        "records": known.dir.path(),
        "bundle": known.dir.bundle(),
    }))?;
    Ok(Exit::Done)
}

/// Keeps the names.
fn hide(env: &mut Value) {
    if let Some(env) = env.as_object_mut() {
        for value in env.values_mut() {
            *value = "(hidden; --show-secrets shows it)".into();
        }
    }
}
