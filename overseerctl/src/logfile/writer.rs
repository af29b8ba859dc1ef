//! The thread that writes: takes what is due, appends it, keeps few files open, and says when a disk fails or recovers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use tracing::{info, warn};

use super::outage::Outages;
use super::target::Target;
use super::{Shared, Sink, lock};

/// Files that stay open. Ten thousand tasks with a log each must not need ten thousand descriptors.
pub(super) const OPEN_FILES: usize = 64;

/// Small chunks are joined up to this size, so that a chatty task costs few system calls.
const JOINED: usize = 256 << 10;

/// The thread's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The files that are open, the one used last at the end.
    open: Vec<Arc<Sink>>,
    outages: Outages,
    joined: Vec<u8>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: Vec::new(),
            outages: Outages::default(),
            joined: Vec::new(),
        }
    }

    /// Works until the last handle on the thread asks it to end, and writes what is pending by then.
    pub(super) fn run(mut self) {
        loop {
            let turn = self.shared.next();
            for sink in turn.due {
                self.visit(&sink);
            }
            if turn.reopen {
                self.reopen();
            }
            for waiter in turn.waiters {
                // Whoever no longer waits does not mind.
                let _ = waiter.send(());
            }
            if turn.closed {
                return;
            }
        }
    }

    fn visit(&mut self, sink: &Arc<Sink>) {
        let work = sink.take();
        let mut target = lock(&sink.target);
        if let Some(rotation) = work.rotation {
            target.set_rotation(rotation);
        }
        if !work.chunks.is_empty() {
            self.append(sink, &mut target, &work.chunks);
        }
        if work.finish {
            target.close();
        }
        let is_open = target.is_open();
        drop(target);
        self.note_use(sink, is_open);
        if work.finish {
            self.shared.forget(sink);
        }
    }

    fn append(&mut self, sink: &Sink, target: &mut Target, chunks: &[Bytes]) {
        let (failed_before, lost_before) = (target.is_failing(), target.lost());
        let appended = self.append_joined(target, chunks);
        let lost = target.lost() - lost_before;
        self.shared.lost_bytes.fetch_add(lost, Ordering::Relaxed);
        self.report(&sink.path, &appended, failed_before, lost);
        self.shared.written(chunks.iter().map(Bytes::len).sum());
    }

    /// Appends all chunks, even after a failure, so that the loss is counted where it happens.
    fn append_joined(&mut self, target: &mut Target, chunks: &[Bytes]) -> io::Result<()> {
        let mut appended = Ok(());
        let mut append = |data: &[u8]| {
            if let Err(error) = target.append(data) {
                appended = Err(error);
            }
        };
        for chunk in chunks {
            if self.joined.len() + chunk.len() > JOINED {
                append(&self.joined);
                self.joined.clear();
            }
            if chunk.len() > JOINED {
                append(chunk);
            } else {
                self.joined.extend_from_slice(chunk);
            }
        }
        append(&self.joined);
        self.joined.clear();
        appended
    }

    fn report(&mut self, path: &Path, appended: &io::Result<()>, failed_before: bool, lost: u64) {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let now = Instant::now();
        if let Err(error) = appended {
            self.shared.write_errors.fetch_add(1, Ordering::Relaxed);
            if self.outages.failed(directory, failed_before, lost, now) {
                warn!(path = %path.display(), %error, "log file cannot be written; lines are lost until it can");
            }
        } else if let Some(lost) = self.outages.written(directory, failed_before, now) {
            info!(directory = %directory.display(), lost, "log files are written again");
        }
    }

    /// Keeps the list of open files, and closes the one unused for longest if they are too many. One in the middle of a
    /// line stays open.
    fn note_use(&mut self, sink: &Arc<Sink>, is_open: bool) {
        self.open.retain(|open| !Arc::ptr_eq(open, sink));
        if is_open {
            self.open.push(Arc::clone(sink));
        }
        if self.open.len() > OPEN_FILES
            && let Some(idle) = self
                .open
                .iter()
                .position(|open| !lock(&open.target).is_mid_line())
        {
            lock(&self.open.remove(idle).target).close();
        }
        self.shared
            .open_files
            .store(self.open.len(), Ordering::Relaxed);
    }

    fn reopen(&self) {
        for sink in &self.open {
            lock(&sink.target).reopen();
        }
    }
}
