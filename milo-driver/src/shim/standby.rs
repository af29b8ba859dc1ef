//! A shim before it has a task: a process on its own already, so that a start does not wait for a program to be loaded and
//! to leave its starter. Who wants one is [`Spare`](crate::launch::Spare)'s caller.
//!
//! ```text
//!  milo-driver shim [--with-streams] ──fork──▶ (on its own) ──the task's folder──▶ a shim like any other
//!                                                    └──the socket is closed──▶ (gone)
//! ```
//!
//! The folder comes through the socket that is the process' stdin, up to its end; back comes [`READY`] as soon as the shim
//! listens, or why it never will.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    process::ExitCode,
};

use super::{
    Ready,
    detach::{self, READY, Side},
    failed, intent, listen, live, prepared,
    server::Server,
    take_name,
};
use crate::state::TaskDir;

/// The argument of one whose task will have its streams from descriptors 3, 4 and 5.
pub const WITH_STREAMS: &str = "--with-streams";

/// Stands by, on its own, and then is the shim of the task that it is given. To be called before anything starts a thread.
pub fn main(with_streams: bool) -> ExitCode {
    take_name();
    let began = detach::only_inherited(with_streams).and_then(|streams| {
        let asker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok((detach::detach(None, || Ok(()))?, asker, streams))
    });
    match began {
        Ok((Side::Starter(code), ..)) => code,
        Ok((Side::Shim(()), asker, streams)) => wait(asker, streams),
        Err(_) => ExitCode::FAILURE,
    }
}

fn wait(mut asker: UnixStream, streams: Option<[OwnedFd; 3]>) -> ExitCode {
    let mut path = Vec::new();
    match asker.read_to_end(&mut path) {
        Ok(0) => return ExitCode::SUCCESS,
        Ok(_) => {}
        Err(_) => return ExitCode::FAILURE,
    }
    let dir = TaskDir::at(Path::new(OsStr::from_bytes(&path)));
    let begun = match begin(&dir, streams) {
        Ok(begun) => begun,
        Err(error) => return failed(&dir, &error, asker),
    };
    // Whoever asked may have died; the shim is there all the same, for whoever comes next.
    let _ = asker.write_all(READY);
    drop(asker);
    if let Some((ready, server)) = begun {
        live(&dir, ready, server);
    }
    ExitCode::SUCCESS
}

/// `None` when there is a shim on the task already.
fn begin(dir: &TaskDir, streams: Option<[OwnedFd; 3]>) -> io::Result<Option<(Ready, Server)>> {
    let Some(ready) = prepared(dir, intent(dir)?, streams)? else {
        return Ok(None);
    };
    detach::speak_into(&ready.log)?;
    let server = listen(dir, &ready)?;
    Ok(Some((ready, server)))
}
