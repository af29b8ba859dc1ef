//! What runs say: lines, positions in a log and pages of it, with bounded memory whatever the log's size. Where logs are kept
//! is a [`crate::scheduler`]'s matter.
//!
//! A log of `buildctl run-phase` is text, one record a line, so that it can be read without this program:
//!
//! ```text
//! 2026-11-21T10:00:00.123Z O Step 1/3: FROM scratch        stdout of a program
//! 2026-11-21T10:00:00.456Z E warning: …                    its stderr
//! 2026-11-21T10:00:00.789Z S build: git fetch …            said by buildctl itself
//! 2026-11-21T10:00:00.790Z o a part of a line that is longer than 16 KiB and goes on in the next record (e: of stderr)
//! ```

pub(crate) mod plain;
pub mod record;
pub(crate) mod told;

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::phase::Run;

/// Who said a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// A program, to its standard output.
    Stdout,
    /// A program, to its standard error.
    Stderr,
    /// buildctl itself: which step begins, what it waits for, how it ended.
    System,
}

/// A line of a log. Longer ones than [`Line::LONGEST`] bytes are in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which run said it.
    pub run: Run,
    /// Who in it.
    pub stream: Stream,
    /// When, where that is known.
    pub time: Option<Timestamp>,
    /// The text without its end of line; what is not UTF-8 is replaced.
    pub text: String,
    /// Whether the line goes on in the next one of this stream.
    pub partial: bool,
}

impl Line {
    /// The longest text of one, in bytes.
    pub const LONGEST: usize = 16 << 10;
}

/// How far a run's log has been read: bytes of each of its files. A local run has one file, `out`; a Nomad task has two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the first file.
    pub out: u64,
    /// Bytes of the second one.
    pub err: u64,
}

/// Reads a log line by line: the lines that `read` makes of each, and for each of those after how many bytes reading can go on
/// behind it. Of several that come from one line only the last is at such a place; the others repeat what is before them.
pub(crate) fn each(
    bytes: &[u8],
    mut read: impl FnMut(&[u8], &mut Vec<Line>),
) -> (Vec<Line>, Vec<usize>) {
    let mut lines = Vec::with_capacity(bytes.len() / 64);
    let mut ends = Vec::with_capacity(bytes.len() / 64);
    let mut begin = 0;
    while begin < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[begin..]).map_or(bytes.len(), |at| begin + at);
        read(&bytes[begin..end], &mut lines);
        let behind = bytes.len().min(end + 1);
        if let Some(last) = lines.len().checked_sub(1) {
            ends.resize(last, begin);
            ends.push(behind);
        }
        begin = behind;
    }
    (lines, ends)
}

/// What was read of one run's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Whole lines (or parts of long ones), in order of each stream.
    pub lines: Vec<Line>,
    /// Where to read on behind each of the lines, as far as that is known: for the first so many, or all.
    pub ends: Vec<Position>,
    /// Where to read on.
    pub next: Position,
    /// Whether the run has ended and all of its log has been read.
    pub complete: bool,
    /// Whether something between the position asked for and the first line is no longer there (rotated away, collected).
    pub lost: bool,
}

/// How far the log of a whole job has been read. Its text form, which clients treat as opaque, is `build.100.0~test-entry.5.0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub BTreeMap<Run, Position>);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (run, Position { out, err })) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { "~" };
            write!(f, "{joint}{run}.{out}.{err}")?;
        }
        Ok(())
    }
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no log cursor (they come from an earlier answer)")]
pub struct NoCursor(String);

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let place = |part: &str| {
            let (rest, err) = part.rsplit_once('.')?;
            let (run, out) = rest.rsplit_once('.')?;
            let position = Position {
                out: out.parse().ok()?,
                err: err.parse().ok()?,
            };
            Some((run.parse().ok()?, position))
        };
        text.split('~')
            .filter(|part| !part.is_empty())
            .map(place)
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(|| NoCursor(text.to_owned()))
    }
}
