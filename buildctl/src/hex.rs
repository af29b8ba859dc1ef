//! Bytes as hexadecimal digits, in lower case, as digests and signatures are written.

/// Two digits for each byte.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .as_ref()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(hex([0x00, 0x0a, 0x9f, 0xff]), "000a9fff");
        assert_eq!(hex([]), "");
    }
}
