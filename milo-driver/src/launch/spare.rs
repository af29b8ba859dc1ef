//! A shim that stands by before there is a task for it. What it does meanwhile, and how it learns its task, is
//! [`standby`]'s; who wants one, the caller's knowledge.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::give;
use crate::{
    runtime::{alone, run},
    shim::{detach::READY, standby},
};

/// How long a program may take to be loaded and go out on its own.
const PATIENCE: Duration = Duration::from_secs(30);

/// At most one shim that stands by, which ends with the last copy of this value and with this process. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Option<Shim>>>);

/// One that stands by, or is about to.
#[derive(Debug)]
struct Shim {
    socket: UnixStream,
    /// What is still to be waited for of its start.
    starter: Option<Child>,
    has_streams: bool,
}

impl Spare {
    /// Has a shim stand by, if none does, and returns when it is on its own.
    ///
    /// # Errors
    ///
    /// When the program cannot be started. A launch does without.
    pub fn keep(&self, shim: &Path) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|shim| lives(&shim.socket)) {
            return Ok(());
        }
        let (mut command, socket) = command(shim)?;
        let finished = run(&mut command, PATIENCE)?;
        *kept = finished.status.success().then_some(Shim {
            socket,
            starter: None,
            has_streams: false,
        });
        Ok(())
    }

    /// A shim that is about to stand by, for a task with these streams.
    ///
    /// # Errors
    ///
    /// As of [`keep`](Self::keep).
    pub fn begin(shim: &Path, streams: [OwnedFd; 3]) -> io::Result<Self> {
        let (mut command, socket) = command(shim)?;
        // Whoever leads it has the reason for a failure from another one.
        command.arg(standby::WITH_STREAMS).stderr(Stdio::null());
        let held = give(&mut command, Some(streams))?;
        let starter = command.spawn()?;
        drop(held);
        let shim = Shim {
            socket,
            starter: Some(starter),
            has_streams: true,
        };
        Ok(Self(Arc::new(Mutex::new(Some(shim)))))
    }

    /// Gives the shim that stands by its task, and says whether it listens now. If none stands by, or it was of no use,
    /// another one can be started on the same task.
    pub(super) fn lead(&self, dir: &Path, has_streams: bool, patience: Duration) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut shim) = kept.take_if(|shim| shim.has_streams == has_streams) else {
            return false;
        };
        drop(kept);
        let mut answer = Vec::new();
        let socket = &mut shim.socket;
        let told = socket
            .set_read_timeout(Some(patience))
            .and_then(|()| socket.write_all(dir.as_os_str().as_bytes()))
            .and_then(|()| socket.shutdown(Shutdown::Write))
            .and_then(|()| socket.read_to_end(&mut answer));
        let listens = told.is_ok() && answer == READY;
        if let Some(mut starter) = shim.starter {
            if !listens {
                // It may hang.
                let _ = starter.kill();
            }
            let _ = starter.wait();
        }
        listens
    }
}

/// The command of a shim that stands by, and our end of the socket that it holds.
fn command(shim: &Path) -> io::Result<(Command, UnixStream)> {
    let (ours, its) = UnixStream::pair()?;
    let mut command = alone(shim);
    command
        .arg0("milo-driver")
        .arg("shim")
        .stdin(Stdio::from(OwnedFd::from(its)));
    Ok((command, ours))
}

/// Whether the other end is still open.
fn lives(shim: &UnixStream) -> bool {
    let looked = shim
        .set_nonblocking(true)
        .map(|()| (&mut &*shim).read(&mut [0]));
    let waits = matches!(looked, Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock);
    waits && shim.set_nonblocking(false).is_ok()
}
