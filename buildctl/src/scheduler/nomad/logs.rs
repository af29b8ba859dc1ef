//! The logs of runs, read from the files in which Nomad keeps what tasks say (client/logmon in Nomad's source; documentation,
//! "Client HTTP API: Read File at Offset").
//!
//! Nomad's own log stream does not end when a task does, and its offsets count from the oldest file that is left, so that nobody
//! can tell what a rotation took away. Files can: they have a number and a size. So a position is both,
//!
//! ```text
//!   position of a stream = number of the file << 40 | offset in it
//!   the number of the file counts on through allocations: the files of the second one begin at 1 << 16
//!   an offset in the upper half is one before the file's end: what remains if a distance is taken from a position in the next file
//! ```
//!
//! and a look at a run (its allocation, whether that has ended, the sizes of its files, in this order) says what there is to
//! read. Looks are shared: however many read one run, it is looked at once in an interval, and that grows with the number of runs
//! that are read.

mod page;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use self::page::Source;
use super::{
    client::{ApiError, NomadApi},
    observe,
    wire::{FileInfo, NomadJob, TASK, TaskKind},
};
use crate::{
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::Run,
};

/// Where the files are, below the allocation's folder.
const FOLDER: &str = "alloc/logs";
/// Bits of the number of a file of one allocation.
const ATTEMPT: u32 = 16;
/// Between looks at one run; more if many runs are read.
const INTERVAL: Duration = Duration::from_millis(250);
/// For each run that is read.
const SHARE: Duration = Duration::from_millis(5);
/// The longest interval.
const LONGEST: Duration = Duration::from_secs(2);
/// How long after a task's end Nomad may still write what it said.
const SETTLES: Duration = Duration::from_secs(1);
/// How much of a log is searched for its last record.
const TAIL: u64 = 64 << 10;

/// What there is of a run's log.
#[derive(Clone, Debug, Default)]
struct Look {
    kind: Option<TaskKind>,
    allocation: Option<String>,
    /// Whether nothing will be added.
    over: bool,
    began: bool,
    /// None if the node has no files of it (yet, or any more).
    out: Option<Files>,
    err: Option<Files>,
}

/// The files of one stream, by their numbers.
type Files = Vec<(u64, u64)>;

/// The last look at a run, and when it began.
type Shared = tokio::sync::Mutex<Option<(Instant, Arc<Look>)>>;

/// All logs that are read.
#[derive(Debug, Default)]
pub(super) struct Logs {
    looks: Mutex<HashMap<(JobId, Run), Weak<Shared>>>,
}

impl Logs {
    /// A page; see [`crate::scheduler::Scheduler::read_log`].
    pub(super) async fn read(
        &self,
        api: &NomadApi,
        (job, run): (&Job, Run),
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, ApiError> {
        let deadline = Instant::now() + wait;
        let shared = self.shared(job.id, run);
        let mut since = Instant::now();
        loop {
            let look = look(api, (job, run), &shared, since).await?;
            let chunk = page::read(api, &look, run, from, limit).await?;
            let now = Instant::now();
            let stands = chunk.lines.is_empty() && !chunk.complete && !chunk.lost;
            if !stands || now >= deadline {
                return Ok(chunk);
            }
            let pause = self.interval();
            sleep(pause.min(deadline - now)).await;
            // What others saw meanwhile is new enough, except for the last time.
            since = if Instant::now() >= deadline {
                Instant::now()
            } else {
                now + pause / 2
            };
        }
    }

    /// The end as of now.
    pub(super) async fn end(
        &self,
        api: &NomadApi,
        job: &Job,
        run: Run,
    ) -> Result<Position, ApiError> {
        let shared = self.shared(job.id, run);
        let look = look(api, (job, run), &shared, Instant::now()).await?;
        Ok(Position {
            out: page::end(look.out.as_ref()),
            err: page::end(look.err.as_ref()),
        })
    }

    fn shared(&self, id: JobId, run: Run) -> Arc<Shared> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = looks.get(&(id, run)).and_then(Weak::upgrade) {
            return known;
        }
        looks.retain(|_, look| look.strong_count() > 0);
        let new = Arc::new(Shared::default());
        looks.insert((id, run), Arc::downgrade(&new));
        new
    }

    fn interval(&self) -> Duration {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = u32::try_from(looks.len()).unwrap_or(u32::MAX);
        SHARE.saturating_mul(runs).clamp(INTERVAL, LONGEST)
    }
}

/// A look that began at `since` or later, by whomever.
async fn look(
    api: &NomadApi,
    of: (&Job, Run),
    shared: &Shared,
    since: Instant,
) -> Result<Arc<Look>, ApiError> {
    let mut last = shared.lock().await;
    if let Some((began, look)) = &*last
        && (*began >= since || look.over)
    {
        return Ok(Arc::clone(look));
    }
    let began = Instant::now();
    let kind = last.as_ref().and_then(|(_, look)| look.kind);
    let look = Arc::new(Look::at(api, of, kind).await?);
    *last = Some((began, Arc::clone(&look)));
    Ok(look)
}

impl Look {
    async fn at(
        api: &NomadApi,
        (job, run): (&Job, Run),
        kind: Option<TaskKind>,
    ) -> Result<Self, ApiError> {
        let name = run.of_job(&job.id);
        let allocations = api.allocations(&name).await?;
        let Some(allocation) = observe::newest(&allocations) else {
            return Self::unplaced(api, &name).await;
        };
        let known = match kind {
            Some(_) if !allocation.is_over() => None,
            _ => api.job(&name).await?,
        };
        let kind = kind.or_else(|| known.as_ref().map(NomadJob::kind));
        let again = |job: &NomadJob| observe::comes_again(job, allocation);
        let over = allocation.is_over() && !known.as_ref().is_some_and(again);
        let task = allocation.task();
        if over {
            settle(task.and_then(|task| task.finished_at)).await;
        }
        let attempt = allocations.len() as u64 - 1;
        let files = api.files(&allocation.id, FOLDER).await;
        let files = match files {
            // A node that is out of reach says nothing now; one that is lost never will.
            Err(ApiError::Unreachable { .. }) if over && allocation.client_status == "lost" => None,
            files => files?,
        };
        Ok(Self {
            kind,
            allocation: Some(allocation.id.clone()),
            over,
            began: task.is_some_and(|task| task.started_at.is_some()),
            out: files
                .as_deref()
                .map(|files| numbered(of_stream(files, "stdout"), attempt)),
            err: files
                .as_deref()
                .map(|files| numbered(of_stream(files, "stderr"), attempt)),
        })
    }

    /// A job that is stopped and has no allocation says nothing.
    async fn unplaced(api: &NomadApi, name: &str) -> Result<Self, ApiError> {
        let job = api.job(name).await?;
        Ok(Self {
            over: job.is_some_and(|job| job.stop || job.status == "dead"),
            ..Self::default()
        })
    }
}

/// Waits until Nomad has written what a task said that ended just now.
async fn settle(finished: Option<Timestamp>) {
    let Some(finished) = finished else { return };
    let since = Timestamp::now().duration_since(finished);
    let settles = SignedDuration::try_from(SETTLES).unwrap_or(SignedDuration::ZERO);
    if let Ok(left) = Duration::try_from(settles - since) {
        sleep(left.min(SETTLES)).await;
    }
}

/// `main.stdout.3` is the fourth file of that stream.
fn of_stream(files: &[FileInfo], stream: &str) -> Files {
    let prefix = format!("{TASK}.{stream}.");
    let mut found: Files = files
        .iter()
        .filter(|file| !file.is_dir)
        .filter_map(|file| Some((file.name.strip_prefix(&prefix)?.parse().ok()?, file.size)))
        .collect();
    found.sort_unstable();
    found
}

/// The files of the allocation after so many others.
fn numbered(mut files: Files, attempt: u64) -> Files {
    for (number, _) in &mut files {
        *number |= attempt << ATTEMPT;
    }
    files
}

/// The text of the last record that buildctl said and that begins so; none if the log is gone or has none.
pub(super) async fn last_record(
    api: &NomadApi,
    allocation: &str,
    head: &str,
) -> Result<Option<String>, ApiError> {
    let Some(files) = api.files(allocation, FOLDER).await? else {
        return Ok(None);
    };
    let source = Source {
        api,
        allocation,
        stream: "stdout",
    };
    let mut end = Vec::new();
    // Nomad cuts wherever a file is full, so that the record may be in two of them, or before an empty one.
    let files = of_stream(&files, "stdout").into_iter().rev();
    for (index, size) in files.filter(|(_, size)| *size > 0) {
        let missing = TAIL - end.len() as u64;
        let part = source
            .part(index, size.saturating_sub(missing), missing.min(size))
            .await?;
        let Some(mut part) = part else { break };
        part.append(&mut end);
        end = part;
        if end.len() as u64 >= TAIL {
            break;
        }
    }
    Ok(page::last_said(&end, head))
}

/// The last lines that a task said, of either stream, as one.
pub(super) async fn last_words(api: &NomadApi, allocation: &str) -> Result<String, ApiError> {
    let files = api.files(allocation, FOLDER).await?.unwrap_or_default();
    let mut words = String::new();
    for stream in ["stdout", "stderr"] {
        let Some((index, size)) = of_stream(&files, stream).last().copied() else {
            continue;
        };
        let source = Source {
            api,
            allocation,
            stream,
        };
        let bytes = source.part(index, size.saturating_sub(1000), 1000).await?;
        words += &String::from_utf8_lossy(&bytes.unwrap_or_default());
        words.push('\n');
    }
    let lines: Vec<&str> = words
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines.len().saturating_sub(6);
    Ok(lines[last..].join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_stream_are_in_the_order_of_their_numbers() {
        let file = |name: &str, size| FileInfo {
            name: name.to_owned(),
            size,
            is_dir: false,
        };
        let all = [
            file("main.stdout.10", 1),
            file("main.stdout.9", 2),
            file("main.stderr.0", 3),
            file(".main.stdout.fifo", 0),
            file("main.stdout.x", 4),
            file("other.stdout.0", 5),
        ];
        assert_eq!(of_stream(&all, "stdout"), [(9, 2), (10, 1)]);
        assert_eq!(of_stream(&all, "stderr"), [(0, 3)]);
        assert_eq!(
            numbered(of_stream(&all, "stdout"), 1),
            [(65_536 + 9, 2), (65_536 + 10, 1)],
            "a second allocation is behind the first"
        );
    }
}
