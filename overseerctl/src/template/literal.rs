//! Go's literals: strings and characters as they stand in a source, to be read and to be written.
//!
//! Strings are bytes here, as in Go: a slice of a template's string may cut a character in two.

use crate::quote::{go_quote, go_quote_bytes};

/// One step through a byte string: a character, or a byte that belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rune {
    /// A valid character.
    Char(char),
    /// A byte that is not part of valid UTF-8. Go treats every such byte as a character of its own.
    Bad(u8),
}

/// Walks over a byte string character by character.
pub(super) fn runes(text: &[u8]) -> impl Iterator<Item = Rune> {
    text.utf8_chunks().flat_map(|chunk| {
        let bad = chunk.invalid().iter().copied().map(Rune::Bad);
        chunk.valid().chars().map(Rune::Char).chain(bad)
    })
}

impl Rune {
    /// The number of bytes the step covers.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Char(c) => c.len_utf8(),
            Self::Bad(_) => 1,
        }
    }
}

/// Whether Go prints the character as it is; beyond ASCII that is what its quoting leaves alone.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    go_quote(c.encode_utf8(&mut [0; 4])).contains(c)
}

/// Writes a string as a double-quoted Go literal, of ASCII characters only if so asked.
pub(super) fn quote(text: &[u8], ascii_only: bool) -> String {
    let quoted = go_quote_bytes(text);
    if ascii_only {
        to_ascii(&quoted)
    } else {
        quoted
    }
}

/// Writes a character as a single-quoted Go literal, of ASCII characters only if so asked.
pub(super) fn quote_char(c: char, ascii_only: bool) -> String {
    let quoted = match c {
        '"' => c.to_string(),
        '\'' => "\\'".to_owned(),
        _ => go_quote(c.encode_utf8(&mut [0; 4]))
            .trim_matches('"')
            .to_owned(),
    };
    format!(
        "'{}'",
        if ascii_only {
            to_ascii(&quoted)
        } else {
            quoted
        }
    )
}

fn to_ascii(quoted: &str) -> String {
    let escape = |c: char| match u32::from(c) {
        0..0x80 => c.to_string(),
        code @ 0x80..0x1_0000 => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    quoted.chars().map(escape).collect()
}

/// Names a character for an error message, as `%#U` does: `U+0041 'A'`.
pub(super) fn name_char(c: char) -> String {
    let point = u32::from(c);
    if is_printable(c) {
        format!("U+{point:04X} '{c}'")
    } else {
        format!("U+{point:04X}")
    }
}

/// Tells whether a string can stand between backquotes unchanged.
pub(super) fn can_backquote(text: &[u8]) -> bool {
    runes(text).all(|rune| match rune {
        Rune::Char(c) => c == '\t' || (c >= ' ' && !matches!(c, '`' | '\u{7f}' | '\u{feff}')),
        Rune::Bad(_) => false,
    })
}

/// Reads a quoted literal, quotes included: `"…"` with escapes, or `` `…` `` without. `None` is
/// Go's "invalid syntax".
pub(super) fn unquote(literal: &str) -> Option<Vec<u8>> {
    if let Some(raw) = literal.strip_prefix('`') {
        return Some(
            raw.strip_suffix('`')?
                .bytes()
                .filter(|&b| b != b'\r')
                .collect(),
        );
    }
    let mut rest = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let (unit, tail) = unquote_char(rest, '"')?;
        match unit {
            Unit::Char(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unit::Byte(byte) => text.push(byte),
        }
        rest = tail;
    }
    Some(text)
}

/// What one character or escape of a literal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A character.
    Char(char),
    /// A byte, from `\x80` or `\200`.
    Byte(u8),
}

impl Unit {
    /// The number a character constant has.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Char(c) => u32::from(c),
            Self::Byte(byte) => u32::from(byte),
        }
    }
}

/// Reads the first character or escape of a literal that is enclosed in `quote`; returns it and
/// what follows.
pub(super) fn unquote_char(text: &str, quote: char) -> Option<(Unit, &str)> {
    let mut chars = text.chars();
    let c = match chars.next()? {
        c if c == quote => return None,
        '\\' => return unquote_escape(chars.as_str(), quote),
        c => c,
    };
    Some((Unit::Char(c), chars.as_str()))
}

fn unquote_escape(text: &str, quote: char) -> Option<(Unit, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let simple = match first {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        '\'' | '"' if first == quote => first,
        'x' | '0'..='7' => return byte_escape(text),
        'u' => return code_point(chars.as_str(), 4),
        'U' => return code_point(chars.as_str(), 8),
        _ => return None,
    };
    Some((Unit::Char(simple), chars.as_str()))
}

/// `x41` or `101`.
fn byte_escape(text: &str) -> Option<(Unit, &str)> {
    let (digits, radix, tail) = match text.strip_prefix('x') {
        Some(hex) => (hex.get(..2)?, 16, hex.get(2..)?),
        None => (text.get(..3)?, 8, text.get(3..)?),
    };
    let value = u8::try_from(number(digits, radix)?).ok()?;
    Some((Unit::Byte(value), tail))
}

fn code_point(text: &str, digits: usize) -> Option<(Unit, &str)> {
    let value = char::from_u32(number(text.get(..digits)?, 16)?)?;
    Some((Unit::Char(value), text.get(digits..)?))
}

/// Unlike `from_str_radix`, takes no sign.
fn number(digits: &str, radix: u32) -> Option<u32> {
    digits.chars().try_fold(0_u32, |value, c| {
        value.checked_mul(radix)?.checked_add(c.to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_can_be_held_to_ascii() {
        let text = "a\"é\u{ad}😀".as_bytes();
        assert_eq!(quote(text, false), r#""a\"é\u00ad😀""#);
        assert_eq!(quote(text, true), r#""a\"\u00e9\u00ad\U0001f600""#);
    }

    #[test]
    fn characters_have_their_own_quote() {
        let quoted = ['a', '"', '\'', '\\', '\n', '☃', '\u{ad}'].map(|c| quote_char(c, false));
        assert_eq!(
            quoted,
            ["'a'", "'\"'", r"'\''", r"'\\'", r"'\n'", "'☃'", r"'\u00ad'"]
        );
        assert_eq!(quote_char('☃', true), r"'\u2603'");
    }

    #[test]
    fn every_byte_of_a_broken_character_stands_alone() {
        assert_eq!(runes(b"\xe2\x82z\xff").count(), 4);
        assert_eq!(runes(b"\xed\xa0\x80").count(), 3);
    }

    #[test]
    fn literals_are_read_as_go_does() {
        assert_eq!(
            unquote(r#""a\n\x41\101\u00e9\U0001F600\"""#).as_deref(),
            Some("a\nAAé😀\"".as_bytes())
        );
        assert_eq!(unquote(r#""\xff\377""#).as_deref(), Some(&b"\xff\xff"[..]));
        assert_eq!(unquote("`a\\n\r\nb`").as_deref(), Some(&b"a\\n\nb"[..]));
        for bad in [
            r#""\q""#,
            r#""\'""#,
            r#""\400""#,
            r#""\x4""#,
            r#""\ud800""#,
            r#""\+1""#,
            r#""\x+1""#,
        ] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn characters_are_named_with_their_glyph_only_if_it_prints() {
        assert_eq!(name_char(']'), "U+005D ']'");
        assert_eq!(name_char('\u{1}'), "U+0001");
    }
}
