//! Signals to this program as values: what runs in a container gets them instead.

use std::{
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{FromRawFd, OwnedFd},
};

/// What a foreground program is sent by terminals, shells and supervisors.
const FORWARDED: [libc::c_int; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// Signals that were sent to this process since [`Signals::block`].
pub(super) struct Signals(File);

impl Signals {
    /// From now on these signals do nothing but arrive here. To be called before there is a second thread.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is initialised by `sigemptyset` before anything reads it, and the descriptor is new and ours.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in FORWARDED {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let descriptor = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC);
            if descriptor == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(descriptor).into()))
        }
    }

    /// Waits for the next one.
    pub(super) fn next(&mut self) -> io::Result<libc::c_int> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut info)?;
        // The number is the record's first field (signalfd(2)).
        let [a, b, c, d, ..] = info;
        Ok(libc::c_int::from_ne_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_arrives_as_a_value_and_does_nothing_else() {
        // In a thread of its own, whose mask no other test sees.
        let number = std::thread::spawn(|| {
            let mut signals = Signals::block().unwrap();
            // SAFETY: the signal goes to this thread, which has blocked it.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            signals.next().unwrap()
        });
        assert_eq!(number.join().unwrap(), libc::SIGUSR1);
    }
}
