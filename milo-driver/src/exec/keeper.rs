//! That a process in a container does not outlive the one who asked for it: a process between that one and the runtime,
//! which waits for the end of either. What the process is, and how it is started, is [`exec`](super)'s.
//!
//! ```text
//!  caller ──leash (a pipe)──▶ keeper ──▶ runtime ──▶ process in the container
//! ```
//!
//! The pipe ends with the caller, however it dies; the keeper then kills the process with its process group, which is all
//! that the process has started and that has not left it, and the runtime. A death signal of the kernel's
//! (`PR_SET_PDEATHSIG`) could do neither: it comes with the end of the thread that forked, and only to the child, which is
//! the runtime.
//!
//! The keeper is a fork of the caller that is never another program, so it may do what a signal handler may: no
//! allocation, no lock, system calls only.

use std::{
    ffi::{CStr, CString, c_int, c_uint},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

/// How long the runtime may take to make a process that is to be killed, in milliseconds.
const PATIENCE: c_int = 5000;
/// How often it is looked for.
const LOOK: c_int = 5;
/// The keeper's number for the leash, above stdio.
const LEASH: RawFd = 3;

/// The names of what lies on a process' desk.
#[derive(Debug)]
struct Papers {
    pid: CString,
    others: [CString; 2],
    folder: CString,
}

impl Papers {
    fn of(folder: &Path) -> io::Result<Self> {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
        Ok(Self {
            pid: name(&folder.join("pid"))?,
            others: [
                name(&folder.join("process.json"))?,
                name(&folder.join("console.sock"))?,
            ],
            folder: name(folder)?,
        })
    }

    /// Clears the desk, which the caller may do too.
    fn remove(&self) {
        // SAFETY: the strings are ours.
        unsafe {
            for paper in [&self.pid].into_iter().chain(&self.others) {
                libc::unlink(paper.as_ptr());
            }
            libc::rmdir(self.folder.as_ptr());
        }
    }
}

/// Has a command run under a keeper. What it runs is killed when the answer is dropped, and when this process ends; its
/// exit code becomes the keeper's, 128 + n after signal n.
pub(super) fn keep(command: &mut Command, desk: &Path) -> io::Result<OwnedFd> {
    let (leash, held) = io::pipe()?;
    let papers = Papers::of(desk)?;
    let part = move || {
        // SAFETY: this process was forked a moment ago and has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: the calls have no memory arguments.
                unsafe {
                    libc::setpgid(0, 0);
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                }
                Ok(())
            }
            runtime => keeper(runtime, leash.as_raw_fd(), &papers),
        }
    };
    // SAFETY: nothing allocates or locks on either side of the fork.
    unsafe { command.pre_exec(part) };
    Ok(held.into())
}

/// The keeper's life.
fn keeper(runtime: c_int, leash: RawFd, papers: &Papers) -> ! {
    retire(leash);
    // SAFETY: the call has no memory arguments; the runtime is our child, and nobody else collects it.
    let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, runtime, 0) };
    let ended = RawFd::try_from(ended).unwrap_or(-1);
    loop {
        match ready(ended, LEASH, -1) {
            (true, _) => break,
            (false, true) => {
                kill(runtime, ended, papers);
                break;
            }
            // Stopped and continued.
            (false, false) => {}
        }
    }
    let code = collected(runtime);
    // The caller may have died before this, or will before it could do so.
    papers.remove();
    // SAFETY: `_exit` runs nothing of this process' own.
    unsafe { libc::_exit(code) }
}

/// Lets go of all that is the caller's, its session and its signals too.
fn retire(leash: RawFd) {
    // SAFETY: the descriptors are this process' own copies, which nobody uses any more; the set is ours.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::setsid();
        libc::dup2(leash, LEASH);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for number in 0..LEASH {
            libc::dup2(null, number);
        }
    }
    close_above(LEASH);
}

/// Closes every descriptor above `last`; kernels before 5.9 do it one by one.
fn close_above(last: RawFd) {
    let first = last + 1;
    // SAFETY: nothing in this process uses them, and the limit is ours.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) == 0 {
            return;
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        for number in first..c_int::try_from(limit.rlim_cur).unwrap_or(c_int::MAX) {
            libc::close(number);
        }
    }
}

/// Waits until one of two is readable or at its end, and says which; one of -1 is none.
fn ready(one: RawFd, other: RawFd, milliseconds: c_int) -> (bool, bool) {
    let watched = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [watched(one), watched(other)];
    // SAFETY: the array is ours, and two long.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, milliseconds) };
    (fds[0].revents != 0, fds[1].revents != 0)
}

/// Kills the process with its group, then the runtime.
fn kill(runtime: c_int, ended: RawFd, papers: &Papers) {
    for _ in 0..PATIENCE / LOOK {
        if process_of(runtime, &papers.pid).is_some() || ready(ended, -1, LOOK).0 {
            break;
        }
    }
    halt(runtime);
    // Looked for again: from now on nobody collects it, so its number and its group's are its own.
    if let Some(Process { pid, group }) = process_of(runtime, &papers.pid) {
        // SAFETY: the calls have no memory arguments.
        unsafe {
            if group > 1 && group != libc::getpgrp() {
                libc::kill(-group, libc::SIGKILL);
            }
            libc::kill(pid, libc::SIGKILL);
        }
    }
    // SAFETY: the runtime is our child and was not collected, so its number is its own.
    unsafe {
        libc::kill(-runtime, libc::SIGKILL);
        libc::kill(runtime, libc::SIGKILL);
    }
}

/// Stops the runtime for good, and waits until it has stopped or ended.
fn halt(runtime: c_int) {
    // SAFETY: the structure is ours, and the runtime is our child, which this does not collect.
    unsafe {
        libc::kill(runtime, libc::SIGSTOP);
        let mut how: libc::siginfo_t = std::mem::zeroed();
        let id = libc::id_t::try_from(runtime).unwrap_or_default();
        let either = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        libc::waitid(libc::P_PID, id, &raw mut how, either);
    }
}

/// A process that the runtime has made.
struct Process {
    pid: c_int,
    group: c_int,
}

/// The process, if the runtime is its parent. It is then the process that is meant, as long as the runtime does not collect
/// it.
fn process_of(runtime: c_int, file: &CStr) -> Option<Process> {
    let mut space = [0; 16];
    let pid: c_int = text(file, &mut space)?.trim().parse().ok()?;
    let mut name = [0; 32];
    write!(&mut name[..31], "/proc/{pid}/stat").ok()?;
    let mut space = [0; 512];
    let stat = text(CStr::from_bytes_until_nul(&name).ok()?, &mut space)?;
    // The name in field 2 may hold any character; fields 4 and 5 are the parent and the group (proc(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1);
    let is_its = fields.next()?.parse() == Ok(runtime);
    let group = fields.next()?.parse().ok()?;
    is_its.then_some(Process { pid, group })
}

/// The beginning of a file.
fn text<'a>(path: &CStr, space: &'a mut [u8]) -> Option<&'a str> {
    // SAFETY: the path ends with a zero, and the kernel writes at most as much as there is space.
    let length = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let length = libc::read(file, space.as_mut_ptr().cast(), space.len());
        libc::close(file);
        usize::try_from(length).ok()?
    };
    std::str::from_utf8(space.get(..length)?).ok()
}

/// Waits for the runtime's end, as an exit code. One that was killed did not take its process along.
fn collected(runtime: c_int) -> c_int {
    // SAFETY: the structures are ours, and the runtime is our child until it is collected here.
    unsafe {
        let mut how: libc::siginfo_t = std::mem::zeroed();
        let id = libc::id_t::try_from(runtime).unwrap_or_default();
        let first = libc::WEXITED | libc::WNOWAIT;
        libc::waitid(libc::P_PID, id, &raw mut how, first);
        if how.si_code != libc::CLD_EXITED {
            libc::kill(-runtime, libc::SIGKILL);
        }
        let mut status = 0;
        libc::waitpid(runtime, &raw mut status, 0);
        if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            128 + libc::WTERMSIG(status)
        }
    }
}
