//! What goes wrong before a task has a log of its own is put into its log all the same: an agent shows an error of a start
//! among the events only, and users look at the log first.
//!
//! The FIFO is in a folder that tasks may write to, so it is found without following a link, and used only if it is one; and
//! it is never waited for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use crate::{
    beneath::{self, reopen},
    task::Dirs,
};

/// The most bytes that go into a FIFO at once, or not at all (pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes a text to the log of a task in the allocation's folder, if somebody reads it. Whether that worked makes no
/// difference to anybody.
pub fn tell(allocation: &str, log: &str, text: &str) {
    if log.is_empty() || log == "/dev/null" {
        return;
    }
    let mut line = text.trim_end().to_owned();
    line.truncate(line.floor_char_boundary(AT_ONCE - 1));
    line.push('\n');
    let told = open(Path::new(allocation), Path::new(log))
        .and_then(|mut fifo| fifo.write_all(line.as_bytes()));
    if let Err(error) = told {
        tracing::debug!(log, %error, "could not write to a task's log");
    }
}

fn open(allocation: &Path, log: &Path) -> io::Result<File> {
    let dirs = Dirs {
        alloc: Some(allocation.join("alloc")).filter(|_| allocation.is_absolute()),
        ..Dirs::default()
    };
    let named = beneath::of_task(&dirs, log)?;
    if !named.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("is no FIFO"));
    }
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    reopen(named, &options)
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
        tell("", path.to_str().unwrap(), "Error: no\nGot: nothing\n");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Error: no\nGot: nothing\n");
    }

    #[test]
    fn a_log_that_nobody_reads_is_not_waited_for() {
        let dir = tempdir();
        let path = dir.path().join("stderr.fifo");
        fifo(&path);
        tell("", path.to_str().unwrap(), "Error: no");
        tell("", "/dev/null", "Error: no");
        tell("", "", "Error: no");
    }

    #[test]
    fn a_log_that_the_task_replaced_is_left_alone() {
        let dir = tempdir();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        tell("", link.to_str().unwrap(), "Error: no");
        tell("", victim.to_str().unwrap(), "Error: no");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_link_in_place_of_the_folder_of_logs_is_not_followed() {
        let dir = tempdir();
        let [allocation, host] = ["allocation", "host"].map(|name| dir.path().join(name));
        let logs = allocation.join("alloc/logs");
        std::fs::create_dir_all(&logs).unwrap();
        std::fs::create_dir(&host).unwrap();
        for folder in [&logs, &host] {
            fifo(&folder.join("stderr.fifo"));
        }
        let mut readers = [&logs, &host].map(|folder| reader(&folder.join("stderr.fifo")));
        let log = logs.join("stderr.fifo");
        let tell = || {
            tell(
                allocation.to_str().unwrap(),
                log.to_str().unwrap(),
                "Error: no",
            );
        };
        tell();
        std::fs::rename(&logs, allocation.join("alloc/away")).unwrap();
        symlink(&host, &logs).unwrap();
        tell();
        let said = readers.each_mut().map(|reader| {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            text
        });
        assert_eq!(said, ["Error: no\n", ""]);
    }

    #[test]
    fn a_long_text_is_cut_so_that_it_fits_at_once() {
        let dir = tempdir();
        let path = dir.path().join("stderr.fifo");
        fifo(&path);
        let mut reader = reader(&path);
        tell("", path.to_str().unwrap(), &"ä".repeat(AT_ONCE));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), AT_ONCE - 1);
    }
}
