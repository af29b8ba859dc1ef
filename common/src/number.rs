//! Numbers that came as floats, as JSON and YAML have them, and are whole all the same.

/// 2^53: every whole number up to here is a float of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The whole number that a float is, if it is one and no other number has the same float.
pub fn whole(number: f64) -> Option<i64> {
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and within 2^53, so the cast is exact"
    )]
    Some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_no_other_number_is_whole() {
        for (number, expected) in [(0.0, 0), (1e3, 1000), (-7.0, -7), (EXACT, 1 << 53)] {
            assert_eq!(whole(number), Some(expected));
        }
        for number in [0.5, 1e300, EXACT * 2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(whole(number), None, "{number}");
        }
    }
}
