//! Pipes cut into lines: as many whole lines as one read brings, whatever their bytes, none lost and none endless.
//!
//! A line ends at `\n`; one `\r` before it goes too; the last line may lack its end (Go's `bufio.ScanLines`). A line
//! longer than the limit is delivered up to it, marked, and skipped to its end: the writer is never blocked by it.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use tokio::net::unix::pipe;

use crate::topic::Line;

/// Size of one read; more than a pipe's default capacity is never there.
const READ: usize = 64 << 10;

thread_local! {
    /// One buffer a thread, not one a pipe: thousands of idle tasks cost nothing.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// One pipe, read line by line.
#[derive(Debug)]
pub struct LineReader {
    pipe: pipe::Receiver,
    splitter: Splitter,
}

impl LineReader {
    /// Reads from the pipe `fd`; lines are kept up to `max_line` bytes.
    pub fn new(fd: OwnedFd, max_line: usize) -> io::Result<Self> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(fd)?,
            splitter: Splitter::new(max_line),
        })
    }

    /// Waits for the next read's worth of lines and hands them to `take`; `None` when the pipe has ended.
    pub async fn next<T>(&mut self, mut take: impl FnMut(&[Line<'_>]) -> T) -> Option<T> {
        loop {
            if self.pipe.readable().await.is_err() {
                return self.splitter.finish(&mut take);
            }
            let Self { pipe, splitter } = self;
            let read = BUFFER.with_borrow_mut(|buffer| match pipe.try_read(buffer) {
                Ok(0) => Read::Ended,
                Ok(count) => Read::Lines(splitter.feed(&buffer[..count], &mut take)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Lines(None),
                Err(_) => Read::Ended,
            });
            match read {
                Read::Lines(None) => {}
                Read::Lines(taken) => return taken,
                Read::Ended => return self.splitter.finish(&mut take),
            }
        }
    }
}

enum Read<T> {
    Lines(Option<T>),
    Ended,
}

/// Cuts a byte stream into lines. Holds nothing but an unfinished one.
#[derive(Debug)]
pub struct Splitter {
    max_line: usize,
    /// Start of a line whose end has not come yet.
    carry: Vec<u8>,
    /// The rest of an overlong line is being skipped.
    skipping: bool,
}

impl Splitter {
    /// Lines are kept up to `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        Self {
            max_line: max_line.max(1),
            carry: Vec::new(),
            skipping: false,
        }
    }

    /// Takes bytes; hands complete lines to `take`, all at once, if there are any.
    pub fn feed<T>(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(&[Line<'_>]) -> T,
    ) -> Option<T> {
        if self.skipping {
            let end = memchr::memchr(b'\n', bytes)?;
            self.skipping = false;
            bytes = &bytes[end + 1..];
        }
        let Some(last_end) = memchr::memrchr(b'\n', bytes) else {
            return self.keep(bytes, take);
        };
        let (whole, rest) = bytes.split_at(last_end + 1);
        let carried = std::mem::take(&mut self.carry);
        let first;
        let mut lines = Vec::with_capacity(whole.len() / 32 + 1);
        let mut whole = whole;
        if !carried.is_empty() {
            let end = memchr::memchr(b'\n', whole).unwrap_or(whole.len() - 1);
            first = [&carried[..], &whole[..end]].concat();
            lines.push(self.line(&first));
            whole = &whole[end + 1..];
        }
        lines.extend(memchr::memchr_iter(b'\n', whole).scan(0, |start, end| {
            let line = self.line(&whole[*start..end]);
            *start = end + 1;
            Some(line)
        }));
        let taken = take(&lines);
        drop(lines);
        // What is left is shorter than one read; it becomes overlong, if ever, with a later one.
        self.carry = rest.to_vec();
        Some(taken)
    }

    /// The stream has ended: hands over an unfinished last line.
    pub fn finish<T>(&mut self, take: &mut impl FnMut(&[Line<'_>]) -> T) -> Option<T> {
        let carried = std::mem::take(&mut self.carry);
        (!carried.is_empty()).then(|| take(&[self.line(&carried)]))
    }

    /// Keeps the start of a line; one that gets too long is handed over cut, and its rest skipped.
    fn keep<T>(&mut self, bytes: &[u8], take: &mut impl FnMut(&[Line<'_>]) -> T) -> Option<T> {
        self.carry.extend_from_slice(bytes);
        if self.carry.len() <= self.max_line {
            return None;
        }
        self.skipping = true;
        let carried = std::mem::take(&mut self.carry);
        Some(take(&[Line {
            data: &carried[..self.max_line],
            truncated: true,
        }]))
    }

    fn line<'a>(&self, data: &'a [u8]) -> Line<'a> {
        if data.len() > self.max_line {
            return Line {
                data: &data[..self.max_line],
                truncated: true,
            };
        }
        Line {
            data: data.strip_suffix(b"\r").unwrap_or(data),
            truncated: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(max_line: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::new(max_line);
        let mut out = Vec::new();
        let mut take = |lines: &[Line<'_>]| {
            out.extend(
                lines
                    .iter()
                    .map(|line| (line.data.to_vec(), line.truncated)),
            );
        };
        for chunk in chunks {
            splitter.feed(chunk, &mut take);
        }
        splitter.finish(&mut take);
        out
    }

    fn whole(lines: &[&str]) -> Vec<(Vec<u8>, bool)> {
        lines
            .iter()
            .map(|line| (line.as_bytes().to_vec(), false))
            .collect()
    }

    #[test]
    fn lines_end_at_line_feeds_and_lose_one_carriage_return() {
        assert_eq!(
            split(100, &[b"a\r\n\nb\r\r\nc"]),
            whole(&["a", "", "b\r", "c"])
        );
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        assert_eq!(
            split(100, &[b"ab", b"c", b"d\ne", b"f\n"]),
            whole(&["abcd", "ef"])
        );
    }

    #[test]
    fn an_overlong_line_is_cut_marked_and_skipped() {
        let cut = (b"1234".to_vec(), true);
        for chunks in [
            vec![&b"123456\nok\n"[..]],
            vec![b"123", b"456", b"789\nok\n"],
            vec![b"12345", b"\nok\n"],
        ] {
            let lines = split(4, &chunks);
            assert_eq!(lines, [cut.clone(), (b"ok".to_vec(), false)], "{chunks:?}");
        }
    }

    #[test]
    fn a_line_of_just_the_limit_is_whole() {
        assert_eq!(split(4, &[b"1234\n"]), whole(&["1234"]));
        assert_eq!(split(4, &[b"12", b"34", b"\n"]), whole(&["1234"]));
    }

    proptest! {
        #[test]
        fn cutting_the_stream_anywhere_changes_nothing(
            text in prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'\n', b'\r']), 0..200),
            cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(7, &chunks), split(7, &[&text]));
        }
    }
}
