//! Ctrl-C and SIGTERM as something that a waiting verb hears of, instead of its end.

use std::io;

use runyard_common::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which of the two it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
}

impl Interrupt {
    /// What a shell calls the end of a program by this signal: 130 or 143.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Int => Exit::Child(130),
            Self::Term => Exit::Child(143),
        }
    }
}

/// Signals that were caught.
pub(super) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// From now on these signals do nothing but arrive here.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.int.recv() => Interrupt::Int,
            _ = self.term.recv() => Interrupt::Term,
        }
    }
}
