//! Records of jobs as files of this machine, below a [`StateRoot`]: `jobs/<id>/record.json`, and `images/<hash>` for each
//! claim. Any number of processes use them at once; what runs do is the local scheduler's.
//!
//! - A record is written beside its place, synced and renamed into it, so it is whole or absent even after a power failure,
//!   which may bring back an earlier version of it.
//! - `record.lock` is held from reading a version to replacing it, so of two replacements of a version one wins.
//! - Claims change under one lock, which is held for as long as it takes to look at the holder's record.
//! - A record that cannot be read is an error for who asks for it, and only a line in the log for all others.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Claim, Created, Ledger, LedgerError, Replaced, Versioned};
use crate::{
    hex::hex,
    job::{Job, JobId},
    state::{StateRoot, blocking, file, lock::Lock, make_folder},
};

/// The ledger in a folder.
#[derive(Clone, Debug)]
pub struct DirectoryLedger {
    folder: Arc<Folder>,
    only: Option<JobId>,
}

impl DirectoryLedger {
    /// The ledger of this state.
    pub fn new(root: StateRoot) -> Self {
        let folder = Folder {
            root,
            read: Mutex::default(),
        };
        Self {
            folder: Arc::new(folder),
            only: None,
        }
    }

    /// Makes [`Ledger::changes`] tell of one job only, for a process that has no other.
    #[must_use]
    pub fn only(mut self, id: JobId) -> Self {
        self.only = Some(id);
        self
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let folder = Arc::clone(&self.folder);
        blocking(move || work(&folder)).await
    }
}

#[async_trait]
impl Ledger for DirectoryLedger {
    async fn create(&self, job: &Job) -> Result<Created, LedgerError> {
        let job = job.clone();
        self.with(move |folder| folder.create(&job)).await
    }

    async fn get(&self, id: JobId) -> Result<Option<Versioned>, LedgerError> {
        self.with(move |folder| folder.read(id)).await
    }

    async fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError> {
        let job = job.clone();
        self.with(move |folder| folder.replace(&job, version)).await
    }

    async fn list(&self) -> Result<Vec<Versioned>, LedgerError> {
        self.with(Folder::list).await
    }

    async fn remove(&self, id: JobId) -> Result<(), LedgerError> {
        self.with(move |folder| folder.remove(id)).await
    }

    async fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError> {
        let key = key.to_owned();
        self.with(move |folder| folder.claim(&key, id)).await
    }

    async fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError> {
        let key = key.to_owned();
        self.with(move |folder| folder.release(&key, id)).await
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        self.folder.root.changes(self.only)
    }

    fn changes_besides(&self, id: JobId) -> BoxStream<'static, JobId> {
        match self.only {
            Some(only) if only != id => self.folder.root.changes(Some(id)),
            _ => stream::pending().boxed(),
        }
    }

    async fn healthy(&self) -> Result<(), LedgerError> {
        self.with(|folder| {
            folder.root.job_ids()?;
            let probe = file::beside(&folder.root.jobs().join("probe"));
            file::create_unsynced(&probe, b"?")?;
            Ok(file::remove(&probe)?)
        })
        .await
    }
}

impl LedgerError {
    /// What the file system says: some of it is for whoever runs this machine.
    fn of_file(error: io::Error) -> Self {
        if file::is_refusal(&error) {
            Self::Refused(error.to_string())
        } else {
            Self::Io(error)
        }
    }
}

/// A record's file.
#[derive(Serialize, Deserialize)]
struct Envelope<J> {
    version: u64,
    job: J,
}

/// Tells whether a file was replaced: every replacement is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        })
    }
}

/// A record as it was read; none if it could not be.
type Known = (Stamp, Option<Arc<Versioned>>);

#[derive(Debug)]
struct Folder {
    root: StateRoot,
    /// What the last listing has read.
    read: Mutex<HashMap<JobId, Known>>,
}

impl Folder {
    fn record(&self, id: JobId) -> PathBuf {
        self.root.job(id).join("record.json")
    }

    /// Held while a record changes. Its folder must be there, which only creating a job makes sure of.
    fn lock(&self, id: JobId) -> io::Result<Lock> {
        Lock::exclusive(&self.root.job(id).join("record.lock"))
    }

    fn read(&self, id: JobId) -> Result<Option<Versioned>, LedgerError> {
        let path = self.record(id);
        let Some(bytes) = file::read(&path).map_err(LedgerError::of_file)? else {
            return Ok(None);
        };
        let corrupt = |why: String| LedgerError::Corrupt {
            place: path.display().to_string(),
            why: format!(
                "{why}; remove {} to forget the job",
                self.root.job(id).display()
            ),
        };
        let Envelope { version, job } =
            serde_json::from_slice::<Envelope<Job>>(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if job.id != id {
            return Err(corrupt(format!("it is the record of {}", job.id)));
        }
        Ok(Some(Versioned { job, version }))
    }

    fn write(&self, job: &Job, version: u64) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec(&Envelope { version, job }).map_err(io::Error::from)?;
        file::replace(&self.record(job.id), &bytes).map_err(LedgerError::of_file)?;
        self.root.ring(job.id);
        Ok(())
    }

    fn create(&self, job: &Job) -> Result<Created, LedgerError> {
        let _lock = loop {
            make_folder(&self.root.job(job.id)).map_err(LedgerError::of_file)?;
            match self.lock(job.id) {
                // Whoever removes an earlier job of this name may have removed the folder meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                lock => break lock.map_err(LedgerError::of_file)?,
            }
        };
        if let Some(there) = self.read(job.id)? {
            return Ok(Created::Already(Box::new(there)));
        }
        self.write(job, 1)?;
        // What comes later may be lost in a power failure, because it can be found out again; that there is a job cannot.
        file::sync_folder_of(&self.record(job.id)).map_err(LedgerError::of_file)?;
        Ok(Created::Now)
    }

    fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError> {
        let _lock = match self.lock(job.id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Replaced::Conflict),
            lock => lock.map_err(LedgerError::of_file)?,
        };
        match self.read(job.id)? {
            Some(there) if there.version == version => {
                self.write(job, version + 1)?;
                Ok(Replaced::Now(version + 1))
            }
            _ => Ok(Replaced::Conflict),
        }
    }

    fn remove(&self, id: JobId) -> Result<(), LedgerError> {
        let lock = match self.lock(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            lock => lock.map_err(LedgerError::of_file)?,
        };
        file::remove(&self.record(id)).map_err(LedgerError::of_file)?;
        self.root.ring(id);
        self.clear(id, &lock);
        Ok(())
    }

    /// Removes the folder of a job that has no record any more, unless runs or a supervisor are still in it.
    fn clear(&self, id: JobId, _held: &Lock) {
        let folder = self.root.job(id);
        let supervised = folder.join("supervisor.lock");
        if folder.join("runs").exists() || !matches!(Lock::try_exclusive(&supervised), Ok(Some(_)))
        {
            return;
        }
        // The lock on the record goes last: who waits for it then finds that it is gone, and makes everything anew.
        let last = [supervised, folder.join("record.lock")];
        let others = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| !last.contains(path));
        for path in others.collect::<Vec<_>>().iter().chain(&last) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir(&folder);
    }

    fn list(&self) -> Result<Vec<Versioned>, LedgerError> {
        let ids = self.root.job_ids().map_err(LedgerError::of_file)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::with_capacity(ids.len());
        for id in ids {
            let Some(stamp) = Stamp::of(&self.record(id)) else {
                continue;
            };
            let known = match read.remove(&id) {
                Some(known) if known.0 == stamp => known,
                _ => (stamp, self.read_or_complain(id)),
            };
            now.insert(id, known);
        }
        let mut found: Vec<_> = now.values().filter_map(|known| known.1.clone()).collect();
        *read = now;
        drop(read);
        found.sort_unstable_by_key(|it| std::cmp::Reverse((it.job.created_at, it.job.id)));
        Ok(found.into_iter().map(|it| (*it).clone()).collect())
    }

    fn read_or_complain(&self, id: JobId) -> Option<Arc<Versioned>> {
        let read = self.read(id);
        read.inspect_err(|error| tracing::warn!(%id, %error, "a record is left out"))
            .ok()
            .flatten()
            .map(Arc::new)
    }

    fn claim_file(&self, key: &str) -> PathBuf {
        self.root.images().join(hex(Sha256::digest(key)))
    }

    /// Held while claims change; never for long.
    fn lock_claims(&self) -> Result<Lock, LedgerError> {
        Lock::exclusive(&self.root.images().join("lock")).map_err(LedgerError::of_file)
    }

    fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError> {
        let path = self.claim_file(key);
        let _lock = self.lock_claims()?;
        match holder(&path)? {
            Some(holder) if holder == id => return Ok(Claim::Held),
            Some(holder) if self.is_at_work(holder)? => return Ok(Claim::HeldBy(holder)),
            _ => {}
        }
        file::replace(&path, format!("{id}\n{key}\n").as_bytes()).map_err(LedgerError::of_file)?;
        Ok(Claim::Held)
    }

    fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError> {
        let path = self.claim_file(key);
        let _lock = self.lock_claims()?;
        if holder(&path)? == Some(id) {
            file::remove(&path).map_err(LedgerError::of_file)?;
        }
        Ok(())
    }

    /// Whether a job still needs what it claims. Nobody can move one along whose record cannot be read.
    fn is_at_work(&self, id: JobId) -> Result<bool, LedgerError> {
        match self.read(id) {
            Ok(found) => Ok(found.is_some_and(|it| !it.job.state.is_terminal())),
            Err(error @ LedgerError::Corrupt { .. }) => {
                tracing::warn!(%id, %error, "the claim of a job that cannot be read is void");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Who holds a claim; nobody if the file is not there, or is not what [`Folder::claim`] writes.
fn holder(path: &Path) -> Result<Option<JobId>, LedgerError> {
    let bytes = file::read(path).map_err(LedgerError::of_file)?;
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(text.and_then(|text| text.lines().next()?.parse().ok()))
}

#[cfg(test)]
mod tests;
