//! What a person sees while something takes long: bars and spinners on a terminal, plain lines
//! elsewhere. All of it on stderr, none of it part of the answer.
//!
//! Without a terminal (in a pipeline) or with `--no-progress` a task writes a line when it begins,
//! one at every heartbeat, so that nobody takes it for hung, and one when it ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::duration;
use crate::terminal::Stream;

/// How often a task without a terminal says that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Shows tasks. Clones share the screen.
#[derive(Clone)]
pub struct Progress(Display);

#[derive(Clone)]
enum Display {
    Bars(MultiProgress),
    Lines { sink: Sink, heartbeat: Duration },
}

type Sink = Arc<Mutex<dyn Write + Send>>;

impl Progress {
    /// Bars if `enabled` and stderr is a terminal, else lines.
    pub fn new(enabled: bool) -> Self {
        if enabled && Stream::Stderr.is_terminal() {
            Self(Display::Bars(MultiProgress::with_draw_target(
                ProgressDrawTarget::stderr(),
            )))
        } else {
            Self::lines(io::stderr(), HEARTBEAT)
        }
    }

    /// Lines into any writer, with a heartbeat of its own.
    pub fn lines(sink: impl Write + Send + 'static, heartbeat: Duration) -> Self {
        Self(Display::Lines {
            sink: Arc::new(Mutex::new(sink)),
            heartbeat,
        })
    }

    /// Begins a task whose length is not known.
    pub fn spinner(&self, message: impl Into<String>) -> Task {
        self.begin(message.into(), None)
    }

    /// Begins a task of `length` steps.
    pub fn bar(&self, length: u64, message: impl Into<String>) -> Task {
        self.begin(message.into(), Some(length))
    }

    /// Takes the bars off the screen while `write` writes to the terminal.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.0 {
            Display::Bars(screen) => screen.suspend(write),
            Display::Lines { .. } => write(),
        }
    }

    fn begin(&self, message: String, length: Option<u64>) -> Task {
        Task(match &self.0 {
            Display::Bars(screen) => Shown::Bar(screen.clone(), screen.add(bar(message, length))),
            Display::Lines { sink, heartbeat } => {
                Shown::Lines(Lines::begin(sink, *heartbeat, message, length))
            }
        })
    }
}

fn bar(message: String, length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{spinner} {msg} [{bar:30}] {pos}/{len} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    // The templates above are constants that parse; the default style is a fair stand-in.
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar
        .with_style(style.progress_chars("=> "))
        .with_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Something that takes long. Dropping it ends it without a word.
#[must_use = "a task that is dropped at once is never seen"]
pub struct Task(Shown);

enum Shown {
    Bar(MultiProgress, ProgressBar),
    Lines(Lines),
}

impl Task {
    /// Says how many steps are done.
    pub fn set(&self, position: u64) {
        match &self.0 {
            Shown::Bar(_, bar) => bar.set_position(position),
            Shown::Lines(lines) => lines.state.position.store(position, Ordering::Relaxed),
        }
    }

    /// Says that `by` more steps are done.
    pub fn inc(&self, by: u64) {
        match &self.0 {
            Shown::Bar(_, bar) => bar.inc(by),
            Shown::Lines(lines) => {
                lines.state.position.fetch_add(by, Ordering::Relaxed);
            }
        }
    }

    /// Says what is being done now.
    pub fn message(&self, message: impl Into<String>) {
        match &self.0 {
            Shown::Bar(_, bar) => bar.set_message(message.into()),
            Shown::Lines(lines) => lines.change(message.into()),
        }
    }

    /// Ends the task well, leaving one line.
    pub fn done(self, message: impl Into<String>) {
        self.end("✓ ", &message.into());
    }

    /// Ends the task badly, leaving one line. The error itself is [`crate::report`]'s to show.
    pub fn fail(self, message: impl Into<String>) {
        self.end("✗ ", &message.into());
    }

    fn end(self, mark: &str, message: &str) {
        match &self.0 {
            Shown::Bar(screen, bar) => {
                bar.finish_and_clear();
                // The line is for people only: a terminal that is gone needs none.
                let _ = screen.println(format!("{mark}{message}"));
            }
            Shown::Lines(lines) => lines.state.write(message),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Shown::Bar(_, bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A task as lines. Its heartbeat beats in a thread of its own and ends with the task.
struct Lines {
    state: Arc<State>,
    _alive: mpsc::Sender<()>,
}

struct State {
    sink: Sink,
    message: Mutex<String>,
    position: AtomicU64,
    length: Option<u64>,
    began: Instant,
}

impl Lines {
    fn begin(sink: &Sink, heartbeat: Duration, message: String, length: Option<u64>) -> Self {
        let state = Arc::new(State {
            sink: sink.clone(),
            message: Mutex::new(message),
            position: AtomicU64::new(0),
            length,
            began: Instant::now(),
        });
        state.write(&state.message());
        let (alive, ended) = mpsc::channel();
        let beating = state.clone();
        thread::spawn(move || {
            while ended.recv_timeout(heartbeat) == Err(RecvTimeoutError::Timeout) {
                beating.write(&beating.heartbeat(beating.began.elapsed()));
            }
        });
        Self {
            state,
            _alive: alive,
        }
    }

    fn change(&self, message: String) {
        let mut current = self
            .state
            .message
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *current != message {
            self.state.write(&message);
            *current = message;
        }
    }
}

impl State {
    fn message(&self) -> String {
        self.message
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn heartbeat(&self, elapsed: Duration) -> String {
        let elapsed = duration::format(Duration::from_secs(elapsed.as_secs()));
        let message = self.message();
        match self.length {
            Some(length) => {
                format!(
                    "{message} ({} of {length}, {elapsed})",
                    self.position.load(Ordering::Relaxed)
                )
            }
            None => format!("{message} (still running, {elapsed})"),
        }
    }

    fn write(&self, line: &str) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // Progress that nobody can read is no reason to stop the work.
        let _ = writeln!(sink, "{line}").and_then(|()| sink.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink whose lines can be waited for.
    struct Lined(mpsc::Sender<String>);

    impl Write for Lined {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(heartbeat: Duration) -> (Progress, impl Fn() -> String) {
        let (sender, receiver) = mpsc::channel();
        let next = move || {
            let mut line = String::new();
            while !line.ends_with('\n') {
                let part: String = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
                line.push_str(&part);
            }
            line
        };
        (Progress::lines(Lined(sender), heartbeat), next)
    }

    const NEVER: Duration = Duration::from_hours(1);

    #[test]
    fn without_a_terminal_a_task_is_a_line_at_each_change_and_end() {
        let (progress, next) = lines(NEVER);
        let task = progress.bar(3, "pulling");
        task.message("unpacking");
        task.message("unpacking");
        task.done("image ready");
        assert_eq!(
            [next(), next(), next()],
            ["pulling\n", "unpacking\n", "image ready\n"]
        );
    }

    #[test]
    fn a_heartbeat_tells_that_the_task_still_runs_and_how_far_it_is() {
        let (progress, next) = lines(Duration::from_millis(1));
        let task = progress.bar(3, "pulling");
        task.set(1);
        task.inc(1);
        assert_eq!(next(), "pulling\n");
        let beat = std::iter::repeat_with(&next)
            .find(|line| line.contains("2 of 3"))
            .unwrap();
        assert_eq!(beat, "pulling (2 of 3, 0s)\n");
        task.fail("no");
    }

    #[test]
    fn a_spinner_has_no_numbers() {
        let (progress, next) = lines(Duration::from_millis(1));
        let task = progress.spinner("waiting");
        assert_eq!(
            [next(), next()],
            ["waiting\n", "waiting (still running, 0s)\n"]
        );
        drop(task);
    }
}
