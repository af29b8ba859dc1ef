//! Log files of tasks: which file a task has, how its lines look, and how their end is read back.
//!
//! A task id is any text that a client chose; a file name is not. Letters, digits, `_`, `-` and `.` stand for
//! themselves, except for a `.` or `-` at the beginning, every other byte is `%` and two hexadecimal digits: no id leads
//! out of the directory, hides a file, looks like an option, or collides with another id or with a rotated file.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LogFile, LogWriter, OpenError, Rotation, Shared, target};
use crate::api::OutputStream;
use crate::time::Timestamp;

/// Encoded ids are cut here; with hash, extension and number they stay below the 255 bytes of usual file systems.
const NAME_LIMIT: usize = 180;

/// Bytes read from the end of a file at a time.
const BLOCK: usize = 64 << 10;

/// A tail is no longer than this, however many lines were asked for, unless its last line alone is.
const TAIL_LIMIT: usize = 16 << 20;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `2026-02-21T03:24:40.43466893Z stdout | line`, in files called `….log`.
    #[default]
    Text,
    /// `{"ts":"…","stream":"stdout","data":"line"}`, in files called `….jsonl`.
    Json,
}

impl LogFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Text => "log",
            Self::Json => "jsonl",
        }
    }
}

/// A line in JSON.
#[derive(Serialize)]
struct JsonLine<'a> {
    ts: Timestamp,
    stream: OutputStream,
    data: &'a str,
}

/// The directory of the tasks' log files. Clones share it.
#[derive(Clone, Debug)]
pub struct TaskLogs {
    dir: PathBuf,
    rotation: Rotation,
    format: LogFormat,
    shared: Arc<Shared>,
}

impl TaskLogs {
    /// Prepares a directory for log files that `writer` writes, and creates it if need be, so that a mistake in the
    /// configuration appears at the start. The error names the path, its cause is the system's.
    pub fn open(
        writer: &LogWriter,
        dir: impl AsRef<Path>,
        rotation: Rotation,
        format: LogFormat,
    ) -> io::Result<Self> {
        let dir = path::absolute(dir)?;
        let explain = |source: io::Error| {
            io::Error::new(
                source.kind(),
                OpenError {
                    path: dir.clone(),
                    source,
                },
            )
        };
        fs::create_dir_all(&dir).map_err(explain)?;
        Ok(Self {
            dir,
            rotation,
            format,
            shared: Arc::clone(&writer.shared),
        })
    }

    /// The log file of a task. Nothing is opened before the first line.
    pub fn file(&self, task_id: &str) -> LogFile {
        self.shared.attach(self.path(task_id), self.rotation)
    }

    /// Where the log file of a task is, or would be.
    pub fn path(&self, task_id: &str) -> PathBuf {
        self.dir.join(format!(
            "{}.{}",
            file_name(task_id),
            self.format.extension()
        ))
    }

    /// Appends one line of output to `out`, in the form of these files, with its line feed. `data` is the line without
    /// its end.
    pub fn append_line(&self, out: &mut Vec<u8>, ts: Timestamp, stream: OutputStream, data: &str) {
        match self.format {
            LogFormat::Text => {
                use io::Write as _;
                write!(out, "{ts} {} | {data}", stream.as_str())
                    .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
            }
            LogFormat::Json => serde_json::to_writer(&mut *out, &JsonLine { ts, stream, data })
                .unwrap_or_else(|error| unreachable!("a line is plain text: {error}")),
        }
        out.push(b'\n');
    }

    /// The last `n` lines of a task, oldest first and without their ends, over its rotated files too; none if it has no
    /// file. At most 16 MiB are returned, but at least one line. Blocks; waits for lines on their way to the disk.
    pub fn read_tail(&self, task_id: &str, n: usize) -> io::Result<Vec<String>> {
        self.shared.flush();
        let mut tail = Tail::new(n);
        for file in &mut generations(&self.path(task_id), self.rotation.max_files)? {
            if !tail.prepend_file(file)? {
                break;
            }
        }
        Ok(tail.into_lines())
    }
}

/// A task id as a file name without extension. Equal names mean equal ids, but for ids beyond the length limit, whose
/// names end in a hash of the whole.
fn file_name(task_id: &str) -> String {
    let mut name = String::with_capacity(task_id.len());
    for (index, byte) in task_id.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => name.push(byte.into()),
            b'.' | b'-' if index > 0 => name.push(byte.into()),
            _ => append_escaped(&mut name, byte),
        }
    }
    // `~` is always escaped in an id, so these two forms are nobody else's.
    if name.is_empty() {
        name.push('~');
    } else if name.len() > NAME_LIMIT {
        name.truncate(NAME_LIMIT);
        append_hex(
            &mut name,
            '~',
            format_args!("{:032x}", fnv1a(task_id.as_bytes())),
        );
    }
    name
}

fn append_escaped(name: &mut String, byte: u8) {
    append_hex(name, '%', format_args!("{byte:02X}"));
}

fn append_hex(name: &mut String, mark: char, digits: std::fmt::Arguments<'_>) {
    name.push(mark);
    name.write_fmt(digits)
        .unwrap_or_else(|error| unreachable!("a String takes every write: {error}"));
}

/// The 128-bit FNV-1a hash (draft-eastlake-fnv). It must be the same in every version of this program, which the
/// standard library's hashes do not promise.
fn fnv1a(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

/// The files of a path that exist, newest first.
///
/// They are opened in this order, so that a rotation in between makes a file appear twice, which its inode gives away,
/// and never not at all.
fn generations(path: &Path, max_files: usize) -> io::Result<Vec<File>> {
    let mut files: Vec<(u64, File)> = Vec::new();
    for n in 0..=max_files {
        let path = if n == 0 {
            path.to_owned()
        } else {
            target::rotated(path, n)
        };
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if files.iter().all(|(known, _)| *known != inode) {
                    files.push((inode, file));
                }
            }
            // The newest is missing after its rotation failed half-way; any other ends the row.
            Err(error) if error.kind() == io::ErrorKind::NotFound && n > 0 => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

/// Lines gathered from the end backwards.
struct Tail {
    wanted: usize,
    /// Newest first.
    lines: Vec<String>,
    size: usize,
}

impl Tail {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            lines: Vec::new(),
            size: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= self.wanted || self.size >= TAIL_LIMIT
    }

    /// Adds the last lines of a file in front of those gathered. Half a line at its end, just being written or left by
    /// a daemon that was killed, is passed over. Returns whether more lines are wanted.
    fn prepend_file(&mut self, file: &mut File) -> io::Result<bool> {
        let mut unread = file.metadata()?.len();
        let mut held = Vec::new();
        let mut ends_whole = false;
        while unread > 0 && !self.is_full() {
            // As much again as is held, so that the search for the head of a long line stays linear.
            let length = unread.min(held.len().max(BLOCK) as u64);
            unread -= length;
            read_in_front(file, unread, length, &mut held)?;
            if !ends_whole {
                held.truncate(memchr::memrchr(b'\n', &held).map_or(0, |feed| feed + 1));
                ends_whole = !held.is_empty();
            }
            self.take_lines(&mut held);
            if held.len() > TAIL_LIMIT {
                break;
            }
        }
        if !held.is_empty() {
            self.take_line(&held);
        }
        Ok(!self.is_full())
    }

    /// Moves whole lines from the end of `held` to the tail. The first one stays: its head may still be unread.
    fn take_lines(&mut self, held: &mut Vec<u8>) {
        while !self.is_full() {
            let body = held.strip_suffix(b"\n").unwrap_or(held);
            let Some(feed) = memchr::memrchr(b'\n', body) else {
                return;
            };
            self.take_line(&held[feed + 1..]);
            held.truncate(feed + 1);
        }
    }

    fn take_line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let too_much = !self.lines.is_empty() && self.size + line.len() > TAIL_LIMIT;
        if too_much {
            self.wanted = self.lines.len();
        }
        if !self.is_full() {
            self.size += line.len();
            self.lines.push(String::from_utf8_lossy(line).into_owned());
        }
    }

    fn into_lines(mut self) -> Vec<String> {
        self.lines.reverse();
        self.lines
    }
}

/// Puts `length` bytes of the file, from `offset`, in front of what is held.
fn read_in_front(file: &mut File, offset: u64, length: u64, held: &mut Vec<u8>) -> io::Result<()> {
    let mut block = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut block)?;
    block.append(held);
    *held = block;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A writer, its directory, and logs in it.
    fn logs(rotation: Rotation, format: LogFormat) -> (LogWriter, tempfile::TempDir, TaskLogs) {
        let (writer, dir) = (LogWriter::start().unwrap(), tempfile::tempdir().unwrap());
        let logs = TaskLogs::open(&writer, dir.path().join("logs"), rotation, format).unwrap();
        (writer, dir, logs)
    }

    fn say(logs: &TaskLogs, task_id: &str, text: impl Into<Vec<u8>>) {
        logs.file(task_id).push(text.into().into());
    }

    #[test]
    fn lines_read_as_documented() {
        let ts: Timestamp = "2026-02-21T03:24:40.43466893Z".parse().unwrap();
        let mut out = Vec::new();
        let (_writer, _dir, logs) = logs(Rotation::default(), LogFormat::Text);
        logs.append_line(&mut out, ts, OutputStream::Stdout, "line");
        let logs = TaskLogs {
            format: LogFormat::Json,
            ..logs
        };
        logs.append_line(&mut out, ts, OutputStream::Stderr, "a \"b\"");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2026-02-21T03:24:40.43466893Z stdout | line\n\
             {\"ts\":\"2026-02-21T03:24:40.43466893Z\",\"stream\":\"stderr\",\"data\":\"a \\\"b\\\"\"}\n"
        );
        assert!(logs.path("t").ends_with("t.jsonl"));
    }

    #[test]
    fn harmless_ids_stay_readable_and_others_stay_in_the_directory() {
        assert_eq!(file_name("web-1.a_B"), "web-1.a_B");
        assert_eq!(file_name("../../etc/passwd"), "%2E.%2F..%2Fetc%2Fpasswd");
        assert_eq!(file_name(".."), "%2E.");
        assert_eq!(file_name("-rf *"), "%2Drf%20%2A");
        assert_eq!(file_name("é~"), "%C3%A9%7E");
        assert_eq!(file_name(""), "~");
    }

    #[test]
    fn long_ids_are_told_apart_by_their_hash() {
        let (one, other) = ("é".repeat(500), format!("{}x", "é".repeat(500)));
        assert_ne!(file_name(&one), file_name(&other));
        assert_eq!(file_name(&one).len(), NAME_LIMIT + 33);
        assert_eq!(
            fnv1a(b"a"),
            0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964,
            "as the draft's test vector says"
        );
    }

    proptest! {
        #[test]
        fn any_id_is_one_plain_component_and_nobody_elses(a in ".{0,300}", b in ".{0,8}") {
            let name = file_name(&a);
            prop_assert!(name.len() <= NAME_LIMIT + 33 && !name.contains('/') && !name.starts_with('.'));
            prop_assert_eq!(a == b, name == file_name(&b));
        }

        #[test]
        fn a_tail_is_what_the_last_lines_were(
            lines in prop::collection::vec("[a-z]{0,12}", 0..24),
            n in 0..30_usize,
            max_size in 0..60_u64,
        ) {
            let (_writer, _dir, logs) = logs(Rotation { max_size, max_files: 24 }, LogFormat::Text);
            for line in &lines {
                say(&logs, "t", format!("{line}\n"));
            }
            let expected = &lines[lines.len().saturating_sub(n)..];
            prop_assert_eq!(logs.read_tail("t", n).unwrap(), expected);
        }
    }

    #[test]
    fn a_task_that_never_spoke_has_an_empty_tail() {
        let (_writer, _dir, logs) = logs(Rotation::default(), LogFormat::Text);
        assert!(logs.read_tail("silent", 10).unwrap().is_empty());
        assert!(!logs.path("silent").exists());
    }

    #[test]
    fn a_tail_spans_lines_longer_than_a_block() {
        let (_writer, _dir, logs) = logs(Rotation::default(), LogFormat::Text);
        let long = "x".repeat(5 * BLOCK + 1);
        say(&logs, "t", format!("first\n{long}\nlast\n"));
        assert_eq!(logs.read_tail("t", 2).unwrap(), [long.as_str(), "last"]);
        assert_eq!(
            logs.read_tail("t", 9).unwrap(),
            ["first", long.as_str(), "last"]
        );
    }

    #[test]
    fn a_tail_is_bounded_but_never_empty() {
        let (_writer, _dir, logs) = logs(Rotation::default(), LogFormat::Text);
        let long = "x".repeat(TAIL_LIMIT / 2 + 1);
        say(&logs, "t", format!("{long}\n{long}\n"));
        assert_eq!(logs.read_tail("t", 9).unwrap().len(), 1);
        say(&logs, "t", format!("{long}{long}\n"));
        assert_eq!(logs.read_tail("t", 9).unwrap().len(), 1);
    }

    #[test]
    fn half_a_line_is_left_out_of_a_tail() {
        let (_writer, _dir, logs) = logs(Rotation::default(), LogFormat::Text);
        fs::write(logs.path("t"), "whole\nhal").unwrap();
        assert_eq!(logs.read_tail("t", 9).unwrap(), ["whole"]);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let writer = LogWriter::start().unwrap();
        let path = dir.path().join("file/logs");
        let error =
            TaskLogs::open(&writer, &path, Rotation::default(), LogFormat::Text).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot open the log file `{}`", path.display())
        );
    }
}
