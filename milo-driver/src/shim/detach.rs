//! How a shim leaves the one who started it: a process of its own session that nobody waits for, holds nothing of its
//! starter, and is seen only when it listens.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::ExitCode,
};

use rustix::process::{getpid, set_child_subreaper, setsid};

use super::log::Log;

/// The first descriptor of inherited streams: 3, 4 and 5 are stdin, stdout and stderr.
pub const INHERITED: i32 = 3;

/// Which process this is.
#[derive(Debug)]
pub enum Side<T> {
    /// The one that was started. It is to end with this code.
    Starter(ExitCode),
    /// The one that lives on, with what `listen` gave.
    Shim(T),
}

/// Closes every descriptor that the process was started with, but stdio and, if they are `wanted`, those of inherited
/// streams. To be called before anything is opened that is to stay open.
pub fn only_inherited(wanted: bool) -> io::Result<Option<[OwnedFd; 3]>> {
    let first_other = if wanted { INHERITED + 3 } else { INHERITED };
    // Kernels before 5.9 cannot; a starter of ours marks everything else as not to be inherited anyway.
    // SAFETY: nothing in this process has opened anything yet that it will use again.
    unsafe { libc::syscall(libc::SYS_close_range, first_other, libc::c_uint::MAX, 0) };
    let is_given = |number| {
        // SAFETY: the call only looks.
        unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
    };
    if !wanted || !(INHERITED..first_other).all(is_given) {
        return Ok(None);
    }
    // Copies that pass on to nobody by accident; the originals are closed.
    let copy = |number: i32| {
        // SAFETY: it is open, was given to this process for this purpose, and nothing else uses it.
        let given = unsafe { OwnedFd::from_raw_fd(INHERITED + number) };
        rustix::io::fcntl_dupfd_cloexec(&given, first_other)
    };
    Ok(Some([copy(0)?, copy(1)?, copy(2)?]))
}

/// Forks. The child leaves everything of its starter behind and calls `listen`; the starter waits for that and then has
/// its code, and has said on its stderr what the child found wrong: the log may be what cannot be written. Without a log
/// the child has no stderr until it [speaks into](speak_into) one. To be called in a process with one thread.
pub fn detach<T>(log: Option<&Log>, listen: impl FnOnce() -> io::Result<T>) -> io::Result<Side<T>> {
    let (mut ready, mut tell) = io::pipe()?;
    // SAFETY: the process has one thread, so the child may go on as if nothing had happened.
    let forked = unsafe { libc::fork() };
    match forked {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ready);
            let begun = leave(log).and_then(|()| listen());
            match &begun {
                Ok(_) => tell.write_all(READY)?,
                // Nobody may be there to hear it any more.
                Err(error) => drop(write!(tell, "cannot begin: {error}")),
            }
            begun.map(Side::Shim)
        }
        _ => {
            drop(tell);
            let mut words = Vec::new();
            ready.read_to_end(&mut words)?;
            let is_ready = words == READY;
            if !is_ready {
                io::stderr().write_all(&words)?;
            }
            Ok(Side::Starter(ExitCode::from(u8::from(!is_ready))))
        }
    }
}

/// What a shim says that listens. Any other words, or none, are those of one that does not.
pub const READY: &[u8] = b"1";

fn leave(log: Option<&Log>) -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    replace(libc::STDIN_FILENO, &null)?;
    replace(libc::STDOUT_FILENO, &null)?;
    match log {
        Some(log) => speak_into(log)?,
        None => replace(libc::STDERR_FILENO, &null)?,
    }
    ignore_signals();
    set_child_subreaper(Some(getpid()))?;
    // A Nomad agent under systemd often has -1000, which every process below it would have too. Where it may not be
    // changed, it is what it is.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    Ok(())
}

/// Has everything that this process and its libraries say go into a log.
pub fn speak_into(log: &Log) -> io::Result<()> {
    replace(libc::STDERR_FILENO, log)
}

/// Makes one of the first three descriptors mean something else.
fn replace(number: i32, file: &impl AsFd) -> io::Result<()> {
    // SAFETY: stdio belongs to the process as a whole, and nothing of it is in use.
    if unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Hang-ups, interrupts and polite requests to end are for those who share a terminal or a unit with the starter; a shim
/// ends when its task is dismissed. Handlers that do nothing, not `SIG_IGN`: that would pass on to every container.
fn ignore_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: the handler touches nothing.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}
