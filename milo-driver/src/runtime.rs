//! The seam to what makes containers: a few verbs, their contract, and how one call of a runtime's program is carried out.
//! When a verb is due is decided by the [`shim`](crate::shim); what a container is made of, by its bundle.
//!
//! # Contract
//!
//! - `create` leaves a container whose first process waits, with the given stdio, and whose program has not begun. When it
//!   fails, `delete` removes what it left behind.
//! - `start` lets the program begin. The first process keeps its pid.
//! - The first process is a descendant of the caller: a caller that is a child subreaper can wait for it.
//! - `delete` also works on what runs, and on what is not there any more. It removes the container's cgroup, and with it
//!   the evidence of an OOM kill: whoever wants that reads it before.
//! - No verb takes for ever: a call that does is killed, and is an error.

pub mod apart;
pub mod crun;
pub mod fake;

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

pub use apart::Apart;
pub use crun::Crun;
pub use fake::Fake;

use crate::bundle::sources::Held;

/// What makes containers.
pub trait Runtime {
    /// Makes a container and answers with the pid of its first process, as the caller sees it.
    fn create(&self, create: Create<'_>) -> Result<i32, RuntimeError>;

    /// [`create`](Self::create) and [`start`](Self::start) in one step, which is faster: for a caller that needs to know
    /// nothing of a program before it runs.
    fn run(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        let id = create.id;
        let pid = self.create(create)?;
        self.start(id)?;
        Ok(pid)
    }

    /// Lets the program begin.
    fn start(&self, id: &str) -> Result<(), RuntimeError>;

    /// Sends a signal to every process of the container.
    fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError>;

    /// Removes the container, whatever state it is in. One that does not exist is no error.
    fn delete(&self, id: &str) -> Result<(), RuntimeError>;

    /// What the runtime believes about the container; `None` when it knows none of this name.
    fn status(&self, id: &str) -> Result<Option<Status>, RuntimeError>;

    /// The command that runs one more process in the container, in the foreground: it ends when that process does, and
    /// with its exit code. The caller adds stdio and starts it.
    fn exec(&self, exec: &Exec<'_>) -> Command;

    /// Nothing may be asked for a long time: what is kept for the next call is given up.
    fn rest(&self) {}
}

/// What [`Runtime::create`] is given.
#[derive(Debug)]
pub struct Create<'a> {
    /// The container's name.
    pub id: &'a str,
    /// The folder with `config.json`.
    pub bundle: &'a Path,
    /// Where the runtime writes the first process' pid.
    pub pid_file: &'a Path,
    /// Where the runtime appends what it has to say, because the program's stderr is not its own.
    pub log: &'a Path,
    /// What the bundle mounts of folders that others could swap meanwhile.
    pub sources: Vec<Held>,
    /// The program's stdin, stdout and stderr.
    pub stdio: [OwnedFd; 3],
}

/// What [`Runtime::exec`] is given.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's name.
    pub id: &'a str,
    /// A file with the process in the runtime specification's JSON (`process`).
    pub process: &'a Path,
    /// Where the new process' pid on the host is written.
    pub pid_file: &'a Path,
    /// The socket that gets the terminal's end, if `process` asks for a terminal.
    pub console_socket: Option<&'a Path>,
}

/// What a runtime believes about a container (OCI runtime specification, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its program has not begun.
    Created,
    /// Its program runs (or is paused).
    Running,
    /// It has ended.
    Stopped,
}

/// A verb that failed, with the runtime's own words: the last line first, because that one says what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{program} {verb}: {words}")]
pub struct RuntimeError {
    /// The runtime's name, as a user knows it.
    pub program: &'static str,
    /// The verb.
    pub verb: &'static str,
    /// What it said.
    pub words: String,
}

/// How much of a program's stderr is kept: its end.
const KEPT: usize = 8 * 1024;

/// A program's run.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The end of what it wrote to stderr, or nothing when that went elsewhere.
    pub(crate) stderr: Vec<u8>,
    /// Whether it was killed for taking too long.
    pub(crate) late: bool,
}

/// Runs a command to its end, at most until `patience` is over; then it is killed. Its stdin and stdout are `/dev/null`
/// and its stderr is kept unless the command has them already.
///
/// Children of the command that live on and hold its stderr are not waited for.
pub(crate) fn run(command: &mut Command, patience: Duration) -> io::Result<Finished> {
    let mut child = command.spawn()?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let watched = ended
        .map_err(io::Error::from)
        .and_then(|ended| watch(&mut child, &ended, patience));
    if !matches!(watched, Ok((_, false))) {
        // It is still ours: not waited for yet, so its pid is its own.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let (stderr, late) = watched?;
    Ok(Finished {
        status,
        stderr,
        late,
    })
}

/// A command that shares nothing with its caller: no environment, no stdin, no stdout; its stderr is a pipe.
pub(crate) fn alone(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Reads a child's stderr until the child has ended; the flag is set when it did not in time.
fn watch(child: &mut Child, ended: &OwnedFd, patience: Duration) -> io::Result<(Vec<u8>, bool)> {
    let deadline = Instant::now() + patience;
    let mut kept = Vec::new();
    let mut stderr = child.stderr.take();
    if let Some(stderr) = &stderr {
        rustix::io::ioctl_fionbio(stderr, true)?;
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((kept, true));
        }
        let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
        if let Some(stderr) = &stderr {
            fds.push(PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN));
        }
        wait(&mut fds, Some(left))?;
        let is_over = !fds[0].revents().is_empty();
        if stderr
            .as_mut()
            .is_some_and(|stderr| take(stderr, &mut kept))
        {
            stderr = None;
        }
        if is_over {
            return Ok((kept, false));
        }
    }
}

/// Takes what there is to read, keeping the end of all; says whether there will be no more.
fn take(source: &mut impl Read, kept: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 1024];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return true,
            Ok(count) => {
                kept.extend_from_slice(&chunk[..count]);
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Waits for any of `fds`, at most so long; being interrupted counts as waiting for nothing.
pub(crate) fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a caller whose deadline is less than a tick away does not spin.
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    match poll(fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A program's words as an error shows them: its last line, then what came before.
pub(crate) fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(KEPT)..]);
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.retain(|line| !line.is_empty());
    lines.dedup();
    lines.reverse();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = alone(Path::new("/bin/sh"));
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_last_line_comes_first() {
        assert_eq!(words(b"one\ntwo\n\nthree\n"), "three\ntwo\none");
        assert_eq!(words(b""), "");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let patience = Duration::from_millis(20);
        let finished = run(&mut shell("exec sleep 1000"), patience).unwrap();
        assert!(finished.late);
        assert!(!finished.status.success());
    }

    #[test]
    fn only_the_end_of_much_output_is_kept() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789 >&2; i=$((i+1)); done; echo last >&2; exit 3";
        let finished = run(&mut shell(script), Duration::from_mins(1)).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stderr.len(), KEPT);
        assert!(words(&finished.stderr).starts_with("last\n"));
    }

    #[test]
    fn a_grandchild_that_holds_stderr_is_not_waited_for() {
        let patience = Duration::from_mins(1);
        let began = Instant::now();
        let finished = run(&mut shell("sleep 5 & echo done >&2"), patience).unwrap();
        assert!(!finished.late);
        assert_eq!(words(&finished.stderr), "done");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
