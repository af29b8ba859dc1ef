//! JSON as Go's `encoding/json` reads it, which is laxer than serde in ways that clients of the wire rely on.
//!
//! ```text
//! frame ── first_value ──► Value ── Fields::decode ──► a struct
//!          syntax only     a view    names, types, nulls, duplicates
//! ```
//!
//! What is different from serde: only the first value of a frame counts; keys match without regard to case; a key may
//! occur again, and the later one wins (or is merged, for objects); `null` leaves a field as it was; invalid UTF-8 and
//! lone surrogates become U+FFFD; a type error anywhere among the declared fields spoils the whole message, one in an
//! unknown field does not. Errors carry Go's wording. Writing JSON is serde's work and happens elsewhere.
//!
//! A [`Value`] is a view of checked text, not a tree: nothing is copied or converted until somebody asks, and a deeply
//! nested frame costs neither stack nor memory.

use std::borrow::Cow;

use crate::quote::go_quote;
use crate::utf8;

mod fields;
mod scan;

pub use fields::Fields;
use scan::{Fault, Scanner};

/// Why a text could not be decoded, in the words of Go's `encoding/json`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A frame ended before its first value did.
    #[error("unexpected EOF")]
    Truncated,
    /// A document ended before its value did.
    #[error("unexpected end of JSON input")]
    Incomplete,
    /// A byte stands where the grammar wants another.
    #[error("invalid character {} {context}", quote_byte(*.byte))]
    Syntax {
        /// The byte.
        byte: u8,
        /// What was being read.
        context: &'static str,
        /// Offset of the byte.
        at: usize,
    },
    /// A value has another type than its field.
    #[error("json: cannot unmarshal {found} into Go {}{go_type}", describe_place(.place.as_ref()))]
    Type {
        /// Kind of the value; for numbers that do not fit, with the number.
        found: String,
        /// Go's name of the type wanted.
        go_type: &'static str,
        /// The field; none for the outermost value.
        place: Option<Place>,
    },
    /// A text has the right type and a meaning that its field does not accept, such as a duration of `5d`.
    #[error("{0}")]
    Meaning(String),
}

/// The field that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Go's name of the innermost struct, without its package.
    pub parent: &'static str,
    /// Names of the fields on the way from the outermost struct, joined by points.
    pub path: String,
}

fn describe_place(place: Option<&Place>) -> String {
    match place {
        Some(Place { parent, path }) => format!("struct field {parent}.{path} of type "),
        None => "value of type ".to_owned(),
    }
}

/// A byte between single quotes, escaped as in a Go string; bytes from 0x80 are shown as Latin-1.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => r#"'"'"#.to_owned(),
        _ => {
            let quoted = go_quote(char::from(byte).encode_utf8(&mut [0; 4]));
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

/// Reads the first value of a WebSocket frame. What follows the value is not even looked at.
pub fn first_value(frame: &[u8]) -> Result<Value<'_>, JsonError> {
    let mut scanner = Scanner::new(frame);
    scanner.skip_space();
    let at = scanner.at();
    scanner.value().map_err(|fault| match fault {
        Fault::Byte { byte, context, at } => JsonError::Syntax { byte, context, at },
        Fault::End | Fault::EndInToken { .. } => JsonError::Truncated,
    })?;
    Ok(Value {
        text: &frame[at..scanner.at()],
        at,
    })
}

/// Reads a document that must hold exactly one value: a line of the stdio transport, or a line of output.
pub fn whole_value(document: &[u8]) -> Result<Value<'_>, JsonError> {
    let mut scanner = Scanner::new(document);
    scanner.skip_space();
    let at = scanner.at();
    scanner.value().map_err(|fault| match fault {
        Fault::Byte { byte, context, at } => JsonError::Syntax { byte, context, at },
        Fault::End => JsonError::Incomplete,
        // Go appends a space to see whether a token was complete, and then complains about that space.
        Fault::EndInToken { context } => JsonError::Syntax {
            byte: b' ',
            context,
            at: document.len(),
        },
    })?;
    let text = &document[at..scanner.at()];
    scanner.skip_space();
    match scanner.peek() {
        Some(byte) => Err(JsonError::Syntax {
            byte,
            context: "after top-level value",
            at: scanner.at(),
        }),
        None => Ok(Value { text, at }),
    }
}

// === Value ===

/// One JSON value: a view of text that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// The value's own text, without space around it.
    text: &'a [u8],
    /// Offset of that text in the frame.
    at: usize,
}

/// What a [`Value`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number, not yet converted.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// The kind's name in errors.
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

impl<'a> Value<'a> {
    /// What it is.
    pub fn kind(self) -> Kind {
        match self.text.first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// Its text as it stands in the frame, without space around it.
    pub fn text(self) -> &'a [u8] {
        self.text
    }

    /// Offset of its text in the frame.
    pub fn at(self) -> usize {
        self.at
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Its truth, if it is a bool.
    pub fn as_bool(self) -> Option<bool> {
        (self.kind() == Kind::Bool).then(|| self.text == b"true")
    }

    /// Its digits as sent, if it is a number. Nothing is rounded.
    pub fn as_number(self) -> Option<&'a str> {
        str::from_utf8(self.text)
            .ok()
            .filter(|_| self.kind() == Kind::Number)
    }

    /// Its characters, if it is a string: escapes resolved, invalid UTF-8 and lone surrogates replaced by U+FFFD.
    pub fn as_string(self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        Some(unescape(inner))
    }

    /// Its members in the order of the text, duplicates included; none if it is not an object.
    pub fn members(self) -> Members<'a> {
        Members {
            inside: Inside::of(self, Kind::Object),
        }
    }

    /// Its elements; none if it is not an array.
    pub fn elements(self) -> Elements<'a> {
        Elements {
            inside: Inside::of(self, Kind::Array),
        }
    }
}

/// One `key: value` pair of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key, with its escapes resolved.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Value<'a>,
}

/// Iterator over an object; see [`Value::members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    inside: Inside<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let key = self.inside.next_value()?.as_string()?;
        self.inside.step_over(b':');
        Some(Member {
            key,
            value: self.inside.next_value()?,
        })
    }
}

/// Iterator over an array; see [`Value::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    inside: Inside<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.inside.next_value()
    }
}

/// A walk through a checked array or object. Because the text is known to be well-formed, a scan that fails can only
/// mean that the closing bracket is reached.
#[derive(Clone, Debug)]
struct Inside<'a> {
    text: &'a [u8],
    base: usize,
    scanner: Scanner<'a>,
}

impl<'a> Inside<'a> {
    fn of(value: Value<'a>, kind: Kind) -> Self {
        let text = if value.kind() == kind {
            value.text
        } else {
            b""
        };
        let mut scanner = Scanner::new(text);
        scanner.skip();
        Self {
            text,
            base: value.at,
            scanner,
        }
    }

    fn next_value(&mut self) -> Option<Value<'a>> {
        self.step_over(b',');
        self.scanner.skip_space();
        let at = self.scanner.at();
        self.scanner.value().ok()?;
        Some(Value {
            text: &self.text[at..self.scanner.at()],
            at: self.base + at,
        })
    }

    fn step_over(&mut self, mark: u8) {
        self.scanner.skip_space();
        if self.scanner.peek() == Some(mark) {
            self.scanner.skip();
        }
    }
}

// === Strings ===

/// Resolves the escapes of a checked string, given without its quotes.
fn unescape(inner: &[u8]) -> Cow<'_, str> {
    let Some(first) = inner.iter().position(|&byte| byte == b'\\') else {
        return utf8::to_valid(inner);
    };
    let mut text = String::with_capacity(inner.len());
    let (mut plain, mut rest) = inner.split_at(first);
    loop {
        text.push_str(&utf8::to_valid(plain));
        let Some((character, tail)) = escape(rest) else {
            return Cow::Owned(text);
        };
        text.push(character);
        let next = tail
            .iter()
            .position(|&byte| byte == b'\\')
            .unwrap_or(tail.len());
        (plain, rest) = tail.split_at(next);
    }
}

/// The character of the escape that the text begins with, and the text behind it; `None` at the end.
fn escape(text: &[u8]) -> Option<(char, &[u8])> {
    let [b'\\', letter, tail @ ..] = text else {
        return None;
    };
    Some(match letter {
        b'b' => ('\x08', tail),
        b'f' => ('\x0c', tail),
        b'n' => ('\n', tail),
        b'r' => ('\r', tail),
        b't' => ('\t', tail),
        b'u' => unicode_escape(text)?,
        &same => (char::from(same), tail),
    })
}

/// Like [`escape`], for `\u`: two surrogates that belong together are one character, any other surrogate is U+FFFD and
/// leaves the escape behind it alone.
fn unicode_escape(text: &[u8]) -> Option<(char, &[u8])> {
    let (unit, tail) = code_unit(text)?;
    if let Some((low, behind)) = code_unit(tail)
        && let Some(Ok(character)) = char::decode_utf16([unit, low]).next()
        && u32::from(character) > 0xffff
    {
        return Some((character, behind));
    }
    Some((
        char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
        tail,
    ))
}

/// The UTF-16 unit of a `\u1234` that the text begins with.
fn code_unit(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.strip_prefix(b"\\u")?;
    let (digits, tail) = digits.split_at_checked(4)?;
    let unit = u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    Some((unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(frame: &[u8]) -> &[u8] {
        first_value(frame).unwrap().text()
    }

    fn string(frame: &[u8]) -> String {
        first_value(frame)
            .unwrap()
            .as_string()
            .unwrap()
            .into_owned()
    }

    fn frame_error(frame: &[u8]) -> String {
        first_value(frame).unwrap_err().to_string()
    }

    fn document_error(document: &[u8]) -> String {
        whole_value(document).unwrap_err().to_string()
    }

    #[test]
    fn only_the_first_value_of_a_frame_counts() {
        for (frame, value) in [
            (&b"{\"a\":1}{\"a\":2}"[..], &b"{\"a\":1}"[..]),
            (b" \t\r\n[1] trailing", b"[1]"),
            (b"\"x\"y", b"\"x\""),
            (b"01", b"0"),
            (b"-0.5e+3x", b"-0.5e+3"),
            (b"nullnull", b"null"),
            (b"true\xff", b"true"),
        ] {
            assert_eq!(text_of(frame), value);
        }
    }

    #[test]
    fn a_document_holds_nothing_else() {
        assert_eq!(whole_value(b" {} \n").unwrap().text(), b"{}");
        assert_eq!(
            document_error(b"{}x"),
            "invalid character 'x' after top-level value"
        );
        assert_eq!(
            document_error(b"01"),
            "invalid character '1' after top-level value"
        );
    }

    #[test]
    fn syntax_errors_use_the_words_of_go() {
        for (frame, words) in [
            (
                &b"\xef\xbb\xbf{}"[..],
                "invalid character 'ï' looking for beginning of value",
            ),
            (
                b"'a'",
                r"invalid character '\'' looking for beginning of value",
            ),
            (
                b"\x01",
                r"invalid character '\x01' looking for beginning of value",
            ),
            (
                b"{a",
                "invalid character 'a' looking for beginning of object key string",
            ),
            (
                b"{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            (b"{\"a\"\"", r#"invalid character '"' after object key"#),
            (
                b"{\"a\":1 2",
                "invalid character '2' after object key:value pair",
            ),
            (b"[1 2", "invalid character '2' after array element"),
            (
                b"[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            (b"[01", "invalid character '1' after array element"),
        ] {
            assert_eq!(frame_error(frame), words);
        }
    }

    #[test]
    fn errors_inside_a_token_name_the_token() {
        for (frame, words) in [
            (&b"\"\n\""[..], r"invalid character '\n' in string literal"),
            (br#""\'""#, r"invalid character '\'' in string escape code"),
            (
                br#""\u00g0""#,
                r"invalid character 'g' in \u hexadecimal character escape",
            ),
            (b"-x", "invalid character 'x' in numeric literal"),
            (
                b"1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                b"1e+x",
                "invalid character 'x' in exponent of numeric literal",
            ),
            (
                b"trux",
                "invalid character 'x' in literal true (expecting 'e')",
            ),
            (
                b"fx",
                "invalid character 'x' in literal false (expecting 'a')",
            ),
            (
                b"nulx",
                "invalid character 'x' in literal null (expecting 'l')",
            ),
        ] {
            assert_eq!(frame_error(frame), words);
        }
    }

    #[test]
    fn an_early_end_is_worded_by_where_the_text_came_from() {
        for text in [&b""[..], b"  ", b"{", b"[1,", b"\"a", b"{\"a\":"] {
            assert_eq!(frame_error(text), "unexpected EOF");
            assert_eq!(document_error(text), "unexpected end of JSON input");
        }
        assert_eq!(frame_error(b"-"), "unexpected EOF");
        assert_eq!(
            document_error(b"-"),
            "invalid character ' ' in numeric literal"
        );
        assert_eq!(
            document_error(b"tru"),
            "invalid character ' ' in literal true (expecting 'e')"
        );
    }

    #[test]
    fn ten_thousand_levels_are_the_limit() {
        let nested = |levels: usize| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert_eq!(text_of(&nested(10_000)).len(), 20_000);
        assert_eq!(
            frame_error(&nested(10_001)),
            "invalid character '[' exceeded max depth"
        );
        assert_eq!(
            frame_error(&b"{\"a\":".repeat(10_001)),
            "invalid character '{' exceeded max depth"
        );
    }

    #[test]
    fn strings_lose_escapes_and_invalid_bytes() {
        for (frame, text) in [
            (&br#""a\"\\\/\b\f\n\r\tz""#[..], "a\"\\/\x08\x0c\n\r\tz"),
            (br#""\u00e9\u20ac""#, "é€"),
            (br#""\ud83d\ude00""#, "😀"),
            (br#""\ud83d""#, "\u{fffd}"),
            (br#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (br#""\ud83d\u0041""#, "\u{fffd}A"),
            (br#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (br#""\ud83dx\ude00""#, "\u{fffd}x\u{fffd}"),
            (b"\"a\xe2\x82\\n\xff\"", "a\u{fffd}\u{fffd}\n\u{fffd}"),
            (b"\"\xed\xa0\x80\"", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\"\x7f\xc2\x80\"", "\x7f\u{80}"),
        ] {
            assert_eq!(string(frame), text);
        }
    }

    #[test]
    fn numbers_keep_their_text() {
        let number = first_value(b"12345678901234567890.10e5").unwrap();
        assert_eq!(number.as_number(), Some("12345678901234567890.10e5"));
        assert_eq!(number.as_string(), None);
    }

    #[test]
    fn members_come_in_order_with_duplicates() {
        let object = first_value(br#" { "a" : 1 , "b":[{}, 2],"a":null } "#).unwrap();
        let members: Vec<_> = object
            .members()
            .map(|m| (m.key.into_owned(), m.value.text(), m.value.at()))
            .collect();
        assert_eq!(
            members,
            [
                ("a".into(), &b"1"[..], 9),
                ("b".into(), b"[{}, 2]", 17),
                ("a".into(), b"null", 29)
            ]
        );
        assert_eq!(object.elements().count(), 0);
        assert_eq!(first_value(b"[1, [2], {}]").unwrap().elements().count(), 3);
        assert_eq!(first_value(b"[1]").unwrap().members().count(), 0);
    }

    /// serde's idea of the value, for texts that are valid UTF-8 without lone surrogates.
    fn agrees(value: Value<'_>, expected: &serde_json::Value) -> bool {
        match expected {
            serde_json::Value::Null => value.is_null(),
            serde_json::Value::Bool(truth) => value.as_bool() == Some(*truth),
            serde_json::Value::Number(number) => value.as_number() == Some(&number.to_string()),
            serde_json::Value::String(text) => value.as_string().as_deref() == Some(text),
            serde_json::Value::Array(all) => {
                value.elements().count() == all.len()
                    && value.elements().zip(all).all(|(a, b)| agrees(a, b))
            }
            serde_json::Value::Object(all) => {
                value.members().count() == all.len()
                    && value
                        .members()
                        .zip(all)
                        .all(|(a, (key, b))| a.key == *key && agrees(a.value, b))
            }
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn well_formed_text_is_read_as_serde_reads_it(expected in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&expected) } else { serde_json::to_string(&expected) };
            prop_assert!(agrees(whole_value(text.unwrap().as_bytes()).unwrap(), &expected));
        }

        #[test]
        fn any_bytes_are_read_or_refused(frame: Vec<u8>) {
            if let Ok(value) = first_value(&frame) {
                prop_assert_eq!(&frame[value.at()..value.at() + value.text().len()], value.text());
            }
        }

        #[test]
        fn any_soup_of_tokens_is_accepted_exactly_when_serde_accepts_it(
            tokens in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\u0041\"", "null", "true", "1", "-0.5e1", " ", "0", "\\", "\"",
                ]),
                0..12,
            ),
        ) {
            let text = tokens.concat();
            let accepted = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(whole_value(text.as_bytes()).is_ok(), accepted, "{}", text);
        }
    }
}
