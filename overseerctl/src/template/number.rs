//! Number literals: which value, and of which type, a number in an action is.
//!
//! A literal has the type that its spelling suggests: `3`, `0x1F` and `'a'` are ints, `3.0`, `1e3`
//! and `0x1p4` floats. Complex numbers, which Go has, are refused: no parameter can become one.

use super::literal::unquote_char;
use crate::quote::go_quote;

/// The value of a number literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
    /// Fits an unsigned integer only: an error, but not before it is evaluated.
    TooBig,
}

/// Reads a character constant, quotes included.
pub(super) fn parse_char(literal: &str) -> Result<Number, String> {
    let (unit, tail) = unquote_char(&literal[1..], '\'').ok_or("invalid syntax")?;
    if tail == "'" {
        Ok(Number::Int(i64::from(unit.code())))
    } else {
        Err(format!("malformed character constant: {literal}"))
    }
}

/// Reads a number as the lexer cut it out.
pub(super) fn parse_number(literal: &str) -> Result<Number, String> {
    let quoted = || go_quote(literal);
    if literal.ends_with('i') && parse_float(&literal[..literal.len() - 1]).is_some() {
        return Err(refuse_complex(literal));
    }
    let (negative, digits) = split_sign(literal);
    let magnitude = parse_unsigned(digits);
    let int = magnitude.and_then(|m| signed(negative, m));
    let looks_like_float = literal.contains(['.', 'e', 'E', 'p', 'P']) && !is_plain_hex(literal);
    match (int, magnitude, parse_float(literal)) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "`-0x1e` is a float in Go, as its `e` looks like an exponent"
        )]
        (Some(int), ..) if looks_like_float => Ok(Number::Float(int as f64)),
        (Some(int), ..) => Ok(Number::Int(int)),
        (None, Some(_), _) if digits.len() == literal.len() => Ok(Number::TooBig),
        (None, _, Some(float)) if looks_like_float => Ok(Number::Float(float)),
        (None, _, Some(_)) => Err(format!("integer overflow: {}", quoted())),
        (None, _, None) => Err(format!("illegal number syntax: {}", quoted())),
    }
}

/// The error for a complex constant.
pub(super) fn refuse_complex(literal: &str) -> String {
    format!("complex constants are not supported: {}", go_quote(literal))
}

fn split_sign(literal: &str) -> (bool, &str) {
    match literal.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, literal.strip_prefix('+').unwrap_or(literal)),
    }
}

fn signed(negative: bool, magnitude: u64) -> Option<i64> {
    if negative {
        0_i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    }
}

/// A hexadecimal integer without a sign.
fn is_plain_hex(literal: &str) -> bool {
    literal.len() > 2
        && (literal.starts_with("0x") || literal.starts_with("0X"))
        && !literal.contains(['p', 'P'])
}

/// Digits after an optional `0x`, `0o`, `0` or `0b`; underscores between digits. `None` also if it
/// does not fit.
fn parse_unsigned(literal: &str) -> Option<u64> {
    let prefix = literal
        .get(..2)
        .filter(|_| literal.len() > 2)
        .unwrap_or_default();
    let (radix, digits) = match prefix {
        "0x" | "0X" => (16, &literal[2..]),
        "0o" | "0O" => (8, &literal[2..]),
        "0b" | "0B" => (2, &literal[2..]),
        _ => match literal.strip_prefix('0') {
            Some(octal) => (8, octal),
            None => (10, literal),
        },
    };
    if literal.is_empty() || !underscores_separate_digits(literal) {
        return None;
    }
    digits
        .chars()
        .filter(|&c| c != '_')
        .try_fold(0_u64, |value, c| {
            value
                .checked_mul(u64::from(radix))?
                .checked_add(u64::from(c.to_digit(radix)?))
        })
}

/// Whether each underscore stands between two digits, a base prefix counting as one.
fn underscores_separate_digits(literal: &str) -> bool {
    let (_, digits) = split_sign(literal);
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let has_prefix = matches!(lower.as_deref(), Some("0x" | "0o" | "0b"));
    let is_hex = lower.as_deref() == Some("0x");
    let is_digit = |c: char| c.is_ascii_digit() || is_hex && c.is_ascii_hexdigit();
    let mut after_digit = has_prefix;
    let mut after_underscore = false;
    for c in digits.chars().skip(if has_prefix { 2 } else { 0 }) {
        if c == '_' && !after_digit || after_underscore && !is_digit(c) {
            return false;
        }
        after_underscore = c == '_';
        after_digit = is_digit(c);
    }
    !after_underscore
}

/// A decimal or hexadecimal float; `None` also if it is too large.
fn parse_float(literal: &str) -> Option<f64> {
    let (negative, digits) = split_sign(literal);
    if digits.contains('_') && !underscores_separate_digits(literal) {
        return None;
    }
    let plain: String = digits.chars().filter(|&c| c != '_').collect();
    let magnitude = match plain.get(..2) {
        Some("0x" | "0X") if plain.len() > 2 => parse_hex_float(&plain[2..])?,
        _ if plain.starts_with(['.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) => {
            plain.parse().ok()?
        }
        _ => return None,
    };
    f64::is_finite(magnitude).then_some(if negative { -magnitude } else { magnitude })
}

/// `1.8p3`: hexadecimal digits, and a power of two that must be there.
fn parse_hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (negative, digits) = split_sign(exponent);
    if whole.len() + fraction.len() == 0
        || digits.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let exponent = digits
        .bytes()
        .fold(0_i64, |e, b| (e * 10 + i64::from(b - b'0')).min(100_000));
    let mut bits = 0_u64;
    let mut lost = false;
    let mut scale =
        if negative { -exponent } else { exponent } - 4 * i64::try_from(fraction.len()).ok()?;
    for c in whole.chars().chain(fraction.chars()) {
        let digit = u64::from(c.to_digit(16)?);
        if bits >> 60 == 0 {
            bits = bits << 4 | digit;
        } else {
            lost |= digit != 0;
            scale += 4;
        }
    }
    Some(scale_to_float(bits, lost, scale))
}

/// `bits` times two to the `scale`, rounded once, to even; `lost` tells that nonzero bits below
/// were dropped.
fn scale_to_float(bits: u64, lost: bool, scale: i64) -> f64 {
    const MANTISSA: i64 = 53;
    const SMALLEST: i64 = -1074;
    const BIAS: i64 = 1075;
    if bits == 0 {
        return 0.0;
    }
    let length = 64 - i64::from(bits.leading_zeros());
    // The weight of the last bit that the result can hold.
    let mut last = (length + scale - MANTISSA).max(SMALLEST);
    let drop = last - scale;
    let mut mantissa = match u32::try_from(drop) {
        Err(_) => bits << drop.unsigned_abs(),
        Ok(drop) if drop > 64 => 0,
        Ok(drop) => round_to_even(bits, lost, drop),
    };
    if mantissa >> MANTISSA != 0 {
        mantissa >>= 1;
        last += 1;
    }
    if last + MANTISSA > 1024 {
        return f64::INFINITY;
    }
    let normal = mantissa >> (MANTISSA - 1) != 0;
    let exponent = if normal {
        (last + BIAS).unsigned_abs()
    } else {
        0
    };
    f64::from_bits(exponent << 52 | mantissa & ((1 << 52) - 1))
}

fn round_to_even(bits: u64, lost: bool, drop: u32) -> u64 {
    let wide = u128::from(bits) << 1 | u128::from(lost);
    let kept = wide >> (drop + 1);
    let rest = wide & ((1 << (drop + 1)) - 1);
    let half = 1_u128 << drop;
    let up = rest > half || rest == half && kept & 1 == 1;
    u64::try_from(kept).unwrap_or(u64::MAX) + u64::from(up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_decides_the_type() {
        let cases = [
            ("0", Number::Int(0)),
            ("-0", Number::Int(0)),
            ("+5", Number::Int(5)),
            ("1_000", Number::Int(1000)),
            ("0x_FF", Number::Int(255)),
            ("017", Number::Int(15)),
            ("0b101", Number::Int(5)),
            ("0x1e3", Number::Int(0x1e3)),
            ("-0x1e", Number::Float(-30.0)),
            ("1e3", Number::Float(1000.0)),
            ("1_0.5", Number::Float(10.5)),
            (".5", Number::Float(0.5)),
            ("0x1.8p3", Number::Float(12.0)),
            ("-9223372036854775808", Number::Int(i64::MIN)),
            ("9223372036854775808", Number::TooBig),
            ("18446744073709551615", Number::TooBig),
        ];
        for (literal, number) in cases {
            assert_eq!(parse_number(literal), Ok(number), "{literal}");
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        let cases = [
            (".", "illegal number syntax: \".\""),
            ("1__0", "illegal number syntax: \"1__0\""),
            ("0x", "illegal number syntax: \"0x\""),
            ("1e999", "illegal number syntax: \"1e999\""),
            ("089", "integer overflow: \"089\""),
            (
                "18446744073709551616",
                "integer overflow: \"18446744073709551616\"",
            ),
            ("2i", "complex constants are not supported: \"2i\""),
        ];
        for (literal, message) in cases {
            assert_eq!(parse_number(literal), Err(message.to_owned()), "{literal}");
        }
    }

    #[test]
    fn hexadecimal_floats_are_rounded_once_to_even() {
        let cases: [(&str, f64); 7] = [
            ("0x1p-1074", f64::from_bits(1)),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", f64::from_bits(1)),
            ("0x1.fffffffffffff8p0", 2.0),
            (
                "0x1.fffffffffffff7ffffffffffffp0",
                f64::from_bits(0x3fff_ffff_ffff_ffff),
            ),
            ("0x1.00000000000008p0", 1.0),
            (
                "0x1.000000000000080000000001p0",
                f64::from_bits(0x3ff0_0000_0000_0001),
            ),
        ];
        for (literal, value) in cases {
            assert_eq!(parse_number(literal), Ok(Number::Float(value)), "{literal}");
        }
        assert!(parse_number("0x1p1024").is_err());
    }

    #[test]
    fn characters_are_their_code_points() {
        assert_eq!(parse_char("'a'"), Ok(Number::Int(97)));
        assert_eq!(parse_char("'\\''"), Ok(Number::Int(39)));
        assert_eq!(parse_char("'\\xff'"), Ok(Number::Int(255)));
        assert_eq!(parse_char("''"), Err("invalid syntax".to_owned()));
        assert_eq!(
            parse_char("'ab'"),
            Err("malformed character constant: 'ab'".to_owned())
        );
    }
}
