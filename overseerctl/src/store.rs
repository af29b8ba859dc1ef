//! What outlives the daemon: the history of runs and the queue of waiting starts, in one `SQLite` file.
//!
//! Nothing here decides what is started again; it is written down and read back.
//!
//! ```text
//!   started, exited, … ──▶ backlog ──▶ writer thread ──▶ file
//!      never wait         (merges)   one transaction      │
//!   history, queue ◀───────────────────────────── a connection of their own
//! ```
//!
//! # Guarantees
//!
//! - Recording never waits for a disk, and what waits to be written is bounded by what is alive — runs that have not
//!   ended, starts that wait — plus a fixed amount of ended runs, of which the oldest are dropped, and counted.
//! - A daemon that dies at any moment leaves a file that can be read, with everything that had been committed. What
//!   was recorded within the last few milliseconds may be missing. After a loss of power, so may the last seconds.
//! - One daemon at a time: the file `<database>-lock` is locked as long as a store is open.
//! - A database that fails costs history, which is said once for each outage, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod backlog;
mod database;
mod error;
mod record;
mod writer;

pub use error::StoreError;
pub use record::{HistoryQuery, Outcome, QueuedStart, Run, RunExited, RunFailed, RunStarted};
pub use writer::StoreHealth;

use database::{Database, Reader};
use writer::WriterThread;

/// How much history is kept. Runs that have not ended are always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// So many ended runs, over all tasks; 0 keeps all.
    pub keep_runs: usize,
    /// Runs that ended within this time; absent keeps all.
    pub keep_for: Option<Duration>,
}

/// The open database. Clones share it; when the last one is dropped, what is pending is written and the file closed.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reader: Reader,
    writer: WriterThread,
}

impl Store {
    /// Opens the database, creates it if need be (readable by its owner only: parameters may hold secrets), and
    /// starts its thread. Runs that a daemon left unended when it died become [`Outcome::Lost`].
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_within(path.as_ref(), options, database::PATIENCE)
    }

    /// Opens it, waiting so long for other programs that have it locked.
    fn open_within(
        path: &Path,
        options: StoreOptions,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let database = Database::open(path, options, patience)?;
        let reader = database.reader();
        let writer = WriterThread::start(database)?;
        Ok(Self {
            inner: Arc::new(Inner { reader, writer }),
        })
    }

    /// Records that a worker runs. Never waits.
    pub fn started(&self, run: RunStarted) {
        self.inner.writer.record(|backlog| backlog.started(run));
    }

    /// Records that a worker has ended. Never waits; does nothing if its start was not recorded.
    pub fn exited(&self, exit: RunExited) {
        self.inner.writer.record(|backlog| backlog.exited(exit));
    }

    /// Records that a worker could not be started. Never waits.
    pub fn failed(&self, failure: RunFailed) {
        self.inner.writer.record(|backlog| backlog.failed(failure));
    }

    /// Records that a start waits. Never waits itself. A start with the same task id is replaced, and loses its place.
    pub fn enqueue(&self, start: QueuedStart) {
        self.inner.writer.record(|backlog| backlog.enqueue(start));
    }

    /// Records that a start no longer waits. Never waits; does nothing for an unknown task id.
    pub fn dequeue(&self, task_id: &str) {
        self.inner.writer.record(|backlog| backlog.dequeue(task_id));
    }

    /// Runs, newest start first, including all that were recorded before. Blocks.
    pub fn history(&self, query: &HistoryQuery) -> Result<Vec<Run>, StoreError> {
        self.inner.writer.settle();
        self.inner.reader.history(query)
    }

    /// Starts that wait, in the order they were queued. Blocks.
    pub fn queue(&self) -> Result<Vec<QueuedStart>, StoreError> {
        self.inner.writer.settle();
        self.inner.reader.queue()
    }

    /// Waits until everything recorded so far is committed. While the database fails this makes it try again at once,
    /// and returns the error if that is in vain.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.writer.flush()
    }

    /// Writes what is pending and closes the database, for all clones. Records that come later are dropped. The error
    /// says that what was pending is lost.
    pub fn close(&self) -> Result<(), StoreError> {
        self.inner.writer.close()
    }

    /// How the database is doing.
    pub fn health(&self) -> StoreHealth {
        self.inner.writer.health()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use std::{env, fs};

    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::api::Params;
    use crate::time::Timestamp;

    const ALL: HistoryQuery = HistoryQuery {
        task_id: None,
        action: None,
        limit: 0,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds, 430_000_000)
    }

    fn started(task_id: &str, pid: u32) -> RunStarted {
        RunStarted {
            task_id: task_id.into(),
            action: "build".into(),
            params: Params::from([("name".into(), "wörld \u{0}'".into())]),
            pid,
            restart_of: 0,
            started_at: at(pid.into()),
        }
    }

    fn exited(task_id: &str, pid: u32) -> RunExited {
        RunExited {
            task_id: task_id.into(),
            pid,
            exit_code: Some(3),
            signal: None,
            intentional: true,
            exited_at: at(i64::from(pid) + 1),
            outcome: Outcome::Exited,
        }
    }

    fn queued(task_id: &str) -> QueuedStart {
        QueuedStart {
            task_id: task_id.into(),
            action: "build".into(),
            params: Params::from([("k".into(), "v".into())]),
            retry_policy: Some(serde_json::json!({"restart_delay": "1m30s"})),
            forced: true,
            id: "7".into(),
            queued_at: at(1),
        }
    }

    fn place() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overseer.db");
        (dir, path)
    }

    fn open(path: &Path) -> Store {
        Store::open(path, StoreOptions::default()).unwrap()
    }

    fn refused(path: &Path) -> StoreError {
        Store::open_within(path, StoreOptions::default(), Duration::from_millis(1)).unwrap_err()
    }

    fn pids(store: &Store, query: &HistoryQuery) -> Vec<u32> {
        store
            .history(query)
            .unwrap()
            .iter()
            .map(|run| run.pid)
            .collect()
    }

    #[test]
    fn history_tells_what_was_recorded_newest_first() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.started(RunStarted {
            restart_of: 1,
            ..started("t", 2)
        });
        store.exited(RunExited {
            exit_code: Some(-1),
            signal: Some(9),
            ..exited("t", 1)
        });
        let RunStarted { action, params, .. } = started("t", 1);
        store.failed(RunFailed {
            task_id: "u".into(),
            action: action.clone(),
            params: params.clone(),
            restart_of: 0,
            error: "no such file".into(),
            at: at(9),
        });

        let runs = store.history(&ALL).unwrap();
        assert_eq!(
            runs.iter().map(|run| run.outcome).collect::<Vec<_>>(),
            [Outcome::Failed, Outcome::Running, Outcome::Exited]
        );
        assert_eq!(
            (runs[0].error.as_deref(), runs[0].exited_at),
            (Some("no such file"), Some(at(9)))
        );
        assert_eq!((runs[1].restart_of, runs[1].exited_at), (1, None));
        assert_eq!(
            runs[2],
            Run {
                task_id: "t".into(),
                action,
                params,
                pid: 1,
                restart_of: 0,
                started_at: at(1),
                exited_at: Some(at(2)),
                exit_code: Some(-1),
                signal: Some(9),
                intentional: true,
                outcome: Outcome::Exited,
                error: None,
            }
        );
    }

    #[test]
    fn queries_choose_by_task_action_and_number() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.started(started("u", 2));
        store.started(started("t", 3));
        store.started(RunStarted {
            action: "other".into(),
            ..started("t", 4)
        });
        let task_id = Some("t".to_owned());
        let action = Some("build".to_owned());
        assert_eq!(
            pids(
                &store,
                &HistoryQuery {
                    task_id: task_id.clone(),
                    ..ALL
                }
            ),
            [4, 3, 1]
        );
        assert_eq!(
            pids(
                &store,
                &HistoryQuery {
                    action: action.clone(),
                    ..ALL
                }
            ),
            [3, 2, 1]
        );
        assert_eq!(
            pids(
                &store,
                &HistoryQuery {
                    task_id,
                    action,
                    limit: 1
                }
            ),
            [3]
        );
        assert_eq!(pids(&store, &HistoryQuery { limit: 2, ..ALL }), [4, 3]);
    }

    #[test]
    fn history_and_queue_survive_a_restart() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.exited(exited("t", 1));
        store.enqueue(queued("b"));
        store.enqueue(queued("a"));
        store.enqueue(queued("gone"));
        store.dequeue("gone");
        store.close().unwrap();

        let store = open(&path);
        assert_eq!(store.history(&ALL).unwrap()[0].exit_code, Some(3));
        assert_eq!(store.queue().unwrap(), [queued("b"), queued("a")]);
        store.enqueue(queued("b"));
        store.enqueue(queued("c"));
        store.dequeue("a");
        assert_eq!(store.queue().unwrap(), [queued("b"), queued("c")]);
        store.started(started("t", 2));
        assert_eq!(pids(&store, &ALL), [2, 1]);
    }

    #[test]
    fn runs_left_open_by_a_daemon_that_ended_are_lost() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        drop(store);
        let run = open(&path).history(&ALL).unwrap().remove(0);
        assert_eq!(
            (run.outcome, run.exited_at, run.exit_code),
            (Outcome::Lost, None, None)
        );
    }

    #[test]
    fn dropping_the_last_clone_writes_what_is_pending() {
        let (_dir, path) = place();
        let store = open(&path);
        let clone = store.clone();
        drop(store);
        clone.started(started("t", 1));
        drop(clone);
        assert_eq!(pids(&open(&path), &ALL), [1]);
    }

    #[test]
    fn a_closed_store_still_answers_and_counts_what_comes_too_late() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.close().unwrap();
        store.close().unwrap();
        store.started(started("t", 2));
        assert_eq!(pids(&store, &ALL), [1]);
        assert_eq!(
            store.health(),
            StoreHealth {
                dropped: 1,
                ..StoreHealth::default()
            }
        );
        assert!(matches!(store.flush(), Err(StoreError::Closed { .. })));
    }

    #[test]
    fn only_the_newest_ended_runs_are_kept_and_all_that_run() {
        let (_dir, path) = place();
        let store = Store::open(
            &path,
            StoreOptions {
                keep_runs: 2,
                keep_for: None,
            },
        )
        .unwrap();
        store.started(started("t", 1));
        for pid in 2..=6 {
            store.started(started("t", pid));
            store.exited(exited("t", pid));
            store.flush().unwrap();
        }
        assert_eq!(pids(&store, &ALL), [6, 5, 1]);
        store.exited(exited("t", 1));
        assert_eq!(pids(&store, &ALL), [6, 5]);
    }

    #[test]
    fn a_lowered_limit_is_kept_from_the_next_start_on() {
        let (_dir, path) = place();
        let store = open(&path);
        (1..=5).for_each(|pid| store.started(started("t", pid)));
        drop(store);
        let store = Store::open(
            &path,
            StoreOptions {
                keep_runs: 2,
                keep_for: None,
            },
        )
        .unwrap();
        assert_eq!(pids(&store, &ALL), [5, 4]);
        store.started(started("t", 6));
        store.exited(exited("t", 6));
        assert_eq!(pids(&store, &ALL), [6, 5]);
    }

    #[test]
    fn runs_that_ended_too_long_ago_are_deleted() {
        let (_dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.exited(exited("t", 1));
        store.started(started("t", 2));
        store.exited(RunExited {
            exited_at: Timestamp::now(),
            ..exited("t", 2)
        });
        store.started(started("t", 3)); // lost, and found out just now
        drop(store);
        let keep_for = Some(Duration::from_hours(1));
        let store = Store::open(
            &path,
            StoreOptions {
                keep_runs: 0,
                keep_for,
            },
        )
        .unwrap();
        assert_eq!(pids(&store, &ALL), [3, 2]);
    }

    #[test]
    fn only_its_owner_may_read_a_new_database() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.flush().unwrap();
        for name in ["overseer.db", "overseer.db-wal"] {
            let mode = fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{name}");
        }
    }

    #[test]
    fn a_directory_that_is_missing_is_named_with_the_way_out() {
        let (dir, _) = place();
        let path = dir.path().join("absent/overseer.db");
        let directory = dir.path().join("absent");
        let error = refused(&path);
        assert_eq!(
            error.to_string(),
            format!(
                "cannot open the database `{}`: there is no directory `{}`",
                path.display(),
                directory.display()
            )
        );
        assert_eq!(
            error.hint().unwrap(),
            format!(
                "create it (`mkdir -p {}`) or set `db` to another path",
                directory.display()
            )
        );
    }

    #[test]
    fn a_directory_is_no_database() {
        let (dir, _) = place();
        let error = refused(dir.path());
        assert_eq!(
            error.to_string(),
            format!(
                "cannot open the database `{}`: it is a directory",
                dir.path().display()
            )
        );
        assert!(error.hint().unwrap().contains("overseer.db"));
    }

    #[test]
    fn a_file_that_is_no_database_is_left_alone() {
        let (dir, path) = place();
        fs::write(&path, "listen: :8080\n".repeat(100)).unwrap();
        assert!(matches!(refused(&path), StoreError::NotADatabase { .. }));
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "listen: :8080\n".repeat(100)
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_database_of_another_program_is_left_alone() {
        let (dir, path) = place();
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE bookmarks (url)")
            .unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(refused(&path), StoreError::Foreign { .. }));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_database_is_taken_over() {
        let (_dir, path) = place();
        Connection::open(&path)
            .unwrap()
            .execute_batch("PRAGMA journal_mode = WAL; VACUUM")
            .unwrap();
        let store = open(&path);
        store.started(started("t", 1));
        assert_eq!(pids(&store, &ALL), [1]);
    }

    #[test]
    fn a_newer_schema_is_refused_with_both_versions() {
        let (_dir, path) = place();
        drop(open(&path));
        Connection::open(&path)
            .unwrap()
            .execute_batch("PRAGMA user_version = 99")
            .unwrap();
        let error = refused(&path);
        assert!(
            error
                .to_string()
                .ends_with("its schema is version 99, this program knows up to 1"),
            "{error}"
        );
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_database() {
        let (_dir, path) = place();
        let store = open(&path);
        let error = refused(&path);
        let pid = std::process::id();
        assert!(
            error
                .to_string()
                .ends_with(&format!("another daemon uses it (pid {pid})")),
            "{error}"
        );
        drop(store);
        open(&path);
    }

    #[test]
    fn a_database_locked_by_another_program_is_an_error_and_not_a_wait() {
        let (_dir, path) = place();
        drop(open(&path));
        let shell = Connection::open(&path).unwrap();
        shell.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let error = refused(&path);
        assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
        shell.execute_batch("ROLLBACK").unwrap();
        open(&path);
    }

    #[test]
    fn a_failing_database_keeps_records_until_it_recovers() {
        let (_dir, path) = place();
        let store =
            Store::open_within(&path, StoreOptions::default(), Duration::from_millis(1)).unwrap();
        store.started(started("t", 1));
        store.flush().unwrap();
        let shell = Connection::open(&path).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        store.exited(exited("t", 1));
        store.started(started("t", 2));
        assert!(matches!(store.flush(), Err(StoreError::Locked { .. })));
        store.started(started("t", 3));
        store.exited(exited("t", 2));
        let health = store.health();
        assert!(health.failing && health.write_errors > 0);
        assert_eq!(health.pending, 4);
        assert_eq!(pids(&store, &ALL), [1], "what was committed can be read");

        shell.execute_batch("ROLLBACK").unwrap();
        store.flush().unwrap();
        assert_eq!(store.health().pending, 0);
        assert!(!store.health().failing);
        let outcomes: Vec<_> = store
            .history(&ALL)
            .unwrap()
            .iter()
            .map(|run| run.outcome)
            .collect();
        assert_eq!(
            outcomes,
            [Outcome::Running, Outcome::Exited, Outcome::Exited]
        );
    }

    #[test]
    fn a_database_that_was_moved_away_is_begun_anew() {
        let (dir, path) = place();
        let store = open(&path);
        store.started(started("t", 1));
        store.flush().unwrap();
        let moved = dir.path().join("moved.db");
        for suffix in ["", "-wal", "-shm"] {
            let name = |path: &Path| format!("{}{suffix}", path.display());
            fs::rename(name(&path), name(&moved)).unwrap();
        }
        store.started(started("t", 2));
        assert_eq!(pids(&store, &ALL), [2]);
        assert_eq!(pids(&open(&moved), &ALL), [1]);
    }

    #[test]
    fn a_directory_that_vanishes_costs_history_and_nothing_else() {
        let (dir, _) = place();
        let directory = dir.path().join("data");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("overseer.db");
        let store = open(&path);
        fs::remove_dir_all(&directory).unwrap();
        store.started(started("t", 1));
        assert!(matches!(store.flush(), Err(StoreError::NoDirectory { .. })));
        assert!(store.health().failing);
        fs::create_dir(&directory).unwrap();
        store.flush().unwrap();
        assert_eq!(pids(&store, &ALL), [1]);
    }

    /// Plays both parts: started again with a path in its environment, it writes until it is killed.
    #[test]
    fn a_daemon_killed_while_it_writes_leaves_all_that_was_committed() {
        const VICTIM: &str = "OVERSEERCTL_TEST_STORE_VICTIM";
        if let Some(path) = env::var_os(VICTIM) {
            write_for_ever(Path::new(&path));
        }
        let (_dir, path) = place();
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let this_test =
            format!("{module}::a_daemon_killed_while_it_writes_leaves_all_that_was_committed");
        for _ in 0..5 {
            let mut victim = Command::new(env::current_exe().unwrap())
                .args(["--exact", &this_test, "--nocapture"])
                .env(VICTIM, &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
            let committed: Vec<u32> = lines
                .by_ref() // keeps the pipe open
                .filter_map(|line| line.unwrap().strip_prefix("committed ")?.parse().ok())
                .take(20)
                .collect();
            victim.kill().unwrap();
            assert_eq!(
                victim.wait().unwrap().signal(),
                Some(9),
                "it was still writing"
            );

            let connection = Connection::open(&path).unwrap();
            let verdict: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(verdict, "ok");
            drop(connection);
            let runs = open(&path).history(&ALL).unwrap();
            for pid in &committed {
                assert_eq!(
                    runs.iter().find(|run| run.pid == *pid).unwrap().outcome,
                    Outcome::Exited
                );
            }
            assert!(runs.iter().all(|run| run.outcome != Outcome::Running));
        }
    }

    fn write_for_ever(path: &Path) -> ! {
        let store = open(path);
        let first = pids(&store, &HistoryQuery { limit: 1, ..ALL })
            .first()
            .map_or(1, |pid| pid + 1);
        for pid in first.. {
            store.started(started("t", pid));
            store.exited(exited("t", pid));
            store.enqueue(queued(&pid.to_string()));
            store.dequeue(&(pid - 1).to_string());
            if pid.is_multiple_of(10) {
                store.flush().unwrap();
                println!("committed {pid}");
            }
        }
        unreachable!("somebody kills this process");
    }
}
