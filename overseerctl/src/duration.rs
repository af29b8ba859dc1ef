//! Durations as Go writes and reads them (`1m30s`, `1.5ms`, `-2h`): the value type of retry policies and of
//! `restart_delay` on the wire. No clock and no timer lives here.
//!
//! Text in and out follows Go's `time.ParseDuration` and `time.Duration.String`, including the accepted forms, the
//! rounding of fractions, the limits and the wording of errors, because clients see all of these.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the most negative duration, and so the largest number that a text may hold.
const LIMIT: u64 = 1 << 63;

/// A signed number of nanoseconds, about ±292 years, with Go's text form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

impl GoDuration {
    /// No time at all; written `0s`.
    pub const ZERO: Self = Self(0);
    /// The longest duration; written `2562047h47m16.854775807s`.
    pub const MAX: Self = Self(i64::MAX);
    /// The most negative duration; written `-2562047h47m16.854775808s`.
    pub const MIN: Self = Self(i64::MIN);
    /// One millisecond; written `1ms`.
    pub const MILLISECOND: Self = Self::from_nanos(1_000_000);
    /// One second; written `1s`.
    pub const SECOND: Self = Self::from_nanos(1_000_000_000);
    /// One minute; written `1m0s`.
    pub const MINUTE: Self = Self::from_nanos(60_000_000_000);
    /// One hour; written `1h0m0s`.
    pub const HOUR: Self = Self::from_nanos(3_600_000_000_000);

    /// A duration of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The length in nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Converts a span of the standard library; what does not fit becomes [`Self::MAX`].
    pub fn from_std(span: Duration) -> Self {
        i64::try_from(span.as_nanos()).map_or(Self::MAX, Self)
    }

    /// The span to wait: a negative duration is no wait at all, as for Go's timers.
    pub fn as_std(self) -> Duration {
        u64::try_from(self.0).map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// Whether the length is exactly zero, which is what `omitempty` leaves out on the wire.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl From<Duration> for GoDuration {
    fn from(span: Duration) -> Self {
        Self::from_std(span)
    }
}

// === impl Display ===

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match self.0.unsigned_abs() {
            0 => f.write_str("0s"),
            nanos if nanos < MICROSECOND => write!(f, "{nanos}ns"),
            nanos if nanos < MILLISECOND => write_decimal(f, nanos, MICROSECOND, "µs"),
            nanos if nanos < SECOND => write_decimal(f, nanos, MILLISECOND, "ms"),
            nanos => write_clock(f, nanos),
        }
    }
}

/// Writes `[h]h[m]m[s]s`: no leading zero units, all lower ones, the fraction on the seconds.
fn write_clock(f: &mut fmt::Formatter<'_>, nanos: u64) -> fmt::Result {
    if nanos >= HOUR {
        write!(f, "{}h", nanos / HOUR)?;
    }
    if nanos >= MINUTE {
        write!(f, "{}m", nanos % HOUR / MINUTE)?;
    }
    write_decimal(f, nanos % MINUTE, SECOND, "s")
}

/// Writes `nanos` in a unit of a power of ten, without trailing zeros in the fraction.
fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: u64, unit: u64, name: &str) -> fmt::Result {
    let (mut fraction, mut width) = (nanos % unit, unit.ilog10() as usize);
    if fraction == 0 {
        return write!(f, "{}{name}", nanos / unit);
    }
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        width -= 1;
    }
    write!(f, "{}.{fraction:0width$}{name}", nanos / unit)
}

// === impl FromStr ===

/// Why a text is not a duration, in the words of Go's `time` package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The form is wrong, or the number is too large.
    #[error("time: invalid duration {}", Quoted(.0))]
    Invalid(String),
    /// A number stands without a unit.
    #[error("time: missing unit in duration {}", Quoted(.0))]
    MissingUnit(String),
    /// The unit is none of `ns us µs μs ms s m h`.
    #[error("time: unknown unit {} in duration {}", Quoted(.unit), Quoted(.text))]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The whole text.
        text: String,
    },
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, magnitude) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if magnitude == "0" {
            return Ok(Self::ZERO);
        }
        let total = parse_magnitude(magnitude).map_err(|fault| fault.of(text))?;
        if negative {
            return Ok(Self(0_i64.wrapping_sub_unsigned(total)));
        }
        i64::try_from(total).map(Self).map_err(|_| invalid())
    }
}

/// A [`DurationError`] that does not yet know the whole text.
enum Fault<'a> {
    Invalid,
    MissingUnit,
    UnknownUnit(&'a str),
}

impl Fault<'_> {
    fn of(self, text: &str) -> DurationError {
        let text = text.to_owned();
        match self {
            Fault::Invalid => DurationError::Invalid(text),
            Fault::MissingUnit => DurationError::MissingUnit(text),
            Fault::UnknownUnit(unit) => DurationError::UnknownUnit {
                unit: unit.to_owned(),
                text,
            },
        }
    }
}

/// Sums the terms of a text without its sign; the result is at most [`LIMIT`] nanoseconds.
fn parse_magnitude(text: &str) -> Result<u64, Fault<'_>> {
    if text.is_empty() {
        return Err(Fault::Invalid);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let (term, tail) = parse_term(rest)?;
        // Go adds before it compares, so two terms of exactly 2^63 ns wrap round to zero there, too.
        total = total.wrapping_add(term);
        if total > LIMIT {
            return Err(Fault::Invalid);
        }
        rest = tail;
    }
    Ok(total)
}

/// Reads one `number unit` pair: its length in nanoseconds, and the text behind it.
fn parse_term(text: &str) -> Result<(u64, &str), Fault<'_>> {
    let (digits, rest) = split_at_end_of(text, |byte| byte.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(tail) => split_at_end_of(tail, |byte| byte.is_ascii_digit()),
        None => ("", rest),
    };
    let whole = parse_whole(digits).ok_or(Fault::Invalid)?;
    if digits.is_empty() && fraction.is_empty() {
        return Err(Fault::Invalid);
    }
    let (name, rest) = split_at_end_of(rest, |byte| byte != b'.' && !byte.is_ascii_digit());
    if name.is_empty() {
        return Err(Fault::MissingUnit);
    }
    let unit = unit_length(name).ok_or(Fault::UnknownUnit(name))?;
    let nanos = whole
        .checked_mul(unit)
        .filter(|&nanos| nanos <= LIMIT)
        .ok_or(Fault::Invalid)?;
    let nanos = nanos + parse_fraction(fraction, unit);
    if nanos > LIMIT {
        Err(Fault::Invalid)
    } else {
        Ok((nanos, rest))
    }
}

/// Splits behind the longest prefix whose bytes all match. The matches used here end at ASCII bytes or at the end, so
/// the cut never falls inside a character.
fn split_at_end_of(text: &str, matches: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(
        text.bytes()
            .position(|byte| !matches(byte))
            .unwrap_or(text.len()),
    )
}

/// The number before the point; `None` if it is above [`LIMIT`].
fn parse_whole(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0_u64, |number, digit| {
        let number = number
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
        (number <= LIMIT).then_some(number)
    })
}

/// The digits behind the point as nanoseconds of `unit`, rounded as Go rounds: in `f64`, towards zero, and with the
/// digits that no longer fit 63 bits ignored.
#[expect(
    clippy::cast_precision_loss,
    reason = "the loss is Go's, and part of the result"
)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below one unit, so it fits"
)]
fn parse_fraction(digits: &str, unit: u64) -> u64 {
    let (mut number, mut scale) = (0_u64, 1_f64);
    for digit in digits.bytes() {
        if number > (LIMIT - 1) / 10 {
            break;
        }
        let longer = number * 10 + u64::from(digit - b'0');
        if longer > LIMIT {
            break;
        }
        number = longer;
        scale *= 10.0;
    }
    (number as f64 * (unit as f64 / scale)) as u64
}

fn unit_length(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // The micro sign U+00B5 and the Greek letter U+03BC look alike; both are accepted, the first is written.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// Go's `time` package has a quoting of its own: every byte of a control or non-ASCII character becomes `\xNN`.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=0x7f => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_str("\"")
    }
}

// === impl serde ===

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl de::Visitor<'_> for TextVisitor {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"1m30s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> i64 {
        text.parse::<GoDuration>().unwrap().as_nanos()
    }

    fn refusal(text: &str) -> String {
        text.parse::<GoDuration>().unwrap_err().to_string()
    }

    #[test]
    fn is_written_as_go_writes_it() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_100, "1.1µs"),
            (100_000, "100µs"),
            (1_500_000, "1.5ms"),
            (200_000_000, "200ms"),
            (1_000_000_000, "1s"),
            (1_000_000_001, "1.000000001s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-3_661_000_000_000, "-1h1m1s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn all_forms_of_go_are_read() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("0h", 0),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("-1s", -1_000_000_000),
            ("+2s", 2_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m1m", 120_000_000_000),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("3\u{3bc}s", 3_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.9223372036854775808s", 922_337_203),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("9223372036854775808ns9223372036854775808ns", 0),
        ] {
            assert_eq!(parsed(text), nanos, "{text}");
        }
    }

    #[test]
    fn refusals_use_the_words_of_go() {
        for (text, words) in [
            ("", r#"time: invalid duration """#),
            ("x", r#"time: invalid duration "x""#),
            ("-", r#"time: invalid duration "-""#),
            (".", r#"time: invalid duration ".""#),
            ("-.s", r#"time: invalid duration "-.s""#),
            (" 5s", r#"time: invalid duration " 5s""#),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            (
                "9223372036854775808ns",
                r#"time: invalid duration "9223372036854775808ns""#,
            ),
            ("5", r#"time: missing unit in duration "5""#),
            ("1h5", r#"time: missing unit in duration "1h5""#),
            ("1..s", r#"time: missing unit in duration "1..s""#),
            ("5d", r#"time: unknown unit "d" in duration "5d""#),
            ("5s ", r#"time: unknown unit "s " in duration "5s ""#),
            (
                "5 \"\\é",
                r#"time: unknown unit " \"\\\xc3\xa9" in duration "5 \"\\\xc3\xa9""#,
            ),
        ] {
            assert_eq!(refusal(text), words, "{text}");
        }
    }

    #[test]
    fn a_negative_duration_is_no_wait() {
        assert_eq!(GoDuration::from_nanos(-5).as_std(), Duration::ZERO);
        assert_eq!(GoDuration::SECOND.as_std(), Duration::from_secs(1));
        assert_eq!(GoDuration::from_std(Duration::MAX), GoDuration::MAX);
    }

    #[test]
    fn serde_uses_the_text_form() {
        assert_eq!(
            serde_json::to_string(&GoDuration::MINUTE).unwrap(),
            r#""1m0s""#
        );
        assert_eq!(
            serde_json::from_str::<GoDuration>(r#""90s""#)
                .unwrap()
                .as_nanos(),
            90_000_000_000
        );
        let refusal = serde_json::from_str::<GoDuration>(r#""5d""#)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(r#"unknown unit "d""#), "{refusal}");
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(nanos: i64) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?([0-9]{0,20}\\.?[0-9]{0,20}[a-zµμ\"]{0,2}){0,4}|.*") {
            match text.parse::<GoDuration>() {
                Ok(duration) => prop_assert_eq!(duration.to_string().parse(), Ok(duration)),
                Err(refusal) => prop_assert!(refusal.to_string().starts_with("time: ")),
            }
        }
    }
}
