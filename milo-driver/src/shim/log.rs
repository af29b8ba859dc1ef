//! A shim's own words in `shim.log`. No levels, no filters, no subscriber: a shim says little, and is to stay small.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use crate::state::TaskDir;

/// The log, open for appending.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Opens the log of a task, for its owner only.
    pub fn open(dir: &TaskDir) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(dir.log())?;
        Ok(Self { file })
    }

    /// Writes one line. A log that cannot be written stops nothing.
    pub fn say(&self, words: fmt::Arguments<'_>) {
        let line = format!("{:.3} shim: {words}\n", jiff::Timestamp::now());
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
