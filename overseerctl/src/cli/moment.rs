//! Points in time as people say and read them: `10m` ago, or RFC 3339.

use std::time::Duration;

use runyard_common::duration;

use crate::time::Timestamp;

/// Reads `--since`: an RFC 3339 time, or how long ago. The answer is RFC 3339.
pub(super) fn since(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_string());
    }
    let ago = duration::parse(text)
        .map_err(|_| "expected 10m, 2h30m or a time such as 2026-01-31T12:00:00Z")?;
    let now = Timestamp::now();
    let seconds = i64::try_from(ago.as_secs()).map_err(|_| "that is too long ago")?;
    let nanos = i64::from(now.subsec_nanos()) - i64::from(ago.subsec_nanos());
    let borrowed = i64::from(nanos < 0);
    let nanos = u32::try_from(nanos + borrowed * 1_000_000_000).unwrap_or_default();
    Ok(Timestamp::from_unix(now.unix_seconds() - seconds - borrowed, nanos).to_string())
}

/// How long ago something was, in whole seconds; `-` if that is not known.
pub(super) fn age(time: Option<&str>) -> String {
    let time = time
        .and_then(|time| time.parse::<Timestamp>().ok())
        .filter(|time| !time.is_zero());
    time.map_or_else(
        || "-".to_owned(),
        |time| span(Timestamp::now().duration_since(time)),
    )
}

/// A span as people read it: in its two largest units.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2);
    let shown = shown.filter(|(count, _)| *count > 0 || seconds == 0);
    shown.fold(String::new(), |text, (count, unit)| {
        format!("{text}{count}{unit}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(
            since("2026-01-31T12:00:00Z").unwrap(),
            "2026-01-31T12:00:00Z"
        );
        let ago: Timestamp = since("90s").unwrap().parse().unwrap();
        let age = Timestamp::now().duration_since(ago);
        assert!(
            (Duration::from_secs(90)..Duration::from_mins(2)).contains(&age),
            "{age:?}"
        );
        assert!(since("yesterday").unwrap_err().contains("expected 10m"));
    }

    #[test]
    fn a_span_shows_its_two_largest_units() {
        let spans = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_725, "1h2m"),
            (90_000, "1d1h"),
            (86_400, "1d"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn an_unknown_time_has_no_age() {
        assert_eq!(age(None), "-");
        assert_eq!(age(Some("0001-01-01T00:00:00Z")), "-");
    }
}
