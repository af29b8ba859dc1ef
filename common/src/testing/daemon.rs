//! A daemon as a real process: started, waited for by what it says, signalled, and never left
//! behind.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::patience;
use super::process::wait;

/// A running daemon. It is killed when this is dropped; if the test fails, all that the daemon said
/// is shown.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    said: Arc<Said>,
    command: String,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts a daemon and reads its stdout and stderr until `announced` finds what it looks for in
    /// a line, usually the address that it listens on.
    ///
    /// ```no_run
    /// # use std::process::Command;
    /// # use runyard_common::testing::{Daemon, tool_binary};
    /// let mut command = Command::new(tool_binary("overseerctl"));
    /// command.args(["serve", "--listen", "127.0.0.1:0"]);
    /// let address = |line: &str| Some(line.split_once("address=")?.1.to_owned());
    /// let (daemon, address) = Daemon::start(command, address);
    /// ```
    ///
    /// # Panics
    ///
    /// When the daemon ends or the [`patience`] is over before that line, showing what it said.
    pub fn start<T>(mut command: Command, announced: impl Fn(&str) -> Option<T>) -> (Self, T) {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let said = Arc::new(Said::default());
        said.listen("out", child.stdout.take());
        said.listen("err", child.stderr.take());
        let daemon = Self {
            child,
            said,
            command: format!("{command:?}"),
            ended: None,
        };
        let announcement = daemon.wait_for_line(announced);
        (daemon, announcement)
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far, each with `out` or `err` before it.
    pub fn output(&self) -> String {
        self.said.text()
    }

    /// Waits until `find` finds what it looks for in a line, said before or from now on.
    ///
    /// # Panics
    ///
    /// When the daemon ends or the [`patience`] is over before that line, showing what it said.
    #[track_caller]
    pub fn wait_for_line<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        match self.said.find(find, patience()) {
            Ok(found) => found,
            Err(why) => panic!(
                "{why} before {} said what it should; it said:\n{}",
                self.command,
                self.output()
            ),
        }
    }

    /// Asks the daemon to end: SIGTERM.
    #[cfg(unix)]
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Asks the daemon to end as Ctrl-C does: SIGINT.
    #[cfg(unix)]
    pub fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    /// Sends any signal; nothing happens when the daemon has been collected.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        if self.ended.is_none() {
            // A daemon that ended meanwhile is still uncollected, so that the id is still its own.
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&self.child),
                signal,
            );
        }
    }

    /// Ends the daemon at once: SIGKILL. Its end is still to be [waited for](Self::wait).
    pub fn kill(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
    }

    /// Waits for the end of the daemon.
    ///
    /// # Panics
    ///
    /// When it does not end within the deadline, showing what it said.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        self.ended = wait(&mut self.child, deadline);
        match self.ended {
            Some(status) => {
                // Grandchildren may hold the pipes open: what the daemon itself said is read by
                // then or soon after.
                self.said.until_closed(Duration::from_secs(1));
                status
            }
            None => panic!(
                "{} did not end within {deadline:?}; it said:\n{}",
                self.command,
                self.output()
            ),
        }
    }

    /// Asks the daemon to end and waits for it.
    #[cfg(unix)]
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait(patience())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            // The test harness shows it with the failed test.
            let _ = writeln!(
                std::io::stderr(),
                "--- {} said:\n{}",
                self.command,
                self.output()
            );
        }
    }
}

/// What a daemon said, line by line, and whether it can still say more.
#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<(&'static str, String)>,
    open: usize,
}

impl Said {
    fn listen(self: &Arc<Self>, stream: &'static str, pipe: Option<impl Read + Send + 'static>) {
        let Some(pipe) = pipe else { return };
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open += 1;
        let said = self.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned();
                said.change(|lines| lines.lines.push((stream, text)));
                line.clear();
            }
            said.change(|lines| lines.open -= 1);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Looks through the lines, waiting for more until there can be none.
    fn find<T>(
        &self,
        find: impl Fn(&str) -> Option<T>,
        patience: Duration,
    ) -> Result<T, &'static str> {
        let started = Instant::now();
        let mut seen = 0;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = lines.lines[seen..].iter().find_map(|(_, line)| find(line)) {
                return Ok(found);
            }
            seen = lines.lines.len();
            if lines.open == 0 {
                return Err("the end came");
            }
            let left = patience
                .checked_sub(started.elapsed())
                .ok_or("time ran out")?;
            lines = self
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn until_closed(&self, patience: Duration) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Both outcomes are fine: what is not read by then is not shown.
        let _ = self
            .changed
            .wait_timeout_while(lines, patience, |lines| lines.open > 0);
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .lines
            .iter()
            .fold(String::new(), |mut text, (stream, line)| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{stream} {line}");
                text
            })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::is_alive;
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn ready(line: &str) -> Option<u16> {
        line.strip_prefix("listening on ")?.parse().ok()
    }

    #[test]
    fn a_daemon_is_ready_when_it_says_so_on_either_stream() {
        for stream in ["1", "2"] {
            let (mut daemon, port) = Daemon::start(
                sh(&format!(
                    "echo hm; echo listening on 80 >&{stream}; exec cat /dev/zero >/dev/null"
                )),
                ready,
            );
            assert_eq!(port, 80);
            assert!(is_alive(daemon.pid()));
            assert_eq!(daemon.stop().signal(), Some(15));
            assert!(!is_alive(daemon.pid()));
        }
    }

    #[test]
    fn what_was_said_before_the_end_is_kept() {
        let (mut daemon, _) = Daemon::start(sh("echo listening on 1; echo last words >&2"), ready);
        assert_eq!(daemon.wait(patience()).code(), Some(0));
        assert!(
            daemon.output().contains("err last words\n"),
            "{}",
            daemon.output()
        );
    }

    #[test]
    #[should_panic(expected = "out sorry\n")]
    fn a_daemon_that_ends_too_early_fails_the_test_with_its_words() {
        let _ = Daemon::start(sh("echo sorry"), ready);
    }

    #[test]
    fn a_dropped_daemon_is_gone() {
        let (daemon, _) = Daemon::start(
            sh("echo listening on 1; exec cat /dev/zero >/dev/null"),
            ready,
        );
        let pid = daemon.pid();
        drop(daemon);
        assert!(!is_alive(pid));
    }
}
