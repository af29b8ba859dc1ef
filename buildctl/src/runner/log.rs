//! The log of a run: what programs and buildctl itself say becomes records (see [`crate::logs`]) on one writer. Lines are
//! whole or in parts, secrets are masked before they are cut, and nothing is left out: whoever writes waits for whoever reads.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use jiff::Timestamp;

use super::mask::Mask;
use crate::logs::{Line, Stream};

/// How much of records is gathered before it is written, in bytes.
const GATHERED: usize = 64 << 10;

/// Where records go.
pub(super) struct Log {
    out: Box<dyn Write + Send>,
    /// What is masked.
    pub(super) mask: Mask,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    records: Vec<u8>,
    broken: Option<io::Error>,
}

impl Log {
    /// A log that is written to `out`.
    pub(super) fn new(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            mask: Mask::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            records: Vec::new(),
            broken: None,
        }
    }

    /// Something of buildctl's own; more lines than one are as many records.
    pub(super) fn say(&mut self, text: &str) {
        for line in text.lines() {
            let masked = self.mask.apply(line.as_bytes()).into_owned();
            self.records_of(Stream::System, &masked, false);
        }
        self.write();
    }

    /// A piece of what a program writes; `heard` gets every line (or part of a long one) as it is logged.
    pub(super) fn feed(&mut self, stream: Stream, piece: &[u8], heard: &mut dyn FnMut(&str)) {
        let mut line = std::mem::take(self.line(stream));
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.overflow(stream, &mut line, heard);
            self.end_line(stream, &line, heard);
            line.clear();
            if self.records.len() >= GATHERED {
                self.write();
            }
        }
        line.extend_from_slice(rest);
        self.overflow(stream, &mut line, heard);
        *self.line(stream) = line;
        self.write();
    }

    /// The program writes no more: a last line without its end is one, too.
    pub(super) fn finish(&mut self, heard: &mut dyn FnMut(Stream, &str)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(self.line(stream));
            if !line.is_empty() {
                self.end_line(stream, &line, &mut |text| heard(stream, text));
            }
        }
        self.write();
    }

    /// Why the log could not be written, if that happened.
    pub(super) fn broken(&self) -> Option<&io::Error> {
        self.broken.as_ref()
    }

    fn line(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr | Stream::System => &mut self.stderr,
        }
    }

    /// Gives away the beginning of a line that is too long to keep. A cut is never in a secret: of what is kept, as much as the
    /// longest secret is behind it, so that every secret that begins before the cut has been seen whole.
    fn overflow(&mut self, stream: Stream, line: &mut Vec<u8>, heard: &mut dyn FnMut(&str)) {
        let mut from = 0;
        while line.len() - from > Line::LONGEST + self.mask.longest() {
            let rest = &line[from..];
            let cut = self.cut(rest);
            let masked = self.mask.apply(&rest[..cut]).into_owned();
            heard(&String::from_utf8_lossy(&masked));
            self.records_of(stream, &masked, true);
            from += cut;
        }
        line.drain(..from);
    }

    /// Where to cut a line that goes on: not within a secret, and not within a character.
    fn cut(&self, rest: &[u8]) -> usize {
        let spans = self.mask.spans(rest);
        let within = |at: usize| spans.iter().find(|span| span.start < at && at < span.end);
        match within(Line::LONGEST) {
            Some(span) if span.start > 0 => span.start,
            Some(span) => span.end,
            None => match character(rest, Line::LONGEST) {
                at if within(at).is_some() => Line::LONGEST,
                at => at,
            },
        }
    }

    fn end_line(&mut self, stream: Stream, line: &[u8], heard: &mut dyn FnMut(&str)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let masked = self.mask.apply(line).into_owned();
        heard(&String::from_utf8_lossy(&masked));
        self.records_of(stream, &masked, false);
    }

    /// Turns a masked text into records; `goes_on` says whether the line does after all of it.
    fn records_of(&mut self, stream: Stream, text: &[u8], goes_on: bool) {
        let mut rest = text;
        while rest.len() > Line::LONGEST {
            let (part, behind) = rest.split_at(character(rest, Line::LONGEST));
            self.record(stream, part, true);
            rest = behind;
        }
        self.record(stream, rest, goes_on);
    }

    fn record(&mut self, stream: Stream, text: &[u8], goes_on: bool) {
        let code = match (stream, goes_on) {
            (Stream::Stdout, false) => 'O',
            (Stream::Stdout, true) => 'o',
            (Stream::Stderr, false) => 'E',
            (Stream::Stderr, true) => 'e',
            (Stream::System, false) => 'S',
            (Stream::System, true) => 's',
        };
        let mut head = String::with_capacity(28);
        // Writing to a string cannot fail.
        let _ = write!(head, "{:.3} {code} ", Timestamp::now());
        self.records.extend_from_slice(head.as_bytes());
        self.records
            .extend_from_slice(String::from_utf8_lossy(text).as_bytes());
        self.records.push(b'\n');
    }

    /// A log that cannot be written does not end the run: the first error is kept, and told with the result.
    fn write(&mut self) {
        if self.broken.is_none()
            && let Err(error) = self.out.write_all(&self.records)
        {
            self.broken = Some(error);
        }
        self.records.clear();
    }
}

/// The last place up to `at` that is not within a character of UTF-8.
fn character(text: &[u8], at: usize) -> usize {
    let begins = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (at.saturating_sub(3)..=at).rev().find(begins).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use runyard_common::secret::Secret;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(secrets: &[&str], pieces: &[&[u8]]) -> Vec<(char, String)> {
        let paper = Paper::default();
        let mut log = Log::new(paper.clone());
        for secret in secrets {
            log.mask.add(&Secret::new(*secret));
        }
        for piece in pieces {
            log.feed(Stream::Stdout, piece, &mut |_| {});
        }
        log.finish(&mut |_, _| {});
        assert!(log.broken().is_none());
        let bytes = paper.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(3, ' ');
                let time: Timestamp = parts.next().unwrap().parse().unwrap();
                assert!(time > Timestamp::UNIX_EPOCH);
                let code = parts.next().unwrap().chars().next().unwrap();
                (code, parts.next().unwrap().to_owned())
            })
            .collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let lines = logged(&[], &[b"on", b"e\r\ntw", b"o\n\nlast"]);
        let texts: Vec<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["one", "two", "", "last"]);
    }

    #[test]
    fn a_secret_across_pieces_is_masked() {
        assert_eq!(
            logged(&["hunter2"], &[b"is hun", b"ter", b"2!\n"]),
            [('O', "is [redacted]!".to_owned())]
        );
    }

    #[test]
    fn a_secret_across_the_parts_of_a_long_line_is_masked() {
        for before in Line::LONGEST - 8..Line::LONGEST + 8 {
            let line = format!("{}hunter2{}\n", "x".repeat(before), "y".repeat(40_000));
            let parts = logged(&["hunter2"], &[line.as_bytes()]);
            let whole: String = parts.iter().map(|(_, text)| text.as_str()).collect();
            assert!(whole.contains("x[redacted]y"), "{before}");
            assert!(parts.iter().rev().skip(1).all(|(code, _)| *code == 'o'));
            assert_eq!(parts.last().unwrap().0, 'O');
        }
    }

    #[test]
    fn what_is_not_utf_8_is_replaced() {
        assert_eq!(
            logged(&[], &[b"a\xFFb\n"]),
            [('O', "a\u{FFFD}b".to_owned())]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_wherever_a_line_is_cut(
            letters in proptest::collection::vec("[aä€😀]", 0..40), times in 1_usize..3000, piece in 1_usize..9000,
        ) {
            let line = letters.concat().repeat(times);
            let pieces: Vec<&[u8]> = line.as_bytes().chunks(piece).collect();
            let parts = logged(&["never there"], &pieces);
            let whole: String = parts.iter().map(|(_, text)| text.as_str()).collect();
            prop_assert_eq!(whole, line);
            prop_assert!(parts.iter().all(|(_, text)| text.len() <= Line::LONGEST));
        }

        #[test]
        fn no_secret_shows_wherever_it_stands(
            before in 0_usize..40_000, piece in 1_usize..20_000, secret in "[a-z0-9]{6,40}",
        ) {
            let line = format!("{}{secret}{}", "#".repeat(before), "-".repeat(20_000));
            let pieces: Vec<&[u8]> = line.as_bytes().chunks(piece).collect();
            let parts = logged(&[&secret], &pieces);
            let whole: String = parts.iter().map(|(_, text)| text.as_str()).collect();
            prop_assert!(!whole.contains(&secret));
            prop_assert!(whole.ends_with('-') && whole.contains("[redacted]"));
        }
    }
}
