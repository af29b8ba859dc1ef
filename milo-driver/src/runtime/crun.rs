//! crun as a [`Runtime`]: its command lines, and the private view of the cgroup file systems that it needs on some hosts.
//!
//! crun refuses to work where cgroup version 1 hierarchies are mounted together with a version 2 hierarchy that has
//! controllers ("cgroups in hybrid mode not supported, drop all controllers from cgroupv2"). Each call then gets a mount
//! namespace of its own in which the version 2 hierarchy is not mounted: crun sees pure version 1, the host is not changed.
//! Who makes several calls in a row can have one for all of them: [`Apart`](super::Apart).

use std::{
    fs,
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{Create, Exec, Runtime, RuntimeError, Status, alone, run, words};
use crate::bundle::sources;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The version 2 hierarchy of a hybrid host.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// crun, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crun {
    /// The program.
    pub binary: PathBuf,
    /// Where it keeps its own state (`--root`).
    pub root: PathBuf,
    /// Whether each call gets a view without the version 2 hierarchy.
    pub private_cgroups: bool,
    /// Whether crun manages cgroups at all; without, limits do not hold (`--cgroup-manager=disabled`).
    pub cgroups: bool,
    /// Whether a call dies with the thread that made it. For a caller with one thread only, which is not to leave a
    /// half-made container behind when it is killed.
    pub bound: bool,
}

impl Crun {
    /// crun at `binary` with its state in `root`, called the way that this host needs.
    pub fn new(binary: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            root: root.into(),
            private_cgroups: is_hybrid(Path::new(UNIFIED)) && rustix::process::geteuid().is_root(),
            cgroups: true,
            bound: false,
        }
    }

    /// The beginning of every call.
    fn command(&self) -> Command {
        let mut command = alone(&self.binary);
        let manager = if self.cgroups { "cgroupfs" } else { "disabled" };
        command
            .arg("--root")
            .arg(&self.root)
            .arg(format!("--cgroup-manager={manager}"));
        let (bound, private) = (self.bound, self.private_cgroups);
        // SAFETY: `prepare` makes system calls on constants only: no allocation, no lock, no panic.
        unsafe { command.pre_exec(move || prepare(bound, private)) };
        command
    }

    fn call(&self, verb: &'static str, command: &mut Command) -> Result<(), RuntimeError> {
        let finished = run(command, PATIENCE).map_err(|error| self.unusable(verb, &error))?;
        if finished.late {
            return Err(failed(
                verb,
                format!("no end within {PATIENCE:?}; it was killed"),
            ));
        }
        if finished.status.success() {
            return Ok(());
        }
        let mut words = words(&finished.stderr);
        if words.is_empty() {
            words = finished.status.to_string();
        }
        Err(failed(verb, words))
    }

    fn unusable(&self, verb: &'static str, error: &io::Error) -> RuntimeError {
        failed(
            verb,
            format!("cannot run `{}`: {error}", self.binary.display()),
        )
    }

    /// Whether crun has a record of the container, without asking it.
    fn has_record(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// Makes a container with `create`, or with `run --detach`.
    fn made(&self, verb: &'static str, create: Create<'_>) -> Result<i32, RuntimeError> {
        if self.has_record(create.id) {
            self.delete(create.id)?;
        }
        let [stdin, stdout, stderr] = create.stdio;
        let mut command = self.command();
        command.arg("--log").arg(create.log).arg(verb);
        if verb == "run" {
            command.arg("--detach");
        }
        command
            .arg("--bundle")
            .arg(create.bundle)
            .arg("--pid-file")
            .arg(create.pid_file)
            .arg(create.id)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        sources::attach(&mut command, create.sources)
            .map_err(|error| failed(verb, format!("its mounts' sources: {error}")))?;
        let logged = fs::metadata(create.log).map_or(0, |file| file.len());
        self.call(verb, &mut command)
            .map_err(|error| in_its_own_words(error, create.log, logged))?;
        read_pid(create.pid_file).map_err(|error| {
            let file = create.pid_file.display();
            failed(verb, format!("its pid file `{file}`: {error}"))
        })
    }
}

impl Runtime for Crun {
    fn create(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        self.made("create", create)
    }

    fn run(&self, create: Create<'_>) -> Result<i32, RuntimeError> {
        self.made("run", create)
    }

    fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("start", self.command().args(["start", id]))
    }

    fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        let signal = signal.to_string();
        self.call("kill", self.command().args(["kill", "--all", id, &signal]))
    }

    fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let deleted = self.call("delete", self.command().args(["delete", "--force", id]));
        if self.has_record(id) { deleted } else { Ok(()) }
    }

    fn status(&self, id: &str) -> Result<Option<Status>, RuntimeError> {
        if !self.has_record(id) {
            return Ok(None);
        }
        let unusable = |error: io::Error| self.unusable("state", &error);
        let mut answer = tempfile::tempfile().map_err(unusable)?;
        let mut command = self.command();
        command
            .args(["state", id])
            .stdout(answer.try_clone().map_err(unusable)?);
        self.call("state", &mut command)?;
        answer.rewind().map_err(unusable)?;
        let mut said = Vec::new();
        answer.read_to_end(&mut said).map_err(unusable)?;
        let state: serde_json::Value = serde_json::from_slice(&said)
            .map_err(|error| failed("state", format!("its answer is no JSON: {error}")))?;
        Ok(Some(match state["status"].as_str() {
            Some("creating" | "created") => Status::Created,
            Some("running" | "paused") => Status::Running,
            _ => Status::Stopped,
        }))
    }

    fn exec(&self, exec: &Exec<'_>) -> Command {
        let mut command = self.command();
        command
            .arg("exec")
            .arg("--process")
            .arg(exec.process)
            .arg("--pid-file")
            .arg(exec.pid_file);
        if let Some(socket) = exec.console_socket {
            command.arg("--console-socket").arg(socket);
        }
        command.arg(exec.id);
        command
    }
}

fn failed(verb: &'static str, words: String) -> RuntimeError {
    RuntimeError {
        program: "crun",
        verb,
        words,
    }
}

/// The error with what crun has written to its log since it was `logged` bytes long.
fn in_its_own_words(error: RuntimeError, log: &Path, logged: u64) -> RuntimeError {
    let text = fs::read(log).unwrap_or_default();
    let said = text.get(usize::try_from(logged).unwrap_or(0)..);
    match words(said.unwrap_or_default()) {
        words if words.is_empty() && is_full(log) => {
            // Its words had no room either.
            let words = format!(
                "{}: No space left on device of `{}`",
                error.words,
                log.display()
            );
            RuntimeError { words, ..error }
        }
        words if words.is_empty() => error,
        words => RuntimeError { words, ..error },
    }
}

/// Whether there is less space than a container's records take.
fn is_full(file: &Path) -> bool {
    const LEAST: u64 = 64 << 10;
    rustix::fs::statvfs(file).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST)
}

fn read_pid(file: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(file)?;
    let pid = text.trim().parse();
    pid.map_err(|_| io::Error::other(format!("`{}` is no pid", text.trim())))
}

/// Whether the version 2 hierarchy has controllers beside version 1, which crun refuses.
fn is_hybrid(unified: &Path) -> bool {
    fs::read_to_string(unified.join("cgroup.controllers"))
        .is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// What a crun process does between fork and exec. System calls only.
fn prepare(bound: bool, private: bool) -> io::Result<()> {
    // Nothing but stdio passes on, whatever the caller's libraries have opened without CLOEXEC.
    close_rest();
    if bound {
        // SAFETY: the call has no memory arguments.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    if private {
        detach_unified()?;
    }
    Ok(())
}

/// Marks all descriptors above stderr as not to be inherited. Kernels before 5.11 cannot; all that is opened here is
/// marked already.
pub(crate) fn close_rest() {
    // SAFETY: the call has no memory arguments.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Takes the version 2 hierarchy out of a mount namespace of the caller's own. Its place is taken by an empty file system that
/// ends with the namespace: crun makes folders and files there as if it were a hierarchy, which would stay on the host for
/// ever. System calls only.
pub(super) fn detach_unified() -> io::Result<()> {
    let (cgroups, unified) = (c"/sys/fs/cgroup", c"/sys/fs/cgroup/unified");
    // SAFETY: the strings are constants with a terminating zero; null is allowed where it is given.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        // Here only, so that mounts pass between the host and containers that asked for it as they do on other hosts. Slave,
        // not private: what the host mounts there later still arrives.
        let flags = libc::MS_REC | libc::MS_SLAVE;
        check(libc::mount(
            std::ptr::null(),
            cgroups.as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        ))?;
        // It may have been unmounted since this host was looked at.
        libc::umount2(unified.as_ptr(), libc::MNT_DETACH);
        libc::mount(
            c"none".as_ptr(),
            unified.as_ptr(),
            c"tmpfs".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            c"mode=755,size=1m".as_ptr().cast(),
        );
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_hybrid_only_when_version_2_has_controllers() {
        let root = runyard_common::testing::tempdir();
        assert!(!is_hybrid(root.path()));
        fs::write(root.path().join("cgroup.controllers"), "\n").unwrap();
        assert!(!is_hybrid(root.path()));
        fs::write(root.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
        assert!(is_hybrid(root.path()));
    }

    #[test]
    fn a_missing_binary_is_named() {
        let crun = Crun::new("/nowhere/crun", "/nowhere/root");
        let error = crun.start("x").unwrap_err().to_string();
        assert!(
            error.starts_with("crun start: cannot run `/nowhere/crun`: "),
            "{error}"
        );
    }

    #[test]
    fn only_what_was_said_since_is_quoted() {
        let root = runyard_common::testing::tempdir();
        let log = root.path().join("shim.log");
        fs::write(&log, "old words\nnew words\n").unwrap();
        let error = in_its_own_words(failed("create", "exit status: 1".into()), &log, 10);
        assert_eq!(error.to_string(), "crun create: new words");
        let error = in_its_own_words(failed("create", "exit status: 1".into()), &log, 20);
        assert_eq!(error.to_string(), "crun create: exit status: 1");
    }

    #[test]
    fn deleting_what_is_not_there_is_no_error() {
        let root = runyard_common::testing::tempdir();
        let crun = Crun::new("/bin/false", root.path());
        assert_eq!(crun.delete("gone"), Ok(()));
    }
}
