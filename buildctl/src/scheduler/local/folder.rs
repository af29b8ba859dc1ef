//! The folder of one run, and what its files say about how far the run is. Nothing here starts, waits or signals.
//!
//! ```text
//!  work.json    somebody started the run (the first one's file stays)
//!  pid          it began, and as which process; or the word `never`, if it was stopped before. Made by a link, so that
//!               beginning and never beginning exclude each other
//!  stop         somebody wants it to end
//!  result.json  it ended, and how
//! ```
//!
//! A run that was stopped is cancelled, however its programs ended, unless the result was there before the wish to stop it.
//! Which was first is told by when the two files became visible (ctime); what is in the same tick was not stopped in time.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::process::Evidence;
use crate::{
    job::JobId,
    phase::{Ending, FailureKind, Run, RunFailure, Usage},
    runner::work::Work,
    state::{StateRoot, file, lock},
};

/// What `pid` holds of a run that never begins.
const NEVER: &str = "never";

/// A run's folder.
#[derive(Clone, Debug)]
pub(super) struct RunFolder {
    pub(super) job: JobId,
    pub(super) run: Run,
    path: PathBuf,
}

/// Whether a run has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Not yet.
    NotYet,
    /// It never will.
    Never {
        /// When that was decided.
        at: Timestamp,
    },
    /// It has.
    As {
        /// Which process it is, or was.
        process: Evidence,
        /// When it began.
        at: Timestamp,
    },
}

/// How a run ended, as its folder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunResult {
    #[serde(flatten)]
    pub(super) ending: Ending,
    #[serde(default, alias = "started", skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<Timestamp>,
    #[serde(default, alias = "ended", skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<Timestamp>,
    /// [`Observed::unaccounted`](crate::phase::Observed::unaccounted).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unaccounted: bool,
    #[serde(default)]
    pub(super) usage: Usage,
}

impl RunFolder {
    pub(super) fn of(root: &StateRoot, job: JobId, run: Run) -> Self {
        Self {
            job,
            run,
            path: runs(root, job).join(run.to_string()),
        }
    }

    /// Folders of all runs of a job that were started.
    pub(super) fn all(root: &StateRoot, job: JobId) -> io::Result<Vec<Self>> {
        let runs = runs(root, job);
        let entries = match fs::read_dir(&runs) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| file::explained("list", &runs, error))?,
        };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(|run| Self::of(root, job, run))
            .filter(Self::is_started)
            .collect();
        found.sort_by_key(|folder| folder.run);
        Ok(found)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn work_file(&self) -> PathBuf {
        self.path.join("work.json")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.path.join("pid")
    }

    pub(super) fn result_file(&self) -> PathBuf {
        self.path.join("result.json")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn settle_file(&self) -> PathBuf {
        self.path.join("settle.lock")
    }

    /// Locked by whoever tends the run. Not in its folder: whoever waits there is woken by each line of the log.
    pub(super) fn duty_file(&self) -> PathBuf {
        self.path.with_extension("tended")
    }

    /// Whether some process tends the run.
    pub(super) fn is_tended(&self) -> io::Result<bool> {
        lock::is_held(&self.duty_file())
    }

    fn stop_file(&self) -> PathBuf {
        self.path.join("stop")
    }

    /// The variable, and its value, that marks every process of the run.
    pub(super) fn mark(&self) -> (&'static str, String) {
        ("BUILDCTL_RUN", format!("{}/{}", self.job, self.run))
    }

    pub(super) fn is_started(&self) -> bool {
        // An empty one is what a power failure leaves of a start that nobody was told of.
        fs::metadata(self.work_file()).is_ok_and(|file| file.len() > 0)
    }

    /// Writes down what is to be done, unless that was done before; whether it was this that started the run. The beginning
    /// of its process makes sure that it is on the disk.
    pub(super) fn set_work(&self, work: &Work) -> io::Result<bool> {
        let (path, bytes) = (self.work_file(), serde_json::to_vec(work)?);
        if file::create_unsynced(&path, &bytes)? {
            return Ok(true);
        }
        let is_broken = !self.is_started();
        if is_broken {
            file::replace(&path, &bytes)?;
        }
        Ok(is_broken)
    }

    /// When it was started.
    pub(super) fn since(&self) -> Timestamp {
        modified(&self.work_file())
    }

    pub(super) fn work(&self) -> io::Result<Option<Work>> {
        let path = self.work_file();
        let Some(bytes) = file::read(&path)? else {
            return Ok(None);
        };
        let work = serde_json::from_slice(&bytes);
        work.map(Some)
            .map_err(|e| file::explained("read", &path, e.into()))
    }

    /// Makes sure that somebody's wish to end the run is known.
    pub(super) fn mark_stopped(&self) -> io::Result<()> {
        file::create(&self.stop_file(), b"").map(drop)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop_file().exists()
    }

    /// Makes sure that a run that has not begun never will; whether that was in time.
    pub(super) fn forbid(&self) -> io::Result<bool> {
        file::create(&self.pid_file(), NEVER.as_bytes())
    }

    pub(super) fn begun(&self) -> io::Result<Begun> {
        let path = self.pid_file();
        let Some(bytes) = file::read(&path)? else {
            return Ok(Begun::NotYet);
        };
        let at = modified(&path);
        if bytes == NEVER.as_bytes() {
            return Ok(Begun::Never { at });
        }
        let process = Evidence::parse(&String::from_utf8_lossy(&bytes));
        // What a power failure leaves: the run had begun, and whatever did is gone.
        let process = process.unwrap_or_else(Evidence::of_nobody);
        Ok(Begun::As { process, at })
    }

    /// Whether nothing will happen any more.
    pub(super) fn is_over(&self) -> io::Result<bool> {
        Ok(self.result_file().exists() || matches!(self.begun()?, Begun::Never { .. }))
    }

    /// How the run ended; none if it has not.
    pub(super) fn result(&self) -> io::Result<Option<RunResult>> {
        let path = self.result_file();
        let Some(bytes) = file::read(&path)? else {
            return Ok(self.never());
        };
        let mut result = serde_json::from_slice(&bytes).unwrap_or_else(|error| RunResult {
            ending: broken(format!("{} is no result: {error}", path.display())),
            started_at: None,
            ended_at: None,
            unaccounted: true,
            usage: Usage::default(),
        });
        result.started_at = result.started_at.or_else(|| match self.begun() {
            Ok(Begun::As { at, .. }) => Some(at),
            _ => None,
        });
        result.ended_at = result.ended_at.or_else(|| Some(modified(&path)));
        if self.was_stopped_before(&path) && result.ending != Ending::Cancelled {
            result.ending = Ending::Cancelled;
            // What it says it has done no longer counts, but may have been done.
            result.unaccounted = true;
        }
        Ok(Some(result))
    }

    fn never(&self) -> Option<RunResult> {
        match self.begun() {
            Ok(Begun::Never { at }) => Some(RunResult {
                ending: Ending::Cancelled,
                started_at: None,
                ended_at: Some(at),
                unaccounted: false,
                usage: Usage::default(),
            }),
            _ => None,
        }
    }

    fn was_stopped_before(&self, result: &Path) -> bool {
        let visible = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.ctime(), metadata.ctime_nsec()))
        };
        match (visible(&self.stop_file()), visible(result)) {
            (Some(stop), Some(result)) => stop < result,
            _ => false,
        }
    }
}

/// A failure that is nobody's who submitted the job.
pub(super) fn broken(message: String) -> Ending {
    Ending::Failed(RunFailure {
        kind: FailureKind::Infrastructure,
        message,
        moved: Vec::new(),
        built: None,
    })
}

pub(super) fn runs(root: &StateRoot, job: JobId) -> PathBuf {
    root.job(job).join("runs")
}

fn modified(path: &Path) -> Timestamp {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
