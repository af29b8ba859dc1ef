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

    /// What a waiting run waits for, for people.
    pub(super) fn reason(&self, rank: &Rank) -> String {
        let ahead = self.tickets().map_or(0, |tickets| {
            tickets.iter().filter(|ticket| **ticket < rank.0).count()
        });
        match (ahead, self.count.get()) {
            (0, 1) => "the place to build is taken".to_owned(),
            (0, count) => format!("all {count} places to build are taken"),
            (1, _) => "1 run ahead".to_owned(),
            (ahead, _) => format!("{ahead} runs ahead"),
        }
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
