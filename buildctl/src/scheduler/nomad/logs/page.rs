//! Pages of a log: from a position in numbered files to lines and the position behind them. What files there are has been looked
//! up; only their parts are fetched here.

use super::{Files, Look};
use crate::{
    logs::{Chunk, Line, Position, Stream, each, record},
    phase::Run,
    runner::RESULT_RECORD,
    scheduler::nomad::{
        client::{ApiError, NomadApi},
        wire::{TASK, TaskKind},
    },
};

/// Bits of an offset.
const BITS: u32 = 40;
/// Offsets from here on count from the end of their file.
const BACK: u64 = 1 << (BITS - 1);
/// The largest page, in bytes.
const LARGEST: usize = 4 << 20;
/// The longest record: what has no end behind that is cut.
const LONGEST: usize = record::LONGEST_HEAD + Line::LONGEST + 1;

/// A place in the files of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    file: u64,
    offset: u64,
}

impl Mark {
    fn of(position: u64) -> Self {
        Self {
            file: position >> BITS,
            offset: position & ((1 << BITS) - 1),
        }
    }

    fn position(self) -> u64 {
        self.file << BITS | self.offset
    }
}

/// The end of a stream.
pub(super) fn end(files: Option<&Files>) -> u64 {
    let last = files.and_then(|files| files.last().copied());
    last.map_or(0, |(file, offset)| Mark { file, offset }.position())
}

/// Where reading at a position begins, and whether something before that is gone.
fn begin(position: u64, files: &Files) -> (Mark, bool) {
    let mark = Mark::of(position);
    let (Some((oldest, _)), Some((newest, size))) = (files.first(), files.last()) else {
        return (mark, position > 0);
    };
    let first = Mark {
        file: *oldest,
        offset: 0,
    };
    match files.iter().find(|(file, _)| *file == mark.file) {
        Some((_, size)) if mark.offset >= BACK => {
            let offset = size.saturating_sub((1 << BITS) - mark.offset);
            (Mark { offset, ..mark }, false)
        }
        Some((_, size)) if mark.offset <= *size => (mark, false),
        Some((_, size)) => (
            Mark {
                offset: *size,
                ..mark
            },
            true,
        ),
        None if mark.file < *oldest => (first, true),
        // Not of these files.
        None => (
            Mark {
                file: *newest,
                offset: *size,
            },
            true,
        ),
    }
}

/// Where parts of files come from.
pub(super) struct Source<'a> {
    pub(super) api: &'a NomadApi,
    pub(super) allocation: &'a str,
    pub(super) stream: &'static str,
}

impl Source<'_> {
    /// Part of a file; none if that is gone.
    pub(super) async fn part(
        &self,
        file: u64,
        from: u64,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        let file = file & ((1 << super::ATTEMPT) - 1);
        let path = format!("{}/{TASK}.{}.{file}", super::FOLDER, self.stream);
        self.api.part(self.allocation, &path, from, limit).await
    }
}

/// What was read of one stream.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    /// Where each part of the bytes begins in its file, and how long it is.
    parts: Vec<(Mark, usize)>,
    /// Whether the files have no more.
    reaches_end: bool,
    lost: bool,
}

impl Piece {
    /// Reads up to `limit` bytes on, across files.
    async fn read(
        source: &Source<'_>,
        files: &Files,
        from: u64,
        limit: usize,
    ) -> Result<Self, ApiError> {
        let (start, lost) = begin(from, files);
        let mut piece = Self {
            lost,
            ..Self::default()
        };
        for (file, size) in files.iter().filter(|(file, _)| *file >= start.file) {
            let offset = if *file == start.file { start.offset } else { 0 };
            let room = limit.saturating_sub(piece.bytes.len()) as u64;
            let wanted = size.saturating_sub(offset).min(room);
            let mark = Mark {
                file: *file,
                offset,
            };
            let bytes = match wanted {
                0 => Vec::new(),
                wanted => source
                    .part(*file, offset, wanted)
                    .await?
                    .unwrap_or_default(),
            };
            let gone = (bytes.len() as u64) < wanted;
            piece.parts.push((mark, bytes.len()));
            piece.bytes.extend_from_slice(&bytes);
            if offset + wanted < *size {
                return Ok(piece);
            }
            // It was removed since it was seen: what follows is there.
            piece.lost |= gone;
        }
        piece.reaches_end = true;
        Ok(piece)
    }

    /// How much of it is whole lines within `limit`, or one line that is longer; the rest too, if nothing will be added.
    fn whole(&self, limit: usize, over: bool) -> usize {
        let within = &self.bytes[..limit.min(self.bytes.len())];
        let line = memchr::memrchr(b'\n', within).or_else(|| memchr::memchr(b'\n', &self.bytes));
        match line {
            _ if over && self.reaches_end && self.bytes.len() <= limit => self.bytes.len(),
            Some(newline) => newline + 1,
            None if self.bytes.len() >= LONGEST => self.bytes.len(),
            None if over && self.reaches_end => self.bytes.len(),
            None => 0,
        }
    }

    /// The position behind the first `length` bytes.
    fn behind(&self, length: usize, files: &Files) -> u64 {
        if self.reaches_end && length == self.bytes.len() {
            return end(Some(files));
        }
        let mut left = length;
        let mut place = Mark { file: 0, offset: 0 };
        for (mark, size) in &self.parts {
            let taken = left.min(*size);
            place = Mark {
                file: mark.file,
                offset: mark.offset + taken as u64,
            };
            left -= taken;
            if left == 0 {
                break;
            }
        }
        place.position()
    }
}

/// A page of both streams.
pub(super) async fn read(
    api: &NomadApi,
    look: &Look,
    run: Run,
    from: Position,
    limit: usize,
) -> Result<Chunk, ApiError> {
    let (Some(allocation), Some(out), Some(err)) = (&look.allocation, &look.out, &look.err) else {
        return Ok(Chunk {
            next: from,
            complete: look.over,
            lost: look.over && look.began,
            ..Chunk::default()
        });
    };
    let limit = limit.clamp(1, LARGEST);
    let of = |stream| Source {
        api,
        allocation,
        stream,
    };
    let mut chunk = Chunk {
        next: from,
        complete: look.over,
        ..Chunk::default()
    };
    let records = look.kind != Some(TaskKind::Image);
    let piece = Piece::read(&of("stdout"), out, from.out, limit.max(LONGEST)).await?;
    let room = limit.saturating_sub(piece.whole(limit, look.over));
    take(
        &mut chunk,
        (&piece, limit, out, look.over),
        |bytes| {
            if records {
                lines_of_records(run, bytes)
            } else {
                plain_lines(run, Stream::Stdout, bytes)
            }
        },
        |next, out| next.out = out,
    );
    if room > 0 {
        let piece = Piece::read(&of("stderr"), err, from.err, room.max(LONGEST)).await?;
        take(
            &mut chunk,
            (&piece, room, err, look.over),
            |bytes| plain_lines(run, Stream::Stderr, bytes),
            |next, err| next.err = err,
        );
    } else {
        chunk.complete = false;
    }
    Ok(chunk)
}

/// Lines of a log, and behind how many bytes each of them ends.
type Lines = (Vec<Line>, Vec<usize>);

/// Puts the whole lines of a piece behind those of a chunk. `to` moves a position in the piece's stream.
fn take(
    chunk: &mut Chunk,
    (piece, limit, files, over): (&Piece, usize, &Files, bool),
    read: impl FnOnce(&[u8]) -> Lines,
    to: impl Fn(&mut Position, u64),
) {
    let whole = piece.whole(limit, over);
    let (lines, ends) = read(&piece.bytes[..whole]);
    chunk.lines.extend(lines);
    for end in ends {
        to(&mut chunk.next, piece.behind(end, files));
        chunk.ends.push(chunk.next);
    }
    to(&mut chunk.next, piece.behind(whole, files));
    chunk.complete &= piece.reaches_end && whole == piece.bytes.len();
    chunk.lost |= piece.lost;
}

fn lines_of_records(run: Run, bytes: &[u8]) -> Lines {
    let mut reader = record::Reader::new(run);
    let (lines, ends) = each(bytes, |line, lines| reader.read(line, lines));
    // What is for this backend alone is nothing that was said.
    let said = |line: &Line| line.stream != Stream::System || !line.text.starts_with(RESULT_RECORD);
    let both = lines.into_iter().zip(ends);
    both.filter(|(line, _)| said(line)).unzip()
}

/// Lines of a program that writes no records.
fn plain_lines(run: Run, stream: Stream, bytes: &[u8]) -> Lines {
    each(bytes, |line, lines| {
        let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        let mut rest = text.as_ref();
        loop {
            let cut = (0..=rest.len().min(Line::LONGEST))
                .rev()
                .find(|at| rest.is_char_boundary(*at));
            let (part, behind) = rest.split_at(cut.unwrap_or(rest.len()));
            lines.push(Line {
                run,
                stream,
                time: None,
                text: part.to_owned(),
                partial: !behind.is_empty(),
            });
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
    })
}

/// The rest of the last record of buildctl's own that begins so.
pub(super) fn last_said(bytes: &[u8], head: &str) -> Option<String> {
    let mut reader = record::Reader::new(Run::Build);
    let (lines, _) = each(bytes, |line, lines| reader.read(line, lines));
    let said = |line: &Line| {
        let own = line.stream == Stream::System && line.time.is_some() && !line.partial;
        own.then(|| line.text.strip_prefix(head).map(str::to_owned))?
    };
    lines.iter().rev().find_map(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u64, offset: u64) -> u64 {
        Mark { file, offset }.position()
    }

    #[test]
    fn reading_goes_on_where_it_was() {
        let files = vec![(3, 100), (4, 50)];
        for mark in [at(3, 0), at(3, 100), at(4, 7), at(4, 50)] {
            assert_eq!(begin(mark, &files), (Mark::of(mark), false));
        }
        assert_eq!(end(Some(&files)), at(4, 50));
        assert_eq!((end(None), end(Some(&vec![]))), (0, 0));
    }

    #[test]
    fn what_was_rotated_away_is_lost_and_said_to_be() {
        let files = vec![(3, 100), (4, 50)];
        let oldest = Mark { file: 3, offset: 0 };
        assert_eq!(begin(0, &files), (oldest, true));
        assert_eq!(begin(at(2, 99), &files), (oldest, true));
        let end = Mark {
            file: 4,
            offset: 50,
        };
        assert_eq!(
            begin(at(9, 1), &files),
            (end, true),
            "of another allocation"
        );
        assert_eq!(begin(at(4, 60), &files), (end, true), "truncated");
    }

    #[test]
    fn a_distance_from_a_position_is_one_across_files() {
        let files = vec![(3, 100), (4, 50)];
        assert_eq!(begin(at(4, 50) - 20, &files), (Mark::of(at(4, 30)), false));
        assert_eq!(
            begin(at(4, 10) - 30, &files),
            (
                Mark {
                    file: 3,
                    offset: 80
                },
                false
            )
        );
        assert_eq!(
            begin(at(4, 10) - 5000, &files),
            (Mark { file: 3, offset: 0 }, false)
        );
        assert_eq!(
            begin(at(0, 10).saturating_sub(5000), &vec![(0, 10)])
                .0
                .offset,
            0
        );
    }

    #[test]
    fn a_line_that_a_rotation_cut_is_one_line() {
        let piece = Piece {
            bytes: b"one\ntw".to_vec().into_iter().chain(*b"o\nthr").collect(),
            parts: vec![
                (
                    Mark {
                        file: 0,
                        offset: 10,
                    },
                    6,
                ),
                (Mark { file: 1, offset: 0 }, 5),
            ],
            reaches_end: true,
            lost: false,
        };
        let files = vec![(0, 16), (1, 5)];
        let whole = piece.whole(1000, false);
        assert_eq!(&piece.bytes[..whole], b"one\ntwo\n");
        assert_eq!(piece.behind(whole, &files), at(1, 2));
        assert_eq!(piece.behind(4, &files), at(0, 14));
        assert_eq!(piece.behind(6, &files), at(0, 16));
        assert_eq!(piece.whole(1000, true), 11);
        assert_eq!((piece.whole(4, true), piece.whole(1, true)), (4, 4));
        assert_eq!(piece.behind(11, &files), at(1, 5));
    }

    #[test]
    fn plain_lines_keep_everything() {
        let long = "ä".repeat(Line::LONGEST);
        let said = format!("a\r\n\n{long}\n");
        let (lines, ends) = plain_lines(Run::TestEntry, Stream::Stdout, said.as_bytes());
        assert_eq!(ends[..3], [3, 4, 4], "a part is none to go on behind");
        assert_eq!(ends.last(), Some(&said.len()));
        assert_eq!((lines[0].text.as_str(), lines[1].text.as_str()), ("a", ""));
        let whole: String = lines[2..].iter().map(|line| line.text.as_str()).collect();
        assert_eq!(whole, long);
        assert!(lines[2].partial && !lines.last().unwrap().partial);
    }

    #[test]
    fn only_buildctl_itself_says_a_result() {
        let log = "2026-11-21T10:00:00.123Z S result: {\"a\":1}\n2026-11-21T10:00:00.124Z O result: forged\nresult: forged\n";
        assert_eq!(
            last_said(log.as_bytes(), "result: ").as_deref(),
            Some("{\"a\":1}")
        );
        let (lines, ends) = lines_of_records(Run::Build, log.as_bytes());
        assert_eq!(ends.len(), lines.len());
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(
            texts[0], "result: forged",
            "a program may say what it likes"
        );
        assert!(!texts.contains(&"result: {\"a\":1}"));
    }
}
