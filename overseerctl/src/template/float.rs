//! Floating-point numbers as Go writes them: the digits come from Rust's formatter, the layout is
//! Go's.

/// The layouts of a float, by Go's verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `%e`: one digit, a fraction and an exponent.
    Exponent,
    /// `%f`: no exponent.
    Plain,
    /// `%g`: the shorter of the two; a precision counts significant digits.
    Short,
    /// `%b`: a decimal mantissa and a binary exponent.
    Binary,
    /// `%x`: a hexadecimal mantissa and a binary exponent.
    Hex,
}

/// More digits than any float has behind its point; Rust refuses precisions over 65535.
const MAX_DIGITS: usize = 1100;
const MANTISSA_BITS: u32 = 52;

/// Digits behind the point where `%e` and `%f` name no precision.
const USUAL_DIGITS: usize = 6;

/// Writes a finite float, with a sign only if it is negative. Without a precision, `%e` and `%f`
/// show six digits, the others as many as are needed to read the number back.
pub(super) fn format_float(value: f64, layout: Layout, precision: Option<usize>) -> String {
    let magnitude = value.abs();
    let body = match layout {
        Layout::Exponent => {
            let fraction = precision.unwrap_or(USUAL_DIGITS);
            exponent(&Digits::of(magnitude, Some(fraction + 1)), fraction)
        }
        Layout::Plain => plain(magnitude, precision.unwrap_or(USUAL_DIGITS)),
        Layout::Short => short(magnitude, precision),
        Layout::Binary => binary(magnitude),
        Layout::Hex => hex(magnitude, precision),
    };
    if value.is_sign_negative() {
        format!("-{body}")
    } else {
        body
    }
}

/// The significant digits of a number, without zeros at the end, and the decimal exponent of the
/// first one.
struct Digits {
    digits: String,
    exponent: i32,
}

impl Digits {
    /// Rounds to `count` digits, or to as many as are needed.
    fn of(magnitude: f64, count: Option<usize>) -> Self {
        let text = match count {
            Some(count) => format!("{magnitude:.*e}", count.saturating_sub(1).min(MAX_DIGITS)),
            None => shortest(magnitude),
        };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits: String = mantissa.chars().filter(|&c| c != '.').collect();
        let digits = digits.trim_end_matches('0').to_owned();
        let exponent = if digits.is_empty() {
            0
        } else {
            exponent.parse().unwrap_or(0)
        };
        Self { digits, exponent }
    }
}

/// The fewest digits that read back as the number. Of two that are equally near Go takes the even
/// one, Rust the upper.
fn shortest(magnitude: f64) -> String {
    let upper = format!("{magnitude:e}");
    let digits = upper.split('e').next().map_or(0, str::len);
    let even = format!("{magnitude:.*e}", digits.saturating_sub(2));
    if even.parse() == Ok(magnitude) {
        even
    } else {
        upper
    }
}

fn exponent(number: &Digits, fraction: usize) -> String {
    let (first, rest) = number.digits.split_at_checked(1).unwrap_or(("0", ""));
    let point = if fraction > 0 { "." } else { "" };
    let zeros = "0".repeat(fraction.saturating_sub(rest.len()));
    let sign = if number.exponent < 0 { '-' } else { '+' };
    format!(
        "{first}{point}{rest}{zeros}e{sign}{:02}",
        number.exponent.abs()
    )
}

fn plain(magnitude: f64, fraction: usize) -> String {
    let shown = fraction.min(MAX_DIGITS);
    format!("{magnitude:.shown$}{}", "0".repeat(fraction - shown))
}

fn short(magnitude: f64, precision: Option<usize>) -> String {
    /// From this exponent on the shortest form has an exponent.
    const LARGE: usize = 6;
    let count = precision.map(|p| p.max(1));
    let number = Digits::of(magnitude, count);
    let Ok(exponent_of_first) = usize::try_from(number.exponent) else {
        return short_fraction(magnitude, &number);
    };
    let length = number.digits.len();
    let limit = match count {
        None => LARGE,
        Some(count) if count > length && length > exponent_of_first => length,
        Some(count) => count,
    };
    if length > 0 && exponent_of_first >= limit {
        return exponent(&number, length - 1);
    }
    plain(magnitude, length.saturating_sub(1 + exponent_of_first))
}

/// A number below one.
fn short_fraction(magnitude: f64, number: &Digits) -> String {
    let length = number.digits.len();
    match usize::try_from(-number.exponent) {
        Ok(zeros) if zeros <= 4 => plain(magnitude, length + zeros - 1),
        _ => exponent(number, length.saturating_sub(1)),
    }
}

/// The mantissa as an integer, and the binary exponent of its last bit.
fn parts(magnitude: f64) -> (u64, i64) {
    const BIAS: i64 = 1075;
    let bits = magnitude.to_bits();
    let mantissa = bits & ((1 << MANTISSA_BITS) - 1);
    match bits >> MANTISSA_BITS {
        0 => (mantissa, 1 - BIAS),
        exponent => (mantissa | 1 << MANTISSA_BITS, exponent.cast_signed() - BIAS),
    }
}

fn binary(magnitude: f64) -> String {
    let (mantissa, exponent) = parts(magnitude);
    format!("{mantissa}p{exponent:+}")
}

fn hex(magnitude: f64, precision: Option<usize>) -> String {
    const DIGITS: usize = 15;
    let (mantissa, exponent) = parts(magnitude);
    let shift = mantissa.leading_zeros().min(63);
    // The leading one at bit 60, so that fifteen digits follow it.
    let mut bits = if mantissa == 0 {
        0
    } else {
        mantissa << shift >> 3
    };
    let mut exponent = if mantissa == 0 {
        0
    } else {
        exponent + 63 - i64::from(shift)
    };
    if let Some(precision) = precision.filter(|&p| p < DIGITS) {
        bits = round_hex(bits, precision);
        if bits >> 61 != 0 {
            bits >>= 1;
            exponent += 1;
        }
    }
    let digits = format!("{:015x}", bits & ((1 << 60) - 1));
    let fraction = match precision {
        None => digits.trim_end_matches('0').to_owned(),
        Some(precision) if precision < DIGITS => digits[..precision].to_owned(),
        Some(precision) => digits + &"0".repeat(precision - DIGITS),
    };
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!(
        "0x{}{point}{fraction}p{sign}{:02}",
        bits >> 60,
        exponent.abs()
    )
}

/// Rounds to a number of hexadecimal digits below bit 60, halves to even.
fn round_hex(bits: u64, digits: usize) -> u64 {
    let drop = 60 - 4 * digits;
    let unit = 1 << drop;
    let rest = bits & (unit - 1);
    let kept = bits - rest;
    let half = unit >> 1;
    if rest > half || rest == half && kept & unit != 0 {
        kept + unit
    } else {
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_the_one_go_prints() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (100_000.0, "100000"),
            (1e6, "1e+06"),
            (123_456_789.0, "1.23456789e+08"),
            (0.0001, "0.0001"),
            (0.000_012_3, "1.23e-05"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (value, text) in cases {
            assert_eq!(format_float(value, Layout::Short, None), text);
        }
    }

    #[test]
    fn a_precision_rounds_halves_to_even() {
        assert_eq!(format_float(2.5, Layout::Plain, Some(0)), "2");
        assert_eq!(format_float(0.5, Layout::Plain, Some(0)), "0");
        assert_eq!(format_float(1.25, Layout::Exponent, Some(1)), "1.2e+00");
        assert_eq!(format_float(99.95, Layout::Short, Some(3)), "100");
        assert_eq!(format_float(1234.0, Layout::Short, Some(2)), "1.2e+03");
    }

    #[test]
    fn a_huge_precision_is_filled_with_zeros() {
        let text = format_float(0.5, Layout::Plain, Some(100_000));
        assert_eq!(text.len(), 100_002);
        assert!(text.starts_with("0.50") && text.ends_with('0'));
        assert_eq!(
            format_float(0.5, Layout::Exponent, Some(70_000)).len(),
            70_006
        );
    }

    #[test]
    fn binary_forms_show_the_bits() {
        assert_eq!(
            format_float(1.5, Layout::Binary, None),
            "6755399441055744p-52"
        );
        assert_eq!(
            format_float(0.1, Layout::Hex, None),
            "0x1.999999999999ap-04"
        );
        assert_eq!(format_float(1.5, Layout::Hex, Some(0)), "0x1p+01");
        assert_eq!(format_float(5e-324, Layout::Hex, Some(2)), "0x1.00p-1074");
        assert_eq!(
            format_float(0.0, Layout::Hex, Some(20)),
            "0x0.00000000000000000000p+00"
        );
    }
}
