//! `buildctl logs`: what a job has said, and with `--follow` what it says.

use std::num::NonZeroUsize;

use futures_util::StreamExt;
use runyard_common::{
    exit::Exit,
    output::{Format, Printer},
    report::Failure,
    terminal,
};

use super::{
    Context, block_on,
    follow::Patience,
    interrupt::Interrupts,
    lasting::{self, Seen},
    screen::{prefixed, printable},
};
use crate::{
    api::{LogsAnswer, StreamMessage},
    job::JobId,
    logs::{Cursor, Line, Stream},
    phase::{Phase, Run},
    service::{Builds, LogQuery},
};

/// Show what a job has said
///
/// Each line has its run before it, unless a phase is chosen. With `-o json` or `-o ndjson` each line is an object, whose `cursor` is what
/// --since takes. That the log of a failed job was shown is success: the exit code says nothing of the job.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its id
    #[arg(value_name = "JOB")]
    id: JobId,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only this phase: build, test or publish
    #[arg(long, value_name = "PHASE", value_parser = phase)]
    phase: Option<Phase>,
    /// Begin so many lines before the end
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<NonZeroUsize>,
    /// Go on after this cursor, of an earlier answer
    #[arg(long, value_name = "CURSOR", conflicts_with = "tail")]
    since: Option<Cursor>,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Only lines that look like errors, with what surrounds them
    #[arg(long)]
    errors: bool,
    /// The phase as the original takes it
    #[arg(hide = true, value_name = "PHASE", value_parser = phase)]
    of: Option<Phase>,
}

fn phase(text: &str) -> Result<Phase, String> {
    Phase::ALL
        .into_iter()
        .find(|phase| phase.name() == text)
        .ok_or_else(|| "known are build, test and publish".to_owned())
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let query = LogQuery {
        phase: args.phase.or(args.of),
        cursor: args.since.clone(),
        tail: args.tail,
        max_bytes: None,
        grep: args.grep.clone(),
        errors_only: args.errors,
    };
    let place = context.place()?;
    block_on(async {
        if context.is_original && !args.follow {
            return original(place.builds(), args.id, query, context).await;
        }
        let mut page = Page::new(args, &query, &context.printer);
        if args.follow {
            return follow(place.builds(), args.id, query, page, context).await;
        }
        let mut query = query;
        loop {
            let read = place.builds().logs(args.id, query.clone()).await;
            let read = read.map_err(|error| context.failure(error))?;
            if read.lost {
                tracing::warn!("some of the log is no longer kept");
            }
            for line in &read.lines {
                page.print(line, &read.next)?;
            }
            if !read.more || query.tail.is_some() {
                page.end()?;
                return Ok(Exit::Done);
            }
            query.cursor = Some(read.next);
        }
    })
}

/// The answer of the original.
async fn original(
    builds: &dyn Builds,
    id: JobId,
    query: LogQuery,
    context: &Context,
) -> anyhow::Result<Exit> {
    let phase = query.phase;
    let page = builds.logs(id, query).await;
    let page = page.map_err(|error| context.failure(error))?;
    context.printer.value(&LogsAnswer::of(id, &page, phase))?;
    Ok(Exit::Done)
}

async fn follow(
    builds: &dyn Builds,
    id: JobId,
    query: LogQuery,
    mut page: Page<'_>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let mut interrupts = Interrupts::catch()?;
    // What cannot be answered at all is an error, and not a stream that breaks.
    builds
        .status(id)
        .await
        .map_err(|error| context.failure(error))?;
    let mut log = lasting::follow(builds, id, query, Patience::default().again);
    loop {
        tokio::select! {
            seen = log.next() => match seen {
                Some(Seen::Line(line, cursor)) => page.print(&line, &cursor)?,
                Some(Seen::Status(_)) => {}
                Some(Seen::Lost) => tracing::warn!("some of the log is no longer kept"),
                Some(Seen::GivenUp(why)) => {
                    page.end()?;
                    let text = format!("the log cannot be followed any more: {why}");
                    return Err(Failure::new(Exit::Unreachable, text).into());
                }
                None => {
                    page.end()?;
                    return Ok(Exit::Done);
                }
            },
            interrupt = interrupts.next() => return Ok(interrupt.exit()),
        }
    }
}

/// Lines on standard output.
struct Page<'a> {
    printer: &'a Printer,
    id: JobId,
    is_prefixed: bool,
    timestamps: bool,
    is_terminal: bool,
    /// Whose line goes on.
    open: Option<(Run, Stream)>,
}

impl<'a> Page<'a> {
    fn new(args: &Args, query: &LogQuery, printer: &'a Printer) -> Self {
        Self {
            printer,
            id: args.id,
            is_prefixed: query.phase.is_none(),
            timestamps: args.timestamps,
            is_terminal: terminal::Stream::Stdout.is_terminal(),
            open: None,
        }
    }

    fn print(&mut self, line: &Line, cursor: &Cursor) -> std::io::Result<()> {
        if self.printer.format() != Format::Table {
            let message = StreamMessage::of(self.id, line, cursor, jiff::Timestamp::now());
            return self.printer.item(&Message(message));
        }
        let whose = (line.run, line.stream);
        let mut text = String::new();
        if self.open != Some(whose) {
            if self.open.is_some() {
                text.push('\n');
            }
            if let Some(time) = line.time.filter(|_| self.timestamps) {
                text.extend([time_of(time).as_str(), " "]);
            }
            if self.is_prefixed {
                text.push_str(&prefixed(line, ""));
            }
        }
        if self.is_terminal {
            text.push_str(&printable(&line.text));
        } else {
            text.push_str(&line.text);
        }
        self.open = line.partial.then_some(whose);
        if !line.partial {
            text.push('\n');
        }
        self.printer.raw(text.as_bytes())
    }

    /// Ends a line that nobody went on with.
    fn end(&mut self) -> std::io::Result<()> {
        match self.open.take() {
            Some(_) => self.printer.raw(b"\n"),
            None => Ok(()),
        }
    }
}

/// Milliseconds are enough to tell lines apart.
fn time_of(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

/// A line as an object; its text form is never asked for.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct Message(StreamMessage);

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}
