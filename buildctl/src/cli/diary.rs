//! `--history`: what became of jobs, in files beside the source, as the original keeps them. Files are whole or absent, and any
//! number of jobs may be written down in one folder at once.
//!
//! ```text
//! deploy/history.md                          newest first, an entry a job
//!        builds/<id>/metadata.yaml           what was asked for, when, and what came of it
//!                    status.md               the same for people
//!                    {build,test,publish}.log
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use runyard_common::{exit::Exit, report::Failure};
use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::{
    api::{JobConfig, JobMetrics, labelled},
    clock::since,
    job::{Job, JobId, State},
    logs::Line,
    phase::{Phase, Run},
    service::{Builds, LogQuery},
    state::file,
    version::DEPLOY_DIR,
};

/// The first line of `history.md`, and the empty one behind it.
const HEADER: &str = "# Build History\n\n";

/// A folder in which jobs are written down.
#[derive(Debug)]
pub(super) struct Diary {
    dir: PathBuf,
}

/// What `metadata.yaml` says.
#[derive(Serialize)]
struct Metadata {
    job_id: JobId,
    submitted_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    status: State,
    branch: String,
    git_ref: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_phase: Option<Phase>,
    job_config: JobConfig,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    phases: BTreeMap<Phase, PhaseMetadata>,
}

#[derive(Serialize)]
struct PhaseMetadata {
    status: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    duration: String,
}

impl Diary {
    /// The one of a job's `deploy_dir`. It is made, so that one that cannot be is known before anything is built.
    pub(super) fn open(deploy_dir: &str) -> Result<Self, Failure> {
        let dir = match deploy_dir.trim() {
            "" => DEPLOY_DIR,
            dir => dir,
        };
        let diary = Self {
            dir: std::path::absolute(dir).unwrap_or_else(|_| dir.into()),
        };
        let made =
            fs::create_dir_all(diary.dir.join("builds")).and_then(|()| diary.lock().map(drop));
        made.map_err(|error| {
            let text = format!("cannot keep a history in `{}`", diary.dir.display());
            Failure::new(Exit::Failed, text)
                .caused_by(error)
                .hint("name another folder with --deploy-dir")
        })?;
        Ok(diary)
    }

    /// Where a job's files are.
    pub(super) fn folder(&self, id: JobId) -> PathBuf {
        self.dir.join("builds").join(id.to_string())
    }

    /// Writes down how a job is.
    pub(super) fn write(&self, job: &Job) -> io::Result<()> {
        let folder = self.folder(job.id);
        fs::create_dir_all(&folder)?;
        let metadata = serde_saphyr::to_string(&metadata(job)).map_err(io::Error::other)?;
        file::rewrite(&folder.join("metadata.yaml"), metadata.as_bytes())?;
        if job.state.is_terminal() {
            file::rewrite(&folder.join("status.md"), status(job).as_bytes())?;
        }
        self.enter(job)
    }

    /// Writes down what a job has said, a file a phase. Logs may be long: they pass in pages.
    pub(super) async fn write_logs(&self, builds: &dyn Builds, id: JobId) -> anyhow::Result<()> {
        let mut files = LogFiles::new(self.folder(id), id);
        let mut query = LogQuery::default();
        loop {
            let page = builds.logs(id, query.clone()).await?;
            for line in &page.lines {
                files.add(line)?;
            }
            if !page.more {
                return Ok(files.close()?);
            }
            query.cursor = Some(page.next);
        }
    }

    /// Puts a job's entry into `history.md`, in the place of an older one of it.
    fn enter(&self, job: &Job) -> io::Result<()> {
        let _lock = self.lock()?;
        let path = self.dir.join("history.md");
        let old = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        file::rewrite(&path, with_entry(&old, job.id, &entry(job)).as_bytes())
    }

    /// Holds the folder until it is dropped; nothing is left behind in it.
    fn lock(&self) -> io::Result<File> {
        let folder = File::open(&self.dir)?;
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
        Ok(folder)
    }
}

/// The log files of a job while they are written.
struct LogFiles {
    folder: PathBuf,
    id: JobId,
    open: BTreeMap<Phase, (PathBuf, BufWriter<File>)>,
    last: Option<Run>,
}

impl LogFiles {
    fn new(folder: PathBuf, id: JobId) -> Self {
        Self {
            folder,
            id,
            open: BTreeMap::new(),
            last: None,
        }
    }

    fn add(&mut self, line: &Line) -> io::Result<()> {
        // A cleanup is of no phase.
        let Some(phase) = line.run.phase() else {
            return Ok(());
        };
        let heading = (phase == Phase::Test && self.last != Some(line.run))
            .then(|| format!("=== Test Job ({}) ===", line.run.of_job(&self.id)));
        self.last = Some(line.run);
        let file = self.file(phase)?;
        if let Some(heading) = heading {
            writeln!(file, "{heading}")?;
        }
        writeln!(file, "{}", labelled(line))
    }

    fn file(&mut self, phase: Phase) -> io::Result<&mut BufWriter<File>> {
        let path = self.folder.join(format!("{phase}.log"));
        let slot = match self.open.entry(phase) {
            std::collections::btree_map::Entry::Occupied(slot) => slot.into_mut(),
            std::collections::btree_map::Entry::Vacant(slot) => {
                let beside = file::beside(&path);
                let file = BufWriter::new(File::create(&beside)?);
                slot.insert((beside, file))
            }
        };
        Ok(&mut slot.1)
    }

    /// Puts the files where they belong.
    fn close(mut self) -> io::Result<()> {
        for (phase, (beside, mut file)) in std::mem::take(&mut self.open) {
            file.flush()?;
            fs::rename(beside, self.folder.join(format!("{phase}.log")))?;
        }
        Ok(())
    }
}

impl Drop for LogFiles {
    fn drop(&mut self) {
        for (beside, _) in self.open.values() {
            let _ = fs::remove_file(beside);
        }
    }
}

fn metadata(job: &Job) -> Metadata {
    let times = JobMetrics::of(job);
    let failure = job.failure.as_ref();
    let failed_phase = failure.and_then(|failure| failure.phase);
    Metadata {
        job_id: job.id,
        submitted_at: job.created_at,
        started_at: times.build_start,
        completed_at: job.finished_at,
        status: job.state,
        branch: branch(&job.config.git_ref),
        git_ref: job.config.git_ref.clone(),
        commit: job.built.as_ref().and_then(|built| built.commit.clone()),
        digest: job.built.as_ref().map(|built| built.digest.to_string()),
        error: failure.map(|failure| failure.error.clone()),
        failed_phase,
        job_config: job.config.shown(job.id),
        phases: phases(job),
    }
}

fn phases(job: &Job) -> BTreeMap<Phase, PhaseMetadata> {
    let failed = job.failure.as_ref().and_then(|failure| failure.phase);
    let began = job.phases.iter().filter(|(_, span)| span.start.is_some());
    began
        .map(|(phase, span)| {
            let status = match (span.end, failed == Some(*phase)) {
                (_, true) => State::Failed,
                (Some(_), false) => State::Succeeded,
                (None, false) => job.state,
            };
            let metadata = PhaseMetadata {
                status,
                started_at: span.start,
                completed_at: span.end,
                duration: length(span.start, span.end),
            };
            (*phase, metadata)
        })
        .collect()
}

/// `2m15s`, as the original writes it; `0s` for what has not ended.
fn length(start: Option<Timestamp>, end: Option<Timestamp>) -> String {
    let span = match (start, end) {
        (Some(start), Some(end)) => since(end, start),
        _ => Duration::ZERO,
    };
    let seconds = (span + Duration::from_millis(500)).as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// `refs/heads/main` is `main`.
fn branch(reference: &str) -> String {
    let bare = reference
        .strip_prefix("refs/heads/")
        .or_else(|| reference.strip_prefix("refs/tags/"))
        .unwrap_or(reference);
    if bare.is_empty() { "unknown" } else { bare }.to_owned()
}

fn sign(state: State) -> &'static str {
    match state {
        State::Succeeded => "✅",
        State::Failed => "❌",
        State::Pending | State::Building | State::Testing | State::Publishing => "⏳",
    }
}

/// The text of `status.md`. Writing to a string cannot fail.
fn status(job: &Job) -> String {
    let mut text = format!("# Build Status: {}\n\n", job.id);
    let _ = writeln!(text, "**Status**: {} {}", sign(job.state), job.state);
    let _ = writeln!(text, "**Branch**: {}", branch(&job.config.git_ref));
    let _ = writeln!(text, "**Git Ref**: {}", job.config.git_ref);
    let started = job.phases.get(&Phase::Build).and_then(|span| span.start);
    if let Some(started) = started {
        let _ = writeln!(text, "**Started**: {started:.0}");
    }
    if let Some(finished) = job.finished_at {
        let _ = writeln!(text, "**Completed**: {finished:.0}");
        if started.is_some() {
            let _ = writeln!(text, "**Duration**: {}", length(started, job.finished_at));
        }
    }
    text.push_str("\n## Phases\n");
    for (phase, metadata) in phases(job) {
        let how = match metadata.status {
            State::Failed => "❌ FAILED",
            State::Succeeded => "✅ SUCCESS",
            _ => "⏳",
        };
        let name = phase.name();
        let (first, rest) = name.split_at(1);
        let name = format!("{}{rest}", first.to_uppercase());
        let _ = writeln!(text, "- {name}: {how} ({})", metadata.duration);
    }
    let config = job.config.shown(job.id);
    text.push_str("\n## Image\n");
    let _ = writeln!(text, "- Registry: {}", config.registry_url);
    let _ = writeln!(text, "- Image: {}", config.image_name);
    let _ = writeln!(text, "- Tags: {}", config.image_tags.join(", "));
    if let Some(built) = &job.built {
        let _ = writeln!(text, "- Digest: {}", built.digest);
    }
    if let Some(failure) = &job.failure {
        let _ = write!(
            text,
            "\n## Error\n```\n{}\n```\n",
            failure.error.replace("```", "'''")
        );
    }
    text
}

/// A job's entry in `history.md`.
fn entry(job: &Job) -> String {
    let config = job.config.shown(job.id);
    let submitted = job.created_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let mut text = format!("## {} ({submitted})\n", job.id);
    let _ = writeln!(
        text,
        "**Branch**: {} | **Git Ref**: {}",
        branch(&config.git_ref),
        config.git_ref
    );
    let _ = write!(text, "**Status**: {} {}", sign(job.state), job.state);
    if job.finished_at.is_some() {
        let _ = write!(
            text,
            " | **Duration**: {}",
            length(Some(job.created_at), job.finished_at)
        );
    }
    text.push('\n');
    let _ = writeln!(text, "**Tags**: {}", config.image_tags.join(", "));
    if let Some(failure) = &job.failure {
        let _ = writeln!(text, "**Error**: {}", failure.error.replace('\n', " "));
    }
    text.push('\n');
    text
}

/// The history with an entry: on top, or where an older one of the same job is.
fn with_entry(old: &str, id: JobId, entry: &str) -> String {
    let body = old.strip_prefix(HEADER).unwrap_or(old);
    let heading = format!("## {id} (");
    let begin = body
        .match_indices(&heading)
        .map(|(at, _)| at)
        .find(|at| *at == 0 || body[..*at].ends_with('\n'));
    let Some(begin) = begin else {
        return format!("{HEADER}{entry}{body}");
    };
    let end = body[begin + 1..]
        .find("\n## ")
        .map_or(body.len(), |at| begin + 1 + at + 1);
    format!("{HEADER}{}{entry}{}", &body[..begin], &body[end..])
}

#[cfg(test)]
mod tests;
