//! Locks on files among processes. A lock belongs to the open file, not to the process: it is given up when the last
//! descriptor of it is closed, by whatever end of whoever held it, and it passes on to a child that inherits one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, retry_on_intr},
};

use super::file;

/// A lock that is held until this, and every copy of its descriptor, is gone.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits for the lock that nobody else may hold, not even shared. Blocks.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        loop {
            let lock = Self(open(path)?);
            retry_on_intr(|| flock(&lock.0, FlockOperation::LockExclusive))
                .map_err(|error| file::explained("lock", path, error.into()))?;
            if lock.is_still(path) {
                return Ok(lock);
            }
        }
    }

    /// The lock that nobody else may hold; none if somebody does.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// A lock that others may hold too; none if somebody holds it alone.
    pub fn try_shared(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(path, FlockOperation::NonBlockingLockShared)
    }

    fn attempt(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        loop {
            let lock = Self(open(path)?);
            if !try_flock(&lock.0, operation).map_err(|e| file::explained("lock", path, e))? {
                return Ok(None);
            }
            if lock.is_still(path) {
                return Ok(Some(lock));
            }
        }
    }

    /// Whether the file that is locked still is the one that others would lock: lock files may be removed by their holders.
    fn is_still(&self, path: &Path) -> bool {
        let (Ok(mine), Ok(there)) = (self.0.metadata(), fs::metadata(path)) else {
            return false;
        };
        (mine.dev(), mine.ino()) == (there.dev(), there.ino())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Lock> for OwnedFd {
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

/// Whether somebody holds the lock. Looks by taking a share of it for a moment, which a holder's attempt must outlast.
pub fn is_held(path: &Path) -> io::Result<bool> {
    // Only for reading: closing a file that was open for writing is an event that wakes those who wait for the lock.
    match File::open(path) {
        Ok(file) => Ok(!try_flock(&file, FlockOperation::NonBlockingLockShared)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file::explained("lock", path, error)),
    }
}

/// Locks an open file, if that is possible at once.
pub fn try_flock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match retry_on_intr(|| flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a file that is locked, making it if need be.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| file::explained("open", path, error))
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn one_holds_it_and_its_end_gives_it_up() {
        let folder = tempdir();
        let path = folder.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let held = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(is_held(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        assert!(Lock::try_shared(&path).unwrap().is_none());
        drop(held);
        let shares = [Lock::try_shared(&path), Lock::try_shared(&path)].map(Result::unwrap);
        assert!(shares.iter().all(Option::is_some));
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let folder = tempdir();
        let path = folder.path().join("lock");
        let held = Lock::exclusive(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = Lock::try_exclusive(&path).unwrap();
        assert!(other.is_some(), "the new file is free");
        assert!(!held.is_still(&path));
    }
}
