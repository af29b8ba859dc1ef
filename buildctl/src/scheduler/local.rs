//! Runs on this machine: one process for each, `buildctl run-phase`, in a folder below a [`StateRoot`]. What a run does is
//! [`crate::runner`]'s; which runs a job needs is [`crate::reconcile`]'s; this is when they begin, whether they live, how they
//! are ended, and what they said.
//!
//! ```text
//!  serve, buildctl build ──attend──▶ buildctl supervise JOB  (one, by a lock; detached, so that a daemon may go and come)
//!                                         │ reconciles the job: start, observe, stop
//!                                         ▼
//!          start: work.json ──▶ ticket in the queue ──▶ slot, share of the store ──▶ pid ──▶ buildctl run-phase
//!                               (FIFO among jobs)        (locks that it inherits)            │
//!          observe ◀────────────────── log, result.json ◀────────────────────────────────────┘
//! ```
//!
//! Everything is in files, and every step is decided by one that only one process can make (`folder`). So any process may
//! ask about any run, and any may be killed at any time: a run goes on without its supervisor, the next supervisor finds it
//! by pid and start time, and what waited in the queue gets a new ticket of the same rank.
//!
//! A runner that dies without a result is *settled* by whoever notices (`settle`); until then it counts as running.

pub(super) mod cache;
mod config;
mod doctor;
mod folder;
mod launch;
mod log;
mod process;
mod retention;
mod settle;
mod slots;
pub mod supervisor;
mod tend;
mod work;

use std::{
    collections::HashSet,
    fs, io,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use runyard_common::{
    backoff::{self, Backoff},
    doctor::Finding,
};
use tokio::time::{Instant, sleep, timeout_at};

pub use cache::Pruned;
pub use config::LocalConfig;
pub use process::keep_descriptors_from_children;
pub use settle::Sweep;
pub use work::{NoWork, work_of};

use super::{Attended, Scheduler, SchedulerError, Started};
use crate::{
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::{Ending, Observed, Progress, Run},
    state::{StateRoot, blocking, file, lengthy, lock, make_folder, watch::Subscription},
};

use folder::{Begun, RunFolder};
use settle::Death;
use slots::{Rank, Slots};

/// How long to wait before going on with a run that could not be gone on with.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(500),
    factor: 2.0,
    max: Duration::from_secs(30),
    jitter: 0.2,
};

/// The scheduler of this machine. Clones are the same one.
#[derive(Clone)]
pub struct LocalScheduler(Arc<Desk>);

struct Desk {
    config: LocalConfig,
    root: StateRoot,
    slots: Slots,
    sweep: Sweep,
    only: Option<JobId>,
    /// This machine's name.
    place: String,
    /// Runs that a task of this process tends.
    tended: Mutex<HashSet<(JobId, Run)>>,
}

impl LocalScheduler {
    /// The scheduler with these settings; `sweep` removes what a run that died left behind.
    pub fn open(config: LocalConfig, sweep: Sweep) -> Result<Self, SchedulerError> {
        let root = StateRoot::open(&config.root).map_err(SchedulerError::of_file)?;
        Ok(Self(Arc::new(Desk {
            slots: Slots::new(&root, config.concurrency),
            root,
            sweep,
            only: None,
            place: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            tended: Mutex::default(),
            config,
        })))
    }

    /// Makes [`Scheduler::changes`] tell of one job only, for a process that has no other. To be called before it is shared.
    #[must_use]
    pub fn only(mut self, id: JobId) -> Self {
        if let Some(desk) = Arc::get_mut(&mut self.0) {
            desk.only = Some(id);
        }
        self
    }

    /// Its settings.
    pub fn config(&self) -> &LocalConfig {
        &self.0.config
    }

    /// The folder of state.
    pub fn root(&self) -> &StateRoot {
        &self.0.root
    }

    /// Goes on with the runs of a job that another process started and tended: those that wait get back into the queue, those
    /// that run are watched, those that died are settled.
    pub async fn resume(&self, job: &Job) -> Result<(), SchedulerError> {
        let (desk, id) = (Arc::clone(&self.0), job.id);
        for folder in on_files(move || RunFolder::all(&desk.root, id)).await? {
            self.tend(job, folder);
        }
        Ok(())
    }

    /// Removes cached images that nobody uses at the moment: of owners whose store is larger than `cache_limit`. Blocks.
    pub fn prune_caches(&self) -> io::Result<Vec<Pruned>> {
        cache::prune(&self.0.root, &self.0.config)
    }

    /// Removes folders of jobs that have no record and were not touched for `older_than`: of jobs that were purged while
    /// something of them still ran, or whose purging was cut short. Blocks. Says which.
    pub fn remove_orphans(&self, older_than: Duration) -> io::Result<Vec<JobId>> {
        retention::remove_orphans(&self.0.root, older_than)
    }

    /// Has a task of this process look after a run, unless one does.
    fn tend(&self, job: &Job, folder: RunFolder) {
        let key = (folder.job, folder.run);
        if !self.0.tended().insert(key) {
            return;
        }
        let (desk, rank) = (Arc::clone(&self.0), Rank::of(job, folder.run));
        tokio::spawn(async move {
            for wait in AGAIN.delays(backoff::random) {
                let Err(error) = tend::tend(&desk, &folder, &rank).await else {
                    break;
                };
                // A full disk, say. It may have been collected, too.
                tracing::error!(job = %folder.job, run = %folder.run, %error, "the run cannot be tended");
                if !folder.is_started() {
                    break;
                }
                sleep(wait).await;
            }
            desk.tended().remove(&key);
        });
    }

    fn supervise(&self, id: JobId) -> io::Result<std::process::Child> {
        // The first ones stay: whoever only comes by, to kill the job say, may have others, under which it would not go on.
        let settings = self.0.root.job(id).join("settings.json");
        if file::read(&settings)?.is_none() {
            file::create(&settings, &serde_json::to_vec(&self.0.config)?)?;
        }
        let program = &self.0.config.supervisor;
        Command::new(program)
            .arg("supervise")
            .arg("--root")
            .arg(self.0.root.path())
            .arg(id.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| file::explained("execute", program, error))
    }
}

#[async_trait]
impl Scheduler for LocalScheduler {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn attend(&self, id: JobId) -> Result<Attended, SchedulerError> {
        let this = self.clone();
        let begun = blocking(move || {
            if !this.0.root.job(id).is_dir() {
                return Err(SchedulerError::Unknown);
            }
            let lock = supervisor::lock_file(&this.0.root, id);
            if lock::is_held(&lock).map_err(SchedulerError::of_file)? {
                return Ok(None);
            }
            this.supervise(id)
                .map(Some)
                .map_err(SchedulerError::of_file)
        });
        if let Some(mut child) = begun.await? {
            // It leaves at once, and a process of its own goes on; nobody has to wait for that but whoever reaps it.
            drop(tokio::task::spawn_blocking(move || child.wait()));
        }
        Ok(Attended::Elsewhere)
    }

    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError> {
        let folder = RunFolder::of(&self.0.root, job.id, run);
        let (desk, at, job_of) = (Arc::clone(&self.0), folder.clone(), job.clone());
        let is_new = on_files(move || {
            if at.is_started() || at.begun()? != Begun::NotYet {
                return Ok(Ok(false));
            }
            let work = match work_of(&job_of, run, &desk.config) {
                Ok(work) => work,
                Err(error) => return Ok(Err(error)),
            };
            make_folder(at.path())?;
            Ok(Ok(at.set_work(&work)?))
        });
        let is_new = is_new
            .await?
            .map_err(|error| SchedulerError::Refused(error.to_string()))?;
        self.tend(job, folder);
        self.0.root.ring(job.id);
        Ok(if is_new {
            Started::Now
        } else {
            Started::Already
        })
    }

    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError> {
        let (desk, job) = (Arc::clone(&self.0), job.clone());
        on_files(move || {
            let folders = RunFolder::all(&desk.root, job.id)?;
            folders.iter().map(|it| desk.observe(&job, it)).collect()
        })
        .await
    }

    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError> {
        if !self.0.root.job(job.id).is_dir() {
            return Err(SchedulerError::Unknown);
        }
        let folder = RunFolder::of(&self.0.root, job.id, run);
        let at = folder.clone();
        let is_over = on_files(move || {
            if at.is_over()? {
                return Ok(true);
            }
            // One that was not started is not to be begun by somebody who still wants to start it.
            make_folder(at.path())?;
            at.mark_stopped()?;
            at.forbid()
        });
        let is_over = is_over.await?;
        self.0.root.ring(job.id);
        if !is_over {
            self.tend(job, folder);
        }
        Ok(())
    }

    async fn read_log(
        &self,
        job: &Job,
        run: Run,
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError> {
        let folder = RunFolder::of(&self.0.root, job.id, run);
        let read = || self.page(job, &folder, from, limit);
        let chunk = read().await?;
        if wait.is_zero() || !is_empty(&chunk, from) {
            return Ok(chunk);
        }
        let deadline = Instant::now() + wait;
        // Both before looking again, so that nothing is missed: the log grows, or the run begins or ends.
        let mut bell = self.0.root.bell(Some(job.id));
        let mut grows = folder
            .path()
            .is_dir()
            .then(|| Subscription::to(folder.path()));
        loop {
            let chunk = read().await?;
            if !is_empty(&chunk, from) {
                return Ok(chunk);
            }
            let news = async {
                match &mut grows {
                    Some(grows) => tokio::select! { _ = grows.next() => {}, _ = bell.rung() => {} },
                    None => drop(bell.rung().await),
                }
            };
            if timeout_at(deadline, news).await.is_err() {
                return Ok(chunk);
            }
            if grows.is_none() && folder.path().is_dir() {
                grows = Some(Subscription::to(folder.path()));
            }
        }
    }

    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError> {
        let folder = RunFolder::of(&self.0.root, job.id, run);
        on_files(move || log::end(&folder.log_file())).await
    }

    async fn collect(&self, job: &Job) -> Result<(), SchedulerError> {
        self.end_all(job).await?;
        let desk = Arc::clone(&self.0);
        let job = job.clone();
        on_files(move || {
            let runs = folder::runs(&desk.root, job.id);
            // Out of sight at once, whole or not at all.
            let doomed = file::beside(&runs);
            match fs::rename(&runs, &doomed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                renamed => renamed.map_err(|error| file::explained("remove", &runs, error))?,
            }
            desk.root.ring(job.id);
            remove_doomed(&desk.root.job(job.id))
        })
        .await
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        self.0.root.changes(self.0.only)
    }

    async fn doctor(&self) -> Vec<Finding> {
        let config = self.0.config.clone();
        lengthy(move || doctor::findings(&config)).await
    }

    async fn healthy(&self) -> Result<(), SchedulerError> {
        let desk = Arc::clone(&self.0);
        blocking(move || doctor::healthy(&desk.root)).await
    }
}

impl LocalScheduler {
    async fn page(
        &self,
        job: &Job,
        folder: &RunFolder,
        from: Position,
        limit: usize,
    ) -> Result<Chunk, SchedulerError> {
        let folder = folder.clone();
        let was_collected = is_ended(job, folder.run);
        on_files(move || {
            if !folder.is_started() && was_collected {
                return Ok(Chunk {
                    next: from,
                    complete: true,
                    lost: true,
                    ..Chunk::default()
                });
            }
            // Asked first: what is in the log then is all that will be.
            let is_over = folder.is_started() && folder.is_over()?;
            log::page(&folder.log_file(), folder.run, from, limit, is_over)
        })
        .await
    }

    /// Stops all runs that have not ended, and waits until they have.
    async fn end_all(&self, job: &Job) -> Result<(), SchedulerError> {
        let mut bell = self.0.root.bell(Some(job.id));
        let deadline =
            Instant::now() + tend::patience(self.0.config.grace) + Duration::from_secs(5);
        loop {
            let observed = self.observe(job).await?;
            let left: Vec<Run> = observed
                .iter()
                .filter(|it| !is_over(it))
                .map(|it| it.run)
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            for run in left {
                self.stop(job, run).await?;
            }
            if timeout_at(deadline, bell.rung()).await.is_err() {
                return Err(SchedulerError::Refused(format!(
                    "runs of {} do not end; see {}",
                    job.id,
                    folder::runs(&self.0.root, job.id).display()
                )));
            }
        }
    }
}

impl Desk {
    fn tended(&self) -> MutexGuard<'_, HashSet<(JobId, Run)>> {
        self.tended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, folder: &RunFolder, death: &Death) -> io::Result<()> {
        settle::settle(&self.root, folder, &self.sweep, death)
    }

    fn observe(&self, job: &Job, folder: &RunFolder) -> io::Result<Observed> {
        if let Begun::As { process, .. } = folder.begun()?
            && !folder.result_file().exists()
            && !process.is_alive()
            && !folder.is_tended()?
        {
            self.settle(folder, &Death::Unseen)?;
        }
        let mut unaccounted = false;
        let mut usage = None;
        let (progress, started_at, ended_at) = match (folder.result()?, folder.begun()?) {
            (Some(result), _) => {
                usage = result.usage.known();
                let ending = result.ending;
                unaccounted = result.unaccounted;
                (
                    Progress::Ended { ending },
                    result.started_at,
                    result.ended_at,
                )
            }
            (None, Begun::As { at, .. }) => (Progress::Running, Some(at), None),
            (None, Begun::Never { at }) => {
                let ending = Ending::Cancelled;
                (Progress::Ended { ending }, None, Some(at))
            }
            (None, Begun::NotYet) => (self.waiting(job, folder), None, None),
        };
        Ok(Observed {
            run: folder.run,
            progress,
            place: Some(self.place.clone()),
            started_at,
            ended_at,
            unaccounted,
            usage,
        })
    }

    fn waiting(&self, job: &Job, folder: &RunFolder) -> Progress {
        let reason = Slots::needed_by(folder.run)
            .then(|| self.slots.reason(&Rank::of(job, folder.run)))
            .flatten();
        Progress::Waiting {
            reason,
            since: folder.since(),
        }
    }
}

impl SchedulerError {
    /// What the file system says: some of it is for whoever runs this machine.
    fn of_file(error: io::Error) -> Self {
        if file::is_refusal(&error) {
            Self::Refused(error.to_string())
        } else {
            Self::Io(error)
        }
    }
}

/// Removes what was put out of sight, now or before a crash.
fn remove_doomed(job: &Path) -> io::Result<()> {
    let entries = fs::read_dir(job).map_err(|error| file::explained("list", job, error))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".runs.") {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(|error| file::explained("remove", &path, error))?;
        }
    }
    Ok(())
}

async fn on_files<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SchedulerError> {
    blocking(work).await.map_err(SchedulerError::of_file)
}

fn is_empty(chunk: &Chunk, from: Position) -> bool {
    chunk.lines.is_empty() && chunk.next == from && !chunk.complete && !chunk.lost
}

fn is_over(observed: &Observed) -> bool {
    matches!(observed.progress, Progress::Ended { .. })
}

/// Whether a run is on record as one that has ended.
fn is_ended(job: &Job, run: Run) -> bool {
    job.runs.get(&run).is_some_and(is_over)
}

#[cfg(test)]
mod tests;
