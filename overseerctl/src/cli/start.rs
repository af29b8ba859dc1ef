//! `overseerctl start`: starts a task, and if wished sees it run.

use std::{collections::BTreeMap, io};

use runyard_common::{
    exit::Exit,
    output::{Printer, Table},
};
use serde::Serialize;

use super::{Context, follow, lines::LineArgs, retry::RetryArgs};
use crate::client::{Client, Follow, Queued, Start, Started, Startup};

/// Start a task and print its id.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// If the task is queued, wait until it runs
    #[arg(long)]
    wait: bool,

    /// Show the task's output until it ends
    #[arg(long, conflicts_with = "wait")]
    follow: bool,

    // Last, because its help headings hold for whatever comes after them.
    #[command(flatten)]
    task: TaskArgs,
}

/// What to start; shared with `run`.
#[derive(clap::Args, Debug)]
pub(super) struct TaskArgs {
    /// The action, one of those that `describe` shows
    #[arg(value_name = "ACTION")]
    action: String,

    /// Parameters of the action
    #[arg(value_name = "KEY=VALUE", value_parser = parameter)]
    params: Vec<(String, String)>,

    /// Id of the task [default: one that the hub makes up]
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// If the queue is full, take the place of another start; and never lose this one's place
    #[arg(long)]
    force: bool,

    /// Forget a finished task of the same id first
    #[arg(long, requires = "id")]
    replace: bool,

    #[command(flatten)]
    retry: RetryArgs,
}

fn parameter(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        Err("the key before `=` is missing")
    } else {
        Ok((key.to_owned(), value.to_owned()))
    }
}

impl TaskArgs {
    /// The wish as the client takes it. Of a parameter that is given twice the last counts.
    pub(super) fn start(&self) -> Start {
        Start {
            action: self.action.clone(),
            task_id: self.id.clone().unwrap_or_default(),
            params: self.params.iter().cloned().collect::<BTreeMap<_, _>>(),
            force: self.force,
            replace: self.replace,
            retry_policy: self.retry.policy(),
        }
    }

    /// Refuses what the hub would not understand and silently do otherwise.
    pub(super) fn check(&self, client: &mut Client) -> anyhow::Result<()> {
        if self.retry.is_extended() {
            client.require_extensions("`--restart`, `--backoff-…` and `--success-exit-codes`")?;
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    args.task.check(&mut client)?;
    let start = args.task.start();
    if args.follow {
        let startup = client.start_and_listen(&start)?;
        announce(&startup);
        let follow = Follow::live(&mut client, startup.task_id());
        return follow::tell(follow, context, &LineArgs::default());
    }
    let startup = match client.start(&start)? {
        Startup::Queued(queued) if args.wait => {
            announce(&Startup::Queued(queued.clone()));
            Startup::Started(client.wait_until_started(&queued)?)
        }
        startup => startup,
    };
    print(&startup, &start.action, &context.printer)?;
    Ok(Exit::Done)
}

/// Says on stderr what became of a start.
pub(super) fn announce(startup: &Startup) {
    match startup {
        Startup::Started(Started { task_id, pid, .. }) => {
            tracing::info!(task = %task_id, pid, "started");
        }
        Startup::Queued(Queued {
            task_id, position, ..
        }) => {
            tracing::info!(task = %task_id, position, "waits in the queue");
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    task_id: &'a str,
    action: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
}

/// Prints what became of a start.
pub(super) fn print(startup: &Startup, action: &str, printer: &Printer) -> io::Result<()> {
    let answer = match startup {
        Startup::Started(Started { task_id, pid, .. }) => Answer {
            task_id,
            action,
            state: "started",
            pid: Some(*pid),
            position: None,
        },
        Startup::Queued(Queued {
            task_id, position, ..
        }) => Answer {
            task_id,
            action,
            state: "queued",
            pid: None,
            position: Some(*position),
        },
    };
    let place = match startup {
        Startup::Started(Started { pid, .. }) => format!("pid {pid}"),
        Startup::Queued(Queued { position, .. }) => format!("position {position}"),
    };
    let table = Table::headless().row([answer.task_id, answer.state, &place]);
    printer.both(&answer, &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_parted_at_its_first_equals_sign() {
        assert_eq!(
            parameter("a=b=c").unwrap(),
            ("a".to_owned(), "b=c".to_owned())
        );
        assert_eq!(parameter("a=").unwrap().1, "");
        assert!(parameter("a").is_err());
        assert!(parameter("=b").is_err());
    }
}
