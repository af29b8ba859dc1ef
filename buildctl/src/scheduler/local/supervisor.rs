//! `buildctl supervise --root DIR JOB`: the process that moves one job along until nothing is left to do. This is its shell:
//! it leaves whoever started it behind, makes sure that it is the only one, says what happens in the job's folder, and goes
//! on after errors that may pass. What moving along means is [`crate::reconcile`]'s and comes in as a [`Drive`].
//!
//! It may be killed at any time: its runs go on, and the next [`attend`](crate::scheduler::Scheduler::attend) starts another.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use runyard_common::{
    backoff::{self, Backoff},
    log::LogFormat,
    memory,
    terminal::Color,
};
use rustix::process::setsid;

use super::{LocalConfig, LocalScheduler, Sweep};
use crate::{
    job::JobId,
    ledger::{Ledger, LedgerError, directory::DirectoryLedger},
    state::{StateRoot, file, lock::Lock},
};

/// What a supervisor has to work with.
#[derive(Clone)]
pub struct Desk {
    /// The job.
    pub job: JobId,
    /// Its records; tells of changes of this job only.
    pub ledger: Arc<DirectoryLedger>,
    /// Its runs; tells of changes of this job only.
    pub scheduler: Arc<LocalScheduler>,
    /// [`LocalConfig::policy`] of whoever started this.
    pub policy: serde_json::Value,
}

/// Moves a job along until it is settled. An error is tried again after a while.
pub type Drive = fn(Desk) -> BoxFuture<'static, anyhow::Result<()>>;

/// How long to wait after an error.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(500),
    factor: 2.0,
    max: Duration::from_mins(1),
    jitter: 0.2,
};

/// Held by the supervisor of a job.
pub(super) fn lock_file(root: &StateRoot, id: JobId) -> PathBuf {
    root.job(id).join("supervisor.lock")
}

/// The process. `args` are what follows the verb. It leaves at once, with 0, and a child of it goes on; to be called before
/// anything has started a thread.
pub fn main(args: &[OsString], drive: Drive, sweep: Sweep) -> ExitCode {
    let Some((root, id)) = parse(args) else {
        return ExitCode::from(2);
    };
    // SAFETY: the process has one thread, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => ExitCode::from(70),
        0 => match leave(&root, id).and_then(|()| supervise(&root, id, drive, sweep)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the supervisor has to give up");
                ExitCode::from(70)
            }
        },
        _ => ExitCode::SUCCESS,
    }
}

fn parse(args: &[OsString]) -> Option<(PathBuf, JobId)> {
    match args {
        [flag, root, id] if flag == "--root" => Some((root.into(), id.to_str()?.parse().ok()?)),
        _ => None,
    }
}

/// Leaves everything of the starter behind: its session, its folder, its descriptors, its way with signals.
fn leave(root: &Path, id: JobId) -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")?;
    // Kernels before 5.9 cannot; whoever starts us marks its own as not to be inherited anyway.
    // SAFETY: nothing in this process has opened anything yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    for signal in [
        libc::SIGCHLD,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
    ] {
        // SAFETY: back to what the kernel does.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(
            root.join("jobs")
                .join(id.to_string())
                .join("supervisor.log"),
        )?;
    // SAFETY: stderr belongs to the process as a whole, and nobody writes to it at the moment.
    if unsafe { libc::dup2(log.as_raw_fd(), libc::STDERR_FILENO) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // An error means that there is a log already, which there is not.
    let _ = runyard_common::log::init("buildctl", None, LogFormat::Text, Color::Never);
    Ok(())
}

fn supervise(root: &Path, id: JobId, drive: Drive, sweep: Sweep) -> io::Result<()> {
    let state = StateRoot::open(root)?;
    let Some(lock) = alone(&lock_file(&state, id))? else {
        tracing::debug!("another supervisor is at work");
        return Ok(());
    };
    let settings = state.job(id).join("settings.json");
    let bytes = file::read(&settings)?.ok_or(io::ErrorKind::NotFound);
    let config: LocalConfig = bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|_| io::ErrorKind::InvalidData))
        .map_err(|kind| file::explained("read", &settings, kind.into()))?;
    let desk = Desk {
        job: id,
        ledger: Arc::new(DirectoryLedger::new(state).only(id)),
        policy: config.policy.clone(),
        scheduler: Arc::new(
            LocalScheduler::open(config, sweep)
                .map_err(io::Error::other)?
                .only(id),
        ),
    };
    // One thread, and one or two for what blocks; a machine may have hundreds of supervisors.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_stack_size(512 << 10)
        .build()?;
    let is_gone = runtime.block_on(see_through(&desk, drive));
    runtime.shutdown_background();
    drop(lock);
    if is_gone {
        // Whoever removed the job could not remove the folder that this process was in.
        forget(&desk)?;
    }
    Ok(())
}

/// The lock of the job's only supervisor. Others look whether it is held by taking it for a moment, so it is tried for some
/// moments.
fn alone(path: &Path) -> io::Result<Option<Lock>> {
    for _ in 0..20 {
        if let Some(lock) = Lock::try_exclusive(path)? {
            return Ok(Some(lock));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

/// Drives the job until it is settled; whether it is gone altogether.
async fn see_through(desk: &Desk, drive: Drive) -> bool {
    for wait in AGAIN.delays(backoff::random) {
        match attempt(desk, drive).await {
            Ok(is_there) => return !is_there,
            Err(error) => tracing::warn!(error = format!("{error:#}"), ?wait, "trying again"),
        }
        tokio::time::sleep(wait).await;
    }
    false
}

async fn attempt(desk: &Desk, drive: Drive) -> anyhow::Result<bool> {
    let Some(record) = desk.ledger.get(desk.job).await? else {
        return Ok(false);
    };
    desk.scheduler.resume(&record.job).await?;
    tokio::select! {
        driven = drive(desk.clone()) => driven?,
        () = grow_lean() => {}
    }
    Ok(desk.ledger.get(desk.job).await?.is_some())
}

/// Gives back what starting up has touched, once the first run has most likely begun: waiting for it needs little. Never ends.
async fn grow_lean() {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _ = memory::release_startup_pages();
    std::future::pending::<()>().await;
}

fn forget(desk: &Desk) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let removed: Result<(), LedgerError> = runtime.block_on(desk.ledger.remove(desk.job));
    removed.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_arguments_are_exact() {
        let id = JobId::random();
        let text = id.to_string();
        let args = |args: &[&str]| parse(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(args(&["--root", "/r", &text]), Some(("/r".into(), id)));
        for wrong in [
            &["--root", "/r"][..],
            &["--root", "/r", "x"],
            &[],
            &["/r", &text, "a"],
        ] {
            assert_eq!(args(wrong), None);
        }
    }
}
