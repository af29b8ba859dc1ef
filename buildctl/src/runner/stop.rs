//! Why a run ends before it is through: a signal, or its deadline. One thread waits for both, ends the program that the run is
//! busy with (SIGTERM, the grace period, SIGKILL), and, should the run itself be stuck, ends that too. What a run does about
//! it, and what it cleans up, is its own matter.
//!
//! ```text
//!  waiting ──SIGTERM, SIGINT, SIGHUP──▶ asked ──┬─▶ TERM to the program ──grace──▶ KILL to it and all below it
//!     └──────────deadline───────▶ deadline ─────┘                                  └──patience──▶ last resort
//! ```

use std::{
    io,
    mem::MaybeUninit,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::descendants;

/// How long a run may take to clean up after its program was killed, before it is ended itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked for it.
    Asked,
    /// The time is up.
    Deadline,
}

/// The wish to stop, as everything in a run looks at it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cause: Option<Cause>,
    /// The program that the run waits for; it leads a process group.
    program: Option<Pid>,
    done: bool,
}

impl Stop {
    /// From now on signals are this value's matter, in threads that are started later, too. `last_resort` is called if the run
    /// does not end by itself; it should end the process.
    pub(super) fn watch(
        deadline: Duration,
        grace: Duration,
        last_resort: impl FnOnce(Cause) + Send + 'static,
    ) -> io::Result<Self> {
        let signals = block()?;
        let end = Instant::now().checked_add(deadline);
        let stop = Self::default();
        let watched = stop.clone();
        thread::Builder::new()
            .name("watch".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                let cause = wait_for(&signals, end);
                if watched.end(cause, grace) {
                    last_resort(cause);
                }
            })?;
        Ok(stop)
    }

    /// Why to stop, if there is a reason.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.state().cause
    }

    /// Waits, unless there is or comes a reason to stop. Says whether it waited to the end.
    pub(super) fn pause(&self, wait: Duration) -> bool {
        let quiet = |state: &mut State| state.cause.is_none();
        let waited = self.0.changed.wait_timeout_while(self.state(), wait, quiet);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .cause
            .is_none()
    }

    /// Starts a program that is to be ended with the run; `None` if the run has been told to stop.
    pub(super) fn begin<T>(
        &self,
        start: impl FnOnce() -> io::Result<(T, Pid)>,
    ) -> io::Result<Option<T>> {
        let mut state = self.state();
        if state.cause.is_some() {
            return Ok(None);
        }
        let (program, pid) = start()?;
        state.program = Some(pid);
        Ok(Some(program))
    }

    /// The program has ended and is about to be collected: nothing is sent to its pid any more.
    pub(super) fn ended(&self) {
        self.state().program = None;
        self.0.changed.notify_all();
    }

    /// The run is through: nothing is left to end.
    pub(super) fn done(&self) {
        self.state().done = true;
        self.0.changed.notify_all();
    }

    /// Ends the program, if there is one, and then waits for the run. Says whether the run is stuck.
    fn end(&self, cause: Cause, grace: Duration) -> bool {
        let program = {
            let mut state = self.state();
            state.cause = Some(cause);
            if let Some(program) = state.program {
                // It may have ended meanwhile; it is not collected yet.
                let _ = kill_process_group(program, Signal::TERM);
            }
            state.program
        };
        self.0.changed.notify_all();
        if let Some(program) = program {
            let same = |state: &mut State| state.program == Some(program);
            let waited = self.0.changed.wait_timeout_while(self.state(), grace, same);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.program == Some(program) {
                let _ = kill_process_group(program, Signal::KILL);
                descendants::kill(program);
            }
        }
        let busy = |state: &mut State| !state.done;
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.state(), grace + PATIENCE, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).0.done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the signals that end a run from ending this process, and returns them.
fn block() -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, `sigaddset` and `pthread_sigmask` only use it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
            0 => Ok(set.assume_init()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn wait_for(signals: &libc::sigset_t, end: Option<Instant>) -> Cause {
    loop {
        let left = end.map_or(Duration::from_hours(1), |end| {
            end.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Cause::Deadline;
        }
        let round = left.min(Duration::from_hours(1));
        let wait = libc::timespec {
            tv_sec: libc::time_t::try_from(round.as_secs()).unwrap_or(3600),
            tv_nsec: libc::c_long::from(round.subsec_nanos().cast_signed()),
        };
        // SAFETY: both point to values that live during the call, and no information about the signal is asked for.
        let signal = unsafe { libc::sigtimedwait(signals, std::ptr::null_mut(), &raw const wait) };
        if signal > 0 {
            return Cause::Asked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_when_the_run_is_told_to_stop() {
        let stop = Stop::default();
        assert!(stop.pause(Duration::from_millis(1)));
        let other = stop.clone();
        let waiting = thread::spawn(move || other.pause(Duration::from_mins(10)));
        stop.done();
        assert!(!stop.end(Cause::Deadline, Duration::ZERO));
        assert!(!waiting.join().unwrap());
        assert_eq!(stop.cause(), Some(Cause::Deadline));
    }

    #[test]
    fn nothing_is_started_for_a_run_that_was_told_to_stop() {
        let stop = Stop::default();
        stop.done();
        stop.end(Cause::Asked, Duration::ZERO);
        let started = stop.begin(|| -> io::Result<((), Pid)> { panic!("started") });
        assert!(started.unwrap().is_none());
    }
}
