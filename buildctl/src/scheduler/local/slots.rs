//! Places to build. A run that builds or tests holds one of so many locks, `slots/<n>`, for as long as its process lives: the
//! process inherits the lock, so it is free again however the process ends, and whether or not a supervisor is there to see.
//!
//! Who waits has a ticket in `slots/queue`, locked as well, and its name is its rank: the job that was submitted first comes
//! first, with all of its runs. Only whoever is first tries the locks; the others wait for the queue to move. Nobody sleeps:
//! closing a lock's file is an event of its folder.

use std::{
    fs::{self, File},
    io,
    num::NonZeroUsize,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use crate::{
    job::Job,
    phase::Run,
    state::{
        Bell, StateRoot, file,
        lock::{self, Lock},
        watch::Subscription,
    },
};

/// A place: the lock, to be inherited by the run.
pub(super) type Slot = File;

/// The places of this machine.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    folder: PathBuf,
    queue: PathBuf,
    count: NonZeroUsize,
}

impl Slots {
    pub(super) fn new(root: &StateRoot, count: NonZeroUsize) -> Self {
        Self {
            folder: root.slots(),
            queue: root.queue(),
            count,
        }
    }

    /// Whether such a run needs one. Moving tags is no load, and a job that could be published should not wait.
    pub(super) fn needed_by(run: Run) -> bool {
        matches!(run, Run::Build | Run::TestCommand(_) | Run::TestEntry)
    }

    /// Waits for a place; none once `given_up` says so, which is asked at every ring of `bell`.
    pub(super) async fn acquire(
        &self,
        rank: &Rank,
        bell: &mut Bell,
        given_up: impl Fn() -> bool,
    ) -> io::Result<Option<Slot>> {
        let mut freed = Subscription::to(&self.folder);
        let mut moved = Subscription::to(&self.queue);
        let _ticket = Ticket::draw(self.queue.join(&rank.0))?;
        // Open for as long as this waits: closing one that was not to be had would wake whoever tries.
        let mut tried: Vec<File> = Vec::new();
        while !given_up() {
            if self.is_first(rank)? {
                if tried.is_empty() {
                    tried = self.open()?;
                }
                if let Some(slot) = first_free(&mut tried)? {
                    return Ok(Some(slot));
                }
            }
            tokio::select! {
                _ = freed.next() => {}
                _ = moved.next() => {}
                _ = bell.rung() => {}
            }
        }
        Ok(None)
    }

    /// What a waiting run waits for, for people; none if it only has not begun yet.
    pub(super) fn reason(&self, rank: &Rank) -> Option<String> {
        let ahead = self.tickets().map_or(0, |tickets| {
            tickets.iter().filter(|ticket| **ticket < rank.0).count()
        });
        match (ahead, self.count.get()) {
            (0, _) if self.has_room() => None,
            (0, 1) => Some("the place to build is taken".to_owned()),
            (0, count) => Some(format!("all {count} places to build are taken")),
            (1, _) => Some("1 run ahead".to_owned()),
            (ahead, _) => Some(format!("{ahead} runs ahead")),
        }
    }

    /// Whether a place is free, by what the kernel shows in `/proc/locks`: who only looks must not try them, because
    /// somebody who waits might try at the same moment, and find none.
    fn has_room(&self) -> bool {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let is_taken = |number: usize| {
            let place = fs::metadata(self.folder.join(number.to_string()));
            place.is_ok_and(|place| is_locked(&locks, place.ino()))
        };
        (0..self.count.get()).any(|number| !is_taken(number))
    }

    fn open(&self) -> io::Result<Vec<File>> {
        (0..self.count.get())
            .map(|number| lock::open(&self.folder.join(number.to_string())))
            .collect()
    }

    fn tickets(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.queue)
            .map_err(|error| file::explained("list", &self.queue, error))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether nobody waits who comes before. Tickets of those who died are removed on the way.
    fn is_first(&self, rank: &Rank) -> io::Result<bool> {
        for ticket in self.tickets()? {
            if ticket >= rank.0 {
                break;
            }
            if is_waiting(&self.queue.join(&ticket))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether one process alone has a lock on this file, as flock(2) makes them: `1: FLOCK ADVISORY WRITE 4711 fd:01:42 0 EOF`.
fn is_locked(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let file = words.get(5).and_then(|file| file.rsplit(':').next());
        words.get(1) == Some(&"FLOCK")
            && words.get(3) == Some(&"WRITE")
            && file.and_then(|inode| inode.parse().ok()) == Some(inode)
    })
}

fn first_free(slots: &mut Vec<File>) -> io::Result<Option<File>> {
    for index in 0..slots.len() {
        if lock::try_flock(&slots[index], FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Some(slots.swap_remove(index)));
        }
    }
    Ok(None)
}

/// Whether somebody waits with this ticket; if not, it is removed while nobody can lock it.
fn is_waiting(path: &Path) -> io::Result<bool> {
    let Ok(ticket) = File::open(path) else {
        return Ok(false);
    };
    if !lock::try_flock(&ticket, FlockOperation::NonBlockingLockShared)? {
        return Ok(true);
    }
    let _ = fs::remove_file(path);
    Ok(false)
}

/// Where in the queue a run belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(String);

impl Rank {
    pub(super) fn of(job: &Job, run: Run) -> Self {
        let nanoseconds = job.created_at.as_nanosecond().max(0);
        Self(format!("{nanoseconds:020}.{}.{run}", job.id))
    }
}

/// A ticket, for as long as somebody waits with it.
struct Ticket {
    path: PathBuf,
    _lock: Lock,
}

impl Ticket {
    fn draw(path: PathBuf) -> io::Result<Self> {
        // Others lock it for a moment, to see whether somebody waits; that is why this waits too.
        let lock = Lock::exclusive(&path)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_place_is_taken_while_its_lock_is_held() {
        let folder = tempdir();
        let root = StateRoot::open(folder.path()).unwrap();
        let slots = Slots::new(&root, NonZeroUsize::new(2).unwrap());
        let rank = Rank("1".to_owned());
        assert_eq!(slots.reason(&rank), None, "there are no locks yet");
        let mut places = slots.open().unwrap();
        let one = first_free(&mut places).unwrap().unwrap();
        assert_eq!(slots.reason(&rank), None, "one is free");
        let other = first_free(&mut places).unwrap().unwrap();
        let taken = slots.reason(&rank).unwrap();
        assert_eq!(taken, "all 2 places to build are taken");
        drop(one);
        assert_eq!(slots.reason(&rank), None, "one is free again");
        let ahead = root.queue().join("0");
        fs::write(&ahead, "").unwrap();
        assert_eq!(slots.reason(&rank).as_deref(), Some("1 run ahead"));
        drop(other);
    }
}
