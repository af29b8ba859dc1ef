//! A place for processes that must not outlive the benchmark, however it ends: return, error, panic, Ctrl-C, SIGKILL.
//!
//! Every process started here carries a token in its environment, which its descendants inherit even when they leave
//! their process group or lose their parent. Cleaning up means ending every process that carries the token. A second
//! process, the guard, holds the read end of a pipe that this process never writes to: when the pipe closes, nobody is
//! left to clean up, and the guard does it.
//!
//! ```text
//! bench ──spawns──> daemon ──spawns──> tasks        (all carry the token)
//!   └──────pipe───> guard: end of file ──> ends all that carry it, removes the directory
//! ```

use std::fs;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

/// Name of the helper role: `--role guard TOKEN DIRECTORY`.
pub(super) const ROLE: &str = "guard";

/// Environment variable that holds the token.
const MARK: &str = "RUNYARD_BENCH_RUN";

/// How long processes may take to vanish after SIGKILL.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// Owns a token, a directory for scratch files, and the guard.
#[derive(Debug)]
pub(super) struct Sandbox {
    token: String,
    dir: PathBuf,
    program: PathBuf,
    guard: Child,
}

impl Sandbox {
    /// Creates the directory and starts the guard.
    ///
    /// # Errors
    ///
    /// A temporary directory that cannot be written, or a guard that does not start.
    pub(super) fn new() -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let token = format!("{}-{nanos}", std::process::id());
        let dir = std::env::temp_dir().join(format!("runyard-bench-{token}"));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Helpers run from a copy: a build that goes on meanwhile may replace the original.
        let program = dir.join("bench");
        fs::copy("/proc/self/exe", &program).context("cannot copy this program")?;
        let mut command = Command::new(&program);
        command.args(["bench", "--role", ROLE, &token]).arg(&dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        leave_process_group(&mut command);
        let guard = command.spawn().context("cannot start the guard process")?;
        Ok(Self {
            token,
            dir,
            program,
            guard,
        })
    }

    /// Directory for scratch files; removed at the end.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A copy of this program, to be run in one of its helper roles.
    pub(super) fn helper(&self) -> &Path {
        &self.program
    }

    /// A command whose process is ended with the sandbox. It gets a group of its own, no input, and a small
    /// environment that is the same on every machine: `PATH`, `TZ=UTC` and the token.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("TZ", "UTC")
            .env(MARK, &self.token)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        leave_process_group(&mut command);
        command
    }

    /// Ends every process that was started here and is still alive.
    pub(super) fn sweep(&self) {
        sweep(&self.token);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Closing the pipe is what the guard waits for; it then sweeps and removes the directory.
        drop(self.guard.stdin.take());
        if self.guard.wait().is_err() {
            self.sweep();
        }
    }
}

/// Waits until the benchmark is gone, then ends what it left behind.
///
/// # Errors
///
/// Missing arguments.
pub(super) fn play(args: &[String]) -> Result<()> {
    let [token, dir] = args else {
        bail!("role `{ROLE}` takes TOKEN DIRECTORY, got {args:?}");
    };
    // Whatever ends the read, an error included, the other side is no longer there.
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
    sweep(token);
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {dir}"))
}

/// Sends a signal by name (`TERM`, `KILL`) to processes. The shell's own `kill` is used because the standard library
/// can only kill direct children, and the `kill` program is missing from small images. Processes that are gone are no
/// error.
pub(super) fn signal(name: &str, pids: &[u32]) {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"kill -s "$0" "$@""#, name])
        .args(pids.iter().map(u32::to_string));
    let _gone = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Lets `work` run processes one after another and kills the current one, whose id `work` stores, at the limit:
/// waiting for a process has no time limit of its own.
pub(super) fn supervised<T>(limit: Duration, work: impl FnOnce(&AtomicU32) -> T) -> T {
    let current = AtomicU32::new(0);
    thread::scope(|scope| {
        let (done, over) = mpsc::channel::<()>();
        let current = &current;
        scope.spawn(move || {
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                signal("KILL", &[current.load(Ordering::Relaxed)]);
            }
        });
        let outcome = work(current);
        drop(done);
        outcome
    })
}

/// The end of a log file, as context of an error.
pub(super) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    if lines.is_empty() {
        return "its log is empty".into();
    }
    format!(
        "its log ends with `{}`",
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    )
}

fn sweep(token: &str) {
    let mark = format!("{MARK}={token}");
    let deadline = Instant::now() + SWEEP_LIMIT;
    // More than one pass: a process may fork between the look at /proc and the signal.
    loop {
        let left = carriers(&mark);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        signal("KILL", &left);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Processes with `mark` in their environment. A zombie has none and needs no signal.
fn carriers(mark: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| carries(*pid, mark))
        .collect()
}

fn carries(pid: u32, mark: &str) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

/// Keeps Ctrl-C, which the terminal sends to a whole group, away from the process.
#[cfg(unix)]
fn leave_process_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn leave_process_group(_command: &mut Command) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn marked(token: &str, script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .env(MARK, token)
            .stdout(Stdio::null());
        leave_process_group(&mut command);
        command
    }

    #[test]
    fn a_sweep_ends_orphans_that_left_their_group() {
        let token = format!("test-orphan-{}", std::process::id());
        let parent = marked(&token, "setsid sleep 60 & exit 0").status().unwrap();
        assert!(parent.success());
        assert!(!carriers(&format!("{MARK}={token}")).is_empty());
        sweep(&token);
        assert!(carriers(&format!("{MARK}={token}")).is_empty());
    }

    #[test]
    fn a_sweep_spares_processes_with_another_token() {
        let token = format!("test-spared-{}", std::process::id());
        let mut stranger = marked(&format!("{token}-other"), "exec sleep 60")
            .spawn()
            .unwrap();
        sweep(&token);
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_process_that_takes_too_long_is_killed() {
        let status = supervised(Duration::from_millis(20), |current| {
            let mut child = marked("test-late", "exec sleep 60").spawn().unwrap();
            current.store(child.id(), Ordering::Relaxed);
            child.wait().unwrap()
        });
        assert!(!status.success());
    }

    #[test]
    fn signalling_a_process_that_is_gone_is_no_error() {
        let mut child = marked("test-gone", "exit 0").spawn().unwrap();
        child.wait().unwrap();
        signal("TERM", &[child.id()]);
    }
}
