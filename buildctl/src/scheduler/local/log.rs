//! Pages of a run's log file. The file is read where it is, a page at a time, whatever its size; nothing is kept.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use crate::{
    logs::{Chunk, Line, Position, each, record},
    phase::Run,
    state::file,
};

/// The largest page, in bytes of the file; whoever asks for more gets it in more pages.
const LARGEST: usize = 8 << 20;
/// The longest record that is one; a longer one comes in lines of so many bytes.
const LONGEST: usize = record::LONGEST_HEAD + Line::LONGEST + 1;

/// Whole records from `from` on, about `limit` bytes of them. A position inside of a record is one behind it. `is_over` must
/// have been found out before: what is read after that is all there will be.
pub(super) fn page(
    path: &Path,
    run: Run,
    from: Position,
    limit: usize,
    is_over: bool,
) -> io::Result<Chunk> {
    let Some((file, length)) = open(path)? else {
        return Ok(absent(from, is_over));
    };
    if from.out > length {
        // Not this file's position: what it was of is gone.
        return Ok(Chunk {
            next: at(length),
            complete: is_over,
            lost: true,
            ..Chunk::default()
        });
    }
    let limit = limit.clamp(1, LARGEST);
    let explained = |error| file::explained("read", path, error);
    let (start, mut bytes) = read(file, from.out, limit.max(LONGEST)).map_err(explained)?;
    bytes.truncate(within(&bytes, limit));
    Ok(cut(run, start, &bytes, length, is_over))
}

/// The end of the log as of now.
pub(super) fn end(path: &Path) -> io::Result<Position> {
    Ok(at(open(path)?.map_or(0, |(_, length)| length)))
}

fn at(out: u64) -> Position {
    Position { out, err: 0 }
}

fn absent(from: Position, is_over: bool) -> Chunk {
    Chunk {
        next: from,
        complete: is_over,
        lost: from.out > 0,
        ..Chunk::default()
    }
}

fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| file::explained("read", path, error))?,
    };
    let length = file.metadata()?.len();
    Ok(Some((file, length)))
}

/// Up to `limit` bytes from the first record that begins at or behind `from`; and where that is.
fn read(mut file: File, from: u64, limit: usize) -> io::Result<(u64, Vec<u8>)> {
    // One byte before tells whether a record begins here.
    let before = from.saturating_sub(1);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::with_capacity(limit.min(64 << 10));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if from == 0 {
        bytes.truncate(limit);
        return Ok((0, bytes));
    }
    let skipped = match memchr::memchr(b'\n', &bytes) {
        Some(newline) => newline + 1,
        // Deep in an endless line: go on where it was, so that there is progress.
        None => bytes.len().min(1),
    };
    bytes.drain(..skipped);
    Ok((before + skipped as u64, bytes))
}

/// How much of `bytes` a page of `limit` takes: whole records, and the first one however long it is.
fn within(bytes: &[u8], limit: usize) -> usize {
    let Some((head, rest)) = bytes.split_at_checked(limit) else {
        return bytes.len();
    };
    match memchr::memrchr(b'\n', head) {
        Some(newline) => newline + 1,
        None => memchr::memchr(b'\n', rest).map_or(bytes.len(), |newline| limit + newline + 1),
    }
}

/// The records in `bytes`, which begin at `start` of a file that was `length` long when it was opened.
fn cut(run: Run, start: u64, bytes: &[u8], length: u64, is_over: bool) -> Chunk {
    let reaches_end = start + bytes.len() as u64 >= length;
    let whole = match memchr::memrchr(b'\n', bytes) {
        // The last words of a run that was killed have no end of line.
        _ if is_over && reaches_end => bytes.len(),
        Some(newline) => newline + 1,
        // More than a record may have, and no end of it.
        None if bytes.len() >= LONGEST => bytes.len(),
        None => 0,
    };
    let mut reader = record::Reader::new(run);
    let (lines, ends) = each(&bytes[..whole], |line, lines| reader.read(line, lines));
    let next = start + whole as u64;
    Chunk {
        lines,
        ends: ends.into_iter().map(|end| at(start + end as u64)).collect(),
        next: at(next),
        complete: is_over && next >= length,
        lost: false,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, time::Instant};

    use runyard_common::testing::tempdir;

    use super::*;
    use crate::logs::Stream;

    fn all(path: &Path, limit: usize) -> Vec<String> {
        let (mut texts, mut from) = (Vec::new(), Position::default());
        loop {
            let chunk = page(path, Run::Build, from, limit, true).unwrap();
            texts.extend(chunk.lines.into_iter().map(|line| line.text));
            if chunk.complete {
                return texts;
            }
            assert!(chunk.next.out > from.out, "there is progress");
            from = chunk.next;
        }
    }

    fn record(text: &str) -> String {
        format!("2026-11-21T10:00:00.123Z O {text}\n")
    }

    #[test]
    fn pages_of_any_size_give_the_same_lines() {
        let folder = tempdir();
        let path = folder.path().join("log");
        let texts: Vec<String> = (0..5000).map(|index| format!("line {index}")).collect();
        fs::write(
            &path,
            texts.iter().map(|text| record(text)).collect::<String>(),
        )
        .unwrap();
        for limit in [1, 1000, 100_000, usize::MAX] {
            assert_eq!(all(&path, limit), texts);
        }
    }

    #[test]
    fn a_page_is_as_long_as_asked_for_unless_its_first_record_is_longer() {
        let folder = tempdir();
        let path = folder.path().join("log");
        let long = "x".repeat(5000);
        fs::write(
            &path,
            record("a") + &record("b") + &record(&long) + &record("c"),
        )
        .unwrap();
        let mut at = Position::default();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let chunk = page(&path, Run::Build, at, 70, true).unwrap();
            sizes.push(chunk.lines.len());
            at = chunk.next;
        }
        assert_eq!(sizes, [2, 1, 1]);
    }

    #[test]
    fn a_record_that_is_being_written_is_waited_for() {
        let folder = tempdir();
        let path = folder.path().join("log");
        fs::write(&path, record("a") + "2026-11-21T10:00:00.123Z O b").unwrap();
        let chunk = page(&path, Run::Build, Position::default(), 1000, false).unwrap();
        assert_eq!(chunk.lines.len(), 1);
        assert!(!chunk.complete);
        let again = page(&path, Run::Build, chunk.next, 1000, false).unwrap();
        assert_eq!((again.lines.len(), again.next), (0, chunk.next));
        let last = page(&path, Run::Build, chunk.next, 1000, true).unwrap();
        assert_eq!(last.lines[0].text, "b");
        assert!(last.complete);
    }

    #[test]
    fn a_position_inside_of_a_record_is_one_behind_it() {
        let folder = tempdir();
        let path = folder.path().join("log");
        fs::write(&path, record("a") + &record("b")).unwrap();
        let first = record("a").len() as u64;
        for out in 1..=first {
            let chunk = page(&path, Run::Build, at(out), 1000, true).unwrap();
            assert_eq!(chunk.lines.len(), 1, "from {out}");
            assert_eq!(chunk.lines[0].text, "b");
        }
        let chunk = page(&path, Run::Build, at(first + 1), 1000, true).unwrap();
        assert_eq!((chunk.lines.len(), chunk.complete), (0, true));
    }

    #[test]
    fn reading_goes_on_behind_any_line() {
        let folder = tempdir();
        let path = folder.path().join("log");
        let long = "x".repeat(2 * Line::LONGEST);
        let all = [record("a"), record(""), long + "\n", record("ü")].concat();
        fs::write(&path, all).unwrap();
        let page = |from| page(&path, Run::Build, from, 1 << 20, true).unwrap();
        let whole = page(Position::default());
        assert_eq!(whole.ends.len(), whole.lines.len());
        assert_eq!(whole.ends.last(), Some(&whole.next));
        for (index, end) in whole.ends.iter().enumerate() {
            let rest = page(*end).lines;
            assert!(whole.lines.ends_with(&rest), "behind line {index}");
            // A line that is too long for a record is read again from its beginning.
            let left = whole.lines.len() - index - 1;
            let again = rest.len() - left;
            let expected = usize::from(whole.lines[index].partial);
            assert_eq!(again, expected, "behind line {index}");
        }
    }

    #[test]
    fn what_is_no_record_and_has_no_end_is_read_all_the_same() {
        let folder = tempdir();
        let path = folder.path().join("log");
        fs::write(&path, "x".repeat(3 * LONGEST)).unwrap();
        let chunk = page(&path, Run::Build, Position::default(), 1, false).unwrap();
        assert!(chunk.next.out >= Line::LONGEST as u64);
        assert!(chunk.lines.iter().all(|line| line.stream == Stream::System));
        assert!(!all(&path, 1).is_empty());
    }

    #[test]
    fn a_position_behind_the_end_says_that_something_is_lost() {
        let folder = tempdir();
        let path = folder.path().join("log");
        fs::write(&path, record("a")).unwrap();
        let chunk = page(&path, Run::Build, at(1 << 40), 1000, true).unwrap();
        assert!(chunk.lost && chunk.complete && chunk.lines.is_empty());
        let none = page(&folder.path().join("none"), Run::Build, at(0), 1000, false).unwrap();
        assert_eq!(none, Chunk::default());
    }

    #[test]
    fn a_long_log_is_read_quickly_and_in_bounded_pages() {
        let folder = tempdir();
        let path = folder.path().join("log");
        let mut file = io::BufWriter::new(File::create(&path).unwrap());
        let line = record(&"x".repeat(100));
        let megabytes: u64 = if cfg!(debug_assertions) { 20 } else { 100 };
        for _ in 0..megabytes * (1 << 20) / line.len() as u64 {
            file.write_all(line.as_bytes()).unwrap();
        }
        file.into_inner().unwrap();
        let began = Instant::now();
        let (mut from, mut read) = (Position::default(), 0_u64);
        loop {
            let chunk = page(&path, Run::Build, from, 256 << 10, true).unwrap();
            assert!(chunk.lines.len() < 3000, "a page is bounded");
            read += chunk
                .lines
                .iter()
                .map(|line| line.text.len() as u64)
                .sum::<u64>();
            if chunk.complete {
                break;
            }
            from = chunk.next;
        }
        let took = u64::try_from(began.elapsed().as_millis()).unwrap();
        let rate = megabytes * 1000 / took.max(1);
        println!("{rate} MB/s");
        assert_eq!(read % 100, 0);
        // A build without optimisation is several times slower than what is shipped.
        let wanted = if cfg!(debug_assertions) { 5 } else { 50 };
        assert!(rate >= wanted, "{rate} MB/s");
    }
}
