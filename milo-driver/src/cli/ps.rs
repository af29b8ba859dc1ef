//! `milo-driver ps`: what runs on this host, whoever started it.

use runyard_common::{exit::Exit, output::Table};
use serde::Serialize;

use super::{
    Context,
    known::{self, Known, Standing},
};
use crate::task::{Origin, Program};

/// List what runs on this host
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Also what has ended and was not removed
    #[arg(short, long)]
    all: bool,
}

/// One task.
#[derive(Serialize)]
struct Row {
    key: String,
    id: String,
    name: String,
    origin: Origin,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    oom_killed: bool,
    program: String,
    /// Nanoseconds since 1970.
    created_at: i64,
}

impl Row {
    fn of(known: &Known) -> Self {
        let task = &known.intent.task;
        let standing = known.standing();
        let (state, pid, exit) = match &standing {
            Standing::Created => ("created", None, None),
            Standing::Running(started) => ("running", Some(started.pid), None),
            Standing::Exited(exit) => ("exited", None, Some(exit)),
            Standing::Lost => ("lost", None, None),
        };
        Self {
            key: known.key(),
            id: task.id.0.clone(),
            name: task.name.clone(),
            origin: task.origin,
            state,
            pid,
            exit_code: exit.map(|exit| exit.code),
            oom_killed: exit.is_some_and(|exit| exit.oom_killed),
            program: program(&task.program),
            created_at: known.intent.created_at,
        }
    }

    fn cells(&self) -> [String; 7] {
        let optional =
            |number: Option<i32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let state = if self.oom_killed {
            "exited (OOM)"
        } else {
            self.state
        };
        [
            self.key.clone(),
            self.name.clone(),
            match self.origin {
                Origin::Nomad => "nomad".to_owned(),
                Origin::Cli => "cli".to_owned(),
            },
            state.to_owned(),
            optional(self.pid),
            optional(self.exit_code),
            self.program.clone(),
        ]
    }
}

/// What a task runs, in a few words.
fn program(program: &Program) -> String {
    match program {
        Program::Greeting { shell, .. } => format!("{shell} greeting"),
        Program::Java(java) => {
            let jar = java.jar.as_ref().map(|jar| jar.display().to_string());
            let what = java.class.clone().or(jar).unwrap_or_default();
            let words: Vec<&str> = std::iter::once(what.as_str())
                .chain(java.args.iter().map(String::as_str))
                .collect();
            words.join(" ")
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let rows: Vec<Row> = known::all(&context.state())?
        .iter()
        .map(Row::of)
        .filter(|row| args.all || row.state != "exited")
        .collect();
    let columns = ["key", "name", "from", "state", "pid", "exit", "program"];
    let mut table = Table::new(columns).right("pid").right("exit");
    for row in &rows {
        table.push(row.cells());
    }
    context.printer.both(&rows, &table)?;
    Ok(Exit::Done)
}
