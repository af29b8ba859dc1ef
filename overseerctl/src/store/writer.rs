//! The thread that writes the database, and how records get to it without waiting.
//!
//! A commit takes everything that waits. While the database fails, the batch under way is kept and tried again with
//! growing pauses; what comes in meanwhile merges in the backlog behind it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::backlog::{Backlog, Batch};
use super::database::Database;
use super::error::StoreError;

/// A record waits so long for company, so that a burst of starts is a few commits and not thousands.
const GATHERING: Duration = Duration::from_millis(10);

/// Pauses between attempts while the database fails: the first, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// So long after a warning about dropped runs the next one has to wait.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Nothing to do before this; how long it is does not matter.
const IDLE: Duration = Duration::from_hours(1);

/// How the database is doing, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// Records that wait to be written.
    pub pending: usize,
    /// Records that were never written: ended runs, because too many waited, and whatever came after the end.
    pub dropped: u64,
    /// Transactions that failed.
    pub write_errors: u64,
    /// Whether the last transaction did.
    pub failing: bool,
}

/// A handle on the thread. Dropping it writes what is pending and ends it.
#[derive(Debug)]
pub(super) struct WriterThread {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Debug)]
struct State {
    backlog: Backlog,
    /// Told how the next attempt ended.
    waiters: Vec<mpsc::Sender<Result<(), StoreError>>>,
    closing: bool,
    /// The thread takes nothing any more.
    closed: bool,
    /// Records in the batch under way.
    in_flight: usize,
    write_errors: u64,
    failing: bool,
    /// Records that came after the end.
    late: u64,
}

impl State {
    fn is_urgent(&self) -> bool {
        self.closing || !self.waiters.is_empty()
    }
}

impl WriterThread {
    pub(super) fn start(mut database: Database) -> Result<Self, StoreError> {
        let path = database.path().to_owned();
        let shared = Arc::new(Shared::new(Backlog::new(database.known()?)));
        let writer = Writer {
            database,
            shared: Arc::clone(&shared),
            in_flight: Batch::default(),
            pause: None,
            warned: Warned::default(),
        };
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(|| writer.run());
        let thread = thread.map_err(|error| StoreError::Thread {
            path: path.clone(),
            source: Arc::new(error),
        })?;
        Ok(Self {
            path,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Changes the backlog; the thread comes for it.
    pub(super) fn record(&self, change: impl FnOnce(&mut Backlog)) {
        let mut state = self.shared.lock();
        if state.closed {
            state.late += 1;
            return;
        }
        let was_idle = state.backlog.len() == 0;
        change(&mut state.backlog);
        drop(state);
        if was_idle {
            self.shared.wanted.notify_one();
        }
    }

    /// Waits until everything recorded so far is committed; the error is that of an attempt made now.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.attempt(|_| ()).unwrap_or_else(|| {
            Err(StoreError::Closed {
                path: self.path.clone(),
            })
        })
    }

    /// Like a flush, but does not insist while the database fails.
    pub(super) fn settle(&self) {
        if !self.shared.lock().failing {
            // The failure is logged, and what is in the file can be read all the same.
            let _ = self.flush();
        }
    }

    /// Makes a last attempt and ends the thread. Later calls do nothing.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let result = self.attempt(|state| state.closing = true);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic over there has been reported by the panic hook.
            let _ = thread.join();
        }
        result.unwrap_or(Ok(()))
    }

    pub(super) fn health(&self) -> StoreHealth {
        let state = self.shared.lock();
        StoreHealth {
            pending: state.backlog.len() + state.in_flight,
            dropped: state.backlog.dropped() + state.late,
            write_errors: state.write_errors,
            failing: state.failing,
        }
    }

    /// Waits for an attempt to write; `None` if the thread has ended.
    fn attempt(&self, change: impl FnOnce(&mut State)) -> Option<Result<(), StoreError>> {
        let (done, waiter) = mpsc::channel();
        let mut state = self.shared.lock();
        if state.closed {
            return None;
        }
        change(&mut state);
        state.waiters.push(done);
        drop(state);
        self.shared.wanted.notify_one();
        waiter.recv().ok()
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        // A failure is logged by the thread.
        let _ = self.close();
    }
}

impl Shared {
    fn new(backlog: Backlog) -> Self {
        let state = State {
            backlog,
            waiters: Vec::new(),
            closing: false,
            closed: false,
            in_flight: 0,
            write_errors: 0,
            failing: false,
            late: 0,
        };
        Self {
            state: Mutex::new(state),
            wanted: Condvar::new(),
        }
    }

    /// Nothing here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most so long, until something is to be written; or, while the database fails, until it is time to try
    /// again or somebody insists.
    fn wait(&self, longest: Duration, failing: bool) {
        let rest = |state: &mut State| !state.is_urgent() && (failing || state.backlog.len() == 0);
        let waited = self.wanted.wait_timeout_while(self.lock(), longest, rest);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !failing && state.backlog.len() > 0 {
            drop(
                self.wanted
                    .wait_timeout_while(state, GATHERING, |state| !state.is_urgent()),
            );
        }
    }
}

/// The thread's own state.
struct Writer {
    database: Database,
    shared: Arc<Shared>,
    /// Taken from the backlog and not committed yet.
    in_flight: Batch,
    /// Until the next attempt, while the database fails.
    pause: Option<Duration>,
    warned: Warned,
}

/// Which dropped runs have been mentioned in the log, and when.
#[derive(Debug, Default)]
struct Warned {
    dropped: u64,
    last: Option<Instant>,
}

impl Warned {
    /// Given the number of runs dropped so far, how many are worth a warning now; 0 is none.
    fn due(&mut self, dropped: u64, now: Instant) -> u64 {
        let news = dropped - self.dropped;
        let is_recent = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < WARNING_INTERVAL);
        if news == 0 || is_recent {
            return 0;
        }
        *self = Self {
            dropped,
            last: Some(now),
        };
        news
    }
}

impl Writer {
    fn run(mut self) {
        loop {
            let longest = self.pause.or(self.database.expiry_wait()).unwrap_or(IDLE);
            self.shared.wait(longest, self.pause.is_some());
            let (waiters, closing) = self.take();
            let written = self.write();
            self.note(&written);
            for waiter in waiters {
                // Whoever no longer waits does not mind.
                let _ = waiter.send(written.clone());
            }
            if closing {
                return;
            }
        }
    }

    /// Takes what there is to write, unless an older batch has to be written first, and those who wait for it.
    fn take(&mut self) -> (Vec<mpsc::Sender<Result<(), StoreError>>>, bool) {
        let mut state = self.shared.lock();
        if self.in_flight.is_empty() {
            self.in_flight = state.backlog.take();
            state.in_flight = self.in_flight.len();
        }
        state.closed = state.closing;
        (std::mem::take(&mut state.waiters), state.closing)
    }

    /// Writes the batch under way, and after an outage also what has gathered behind it.
    fn write(&mut self) -> Result<(), StoreError> {
        let gathered_behind = self.pause.is_some();
        self.write_batch()?;
        if gathered_behind {
            self.in_flight = self.shared.lock().backlog.take();
            self.write_batch()?;
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), StoreError> {
        let expiry_is_due = self
            .database
            .expiry_wait()
            .is_some_and(|wait| wait.is_zero());
        if !self.in_flight.is_empty() || expiry_is_due || self.pause.is_some() {
            self.database.write(&self.in_flight)?;
            self.in_flight = Batch::default();
        }
        Ok(())
    }

    /// Keeps account of the outcome, and says when an outage begins and ends.
    fn note(&mut self, written: &Result<(), StoreError>) {
        let mut state = self.shared.lock();
        state.in_flight = self.in_flight.len();
        state.failing = written.is_err();
        state.write_errors += u64::from(written.is_err());
        let dropped = state.backlog.dropped();
        drop(state);
        let before = self.pause;
        self.pause = written
            .is_err()
            .then(|| before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LAST_PAUSE)));
        match written {
            Err(error) if before.is_none() => {
                error!(
                    error = error as &dyn Error,
                    "history cannot be written; the daemon goes on and tries again"
                );
            }
            Ok(()) if before.is_some() => info!("history is written again"),
            _ => {}
        }
        match self.warned.due(dropped, Instant::now()) {
            0 => {}
            runs => warn!(
                runs,
                "history cannot keep up; ended runs are left out of it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_runs_are_mentioned_once_a_minute_and_none_is_forgotten() {
        let (mut warned, now) = (Warned::default(), Instant::now());
        assert_eq!(warned.due(0, now), 0);
        assert_eq!(warned.due(3, now), 3);
        assert_eq!(warned.due(5, now + WARNING_INTERVAL / 2), 0);
        assert_eq!(warned.due(9, now + WARNING_INTERVAL), 6);
        assert_eq!(warned.due(9, now + WARNING_INTERVAL * 2), 0);
    }
}
