//! What is seen of a job while it goes on: a bar on a terminal, plain lines with the phase before each elsewhere, nothing if that
//! is wanted, and events for programs. All of it on standard error; the answer is [`super::answer`]'s.

mod events;

use std::{
    borrow::Cow,
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use jiff::Timestamp;
use runyard_common::{
    duration,
    exit::Exit,
    progress::{Progress, Task},
    report::Failure,
    terminal,
};

use self::events::{Event, Events};
use crate::{
    api::{StatusAnswer, StreamMessage},
    job::{JobId, State},
    logs::{Cursor, Line, Stream},
    phase::{Phase, Run},
    service::JobView,
};

/// After how long without a word a plain display says that it still waits.
const SILENCE: Duration = Duration::from_secs(15);

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Style {
    /// A bar on a terminal, lines elsewhere
    #[default]
    Auto,
    /// A bar; refused without a terminal
    Tty,
    /// Lines, with a heartbeat
    Plain,
    /// A JSON object in each line, for programs
    Ndjson,
    /// Nothing
    Quiet,
}

/// A display of one job. What it cannot write is no reason to stop.
pub(super) struct Screen {
    form: Form,
    began: Instant,
    /// When something was last written.
    spoke: Instant,
    /// What was last said of the job.
    status: String,
    /// Whose line goes on.
    open: Option<(Run, Stream)>,
}

enum Form {
    Bar {
        progress: Progress,
        task: Option<Task>,
        step: String,
    },
    Plain(Box<dyn Write + Send>),
    Events(Events),
    Quiet,
}

impl Screen {
    /// A display on standard error.
    pub(super) fn new(style: Style, bars: bool) -> Result<Self, Failure> {
        let is_terminal = terminal::Stream::Stderr.is_terminal();
        let form = match style {
            Style::Tty if !is_terminal => {
                return Err(Failure::new(
                    Exit::Usage,
                    "--progress tty needs a terminal on standard error",
                ));
            }
            Style::Tty => Self::bar(),
            Style::Auto if is_terminal && bars => Self::bar(),
            Style::Auto | Style::Plain => Form::Plain(Box::new(io::stderr())),
            Style::Ndjson => Form::Events(Events::to(io::stderr())),
            Style::Quiet => Form::Quiet,
        };
        Ok(Self::of(form))
    }

    fn bar() -> Form {
        Form::Bar {
            progress: Progress::new(true),
            task: None,
            step: String::new(),
        }
    }

    fn of(form: Form) -> Self {
        let now = Instant::now();
        Self {
            form,
            began: now,
            spoke: now,
            status: String::new(),
            open: None,
        }
    }

    /// The job has a name.
    pub(super) fn accepted(&mut self, id: JobId, place: &str) {
        if let Form::Events(events) = &mut self.form {
            return events.tell(&Event::Accepted { job_id: id, place });
        }
        self.write(&format!("job {id} at {place}\n"));
    }

    /// Something that is no line of the log.
    pub(super) fn note(&mut self, text: &str) {
        if let Form::Events(events) = &mut self.form {
            let message = text.trim_start_matches("== ");
            return events.tell(&Event::Note { message });
        }
        self.write(&format!("{text}\n"));
    }

    /// A line of the log of job `id`, and the cursor behind it.
    pub(super) fn line(&mut self, id: JobId, line: &Line, cursor: &Cursor) {
        if let Form::Events(events) = &mut self.form {
            let message = StreamMessage::of(id, line, cursor, Timestamp::now());
            return events.tell(&Event::Line(message));
        }
        if let Form::Bar { step, .. } = &mut self.form
            && line.stream != Stream::System
            && line.text.starts_with("STEP ")
        {
            line.text.clone_into(step);
        }
        let text = self.laid_out(line);
        self.write_raw(&text);
        self.refresh();
    }

    /// The line with its run before it; a part that goes on is joined to the one before.
    fn laid_out(&mut self, line: &Line) -> String {
        let whose = (line.run, line.stream);
        let text = printable(&line.text);
        let mut out = String::new();
        if self.open != Some(whose) {
            if self.open.is_some() {
                out.push('\n');
            }
            out.push_str(&prefixed(line, ""));
        }
        out.push_str(match line.stream {
            Stream::System => without_run(&text, line.run),
            Stream::Stdout | Stream::Stderr => &text,
        });
        self.open = line.partial.then_some(whose);
        if !line.partial {
            out.push('\n');
        }
        out
    }

    /// The job as it is now.
    pub(super) fn status(&mut self, view: &JobView) {
        let status = described(view);
        if status == self.status {
            return;
        }
        self.status = status;
        if let Form::Events(events) = &mut self.form {
            return events.tell(&Event::status(view));
        }
        if let Form::Bar {
            progress,
            task,
            step,
        } = &mut self.form
        {
            let (done, all) = phases(view);
            step.clear();
            task.get_or_insert_with(|| progress.bar(all, "")).set(done);
            self.refresh();
        } else {
            self.write(&format!("== {}\n", self.status));
        }
    }

    fn refresh(&mut self) {
        if let Form::Bar {
            task: Some(task),
            step,
            ..
        } = &self.form
        {
            let joint = if step.is_empty() { "" } else { " · " };
            task.message(format!("{}{joint}{step}", self.status));
        }
    }

    /// Time passes.
    pub(super) fn beat(&mut self) {
        if let Form::Events(events) = &mut self.form {
            let seconds = self.began.elapsed().as_secs();
            return events.beat(&Event::Heartbeat { seconds }, SILENCE);
        }
        if matches!(self.form, Form::Plain(_)) && self.spoke.elapsed() >= SILENCE {
            let elapsed = self.elapsed();
            self.write(&format!("== {} (still, {elapsed})\n", self.status));
        }
    }

    /// The job has ended: the last word.
    pub(super) fn ended(&mut self, view: &JobView) {
        let elapsed = self.elapsed();
        let state = view.job.state;
        self.close_line();
        match &mut self.form {
            Form::Bar { progress, task, .. } => {
                let task = task.take().unwrap_or_else(|| progress.spinner(""));
                match state {
                    State::Succeeded => task.done(format!("{state} after {elapsed}")),
                    _ => task.fail(format!("{state} after {elapsed}")),
                }
            }
            Form::Plain(_) => self.write(&format!("== {state} after {elapsed}\n")),
            Form::Events(events) => {
                let seconds = self.began.elapsed().as_secs();
                events.tell(&Event::ended(view, seconds));
            }
            Form::Quiet => {}
        }
    }

    /// Nobody looks any more; what is left to say is said.
    pub(super) fn left(&mut self, lines: &[String]) {
        if let Form::Bar { task, .. } = &mut self.form {
            drop(task.take());
        }
        if let Form::Events(events) = &mut self.form {
            let message = &lines.join("\n");
            return events.tell(&Event::Left { message });
        }
        if matches!(self.form, Form::Quiet) {
            self.form = Form::Plain(Box::new(io::stderr()));
        }
        self.write(&format!("{}\n", lines.join("\n")));
    }

    fn elapsed(&self) -> String {
        duration::format(Duration::from_secs(self.began.elapsed().as_secs()))
    }

    fn close_line(&mut self) {
        if self.open.take().is_some() {
            self.write_raw("\n");
        }
    }

    fn write(&mut self, text: &str) {
        self.close_line();
        self.write_raw(text);
    }

    fn write_raw(&mut self, text: &str) {
        self.spoke = Instant::now();
        // Nobody reads any more if this fails, and the job goes on.
        let _ = match &mut self.form {
            Form::Bar { progress, .. } => {
                progress.suspend(|| io::stderr().lock().write_all(text.as_bytes()))
            }
            Form::Plain(out) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            Form::Events(_) | Form::Quiet => Ok(()),
        };
    }
}

/// How far a job is, in a line.
fn described(view: &JobView) -> String {
    let answer = StatusAnswer::from(view);
    let mut text = answer.status.to_string();
    if let Some(reason) = answer.more.waiting_for {
        text.push_str(": waits, ");
        text.push_str(&printable(&reason));
    }
    text
}

/// How many of its phases are done, and how many there are.
fn phases(view: &JobView) -> (u64, u64) {
    let config = &view.job.config;
    let is_tested = config
        .test
        .as_ref()
        .is_some_and(|test| test.entry_point || !test.commands.is_empty());
    let all = if is_tested { 3 } else { 2 };
    let done = match view.job.state {
        State::Pending | State::Building | State::Failed => 0,
        State::Testing => 1,
        State::Publishing => all - 1,
        State::Succeeded => all,
    };
    (done, all)
}

/// `[build] ` and what follows.
pub(super) fn prefixed(line: &Line, text: &str) -> String {
    format!("[{}] {text}", line.run)
}

/// What buildctl itself says begins with its phase or run, which the prefix says already.
fn without_run(text: &str, run: Run) -> &str {
    let names = [
        run.phase().map(Phase::name).map(str::to_owned),
        Some(run.to_string()),
    ];
    let rest = |name: String| text.strip_prefix(&*name)?.strip_prefix(": ");
    names.into_iter().flatten().find_map(rest).unwrap_or(text)
}

/// A text without what would move a terminal's cursor or change its state. Tabs and colours stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\t') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = colour(rest) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        } else {
            let mut chars = rest.chars();
            if let Some(c) = chars.next().filter(|c| *c != '\r') {
                out.extend(c.escape_default());
            }
            rest = chars.as_str();
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The length of a colour that a text begins with: `ESC [ 1 ; 31 m`.
fn colour(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    body[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runyard_common::testing::Paper;

    use super::*;
    use crate::{api::JobConfig, job::Job};

    fn line(run: Run, stream: Stream, text: &str, partial: bool) -> Line {
        Line {
            run,
            stream,
            time: None,
            text: text.to_owned(),
            partial,
        }
    }

    fn plain() -> (Screen, Paper) {
        let paper = Paper::default();
        (Screen::of(Form::Plain(Box::new(paper.clone()))), paper)
    }

    fn say(screen: &mut Screen, line: &Line) {
        screen.line(JobId::random(), line, &Cursor::default());
    }

    fn view(state: State) -> JobView {
        let now = Timestamp::constant(1_763_000_000, 0);
        let mut job = Job::new(JobId::random(), JobConfig::default(), now);
        job.state = state;
        job.claimed = true;
        JobView::of(job)
    }

    #[test]
    fn plain_lines_say_whose_they_are() {
        let (mut screen, paper) = plain();
        screen.status(&view(State::Building));
        screen.status(&view(State::Building));
        say(
            &mut screen,
            &line(Run::Build, Stream::System, "build: git fetch", false),
        );
        say(
            &mut screen,
            &line(Run::Build, Stream::Stdout, "STEP 1/2", false),
        );
        say(
            &mut screen,
            &line(Run::TestCommand(1), Stream::Stderr, "ouch", false),
        );
        say(
            &mut screen,
            &line(
                Run::TestCommand(1),
                Stream::System,
                "test-cmd-1: failed",
                false,
            ),
        );
        assert_eq!(
            paper.text(),
            "== BUILDING\n[build] git fetch\n[build] STEP 1/2\n[test-cmd-1] ouch\n[test-cmd-1] failed\n"
        );
    }

    #[test]
    fn parts_of_a_line_are_joined_unless_somebody_else_speaks() {
        let (mut screen, paper) = plain();
        say(&mut screen, &line(Run::Build, Stream::Stdout, "aa", true));
        say(&mut screen, &line(Run::Build, Stream::Stdout, "bb", true));
        say(&mut screen, &line(Run::Build, Stream::Stderr, "e", false));
        say(&mut screen, &line(Run::Build, Stream::Stdout, "cc", true));
        screen.note("n");
        assert_eq!(paper.text(), "[build] aabb\n[build] e\n[build] cc\nn\n");
    }

    #[test]
    fn silence_is_broken_and_speech_is_not() {
        let (mut screen, paper) = plain();
        screen.status(&view(State::Testing));
        screen.beat();
        assert_eq!(paper.text(), "== TESTING\n");
        screen.spoke = Instant::now().checked_sub(SILENCE).unwrap();
        screen.beat();
        screen.beat();
        assert_eq!(paper.text(), "== TESTING\n== TESTING (still, 0s)\n");
        assert!(SILENCE < Duration::from_secs(30));
    }

    #[test]
    fn what_a_build_prints_cannot_play_with_the_terminal() {
        assert_eq!(printable("a\tb"), "a\tb");
        assert_eq!(printable("\x1b[1;31mred\x1b[0m"), "\x1b[1;31mred\x1b[0m");
        assert_eq!(printable("50%\r100%"), "50%100%");
        assert_eq!(
            printable("\x1b[2J\x1b]0;x\x07"),
            "\\u{1b}[2J\\u{1b}]0;x\\u{7}"
        );
        assert_eq!(printable("\u{9b}2J"), "\\u{9b}2J");
    }

    #[test]
    fn a_bar_has_a_step_for_each_phase() {
        assert_eq!(phases(&view(State::Building)), (0, 2));
        assert_eq!(phases(&view(State::Publishing)), (1, 2));
        assert_eq!(phases(&view(State::Succeeded)), (2, 2));
    }
}
