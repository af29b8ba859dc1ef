//! Reading of timestamps. The grammar is that of Go's `time.Parse` with the layout `time.RFC3339`:
//!
//! ```text
//! YYYY-MM-DDTh[h]:mm:ss[(.|,)d+](Z|(+|-)zh:zm)     h < 24, mm and ss < 60, zh <= 24, zm <= 60
//! ```
//!
//! Why a text is refused is not told apart: the daemon's answer is the same for all.

use super::{DAYS_PER_CYCLE, EPOCH_SHIFT, SECONDS_PER_DAY, Timestamp};

/// Reads a whole text; `None` if it does not follow the grammar or names a day that does not exist.
pub(super) fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let mut rest = text;
    let year = number(&mut rest, 4)?;
    mark(&mut rest, b"-")?;
    let month = number(&mut rest, 2)?;
    mark(&mut rest, b"-")?;
    let day = number(&mut rest, 2)?;
    mark(&mut rest, b"T")?;
    let hour = number(&mut rest, 2).or_else(|| number(&mut rest, 1))?;
    mark(&mut rest, b":")?;
    let minute = number(&mut rest, 2)?;
    mark(&mut rest, b":")?;
    let second = number(&mut rest, 2)?;
    let nanos = fraction(&mut rest);
    let offset = zone(&mut rest)?;
    let exists = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !rest.is_empty() || !exists || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds =
        days_from_1970(year, month, day) * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
    Some(Timestamp::from_unix(seconds - offset, nanos))
}

/// Takes exactly `width` digits. On failure `rest` is left as it was.
fn number(rest: &mut &[u8], width: usize) -> Option<i64> {
    let (digits, tail) = rest.split_at_checked(width)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    *rest = tail;
    Some(
        digits
            .iter()
            .fold(0, |number, digit| number * 10 + i64::from(digit - b'0')),
    )
}

/// Takes one byte out of a set.
fn mark(rest: &mut &[u8], set: &[u8]) -> Option<u8> {
    let (&byte, tail) = rest.split_first().filter(|(byte, _)| set.contains(byte))?;
    *rest = tail;
    Some(byte)
}

/// Takes the fraction, if there is one with at least one digit, as nanoseconds.
fn fraction(rest: &mut &[u8]) -> u32 {
    let mut tail = *rest;
    if mark(&mut tail, b".,").is_none() || !tail.first().is_some_and(u8::is_ascii_digit) {
        return 0;
    }
    let end = tail
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(tail.len());
    let (digits, tail) = tail.split_at(end);
    *rest = tail;
    let nine = digits
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    nine.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'))
}

/// Takes the zone: seconds east of UTC.
fn zone(rest: &mut &[u8]) -> Option<i64> {
    let sign = match mark(rest, b"Z+-")? {
        b'Z' => return Some(0),
        b'+' => 1,
        _ => -1,
    };
    let hours = number(rest, 2)?;
    mark(rest, b":")?;
    let minutes = number(rest, 2)?;
    (hours <= 24 && minutes <= 60).then_some(sign * (hours * 60 + minutes) * 60)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The inverse of the reckoning in [`super::Rfc3339`]: years that begin in March.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_cycle = 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1;
    cycle * DAYS_PER_CYCLE + day_of_cycle - EPOCH_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unix(text: &str) -> Option<(i64, u32)> {
        timestamp(text.as_bytes()).map(|at| (at.unix_seconds(), at.subsec_nanos()))
    }

    #[test]
    fn the_liberties_of_go_are_taken() {
        for (text, expected) in [
            ("1970-01-01T00:00:10Z", (10, 0)),
            ("1970-01-01T0:00:10Z", (10, 0)),
            ("1970-01-01T00:00:10,5Z", (10, 500_000_000)),
            ("1970-01-01T00:00:10.123456789999Z", (10, 123_456_789)),
            ("1970-01-01T01:00:10+01:00", (10, 0)),
            ("1970-01-01T01:00:00+00:60", (0, 0)),
            ("1970-01-02T00:00:00+24:00", (0, 0)),
            ("1969-12-31T23:30:00-00:30", (0, 0)),
            ("0000-02-29T00:00:00Z", (-62_162_121_600, 0)),
            ("0000-01-01T00:00:00+10:00", (-62_167_255_200, 0)),
        ] {
            assert_eq!(unix(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "",
            "now",
            "1970-01-01",
            "1970-01-01 00:00:00Z",
            "1970-01-01t00:00:00z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00Z ",
            " 1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T0:0:00Z",
            "1970-1-01T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-04-31T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00+25:00",
            "1970-01-01T00:00:00+00:61",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+01",
            "+970-01-01T00:00:00Z",
            "19700-01-01T00:00:00Z",
            "1970-01-01T00:00:00\u{663}Z",
        ] {
            assert_eq!(unix(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert!(timestamp(&bytes).is_none_or(|at| at.subsec_nanos() < 1_000_000_000));
        }
    }
}
