//! A terminal for a process in a container: how the runtime hands it over (runtime command line, `--console-socket`), and
//! its size. The terminal is made in the container's own `/dev/pts`; only its outer end comes here.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    termios::{Winsize, tcsetwinsize},
};

use crate::{runtime::wait, shim::server::Short};

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The outer end of a terminal.
#[derive(Debug)]
pub struct Terminal {
    end: OwnedFd,
}

impl Terminal {
    /// Sets its size; what runs in it gets SIGWINCH.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.end, size)?)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Where a runtime hands over a terminal.
#[derive(Debug)]
pub(super) struct Console {
    listener: UnixListener,
    folder: Short,
}

/// Its socket's name.
const SOCKET: &str = "console.sock";

impl Console {
    /// Listens in a folder, however long that one's path is.
    pub(super) fn bind(folder: &Path) -> io::Result<Self> {
        let folder = Short::of(folder)?;
        let listener = UnixListener::bind(folder.join(SOCKET))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, folder })
    }

    /// The socket's path for the runtime, which is another process.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join_for_others(SOCKET)
    }

    /// Waits for the terminal; there is none when the runtime has ended before, or time is over.
    pub(super) fn receive(
        &self,
        runtime: &impl AsFd,
        until: Instant,
    ) -> io::Result<Option<Terminal>> {
        if !is_first(&self.listener, runtime, until)? {
            return Ok(None);
        }
        let (stream, _) = self.listener.accept()?;
        if !is_first(&stream, runtime, until)? {
            return Ok(None);
        }
        Ok(descriptor(&stream)?.map(|end| Terminal { end }))
    }
}

/// Whether `wanted` is ready before `other` is over and before it is too late.
fn is_first(wanted: &impl AsFd, other: &impl AsFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(wanted, PollFlags::IN),
            PollFd::new(other, PollFlags::IN),
        ];
        wait(&mut fds, Some(left))?;
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        if !fds[1].revents().is_empty() || left == Duration::ZERO {
            return Ok(false);
        }
    }
}

/// The descriptor that comes with a message.
fn descriptor(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut text = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut messages = control.drain();
    Ok(messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_runtime_that_ends_first_gives_no_terminal() {
        let root = tempdir();
        let console = Console::bind(root.path()).unwrap();
        let (runtime, end) = io::pipe().unwrap();
        drop(end);
        let patience = runyard_common::testing::patience();
        let received = console
            .receive(&runtime, Instant::now() + patience)
            .unwrap();
        assert!(received.is_none());
    }

    #[test]
    fn a_runtime_that_never_connects_is_not_waited_for_longer_than_agreed() {
        let root = tempdir();
        let console = Console::bind(root.path()).unwrap();
        let (runtime, _end) = io::pipe().unwrap();
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(console.receive(&runtime, soon).unwrap().is_none());
    }
}
