//! Instants on the wire: RFC 3339 with up to nine fractional digits, trailing zeros trimmed, as Go's `time` package
//! writes (`time.RFC3339Nano`) and reads (`time.Parse` with `time.RFC3339`) them.
//!
//! These are wall-clock instants, for showing and comparing. Delays, windows and expiry use `std::time::Instant`.
//! Writing happens once per line of output, so it allocates nothing.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub mod local;
pub mod local_option;

mod read;

const NANOS_PER_SECOND: u32 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days from 1 March of year 0 to 1 January 1970, and the days of a full cycle of 400 years.
const EPOCH_SHIFT: i64 = 719_468;
const DAYS_PER_CYCLE: i64 = 146_097;

/// An instant of the wall clock, to the nanosecond. The default is Go's zero time, [`Timestamp::ZERO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since 1970, rounded down.
    seconds: i64,
    /// The rest, below one second.
    nanos: u32,
}

impl Timestamp {
    /// Go's zero time, `0001-01-01T00:00:00Z`: the wire's "never".
    pub const ZERO: Self = Self {
        seconds: -62_135_596_800,
        nanos: 0,
    };

    /// The system clock, now.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The instant so many seconds after 1970 began (before it, if negative) and so many nanoseconds more, which may
    /// exceed a second.
    pub const fn from_unix(seconds: i64, nanos: u32) -> Self {
        let carry = nanos / NANOS_PER_SECOND;
        Self {
            seconds: seconds.saturating_add(carry as i64),
            nanos: nanos % NANOS_PER_SECOND,
        }
    }

    /// Whole seconds since 1970 began, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds past [`Self::unix_seconds`], below one second.
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// Whether this is Go's zero time.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The time from `earlier` to this instant; none if `earlier` is the later one, as after a step of the clock.
    pub fn duration_since(self, earlier: Self) -> Duration {
        let nanos =
            |at: Self| i128::from(at.seconds) * i128::from(NANOS_PER_SECOND) + i128::from(at.nanos);
        u128::try_from(nanos(self) - nanos(earlier))
            .map_or(Duration::ZERO, Duration::from_nanos_u128)
    }

    /// The text in UTC: `2026-02-21T03:24:40.43466893Z`.
    pub fn utc(self) -> Rfc3339 {
        self.at_offset(0)
    }

    /// The text in this machine's zone: `2026-02-21T04:24:40.43466893+01:00`, with `Z` where that is UTC.
    pub fn local(self) -> Rfc3339 {
        self.at_offset(local_offset(self))
    }

    /// The text in a zone so many seconds east of UTC. The zone is shown in whole minutes, `Z` only for exactly 0.
    pub fn at_offset(self, offset: i32) -> Rfc3339 {
        let mut text = Rfc3339::EMPTY;
        let seconds = self.seconds.saturating_add(offset.into());
        text.push_date(seconds.div_euclid(SECONDS_PER_DAY));
        text.push_clock(seconds.rem_euclid(SECONDS_PER_DAY));
        text.push_fraction(self.nanos);
        text.push_zone(offset);
        text
    }
}

/// Offset of the system's zone at an instant, in seconds east of UTC. The zone is looked up once, as in Go.
fn local_offset(at: Timestamp) -> i32 {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let zone = ZONE.get_or_init(TimeZone::system);
    // Past the years that the zone data covers, its last rule goes on.
    let covered = jiff::Timestamp::MIN.as_second()..=jiff::Timestamp::MAX.as_second();
    let second = at.seconds.clamp(*covered.start(), *covered.end());
    jiff::Timestamp::from_second(second).map_or(0, |at| zone.to_offset(at).seconds())
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self::from_unix(seconds(after), after.subsec_nanos()),
            Err(error) => {
                let before = error.duration();
                match before.subsec_nanos() {
                    0 => Self::from_unix(-seconds(before), 0),
                    nanos => Self::from_unix(-seconds(before) - 1, NANOS_PER_SECOND - nanos),
                }
            }
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.utc())
    }
}

/// A text is no timestamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an RFC 3339 timestamp such as 2026-02-21T03:24:40Z or 2026-02-21T04:24:40.5+01:00"
)]
pub struct TimestampError(String);

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads what Go's `time.Parse(time.RFC3339, …)` reads. That is more than the RFC allows: one digit for the hour,
    /// a comma before the fraction, offsets of up to 24 hours and 60 minutes. Digits past the nanoseconds are cut.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        read::timestamp(text.as_bytes()).ok_or_else(|| TimestampError(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.utc())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl de::Visitor<'_> for TextVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 timestamp")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(E::custom)
    }
}

// === Rfc3339 ===

/// A timestamp's text, kept on the stack; it is a `str` wherever one is wanted.
#[derive(Clone, Copy)]
pub struct Rfc3339 {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Rfc3339 {
    /// The longest text: a sign, a year of 12 digits, the rest of the date, the clock, the fraction, the zone.
    const CAPACITY: usize = 13 + 6 + 9 + 10 + 7;
    const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
        len: 0,
    };

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever pushed, so the fallback is never taken.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Writes two digits.
    fn push_pair(&mut self, number: u64) {
        self.push(digit(number / 10));
        self.push(digit(number));
    }

    /// Writes a number with leading zeros, or with as many digits as it takes if that is more.
    fn push_number(&mut self, number: u64, width: usize) {
        let width = width.max(number.checked_ilog10().map_or(1, |log| log as usize + 1));
        let end = self.len + width;
        let mut rest = number;
        for place in self.bytes[self.len..end].iter_mut().rev() {
            *place = digit(rest);
            rest /= 10;
        }
        self.len = end;
    }

    /// Writes the civil date of a day counted from 1970-01-01.
    ///
    /// Years are taken to begin in March, so that the leap day comes last and the lengths of the months follow a line
    /// (days before month `m` = `(153 m + 2) / 5`).
    fn push_date(&mut self, day: i64) {
        let shifted = day + EPOCH_SHIFT;
        let (cycle, day_of_cycle) = (
            shifted.div_euclid(DAYS_PER_CYCLE),
            shifted.rem_euclid(DAYS_PER_CYCLE),
        );
        let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
        let year_of_cycle = (day_of_cycle - leap_days) / 365;
        let day_of_year =
            day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = 400 * cycle + year_of_cycle + i64::from(month <= 2);
        if year < 0 {
            self.push(b'-');
        }
        self.push_number(year.unsigned_abs(), 4);
        for part in [month, day_of_month] {
            self.push(b'-');
            self.push_pair(part.unsigned_abs());
        }
    }

    /// Writes the time of day, given in seconds.
    fn push_clock(&mut self, second_of_day: i64) {
        let second = second_of_day.unsigned_abs();
        for (mark, part) in [
            (b'T', second / 3_600),
            (b':', second / 60 % 60),
            (b':', second % 60),
        ] {
            self.push(mark);
            self.push_pair(part);
        }
    }

    fn push_fraction(&mut self, nanos: u32) {
        if nanos == 0 {
            return;
        }
        self.push(b'.');
        self.push_number(nanos.into(), 9);
        while self.bytes[self.len - 1] == b'0' {
            self.len -= 1;
        }
    }

    fn push_zone(&mut self, offset: i32) {
        if offset == 0 {
            return self.push(b'Z');
        }
        // A zone that is less than a minute west of UTC is shown as +00:00.
        let minutes = offset / 60;
        self.push(if minutes < 0 { b'-' } else { b'+' });
        self.push_pair(u64::from(minutes.unsigned_abs()) / 60);
        self.push(b':');
        self.push_pair(u64::from(minutes.unsigned_abs()) % 60);
    }
}

impl Deref for Rfc3339 {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// The last decimal digit of a number.
fn digit(number: u64) -> u8 {
    b"0123456789"[(number % 10) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn utc_text_trims_the_fraction() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_771_644_280, 434_668_930, "2026-02-21T03:24:40.43466893Z"),
            (1_771_644_280, 1, "2026-02-21T03:24:40.000000001Z"),
            (1_771_644_280, 500_000_000, "2026-02-21T03:24:40.5Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
            (253_402_300_800, 0, "10000-01-01T00:00:00Z"),
            (-62_167_219_201, 0, "-0001-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_unix(seconds, nanos).utc().as_str(), text);
        }
    }

    #[test]
    fn the_default_is_the_zero_time_of_go() {
        assert_eq!(Timestamp::default().to_string(), "0001-01-01T00:00:00Z");
        assert!(at("0001-01-01T00:00:00Z").is_zero());
        assert!(!Timestamp::now().is_zero());
    }

    #[test]
    fn other_zones_are_shown_in_minutes() {
        let noon = at("2026-02-21T12:00:00Z");
        for (offset, text) in [
            (3_600, "2026-02-21T13:00:00+01:00"),
            (-12_600, "2026-02-21T08:30:00-03:30"),
            (45_900, "2026-02-22T00:45:00+12:45"),
            (3_208, "2026-02-21T12:53:28+00:53"),
            (-30, "2026-02-21T11:59:30+00:00"),
        ] {
            assert_eq!(noon.at_offset(offset).as_str(), text);
        }
    }

    #[test]
    fn the_local_text_is_the_same_instant() {
        let now = Timestamp::now();
        assert_eq!(at(&now.local()), now);
    }

    #[test]
    fn even_the_farthest_instant_has_a_text() {
        for seconds in [i64::MIN, i64::MAX] {
            let far = Timestamp::from_unix(seconds, 999_999_999);
            assert!(far.at_offset(-86_399).len() <= Rfc3339::CAPACITY);
            assert!(!far.local().is_empty());
        }
    }

    #[test]
    fn the_distance_to_a_later_instant_is_zero() {
        let (early, late) = (at("2026-02-21T03:24:40.75Z"), at("2026-02-21T03:24:42Z"));
        assert_eq!(late.duration_since(early), Duration::from_millis(1_250));
        assert_eq!(early.duration_since(late), Duration::ZERO);
    }

    #[test]
    fn serde_uses_the_text_form() {
        let noon = at("2026-02-21T12:00:00.25Z");
        assert_eq!(
            serde_json::to_string(&noon).unwrap(),
            r#""2026-02-21T12:00:00.25Z""#
        );
        assert_eq!(
            serde_json::from_str::<Timestamp>(r#""2026-02-21T13:00:00.25+01:00""#).unwrap(),
            noon
        );
        let refusal = serde_json::from_str::<Timestamp>(r#""noon""#)
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("`noon` is not an RFC 3339 timestamp"),
            "{refusal}"
        );
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(seconds in -62_167_219_200_i64..253_402_300_800, nanos in 0..1_000_000_000_u32) {
            let instant = Timestamp::from_unix(seconds, nanos);
            prop_assert_eq!(at(&instant.utc()), instant);
        }

        #[test]
        fn a_whole_minute_offset_changes_the_text_only(
            seconds in -62_100_000_000_i64..253_402_200_000, minutes in -1_439..1_440_i32,
        ) {
            let instant = Timestamp::from_unix(seconds, 0);
            prop_assert_eq!(at(&instant.at_offset(60 * minutes)), instant);
        }

        #[test]
        fn text_in_utc_sorts_like_the_instants(a in 0..4_000_000_000_i64, b in 0..4_000_000_000_i64) {
            let (a, b) = (Timestamp::from_unix(a, 0), Timestamp::from_unix(b, 0));
            prop_assert_eq!(a.utc().as_str().cmp(b.utc().as_str()), a.cmp(&b));
        }

        #[test]
        fn system_times_before_1970_round_down(nanos in 0..5_000_000_000_u64) {
            let system = SystemTime::UNIX_EPOCH - Duration::from_nanos(nanos);
            let expected = i128::from(nanos);
            let instant = Timestamp::from(system);
            let found = i128::from(instant.unix_seconds()) * 1_000_000_000 + i128::from(instant.subsec_nanos());
            prop_assert_eq!(found, -expected);
        }
    }
}
