//! The folder of this machine in which the directory ledger and the local scheduler keep everything: where its parts are,
//! and the tools for sharing it among processes (whole files, locks, watching). What the parts mean is theirs.
//!
//! ```text
//! jobs/<id>/record.json, record.lock            the ledger's
//!           settings.json, supervisor.{lock,log} the supervisor's
//!           runs/<run>/{work.json,pid,log,result.json,…}
//! images/<hash of a claim key>                  who holds the claim on an image
//! slots/<n>, slots/queue/<ticket>               places to build, and who waits for one
//! storage/<owner>/{root,run,lock}               Buildah's stores
//! ```
//!
//! Several processes use it at once: the service, a supervisor for each job, the command line. They tell each other of
//! changes by *ringing*: whoever changed something of a job touches the job's folder, which a watch on `jobs` sees.

pub mod file;
pub mod lock;
pub mod watch;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::job::JobId;

use watch::{Subscription, Tidings};

/// The folder of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot(Arc<Path>);

impl StateRoot {
    /// The folder at `path`, which is made if need be, for its owner only (mode 0700).
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let root = Self(path.into());
        for folder in [root.jobs(), root.images(), root.queue(), root.storage()] {
            make_folder(&folder)?;
        }
        Ok(root)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folders of jobs.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// The folder of one job.
    pub fn job(&self, id: JobId) -> PathBuf {
        self.0.join("jobs").join(id.to_string())
    }

    /// Claims on images.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// Places to build.
    pub fn slots(&self) -> PathBuf {
        self.0.join("slots")
    }

    /// Who waits for a place.
    pub fn queue(&self) -> PathBuf {
        self.0.join("slots").join("queue")
    }

    /// Buildah's stores.
    pub fn storage(&self) -> PathBuf {
        self.0.join("storage")
    }

    /// The ids of all jobs that have a folder, in no order.
    pub fn job_ids(&self) -> io::Result<Vec<JobId>> {
        let jobs = self.jobs();
        let entries = fs::read_dir(&jobs).map_err(|error| file::explained("list", &jobs, error))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// Tells whoever listens that something of this job has changed. A job without a folder is nobody's concern.
    pub fn ring(&self, id: JobId) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // Who is not told learns it when looking for other reasons; nothing is lost but time.
        let _ = utimensat(CWD, self.job(id), &times, AtFlags::empty());
    }

    /// Watches for rings: of one job, or of all.
    pub fn bell(&self, only: Option<JobId>) -> Bell {
        let folder = only.map_or_else(|| self.jobs(), |id| self.job(id));
        Bell {
            root: self.clone(),
            only,
            subscription: Subscription::to(&folder),
            seen: HashMap::new(),
        }
    }

    /// Jobs that were rung for from now on; never ends.
    pub fn changes(&self, only: Option<JobId>) -> BoxStream<'static, JobId> {
        let ids = stream::unfold(self.bell(only), async |mut bell| {
            let rung = bell.rung().await;
            Some((stream::iter(rung), bell))
        });
        ids.flatten().boxed()
    }
}

/// Listens for rings.
#[derive(Debug)]
pub struct Bell {
    root: StateRoot,
    only: Option<JobId>,
    subscription: Subscription,
    /// When each job was last rung for, as far as it was looked up: only needed after rings that were missed.
    seen: HashMap<JobId, (i64, i64)>,
}

impl Bell {
    /// Waits for rings; then the jobs that they were for.
    pub async fn rung(&mut self) -> Vec<JobId> {
        loop {
            let tidings = self.subscription.next().await;
            let ids = match (self.only, tidings) {
                (Some(id), _) => vec![id],
                (None, Tidings::Names(names)) => names
                    .iter()
                    .filter_map(|name| name.to_str()?.parse().ok())
                    .collect(),
                (None, Tidings::Anything) => self.missed(),
            };
            if !ids.is_empty() {
                return ids;
            }
        }
    }

    /// Jobs whose folders were touched since they were last looked at. Those that vanished count once.
    fn missed(&mut self) -> Vec<JobId> {
        let Ok(ids) = self.root.job_ids() else {
            return Vec::new();
        };
        let now: HashMap<_, _> = ids
            .into_iter()
            .filter_map(|id| {
                let metadata = fs::metadata(self.root.job(id)).ok()?;
                Some((id, (metadata.mtime(), metadata.mtime_nsec())))
            })
            .collect();
        let touched = now
            .iter()
            .filter(|(id, time)| self.seen.get(id) != Some(time));
        let gone = self.seen.iter().filter(|(id, _)| !now.contains_key(id));
        let ids = touched.chain(gone).map(|(id, _)| *id).collect();
        self.seen = now;
        ids
    }
}

/// Makes a folder, and those above it, for its owner only; one that is there stays as it is.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| file::explained("make", path, error))
}

/// Does something with files that may block for a moment: away from the threads that must not, unless there is only one, as in
/// a supervisor, whose job has to wait for it anyway. Goes on to its end even if nobody waits for it.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    lengthy(work).await
}

/// Does something that may take long, away from the threads that must not block.
pub async fn lengthy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going away, and whoever waits goes with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use runyard_common::testing::{patience, tempdir};
    use tokio::time::timeout;

    use super::*;

    fn root() -> (runyard_common::testing::TempDir, StateRoot) {
        let folder = tempdir();
        let root = StateRoot::open(&folder.path().join("state")).unwrap();
        (folder, root)
    }

    #[test]
    fn only_the_owner_may_look_into_it() {
        let (_folder, root) = root();
        for path in [root.path(), &root.jobs(), &root.queue()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_ring_reaches_who_listens_to_all_and_who_listens_to_that_job() {
        let (_folder, root) = root();
        let (id, other) = (JobId::random(), JobId::random());
        for id in [id, other] {
            make_folder(&root.job(id)).unwrap();
        }
        let (mut all, mut one) = (root.changes(None), root.changes(Some(id)));
        root.ring(other);
        assert_eq!(
            timeout(patience(), all.next()).await.unwrap(),
            Some(other),
            "who listens to all hears the other job"
        );
        root.ring(id);
        assert_eq!(timeout(patience(), one.next()).await.unwrap(), Some(id));
        assert_eq!(timeout(patience(), all.next()).await.unwrap(), Some(id));
    }

    #[tokio::test]
    async fn what_was_missed_is_found_again_once() {
        let (_folder, root) = root();
        let id = JobId::random();
        make_folder(&root.job(id)).unwrap();
        let mut bell = root.bell(None);
        assert_eq!(bell.missed(), [id]);
        assert_eq!(bell.missed(), []);
        fs::remove_dir(root.job(id)).unwrap();
        assert_eq!(bell.missed(), [id], "that it is gone is a change");
        assert_eq!(bell.missed(), []);
    }

    #[tokio::test]
    async fn nobody_rings_for_what_is_not_there() {
        let (_folder, root) = root();
        let mut changes = root.changes(None);
        root.ring(JobId::random());
        let heard = timeout(Duration::from_millis(20), changes.next()).await;
        assert!(heard.is_err());
    }
}
