//! The `SQLite` file: who may open it, what is in it, and the SQL. Blocks; holds no lock of ours but the daemon's own.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{self, Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, named_params,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::StoreOptions;
use super::backlog::{Batch, Known, QueueChange, RunNumber};
use super::error::StoreError;
use super::record::{HistoryQuery, Outcome, QueuedStart, Run, RunEnd};
use crate::time::Timestamp;

/// So long another program may have the database locked before that is an error.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// "ovsr": `SQLite`'s `application_id`, which tells our files from others'.
const APPLICATION_ID: i64 = 0x6f76_7372;

/// The newest schema known here; the file's `user_version`.
const SCHEMA: u32 = 1;

/// What makes schema `n + 1` of schema `n`. Only ever appended to.
///
/// A run is settled when its outcome is known; `settled` is the second of 1970 when that was.
const MIGRATIONS: [&str; SCHEMA as usize] = ["
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL,
        action TEXT NOT NULL,
        params TEXT NOT NULL,
        pid INTEGER NOT NULL,
        restart_of INTEGER NOT NULL,
        started_at TEXT NOT NULL,
        exited_at TEXT,
        exit_code INTEGER,
        signal INTEGER,
        intentional INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        error TEXT,
        settled INTEGER
    ) STRICT;
    CREATE INDEX runs_of_task ON runs (task_id);
    CREATE INDEX runs_of_action ON runs (action);
    CREATE INDEX runs_settled ON runs (settled);
    CREATE TABLE queue (
        task_id TEXT PRIMARY KEY,
        place INTEGER NOT NULL,
        action TEXT NOT NULL,
        params TEXT NOT NULL,
        retry_policy TEXT,
        forced INTEGER NOT NULL,
        id TEXT NOT NULL,
        queued_at TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

const INSERT_RUN: &str = "
    INSERT OR REPLACE INTO runs VALUES (:run, :task_id, :action, :params, :pid, :restart_of, :started_at, :exited_at,
        :exit_code, :signal, :intentional, :outcome, :error, :settled)";
const END_RUN: &str = "
    UPDATE runs SET exited_at = :exited_at, exit_code = :exit_code, signal = :signal, intentional = :intentional,
        outcome = :outcome, settled = :settled
    WHERE run = :run AND settled IS NULL";
const LOSE_RUNS: &str = "UPDATE runs SET outcome = 'lost', settled = ? WHERE settled IS NULL";
const PRUNE_OLDEST: &str = "
    DELETE FROM runs WHERE run IN (SELECT run FROM runs WHERE settled IS NOT NULL ORDER BY run LIMIT ?)";
const PRUNE_BEFORE: &str = "DELETE FROM runs WHERE settled < ?";
const PUT_QUEUED: &str = "
    INSERT OR REPLACE INTO queue VALUES (:task_id, :place, :action, :params, :retry_policy, :forced, :id, :queued_at)";

/// The daemon's connection, on which everything is written.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    options: StoreOptions,
    patience: Duration,
    /// Absent after a failure, until the next attempt.
    connection: Option<Connection>,
    /// Device and inode of the file that it is connected to.
    identity: Option<(u64, u64)>,
    /// Runs in it that have ended.
    ended: u64,
    /// When runs that are too old were deleted last.
    expired: Option<Instant>,
    /// Held for as long as this is open; the system lets go of it however the daemon ends.
    _lock: File,
}

impl Database {
    /// Opens or creates the file for this daemon alone, and settles what the last one left open.
    pub(super) fn open(
        path: &Path,
        options: StoreOptions,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let path = path::absolute(path).map_err(|error| io_error(path, error))?;
        create(&path)?;
        // Before the lock file is made: no traces beside a file that is not ours.
        connect(&path, patience).and_then(|connection| schema_version(&connection, &path))?;
        let lock = lock(&path)?;
        let mut database = Self {
            path,
            options,
            patience,
            connection: None,
            identity: None,
            ended: 0,
            expired: None,
            _lock: lock,
        };
        let lost = database.transact(|transaction, _| {
            transaction.execute(LOSE_RUNS, [Timestamp::now().unix_seconds()])
        })?;
        database.ended += lost as u64;
        if lost > 0 {
            info!(path = %database.path.display(), runs = lost, "runs of a daemon that died count as lost");
        }
        database.write(&Batch::default())?;
        Ok(database)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            path: self.path.clone(),
            patience: self.patience,
        }
    }

    /// What merging must know of the file.
    pub(super) fn known(&mut self) -> Result<Known, StoreError> {
        self.transact(|transaction, _| {
            let highest = |sql| transaction.query_row(sql, [], |row| row.get(0));
            let mut queued = transaction.prepare("SELECT task_id FROM queue")?;
            Ok(Known {
                last_run: highest("SELECT COALESCE(MAX(run), 0) FROM runs")?,
                last_place: highest("SELECT COALESCE(MAX(place), 0) FROM queue")?,
                queued: queued
                    .query_map([], |row| row.get(0))?
                    .collect::<Result<_, _>>()?,
            })
        })
    }

    /// Writes a batch and deletes what is kept no longer, in one transaction: all or nothing. May be repeated.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let options = self.options;
        let expire = self.expiry_wait().is_some_and(|wait| wait.is_zero());
        self.ended = self.transact(|transaction, ended| {
            let now = Timestamp::now().unix_seconds();
            let ended = ended + apply(transaction, batch, now)?;
            let expired = match options.keep_for {
                Some(keep) if expire => {
                    transaction.execute(PRUNE_BEFORE, [now.saturating_sub(seconds(keep))])?
                }
                _ => 0,
            };
            let ended = ended - expired as u64;
            let keep = if options.keep_runs == 0 {
                u64::MAX
            } else {
                options.keep_runs as u64
            };
            prune(transaction, ended.saturating_sub(keep)).map(|pruned| ended - pruned)
        })?;
        if expire {
            self.expired = Some(Instant::now());
        }
        Ok(())
    }

    /// How long until a write is due that deletes what is too old; absent if nothing ever is.
    pub(super) fn expiry_wait(&self) -> Option<Duration> {
        let interval =
            (self.options.keep_for? / 10).clamp(Duration::from_secs(1), Duration::from_hours(1));
        Some(self.expired.map_or(Duration::ZERO, |last| {
            interval.saturating_sub(last.elapsed())
        }))
    }

    /// Does something in a transaction, which is told the number of ended runs. After a failure, and when the file was
    /// moved or deleted, which `SQLite` would not notice, the connection is made anew.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, u64) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let in_place = identity(&self.path) == self.identity;
        let mut connection = match self.connection.take().filter(|_| in_place) {
            Some(connection) => connection,
            None => self.reconnect()?,
        };
        let ended = self.ended;
        let result = begin(&mut connection).and_then(|transaction| {
            let result = work(&transaction, ended)?;
            transaction.commit().map(|()| result)
        });
        match result {
            Ok(result) => {
                self.connection = Some(connection);
                Ok(result)
            }
            Err(error) => Err(explain(&self.path, error)),
        }
    }

    fn reconnect(&mut self) -> Result<Connection, StoreError> {
        create(&self.path)?;
        let mut connection = connect(&self.path, self.patience)?;
        let version = schema_version(&connection, &self.path)?;
        let ended = migrate(&mut connection, version).and_then(|()| {
            let count = "SELECT COUNT(*) FROM runs WHERE settled IS NOT NULL";
            connection
                .query_row(count, [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        });
        self.ended = ended.map_err(|error| explain(&self.path, error))?;
        self.identity = identity(&self.path);
        Ok(connection)
    }
}

/// Opens the database for questions; a new connection for each, so that none keeps the file's log from being trimmed.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    patience: Duration,
}

impl Reader {
    pub(super) fn history(&self, query: &HistoryQuery) -> Result<Vec<Run>, StoreError> {
        // Conditions that are not needed would keep SQLite from using an index for the other.
        let task = query
            .task_id
            .as_ref()
            .map_or("", |_| "AND task_id = :task_id");
        let action = query.action.as_ref().map_or("", |_| "AND action = :action");
        let sql =
            format!("SELECT * FROM runs WHERE TRUE {task} {action} ORDER BY run DESC LIMIT :limit");
        let limit = i64::try_from(query.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(-1);
        let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
        values.extend(
            query
                .task_id
                .as_ref()
                .map(|task_id| (":task_id", task_id as &dyn ToSql)),
        );
        values.extend(
            query
                .action
                .as_ref()
                .map(|action| (":action", action as &dyn ToSql)),
        );
        self.rows(&sql, &values, run_from_row)
    }

    pub(super) fn queue(&self) -> Result<Vec<QueuedStart>, StoreError> {
        self.rows("SELECT * FROM queue ORDER BY place", &[], queued_from_row)
    }

    fn rows<T>(
        &self,
        sql: &str,
        values: &[(&str, &dyn ToSql)],
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let rows = || -> rusqlite::Result<_> {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(self.patience)?;
            let mut statement = connection.prepare(sql)?;
            statement.query_map(values, read)?.collect()
        };
        rows().map_err(|error| explain(&self.path, error))
    }
}

/// Makes sure that the file exists, with errors that say more than `SQLite`'s would.
fn create(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Err(StoreError::IsDirectory {
            path: path.to_owned(),
        });
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        return Err(StoreError::NoDirectory {
            path: path.to_owned(),
            directory: directory.to_owned(),
        });
    }
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

/// What tells a file from another that takes its place.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Locks the database against other daemons, which `SQLite`'s own locks do not do for longer than a transaction.
///
/// The lock has a file of its own, because closing any descriptor of the database would release `SQLite`'s locks on it.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = OsString::from(path);
    name.push("-lock");
    let lock = PathBuf::from(name);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&lock);
    let mut file = open.map_err(|error| io_error(&lock, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse().ok());
            return Err(StoreError::InUse {
                path: path.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(&lock, error)),
    }
    let signed = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", process::id()));
    signed.map_err(|error| io_error(&lock, error))?;
    Ok(file)
}

fn connect(path: &Path, patience: Duration) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(patience)?;
        Ok(connection)
    });
    connection.map_err(|error| explain(path, error))
}

/// The version of the schema, 0 for an empty file. Everything but our own file and an empty one is an error.
fn schema_version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let number = |sql| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(|error| explain(path, error))
    };
    let found = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let known = i64::from(SCHEMA);
    if application == 0 && found == 0 && number("SELECT COUNT(*) FROM sqlite_schema")? == 0 {
        Ok(0)
    } else if application != APPLICATION_ID || found < 1 {
        Err(StoreError::Foreign {
            path: path.to_owned(),
        })
    } else if found > known {
        Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        })
    } else {
        Ok(found)
    }
}

/// Readers must not block the writer, nor it them: write-ahead log. A commit need not survive a loss of power, only
/// the death of the daemon: no `fsync` for each.
fn migrate(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let transaction = begin(connection)?;
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(version).unwrap_or(0))
    {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// Writes a batch. Returns how many more runs have ended.
fn apply(transaction: &Transaction<'_>, batch: &Batch, now: i64) -> rusqlite::Result<u64> {
    let mut ended = 0;
    for (number, run) in &batch.runs {
        insert_run(transaction, *number, run, now)?;
        ended += u64::from(run.outcome != Outcome::Running);
    }
    for (number, end) in &batch.ends {
        ended += end_run(transaction, *number, *end, now)?;
    }
    for (task_id, change) in &batch.queue {
        match change {
            QueueChange::Put(place, start) => put_queued(transaction, *place, start)?,
            QueueChange::Remove => {
                transaction
                    .prepare_cached("DELETE FROM queue WHERE task_id = ?")?
                    .execute([task_id])?;
            }
        }
    }
    Ok(ended)
}

fn insert_run(
    transaction: &Transaction<'_>,
    number: RunNumber,
    run: &Run,
    now: i64,
) -> rusqlite::Result<()> {
    let settled = (run.outcome != Outcome::Running)
        .then(|| run.exited_at.map_or(now, Timestamp::unix_seconds));
    transaction
        .prepare_cached(INSERT_RUN)?
        .execute(named_params! {
            ":run": number,
            ":task_id": run.task_id,
            ":action": run.action,
            ":params": Json(&run.params),
            ":pid": run.pid,
            ":restart_of": run.restart_of,
            ":started_at": run.started_at,
            ":exited_at": run.exited_at,
            ":exit_code": run.exit_code,
            ":signal": run.signal,
            ":intentional": run.intentional,
            ":outcome": run.outcome,
            ":error": run.error,
            ":settled": settled,
        })?;
    Ok(())
}

fn end_run(
    transaction: &Transaction<'_>,
    number: RunNumber,
    end: RunEnd,
    now: i64,
) -> rusqlite::Result<u64> {
    let ended = transaction
        .prepare_cached(END_RUN)?
        .execute(named_params! {
            ":run": number,
            ":exited_at": end.exited_at,
            ":exit_code": end.exit_code,
            ":signal": end.signal,
            ":intentional": end.intentional,
            ":outcome": end.outcome,
            ":settled": end.exited_at.map_or(now, Timestamp::unix_seconds),
        })?;
    Ok(ended as u64)
}

fn put_queued(
    transaction: &Transaction<'_>,
    place: i64,
    start: &QueuedStart,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(PUT_QUEUED)?
        .execute(named_params! {
            ":task_id": start.task_id,
            ":place": place,
            ":action": start.action,
            ":params": Json(&start.params),
            ":retry_policy": start.retry_policy.as_ref().map(Json),
            ":forced": start.forced,
            ":id": start.id,
            ":queued_at": start.queued_at,
        })?;
    Ok(())
}

/// Deletes so many ended runs, those first that started first.
fn prune(transaction: &Transaction<'_>, surplus: u64) -> rusqlite::Result<u64> {
    if surplus == 0 {
        return Ok(0);
    }
    let limit = i64::try_from(surplus).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(PRUNE_OLDEST)?
        .execute([limit])
        .map(|pruned| pruned as u64)
}

fn run_from_row(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        task_id: row.get("task_id")?,
        action: row.get("action")?,
        params: row.get::<_, Json<_>>("params")?.0,
        pid: row.get("pid")?,
        restart_of: row.get("restart_of")?,
        started_at: row.get("started_at")?,
        exited_at: row.get("exited_at")?,
        exit_code: row.get("exit_code")?,
        signal: row.get("signal")?,
        intentional: row.get("intentional")?,
        outcome: row.get("outcome")?,
        error: row.get("error")?,
    })
}

fn queued_from_row(row: &Row<'_>) -> rusqlite::Result<QueuedStart> {
    Ok(QueuedStart {
        task_id: row.get("task_id")?,
        action: row.get("action")?,
        params: row.get::<_, Json<_>>("params")?.0,
        retry_policy: row
            .get::<_, Option<Json<_>>>("retry_policy")?
            .map(|policy| policy.0),
        forced: row.get("forced")?,
        id: row.get("id")?,
        queued_at: row.get("queued_at")?,
    })
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

fn io_error(path: &Path, error: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn explain(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::NotADatabase { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        _ => StoreError::Sqlite {
            path,
            source: Arc::new(error),
        },
    }
}

/// A value kept as JSON text.
struct Json<T>(T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        text.map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl ToSql for Outcome {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Outcome {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_word(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}
