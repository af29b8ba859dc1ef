//! Looking after one run, from its place in the queue to its end, in a task of the process that started it or took it over.
//! Only what has to be waited for is here; each step is in a module of its own.

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::{fs::FlockOperation, process::Signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Desk,
    folder::{Begun, RunFolder},
    launch,
    process::Evidence,
    settle::Death,
    slots::{Rank, Slot, Slots},
    work,
};
use crate::state::{Bell, blocking, lengthy, lock, make_folder, watch::Subscription};

/// How often who stands by looks whether it has to step in.
const STAND_BY: Duration = Duration::from_millis(500);

/// How long a run has from SIGTERM to SIGKILL. Its runner gives its programs `grace`, and then needs some time itself to
/// remove their containers.
pub(super) fn patience(grace: Duration) -> Duration {
    grace + (grace / 2).max(Duration::from_secs(1))
}

/// Sees a run through. Of several processes one does; the others stand by, in case that it dies.
pub(super) async fn tend(desk: &Arc<Desk>, folder: &RunFolder, rank: &Rank) -> io::Result<()> {
    let mut bell = desk.root.bell(Some(folder.job));
    let Some(_duty) = duty(folder, &mut bell).await? else {
        return Ok(());
    };
    let child = match begun(folder).await? {
        Begun::NotYet => launch(desk, folder, rank, &mut bell).await?,
        Begun::Never { .. } | Begun::As { .. } => None,
    };
    if let Begun::As { process, .. } = begun(folder).await? {
        see_out(desk, folder, &process, &mut bell).await?;
        let (desk, folder) = (Arc::clone(desk), folder.clone());
        lengthy(move || desk.settle(&folder, &death_of(child))).await?;
    }
    desk.root.ring(folder.job);
    Ok(())
}

/// The lock of whoever tends the run; none if it ends before it is to be had.
async fn duty(folder: &RunFolder, bell: &mut Bell) -> io::Result<Option<File>> {
    let lock = lock::open(&folder.duty_file())?;
    while !lock::try_flock(&lock, FlockOperation::NonBlockingLockExclusive)? {
        if !folder.is_started() || folder.is_over()? {
            return Ok(None);
        }
        // The death of whoever has it is no event here; nor is the moment in which somebody looks whether it is taken.
        let _ = timeout(STAND_BY, bell.rung()).await;
    }
    Ok(Some(lock))
}

async fn begun(folder: &RunFolder) -> io::Result<Begun> {
    let folder = folder.clone();
    blocking(move || folder.begun()).await
}

/// What became of an attempt to begin.
type Attempt = Option<io::Result<std::process::Child>>;

fn death_of(attempt: Attempt) -> Death {
    match attempt {
        None => Death::Unseen,
        Some(Err(error)) => Death::Unborn(error.to_string()),
        // Its process has ended already, so this does not wait.
        Some(Ok(mut child)) => child.wait().map_or(Death::Unseen, Death::Seen),
    }
}

/// Begins a run when its turn has come.
async fn launch(
    desk: &Arc<Desk>,
    folder: &RunFolder,
    rank: &Rank,
    bell: &mut Bell,
) -> io::Result<Attempt> {
    let Some(mut held) = place(desk, folder, rank, bell).await? else {
        return Ok(None);
    };
    let Some(share) = share_of_store(desk, folder, bell).await? else {
        return Ok(None);
    };
    held.extend(share);
    let (runner, at) = (desk.config.runner.clone(), folder.clone());
    let spawned = blocking(move || launch::spawn(&runner, &at, held)).await;
    desk.root.ring(folder.job);
    match spawned {
        // It was stopped, or begun by somebody else, at the last moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => match begun(folder).await? {
            Begun::As { .. } => {
                let runner = desk.config.runner.display();
                Ok(Some(Err(io::Error::new(
                    error.kind(),
                    format!("{runner}: {error}"),
                ))))
            }
            _ => Err(error),
        },
        Ok(child) => Ok(Some(Ok(child))),
    }
}

/// The slot that the run needs, if it needs one; none if it never begins.
async fn place(
    desk: &Desk,
    folder: &RunFolder,
    rank: &Rank,
    bell: &mut Bell,
) -> io::Result<Option<Vec<OwnedFd>>> {
    if !Slots::needed_by(folder.run) {
        return Ok(Some(Vec::new()));
    }
    let has_begun = || folder.pid_file().exists();
    let slot: Option<Slot> = desk.slots.acquire(rank, bell, has_begun).await?;
    Ok(slot.map(|slot| vec![slot.into()]))
}

/// The run's share of the store that it uses, if it uses one, which keeps others from pruning it; none if the run never begins.
async fn share_of_store(
    desk: &Desk,
    folder: &RunFolder,
    bell: &mut Bell,
) -> io::Result<Option<Vec<OwnedFd>>> {
    let at = folder.clone();
    let work = blocking(move || at.work()).await?;
    let Some(store) = work.and_then(|work| work::store_of(&work, &desk.root)) else {
        return Ok(Some(Vec::new()));
    };
    make_folder(&store)?;
    // Whoever prunes it closes the lock when done, which is an event of the folder.
    let mut freed = Subscription::to(&store);
    let lock = lock::open(&store.join("lock"))?;
    while !lock::try_flock(&lock, FlockOperation::NonBlockingLockShared)? {
        if folder.pid_file().exists() {
            return Ok(None);
        }
        tokio::select! {
            _ = freed.next() => {}
            _ = bell.rung() => {}
        }
    }
    Ok(Some(vec![lock.into()]))
}

/// Waits for the end of a run's process, and hurries it if somebody wants that.
async fn see_out(
    desk: &Desk,
    folder: &RunFolder,
    process: &Evidence,
    bell: &mut Bell,
) -> io::Result<()> {
    let Some(handle) = process.open() else {
        return Ok(());
    };
    // SAFETY: an `OwnedFd` is open, and the same one, for as long as it lives.
    let ended = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
    let mut deadline = None;
    loop {
        if deadline.is_none() && folder.is_stopped() {
            process.signal(Signal::TERM);
            deadline = Some(Instant::now() + patience(desk.config.grace));
        }
        tokio::select! {
            readable = ended.readable() => return readable.map(drop),
            _ = bell.rung(), if deadline.is_none() => {}
            () = until(deadline) => {
                process.signal(Signal::KILL);
                // From here on only its end is waited for.
                return ended.readable().await.map(drop);
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
