//! From an error to what the user reads, and to the exit code. [`Failure`] is what code makes,
//! [`main`] is what ends a program; nothing in between prints errors.
//!
//! ```text
//! error: runner label `gpu` is not defined (known labels: linux, x64)
//!   caused by: …
//!   hint: add it under runners.labels in /etc/hvpool.yaml
//! ```
//!
//! The exit code is that of the first [`Failure`] met on the way from the outermost error to its
//! innermost cause, and 1 where there is none. Hints of all failures on that way are shown.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::exit::Exit;
use crate::output;
use crate::terminal::{self, Stream};

type Boxed = Box<dyn Error + Send + Sync>;

/// An error that a user will read: what went wrong, what it means for the exit code, and the way
/// out.
///
/// The message names the value and the place, starts in lower case and has no full stop; the cause
/// is chained, never repeated in the message.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hints: Vec<String>,
    source: Option<Cause>,
}

#[derive(Debug)]
enum Cause {
    /// The error that led to this failure.
    Below(Boxed),
    /// The error that this failure *is*: its text is the message already, only its own cause is
    /// still to be shown.
    Same(Boxed),
}

impl Failure {
    /// A failure with its exit code and message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hints: Vec::new(),
            source: None,
        }
    }

    /// Adds a way out, shown as a `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Names the error that led here.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Boxed>) -> Self {
        self.source = Some(Cause::Below(source.into()));
        self
    }

    /// The exit code that this failure asks for.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The message without causes and hints.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The ways out, in the order they were added.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Gives an exit code to an error; one that is a failure already keeps its own.
    fn adopt(error: anyhow::Error, exit: Exit) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => {
                let exit = first(&error).map_or(exit, Self::exit);
                Self {
                    exit,
                    message: error.to_string(),
                    hints: Vec::new(),
                    source: Some(Cause::Same(error.into())),
                }
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.source.as_ref()? {
            Cause::Below(error) => Some(error.as_ref()),
            Cause::Same(error) => error.source(),
        }
    }
}

/// Attaches an exit code or a hint to whatever error a `Result` carries.
pub trait OrExit<T> {
    /// Gives the error an exit code; an error that has one keeps it.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;

    /// Adds a hint to the error, which becomes a [`Failure`] with exit code 1 unless it has one.
    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::adopt(error.into(), exit))
    }

    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> Result<T, Failure> {
        self.map_err(|error| Failure::adopt(error.into(), Exit::Failed).hint(hint()))
    }
}

/// Runs a tool and ends the process for it: prints the error, if any, on stderr and picks the exit
/// code.
///
/// - A reader of stdout that went away (`tool list | head`) ends the run quietly with 0.
/// - clap's own errors (help, version, usage) are printed by clap, with its exit codes 0 and 2.
/// - A panic is named as a bug, with its place, and exits with 70.
pub fn main(run: impl FnOnce() -> anyhow::Result<Exit>) -> ExitCode {
    panic::set_hook(Box::new(print_panic));
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => fail(&error).into(),
        Err(_panic) => Exit::Internal.into(), // the hook has printed it
    }
}

fn fail(error: &anyhow::Error) -> Exit {
    if output::is_closed_pipe(error) {
        return Exit::Done;
    }
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Nobody is left to tell when stderr is closed.
        let _ = usage.print();
        return if usage.use_stderr() {
            Exit::Usage
        } else {
            Exit::Done
        };
    }
    let text = render(error, terminal::choice().on(Stream::Stderr));
    let _ = io::stderr().write_all(text.as_bytes());
    exit_of(error)
}

/// The exit code that an error asks for: its first [`Failure`]'s, else [`Exit::Failed`].
pub fn exit_of(error: &anyhow::Error) -> Exit {
    first(error).map_or(Exit::Failed, Failure::exit)
}

fn first(error: &anyhow::Error) -> Option<&Failure> {
    // `downcast_ref` also finds a failure that was attached as a context, which `chain` hides in a
    // private type.
    failures(error).next().or_else(|| error.downcast_ref())
}

fn failures(error: &anyhow::Error) -> impl Iterator<Item = &Failure> {
    error
        .chain()
        .filter_map(|error| error.downcast_ref::<Failure>())
}

/// The text of an error: message, causes, hints; each line ends in a line feed.
///
/// Further lines of a message are indented under the first. A cause that only repeats the line
/// above is left out, as many libraries print their source within their own message.
pub fn render(error: &anyhow::Error, color: bool) -> String {
    let mut text = String::new();
    let mut above = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let message = cause.to_string();
        if depth > 0 && above.contains(&message) {
            continue;
        }
        let label = if depth == 0 {
            Label::Error
        } else {
            Label::Cause
        };
        label.line(&message, color, &mut text);
        above = message;
    }
    let mut hints: Vec<&String> = Vec::new();
    for hint in failures(error)
        .chain(error.downcast_ref())
        .flat_map(Failure::hints)
    {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    for hint in hints {
        Label::Hint.line(hint, color, &mut text);
    }
    text
}

#[derive(Clone, Copy)]
enum Label {
    Error,
    Cause,
    Hint,
}

impl Label {
    fn line(self, message: &str, color: bool, text: &mut String) {
        let (indent, word, ansi) = match self {
            Self::Error => ("", "error:", "\x1b[1;31m"),
            Self::Cause => ("  ", "caused by:", "\x1b[1m"),
            Self::Hint => ("  ", "hint:", "\x1b[1;36m"),
        };
        let mut lines = message.trim_end().lines();
        text.push_str(indent);
        if color {
            text.extend([ansi, word, "\x1b[0m"]);
        } else {
            text.push_str(word);
        }
        text.extend([" ", lines.next().unwrap_or_default(), "\n"]);
        for line in lines {
            text.extend([indent, "    ", line, "\n"]);
        }
    }
}

fn print_panic(info: &panic::PanicHookInfo<'_>) {
    let said = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string);
    let text = render_panic(
        said,
        place.as_deref(),
        terminal::choice().on(Stream::Stderr),
    );
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        let _ = writeln!(stderr, "{backtrace}");
    }
}

fn render_panic(said: &str, place: Option<&str>, color: bool) -> String {
    let mut text = String::new();
    Label::Error.line(
        &format!("internal error, which is a bug: {said}"),
        color,
        &mut text,
    );
    Label::Cause.line(
        &format!("panic at {}", place.unwrap_or("an unknown place")),
        color,
        &mut text,
    );
    Label::Hint.line(
        "run again with RUST_BACKTRACE=1 and report what it prints",
        color,
        &mut text,
    );
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn refused() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")
    }

    #[test]
    fn a_failure_shows_message_cause_and_hints_in_this_order() {
        let failure = Failure::new(Exit::Unreachable, "cannot reach the hub at 127.0.0.1:8080")
            .caused_by(refused())
            .hint("start it with `overseerctl serve`")
            .hint("or name another one with --url");
        assert_eq!(
            render(&failure.into(), false),
            "error: cannot reach the hub at 127.0.0.1:8080\n  caused by: connection refused\n  \
             hint: start it with `overseerctl serve`\n  hint: or name another one with --url\n"
        );
    }

    #[test]
    fn colour_paints_the_labels_only() {
        let failure = Failure::new(Exit::Failed, "no").hint("yes");
        assert_eq!(
            render(&failure.into(), true),
            "\x1b[1;31merror:\x1b[0m no\n  \x1b[1;36mhint:\x1b[0m yes\n"
        );
    }

    #[test]
    fn further_lines_are_indented_under_the_first() {
        let failure = Failure::new(Exit::Failed, "two things\nfirst\nsecond\n");
        assert_eq!(
            render(&failure.into(), false),
            "error: two things\n    first\n    second\n"
        );
    }

    #[test]
    fn a_cause_that_repeats_its_parent_is_left_out() {
        let error = anyhow::Error::from(refused()).context("dial failed: connection refused");
        assert_eq!(
            render(&error, false),
            "error: dial failed: connection refused\n"
        );
    }

    #[test]
    fn the_outermost_failure_sets_the_exit_code_and_all_hints_show() {
        let inner = Failure::new(Exit::NotFound, "no file").hint("make one");
        let outer = Failure::new(Exit::Config, "no configuration")
            .hint("look again")
            .caused_by(inner);
        let error = anyhow::Error::from(outer).context("starting");
        assert_eq!(exit_of(&error), Exit::Config);
        assert!(render(&error, false).ends_with("  hint: look again\n  hint: make one\n"));
    }

    #[test]
    fn a_failure_below_contexts_is_found() {
        let error: anyhow::Error = Err::<(), _>(Failure::new(Exit::NotFound, "no task `x`"))
            .context("logs")
            .unwrap_err();
        assert_eq!(exit_of(&error), Exit::NotFound);
    }

    #[test]
    fn a_failure_used_as_a_context_is_found_with_its_hints() {
        let error: anyhow::Error = Err::<(), _>(refused())
            .context(Failure::new(Exit::Unreachable, "no hub").hint("start it"))
            .unwrap_err();
        assert_eq!(exit_of(&error), Exit::Unreachable);
        assert_eq!(
            render(&error, false),
            "error: no hub\n  caused by: connection refused\n  hint: start it\n"
        );
    }

    #[test]
    fn an_error_without_a_failure_exits_with_1() {
        assert_eq!(exit_of(&anyhow::Error::from(refused())), Exit::Failed);
    }

    #[test]
    fn or_exit_keeps_the_causes_and_does_not_repeat_the_message() {
        let error = anyhow::Error::from(refused()).context("dial");
        let failure = Err::<(), _>(error).or_exit(Exit::Unreachable).unwrap_err();
        assert_eq!(failure.exit(), Exit::Unreachable);
        assert_eq!(
            render(&failure.into(), false),
            "error: dial\n  caused by: connection refused\n"
        );
    }

    #[test]
    fn or_exit_leaves_a_failure_its_own_code() {
        let failure = Err::<(), _>(Failure::new(Exit::Config, "bad"))
            .or_exit(Exit::Unreachable)
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Config);
        let wrapped = anyhow::Error::from(failure).context("loading");
        assert_eq!(
            Err::<(), _>(wrapped)
                .or_exit(Exit::Failed)
                .unwrap_err()
                .exit(),
            Exit::Config
        );
    }

    #[test]
    fn a_hint_can_be_added_to_any_result() {
        let failure = Err::<(), _>(refused())
            .hint(|| "is it running?")
            .unwrap_err();
        assert_eq!(
            (failure.exit(), failure.hints()),
            (Exit::Failed, &["is it running?".to_owned()][..])
        );
    }

    #[test]
    fn a_panic_is_named_as_a_bug_with_its_place() {
        let text = render_panic("index 3 out of range", Some("src/pool.rs:10:5"), false);
        assert!(
            text.starts_with("error: internal error, which is a bug: index 3 out of range\n"),
            "{text}"
        );
        assert!(text.contains("panic at src/pool.rs:10:5"), "{text}");
    }
}
