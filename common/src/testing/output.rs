//! A command that ran to its end, with all that it said.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::patience;
use super::process::wait;
use crate::exit::Exit;

/// What a command left behind: code, stdout and stderr together, as one snapshot shows them.
#[must_use = "check the code, or compare the whole output"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code as a shell sees it: 128+n when signal n ended the command.
    pub code: u8,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end, with nothing on stdin.
    pub fn of(command: &mut Command) -> Self {
        Self::with_input(command, "")
    }

    /// Runs a command to its end, with `input` on stdin.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or does not end within the [`patience`]; it is killed then.
    pub fn with_input(command: &mut Command, input: &str) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        feed(&mut child, input.to_owned());
        let status = wait(&mut child, patience());
        let killed = status.is_none();
        let status = status.unwrap_or_else(|| {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            child.wait().expect("the status of a killed child")
        });
        let text =
            |thread: thread::JoinHandle<String>| thread.join().expect("the end of the output");
        let output = Self {
            code: Exit::from_status(status).code(),
            stdout: text(stdout),
            stderr: text(stderr),
        };
        assert!(
            !killed,
            "{command:?} did not end within {:?}:\n{output}",
            patience()
        );
        output
    }

    /// Asserts that the command did what it was asked, and returns its stdout.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{self}");
        self.stdout
    }

    /// Asserts the exit code, and returns stderr.
    #[track_caller]
    pub fn failure(self, exit: Exit) -> String {
        assert_eq!(
            self.code,
            exit.code(),
            "the command should have ended with {exit:?}:\n{self}"
        );
        self.stderr
    }
}

/// Reads to the end beside the test: a full pipe would stop the command.
fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn feed(child: &mut Child, input: String) {
    if let Some(mut stdin) = child.stdin.take() {
        // A command that reads nothing closes the pipe, which is no concern of the test.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code: {}", self.code)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            writeln!(f, "--- {name}")?;
            f.write_str(text)?;
            if !text.is_empty() && !text.ends_with('\n') {
                writeln!(f, "⏎ missing")?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_output_shows_all_there_is() {
        let output = Output::with_input(&mut sh("cat; printf no >&2; exit 3"), "in\n");
        assert_eq!(
            output.to_string(),
            "exit code: 3\n--- stdout\nin\n--- stderr\nno⏎ missing\n"
        );
        assert_eq!(output.failure(Exit::Child(3)), "no");
    }

    #[test]
    fn a_signal_is_128_plus_its_number() {
        assert_eq!(Output::of(&mut sh("kill -TERM $$")).code, 143);
    }

    #[test]
    fn more_output_than_a_pipe_holds_does_not_stop_the_command() {
        let output = Output::of(&mut sh(
            "head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2",
        ));
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (300_000, 300_000)
        );
        assert_eq!(output.success().len(), 300_000);
    }
}
