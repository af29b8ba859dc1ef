//! Sizes in bytes as people write them: `512MiB`, `64k`, `1.5G`, `4096`. Suffixes are powers of 1024, with or without
//! `i` and `B`, in any case.

/// Bytes of a written size.
///
/// # Errors
/// A text that quotes the size and shows the form.
pub fn parse(text: &str) -> Result<u64, String> {
    let refused = || {
        format!("invalid size {text:?}: expected a number of bytes such as 4096, 64KiB or 1.5GiB")
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(split);
    let suffix = suffix.trim().to_ascii_lowercase();
    let shift = match suffix
        .strip_suffix('b')
        .unwrap_or(&suffix)
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(refused()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(refused);
    }
    let fraction: f64 = number.parse().map_err(|_| refused())?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a fraction of a unit needs no exact byte count"
    )]
    let bytes = fraction * (1u64 << shift) as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    if bytes.is_finite() && (0.0..1e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65_536),
            ("64 KiB", 65_536),
            ("1.5GB", 1_610_612_736),
            ("2MiB", 2 << 20),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "x", "-1", "1X", "1..2k", "99999999999T"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("such as 4096"), "{text}: {error}");
        }
    }
}
