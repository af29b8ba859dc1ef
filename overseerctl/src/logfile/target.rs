//! One path that lines are appended to, and its rotation. Blocking file operations only; no queue, no thread, no log of
//! repeated failures.
//!
//! ```text
//!   path.2 ◀── path.1 ◀── path ◀── append
//!   oldest                newest
//! ```
//!
//! Files begin and end at line borders: a line is never divided between two of them, even where it arrives in pieces.
//! `size` is the length of the open file, `border` the length up to its last line feed; between them lies the line
//! under way. What an append could not write is cut back to the border, so that a full disk leaves no half lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Rotation;

/// Everybody may read, the daemon's user may write; narrowed by the umask.
const MODE: u32 = 0o644;

/// A path, its open file if there is one, and what went wrong with it.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    rotation: Rotation,
    open: Option<OpenFile>,
    /// The head of the line under way is lost; its tail must go the same way.
    skipping: bool,
    /// The last rotation failed, which has been said.
    stuck: bool,
    failing: bool,
    lost: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Devices and pipes have no size and are not rotated.
    regular: bool,
    size: u64,
    border: u64,
    /// It was found with half a line at its end, which somebody else left there.
    ragged: bool,
    /// The path is to be opened again as soon as the line under way is complete.
    reopen: bool,
}

impl Target {
    /// Opens nothing, and does not rotate until told.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            rotation: Rotation::default(),
            open: None,
            skipping: false,
            stuck: false,
            failing: false,
            lost: 0,
        }
    }

    /// Bytes that were to be appended and are not in any file.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the last append failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a line has begun and not ended.
    pub(super) fn is_mid_line(&self) -> bool {
        self.open.as_ref().is_some_and(OpenFile::is_mid_line)
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    /// Opens the file unless it is open.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.opened().map(drop)
    }

    fn opened(&mut self) -> io::Result<&mut OpenFile> {
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenFile::open(&self.path)?,
        };
        Ok(self.open.insert(open))
    }

    /// Closes the file, which ends the line under way; the next append opens it again.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.skipping = false;
    }

    /// Opens whatever is at the path now instead of the open file, once the line under way is complete. If that fails
    /// the open file stays in use, so that nothing is lost, and the next append tries again.
    pub(super) fn reopen(&mut self) {
        let Some(open) = &mut self.open else { return };
        let asked_before = std::mem::replace(&mut open.reopen, true);
        if open.is_mid_line() {
            return;
        }
        match OpenFile::open(&self.path) {
            Ok(reopened) => self.open = Some(reopened),
            Err(_) if asked_before => {}
            Err(error) => {
                warn!(path = %self.path.display(), %error, "log file cannot be reopened; the old one stays in use");
            }
        }
    }

    /// Appends bytes, rotating at line borders. After an error the rest of `data` is lost, up to the end of its line.
    pub(super) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        let mut rest = self.after_lost_line(data);
        let appended = self.append_rest(&mut rest);
        self.failing = appended.is_err();
        if self.failing {
            self.give_up(rest);
        }
        appended
    }

    fn append_rest(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let limit = self.rotation.max_size;
            let open = self.opened()?;
            let mut fitting = open.fitting(rest, limit);
            if fitting == 0 {
                if self.rotate() {
                    continue;
                }
                fitting = rest.len();
            }
            let (now, later) = rest.split_at(fitting);
            let open = self.opened()?;
            open.write(now)?;
            *rest = later;
            if open.reopen {
                self.reopen();
            }
        }
        Ok(())
    }

    /// Moves the full file out of the way. If it cannot be moved, which is said once, it grows on: a log too large is
    /// better than none.
    fn rotate(&mut self) -> bool {
        let shifted = shift(&self.path, self.rotation.max_files);
        let said = std::mem::replace(&mut self.stuck, shifted.is_err());
        match shifted {
            Ok(()) => {
                self.open = None;
                true
            }
            Err(error) => {
                if !said {
                    warn!(path = %self.path.display(), %error, "log file cannot be rotated and outgrows its limit");
                }
                false
            }
        }
    }

    /// The part of `data` behind the line whose head was lost.
    fn after_lost_line<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        if !self.skipping {
            return data;
        }
        let feed = memchr::memchr(b'\n', data);
        self.skipping = feed.is_none();
        let (lost, rest) = data.split_at(feed.map_or(data.len(), |feed| feed + 1));
        self.lost += lost.len() as u64;
        rest
    }

    /// Counts what of `rest` is lost, and lets go of the file: the trouble may be the file itself, such as a stale
    /// network handle.
    fn give_up(&mut self, rest: &[u8]) {
        let (kept, begun) = self.open.take().map_or((0, 0), |open| open.salvage(rest));
        self.lost += (rest.len() - kept) as u64 + begun;
        self.skipping = !rest.ends_with(b"\n");
    }
}

impl OpenFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        let metadata = file.metadata()?;
        let regular = metadata.is_file();
        let size = if regular { metadata.len() } else { 0 };
        let ragged = regular && ends_in_half_a_line(path, size);
        Ok(Self {
            file,
            regular,
            size,
            border: size,
            ragged,
            reopen: false,
        })
    }

    fn is_mid_line(&self) -> bool {
        self.size != self.border
    }

    /// How much of `data` belongs into this file, whose size has a limit unless that is 0. Nothing asks for a rotation.
    fn fitting(&self, data: &[u8], limit: u64) -> usize {
        let first_line = || memchr::memchr(b'\n', data).map_or(data.len(), |feed| feed + 1);
        if self.reopen && self.is_mid_line() {
            return first_line();
        }
        let room = usize::try_from(limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
        if limit == 0 || !self.regular || data.len() <= room {
            return data.len();
        }
        match memchr::memrchr(b'\n', &data[..room]) {
            Some(feed) => feed + 1,
            None if self.is_mid_line() || self.size == 0 => first_line(),
            None => 0,
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.ragged {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.border += 1;
            self.ragged = false;
        }
        self.file.write_all(data)?;
        if let Some(feed) = memchr::memrchr(b'\n', data) {
            self.border = self.size + feed as u64 + 1;
        }
        self.size += data.len() as u64;
        Ok(())
    }

    /// After a failed write of the beginning of `rest`: keeps its whole lines that got into the file and cuts the half
    /// one off. Returns the length of what was kept, and of the line that had begun before and is gone.
    fn salvage(self, rest: &[u8]) -> (usize, u64) {
        let length = self
            .file
            .metadata()
            .map_or(self.size, |metadata| metadata.len());
        let written = usize::try_from(length.saturating_sub(self.size))
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let kept = memchr::memrchr(b'\n', &rest[..written]).map_or(0, |feed| feed + 1);
        let border = if kept > 0 {
            self.size + kept as u64
        } else {
            self.border
        };
        if self.regular && length > border {
            // If this fails too, the next `open` will find the half line and end it.
            let _ = self.file.set_len(border);
        }
        (kept, if kept > 0 { 0 } else { self.size - self.border })
    }
}

/// The `n`th rotated file of a path.
pub(super) fn rotated(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Renames `path` to `path.1`, `path.1` to `path.2` and so on, and deletes what is beyond `keep`. A number that is
/// missing stops the chain, so nothing is deleted as long as there is a gap to fill.
fn shift(path: &Path, keep: usize) -> io::Result<()> {
    for surplus in keep.saturating_add(1).. {
        if !was_there(fs::remove_file(rotated(path, surplus)))? {
            break;
        }
    }
    if keep == 0 {
        return was_there(fs::remove_file(path)).map(drop);
    }
    let free = (1..keep)
        .find(|&n| !rotated(path, n).exists())
        .unwrap_or(keep);
    for n in (1..free).rev() {
        fs::rename(rotated(path, n), rotated(path, n + 1))?;
    }
    was_there(fs::rename(path, rotated(path, 1))).map(drop)
}

/// Whether the file that was to be moved or removed existed; somebody else may have been quicker.
fn was_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file's last byte is something other than a line feed. A file that may be written but not read counts as
/// whole: it cannot be known.
fn ends_in_half_a_line(path: &Path, size: u64) -> bool {
    let last_byte = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last).map(|()| last[0])
    };
    size > 0 && last_byte().is_ok_and(|byte| byte != b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(path: &Path, max_size: u64, max_files: usize) -> Target {
        let mut target = Target::new(path.to_owned());
        target.set_rotation(Rotation {
            max_size,
            max_files,
        });
        target
    }

    /// The path's files, oldest first.
    fn files(path: &Path) -> Vec<String> {
        let rotated = (1..)
            .map(|n| rotated(path, n))
            .take_while(|path| path.exists());
        let mut paths: Vec<_> = [path.to_owned()]
            .into_iter()
            .filter(|path| path.exists())
            .chain(rotated)
            .collect();
        paths.reverse();
        paths
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(String),
        Reopen,
        /// As for a task that rests, between lines.
        Close,
    }

    fn steps(piece: &'static str) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![8 => piece.prop_map(Step::Push), 1 => Just(Step::Reopen), 1 => Just(Step::Close)];
        prop::collection::vec(step, 0..30)
    }

    /// Takes the steps and returns what was pushed.
    fn take(target: &mut Target, steps: &[Step]) -> String {
        let mut pushed = String::new();
        for step in steps {
            match step {
                Step::Push(piece) => {
                    target.append(piece.as_bytes()).unwrap();
                    pushed.push_str(piece);
                }
                Step::Reopen => target.reopen(),
                Step::Close if target.is_mid_line() => {}
                Step::Close => target.close(),
            }
        }
        pushed
    }

    proptest! {
        #[test]
        fn the_files_together_are_a_suffix_of_what_was_pushed_and_no_line_is_torn(
            steps in steps("[ab\n]{0,20}"),
            max_size in 0..40_u64,
            max_files in 0..4_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let pushed = take(&mut target(&path, max_size, max_files), &steps);

            let files = files(&path);
            let kept = files.concat();
            prop_assert!(pushed.ends_with(&kept));
            let gone = &pushed[..pushed.len() - kept.len()];
            prop_assert!(gone.is_empty() || gone.ends_with('\n'));
            for older in files.iter().rev().skip(1) {
                prop_assert!(older.ends_with('\n'));
            }
            prop_assert!(files.len() <= max_files + 1);
            prop_assert!(gone.is_empty() || files.len() == max_files + 1, "lost before the limit was reached");
            prop_assert!(max_size > 0 || files.len() <= 1);
        }

        #[test]
        fn a_file_outgrows_its_limit_only_for_a_single_line(
            steps in steps("([ab]{0,20}\n){0,4}"),
            max_size in 1..40_u64,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            take(&mut target(&path, max_size, 1000), &steps);
            let files = files(&path);
            for file in &files {
                prop_assert!(file.len() as u64 <= max_size || file.lines().count() == 1);
            }
            for pair in files.windows(2) {
                let next_line = pair[1].split_inclusive('\n').next().unwrap_or_default();
                prop_assert!((pair[0].len() + next_line.len()) as u64 > max_size, "rotated too early");
            }
        }
    }

    #[test]
    fn a_restart_goes_on_where_the_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        target(&path, 8, 2).append(b"one\ntwo\n").unwrap();
        target(&path, 8, 2).append(b"three\n").unwrap();
        assert_eq!(files(&path), ["one\ntwo\n", "three\n"]);
    }

    #[test]
    fn half_a_line_left_by_a_killed_daemon_is_ended_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "who\nhal").unwrap();
        target(&path, 0, 0).append(b"next\n").unwrap();
        assert_eq!(files(&path), ["who\nhal\nnext\n"]);
    }

    #[test]
    fn files_beyond_a_lowered_limit_are_deleted_at_the_next_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        target(&path, 2, 4).append(b"1\n2\n3\n4\n5\n").unwrap();
        assert_eq!(files(&path).len(), 5);
        target(&path, 2, 1).append(b"6\n").unwrap();
        assert_eq!(files(&path), ["5\n", "6\n"]);
    }

    #[test]
    fn a_file_that_cannot_be_rotated_grows_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::create_dir_all(rotated(&path, 1).join("in the way")).unwrap();
        let mut target = target(&path, 4, 1);
        target.append(b"one\ntwo\n").unwrap();
        target.append(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");

        fs::remove_dir_all(rotated(&path, 1)).unwrap();
        target.append(b"four\n").unwrap();
        assert_eq!(files(&path), ["one\ntwo\nthree\n", "four\n"]);
    }

    #[test]
    fn a_reopening_waits_for_the_end_of_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("moved"));
        let mut target = target(&path, 0, 0);
        target.append(b"beg").unwrap();
        fs::rename(&path, &moved).unwrap();
        target.reopen();
        target.append(b"un\nnew\n").unwrap();
        assert_eq!(fs::read_to_string(moved).unwrap(), "begun\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "new\n");
    }

    #[test]
    fn a_reopening_that_fails_loses_nothing_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&new).unwrap();
        let mut target = target(&new.join("log"), 0, 0);
        target.append(b"one\n").unwrap();
        fs::rename(&new, &old).unwrap();
        target.reopen();
        target.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(old.join("log")).unwrap(), "one\ntwo\n");

        fs::create_dir(&new).unwrap();
        target.append(b"three\n").unwrap();
        target.append(b"four\n").unwrap();
        assert_eq!(
            fs::read_to_string(old.join("log")).unwrap(),
            "one\ntwo\nthree\n"
        );
        assert_eq!(fs::read_to_string(new.join("log")).unwrap(), "four\n");
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted() {
        let mut target = target(Path::new("/dev/full"), 10, 1);
        assert_eq!(
            target.append(b"one\ntwo").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(target.is_failing());
        assert_eq!(target.lost(), 7);
    }

    #[test]
    fn a_disk_that_fills_up_keeps_the_whole_lines_that_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut open = OpenFile::open(&path).unwrap();
        open.write(b"one\nbeg").unwrap();
        let mut disk = OpenOptions::new().append(true).open(&path).unwrap();
        disk.write_all(b"un\nth").unwrap(); // so far a write of the following got
        assert_eq!(open.salvage(b"un\nthree\n"), (3, 0));
        assert_eq!(files(&path), ["one\nbegun\n"]);

        let mut open = OpenFile::open(&path).unwrap();
        open.write(b"beg").unwrap();
        disk.write_all(b"u").unwrap();
        assert_eq!(open.salvage(b"un\nthree\n"), (0, 3));
        assert_eq!(files(&path), ["one\nbegun\n"]);
    }

    #[test]
    fn the_tail_of_a_line_whose_head_was_lost_is_lost_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, absent) = (dir.path().join("here/log"), dir.path().join("here"));
        let mut target = target(&path, 0, 0);
        target.append(b"he").unwrap_err();
        fs::create_dir(absent).unwrap();
        target.append(b"ad\nwhole\n").unwrap();
        assert_eq!(files(&path), ["whole\n"]);
        assert_eq!(target.lost(), 5);
        assert!(!target.is_failing());
    }
}
