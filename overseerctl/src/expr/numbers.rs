//! Go's reading and writing of numbers and booleans, where Rust's differs.

/// A double as Go's `strconv.ParseFloat` reads it, without its hexadecimal notation: underscores may separate digits,
/// NaN has no sign, and what is too large is no number.
pub(super) fn parse_double(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => return text.parse().ok(),
        "nan" => return (unsigned.len() == text.len()).then_some(f64::NAN),
        _ => {}
    }
    let separated = text.contains('_');
    if separated && !separators_are_between_digits(text) {
        return None;
    }
    let number: f64 = if separated {
        text.replace('_', "").parse()
    } else {
        text.parse()
    }
    .ok()?;
    number.is_finite().then_some(number)
}

fn separators_are_between_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit_at = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'_')
        .all(|(i, _)| i > 0 && digit_at(i - 1) && digit_at(i + 1))
}

/// An unsigned integer: digits and nothing else.
pub(super) fn parse_uint(text: &str) -> Option<u64> {
    if text.starts_with('+') {
        None
    } else {
        text.parse().ok()
    }
}

/// A boolean in one of the spellings of Go's `strconv.ParseBool`.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A double in Go's shortest `%g` notation: `1e+06`, `1.5`, `+Inf`.
pub(super) fn format_double(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return number.to_string();
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_read_as_in_go() {
        for (text, number) in [
            ("1.5", 1.5),
            ("+1.", 1.0),
            ("-.5e1", -5.0),
            ("1_000.2_5", 1000.25),
            ("1e-400", 0.0),
            ("INF", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse_double(text), Some(number), "{text}");
        }
        assert!(parse_double("NaN").is_some_and(f64::is_nan));
        for text in [
            "", " 1", "1e400", "-1e400", "+nan", "1_", "_1", "1__0", "1_.5", "0x10", "1d", "e5",
            "é",
        ] {
            assert_eq!(parse_double(text), None, "{text}");
        }
    }

    #[test]
    fn unsigned_integers_have_no_sign() {
        assert_eq!(parse_uint("18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_uint("007"), Some(7));
        for text in ["+1", "-1", "", "1_0", "18446744073709551616"] {
            assert_eq!(parse_uint(text), None, "{text}");
        }
    }

    #[test]
    fn doubles_are_written_as_in_go() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456.789, "123456.789"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1e21, "1e+21"),
            (1.5e100, "1.5e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(format_double(number), text);
        }
    }
}
