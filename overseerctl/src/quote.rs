//! Go's string quoting (`%q`, `strconv.Quote`), in which the daemon shows names that it does not know.
//!
//! Rust's `{:?}` differs from it in the escapes (`\u{1}` for `\x01`), in what counts as printable, and in having no
//! form for bytes that are not text. The quoting of durations is Go's other one, see [`crate::duration`].

mod printable;

/// The text as a double-quoted Go string literal: printable characters stay, the rest becomes `\n`, `\x01`, `\u00ad`
/// or `\U000e0001`.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    push_escaped(&mut out, text);
    out.push('"');
    out
}

/// Like [`go_quote`], for bytes: each one that is not part of a valid character becomes `\xNN`.
pub fn go_quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        push_escaped(&mut out, chunk.valid());
        for &byte in chunk.invalid() {
            push_hex(&mut out, "\\x", 2, byte.into());
        }
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ if is_printable(character) => out.push(character),
            _ => push_escape(out, character),
        }
    }
}

fn push_escape(out: &mut String, character: char) {
    match character {
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\0'..' ' | '\x7f' => push_hex(out, "\\x", 2, character.into()),
        '\u{80}'..='\u{ffff}' => push_hex(out, "\\u", 4, character.into()),
        _ => push_hex(out, "\\U", 8, character.into()),
    }
}

/// Writes a prefix and so many hexadecimal digits.
fn push_hex(out: &mut String, prefix: &str, digits: u32, code: u32) {
    out.push_str(prefix);
    for place in (0..digits).rev() {
        out.extend(char::from_digit(code >> (4 * place) & 0xf, 16));
    }
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_printable(character: char) -> bool {
    let code = u32::from(character);
    if code < 0x7f {
        return code >= 0x20;
    }
    // An odd number of boundaries up to here means that we are inside a printable range.
    printable::BOUNDARIES.partition_point(|&boundary| boundary <= code) % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_those_of_go() {
        for (text, quoted) in [
            ("", r#""""#),
            ("plain text", r#""plain text""#),
            ("a\"b\\c'd", r#""a\"b\\c'd""#),
            ("\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            ("\0\x01\x1f\x7f", r#""\x00\x01\x1f\x7f""#),
            ("\u{80}\u{a0}\u{ad}", r#""\u0080\u00a0\u00ad""#),
            ("grün €😀", r#""grün €😀""#),
            (
                "\u{2028}\u{200b}\u{feff}\u{e000}",
                r#""\u2028\u200b\ufeff\ue000""#,
            ),
            ("\u{fffd}", "\"\u{fffd}\""),
            ("\u{e0001}\u{10ffff}", r#""\U000e0001\U0010ffff""#),
            ("\u{301}", "\"\u{301}\""),
            ("\u{3000}", r#""\u3000""#),
        ] {
            assert_eq!(go_quote(text), quoted);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_in_hex() {
        assert_eq!(go_quote_bytes(b"a\xffb\xe2\x82"), r#""a\xffb\xe2\x82""#);
        assert_eq!(go_quote_bytes("€".as_bytes()), "\"€\"");
    }

    #[test]
    fn boundaries_ascend_and_come_in_pairs() {
        assert!(printable::BOUNDARIES.is_sorted_by(|a, b| a < b));
        assert_eq!(printable::BOUNDARIES.len() % 2, 0);
    }

    proptest! {
        #[test]
        fn text_and_its_bytes_are_quoted_alike(text: String) {
            prop_assert_eq!(go_quote(&text), go_quote_bytes(text.as_bytes()));
        }

        #[test]
        fn the_result_holds_no_control_characters(text: String) {
            prop_assert!(!go_quote(&text).chars().any(char::is_control));
        }
    }
}
