//! A line of output as a CEL map, decoded as Go's `encoding/json` decodes into a `map[string]any`.
//!
//! The differences to `serde_json` matter for lines that other programs write: every number is a double, rounded
//! correctly, an unpaired surrogate escape is U+FFFD instead of an error, and of duplicate keys the last wins.
//! Strings without escapes borrow from the line.
//!
//! [`crate::json`] reads the same dialect from the wire, as views that are decoded when asked; a filter that asks at
//! all asks for values, so here they are built in one pass.

use std::borrow::Cow;
use std::collections::HashMap;

use cel::common::types::{CelBool, CelDouble, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;

/// How deep arrays and objects may nest before a line does not count as JSON. Go allows 10,000; values of this
/// depth can be decoded, compared and dropped on any thread's stack.
const DEEPEST: usize = 256;

type Boxed<'a> = Box<dyn Val + 'a>;

/// The object that `line` consists of; the empty map if it is anything else.
pub(super) fn object(line: &str) -> CelMap<'_> {
    let mut decoder = Decoder {
        text: line,
        at: 0,
        depth: 0,
    };
    decoder.skip_blanks();
    // most lines are no JSON, and are known not to be by their first character
    if decoder.peek() != Some(b'{') {
        return CelMap::default();
    }
    decoder
        .object()
        .filter(|_| decoder.is_at_end())
        .unwrap_or_default()
}

struct Decoder<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Each method but the first few decodes what its name says, from its first character on, and stands behind it
/// afterwards; `None` is text that is no JSON.
impl<'a> Decoder<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.at == self.text.len()
    }

    /// Takes `byte`, blanks before it included, if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn value(&mut self) -> Option<Boxed<'a>> {
        self.skip_blanks();
        Some(match self.peek()? {
            b'{' => Box::new(self.object()?),
            b'[' => Box::new(self.array()?),
            b'"' => Box::new(CelString::from(self.string()?)),
            b't' => self.word("true", CelBool::from(true))?,
            b'f' => self.word("false", CelBool::from(false))?,
            b'n' => self.word("null", CelNull)?,
            _ => Box::new(CelDouble::from(self.number()?)),
        })
    }

    fn object(&mut self) -> Option<CelMap<'a>> {
        self.descend()?;
        let mut members = HashMap::new();
        if !self.take(b'}') {
            loop {
                self.skip_blanks();
                let key = CelMapKey::String(CelString::from(self.string()?));
                self.expect(b':')?;
                let value = self.value()?;
                members.insert(key, value);
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.depth -= 1;
        Some(CelMap::from(members))
    }

    fn array(&mut self) -> Option<CelList<'a>> {
        self.descend()?;
        let mut items = Vec::new();
        if !self.take(b']') {
            loop {
                items.push(self.value()?);
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']')?;
        }
        self.depth -= 1;
        Some(CelList::from(items))
    }

    /// Enters a bracket.
    fn descend(&mut self) -> Option<()> {
        self.at += 1;
        self.depth += 1;
        (self.depth <= DEEPEST).then_some(())
    }

    fn word<T: Val + 'a>(&mut self, word: &str, value: T) -> Option<Boxed<'a>> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            Box::new(value) as Boxed<'a>
        })
    }

    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let number: f64 = self.text[start..self.at].parse().ok()?;
        number.is_finite().then_some(number)
    }

    /// One digit or more.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.expect(b'"')?;
        let start = self.at;
        self.skip_plain()?;
        if self.take_quote() {
            return Some(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut decoded = self.text[start..self.at].to_owned();
        while !self.take_quote() {
            self.at += 1;
            decoded.push(self.escaped()?);
            let plain = self.at;
            self.skip_plain()?;
            decoded.push_str(&self.text[plain..self.at]);
        }
        Some(Cow::Owned(decoded))
    }

    fn take_quote(&mut self) -> bool {
        let found = self.peek() == Some(b'"');
        self.at += usize::from(found);
        found
    }

    /// Goes to the next quote or backslash; control characters must not stand in a string.
    fn skip_plain(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
        self.at += length;
        (rest[length] >= 0x20).then_some(())
    }

    /// The character that an escape sequence stands for, from behind its backslash on.
    fn escaped(&mut self) -> Option<char> {
        let kind = self.peek()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let unit = self.hex()?;
        let rest = &self.text[self.at..];
        if (0xd800..0xdc00).contains(&unit) && rest.starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                return char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            }
            // no pair: the second escape stands for itself
            self.at = before;
        }
        Some(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        // from_str_radix would take a sign
        digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

#[cfg(test)]
mod tests {
    use cel::Value;
    use proptest::prelude::*;

    use super::*;

    fn decoded(line: &str) -> serde_json::Value {
        let map = object(line);
        Value::try_from(&map as &dyn Val).unwrap().json().unwrap()
    }

    #[test]
    fn numbers_are_doubles_however_large() {
        let map = object(r#"{"n": 9007199254740993}"#);
        let n = map.iter().next().unwrap().1;
        let n = **n.downcast_ref::<CelDouble>().unwrap();
        assert_eq!(n.to_bits(), 9_007_199_254_740_992.0_f64.to_bits());
        assert_eq!(
            decoded(r#"{"a":-0.5e+1,"b":0,"c":1E2}"#),
            serde_json::json!({"a": -5.0, "b": 0.0, "c": 100.0})
        );
    }

    #[test]
    fn values_nest() {
        assert_eq!(
            decoded("\t{ \"a\" : [ 1 , [ ] , { } , null , true , { \"b\" : false } ] } \r\n"),
            serde_json::json!({"a": [1.0, [], {}, null, true, {"b": false}]})
        );
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(
            decoded(r#"{"a\n\"":"\u0041\ud83d\ude00\/é","lone":"\ud800\u0041 \udc00"}"#),
            serde_json::json!({"a\n\"": "A😀/é", "lone": "\u{fffd}A \u{fffd}"})
        );
    }

    #[test]
    fn the_last_of_duplicate_keys_wins() {
        assert_eq!(
            decoded(r#"{"a":{"x":1},"a":{"y":2}}"#),
            serde_json::json!({"a": {"y": 2.0}})
        );
    }

    #[test]
    fn anything_but_one_object_is_the_empty_map() {
        for line in [
            "",
            " ",
            "null",
            "[1]",
            "1",
            "\"a\"",
            "{",
            "{}}",
            "{} x",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":1e400}",
            "{\"a\":tru}",
            "{\"a\":nulls}",
            "{\"a\":\"\t\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\u+123\"}",
            "{\"a\":[1,]}",
            "{\"a\":[1 2]}",
            "{\"a\":[}",
            "{\"a\":\"é",
            "\u{feff}{}",
        ] {
            assert_eq!(decoded(line), serde_json::json!({}), "{line}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert_ne!(decoded(&nested(DEEPEST - 1)), serde_json::json!({}));
        assert_eq!(decoded(&nested(DEEPEST)), serde_json::json!({}));
        assert_eq!(
            decoded(&format!("{{\"a\":{}", "[".repeat(5_000_000))),
            serde_json::json!({})
        );
    }

    /// Any JSON whose numbers are written with a point.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-1_000_000_i32..1_000_000).prop_map(|n| (f64::from(n) / 8.0).into()),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let object = prop::collection::hash_map(any::<String>(), inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Into::into),
                object.prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive_being_written_and_read(value in value()) {
            let line = serde_json::json!({"v": value}).to_string();
            prop_assert_eq!(&decoded(&line)["v"], &value, "{}", line);
        }

        #[test]
        fn no_line_makes_the_decoder_panic(
            line in prop_oneof![any::<String>(), r#"\{["\\u0-9a-f{}\[\]:,.eE+ -]{0,24}"#]
        ) {
            let _ = object(&line);
        }
    }

    #[test]
    fn depth_counts_open_brackets_only() {
        let wide = vec!["{\"b\":[]}"; 1_000].join(",");
        assert_eq!(
            decoded(&format!("{{\"a\":[{wide}]}}"))["a"]
                .as_array()
                .unwrap()
                .len(),
            1_000
        );
    }
}
