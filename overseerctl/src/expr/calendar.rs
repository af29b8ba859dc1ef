//! What CEL asks of times: the parts of a timestamp in some zone, and a duration in some unit. The arithmetic is Go's.

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;

/// A part of a timestamp.
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

impl Field {
    /// The part that a method is named after: `getFullYear`.
    pub(super) fn of_method(name: &str) -> Option<Self> {
        Some(match name {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDayOfYear" => Self::DayOfYear,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDate" => Self::Date,
            "getDayOfWeek" => Self::DayOfWeek,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }

    /// This part of what clock and calendar of a zone show at an instant, given in seconds since 1970 and nanoseconds.
    pub(super) fn at(self, seconds: i64, nanoseconds: u32, zone: &str) -> Result<i64, String> {
        let local = seconds + zone_offset(zone, seconds)?;
        let shown = civil(local).ok_or("timestamp overflow")?;
        Ok(match self {
            Self::FullYear => shown.year().into(),
            Self::Month => i64::from(shown.month()) - 1,
            Self::DayOfYear => i64::from(shown.day_of_year()) - 1,
            Self::DayOfMonth => i64::from(shown.day()) - 1,
            Self::Date => shown.day().into(),
            Self::DayOfWeek => shown.weekday().to_sunday_zero_offset().into(),
            Self::Hours => shown.hour().into(),
            Self::Minutes => shown.minute().into(),
            Self::Seconds => shown.second().into(),
            Self::Milliseconds => (nanoseconds / 1_000_000).into(),
        })
    }

    /// The whole of a duration in units of this part; most parts are no unit.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Go truncates the same quotient"
    )]
    pub(super) fn units_in(self, nanoseconds: i64) -> Option<i64> {
        Some(match self {
            Self::Hours => in_units(nanoseconds, 3_600_000_000_000) as i64,
            Self::Minutes => in_units(nanoseconds, 60_000_000_000) as i64,
            Self::Seconds => in_units(nanoseconds, 1_000_000_000) as i64,
            Self::Milliseconds => nanoseconds / 1_000_000,
            _ => return None,
        })
    }
}

/// Date and time that many seconds after the beginning of 1970.
fn civil(seconds: i64) -> Option<DateTime> {
    date(1970, 1, 1)
        .at(0, 0, 0, 0)
        .checked_add(SignedDuration::from_secs(seconds))
        .ok()
}

/// How many seconds a zone is ahead of UTC at an instant. Zones are IANA names, `Local`, or `hours:minutes`.
fn zone_offset(zone: &str, seconds: i64) -> Result<i64, String> {
    if let Some((hours, minutes)) = zone.split_once(':') {
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        return Ok(60
            * if zone.starts_with('-') {
                hours * 60 - minutes
            } else {
                hours * 60 + minutes
            });
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
    Ok(zone.to_offset(instant).seconds().into())
}

fn number(digits: &str) -> Result<i64, String> {
    let parsed = digits.parse::<i32>().map(i64::from);
    parsed.map_err(|_| format!("strconv.Atoi: parsing {digits:?}: invalid syntax"))
}

/// A duration as CEL turns it into a string: seconds with a fraction, `5400s`.
pub(super) fn format_duration(nanoseconds: i64) -> String {
    format!("{}s", in_units(nanoseconds, 1_000_000_000))
}

/// A duration in units of so many nanoseconds, whole ones and the rest added up as Go adds them up.
#[expect(clippy::cast_precision_loss, reason = "Go rounds the same way")]
fn in_units(nanoseconds: i64, unit: i64) -> f64 {
    (nanoseconds / unit) as f64 + (nanoseconds % unit) as f64 / unit as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29T23:34:56.789Z, a Thursday.
    const LEAP_DAY: i64 = 1_709_249_696;

    fn utc(method: &str, seconds: i64) -> i64 {
        Field::of_method(method)
            .unwrap()
            .at(seconds, 789_000_000, "UTC")
            .unwrap()
    }

    #[test]
    fn every_part_of_a_timestamp_can_be_had() {
        for (method, expected) in [
            ("getFullYear", 2024),
            ("getMonth", 1),
            ("getDayOfYear", 59),
            ("getDayOfMonth", 28),
            ("getDate", 29),
            ("getDayOfWeek", 4),
            ("getHours", 23),
            ("getMinutes", 34),
            ("getSeconds", 56),
            ("getMilliseconds", 789),
        ] {
            assert_eq!(utc(method, LEAP_DAY), expected, "{method}");
        }
        assert_eq!(Field::of_method("getYear"), None);
    }

    #[test]
    fn the_first_and_the_last_second_of_cel_have_a_date() {
        assert_eq!(
            (
                utc("getFullYear", -62_135_596_800),
                utc("getDayOfYear", -62_135_596_800)
            ),
            (1, 0)
        );
        assert_eq!(
            (
                utc("getFullYear", 253_402_300_799),
                utc("getHours", 253_402_300_799)
            ),
            (9999, 23)
        );
        assert!(Field::Date.at(253_402_300_799, 0, "+01:00").is_err());
    }

    #[test]
    fn zones_are_offsets_or_names() {
        let hour_in = |zone: &str| Field::Hours.at(LEAP_DAY, 0, zone);
        for (zone, hour) in [
            ("", 23),
            ("+05:30", 5),
            ("05:30", 5),
            ("-0:35", 22),
            ("-08:00", 15),
            ("24:00", 23),
        ] {
            assert_eq!(hour_in(zone), Ok(hour), "{zone}");
        }
        assert!(hour_in("Local").is_ok());
        assert_eq!(
            hour_in("No/Where"),
            Err("unknown time zone No/Where".to_owned())
        );
        assert_eq!(
            hour_in("a:0"),
            Err("strconv.Atoi: parsing \"a\": invalid syntax".to_owned())
        );
    }

    #[test]
    fn durations_count_in_whole_units() {
        let duration = 12_345_678_000_000;
        assert_eq!(Field::Hours.units_in(duration), Some(3));
        assert_eq!(Field::Minutes.units_in(-duration), Some(-205));
        assert_eq!(Field::Seconds.units_in(duration), Some(12_345));
        assert_eq!(Field::Milliseconds.units_in(duration), Some(12_345_678));
        assert_eq!(Field::Date.units_in(duration), None);
    }

    #[test]
    fn durations_are_written_in_seconds() {
        assert_eq!(format_duration(5_400_000_000_000), "5400s");
        assert_eq!(format_duration(-1), "-0.000000001s");
        assert_eq!(format_duration(0), "0s");
        assert_eq!(format_duration(i64::MAX), "9223372036.854776s");
    }
}
