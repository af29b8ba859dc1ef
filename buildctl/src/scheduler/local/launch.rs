//! The beginning of a run's process: a session of its own that outlives whoever starts it, holds its slot and its share of
//! the store, and has written down who it is before it is anything else.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{fsync, link},
    io::{FdFlags, fcntl_setfd},
    process::{set_parent_process_death_signal, setsid},
};

use super::{folder::RunFolder, process};
use crate::state::file;

/// Starts the process of a run, which inherits `held`. Fails with [`io::ErrorKind::AlreadyExists`] if the run has begun or
/// never will.
pub(super) fn spawn(runner: &Path, folder: &RunFolder, held: Vec<OwnedFd>) -> io::Result<Child> {
    let log = append(&folder.log_file())?;
    let errors = log.try_clone()?;
    let (mark, value) = folder.mark();
    let mut command = Command::new(runner);
    command
        .arg("run-phase")
        .arg("--work")
        .arg(folder.work_file())
        .arg("--result")
        .arg(folder.result_file())
        .env(mark, value)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let birth = Birth::prepare(folder, held)?;
    let draft = birth.draft_path.clone();
    // SAFETY: the closure only makes system calls and writes to its stack and to what was prepared here.
    unsafe { command.pre_exec(move || birth.happens()) };
    let child = command.spawn();
    let _ = std::fs::remove_file(draft);
    child
}

/// What the child does between fork and exec.
struct Birth {
    draft: File,
    draft_path: std::path::PathBuf,
    from: CString,
    to: CString,
    folder: File,
    boot: String,
    held: Vec<OwnedFd>,
}

impl Birth {
    fn prepare(folder: &RunFolder, held: Vec<OwnedFd>) -> io::Result<Self> {
        let to = folder.pid_file();
        let draft_path = file::beside(&to);
        let explained = |error| file::explained("write", &to, error);
        Ok(Self {
            draft: OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft_path)
                .map_err(explained)?,
            from: CString::new(draft_path.as_os_str().as_bytes())?,
            to: CString::new(to.as_os_str().as_bytes())?,
            folder: File::open(folder.path()).map_err(explained)?,
            boot: process::boot_id(),
            held,
            draft_path,
        })
    }

    /// Allocates nothing: other threads of the parent may have held the allocator's locks when it forked.
    fn happens(&self) -> io::Result<()> {
        setsid()?;
        // A child has none of its own accord, but whoever starts us may have set one for all of theirs.
        set_parent_process_death_signal(None)?;
        process::write_own_evidence(&self.draft, &self.boot)?;
        // Fails if there is one: the run is carried out once.
        link(&self.from, &self.to)?;
        // On the disk before anything is done, or the run would be begun again after a power failure. What is in the file is of
        // no use then.
        fsync(&self.folder)?;
        for lock in &self.held {
            fcntl_setfd(lock.as_fd(), FdFlags::empty())?;
        }
        Ok(())
    }
}

/// Opens a log to write behind its end.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| file::explained("write", path, error))
}
