//! The small init that a task may have as PID 1: it starts one program, passes signals on to it, reaps the orphans that
//! the kernel gives to PID 1, and ends as the program ended. It is this same executable, mounted into the container.
//!
//! ```text
//!  milo-driver init -- program args…
//!    all signals blocked ─▶ program started with them unblocked ─▶ sigwait ─┬─ SIGCHLD: reap; the program's end is ours
//!                                                                          └─ any other: on to the program
//! ```
//!
//! PID 1 cannot end by a signal of its own. Where the program was ended by one, the init says so in its name, which can be
//! read until it is collected, and ends with 128 + n as a shell does.
//!
//! It waits in one place and handles no signal asynchronously, so there is no moment in which one could be lost: what
//! arrives before the program runs is pending until it does.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Write},
    mem::MaybeUninit,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, ExitStatus},
};

/// What shells give for a program that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs `program args…`, with or without a leading `--`, and ends as it ended: with its code, or 128 + n after signal n.
/// 126 and 127 are as in a shell, and 2 is for no program at all.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    args.next_if(|first| first == OsStr::new("--"));
    let Some(program) = args.next() else {
        complain("error: no program to run\nhint: milo-driver init -- program [args...]");
        return ExitCode::from(2);
    };
    let (all, before) = block_all();
    handle_all();
    let mut command = Command::new(&program);
    command.args(args);
    // SAFETY: between fork and exec only an async-signal-safe call is made, on a set that is a copy of its own.
    unsafe {
        command.pre_exec(move || {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            Ok(())
        });
    }
    match command.spawn() {
        Ok(child) => {
            let status = attend(&child, &all);
            if let Some(signal) = status.signal() {
                say(signal);
            }
            ExitCode::from(code(status))
        }
        Err(error) => {
            complain(&format!("error: {}: {error}", program.display()));
            ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            })
        }
    }
}

/// Standard error is the task's own, and may be gone.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Blocks every signal, so that each waits for [`next`]. Answers the set of all, and what was blocked before, which a
/// started program must get back: it would inherit the block.
fn block_all() -> (libc::sigset_t, libc::sigset_t) {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: `sigfillset` fills the one set, and `sigprocmask` reads it and fills the other; there is one thread.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        (all.assume_init(), before.assume_init())
    }
}

/// Gives every signal a handler, which is never called: who looks whether PID 1 heeds a signal sees handlers, and does not
/// see what is waited for. What is ignored stays so, and passes on to the program.
fn handle_all() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the structures are ours, and the handler touches nothing. Signals that cannot be handled are refused.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let is_known = libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0;
            if is_known && action.sa_sigaction == libc::SIG_DFL {
                action.sa_sigaction = handler as libc::sighandler_t;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Passes on and reaps until the program has ended.
fn attend(child: &Child, signals: &libc::sigset_t) -> ExitStatus {
    let pid = child.id().cast_signed();
    loop {
        match next(signals) {
            libc::SIGCHLD => {
                if let Some(status) = reap(pid) {
                    return status;
                }
            }
            // SAFETY: the child is not reaped before `reap` says so, so the pid is its own.
            signal => unsafe {
                libc::kill(pid, signal);
            },
        }
    }
}

/// Waits for the next signal.
fn next(signals: &libc::sigset_t) -> i32 {
    loop {
        // SAFETY: the set is initialised, and nobody asks for the details.
        let signal = unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) };
        // It fails only when it was interrupted: by a debugger, or stopped and continued.
        if signal > 0 {
            return signal;
        }
    }
}

/// Reaps all that have ended: one SIGCHLD may stand for many. Answers how `wanted` ended, if it was among them.
fn reap(wanted: i32) -> Option<ExitStatus> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours and outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return found;
        }
        if pid == wanted {
            found = Some(ExitStatus::from_raw(status));
        }
    }
}

/// The name that tells of a signal; a name has 15 bytes at most.
const SAID: &str = "signal ";

/// Tells which signal has ended the program.
fn say(signal: i32) {
    // Without the name, what is told is the code.
    if let Ok(name) = CString::new(format!("{SAID}{signal}")) {
        // SAFETY: the name ends with a zero and is copied.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Which signal has ended the program of an init that has ended under this name.
pub(crate) fn said(name: &str) -> Option<i32> {
    name.strip_prefix(SAID)?.parse().ok()
}

/// How a program ended, as an exit code.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_ends_as_it_ended() {
        assert_eq!(code(ExitStatus::from_raw(42 << 8)), 42);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGTERM)), 143);
        assert_eq!(code(ExitStatus::from_raw(255 << 8)), 255);
    }

    #[test]
    fn a_name_tells_of_a_signal_or_of_nothing() {
        assert_eq!(said("signal 64"), Some(64));
        assert_eq!(said("milo-driver"), None);
        let own = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        say(64);
        assert_eq!(said(own().trim()), Some(64));
    }

    #[test]
    fn nothing_to_run_is_a_usage_error() {
        let answer = main(["--".into()]);
        assert_eq!(format!("{answer:?}"), format!("{:?}", ExitCode::from(2)));
    }
}
