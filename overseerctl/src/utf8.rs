//! Bytes of a child process as text, with Go's rule for invalid UTF-8.
//!
//! Go replaces every single byte that is not part of a valid character with U+FFFD. `String::from_utf8_lossy` follows
//! the Unicode recommendation instead and writes one U+FFFD for a whole truncated sequence: for `e2 82` it gives one
//! where Go, and so every client, sees two.

use std::borrow::Cow;
use std::str;

/// The bytes as text, each invalid byte replaced by U+FFFD. Valid input is borrowed, not copied.
pub fn to_valid(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(error) => Cow::Owned(replace_invalid(bytes, error.valid_up_to())),
    }
}

fn replace_invalid(bytes: &[u8], valid_up_to: usize) -> String {
    // A replacement is three bytes long; assume that few follow the first.
    let mut text = String::with_capacity(bytes.len() + 2 * (bytes.len() - valid_up_to).min(64));
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_invalid_byte_becomes_one_replacement() {
        for (bytes, text) in [
            (&b"a\xe2\x82z"[..], "a\u{fffd}\u{fffd}z"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"\xf0\x9f\x98", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xf4\x90\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xe2\x82\xe2\x82\xac", "\u{fffd}\u{fffd}€"),
        ] {
            assert_eq!(to_valid(bytes), text, "{bytes:x?}");
        }
    }

    #[test]
    fn valid_text_is_borrowed() {
        assert!(matches!(
            to_valid("grün €\0".as_bytes()),
            Cow::Borrowed("grün €\0")
        ));
    }

    /// The rule spelt out: one character if one begins here, else one replacement for one byte.
    fn slow(mut bytes: &[u8]) -> String {
        let mut text = String::new();
        while !bytes.is_empty() {
            let character =
                (1..=bytes.len().min(4)).find_map(|len| str::from_utf8(&bytes[..len]).ok());
            text.push_str(character.unwrap_or("\u{fffd}"));
            bytes = &bytes[character.map_or(1, str::len)..];
        }
        text
    }

    proptest! {
        #[test]
        fn any_bytes_follow_the_rule(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xf8_u8, Just(0xe2), Just(0x82)], 0..64),
        ) {
            prop_assert_eq!(to_valid(&bytes), slow(&bytes));
        }
    }
}
