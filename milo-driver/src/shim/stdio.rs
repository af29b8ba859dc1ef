//! Where a container's output goes and its input comes from: the descriptors that it is given, those that the shim keeps,
//! and the copying that is left when they cannot be the same.
//!
//! ```text
//!  Null, Inherited   container ──────────────────────────────▶ /dev/null, descriptors 3 to 5
//!  Fifo, block       container ──────────────────────────────▶ FIFO ──▶ its reader      (the shim holds it open both ways)
//!  Fifo, drop        container ──▶ <dir>/stdout.pipe ──shim──▶ FIFO ──▶ its reader      (what does not fit is counted)
//!  File              container ──▶ <dir>/stdout.pipe ──shim──▶ file, file.1
//! ```
//!
//! Every FIFO is open for reading and writing, in the container too: opening never waits, a reader that dies and comes
//! back is met by neither an end of file nor a broken pipe, and neither a dead reader nor a dead shim breaks the program.
//! The shim's own pipes have names, so that the next shim finds them.
//!
//! An agent's FIFO is in a folder that tasks can write to: below the folder of the allocation no link is followed, and what
//! was found is opened by its descriptor, once it is known to be a FIFO.
//!
//! At the exit everything is closed and a reader sees the end. Only where nobody reads at that moment and something is
//! left to read, it is kept until somebody has, or until the task is dismissed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{CWD, Mode, mkfifoat},
    io::Errno,
};

use super::log::Log;
use crate::{
    beneath::{self, reopen},
    runtime::wait,
    state::TaskDir,
    task::{Dirs, OnFull, Stdio, Stream},
};

/// How much is copied at once, and how often before others have their turn.
const CHUNK: usize = 32 * 1024;
const TURNS: usize = 16;

/// A stream that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{stream} `{}`: {problem}", path.display())]
pub struct StdioError {
    stream: &'static str,
    path: PathBuf,
    problem: String,
}

/// What the shim keeps of a container's stdio.
#[derive(Debug, Default)]
pub struct Plumbing {
    held: Vec<File>,
    pumps: Vec<Pump>,
    unread: Vec<File>,
}

/// One stream's descriptor for the container, and what the shim keeps of it.
struct End {
    container: OwnedFd,
    kept: Kept,
}

enum Kept {
    Nothing,
    Fifo(File),
    Pump(Pump),
}

impl Plumbing {
    /// Opens the streams: what to keep, and the container's stdin, stdout and stderr. Without the descriptors that were
    /// `given`, as in a later shim, an inherited stream is `/dev/null`. Below the task's folders, `dirs`, no FIFO is found
    /// through a link.
    pub fn open(
        dir: &TaskDir,
        wanted: &Stdio,
        dirs: &Dirs,
        given: Option<[OwnedFd; 3]>,
    ) -> Result<(Self, [OwnedFd; 3]), StdioError> {
        let [stdin, stdout, stderr] = given.map_or([None, None, None], |given| given.map(Some));
        let mut plumbing = Self::default();
        let input = plumbing.keep(read_end(&wanted.stdin, dirs, stdin)?);
        let out = Output {
            dir,
            dirs,
            name: "stdout",
        };
        let output = plumbing.keep(out.open(&wanted.stdout, wanted.on_full, stdout)?);
        let err = Output {
            dir,
            dirs,
            name: "stderr",
        };
        let is_one_file =
            matches!(wanted.stdout, Stream::File { .. }) && wanted.stdout == wanted.stderr;
        let errors = if is_one_file {
            // Two that rotate the same file would tear it apart.
            let shared = output.try_clone();
            shared.map_err(|error| broken("stderr", &wanted.stderr, &error))?
        } else {
            plumbing.keep(err.open(&wanted.stderr, wanted.on_full, stderr)?)
        };
        Ok((plumbing, [input, output, errors]))
    }

    fn keep(&mut self, end: End) -> OwnedFd {
        match end.kept {
            Kept::Nothing => {}
            Kept::Fifo(fifo) => self.held.push(fifo),
            Kept::Pump(pump) => self.pumps.push(pump),
        }
        end.container
    }

    /// What becomes readable when there is something to copy.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pumps.iter().map(|pump| pump.source.as_fd())
    }

    /// Copies what there is, but lets others have their turn.
    pub fn copy(&mut self) {
        for pump in &mut self.pumps {
            pump.copy(TURNS);
        }
    }

    /// The container has ended: copies the rest, says what was lost, and closes all that somebody reads or that is empty.
    pub fn finish(&mut self, log: &Log) {
        for mut pump in self.pumps.drain(..) {
            pump.copy(usize::MAX);
            if pump.dropped > 0 {
                log.say(format_args!(
                    "{}: {} bytes were dropped",
                    pump.name, pump.dropped
                ));
            }
            if let Sink::Fifo(fifo) = pump.sink {
                self.held.push(fifo);
            }
        }
        self.unread = self
            .held
            .drain(..)
            .filter_map(only_for_a_later_reader)
            .collect();
    }

    /// Whether something is kept for a reader that has not come yet: then [`Self::tidy`] wants to be called now and then.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Closes what has a reader by now, or was read.
    pub fn tidy(&mut self) {
        self.unread.retain(is_unread);
    }
}

fn null() -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    Ok(file.into())
}

fn read_end(wanted: &Stream, dirs: &Dirs, given: Option<OwnedFd>) -> Result<End, StdioError> {
    let broken = |error: io::Error| broken("stdin", wanted, &error);
    let nothing = |container| End {
        container,
        kept: Kept::Nothing,
    };
    match (wanted, given) {
        (Stream::Inherited, Some(given)) => Ok(nothing(given)),
        (Stream::Null | Stream::Inherited, _) => null().map(nothing).map_err(broken),
        (Stream::Fifo(path), _) => direct(path, dirs).map_err(broken),
        (Stream::File { path, .. }, _) => {
            let file = OpenOptions::new().read(true).open(path).map_err(broken)?;
            Ok(nothing(file.into()))
        }
    }
}

/// One of the two outputs.
struct Output<'a> {
    dir: &'a TaskDir,
    dirs: &'a Dirs,
    name: &'static str,
}

impl Output<'_> {
    fn open(
        &self,
        wanted: &Stream,
        full: OnFull,
        given: Option<OwnedFd>,
    ) -> Result<End, StdioError> {
        let end = match (wanted, given) {
            (Stream::Inherited, Some(given)) => Ok(End {
                container: given,
                kept: Kept::Nothing,
            }),
            (Stream::Null | Stream::Inherited, _) => null().map(|container| End {
                container,
                kept: Kept::Nothing,
            }),
            (Stream::Fifo(path), _) if full == OnFull::Block => direct(path, self.dirs),
            (Stream::Fifo(path), _) => fifo(path, self.dirs)
                .and_then(|fifo| both_ways(&fifo, libc::O_NONBLOCK))
                .and_then(|fifo| self.pump(Sink::Fifo(fifo))),
            (Stream::File { path, max_bytes }, _) => {
                Rotated::open(path, *max_bytes).and_then(|file| self.pump(Sink::File(file)))
            }
        };
        end.map_err(|error| broken(self.name, wanted, &error))
    }

    fn pump(&self, sink: Sink) -> io::Result<End> {
        let pipe = self.dir.path().join(format!("{}.pipe", self.name));
        match mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let pipe = fifo(&pipe, &Dirs::default())?;
        Ok(End {
            container: both_ways(&pipe, 0)?.into(),
            kept: Kept::Pump(Pump {
                name: self.name,
                source: both_ways(&pipe, libc::O_NONBLOCK)?,
                sink,
                dropped: 0,
                buffer: vec![0; CHUNK],
            }),
        })
    }
}

fn broken(stream: &'static str, wanted: &Stream, error: &io::Error) -> StdioError {
    let path = match wanted {
        Stream::Fifo(path) | Stream::File { path, .. } => path.clone(),
        Stream::Null | Stream::Inherited => "/dev/null".into(),
    };
    StdioError {
        stream,
        path,
        problem: error.to_string(),
    }
}

/// A FIFO that the container uses itself.
fn direct(path: &Path, dirs: &Dirs) -> io::Result<End> {
    let fifo = fifo(path, dirs)?;
    let container = both_ways(&fifo, 0)?.into();
    // One of our own: flags like O_NONBLOCK, which a program may set on its end, are not shared.
    let kept = both_ways(&fifo, libc::O_NONBLOCK)?;
    Ok(End {
        container,
        kept: Kept::Fifo(kept),
    })
}

/// Names a FIFO or `/dev/null`, and nothing else: its folder may belong to tasks, which could have put a link to a file of
/// the host there, or in the place of the folder.
fn fifo(path: &Path, dirs: &Dirs) -> io::Result<File> {
    let named = beneath::of_task(dirs, path)?;
    let what = named.metadata()?;
    let is_null = what.file_type().is_char_device() && what.rdev() == libc::makedev(1, 3);
    if !what.file_type().is_fifo() && !is_null {
        return Err(io::Error::other("is neither a FIFO nor /dev/null"));
    }
    Ok(named)
}

/// Opens a FIFO that is named for reading and writing.
fn both_ways(fifo: &File, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags);
    reopen(fifo, &options)
}

/// A FIFO after the exit: what to keep of it, if nobody reads it and there is something to be read. Our own reading end
/// is closed first, or we would take ourselves for the reader.
fn only_for_a_later_reader(fifo: File) -> Option<File> {
    let writer = reopen(&fifo, OpenOptions::new().write(true)).ok()?;
    drop(fifo);
    is_unread(&writer).then_some(writer)
}

/// Whether a FIFO, of which we have the writing end only, holds something and has no reader.
fn is_unread(writer: &File) -> bool {
    let mut fds = [PollFd::new(writer, PollFlags::OUT)];
    let polled = wait(&mut fds, Some(Duration::ZERO));
    let has_no_reader = polled.is_ok() && fds[0].revents().contains(PollFlags::ERR);
    has_no_reader && rustix::io::ioctl_fionread(writer).is_ok_and(|bytes| bytes > 0)
}

/// What is copied from one pipe to where it belongs.
#[derive(Debug)]
struct Pump {
    name: &'static str,
    source: File,
    sink: Sink,
    dropped: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Sink {
    Fifo(File),
    File(Rotated),
}

impl Pump {
    /// Copies chunk by chunk, at most so many.
    fn copy(&mut self, turns: usize) {
        for _ in 0..turns {
            // No error to tell: there is nothing, or there never will be.
            let count = self.source.read(&mut self.buffer).unwrap_or(0);
            if count == 0 {
                return;
            }
            let written = match &mut self.sink {
                Sink::Fifo(fifo) => fit(fifo, &self.buffer[..count]),
                Sink::File(file) => file.append(&self.buffer[..count]),
            };
            self.dropped += (count - written) as u64;
        }
    }
}

/// Writes as much as there is room for.
fn fit(fifo: &mut File, mut bytes: &[u8]) -> usize {
    let all = bytes.len();
    while !bytes.is_empty() {
        match fifo.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    all - bytes.len()
}

/// A file that is renamed to `<path>.1` when it is full.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
}

impl Rotated {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
            max,
        })
    }

    /// Appends; answers how much of it. A full disk takes nothing, but never stops the program.
    fn append(&mut self, bytes: &[u8]) -> usize {
        if self.size > 0 && self.size + bytes.len() as u64 > self.max {
            // When that fails, the old file grows on: better than to lose anything.
            let _ = self.rotate();
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.size += written as u64;
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        *self = Self::open(&self.path, self.max)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::{TempDir, tempdir};

    use super::*;

    struct Place {
        _root: TempDir,
        dir: TaskDir,
        log: Log,
    }

    impl Place {
        fn new() -> Self {
            let root = tempdir();
            let dir = TaskDir::at(root.path());
            let log = Log::open(&dir).unwrap();
            Self {
                _root: root,
                dir,
                log,
            }
        }

        fn fifo(&self, name: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
            path
        }

        fn open(&self, stdout: Stream, on_full: OnFull) -> (Plumbing, File) {
            let wanted = Stdio {
                stdout,
                on_full,
                ..Stdio::default()
            };
            let (plumbing, [_, out, _]) =
                Plumbing::open(&self.dir, &wanted, &Dirs::default(), None).unwrap();
            (plumbing, out.into())
        }
    }

    fn reader(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .unwrap()
    }

    fn read(mut file: &File) -> Vec<u8> {
        let mut text = Vec::new();
        // The end is either a real one or nothing more for now.
        let _ = file.read_to_end(&mut text);
        text
    }

    /// Whether all writing ends are closed.
    fn is_at_its_end(mut file: &File) -> bool {
        matches!(file.read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_fifo_is_kept_open_until_the_exit() {
        let place = Place::new();
        let path = place.fifo("out");
        let (mut plumbing, mut container) = place.open(Stream::Fifo(path.clone()), OnFull::Block);
        let first = reader(&path);
        container.write_all(b"one").unwrap();
        assert_eq!(read(&first), b"one");
        assert!(!is_at_its_end(&first));
        drop(first);
        container.write_all(b"two").unwrap();
        let second = reader(&path);
        assert_eq!(read(&second), b"two");
        drop(container);
        assert!(!is_at_its_end(&second));
        plumbing.finish(&place.log);
        assert!(is_at_its_end(&second));
        assert!(!plumbing.has_unread());
    }

    #[test]
    fn what_nobody_has_read_at_the_exit_waits_for_a_reader() {
        let place = Place::new();
        let path = place.fifo("out");
        let (mut plumbing, mut container) = place.open(Stream::Fifo(path.clone()), OnFull::Block);
        container.write_all(b"late").unwrap();
        drop(container);
        plumbing.finish(&place.log);
        assert!(plumbing.has_unread());
        plumbing.tidy();
        assert!(plumbing.has_unread());
        let late = reader(&path);
        plumbing.tidy();
        assert!(!plumbing.has_unread());
        assert_eq!(read(&late), b"late");
        assert!(is_at_its_end(&late));
    }

    #[test]
    fn a_full_fifo_drops_and_counts_when_asked_to() {
        let place = Place::new();
        let path = place.fifo("out");
        let (mut plumbing, mut container) = place.open(Stream::Fifo(path.clone()), OnFull::Drop);
        let reader = reader(&path);
        let chunk = vec![b'x'; 60_000];
        for _ in 0..3 {
            container.write_all(&chunk).unwrap();
            plumbing.copy();
        }
        plumbing.finish(&place.log);
        let arrived = read(&reader).len();
        assert!((60_000..180_000).contains(&arrived), "{arrived}");
        let log = fs::read_to_string(place.dir.log()).unwrap();
        let counted = format!("stdout: {} bytes were dropped\n", 180_000 - arrived);
        assert!(log.ends_with(&counted), "{log}");
    }

    #[test]
    fn a_file_is_rotated_and_loses_nothing_of_the_last_two() {
        let place = Place::new();
        let path = place.dir.path().join("log");
        let stream = Stream::File {
            path: path.clone(),
            max_bytes: 10,
        };
        let (mut plumbing, mut container) = place.open(stream, OnFull::Block);
        for line in ["one two\n", "three\n", "\u{fffd}\0four"] {
            container.write_all(line.as_bytes()).unwrap();
            plumbing.copy();
        }
        plumbing.finish(&place.log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\u{fffd}\0four");
        assert_eq!(
            fs::read_to_string(path.with_extension("1")).unwrap(),
            "three\n"
        );
    }

    #[test]
    fn two_streams_into_one_file_keep_their_order() {
        let place = Place::new();
        let path = place.dir.path().join("log");
        let stream = Stream::File {
            path: path.clone(),
            max_bytes: 1000,
        };
        let wanted = Stdio {
            stdout: stream.clone(),
            stderr: stream,
            ..Stdio::default()
        };
        let (mut plumbing, [_, out, err]) =
            Plumbing::open(&place.dir, &wanted, &Dirs::default(), None).unwrap();
        let (mut out, mut err) = (File::from(out), File::from(err));
        out.write_all(b"1").unwrap();
        err.write_all(b"2").unwrap();
        out.write_all(b"3").unwrap();
        plumbing.finish(&place.log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "123");
    }

    #[test]
    fn a_link_or_a_file_is_no_fifo() {
        let place = Place::new();
        let file = place.dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = place.dir.path().join("link");
        std::os::unix::fs::symlink(place.fifo("out"), &link).unwrap();
        for path in [file, link] {
            let wanted = Stdio {
                stderr: Stream::Fifo(path.clone()),
                ..Stdio::default()
            };
            let error = Plumbing::open(&place.dir, &wanted, &Dirs::default(), None).unwrap_err();
            let words = format!(
                "stderr `{}`: is neither a FIFO nor /dev/null",
                path.display()
            );
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn a_link_in_place_of_the_folder_of_logs_leads_nowhere() {
        let place = Place::new();
        let (alloc, host) = (
            place.dir.path().join("alloc"),
            place.dir.path().join("host"),
        );
        fs::create_dir_all(alloc.join("logs")).unwrap();
        fs::create_dir(&host).unwrap();
        let [task, victim] = ["alloc/logs/out", "host/out"].map(|name| place.fifo(name));
        let dirs = Dirs {
            alloc: Some(alloc.clone()),
            ..Dirs::default()
        };
        let open = |on_full| {
            let wanted = Stdio {
                stdout: Stream::Fifo(task.clone()),
                on_full,
                ..Stdio::default()
            };
            Plumbing::open(&place.dir, &wanted, &dirs, None).map(|(_, stdio)| stdio)
        };
        let [_, out, _] = open(OnFull::Block).unwrap();
        // What was found once is used, whatever is there afterwards.
        let found = reader(&task);
        fs::rename(alloc.join("logs"), alloc.join("away")).unwrap();
        std::os::unix::fs::symlink(&host, alloc.join("logs")).unwrap();
        File::from(out).write_all(b"one").unwrap();
        assert_eq!(read(&found), b"one");
        for on_full in [OnFull::Block, OnFull::Drop] {
            let error = open(on_full).unwrap_err().to_string();
            assert!(error.contains("symbolic links"), "{error}");
        }
        assert!(read(&reader(&victim)).is_empty());
    }

    #[test]
    fn dev_null_is_as_good_as_a_fifo() {
        let place = Place::new();
        for on_full in [OnFull::Block, OnFull::Drop] {
            let (mut plumbing, mut container) =
                place.open(Stream::Fifo("/dev/null".into()), on_full);
            container.write_all(b"gone").unwrap();
            plumbing.copy();
            plumbing.finish(&place.log);
            assert!(!plumbing.has_unread());
        }
    }

    #[test]
    fn the_next_shim_finds_what_the_last_one_had_not_copied() {
        let place = Place::new();
        let path = place.dir.path().join("log");
        let stream = Stream::File {
            path: path.clone(),
            max_bytes: 1000,
        };
        let (plumbing, mut container) = place.open(stream.clone(), OnFull::Block);
        drop(plumbing);
        container.write_all(b"nobody copies").unwrap();
        let (mut plumbing, _) = place.open(stream, OnFull::Block);
        plumbing.copy();
        assert_eq!(fs::read_to_string(&path).unwrap(), "nobody copies");
    }
}
