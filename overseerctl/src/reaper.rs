//! Reaping orphans: as PID 1, or as a child subreaper, the daemon inherits processes that others left behind.
//!
//! Only zombies that are not the daemon's own children are reaped here; the status of a worker belongs to its
//! supervisor. So the set of own pids decides, and `waitpid(-1)` is never called.

use std::{collections::HashSet, sync::Mutex, sync::PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// Pids of processes that somebody in this program waits for.
static OWN: Mutex<Option<HashSet<u32>>> = Mutex::new(None);

/// A claim was dropped: a zombie that it hid may show now.
static RELEASED: Notify = Notify::const_new();

/// Marks `pid` as waited for by its spawner until the guard is dropped.
#[derive(Debug)]
pub struct Claim(u32);

impl Drop for Claim {
    fn drop(&mut self) {
        own(|pids| pids.remove(&self.0));
        RELEASED.notify_one();
    }
}

/// Spawns processes under this, so that none is taken for an orphan before it is claimed.
pub fn spawning<T>(
    spawn: impl FnOnce() -> T,
    pid: impl FnOnce(&T) -> Option<u32>,
) -> (T, Option<Claim>) {
    own(|pids| {
        let spawned = spawn();
        let claim = pid(&spawned).map(|pid| {
            pids.insert(pid);
            Claim(pid)
        });
        (spawned, claim)
    })
}

fn own<T>(change: impl FnOnce(&mut HashSet<u32>) -> T) -> T {
    change(
        OWN.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default(),
    )
}

/// Whether orphans come to this process: it is PID 1, or it asked for them.
pub fn adopts_orphans() -> bool {
    std::process::id() == 1 || become_subreaper()
}

/// Makes orphaned descendants come to this process instead of to PID 1.
fn become_subreaper() -> bool {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 }
}

/// Reaps orphans for as long as the daemon runs.
pub async fn run() {
    let Ok(mut children) = signal(SignalKind::child()) else {
        tracing::error!("cannot watch for orphans: SIGCHLD is not available");
        return;
    };
    loop {
        reap_orphans();
        tokio::select! {
            more = children.recv() => if more.is_none() { return },
            () = RELEASED.notified() => {}
        }
    }
}

/// Reaps zombie children that nobody claims. Returns how many.
///
/// The kernel shows one zombie at a time. If that is a worker's, whatever is behind it shows once its supervisor has
/// reaped it, which wakes the reaper again.
pub fn reap_orphans() -> usize {
    let mut reaped = 0;
    own(|own| {
        while let Some(pid) =
            next_zombie().filter(|pid| !own.contains(&pid.as_raw_nonzero().get().unsigned_abs()))
        {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if !matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))) {
                return;
            }
            reaped += 1;
        }
    });
    reaped
}

/// A child that has ended, left as it is.
fn next_zombie() -> Option<Pid> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes; zeroed, it reads as "no child" if the call writes nothing.
    let pid = unsafe {
        (libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) == 0)
            .then(|| info.assume_init().si_pid())
    };
    pid.and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_claimed_child_is_left_to_its_owner_and_others_are_reaped() {
        let (owned, claim) = spawning(
            || Command::new("/bin/true").spawn(),
            |child| child.as_ref().ok().map(std::process::Child::id),
        );
        let mut owned = owned.unwrap();
        assert!(claim.is_some());
        let seen = std::iter::repeat_with(next_zombie)
            .flatten()
            .next()
            .unwrap();
        assert_eq!(seen.as_raw_nonzero().get().unsigned_abs(), owned.id());
        assert_eq!(reap_orphans(), 0, "not ours to reap");
        assert!(owned.wait().unwrap().success());
        drop(claim);
        let orphan = Command::new("/bin/true").spawn().unwrap();
        let pid = orphan.id();
        while reap_orphans() == 0 {}
        drop(orphan);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
