//! The escapers: `html`, `js` and `urlquery`.

use super::literal::{Rune, is_printable, runes};

/// Escapes for HTML text and attributes.
pub(super) fn html(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            0 => escaped.extend_from_slice("\u{fffd}".as_bytes()),
            b'"' => escaped.extend_from_slice(b"&#34;"),
            b'\'' => escaped.extend_from_slice(b"&#39;"),
            b'&' => escaped.extend_from_slice(b"&amp;"),
            b'<' => escaped.extend_from_slice(b"&lt;"),
            b'>' => escaped.extend_from_slice(b"&gt;"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// Escapes for a JavaScript string literal.
pub(super) fn js(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for rune in runes(text) {
        match rune {
            Rune::Bad(byte) => escaped.push(byte),
            Rune::Char(c @ ('\\' | '\'' | '"')) => escaped.extend([b'\\', c as u8]),
            Rune::Char(c @ ('\0'..' ' | '<' | '>' | '&' | '=')) => push_unicode(&mut escaped, c),
            Rune::Char(c) if c.is_ascii() || is_printable(c) => {
                escaped.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Rune::Char(c) => push_unicode(&mut escaped, c),
        }
    }
    escaped
}

fn push_unicode(escaped: &mut Vec<u8>, c: char) {
    escaped.extend_from_slice(format!("\\u{:04X}", u32::from(c)).as_bytes());
}

/// Escapes for the query part of a URL.
pub(super) fn urlquery(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b' ' => escaped.push(b'+'),
            b'-' | b'_' | b'.' | b'~' => escaped.push(byte),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte),
            _ => escaped.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    escaped
}
