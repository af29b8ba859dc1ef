//! Steps: commands that are shown, run, timed and remembered for the closing table.

use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// Tells the person at the terminal something. Answers and logs share one stream here: xtask is read by people.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Runs cargo in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(args))
}

/// Runs a command in the workspace's root, shown first; a failure names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_there(command.current_dir(root()))
}

/// The same, wherever the command is to run.
pub(crate) fn run_there(command: &mut Command) -> Result<()> {
    let shown = show(command);
    say(&format!("$ {shown}"));
    let status = command
        .status()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if status.success() {
        Ok(())
    } else {
        bail!("`{shown}` failed: {status}")
    }
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let mut words = words.into_iter();
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(name)
        .chain(words.map(std::borrow::Cow::into_owned))
        .collect::<Vec<_>>()
        .join(" ")
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed.
    Passed,
    /// It failed, for this reason.
    Failed(String),
    /// It was not run, for this reason.
    Skipped(String),
}

/// What was done, for the closing table.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<(String, Outcome, Duration)>,
}

impl Report {
    /// Does a step; one that fails does not keep the others from being done.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        say(&format!("\n== {name}"));
        let begin = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                say(&format!("error: {error:#}"));
                Outcome::Failed(format!("{error:#}"))
            }
        };
        self.steps.push((name.to_owned(), outcome, begin.elapsed()));
    }

    /// Remembers that something was not done, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        self.steps.push((
            name.to_owned(),
            Outcome::Skipped(why.to_owned()),
            Duration::ZERO,
        ));
    }

    /// Prints the table, and fails if a step did.
    pub(crate) fn close(self) -> Result<()> {
        say("");
        for (name, outcome, time) in &self.steps {
            let (word, note) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed(why) => ("FAILED", why.lines().next().unwrap_or_default()),
                Outcome::Skipped(why) => ("skipped", why.as_str()),
            };
            say(&format!(
                "{word:8} {name:34} {:>6.1} s  {note}",
                time.as_secs_f64()
            ));
        }
        let count = |wanted: fn(&Outcome) -> bool| {
            self.steps
                .iter()
                .filter(|(_, outcome, _)| wanted(outcome))
                .count()
        };
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let passed = count(|outcome| matches!(outcome, Outcome::Passed));
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        say(&format!(
            "\nsteps: {passed} passed, {failed} failed, {skipped} skipped"
        ));
        if failed == 0 {
            Ok(())
        } else {
            bail!("{failed} of {} steps failed", self.steps.len())
        }
    }
}
