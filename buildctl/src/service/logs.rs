//! Pages of a job's log: the logs of its runs one after the other, build, tests, publish. A page holds no more text than asked
//! for, however long the logs are; from the end of a log only as much is read as is shown.

use std::{collections::VecDeque, time::Duration};

use super::{BuildError, LogPage, LogQuery, digest::Sieve, live::Service, readers::CHUNK};
use crate::{
    job::Job,
    logs::{Chunk, Cursor, Line, Position, Stream},
    phase::{Observed, Phase, Progress, Run},
    scheduler::SchedulerError,
};

/// Most bytes of a log that one page looks through: a page of a long log with few matches ends there, and says that there is
/// more.
const SCAN: usize = 64 << 20;

/// Bytes that are read from the end of a log at first.
const BLOCK: u32 = 64 << 10;

/// What a line costs besides its text, so that empty ones do not come for free.
const LINE: usize = 32;

/// The runs of a job whose logs belong to its log, in order.
pub(super) fn runs(job: &Job, phase: Option<Phase>) -> Vec<Run> {
    let wanted = |run: &Run| {
        run.phase()
            .is_some_and(|of| phase.is_none_or(|phase| phase == of))
    };
    job.runs.keys().copied().filter(wanted).collect()
}

/// Corrects what a scheduler says of a log by what the record says of the run: of one that ended without beginning, nothing
/// will come; one that is no longer known has lost its log.
pub(super) fn correct(
    run: Option<&Observed>,
    terminal: bool,
    from: Position,
    chunk: Result<Chunk, SchedulerError>,
) -> Result<Chunk, SchedulerError> {
    let ended = run.is_some_and(|run| matches!(run.progress, Progress::Ended { .. })) || terminal;
    let began = run.is_some_and(|run| run.started_at.is_some());
    match chunk {
        Ok(mut chunk) => {
            chunk.complete |= chunk.lines.is_empty() && ended && !began;
            Ok(chunk)
        }
        Err(SchedulerError::Unknown) => Ok(Chunk {
            lines: Vec::new(),
            ends: Vec::new(),
            next: from,
            complete: ended,
            lost: began && ended && from == Position::default(),
        }),
        Err(error) => Err(error),
    }
}

/// Lines for a page. Full is full; with a limit of lines, older ones make room for newer ones instead.
struct Sheet {
    lines: VecDeque<Line>,
    bytes: usize,
    limit: usize,
    last: Option<usize>,
}

impl Sheet {
    fn new(limit: usize, last: Option<usize>) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            limit,
            last,
        }
    }

    fn push(&mut self, line: Line) {
        self.bytes += line.text.len() + LINE;
        self.lines.push_back(line);
        let Some(last) = self.last else { return };
        while self.lines.len() > last || (self.bytes > self.limit && self.lines.len() > 1) {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.text.len() + LINE;
        }
    }

    fn room(&self) -> usize {
        match self.last {
            Some(_) => CHUNK,
            None => self.limit.saturating_sub(self.bytes),
        }
    }
}

/// How far a run was read.
struct Read {
    complete: bool,
    /// Whether the page had no room for more.
    cut: bool,
}

/// A page, being filled.
pub(super) struct Pager<'a> {
    service: &'a Service,
    job: &'a Job,
    sieve: Sieve,
    sheet: Sheet,
    cursor: Cursor,
    scanned: usize,
    lost: bool,
}

impl<'a> Pager<'a> {
    /// The page that a query asks for.
    pub(super) async fn page(
        service: &'a Service,
        job: &'a Job,
        query: LogQuery,
    ) -> Result<LogPage, BuildError> {
        let most = service.policy().log_bytes;
        // A page without room would never come to an end.
        let limit = query.max_bytes.map_or(most, |bytes| bytes.clamp(1, most));
        let sieve = Sieve::of(&query)?;
        let runs = runs(job, query.phase);
        let last = query.tail.filter(|_| query.cursor.is_none());
        let mut pager = Self {
            service,
            job,
            sieve,
            sheet: Sheet::new(limit, last.map(Into::into)),
            cursor: query.cursor.clone().unwrap_or_default(),
            scanned: 0,
            lost: false,
        };
        let (complete, more) = match last {
            Some(_) if pager.sieve.is_open() => (pager.backwards(&runs).await?, false),
            _ => pager.forwards(&runs).await?,
        };
        if complete && query.cursor.is_none() {
            let rest = pager.sieve.rest();
            for line in rest {
                pager.sheet.push(line);
            }
        }
        Ok(LogPage {
            lines: pager.sheet.lines.into(),
            next: pager.cursor,
            complete: complete && job.state.is_terminal(),
            more,
            lost: pager.lost,
        })
    }

    /// Reads all runs from the cursor on: whether all are complete, and whether there is more than the page holds.
    async fn forwards(&mut self, runs: &[Run]) -> Result<(bool, bool), BuildError> {
        let mut complete = true;
        for run in runs {
            let read = self.run(*run).await?;
            if read.cut {
                return Ok((false, true));
            }
            complete &= read.complete;
        }
        Ok((complete, false))
    }

    async fn run(&mut self, run: Run) -> Result<Read, BuildError> {
        let mut at = self.cursor.0.get(&run).copied().unwrap_or_default();
        loop {
            let room = self.sheet.room();
            let tired = self.sheet.last.is_none() && self.scanned >= SCAN;
            if room == 0 || tired {
                // Whether there is more is known by the next page only.
                return Ok(Read {
                    complete: false,
                    cut: true,
                });
            }
            let chunk = self.read(run, at, room.min(1 << 20)).await?;
            let stands = chunk.next == at;
            at = chunk.next;
            self.cursor.0.insert(run, at);
            self.take(chunk.lines);
            if chunk.complete || stands {
                return Ok(Read {
                    complete: chunk.complete,
                    cut: false,
                });
            }
        }
    }

    fn take(&mut self, lines: Vec<Line>) {
        for line in lines {
            self.scanned += line.text.len() + LINE;
            for line in self.sieve.pass(line) {
                self.sheet.push(line);
            }
        }
    }

    async fn read(&mut self, run: Run, from: Position, limit: usize) -> Result<Chunk, BuildError> {
        let scheduler = self.service.scheduler();
        let chunk = scheduler
            .read_log(self.job, run, from, limit, Duration::ZERO)
            .await;
        let terminal = self.job.state.is_terminal();
        let chunk = correct(self.job.runs.get(&run), terminal, from, chunk)?;
        self.lost |= chunk.lost;
        Ok(chunk)
    }

    /// Reads the last lines: whether all runs are complete.
    async fn backwards(&mut self, runs: &[Run]) -> Result<bool, BuildError> {
        let wanted = self.sheet.last.unwrap_or(usize::MAX);
        let mut complete = true;
        let mut parts: Vec<VecDeque<Line>> = Vec::new();
        let (mut lines, mut bytes) = (0, 0);
        for run in runs.iter().rev() {
            let full = lines >= wanted || bytes >= self.sheet.limit;
            let room = Sheet::new(
                self.sheet.limit.saturating_sub(bytes),
                Some(wanted.saturating_sub(lines)),
            );
            let (sheet, ended) = if full {
                self.skip(*run).await?
            } else {
                self.last_of(*run, room).await?
            };
            complete &= ended;
            lines += sheet.lines.len();
            bytes += sheet.bytes;
            parts.push(sheet.lines);
        }
        self.sheet.lines = parts.into_iter().rev().flatten().collect();
        Ok(complete)
    }

    /// Puts the cursor behind a run whose lines have no room.
    async fn skip(&mut self, run: Run) -> Result<(Sheet, bool), BuildError> {
        let end = self.end(run).await?;
        self.cursor.0.insert(run, end);
        let ended = self
            .job
            .runs
            .get(&run)
            .is_some_and(|run| matches!(run.progress, Progress::Ended { .. }));
        Ok((Sheet::new(0, Some(0)), ended))
    }

    async fn end(&self, run: Run) -> Result<Position, BuildError> {
        match self.service.scheduler().log_end(self.job, run).await {
            Ok(end) => Ok(end),
            Err(SchedulerError::Unknown) => Ok(Position::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The last lines of one run, reading more and more from its end until there are enough.
    async fn last_of(&mut self, run: Run, room: Sheet) -> Result<(Sheet, bool), BuildError> {
        let end = self.end(run).await?;
        let mut block = u64::from(BLOCK);
        loop {
            let from = Position {
                out: end.out.saturating_sub(block),
                err: end.err.saturating_sub(block),
            };
            let mut sheet = Sheet::new(room.limit, room.last);
            let (next, complete, seen) = self.tail(run, from, &mut sheet).await?;
            let whole = from == Position::default();
            // What has no room any more shows that there are enough.
            if whole || seen > sheet.lines.len() {
                self.cursor.0.insert(run, next);
                return Ok((sheet, complete));
            }
            block = block.saturating_mul(4);
        }
    }

    /// Reads from a place that may be within a line to the end: where that is, whether it is the last, and how many lines.
    async fn tail(
        &mut self,
        run: Run,
        from: Position,
        sheet: &mut Sheet,
    ) -> Result<(Position, bool, usize), BuildError> {
        let mut broken = Broken::at(from);
        let (mut at, mut seen) = (from, 0);
        loop {
            let chunk = self.read(run, at, 1 << 20).await?;
            for line in chunk.lines {
                if !broken.is(&line) {
                    seen += 1;
                    sheet.push(line);
                }
            }
            if chunk.complete || chunk.next == at {
                return Ok((chunk.next, chunk.complete, seen));
            }
            at = chunk.next;
        }
    }
}

/// Which first lines are parts of lines only, because reading began within them.
struct Broken {
    stdout: bool,
    stderr: bool,
    one_file: bool,
}

impl Broken {
    fn at(from: Position) -> Self {
        Self {
            stdout: from.out > 0,
            stderr: from.err > 0,
            one_file: from.err == 0,
        }
    }

    fn is(&mut self, line: &Line) -> bool {
        let broken = match line.stream {
            Stream::Stderr if !self.one_file => &mut self.stderr,
            _ => &mut self.stdout,
        };
        std::mem::take(broken)
    }
}
