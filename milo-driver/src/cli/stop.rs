//! `milo-driver stop`: a signal, a wait, a kill.

use std::time::Duration;

use runyard_common::{duration, exit::Exit, output::Table, report::Failure};
use serde_json::json;

use super::{
    Context,
    known::{self, Known},
};
use crate::{
    launch::Recovered,
    shim::{
        client::Connection,
        protocol::{Answer, Request},
    },
    signal,
    task::Exit as TaskExit,
};

/// Stop a task: signal, wait, kill
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its name, its id, or the beginning of its key
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// How long it may take before it is killed; 0s kills at once
    #[arg(short, long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    timeout: Duration,
    /// The signal [default: `stop_signal` of the configuration]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let name = args.signal.as_ref().unwrap_or(&context.config.stop_signal);
    let signal =
        signal::parse(name).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let mut answers = Vec::new();
    let mut table = Table::headless();
    for task in &args.tasks {
        let known = known::one(&context.state(), task)?;
        let exit = stop(&known, signal, args.timeout, context)?;
        table.push([task.clone(), ended(&exit)]);
        answers.push(json!({ "task": known.intent.task.id, "exit": exit }));
    }
    context.printer.both(&answers, &table)?;
    Ok(Exit::Done)
}

/// How a task ended, for people.
pub(super) fn ended(exit: &TaskExit) -> String {
    match exit {
        TaskExit {
            error: Some(error), ..
        } => format!("ended, nobody knows how: {error}"),
        TaskExit {
            oom_killed: true,
            code,
            ..
        } => format!("ended with {code}, out of memory"),
        TaskExit {
            signal: 0, code, ..
        } => format!("ended with {code}"),
        TaskExit { signal, .. } => format!("ended by {}", signal::name(*signal)),
    }
}

fn stop(
    known: &Known,
    signal: i32,
    timeout: Duration,
    context: &Context,
) -> anyhow::Result<TaskExit> {
    // One whose shim was killed gets another, which knows what can be known.
    if let Recovered::Exited(exit) = context.launcher()?.recover(&known.dir)? {
        return Ok(exit);
    }
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let mut connection = Connection::open(&known.dir)?;
    match connection.request(&Request::Stop { signal, timeout_ms })? {
        Answer::Exited(exit) => Ok(exit),
        Answer::Failed { error } => Err(Failure::new(Exit::Failed, error).into()),
        other => anyhow::bail!("the shim's answer makes no sense: {other:?}"),
    }
}
