//! Go's reading and writing of times: durations, RFC 3339 timestamps, calendar fields and zones.
//!
//! Instants are seconds since 1970 UTC with nanoseconds, durations are nanoseconds, as in Go.

use jiff::tz::TimeZone;

const SECOND: u64 = 1_000_000_000;

/// What a duration in Go's notation stands for, in nanoseconds: `1h30m`, `-1.5s`, `0`.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits == "0" {
        return Some(0);
    }
    if digits.is_empty() {
        return None;
    }
    let (mut rest, mut total) = (digits, 0_u64);
    while !rest.is_empty() {
        let (nanoseconds, after) = parse_component(rest)?;
        // one more than i64::MAX, for the smallest duration
        total = total
            .checked_add(nanoseconds)
            .filter(|total| *total <= 1 << 63)?;
        rest = after;
    }
    if negative {
        Some(0_i64.wrapping_sub_unsigned(total))
    } else {
        i64::try_from(total).ok()
    }
}

/// A number with its unit at the start of `text`, in nanoseconds, and what follows it.
fn parse_component(text: &str) -> Option<(u64, &str)> {
    let (whole, after) = split_digits(text);
    let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = after
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(after.len());
    let (unit, after) = after.split_at(end);
    let unit = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3_600 * SECOND,
        _ => return None,
    };
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok().filter(|n| *n <= 1 << 63)?
    };
    let nanoseconds = whole
        .checked_mul(unit)?
        .checked_add(fraction_of(fraction, unit))?;
    Some((nanoseconds, after))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// The digits behind a decimal point as a part of `unit`. Digits beyond what 63 bits hold do not matter.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "Go computes it in the same floating-point steps"
)]
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in digits.bytes() {
        let Some(next) = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(u64::from(digit - b'0')))
        else {
            break;
        };
        if next > 1 << 63 {
            break;
        }
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// A duration as CEL turns it into a string: seconds with a fraction, `5400s`.
pub(super) fn format_duration(nanoseconds: i64) -> String {
    format!("{}s", in_units(nanoseconds, SECOND))
}

/// A duration in units of `unit` nanoseconds, added up as Go adds it up.
#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "units are small; Go rounds the same way"
)]
pub(super) fn in_units(nanoseconds: i64, unit: u64) -> f64 {
    let unit = unit as i64;
    (nanoseconds / unit) as f64 + (nanoseconds % unit) as f64 / unit as f64
}

/// A timestamp that Go's `time.Parse(time.RFC3339, …)` reads, in the form that everybody reads; `None` if it does
/// not read it. Go takes a comma for the point, a one-digit hour, and any number of decimals, and no other liberty.
pub(super) fn normalize_timestamp(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(11)?;
    let (hour, rest) = split_digits(rest);
    let (clock, rest) = rest.split_at_checked(6)?;
    let valid = has_shape(date, "0000-00-00T")
        && matches!(hour.len(), 1 | 2)
        && hour.parse::<u8>().ok()? < 24
        && has_shape(clock, ":00:00")
        && clock[1..3] < *"60"
        && clock[4..] < *"60";
    if !valid {
        return None;
    }
    let (decimals, zone) = match rest.strip_prefix(['.', ',']) {
        Some(after) => split_digits(after),
        None => ("0", rest),
    };
    if decimals.is_empty() {
        return None;
    }
    let decimals = &decimals[..decimals.len().min(9)];
    Some(format!(
        "{date}{hour:0>2}{clock}.{decimals}{}",
        normalize_zone(zone)?
    ))
}

/// Whether `text` has a digit wherever `shape` has a zero, and the same characters elsewhere.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(c, s): (u8, u8)| {
        if s == b'0' {
            c.is_ascii_digit()
        } else {
            c == s
        }
    };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

fn normalize_zone(zone: &str) -> Option<String> {
    if zone == "Z" {
        return Some("Z".to_owned());
    }
    let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = *zone.as_bytes() else {
        return None;
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    if hours > 24 || minutes > 60 {
        return None;
    }
    let minutes = hours * 60 + minutes;
    Some(format!(
        "{}{:02}:{:02}",
        char::from(sign),
        minutes / 60,
        minutes % 60
    ))
}

/// A part of a timestamp that CEL can ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field {
    FullYear,
    /// From 0.
    Month,
    /// From 0.
    DayOfYear,
    /// From 0.
    DayOfMonth,
    /// The day of the month, from 1.
    Date,
    /// From 0, which is Sunday.
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// A part of the time that a clock shows that many seconds after the beginning of 1970.
pub(super) fn field(field: Field, seconds: i64, nanoseconds: u32) -> i64 {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    match field {
        Field::FullYear => year,
        Field::Month => month - 1,
        Field::DayOfYear => days - days_before(year),
        Field::DayOfMonth => day - 1,
        Field::Date => day,
        Field::DayOfWeek => (days + 4).rem_euclid(7),
        Field::Hours => second / 3_600,
        Field::Minutes => second / 60 % 60,
        Field::Seconds => second % 60,
        Field::Milliseconds => i64::from(nanoseconds / 1_000_000),
    }
}

/// The Gregorian date that many days after 1970-01-01, month and day from 1. Years are counted from March, so that
/// the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The days from 1970-01-01 to the first of January of `year`.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162
}

/// How many seconds a zone is ahead of UTC at an instant. Zones are IANA names, `Local`, or `hours:minutes`.
pub(super) fn zone_offset(zone: &str, seconds: i64) -> Result<i64, String> {
    if let Some((hours, minutes)) = zone.split_once(':') {
        let number = |digits: &str| {
            digits
                .parse::<i32>()
                .map(i64::from)
                .map_err(|_| format!("strconv.Atoi: parsing {digits:?}: invalid syntax"))
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let minutes = if zone.starts_with('-') {
            hours * 60 - minutes
        } else {
            hours * 60 + minutes
        };
        return Ok(minutes * 60);
    }
    let zone = match zone {
        "" | "UTC" => return Ok(0),
        "Local" => TimeZone::system(),
        // Go reads files by these names, so case matters
        _ => TimeZone::get(zone)
            .ok()
            .filter(|found| found.iana_name() == Some(zone))
            .ok_or_else(|| format!("unknown time zone {zone}"))?,
    };
    let instant = jiff::Timestamp::from_second(seconds).map_err(|error| error.to_string())?;
    Ok(i64::from(zone.to_offset(instant).seconds()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_go() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("1h30m", 5_400_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("+2s", 2_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("0s1ns", 1),
            ("1us1\u{b5}s1\u{3bc}s", 3_000),
            ("1m1m", 120_000_000_000),
            ("0.5ns", 0),
            ("1.0000000001s", 1_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_go_does_not_take_for_a_duration_is_none() {
        for text in [
            "",
            "+",
            "-",
            "1",
            "s",
            ".s",
            "1d",
            "1h30",
            "1h 30m",
            " 1s",
            "1s ",
            "--1s",
            "-1h-1m",
            "1e3s",
            "1H",
            "00",
            "1_0s",
            "9223372036854775808ns",
            "-9223372036854775809ns",
            "3000000h",
            "99999999999999999999s",
            "1µ",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_seconds() {
        assert_eq!(format_duration(5_400_000_000_000), "5400s");
        assert_eq!(format_duration(-1), "-0.000000001s");
        assert_eq!(format_duration(0), "0s");
        assert_eq!(format_duration(i64::MAX), "9223372036.854776s");
    }

    #[test]
    fn timestamps_are_read_as_in_go() {
        for (text, normal) in [
            ("2024-02-29T12:34:56Z", "2024-02-29T12:34:56.0Z"),
            ("2024-02-29T1:34:56Z", "2024-02-29T01:34:56.0Z"),
            ("2024-02-29T12:34:56,5+05:30", "2024-02-29T12:34:56.5+05:30"),
            (
                "2024-02-29T12:34:56.1234567899-00:00",
                "2024-02-29T12:34:56.123456789-00:00",
            ),
            ("2024-02-29T12:34:56+00:60", "2024-02-29T12:34:56.0+01:00"),
        ] {
            assert_eq!(normalize_timestamp(text).as_deref(), Some(normal), "{text}");
        }
        for text in [
            "",
            "2024-02-29",
            "2024-02-29T12:34:56",
            "2024-02-29t12:34:56Z",
            "2024-02-29T12:34:56z",
            "2024-02-29 12:34:56Z",
            "2024-02-29T12:34:60Z",
            "2024-02-29T24:00:00Z",
            "2024-02-29T12:34:56.Z",
            "2024-02-29T12:34:56+0530",
            "2024-02-29T12:34:56+25:00",
            "2024-02-29T12:34:56+05:30 ",
            "02024-02-29T12:34:56Z",
            "2024-02-29T012:34:56Z",
            "2024-02-2éT12:34:56Z",
        ] {
            assert_eq!(normalize_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn calendar_fields_agree_with_jiff_for_every_day_of_cel() {
        let zone = TimeZone::UTC;
        for days in (-719_162_i64..2_932_897)
            .step_by(13)
            .chain([0, 11_016, 19_782])
        {
            let seconds = days * 86_400 + 45_296;
            let expected = jiff::Timestamp::new(seconds, 789_000_000)
                .unwrap()
                .to_zoned(zone.clone());
            let get = |wanted| field(wanted, seconds, 789_000_000);
            assert_eq!(get(Field::FullYear), i64::from(expected.year()));
            assert_eq!(get(Field::Month) + 1, i64::from(expected.month()));
            assert_eq!(get(Field::Date), i64::from(expected.day()));
            assert_eq!(get(Field::DayOfMonth) + 1, i64::from(expected.day()));
            assert_eq!(get(Field::DayOfYear) + 1, i64::from(expected.day_of_year()));
            assert_eq!(
                get(Field::DayOfWeek),
                i64::from(expected.weekday().to_sunday_zero_offset())
            );
            assert_eq!(
                (get(Field::Hours), get(Field::Minutes), get(Field::Seconds)),
                (12, 34, 56)
            );
            assert_eq!(get(Field::Milliseconds), 789);
        }
    }

    #[test]
    fn zones_are_offsets_or_names() {
        assert_eq!(zone_offset("", 0), Ok(0));
        assert_eq!(zone_offset("UTC", 0), Ok(0));
        assert_eq!(zone_offset("+05:30", 0), Ok(19_800));
        assert_eq!(zone_offset("05:30", 0), Ok(19_800));
        assert_eq!(zone_offset("-0:30", 0), Ok(-1_800));
        assert_eq!(zone_offset("-08:30", 0), Ok(-30_600));
        assert!(zone_offset("a:b", 0).is_err());
        assert_eq!(
            zone_offset("No/Where", 0),
            Err("unknown time zone No/Where".to_owned())
        );
        assert!(zone_offset("Local", 0).is_ok());
    }
}
