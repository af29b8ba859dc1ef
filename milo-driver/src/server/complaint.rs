//! What goes wrong before a task has a log of its own is put into its log all the same: an agent shows an error of a start
//! among the events only, and users look at the log first.
//!
//! The FIFO is in a folder that the task itself may write to, so it is opened without following a link and used only if it
//! is one; and it is never waited for.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// The most bytes that go into a FIFO at once, or not at all (pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes a text to a task's log, if somebody reads it. Whether that worked makes no difference to anybody.
pub fn tell(log: &str, text: &str) {
    let Some(mut fifo) = open(log) else {
        return;
    };
    let mut line = text.trim_end().to_owned();
    line.truncate(line.floor_char_boundary(AT_ONCE - 1));
    line.push('\n');
    if let Err(error) = fifo.write_all(line.as_bytes()) {
        tracing::debug!(log, %error, "could not write to a task's log");
    }
}

fn open(log: &str) -> Option<File> {
    if log.is_empty() || log == "/dev/null" {
        return None;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(Path::new(log))
        .ok()?;
    file.metadata().ok()?.file_type().is_fifo().then_some(file)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink};

    use runyard_common::testing::tempdir;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    }

    fn reader(path: &Path) -> File {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .unwrap()
    }

    #[test]
    fn the_text_reaches_whoever_reads_the_log() {
        let dir = tempdir();
        let path = dir.path().join("stderr.fifo");
        fifo(&path);
        let mut reader = reader(&path);
        tell(path.to_str().unwrap(), "Error: no\nGot: nothing\n");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Error: no\nGot: nothing\n");
    }

    #[test]
    fn a_log_that_nobody_reads_is_not_waited_for() {
        let dir = tempdir();
        let path = dir.path().join("stderr.fifo");
        fifo(&path);
        tell(path.to_str().unwrap(), "Error: no");
        tell("/dev/null", "Error: no");
        tell("", "Error: no");
    }

    #[test]
    fn a_log_that_the_task_replaced_is_left_alone() {
        let dir = tempdir();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        tell(link.to_str().unwrap(), "Error: no");
        tell(victim.to_str().unwrap(), "Error: no");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_long_text_is_cut_so_that_it_fits_at_once() {
        let dir = tempdir();
        let path = dir.path().join("stderr.fifo");
        fifo(&path);
        let mut reader = reader(&path);
        tell(path.to_str().unwrap(), &"ä".repeat(AT_ONCE));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), AT_ONCE - 1);
    }
}
