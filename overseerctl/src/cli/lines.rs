//! How the events of a task are printed: its lines as they are, everything else as a note in the log; or every event as
//! one JSON object a line.

use std::{fmt::Write as _, io};

use clap::{Args, ValueEnum};
use runyard_common::output::{Format, Printer};

use crate::{
    api::OutputStream,
    client::{Body, Event, Output},
};

/// Bytes that are held back at most for one write.
const FULL: usize = 64 << 10;

/// Flags that say which lines are shown, and how.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LineArgs {
    /// Show when each line was written
    #[arg(short, long)]
    pub(super) timestamps: bool,

    /// Show only this stream of the task
    #[arg(long, value_name = "STREAM")]
    pub(super) stream: Option<Stream>,
}

/// A stream of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Stream {
    /// Its standard output
    Stdout,
    /// Its standard error
    Stderr,
}

impl LineArgs {
    /// Whether a line is shown.
    pub(super) fn shows(&self, output: &Output) -> bool {
        self.stream.is_none_or(|stream| match stream {
            Stream::Stdout => output.stream == OutputStream::Stdout,
            Stream::Stderr => output.stream == OutputStream::Stderr,
        })
    }
}

/// Prints events; what is held back is written by [`Lines::flush`].
pub(super) struct Lines<'a> {
    printer: &'a Printer,
    args: &'a LineArgs,
    held: String,
}

impl<'a> Lines<'a> {
    /// Prints to `printer`.
    pub(super) fn new(printer: &'a Printer, args: &'a LineArgs) -> Self {
        Self {
            printer,
            args,
            held: String::new(),
        }
    }

    /// Prints one event, soon.
    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        if matches!(&event.body, Body::Output(output) if !self.args.shows(output)) {
            return Ok(());
        }
        match (self.printer.format(), &event.body) {
            (Format::Table, Body::Output(output)) => self.line(output),
            (Format::Table, note) => {
                self.flush()?;
                tracing::info!(task = %event.message.task_id, "{note}");
            }
            (Format::Json | Format::Ndjson, _) => {
                self.held.push_str(event.message.json());
                self.held.push('\n');
            }
            (Format::Yaml, _) => {
                let value: serde_json::Value = serde_json::from_str(event.message.json())?;
                self.printer.value(&value)?;
            }
        }
        if self.held.len() >= FULL {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn line(&mut self, output: &Output) {
        if self.args.timestamps {
            // Writing to a string cannot fail.
            let _ = write!(self.held, "{} ", output.ts);
        }
        self.held.push_str(&output.data);
        self.held.push('\n');
    }

    /// Writes what is held back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let written = self.printer.raw(self.held.as_bytes());
        self.held.clear();
        written
    }
}
