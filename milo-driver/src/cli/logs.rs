//! `milo-driver logs`: what a task has said: from the files of a detached one, or from where Nomad keeps them.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use runyard_common::{exit::Exit, output::Printer, report::Failure};

use super::{
    Context,
    known::{self, Known, Standing},
};
use crate::task::{Origin, Stream, Task};

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

/// Where a stream goes: the older file, if there is one, and the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    older: Option<PathBuf>,
    newest: PathBuf,
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
            let older = PathBuf::from(older);
            Ok(Files {
                older: older.exists().then_some(older),
                newest: path.clone(),
            })
        }
        (Origin::Nomad, Stream::Fifo(fifo)) => of_nomad(fifo),
        _ => Err(
            Failure::new(Exit::NotFound, format!("`{}` keeps no log", task.id))
                .hint("one that runs in the foreground says everything where it was started"),
        ),
    }
}

/// Nomad reads `.web.stdout.fifo` into `web.stdout.0`, `web.stdout.1` and so on beside it.
fn of_nomad(fifo: &Path) -> Result<Files, Failure> {
    let nothing = || {
        Failure::new(
            Exit::NotFound,
            format!("Nomad keeps no log beside {}", fifo.display()),
        )
    };
    let folder = fifo.parent().ok_or_else(nothing)?;
    let name = fifo
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(nothing)?;
    let name = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".fifo"))
        .ok_or_else(nothing)?;
    let entries = fs::read_dir(folder).map_err(|error| nothing().caused_by(error))?;
    let mut numbers: Vec<u64> = entries
        .filter_map(|entry| {
            let file = entry.ok()?.file_name();
            file.to_str()?
                .strip_prefix(name)?
                .strip_prefix('.')?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    let file = |number: u64| folder.join(format!("{name}.{number}"));
    let newest = numbers.pop().ok_or_else(nothing)?;
    Ok(Files {
        older: numbers.pop().map(file),
        newest: file(newest),
    })
}

/// A log that may grow, and be rotated.
struct Reader {
    path: PathBuf,
    file: Option<File>,
    /// What comes before the file.
    head: Vec<u8>,
}

impl Reader {
    fn open(files: &Files, tail: Option<usize>) -> io::Result<Self> {
        let mut head = match &files.older {
            Some(older) => fs::read(older)?,
            None => Vec::new(),
        };
        let mut file = opened(&files.newest)?;
        if let Some(lines) = tail {
            if let Some(file) = &mut file {
                file.read_to_end(&mut head)?;
            }
            head.drain(..begin_of_last(&head, lines));
        }
        Ok(Self {
            path: files.newest.clone(),
            file,
            head,
        })
    }

    /// Prints all that there is by now.
    fn copy(&mut self, printer: &Printer) -> io::Result<()> {
        printer.raw(&std::mem::take(&mut self.head))?;
        loop {
            if let Some(file) = &mut self.file {
                let mut chunk = vec![0; CHUNK];
                loop {
                    match file.read(&mut chunk)? {
                        0 => break,
                        count => printer.raw(&chunk[..count])?,
                    }
                }
            }
            if !self.reopen()? {
                return Ok(());
            }
        }
    }

    /// Goes on with the next file, if this one was put aside or cut.
    fn reopen(&mut self) -> io::Result<bool> {
        let Some(next) = opened(&self.path)? else {
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

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(0))?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last so many lines begin. The last line need not have an end.
fn begin_of_last(text: &[u8], lines: usize) -> usize {
    let whole = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = whole
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => text.len(),
        Some(before) => ends.map(|(at, _)| at + 1).nth(before).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let last = |text: &str, lines| text[begin_of_last(text.as_bytes(), lines)..].to_owned();
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc", 1), "c");
        assert_eq!(last("a\nb\n", 9), "a\nb\n");
        assert_eq!(last("a\nb\n", 0), "");
    }

    #[test]
    fn nomads_newest_file_follows_the_one_before() {
        let dir = runyard_common::testing::tempdir();
        for name in [
            "web.stdout.0",
            "web.stdout.9",
            "web.stdout.10",
            "web.stderr.3",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let files = of_nomad(&dir.path().join(".web.stdout.fifo")).unwrap();
        assert_eq!(files.newest, dir.path().join("web.stdout.10"));
        assert_eq!(files.older, Some(dir.path().join("web.stdout.9")));
    }

    #[test]
    fn a_file_that_is_put_aside_is_read_to_its_end_and_then_the_next() {
        let dir = runyard_common::testing::tempdir();
        let newest = dir.path().join("log");
        fs::write(&newest, "one\n").unwrap();
        let files = Files {
            older: None,
            newest: newest.clone(),
        };
        let mut reader = Reader::open(&files, None).unwrap();
        let paper = runyard_common::testing::Paper::default();
        let printer = Printer::to(runyard_common::output::Format::Table, paper.clone());
        reader.copy(&printer).unwrap();
        fs::write(&newest, "one\ntwo\n").unwrap();
        fs::rename(&newest, dir.path().join("log.1")).unwrap();
        fs::write(&newest, "three\n").unwrap();
        reader.copy(&printer).unwrap();
        assert_eq!(paper.text(), "one\ntwo\nthree\n");
    }
}
