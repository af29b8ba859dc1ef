//! Why the store cannot be opened, read or written, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;

/// The database cannot be opened, read or written.
///
/// Sources are shared, because one failed transaction is the answer to everybody who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory that should hold it does not exist.
    #[error("cannot open the database `{path}`: there is no directory `{directory}`")]
    NoDirectory {
        /// The database.
        path: PathBuf,
        /// What is missing.
        directory: PathBuf,
    },
    /// The path leads to a directory.
    #[error("cannot open the database `{path}`: it is a directory")]
    IsDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("cannot open the database `{path}`: the file is not an SQLite database")]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database, but somebody else's.
    #[error("cannot open the database `{path}`: it belongs to another program")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of this program has written it.
    #[error(
        "cannot open the database `{path}`: its schema is version {found}, this program knows up to {known}"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// Another daemon has it open.
    #[error("cannot open the database `{path}`: another daemon uses it{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The other daemon, if it could be told.
        pid: Option<u32>,
    },
    /// Another program keeps it locked.
    #[error("the database `{path}` is locked by another program")]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// A file cannot be created or locked.
    #[error("cannot open `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// `SQLite` refuses.
    #[error("cannot use the database `{path}`")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Its answer.
        source: Arc<rusqlite::Error>,
    },
    /// The system has no room for another thread.
    #[error("cannot start the thread that writes the database `{path}`")]
    Thread {
        /// The database.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The store was closed before.
    #[error("the database `{path}` is closed")]
    Closed {
        /// The database.
        path: PathBuf,
    },
}

impl StoreError {
    /// The way out, where there is one to name.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoDirectory { directory, .. } => {
                return Some(format!(
                    "create it (`mkdir -p {}`) or set `db` to another path",
                    directory.display()
                ));
            }
            Self::IsDirectory { path } => {
                return Some(format!(
                    "set `db` to a file in it, such as {}",
                    path.join("overseer.db").display()
                ));
            }
            Self::NotADatabase { .. } | Self::Foreign { .. } => {
                "set `db` to a path of its own, or move the file out of the way"
            }
            Self::Newer { .. } => {
                "run the newer version again, or move the file out of the way to begin a new one"
            }
            Self::InUse { .. } => "stop the other daemon, or give each one its own `db`",
            Self::Locked { .. } => {
                "end the program that keeps it open, such as a database shell, and try again"
            }
            Self::Io { .. } => {
                "let the daemon's user write to the directory, or set `db` to another path"
            }
            Self::Sqlite { source, .. } => return of_sqlite(source).map(str::to_owned),
            Self::Thread { .. } | Self::Closed { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn of_sqlite(error: &rusqlite::Error) -> Option<&'static str> {
    match error.sqlite_error_code()? {
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => Some(
            "let the daemon's user write to the file and its directory, or set `db` to another path",
        ),
        ErrorCode::DiskFull => Some("make room on the disk, or set `db` to a path on another one"),
        ErrorCode::DatabaseCorrupt => Some(
            "save what is left with `sqlite3 <file> .recover`, and move the file out of the way",
        ),
        _ => None,
    }
}
