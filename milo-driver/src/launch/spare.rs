//! A shim that stands by before there is a task for it. What it does meanwhile, and how it learns its task, is
//! [`standby`](crate::shim::standby)'s; who wants one, the caller's knowledge.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    runtime::{alone, run},
    shim::detach::READY,
};

/// How long a program may take to be loaded and go out on its own.
const PATIENCE: Duration = Duration::from_secs(30);

/// At most one shim that stands by, which ends with the last copy of this value and with this process. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Option<UnixStream>>>);

impl Spare {
    /// Has a shim stand by, if none does.
    ///
    /// # Errors
    ///
    /// When the program cannot be started. A launch does without.
    pub fn keep(&self, shim: &Path) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(lives) {
            return Ok(());
        }
        let (ours, its) = UnixStream::pair()?;
        let mut command = alone(shim);
        command
            .arg0("milo-driver")
            .arg("shim")
            .stdin(Stdio::from(OwnedFd::from(its)));
        let finished = run(&mut command, PATIENCE)?;
        // The command held the other end.
        drop(command);
        *kept = finished.status.success().then_some(ours);
        Ok(())
    }

    /// Gives the shim that stands by its task, and says whether it listens now. If none stands by, or it was of no use,
    /// another one can be started on the same task.
    pub(super) fn lead(&self, dir: &Path, patience: Duration) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut shim) = kept.take() else {
            return false;
        };
        drop(kept);
        let mut answer = Vec::new();
        let told = shim
            .set_read_timeout(Some(patience))
            .and_then(|()| shim.write_all(dir.as_os_str().as_bytes()))
            .and_then(|()| shim.shutdown(Shutdown::Write))
            .and_then(|()| shim.read_to_end(&mut answer));
        told.is_ok() && answer == READY
    }
}

/// Whether the other end is still open.
fn lives(shim: &UnixStream) -> bool {
    let looked = shim
        .set_nonblocking(true)
        .map(|()| (&mut &*shim).read(&mut [0]));
    let waits = matches!(looked, Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock);
    waits && shim.set_nonblocking(false).is_ok()
}
