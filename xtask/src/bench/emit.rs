//! The child command whose output the subscribers count: numbered lines, as fast as a pipe takes them or at a fixed
//! rate with a time stamp. It runs as a task of the daemon under test, so it must cost far less than the daemon does.

use std::io::Write;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

/// Name of the helper role: `--role emit COUNT BYTES RATE`.
pub(super) const ROLE: &str = "emit";

/// Silence before the first line. A daemon that subscribes the caller only after the spawn (as sticky-overseer v2
/// does) would otherwise lose the first lines.
pub(super) const LEAD_IN: Duration = Duration::from_millis(300);

/// Lines are handed to the pipe in pieces of this size, which is what a Linux pipe holds.
const PIECE: usize = 64 * 1024;

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lines {
    count: u64,
    /// Width that shorter lines are padded to; 0 = no padding.
    bytes: usize,
    /// Lines a second, each holding the nanoseconds since the epoch at which it was written; 0 = no pause, no stamp.
    rate: u64,
}

/// Prints the lines described by `COUNT BYTES RATE` on stdout.
///
/// # Errors
///
/// Arguments that are no numbers, and a reader that went away.
pub(super) fn play(args: &[String]) -> Result<()> {
    let lines = parse(args)?;
    thread::sleep(LEAD_IN);
    let mut out = std::io::stdout().lock();
    if lines.rate == 0 {
        burst(lines, &mut out)
    } else {
        drip(lines, &mut out)
    }
}

fn parse(args: &[String]) -> Result<Lines> {
    let [count, bytes, rate] = args else {
        bail!("role `{ROLE}` takes COUNT BYTES RATE, got {args:?}");
    };
    let number = |text: &String| {
        text.parse::<u64>()
            .with_context(|| format!("`{text}` is not a number"))
    };
    Ok(Lines {
        count: number(count)?,
        bytes: usize::try_from(number(bytes)?)?,
        rate: number(rate)?,
    })
}

fn burst(lines: Lines, out: &mut impl Write) -> Result<()> {
    let mut piece = Vec::with_capacity(PIECE + lines.bytes + 32);
    for number in 1..=lines.count {
        let start = piece.len();
        write!(piece, "{number}")?;
        if piece.len() < start + lines.bytes {
            piece.resize(start + lines.bytes, b'x');
        }
        piece.push(b'\n');
        if piece.len() >= PIECE {
            out.write_all(&piece)?;
            piece.clear();
        }
    }
    out.write_all(&piece)?;
    Ok(out.flush()?)
}

fn drip(lines: Lines, out: &mut impl Write) -> Result<()> {
    let begin = Instant::now();
    for number in 0..lines.count {
        let due = begin + Duration::from_nanos(number * 1_000_000_000 / lines.rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        writeln!(out, "{stamp}")?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: Lines) -> String {
        let mut out = Vec::new();
        if lines.rate == 0 {
            burst(lines, &mut out)
        } else {
            drip(lines, &mut out)
        }
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_numbered_from_one() {
        assert_eq!(
            printed(Lines {
                count: 3,
                bytes: 0,
                rate: 0
            }),
            "1\n2\n3\n"
        );
    }

    #[test]
    fn short_lines_are_padded_and_long_ones_are_kept() {
        let text = printed(Lines {
            count: 10,
            bytes: 2,
            rate: 0,
        });
        assert!(
            text.starts_with("1x\n2x\n") && text.ends_with("9x\n10\n"),
            "{text}"
        );
    }

    #[test]
    fn a_line_larger_than_a_piece_comes_whole() {
        let text = printed(Lines {
            count: 2,
            bytes: 200_000,
            rate: 0,
        });
        assert_eq!(
            text.lines().map(str::len).collect::<Vec<_>>(),
            [200_000, 200_000]
        );
    }

    #[test]
    fn stamps_never_run_ahead_of_the_rate() {
        let begin = Instant::now();
        let text = printed(Lines {
            count: 11,
            bytes: 0,
            rate: 1000,
        });
        assert!(begin.elapsed() >= Duration::from_millis(10));
        let stamps: Vec<u128> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(stamps.is_sorted() && stamps.len() == 11, "{stamps:?}");
    }

    #[test]
    fn a_missing_argument_is_an_error() {
        assert!(parse(&["1".into(), "2".into()]).is_err());
        assert!(parse(&["1".into(), "2".into(), "x".into()]).is_err());
    }
}
