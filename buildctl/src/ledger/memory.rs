//! A ledger in memory, for tests: it keeps the whole contract within one process, counts what is written, and can be made to
//! fail.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::broadcast;

use super::{Claim, Created, Ledger, LedgerError, Replaced, Versioned};
use crate::job::{Job, JobId};

/// Records and claims of one process.
#[derive(Debug)]
pub struct MemoryLedger {
    books: Mutex<Books>,
    changes: broadcast::Sender<JobId>,
    writes: AtomicU64,
    unreachable: AtomicBool,
}

#[derive(Debug, Default)]
struct Books {
    records: BTreeMap<JobId, Versioned>,
    claims: BTreeMap<String, JobId>,
    versions: u64,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self {
            books: Mutex::default(),
            changes: broadcast::Sender::new(1024),
            writes: AtomicU64::new(0),
            unreachable: AtomicBool::new(false),
        }
    }
}

impl MemoryLedger {
    /// How often a record or a claim was changed.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Whether every call fails from now on.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::Relaxed);
    }

    /// Who holds the claim on `key`, stale or not.
    pub fn holder(&self, key: &str) -> Option<JobId> {
        self.lock().claims.get(key).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Books>, LedgerError> {
        if self.unreachable.load(Ordering::Relaxed) {
            return Err(LedgerError::Unreachable {
                place: "the memory ledger".to_owned(),
                why: "it was told to be unreachable".to_owned(),
            });
        }
        Ok(self.lock())
    }

    fn wrote(&self, id: JobId) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        // Nobody may be listening.
        let _ = self.changes.send(id);
    }
}

impl Books {
    fn write(&mut self, job: &Job) -> u64 {
        self.versions += 1;
        let versioned = Versioned {
            job: job.clone(),
            version: self.versions,
        };
        self.records.insert(job.id, versioned);
        self.versions
    }

    fn is_stale(&self, holder: JobId) -> bool {
        let record = self.records.get(&holder);
        record.is_none_or(|record| record.job.state.is_terminal())
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn create(&self, job: &Job) -> Result<Created, LedgerError> {
        let mut books = self.open()?;
        if let Some(known) = books.records.get(&job.id) {
            return Ok(Created::Already(Box::new(known.clone())));
        }
        books.write(job);
        drop(books);
        self.wrote(job.id);
        Ok(Created::Now)
    }

    async fn get(&self, id: JobId) -> Result<Option<Versioned>, LedgerError> {
        Ok(self.open()?.records.get(&id).cloned())
    }

    async fn replace(&self, job: &Job, version: u64) -> Result<Replaced, LedgerError> {
        let mut books = self.open()?;
        match books.records.get(&job.id) {
            Some(known) if known.version == version => {}
            _ => return Ok(Replaced::Conflict),
        }
        let version = books.write(job);
        drop(books);
        self.wrote(job.id);
        Ok(Replaced::Now(version))
    }

    async fn list(&self) -> Result<Vec<Versioned>, LedgerError> {
        let mut all: Vec<Versioned> = self.open()?.records.values().cloned().collect();
        all.sort_by_key(|record| std::cmp::Reverse((record.job.created_at, record.job.id)));
        Ok(all)
    }

    async fn remove(&self, id: JobId) -> Result<(), LedgerError> {
        let removed = self.open()?.records.remove(&id);
        if removed.is_some() {
            self.wrote(id);
        }
        Ok(())
    }

    async fn claim(&self, key: &str, id: JobId) -> Result<Claim, LedgerError> {
        let mut books = self.open()?;
        match books.claims.get(key) {
            Some(holder) if *holder == id => return Ok(Claim::Held),
            Some(holder) if !books.is_stale(*holder) => return Ok(Claim::HeldBy(*holder)),
            _ => {}
        }
        books.claims.insert(key.to_owned(), id);
        drop(books);
        self.wrote(id);
        Ok(Claim::Held)
    }

    async fn release(&self, key: &str, id: JobId) -> Result<(), LedgerError> {
        let mut books = self.open()?;
        if books.claims.get(key) == Some(&id) {
            books.claims.remove(key);
            drop(books);
            self.wrote(id);
        }
        Ok(())
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        let heard = self.changes.subscribe();
        let next = |mut heard: broadcast::Receiver<JobId>| async move {
            loop {
                match heard.recv().await {
                    Ok(id) => return Some((id, heard)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        stream::unfold(heard, next).boxed()
    }

    async fn healthy(&self) -> Result<(), LedgerError> {
        self.open().map(drop)
    }
}
