//! The records of a log, as bytes: reading them, and writing one. What is no record (a panic of the runner, say) is a line that
//! buildctl itself has said; nothing is lost for want of a form.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use super::{Line, Stream};
use crate::phase::Run;

/// The longest head of a record, which is what comes before its text.
pub const LONGEST_HEAD: usize = "2026-11-21T10:00:00.123456789Z O ".len();

/// Reads records of one run.
#[derive(Clone, Debug)]
pub struct Reader {
    run: Run,
    /// The text of a second, and that second: records come many a second, and reading a date takes long.
    second: ([u8; 19], Timestamp),
}

impl Reader {
    /// A reader of records of `run`.
    pub fn new(run: Run) -> Self {
        Self {
            run,
            second: ([0; 19], Timestamp::UNIX_EPOCH),
        }
    }

    /// Reads the record in `bytes` (without its end of line) as one line, or as several if it is longer than one may be.
    pub fn read(&mut self, bytes: &[u8], lines: &mut Vec<Line>) {
        let (time, stream, partial, mut text) = match self.parse(bytes) {
            Some((time, stream, partial, text)) => (Some(time), stream, partial, text),
            None => (None, Stream::System, false, bytes),
        };
        while text.len() > Line::LONGEST {
            let (part, rest) = text.split_at(boundary(text, Line::LONGEST));
            self.push(time, stream, true, part, lines);
            text = rest;
        }
        self.push(time, stream, partial, text, lines);
    }

    fn push(
        &self,
        time: Option<Timestamp>,
        stream: Stream,
        partial: bool,
        text: &[u8],
        lines: &mut Vec<Line>,
    ) {
        lines.push(Line {
            run: self.run,
            stream,
            time,
            text: match String::from_utf8_lossy(text) {
                Cow::Borrowed(text) => text.to_owned(),
                Cow::Owned(text) => text,
            },
            partial,
        });
    }

    fn parse<'a>(&mut self, bytes: &'a [u8]) -> Option<(Timestamp, Stream, bool, &'a [u8])> {
        let end = memchr::memchr(b' ', bytes.get(..LONGEST_HEAD.min(bytes.len()))?)?;
        let time = self.time(&bytes[..end])?;
        let kind = *bytes.get(end + 1)?;
        let text = match bytes.get(end + 2) {
            None => &[],
            Some(b' ') => &bytes[end + 3..],
            Some(_) => return None,
        };
        let (stream, partial) = match kind {
            b'O' => (Stream::Stdout, false),
            b'o' => (Stream::Stdout, true),
            b'E' => (Stream::Stderr, false),
            b'e' => (Stream::Stderr, true),
            b'S' => (Stream::System, false),
            b's' => (Stream::System, true),
            _ => return None,
        };
        Some((time, stream, partial, text))
    }

    /// `2026-11-21T10:00:00.123Z`
    fn time(&mut self, bytes: &[u8]) -> Option<Timestamp> {
        let (second, rest) = bytes.split_first_chunk::<19>()?;
        if self.second.0 != *second {
            let text = std::str::from_utf8(second).ok()?;
            self.second = (*second, format!("{text}Z").parse().ok()?);
        }
        let fraction = match rest {
            b"Z" => 0,
            [b'.', digits @ .., b'Z'] if (1..=9).contains(&digits.len()) => nanoseconds(digits)?,
            _ => return None,
        };
        let fraction = SignedDuration::from_nanos(fraction);
        self.second.1.checked_add(fraction).ok()
    }
}

fn nanoseconds(digits: &[u8]) -> Option<i64> {
    let mut number = 0;
    for index in 0..9 {
        let digit = digits.get(index).unwrap_or(&b'0');
        number = number * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some(number)
}

/// Where to cut a text that is longer than `limit`: not inside of a character, if it is UTF-8.
fn boundary(text: &[u8], limit: usize) -> usize {
    let is_start = |index: &usize| text[*index] & 0xc0 != 0x80;
    (limit.saturating_sub(3)..=limit)
        .rev()
        .find(is_start)
        .unwrap_or(limit)
}

/// Writes one record: `text` without an end of line, at most [`Line::LONGEST`] long.
pub fn write(to: &mut Vec<u8>, time: Timestamp, stream: Stream, partial: bool, text: &[u8]) {
    let kind = match (stream, partial) {
        (Stream::Stdout, false) => b'O',
        (Stream::Stdout, true) => b'o',
        (Stream::Stderr, false) => b'E',
        (Stream::Stderr, true) => b'e',
        (Stream::System, false) => b'S',
        (Stream::System, true) => b's',
    };
    to.extend_from_slice(format!("{time:.3}").as_bytes());
    to.extend_from_slice(&[b' ', kind, b' ']);
    to.extend_from_slice(text);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        Reader::new(Run::Build).read(bytes, &mut lines);
        lines
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let time = "2026-11-21T10:00:00.123Z".parse().unwrap();
        for stream in [Stream::Stdout, Stream::Stderr, Stream::System] {
            for partial in [false, true] {
                let mut bytes = Vec::new();
                write(
                    &mut bytes,
                    time,
                    stream,
                    partial,
                    "Step 1/3: ü  x ".as_bytes(),
                );
                let expected = Line {
                    run: Run::Build,
                    stream,
                    time: Some(time),
                    text: "Step 1/3: ü  x ".into(),
                    partial,
                };
                assert_eq!(read(&bytes[..bytes.len() - 1]), [expected]);
            }
        }
    }

    #[test]
    fn an_empty_text_may_have_lost_its_blank() {
        for bytes in [&b"2026-11-21T10:00:00Z O "[..], b"2026-11-21T10:00:00Z O"] {
            let [line] = &read(bytes)[..] else { panic!() };
            assert_eq!((line.stream, line.text.as_str()), (Stream::Stdout, ""));
        }
    }

    #[test]
    fn what_is_no_record_is_a_line_of_ours() {
        for bytes in [
            &b"thread 'main' panicked at src/x.rs:1:1:"[..],
            b"",
            b"2026-11-21T10:00:00.1x3Z O a",
            b"2026-11-21T10:00:00Z X a",
            b"2026-11-21T10:00:00Z Oa",
            b"2026-99-21T10:00:00Z O a",
        ] {
            let [line] = &read(bytes)[..] else { panic!() };
            assert_eq!((line.stream, line.time), (Stream::System, None));
            assert_eq!(line.text.as_bytes(), bytes);
        }
    }

    #[test]
    fn a_record_that_is_too_long_comes_in_parts_that_are_whole_characters() {
        let text = "ü".repeat(Line::LONGEST);
        let lines = read(format!("2026-11-21T10:00:00Z E a{text}").as_bytes());
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.text.len() <= Line::LONGEST));
        let partial: Vec<_> = lines.iter().map(|line| line.partial).collect();
        assert_eq!(partial, [true, true, false]);
        let joined: String = lines.into_iter().map(|line| line.text).collect();
        assert_eq!(joined, format!("a{text}"));
    }

    #[test]
    fn what_is_not_utf_8_is_replaced() {
        let [line] = &read(b"2026-11-21T10:00:00Z O a\xffb")[..] else {
            panic!()
        };
        assert_eq!(line.text, "a\u{fffd}b");
    }
}
