//! Operating-system processes: found, spawned into a group of their own, read, stopped and reaped without losing a line,
//! a status or a grandchild. Nothing here knows of tasks, messages or clients.
//!
//! | file | what it holds |
//! |---|---|
//! | `process.rs` | what to run ([`CommandSpec`]) and what runs ([`Process`]) |
//! | `process/lookup.rs` | finding a program in `PATH`, with Go's error texts |
//! | `process/spawn.rs` | fork, set-up and exec |
//! | `process/lines.rs` | pipes cut into lines |
//! | `process/supervise.rs` | the life of a process: read, stop ladder, drain, reap |
//! | `process/escape.rs` | processes that left the group |
//!
//! # Why the group is safe to signal
//!
//! The leader is waited for with `WNOWAIT` first: its zombie pins the process-group id, so that no signal of ours can
//! hit a stranger. It is reaped last, when nothing of the group is left to be signalled.

pub mod escape;
pub mod lines;
pub mod lookup;
pub mod spawn;
pub mod supervise;

use std::{collections::BTreeMap, ffi::OsString, os::fd::OwnedFd, path::PathBuf};

pub use spawn::spawn;
pub use supervise::{Conduct, supervise};

use crate::cgroup::Cgroup;

/// What to run.
#[derive(Debug, Default)]
pub struct CommandSpec {
    /// The program: looked up in `PATH` unless it contains a slash. It also becomes `argv[0]`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory; the daemon's own if absent.
    pub cwd: Option<PathBuf>,
    /// Whom it runs as; the daemon's own user if absent.
    pub identity: Option<Identity>,
    /// Its file mode creation mask; the daemon's own if absent.
    pub umask: Option<u32>,
    /// What it reads.
    pub stdin: Stdin,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The control group it starts in.
    pub cgroup: Option<Cgroup>,
}

/// A numeric identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What a process reads from its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// This text, then end of file.
    Text(String),
    /// A file.
    File(PathBuf),
}

/// One resource limit; see `setrlimit(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which: one of libc's `RLIMIT_*`.
    pub resource: libc::__rlimit_resource_t,
    /// Soft limit; `RLIM_INFINITY` is none.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A process that runs. Whoever drops it without [`supervise()`] leaves a zombie.
#[derive(Debug)]
pub struct Process {
    /// Its pid, which is also its process group's id.
    pub pid: u32,
    /// Becomes readable when it has ended.
    pub(crate) pidfd: OwnedFd,
    /// Where it writes.
    pub(crate) stdout: OwnedFd,
    /// Where it writes errors.
    pub(crate) stderr: OwnedFd,
    /// Where the text of [`Stdin::Text`] goes.
    pub(crate) stdin: Option<(OwnedFd, String)>,
    /// Its control group.
    pub(crate) cgroup: Option<Cgroup>,
}

/// Go's text of an operating-system error: the C library's, with a small first letter.
pub(crate) fn errno_text(error: &std::io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    let text = error.to_string();
    let text = text
        .strip_suffix(&format!(" (os error {code})"))
        .unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + chars.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_in_go() {
        for (code, text) in [
            (libc::ENOENT, "no such file or directory"),
            (libc::EACCES, "permission denied"),
            (libc::ENOEXEC, "exec format error"),
            (libc::EMFILE, "too many open files"),
        ] {
            assert_eq!(errno_text(&std::io::Error::from_raw_os_error(code)), text);
        }
    }
}
