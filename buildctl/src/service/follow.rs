//! A job's log as it grows, and its changes, as one stream: every line of every run, in order within each run, a run's phase
//! after the phase before it. It ends when the job has ended and all is read; the last event is the job as it ended.
//!
//! The cursor behind a line is exact where the scheduler says where lines end and nothing is filtered; elsewhere it is so behind
//! the last line of what was read at once, and before that it is that of the part before: who goes on from there sees what came
//! since once more, and misses nothing. So the place of a run in it moves with an exact line and with no other. Of the end of a
//! log that was asked for, only the last line has a cursor.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::{BoxStream, FuturesUnordered},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    BuildError, Event, JobView, LogQuery,
    digest::Sieve,
    live::Service,
    logs::{Pager, correct, runs},
    news::Ear,
};
use crate::{
    job::{Job, JobId},
    logs::{Chunk, Cursor, Line, Position},
    phase::{Phase, Progress, Run},
    scheduler::SchedulerError,
};

/// How long a change may go unnoticed if the news of it got lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between reads of a log that has nothing and does not wait.
const BREATH: Duration = Duration::from_millis(200);

/// Events that wait for a slow reader.
const AHEAD: usize = 256;

/// What was read of a run.
type Part = (Run, Position, Result<Chunk, SchedulerErrorText>);

/// A scheduler's error, which many readers share.
type SchedulerErrorText = (bool, String);

/// The stream of a job's events.
pub(super) async fn follow(
    service: &Service,
    id: JobId,
    query: LogQuery,
) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError> {
    let ear = service.news().listen();
    let job = service.look(id).await?;
    let sieve = Sieve::of(&query)?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let follower = Follower {
        service: service.clone(),
        id,
        phase: query.phase,
        sieve,
        cursor: query.cursor.clone().unwrap_or_default(),
        told: query.cursor.clone().unwrap_or_default(),
        read: BTreeSet::new(),
        reading: BTreeSet::new(),
        shown: None,
        sender,
    };
    tokio::spawn(async move {
        let closed = follower.sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = follower.run(job, ear, query) => {}
        }
    });
    Ok(ReceiverStream::new(receiver).boxed())
}

/// One who follows a job.
struct Follower {
    service: Service,
    id: JobId,
    phase: Option<Phase>,
    sieve: Sieve,
    /// How far was read.
    cursor: Cursor,
    /// How far was told: what is read and left out by the sieve moves it no further.
    told: Cursor,
    /// Runs of which all is read.
    read: BTreeSet<Run>,
    /// Runs that are being read.
    reading: BTreeSet<Run>,
    /// The job as it was shown last.
    shown: Option<Job>,
    sender: mpsc::Sender<Result<Event, BuildError>>,
}

/// Why a follower ends before its time: nobody listens any more, or an error, which was told.
struct Over;

impl Follower {
    async fn run(mut self, job: Job, ear: Ear, query: LogQuery) {
        // Whoever listens was told why.
        let _: Result<(), Over> = self.go(job, ear, query).await;
    }

    async fn go(&mut self, mut job: Job, mut ear: Ear, query: LogQuery) -> Result<(), Over> {
        self.service.revive(&job).await;
        self.begin(&job, query).await?;
        let id = [self.id];
        let mut parts = FuturesUnordered::new();
        loop {
            let shared = Arc::new(job);
            for (run, from) in self.due(&shared) {
                parts.push(self.part(Arc::clone(&shared), run, from));
            }
            if shared.state.is_terminal() && parts.is_empty() {
                return self.end(&shared).await;
            }
            job = Arc::unwrap_or_clone(shared);
            tokio::select! {
                Some((run, from, chunk)) = parts.next() => self.take(&job, run, from, chunk).await?,
                () = ear.hear(&id) => job = self.look().await?,
                () = tokio::time::sleep(PATIENCE) => {
                    self.service.revive(&job).await;
                    job = self.look().await?;
                }
            }
        }
    }

    /// Shows the job, and the end of its log if only that is wanted.
    async fn begin(&mut self, job: &Job, query: LogQuery) -> Result<(), Over> {
        if !job.state.is_terminal() {
            self.show(job).await?;
        }
        if query.tail.is_none() || query.cursor.is_some() {
            return Ok(());
        }
        let service = self.service.clone();
        let page = match Pager::page(&service, job, query).await {
            Ok(page) => page,
            Err(error) => return self.fail(error).await,
        };
        self.cursor = page.next;
        let cursor = self.cursor.clone();
        self.tell(page.lines, |told| *told = cursor).await
    }

    /// The runs that can be read now and are not.
    fn due(&mut self, job: &Job) -> Vec<(Run, Position)> {
        let mut due = Vec::new();
        let mut open: Vec<Run> = Vec::new();
        for run in runs(job, self.phase) {
            if self.read.contains(&run) {
                continue;
            }
            // Runs of one phase are read side by side while they go on, and else one after the other.
            let goes_on = |run: &Run| !matches!(job.runs[run].progress, Progress::Ended { .. });
            let free = open
                .iter()
                .all(|before| before.phase() == run.phase() && goes_on(before));
            if free && self.reading.insert(run) {
                due.push((run, self.position(run)));
            }
            open.push(run);
        }
        due
    }

    fn position(&self, run: Run) -> Position {
        self.cursor.0.get(&run).copied().unwrap_or_default()
    }

    /// Reads on in a run.
    fn part(&self, job: Arc<Job>, run: Run, from: Position) -> BoxFuture<'static, Part> {
        let readers = self.service.readers().clone();
        async move {
            let chunk = readers.read(job, run, from).await;
            // Whoever reads alone need not copy it.
            let chunk = chunk.map(Arc::unwrap_or_clone);
            let chunk = chunk.map_err(|error| match &*error {
                SchedulerError::Unknown => (true, String::new()),
                other => (false, other.to_string()),
            });
            if chunk
                .as_ref()
                .map_or(true, |chunk| chunk.next == from && !chunk.complete)
            {
                tokio::time::sleep(BREATH).await;
            }
            (run, from, chunk)
        }
        .boxed()
    }

    async fn take(
        &mut self,
        job: &Job,
        run: Run,
        from: Position,
        chunk: Result<Chunk, SchedulerErrorText>,
    ) -> Result<(), Over> {
        self.reading.remove(&run);
        let chunk = match chunk {
            Ok(chunk) => Ok(chunk),
            Err((true, _)) => Err(SchedulerError::Unknown),
            // The engine is away: the log goes on when it is back.
            Err((false, _)) => return Ok(()),
        };
        let terminal = job.state.is_terminal();
        let Ok(chunk) = correct(job.runs.get(&run), terminal, from, chunk) else {
            return Ok(());
        };
        if chunk.lost {
            self.send(Event::Lost).await?;
        }
        let (next, complete) = (chunk.next, chunk.complete);
        if self.sieve.is_open() {
            self.tell_exactly(run, chunk).await?;
        } else {
            let lines = self.sieve.pass_all(chunk.lines);
            // What is held back until an error comes has been read, and is not told: it can only be found from the beginning.
            let is_exact = !self.sieve.holds_back();
            self.tell(lines, |told| {
                if is_exact {
                    told.0.insert(run, next);
                }
            })
            .await?;
        }
        self.cursor.0.insert(run, next);
        if complete {
            self.read.insert(run);
        }
        Ok(())
    }

    /// Tells the lines of a part, each of which moves the cursor if it is known where it ends.
    async fn tell_exactly(&mut self, run: Run, chunk: Chunk) -> Result<(), Over> {
        let ends = chunk
            .ends
            .into_iter()
            .map(Some)
            .chain(std::iter::repeat(None));
        let count = chunk.lines.len();
        for ((number, line), end) in (1..).zip(chunk.lines).zip(ends) {
            let end = if number == count {
                Some(chunk.next)
            } else {
                end
            };
            if let Some(end) = end {
                self.told.0.insert(run, end);
            }
            self.send(Event::Line(line, self.told.clone())).await?;
        }
        Ok(())
    }

    /// Tells lines, of which the last one moves the cursor.
    async fn tell(
        &mut self,
        mut lines: Vec<Line>,
        moves: impl FnOnce(&mut Cursor) + Send,
    ) -> Result<(), Over> {
        let last = lines.pop();
        for line in lines {
            self.send(Event::Line(line, self.told.clone())).await?;
        }
        let Some(last) = last else { return Ok(()) };
        moves(&mut self.told);
        self.send(Event::Line(last, self.told.clone())).await
    }

    /// The job's record now; shown if it changed and has not ended. That the scheduler knows more is for its attendant to
    /// write down: many follow, one asks.
    async fn look(&mut self) -> Result<Job, Over> {
        let job = match self.service.record(self.id).await {
            Ok(known) => known.job,
            Err(error) => return self.fail(error).await,
        };
        if !job.state.is_terminal() {
            self.show(&job).await?;
        }
        Ok(job)
    }

    async fn end(&mut self, job: &Job) -> Result<(), Over> {
        let rest = self.sieve.rest();
        self.tell(rest, |_| {}).await?;
        self.show(job).await
    }

    async fn show(&mut self, job: &Job) -> Result<(), Over> {
        let same = |shown: &Job| {
            (shown.state, &shown.runs, &shown.failure, &shown.kill)
                == (job.state, &job.runs, &job.failure, &job.kill)
        };
        if self.shown.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.shown = Some(job.clone());
        self.send(Event::Status(Box::new(JobView::of(job.clone()))))
            .await
    }

    async fn send(&self, event: Event) -> Result<(), Over> {
        self.sender.send(Ok(event)).await.map_err(|_| Over)
    }

    async fn fail<T>(&self, error: BuildError) -> Result<T, Over> {
        // Nobody may be listening.
        let _ = self.sender.send(Err(error)).await;
        Err(Over)
    }
}
