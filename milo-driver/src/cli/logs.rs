//! `milo-driver logs`: what a task has said: from the files of a detached one, or from where Nomad keeps them.
//!
//! Whoever asks is root, and Nomad keeps them where tasks can write: no link is followed there, and only regular files are
//! read.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use runyard_common::{exit::Exit, output::Printer, report::Failure};
use rustix::fs::{Dir, FileType};

use super::{
    Context,
    known::{self, Known, Standing},
};
use crate::{
    beneath,
    task::{Dirs, Origin, Stream, Task},
};

/// How often a file is looked at that is followed.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// Show what a task has said
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its name, its id, or the beginning of its key
    #[arg(value_name = "TASK")]
    task: String,
    /// Its standard error instead of its standard output
    #[arg(long)]
    stderr: bool,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let known = known::one(&context.state(), &args.task)?;
    let files = files(&known.intent.task, args.stderr)?;
    let mut reader = Reader::open(&files, args.tail)?;
    loop {
        // Asked before reading: what was written until the end is then read, too.
        let has_ended = matches!(known.standing(), Standing::Exited(_) | Standing::Lost);
        reader.copy(&context.printer)?;
        if !args.follow || has_ended || is_gone(&known) {
            return Ok(Exit::Done);
        }
        thread::sleep(LOOK);
    }
}

fn is_gone(known: &Known) -> bool {
    !known.dir.path().exists()
}

/// A file that others may rename, and the folder above that only the agent or root can.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    top: PathBuf,
    relative: PathBuf,
}

impl Place {
    fn of(path: &Path, dirs: &Dirs) -> Self {
        let alone = || {
            let name = path.file_name().map_or(path, Path::new);
            (path.parent().unwrap_or(Path::new("/")), name)
        };
        let (top, relative) = dirs.around(path).unwrap_or_else(alone);
        Self {
            top: top.to_owned(),
            relative: relative.to_owned(),
        }
    }

    fn beside(&self, name: &str) -> Self {
        Self {
            top: self.top.clone(),
            relative: self.relative.with_file_name(name),
        }
    }

    /// The file, if it is there.
    fn open(&self) -> io::Result<Option<File>> {
        match beneath::regular(&self.top, &self.relative) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let path = self.top.join(&self.relative);
                let text = format!("cannot read `{}`: {error}", path.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    /// The names of the regular files beside it.
    fn siblings(&self) -> io::Result<Vec<String>> {
        let folder = self.relative.parent().unwrap_or(Path::new(""));
        let named = beneath::named(&self.top, folder)?;
        let opened = beneath::reopen(named, OpenOptions::new().read(true))?;
        let mut names = Vec::new();
        for entry in Dir::new(opened)? {
            let entry = entry?;
            // Some file systems do not say; it is found out when the file is opened.
            let may_be_read =
                matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            names.extend(
                entry
                    .file_name()
                    .to_str()
                    .ok()
                    .filter(|_| may_be_read)
                    .map(str::to_owned),
            );
        }
        Ok(names)
    }
}

/// Where a stream goes: the older file, if there may be one, and the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    older: Option<Place>,
    newest: Place,
}

fn files(task: &Task, stderr: bool) -> Result<Files, Failure> {
    let stream = if stderr {
        &task.stdio.stderr
    } else {
        &task.stdio.stdout
    };
    match (task.origin, stream) {
        (_, Stream::File { path, .. }) => {
            let mut older = path.clone().into_os_string();
            older.push(".1");
            Ok(Files {
                older: Some(Place::of(Path::new(&older), &task.dirs)),
                newest: Place::of(path, &task.dirs),
            })
        }
        (Origin::Nomad, Stream::Fifo(fifo)) => of_nomad(fifo, &task.dirs),
        _ => Err(
            Failure::new(Exit::NotFound, format!("`{}` keeps no log", task.id))
                .hint("one that runs in the foreground says everything where it was started"),
        ),
    }
}

/// Nomad reads `.web.stdout.fifo` into `web.stdout.0`, `web.stdout.1` and so on beside it.
fn of_nomad(fifo: &Path, dirs: &Dirs) -> Result<Files, Failure> {
    let nothing = || {
        Failure::new(
            Exit::NotFound,
            format!("Nomad keeps no log beside {}", fifo.display()),
        )
    };
    let name = fifo.file_name().and_then(|name| name.to_str());
    let name = name
        .and_then(|name| name.strip_prefix('.'))
        .and_then(|name| name.strip_suffix(".fifo"))
        .ok_or_else(nothing)?;
    let fifo = Place::of(fifo, dirs);
    let siblings = fifo
        .siblings()
        .map_err(|error| nothing().caused_by(error))?;
    let number = |file: &String| -> Option<u64> {
        let number = file.strip_prefix(name)?.strip_prefix('.')?;
        number.parse().ok()
    };
    let mut numbers: Vec<u64> = siblings.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let file = |number: u64| fifo.beside(&format!("{name}.{number}"));
    let newest = numbers.pop().ok_or_else(nothing)?;
    Ok(Files {
        older: numbers.pop().map(file),
        newest: file(newest),
    })
}

/// A log that may grow, and be rotated.
struct Reader {
    place: Place,
    file: Option<File>,
    /// What comes before the file.
    older: Option<File>,
}

impl Reader {
    fn open(files: &Files, tail: Option<usize>) -> io::Result<Self> {
        let older = files.older.as_ref().map(Place::open).transpose()?;
        let mut reader = Self {
            place: files.newest.clone(),
            file: files.newest.open()?,
            older: older.flatten(),
        };
        if let Some(lines) = tail {
            let both = reader.file.iter_mut().chain(&mut reader.older);
            to_last(both, lines)?;
        }
        Ok(reader)
    }

    /// Prints all that there is by now.
    fn copy(&mut self, printer: &Printer) -> io::Result<()> {
        if let Some(mut older) = self.older.take() {
            rest(&mut older, printer)?;
        }
        loop {
            if let Some(file) = &mut self.file {
                rest(file, printer)?;
            }
            if !self.reopen()? {
                return Ok(());
            }
        }
    }

    /// Goes on with the next file, if this one was put aside or cut.
    fn reopen(&mut self) -> io::Result<bool> {
        let Some(next) = self.place.open()? else {
            return Ok(false);
        };
        let is_same = match &mut self.file {
            Some(file) => {
                let (old, new) = (file.metadata()?, next.metadata()?);
                old.ino() == new.ino() && new.len() >= file.stream_position()?
            }
            None => false,
        };
        if !is_same {
            self.file = Some(next);
        }
        Ok(!is_same)
    }
}

/// Prints a file to its end.
fn rest(file: &mut File, printer: &Printer) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            count => printer.raw(&chunk[..count])?,
        }
    }
}

/// Puts files, the newest first, to where the last so many lines of them all begin. The last line need not have an end. They
/// are read from behind and piece by piece: a task may make them as long as it likes.
fn to_last<'a>(files: impl Iterator<Item = &'a mut File>, lines: usize) -> io::Result<()> {
    let (mut missing, mut is_last) = (lines, true);
    let mut chunk = vec![0; CHUNK];
    for file in files {
        let mut at = file.seek(SeekFrom::End(0))?;
        while at > 0 && missing > 0 {
            let size = usize::try_from(at).map_or(CHUNK, |left| left.min(CHUNK));
            at -= size as u64;
            file.read_exact_at(&mut chunk[..size], at)?;
            for (index, byte) in chunk[..size].iter().enumerate().rev() {
                let is_very_last = std::mem::take(&mut is_last);
                let is_end = *byte == b'\n' && !is_very_last;
                missing -= usize::from(is_end);
                if missing == 0 {
                    at += index as u64 + 1;
                    break;
                }
            }
        }
        file.seek(SeekFrom::Start(at))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use runyard_common::{
        output::Format,
        testing::{Paper, tempdir},
    };

    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let dir = tempdir();
        let place = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            Place::of(&path, &Dirs::default())
        };
        let last = |older: &str, newest: &str, lines| {
            let files = Files {
                older: Some(place("older", older)),
                newest: place("newest", newest),
            };
            let paper = Paper::default();
            let mut reader = Reader::open(&files, Some(lines)).unwrap();
            reader
                .copy(&Printer::to(Format::Table, paper.clone()))
                .unwrap();
            paper.text()
        };
        assert_eq!(last("", "a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("", "a\nb\nc", 1), "c");
        assert_eq!(last("", "a\nb\n", 9), "a\nb\n");
        assert_eq!(last("x\n", "a\nb\n", 0), "");
        // Two files are one text, also where a line goes on in the other one.
        assert_eq!(last("x\ny\n", "a\n", 2), "y\na\n");
        assert_eq!(last("x\ny\n", "a\n", 1), "a\n");
        assert_eq!(last("x\ny", "a\nb\n", 2), "ya\nb\n");
        assert_eq!(last("x\ny\n", "", 1), "y\n");
        let long = "z".repeat(CHUNK * 2);
        assert_eq!(last("x\n", &format!("{long}\nb"), 2), format!("{long}\nb"));
        assert_eq!(last(&format!("x\n{long}"), "\nb", 2), format!("{long}\nb"));
    }

    #[test]
    fn nomads_newest_file_follows_the_one_before() {
        let dir = tempdir();
        for name in [
            "web.stdout.0",
            "web.stdout.9",
            "web.stdout.10",
            "web.stderr.3",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let files = of_nomad(&dir.path().join(".web.stdout.fifo"), &Dirs::default()).unwrap();
        let place = |name: &str| Place::of(&dir.path().join(name), &Dirs::default());
        assert_eq!(files.newest, place("web.stdout.10"));
        assert_eq!(files.older, Some(place("web.stdout.9")));
    }

    #[test]
    fn a_file_that_is_put_aside_is_read_to_its_end_and_then_the_next() {
        let dir = tempdir();
        let newest = dir.path().join("log");
        fs::write(&newest, "one\n").unwrap();
        let files = Files {
            older: None,
            newest: Place::of(&newest, &Dirs::default()),
        };
        let mut reader = Reader::open(&files, None).unwrap();
        let paper = Paper::default();
        let printer = Printer::to(Format::Table, paper.clone());
        reader.copy(&printer).unwrap();
        fs::write(&newest, "one\ntwo\n").unwrap();
        fs::rename(&newest, dir.path().join("log.1")).unwrap();
        fs::write(&newest, "three\n").unwrap();
        reader.copy(&printer).unwrap();
        assert_eq!(paper.text(), "one\ntwo\nthree\n");
    }

    /// The folder of an allocation, with the log of a task `web`, and beside it a file of the host.
    fn allocation() -> (runyard_common::testing::TempDir, PathBuf, Dirs) {
        let dir = tempdir();
        let logs = dir.path().join("a/alloc/logs");
        fs::create_dir_all(&logs).unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        fs::write(logs.join("web.stdout.0"), "of the task\n").unwrap();
        fs::write(dir.path().join("host/web.stdout.0"), "of the host\n").unwrap();
        let dirs = Dirs {
            alloc: Some(dir.path().join("a/alloc")),
            ..Dirs::default()
        };
        let fifo = logs.join(".web.stdout.fifo");
        (dir, fifo, dirs)
    }

    fn said(files: &Files) -> io::Result<String> {
        let paper = Paper::default();
        let mut reader = Reader::open(files, None)?;
        reader.copy(&Printer::to(Format::Table, paper.clone()))?;
        Ok(paper.text())
    }

    #[test]
    fn a_task_that_puts_links_among_its_logs_shows_nothing_of_the_host() {
        let (dir, fifo, dirs) = allocation();
        let logs = fifo.parent().unwrap();
        symlink(
            dir.path().join("host/web.stdout.0"),
            logs.join("web.stdout.1"),
        )
        .unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            logs.join("web.stdout.2"),
            rustix::fs::Mode::from(0o600),
        )
        .unwrap();
        let files = of_nomad(&fifo, &dirs).unwrap();
        assert_eq!(said(&files).unwrap(), "of the task\n");
        // Now it is a link, after it was found to be a file.
        fs::rename(logs.join("web.stdout.1"), logs.join("web.stdout.0")).unwrap();
        let error = said(&files).unwrap_err().to_string();
        assert!(error.contains("web.stdout.0`"), "{error}");
    }

    #[test]
    fn a_task_that_replaces_the_folder_of_its_logs_shows_nothing_of_the_host() {
        let (dir, fifo, dirs) = allocation();
        let logs = fifo.parent().unwrap();
        let files = of_nomad(&fifo, &dirs).unwrap();
        fs::rename(logs, logs.with_file_name("away")).unwrap();
        symlink(dir.path().join("host"), logs).unwrap();
        said(&files).unwrap_err();
        of_nomad(&fifo, &dirs).unwrap_err();
    }
}
