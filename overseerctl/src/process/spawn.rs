//! Fork, set-up and exec of one process.
//!
//! Everything the child needs is prepared before the fork; between fork and exec only system calls are made, as POSIX
//! demands of a threaded program. The exec itself is ours (`execve`), because the C library's search variants hand a file
//! without a `#!` line to a shell.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{CommandSpec, Identity, Process, Rlimit, Stdin, errno_text, lookup::look_up};

/// Starts a process in a process group of its own.
///
/// # Errors
/// Go's texts, which clients of the original know: `exec: "x": executable file not found in $PATH`,
/// `fork/exec /x: permission denied`, `chdir /x: no such file or directory`.
pub fn spawn(spec: CommandSpec) -> Result<Process, String> {
    let path = spec.env.get(OsStr::new("PATH")).map(OsString::as_os_str);
    let program = look_up(&spec.program, path)?;
    if let Some(cwd) = &spec.cwd {
        std::fs::metadata(cwd)
            .map_err(|error| format!("chdir {}: {}", cwd.display(), errno_text(&error)))?;
    }
    let image = Image::new(&program, &spec)?;
    let (stdin, text) = open_stdin(&spec.stdin)?;
    let failed =
        |error: &io::Error| format!("fork/exec {}: {}", program.display(), errno_text(error));
    let mut child = command(image, stdin)
        .spawn()
        .map_err(|error| failed(&error))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("both were asked for as pipes")
    };
    let pid = child.id();
    let pidfd = open_pidfd(pid).map_err(|error| {
        // Without it the process cannot be watched: it must not be left behind. Errors of the clean-up change nothing.
        let _ = child.kill();
        let _ = child.wait();
        failed(&error)
    })?;
    let stdin = child.stdin.take().map(OwnedFd::from).zip(text);
    Ok(Process {
        pid,
        pidfd,
        stdout: stdout.into(),
        stderr: stderr.into(),
        stdin,
        cgroup: spec.cgroup,
    })
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

fn open_stdin(stdin: &Stdin) -> Result<(Stdio, Option<String>), String> {
    match stdin {
        Stdin::Null => Ok((Stdio::null(), None)),
        Stdin::Text(text) => Ok((Stdio::piped(), Some(text.clone()))),
        Stdin::File(path) => {
            let file = File::open(path)
                .map_err(|error| format!("open {}: {}", path.display(), errno_text(&error)))?;
            Ok((file.into(), None))
        }
    }
}

fn command(image: Image, stdin: Stdio) -> Command {
    // The program named here is never run: the last step of the set-up is our own exec.
    let mut command = Command::new("/");
    command
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `Image::become_it` only makes async-signal-safe system calls on memory prepared before the fork.
    unsafe { command.pre_exec(move || image.become_it()) };
    command
}

/// A process image and its surroundings, ready for exec: no allocation is needed any more.
struct Image {
    path: CString,
    argv: Pointers,
    envp: Pointers,
    cwd: Option<CString>,
    identity: Option<Identity>,
    umask: Option<u32>,
    rlimits: Vec<Rlimit>,
    /// Opened for writing before the fork; the child puts itself in.
    cgroups: Vec<OwnedFd>,
}

/// A null-terminated array of C strings, with what it points to.
struct Pointers {
    _strings: Vec<CString>,
    array: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead into the heap buffers of `_strings`, which are never changed and move with it.
unsafe impl Send for Pointers {}
// SAFETY: as above; nothing is ever written through the pointers.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let array = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Self {
            _strings: strings,
            array,
        }
    }
}

impl Image {
    fn new(program: &Path, spec: &CommandSpec) -> Result<Self, String> {
        let argv = std::iter::once(&spec.program).chain(&spec.args);
        let argv = argv
            .map(|arg| c_string(arg.as_bytes()))
            .collect::<Result<_, _>>()?;
        let envp = spec
            .env
            .iter()
            .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()));
        let cgroups = spec
            .cgroup
            .as_ref()
            .map_or(Ok(Vec::new()), crate::cgroup::Cgroup::entrances);
        Ok(Self {
            path: c_string(program.as_os_str().as_bytes())?,
            argv: Pointers::new(argv),
            envp: Pointers::new(envp.collect::<Result<_, _>>()?),
            cwd: spec
                .cwd
                .as_deref()
                .map(|cwd| c_string(cwd.as_os_str().as_bytes()))
                .transpose()?,
            identity: spec.identity.clone(),
            umask: spec.umask,
            rlimits: spec.rlimits.clone(),
            cgroups: cgroups.map_err(|error| format!("cgroup: {}", errno_text(&error)))?,
        })
    }

    /// Runs in the child. Returns only if something failed.
    fn become_it(&self) -> io::Result<()> {
        for entrance in &self.cgroups {
            rustix::io::write(entrance.as_fd(), b"0")?;
        }
        for limit in &self.rlimits {
            let values = libc::rlimit {
                rlim_cur: limit.soft,
                rlim_max: limit.hard,
            };
            // SAFETY: `values` is a valid rlimit.
            check(unsafe { libc::setrlimit(limit.resource, &raw const values) })?;
        }
        if let Some(umask) = self.umask {
            // SAFETY: always succeeds.
            unsafe { libc::umask(umask) };
        }
        if let Some(identity) = &self.identity {
            identity.assume()?;
        }
        if let Some(cwd) = &self.cwd {
            // SAFETY: a null-terminated string.
            check(unsafe { libc::chdir(cwd.as_ptr()) })?;
        }
        // SAFETY: null-terminated strings and arrays that live as long as `self`.
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.argv.array.as_ptr(),
                self.envp.array.as_ptr(),
            )
        };
        Err(io::Error::last_os_error())
    }
}

impl Identity {
    fn assume(&self) -> io::Result<()> {
        // SAFETY: the pointer and the length belong to one slice; the others take plain numbers.
        unsafe {
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            check(libc::setgid(self.gid))?;
            check(libc::setuid(self.uid))
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    // Go refuses such a string with EINVAL.
    CString::new(OsString::from_vec(bytes.to_vec()).into_vec())
        .map_err(|_| "fork/exec: invalid argument".to_owned())
}
