//! `overseerctl run`: a task as if it were a local command, with its streams and its exit code.

use std::{
    io::{self, Write as _},
    time::Instant,
};

use runyard_common::{
    exit::Exit,
    output::{Format, Printer},
};

use super::{
    Context, follow,
    interrupt::Interrupts,
    lines::{LineArgs, Lines},
    start::{self, TaskArgs},
};
use crate::{
    api::OutputStream,
    client::{Body, Ending, Event, Exited, Follow, Output, Startup, Step},
};

/// Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
const INTERRUPTED: Exit = Exit::Child(130);

/// Start a task, show its output, and exit with its code: 128+n if signal n ended it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    task: TaskArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut client = context.connect()?;
    args.task.check(&mut client)?;
    let mut interrupts = Interrupts::catch()?;
    client.wake_on(interrupts.descriptor()?);
    let startup = client.start_and_listen(&args.task.start())?;
    if matches!(startup, Startup::Queued(_)) {
        start::announce(&startup);
    }
    let mut follow = Follow::live(&mut client, startup.task_id());
    let mut sink = Sink::new(&context.printer);
    let mut attended = Attended::default();
    match attended.pass_on(&mut follow, &mut sink, &mut interrupts) {
        Ok(exit) => Ok(exit),
        Err(error) => {
            // Whoever read the output is gone: the task goes too, as a local command would.
            if runyard_common::output::is_closed_pipe(&error) && !attended.stopping {
                let task_id = follow.task_id().to_owned();
                follow.client().stop(&task_id, false)?;
            }
            Err(error)
        }
    }
}

/// A task that somebody sits in front of.
#[derive(Default)]
struct Attended {
    /// Whether it was told to stop.
    stopping: bool,
}

impl Attended {
    /// Passes the task's output on until its end, or until nobody wants to wait for that.
    fn pass_on(
        &mut self,
        follow: &mut Follow<'_>,
        sink: &mut Sink<'_>,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<Exit> {
        let mut woken = false;
        loop {
            for _ in 0..interrupts.take(woken) {
                if self.stopping {
                    sink.flush()?;
                    tracing::warn!(task = %follow.task_id(), "left to itself");
                    return Ok(INTERRUPTED);
                }
                self.stop(follow)?;
            }
            let step = match follow.next(Some(Instant::now()))? {
                Step::Deadline => {
                    sink.flush()?;
                    follow.next(None)?
                }
                step => step,
            };
            woken = matches!(step, Step::Interrupted);
            match step {
                Step::Event(event) => sink.event(&event)?,
                Step::Over(ending) => {
                    sink.flush()?;
                    return self.exit(&ending, follow.task_id());
                }
                Step::Interrupted | Step::Deadline => {}
            }
        }
    }

    fn stop(&mut self, follow: &mut Follow<'_>) -> anyhow::Result<()> {
        self.stopping = true;
        let task_id = follow.task_id().to_owned();
        tracing::info!(task = %task_id, "told to stop; interrupt again to leave it to itself");
        // A task that is gone already is as good as stopped; the follow sees its end.
        follow
            .client()
            .send("stop", serde_json::json!({ "task_id": task_id }))?;
        Ok(())
    }

    fn exit(&self, ending: &Ending, task_id: &str) -> anyhow::Result<Exit> {
        match ending {
            Ending::Dropped(_) if self.stopping => Ok(INTERRUPTED),
            Ending::Exited(exit) => Ok(exit.as_ref().map_or(Exit::Failed, code)),
            // Too many exits are a failure, even with code 0.
            Ending::GaveUp(exit) => Ok(exit
                .as_ref()
                .map(code)
                .filter(|exit| *exit != Exit::Done)
                .unwrap_or(Exit::Failed)),
            Ending::Dropped(_) | Ending::NotRestarted(_) => {
                follow::check(ending, task_id)?;
                Ok(Exit::Failed)
            }
        }
    }
}

/// The exit code that stands for a worker's. A sticky-overseer does not tell which signal ended it.
fn code(exited: &Exited) -> Exit {
    let code = match exited.signal {
        Some(signal) => 128 + signal,
        None => exited.exit_code,
    };
    match u8::try_from(code) {
        Ok(0) => Exit::Done,
        Ok(code) => Exit::Child(code),
        Err(_) => Exit::Failed,
    }
}

/// Where the task's output goes: to the streams of the same name, or as events to stdout.
enum Sink<'a> {
    Streams {
        printer: &'a Printer,
        held: Vec<u8>,
        stream: OutputStream,
    },
    Events(Lines<'a>),
}

/// Bytes that are held back at most for one write.
const FULL: usize = 64 << 10;

/// All lines, as they are.
static ALL: LineArgs = LineArgs {
    timestamps: false,
    stream: None,
};

impl<'a> Sink<'a> {
    fn new(printer: &'a Printer) -> Self {
        match printer.format() {
            Format::Table => Self::Streams {
                printer,
                held: Vec::new(),
                stream: OutputStream::Stdout,
            },
            Format::Json | Format::Ndjson | Format::Yaml => Self::Events(Lines::new(printer, &ALL)),
        }
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        match (self, &event.body) {
            (Self::Events(lines), _) => lines.event(event),
            (streams, Body::Output(output)) => streams.line(output),
            // The exit code says it.
            (_, Body::Started(started)) if started.restart_of == 0 => Ok(()),
            (_, Body::Exited(_) | Body::Queued(_) | Body::Dequeued(_)) => Ok(()),
            (streams, note) => {
                streams.flush()?;
                tracing::info!(task = %event.message.task_id, "{note}");
                Ok(())
            }
        }
    }

    fn line(&mut self, output: &Output) -> io::Result<()> {
        if matches!(self, Self::Streams { held, stream, .. } if *stream != output.stream || held.len() >= FULL)
        {
            self.flush()?;
        }
        if let Self::Streams { held, stream, .. } = self {
            *stream = output.stream;
            held.extend_from_slice(output.data.as_bytes());
            held.push(b'\n');
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Events(lines) => lines.flush(),
            Self::Streams { held, .. } if held.is_empty() => Ok(()),
            Self::Streams {
                printer,
                held,
                stream,
            } => {
                let bytes = std::mem::take(held);
                match stream {
                    OutputStream::Stdout => printer.raw(&bytes),
                    OutputStream::Stderr => io::stderr().lock().write_all(&bytes),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(exit_code: i32, signal: Option<i32>) -> Exited {
        Exited {
            exit_code,
            signal,
            ..Exited::default()
        }
    }

    #[test]
    fn the_exit_code_is_the_tasks() {
        assert_eq!(code(&exited(0, None)), Exit::Done);
        assert_eq!(code(&exited(42, None)), Exit::Child(42));
        assert_eq!(code(&exited(-1, Some(15))), Exit::Child(143));
        assert_eq!(code(&exited(-1, None)), Exit::Failed);
    }

    #[test]
    fn giving_up_is_a_failure_even_after_code_0() {
        let attended = Attended::default();
        let exit = |ending| attended.exit(&ending, "t").unwrap();
        assert_eq!(exit(Ending::GaveUp(Some(exited(0, None)))), Exit::Failed);
        assert_eq!(exit(Ending::GaveUp(Some(exited(3, None)))), Exit::Child(3));
        assert_eq!(exit(Ending::Exited(Some(exited(0, None)))), Exit::Done);
        let dropped = attended
            .exit(&Ending::Dropped("purged".into()), "t")
            .unwrap_err();
        assert!(dropped.to_string().ends_with("without having run: purged"));
    }
}
