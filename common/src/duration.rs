//! Durations as people write them: `250ms`, `30s`, `5m`, `1h30m`, `2d`. In code they are
//! [`Duration`]; the text form is for files, flags and answers.
//!
//! Units are `ns`, `us` (or `µs`), `ms`, `s`, `m`, `h`, `d`, each with a whole or decimal number. A
//! number without a unit is refused, except for `0`.

use std::time::Duration;

/// Each unit with its length in nanoseconds, longest first.
const UNITS: [(&str, u128); 9] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ns", 1),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There is no number where one should be.
    #[error("duration `{0}` is not of the form 30s, 5m or 1h30m")]
    Form(String),
    /// A number has no unit.
    #[error("duration `{0}` has no unit, as in `{0}s`")]
    NoUnit(String),
    /// The unit is none of those known.
    #[error("duration `{text}` has the unknown unit `{unit}` (known: ns, us, ms, s, m, h, d)")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit in it.
        unit: String,
    },
    /// The duration is longer than can be told (about 584 years).
    #[error("duration `{0}` is too long")]
    TooLong(String),
}

/// Reads a duration such as `1h30m`.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let form = || ParseError::Form(text.to_owned());
    let mut rest = trimmed;
    let mut total = 0_u128;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if number.is_empty() {
            return Err(form());
        }
        let nanoseconds = length(text, unit)?;
        let part = scaled(number, nanoseconds).ok_or_else(form)?;
        total = total
            .checked_add(part)
            .ok_or_else(|| ParseError::TooLong(text.to_owned()))?;
        rest = tail;
    }
    if trimmed.is_empty() {
        return Err(form());
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| ParseError::TooLong(text.to_owned()))
}

fn length(text: &str, unit: &str) -> Result<u128, ParseError> {
    if unit.is_empty() {
        return Err(ParseError::NoUnit(text.to_owned()));
    }
    let known = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, nanoseconds)| *nanoseconds);
    known.ok_or_else(|| ParseError::UnknownUnit {
        text: text.to_owned(),
        unit: unit.to_owned(),
    })
}

/// A decimal number times a unit, in whole nanoseconds, what is smaller being cut off. Saturates,
/// so that the sum is seen to be too long.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u128>().unwrap_or(u128::MAX)
    };
    let mut nanoseconds = whole.saturating_mul(unit);
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanoseconds = nanoseconds.saturating_add(u128::from(digit - b'0') * place);
    }
    Some(nanoseconds)
}

/// Writes a duration as [`parse`] reads it, in the largest units first and without zeros: `1h30m`,
/// `2.5s` as `2s500ms`.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanoseconds) in UNITS.iter().filter(|(unit, _)| unit.is_ascii()) {
        let count = rest / nanoseconds;
        rest %= nanoseconds;
        if count > 0 {
            text.extend([count.to_string().as_str(), unit]);
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// For `#[serde(with = "runyard_common::duration::serde")]` on a [`Duration`].
pub mod serde {
    use std::fmt;
    use std::time::Duration;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    /// Serialises a duration as text.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*duration))
    }

    /// Deserialises a duration from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Text)
    }

    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as 30s or 1h30m")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            super::parse(text).map_err(E::custom)
        }
    }

    /// The same for an `Option<Duration>`: `#[serde(default, with =
    /// "runyard_common::duration::serde::option")]`.
    pub mod option {
        use std::time::Duration;

        use serde::de::Deserializer;
        use serde::ser::Serializer;
        use serde::{Deserialize, Serialize};

        #[derive(Serialize, Deserialize)]
        struct Wrapped(#[serde(with = "super")] Duration);

        /// Serialises a duration as text, or nothing as null.
        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            duration.map(Wrapped).serialize(serializer)
        }

        /// Deserialises a duration from text, or null as nothing.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let table = [
            ("250ms", 250_000_000),
            ("30s", 30_000_000_000),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("2d", 172_800_000_000_000),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("7μs", 7_000),
            (" 3ns ", 3),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, nanoseconds) in table {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn errors_quote_the_text_and_name_the_way_out() {
        let message = |text| parse(text).unwrap_err().to_string();
        assert_eq!(message("5"), "duration `5` has no unit, as in `5s`");
        assert_eq!(
            message("5w"),
            "duration `5w` has the unknown unit `w` (known: ns, us, ms, s, m, h, d)"
        );
        assert_eq!(message("1h5"), "duration `1h5` has no unit, as in `1h5s`");
        for text in ["", "s", "-1s", "1.2.3s", ".s", "soon"] {
            assert_eq!(
                message(text),
                format!("duration `{text}` is not of the form 30s, 5m or 1h30m")
            );
        }
        assert_eq!(message("999999999d"), "duration `999999999d` is too long");
        assert_eq!(
            message(&format!("{}d", "9".repeat(60))),
            format!("duration `{}d` is too long", "9".repeat(60))
        );
    }

    #[test]
    fn durations_are_written_in_the_largest_units() {
        assert_eq!(format(Duration::from_mins(90)), "1h30m");
        assert_eq!(format(Duration::from_millis(2500)), "2s500ms");
        assert_eq!(format(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanoseconds in any::<u64>()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
