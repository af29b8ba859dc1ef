//! Ctrl-C and SIGTERM as something that a waiting client wakes up for, instead of the end of the process.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use rustix::io::ioctl_fionbio;

/// Signals so far.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Where the handler writes; -1 before there is a pipe.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Signals that were caught. One value a process.
pub(super) struct Interrupts {
    read: PipeReader,
    /// Kept open for the handler.
    _write: PipeWriter,
    seen: usize,
}

impl Interrupts {
    /// From now on SIGINT and SIGTERM are counted.
    pub(super) fn catch() -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        ioctl_fionbio(&read, true)?;
        ioctl_fionbio(&write, true)?;
        PIPE.store(write.as_raw_fd(), Ordering::Relaxed);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: `count` only touches atomics, errno and calls write(2), which are allowed in signal handlers.
            if unsafe { libc::signal(signal, count as *const () as libc::sighandler_t) }
                == libc::SIG_ERR
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self {
            read,
            _write: write,
            seen: COUNT.load(Ordering::Relaxed),
        })
    }

    /// A descriptor that is readable while there are signals that [`Interrupts::take`] was not told of.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.read.try_clone().map(OwnedFd::from)
    }

    /// How many signals came since this was last asked. `woken` says that the descriptor was seen to be readable.
    pub(super) fn take(&mut self, woken: bool) -> usize {
        if woken {
            // An error means that there is nothing to read; the count is what matters.
            let _ = rustix::io::read(&self.read, &mut [0; 16]);
        }
        let count = COUNT.load(Ordering::Relaxed);
        count - std::mem::replace(&mut self.seen, count)
    }
}

extern "C" fn count(_: libc::c_int) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: errno is this thread's own; the buffer is valid for one byte; an error (a full pipe) needs no handling.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(PIPE.load(Ordering::Relaxed), [1u8].as_ptr().cast(), 1);
        *errno = saved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_counted_and_makes_the_descriptor_readable() {
        let mut interrupts = Interrupts::catch().unwrap();
        assert_eq!(interrupts.take(false), 0);
        // As the kernel would: a real signal could meet the handler of another test.
        count(libc::SIGTERM);
        let descriptor = interrupts.descriptor().unwrap();
        let mut waiting = [rustix::event::PollFd::new(
            &descriptor,
            rustix::event::PollFlags::IN,
        )];
        assert_eq!(rustix::event::poll(&mut waiting, None).unwrap_or(1), 1);
        assert_eq!(interrupts.take(true), 1);
        assert_eq!(interrupts.take(true), 0);
    }
}
