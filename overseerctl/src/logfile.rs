//! Append-only log files, written by one thread: the daemon's event log and the tasks' own logs.
//!
//! ```text
//!   LogFile::push ──▶ chunks of the file ──▶ agenda ──▶ writer thread ──▶ path, path.1, path.2 …
//!   LogFile::ready ◀────────────────────────── backlog ◀─────┘
//! ```
//!
//! What lives here: queues, and who waits for whom. What is in the lines is their writers' business; how one path is
//! appended to and rotated is `target`'s, which files are open is `writer`'s, names and lines of task logs are
//! `tasks`'s.
//!
//! # Guarantees
//!
//! - [`LogFile::push`] never waits for a disk. Memory is bounded because producers await [`LogFile::ready`] afterwards:
//!   a slow disk slows the tasks down whose output it takes.
//! - The bytes of one file are written in the order they were pushed, and rotated at line borders only.
//! - A disk that fails costs lines, which are counted, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::io;
use std::path::{self, Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::{fmt, mem};

use bytes::Bytes;
use tokio::sync::Notify;

mod outage;
mod target;
mod tasks;
mod writer;

pub use tasks::{LogFormat, TaskLogs};

use target::Target;

/// Bytes that may wait for the disk, over all files, before producers are asked to wait.
pub const HIGH_WATER: usize = 8 << 20;

/// When a file is full, and what becomes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes a file may have before the next line goes into a new one; 0 never rotates. Only a single line that is
    /// longer, or one that is pushed in pieces, makes a file larger.
    pub max_size: u64,
    /// Full files that are kept, as `path.1` (the newest), `path.2` and so on; with 0 a full file is deleted.
    pub max_files: usize,
}

/// How the log files are doing, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogHealth {
    /// Bytes that wait to be written.
    pub backlog: usize,
    /// Files that are open at present.
    pub open_files: usize,
    /// Writes that failed.
    pub write_errors: u64,
    /// Bytes that are in no file because of that.
    pub lost_bytes: u64,
}

/// A log file cannot be opened. The cause is the operating system's error.
#[derive(Debug)]
struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the log file `{}`", self.path.display())
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// The thread that writes all log files. Dropping it writes what is pending and ends it; later pushes are counted as
/// lost.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread. Fails if the system has no room for another one.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name("log-writer".into()).spawn({
            let shared = Arc::clone(&shared);
            move || writer::Writer::new(shared).run()
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Opens a log file for appending, with mode 0644, and creates it if need be.
    ///
    /// It is opened right away, so that a mistake in the configuration appears at the start; the error names the path,
    /// its cause is the system's. Whoever opens the same path twice gets the same file, with the newest rotation.
    pub fn open(&self, path: impl AsRef<Path>, rotation: Rotation) -> io::Result<LogFile> {
        let path = path.as_ref();
        let explain = |source: io::Error| {
            io::Error::new(
                source.kind(),
                OpenError {
                    path: path.to_owned(),
                    source,
                },
            )
        };
        let file = self
            .shared
            .attach(path::absolute(path).map_err(explain)?, rotation);
        lock(&file.handle.sink.target).open().map_err(explain)?;
        // The thread keeps account of what is open.
        file.schedule(|_| ());
        Ok(file)
    }

    /// Closes the open files and opens their paths again, so that an external `logrotate` can move them away. Does not
    /// wait; what was pushed before still goes to the old files, and a line under way is completed there.
    pub fn reopen(&self) {
        self.shared.ask(|agenda| agenda.reopen = true);
    }

    /// Waits until everything pushed so far is in its file, or lost, and a reopening asked for has happened.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// How the log files are doing.
    pub fn health(&self) -> LogHealth {
        self.shared.health()
    }

    /// Writes what is pending and ends the thread.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.ask(|agenda| agenda.closing = true);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// One log file. Clones write to the same file; when the last one is dropped, the file is written and closed.
#[derive(Clone)]
pub struct LogFile {
    handle: Arc<Handle>,
}

impl LogFile {
    /// Appends bytes, normally whole lines. Never waits.
    pub fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.handle
            .shared
            .backlog
            .fetch_add(bytes.len(), Ordering::AcqRel);
        self.schedule(|pending| pending.chunks.push(bytes));
    }

    /// Resolves when less than [`HIGH_WATER`] bytes wait to be written, over all files. Producers of output await this
    /// after a push.
    pub async fn ready(&self) {
        let shared = &self.handle.shared;
        loop {
            let relieved = shared.relieved.notified();
            if shared.backlog.load(Ordering::Acquire) < HIGH_WATER {
                return;
            }
            relieved.await;
        }
    }

    /// The file's task has ended: its handle is closed once everything is written. A later push opens it again.
    pub fn finish(&self) {
        self.schedule(|pending| pending.finish = true);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.handle.sink.path
    }

    fn schedule(&self, change: impl FnOnce(&mut Pending)) {
        self.handle.shared.schedule(&self.handle.sink, change);
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFile").field(&self.path()).finish()
    }
}

/// What the clones of a [`LogFile`] share.
struct Handle {
    sink: Arc<Sink>,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.detach(&self.sink);
    }
}

/// A file as the thread sees it: what is to be written, and where. At most one exists for a path.
#[derive(Debug)]
struct Sink {
    path: PathBuf,
    pending: Mutex<Pending>,
    /// Locked by the thread, and by whoever opens the file.
    target: Mutex<Target>,
}

#[derive(Debug, Default)]
struct Pending {
    chunks: Vec<Bytes>,
    /// From whoever asked for the file last.
    rotation: Option<Rotation>,
    finish: bool,
    /// The sink is on the agenda.
    scheduled: bool,
}

impl Sink {
    fn new(path: PathBuf) -> Self {
        let target = Mutex::new(Target::new(path.clone()));
        Self {
            path,
            pending: Mutex::default(),
            target,
        }
    }

    fn take(&self) -> Pending {
        mem::take(&mut *lock(&self.pending))
    }
}

/// Between the files' users and the thread. Of its locks and a sink's, only `agenda` may be held while another is
/// taken.
#[derive(Debug, Default)]
struct Shared {
    agenda: Mutex<Agenda>,
    wanted: Condvar,
    relieved: Notify,
    backlog: AtomicUsize,
    open_files: AtomicUsize,
    write_errors: AtomicU64,
    lost_bytes: AtomicU64,
}

/// What the thread is asked to do, and the files there are.
#[derive(Debug, Default)]
struct Agenda {
    due: VecDeque<Arc<Sink>>,
    reopen: bool,
    /// Told when everything that was due when they came is done.
    waiters: Vec<mpsc::Sender<()>>,
    closing: bool,
    /// The thread has ended.
    closed: bool,
    files: HashMap<PathBuf, Attached>,
}

#[derive(Debug)]
struct Attached {
    sink: Arc<Sink>,
    handles: usize,
}

/// What the thread does in one go.
struct Turn {
    due: VecDeque<Arc<Sink>>,
    reopen: bool,
    waiters: Vec<mpsc::Sender<()>>,
    closed: bool,
}

impl Shared {
    /// A handle on the file at an absolute path. Opens nothing.
    fn attach(self: &Arc<Self>, path: PathBuf, rotation: Rotation) -> LogFile {
        let mut agenda = lock(&self.agenda);
        let attached = agenda
            .files
            .entry(path)
            .or_insert_with_key(|path| Attached {
                sink: Arc::new(Sink::new(path.clone())),
                handles: 0,
            });
        attached.handles += 1;
        let sink = Arc::clone(&attached.sink);
        // Not set in the target: that is locked while a slow disk is written to.
        lock(&sink.pending).rotation = Some(rotation);
        drop(agenda);
        LogFile {
            handle: Arc::new(Handle {
                sink,
                shared: Arc::clone(self),
            }),
        }
    }

    fn detach(&self, sink: &Arc<Sink>) {
        if let Some(attached) = lock(&self.agenda).files.get_mut(&sink.path) {
            attached.handles -= 1;
        }
        self.schedule(sink, |pending| pending.finish = true);
    }

    /// Forgets a file that nobody has a handle on any more, unless something is still to be done for it.
    fn forget(&self, sink: &Sink) {
        let mut agenda = lock(&self.agenda);
        let idle = |attached: &Attached| attached.handles == 0 && !lock(&sink.pending).scheduled;
        if agenda.files.get(&sink.path).is_some_and(idle) {
            agenda.files.remove(&sink.path);
        }
    }

    fn schedule(&self, sink: &Arc<Sink>, change: impl FnOnce(&mut Pending)) {
        let scheduled = {
            let mut pending = lock(&sink.pending);
            change(&mut pending);
            mem::replace(&mut pending.scheduled, true)
        };
        if scheduled {
            return;
        }
        let mut agenda = lock(&self.agenda);
        if agenda.closed {
            drop(agenda);
            self.discard(sink);
            return;
        }
        agenda.due.push_back(Arc::clone(sink));
        drop(agenda);
        self.wanted.notify_one();
    }

    /// Drops what nobody will write any more.
    fn discard(&self, sink: &Sink) {
        let bytes = sink.take().chunks.iter().map(Bytes::len).sum();
        self.lost_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.written(bytes);
    }

    fn ask(&self, change: impl FnOnce(&mut Agenda)) {
        change(&mut lock(&self.agenda));
        self.wanted.notify_one();
    }

    fn flush(&self) {
        let (done, waiter) = mpsc::channel();
        self.ask(|agenda| {
            if !agenda.closed {
                agenda.waiters.push(done);
            }
        });
        // An error means that the thread has ended, and it has written everything before.
        let _ = waiter.recv();
    }

    /// Waits for something to do. The turn that says `closed` is the last one.
    fn next(&self) -> Turn {
        let idle = |agenda: &mut Agenda| {
            agenda.due.is_empty() && !agenda.reopen && agenda.waiters.is_empty() && !agenda.closing
        };
        let agenda = lock(&self.agenda);
        let mut agenda = self
            .wanted
            .wait_while(agenda, idle)
            .unwrap_or_else(PoisonError::into_inner);
        agenda.closed = agenda.closing && agenda.due.is_empty();
        Turn {
            due: mem::take(&mut agenda.due),
            reopen: mem::take(&mut agenda.reopen),
            waiters: mem::take(&mut agenda.waiters),
            closed: agenda.closed,
        }
    }

    /// So many bytes no longer wait.
    fn written(&self, bytes: usize) {
        let before = self.backlog.fetch_sub(bytes, Ordering::AcqRel);
        if before - bytes < HIGH_WATER {
            self.relieved.notify_waiters();
        }
    }

    fn health(&self) -> LogHealth {
        LogHealth {
            backlog: self.backlog.load(Ordering::Relaxed),
            open_files: self.open_files.load(Ordering::Relaxed),
            write_errors: self.write_errors.load(Ordering::Relaxed),
            lost_bytes: self.lost_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Read as _;
    use std::pin::pin;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    fn writer() -> (LogWriter, tempfile::TempDir) {
        (LogWriter::start().unwrap(), tempfile::tempdir().unwrap())
    }

    fn read(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_was_pushed_is_in_the_file_after_a_flush_and_after_the_end() {
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        file.push("one\n".into());
        writer.flush();
        assert_eq!(read(file.path()), "one\n");
        file.push("two\n".into());
        writer.close();
        assert_eq!(read(file.path()), "one\ntwo\n");
    }

    #[test]
    fn a_push_after_the_end_is_counted_as_lost() {
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        let shared = Arc::clone(&writer.shared);
        writer.close();
        file.push("late\n".into());
        assert_eq!(
            shared.health(),
            LogHealth {
                lost_bytes: 5,
                open_files: 1,
                ..LogHealth::default()
            }
        );
        shared.flush();
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_an_error_at_once() {
        let (writer, dir) = writer();
        let path = dir.path().join("absent/log");
        let error = writer.open(&path, Rotation::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!("cannot open the log file `{}`", path.display())
        );
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .contains("No such file or directory")
        );
    }

    #[test]
    fn a_new_file_may_be_read_by_everybody_and_written_by_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o133, 0, "nothing beyond 0644");
        assert_eq!(mode & 0o600, 0o600);
    }

    #[test]
    fn handles_on_one_path_share_its_file_and_order() {
        let (writer, dir) = writer();
        let rotation = Rotation {
            max_size: 12,
            max_files: 1,
        };
        let path = dir.path().join("log");
        let one = writer.open(&path, rotation).unwrap();
        let other = writer.open(&path, rotation).unwrap();
        for n in 0..4 {
            one.push(format!("one {n}\n").into());
            other.push(format!("two {n}\n").into());
        }
        writer.flush();
        assert_eq!(read(target::rotated(&path, 1)), "one 2\ntwo 2\n");
        assert_eq!(read(&path), "one 3\ntwo 3\n");
    }

    #[test]
    fn ten_times_as_many_files_as_may_be_open_get_all_their_lines() {
        let (writer, dir) = writer();
        let count = writer::OPEN_FILES * 10;
        let rotation = Rotation::default();
        let files: Vec<_> = (0..count)
            .map(|n| {
                writer
                    .shared
                    .attach(dir.path().join(n.to_string()), rotation)
            })
            .collect();
        for round in 0..3 {
            for file in &files {
                file.push(format!("round {round}\n").into());
            }
            writer.flush();
            assert_eq!(writer.health().open_files, writer::OPEN_FILES);
            assert!(open_descriptors(dir.path()) <= writer::OPEN_FILES);
        }
        for file in &files {
            assert_eq!(read(file.path()), "round 0\nround 1\nround 2\n");
        }
    }

    /// Descriptors of this process that lead into a directory.
    fn open_descriptors(dir: &Path) -> usize {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter(|fd| {
                fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(dir))
            })
            .count()
    }

    #[test]
    fn a_finished_file_is_closed_and_opens_again_for_a_late_line() {
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        file.push("last\n".into());
        file.finish();
        writer.flush();
        assert_eq!(open_descriptors(dir.path()), 0);
        file.push("late\n".into());
        writer.flush();
        assert_eq!(read(file.path()), "last\nlate\n");
    }

    #[test]
    fn a_file_that_nobody_holds_is_written_closed_and_forgotten() {
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        let path = file.path().to_owned();
        file.push("line\n".into());
        drop(file.clone());
        drop(file);
        writer.flush();
        assert_eq!(read(path), "line\n");
        assert_eq!(open_descriptors(dir.path()), 0);
        assert!(lock(&writer.shared.agenda).files.is_empty());
    }

    #[test]
    fn a_reopened_file_begins_anew_where_logrotate_moved_it_away() {
        let (writer, dir) = writer();
        let file = writer
            .open(dir.path().join("log"), Rotation::default())
            .unwrap();
        file.push("old\n".into());
        let moved = dir.path().join("log-2026-02-21");
        writer.flush();
        fs::rename(file.path(), &moved).unwrap();
        file.push("still old\n".into());
        writer.flush();
        writer.reopen();
        writer.flush();
        assert_eq!(
            read(file.path()),
            "",
            "the new file is there before its first line"
        );
        file.push("new\n".into());
        writer.flush();
        assert_eq!(
            (read(moved).as_str(), read(file.path()).as_str()),
            ("old\nstill old\n", "new\n")
        );
    }

    #[test]
    fn a_directory_that_vanishes_costs_lines_and_nothing_else() {
        let (writer, dir) = writer();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let file = writer.open(logs.join("log"), Rotation::default()).unwrap();
        file.finish();
        writer.flush();
        fs::remove_dir_all(&logs).unwrap();
        file.push("lost\n".into());
        file.push("lost too\n".into());
        writer.flush();
        let health = writer.health();
        assert_eq!((health.lost_bytes, health.backlog), (14, 0));
        assert!(health.write_errors > 0);

        fs::create_dir(&logs).unwrap();
        file.push("kept\n".into());
        writer.flush();
        assert_eq!(read(file.path()), "kept\n");
        assert_eq!(writer.health().lost_bytes, 14);
    }

    #[test]
    fn a_full_disk_holds_nobody_up() {
        let (writer, _dir) = writer();
        let file = writer.open("/dev/full", Rotation::default()).unwrap();
        for _ in 0..20 {
            file.push(Bytes::from(vec![b'x'; HIGH_WATER / 10]));
        }
        writer.flush();
        assert_eq!(writer.health().backlog, 0);
        assert_eq!(writer.health().lost_bytes, (HIGH_WATER / 10 * 20) as u64);
    }

    #[tokio::test]
    async fn producers_wait_for_a_slow_disk_and_go_on_when_it_has_caught_up() {
        let (writer, dir) = writer();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let file = writer.open(&path, Rotation::default()).unwrap();
        file.ready().await;

        // A pipe takes 64 KiB, then the writer waits as it would for a disk.
        file.push(Bytes::from(vec![b'x'; HIGH_WATER + (1 << 20)]));
        let mut ready = pin!(file.ready());
        let pending = std::future::poll_fn(|context| {
            std::task::Poll::Ready(ready.as_mut().poll(context).is_pending())
        });
        assert!(pending.await);

        let reading = thread::spawn(move || {
            reader
                .read_exact(&mut vec![0; HIGH_WATER + (1 << 20)])
                .unwrap();
        });
        ready.await;
        assert!(writer.health().backlog < HIGH_WATER);
        reading.join().unwrap();
    }

    #[test]
    fn pushes_of_many_threads_keep_their_order_each() {
        let (writer, dir) = writer();
        let rotation = Rotation {
            max_size: 1000,
            max_files: 1000,
        };
        let path = dir.path().join("log");
        let file = writer.open(&path, rotation).unwrap();
        thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let file = file.clone();
                scope.spawn(move || {
                    for n in 0..1000 {
                        file.push(format!("{name} {n}\n").into());
                    }
                });
            }
        });
        writer.close();
        let rotated = (1..)
            .map(|n| target::rotated(&path, n))
            .take_while(|path| path.exists());
        let mut paths: Vec<_> = [path.clone()].into_iter().chain(rotated).collect();
        paths.reverse();
        let text: String = paths.iter().map(read).collect();
        for name in ["a", "b", "c"] {
            let own: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<_> = (0..1000).map(|n| format!("{name} {n}")).collect();
            assert_eq!(own, expected);
        }
    }
}
