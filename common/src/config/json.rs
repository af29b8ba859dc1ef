//! JSON into [`Node`]s, with the line of every value. As in YAML, a key given twice is an error.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ConfigError;
use super::node::{Entry, Kind, Node};
use super::origin::Origin;

/// Parses `text`; `path` is what messages and origins name.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, ConfigError> {
    let source = Source { path, text };
    if text.trim().is_empty() {
        return Ok(Node::new(Kind::Null, source.origin(text)));
    }
    // The whole text first: a syntax error found here has its true line and column.
    let root: &RawValue = serde_json::from_str(text).map_err(|error| source.syntax(&error, 0))?;
    source.node(root)
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    fn node(&self, raw: &'a RawValue) -> Result<Node, ConfigError> {
        let text = raw.get();
        let origin = self.origin(text);
        let syntax = |error: serde_json::Error| self.syntax(&error, self.line(text) - 1);
        let kind = match text.as_bytes().first() {
            Some(b'{') => {
                let entries: Entries<'a> = serde_json::from_str(text).map_err(syntax)?;
                let entry = |(name, value): (String, &'a RawValue)| {
                    Ok(Entry {
                        name,
                        origin: self.origin(value.get()),
                        node: self.node(value)?,
                    })
                };
                Kind::Map(
                    entries
                        .0
                        .into_iter()
                        .map(entry)
                        .collect::<Result<_, ConfigError>>()?,
                )
            }
            Some(b'[') => {
                let items: Vec<&'a RawValue> = serde_json::from_str(text).map_err(syntax)?;
                Kind::Seq(
                    items
                        .into_iter()
                        .map(|item| self.node(item))
                        .collect::<Result<_, _>>()?,
                )
            }
            _ => scalar(serde_json::from_str(text).map_err(syntax)?),
        };
        Ok(Node::new(kind, origin))
    }

    fn origin(&self, part: &str) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line: self.line(part),
        }
    }

    /// The line of a part of the text, from 1.
    fn line(&self, part: &str) -> u64 {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let above = self.text.as_bytes().get(..offset).unwrap_or_default();
        above.split(|byte| *byte == b'\n').count() as u64
    }

    fn syntax(&self, error: &serde_json::Error, lines_above: u64) -> ConfigError {
        let text = error.to_string();
        ConfigError::Syntax {
            path: self.path.to_owned(),
            line: error.line() as u64 + lines_above,
            column: error.column() as u64,
            message: text.split(" at line ").next().unwrap_or(&text).to_owned(),
        }
    }
}

fn scalar(value: Value) -> Kind {
    match value {
        Value::Bool(value) => Kind::Bool(value, None),
        Value::Number(number) => Kind::Number(number, None),
        Value::String(text) => Kind::Str(text),
        Value::Null | Value::Array(_) | Value::Object(_) => Kind::Null,
    }
}

/// The members of an object in their order, each name once.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = access.next_entry::<String, &'de RawValue>()? {
                    if entries.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format_args!(
                            "duplicate mapping key: {name}"
                        )));
                    }
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    fn lines(text: &str) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        parse(Path::new("c.json"), text)
            .unwrap()
            .leaves(&Key::default(), &mut |key, node| {
                let Origin::File { line, .. } = node.origin else {
                    panic!("no line")
                };
                lines.push((key.to_string(), line));
            });
        lines
    }

    #[test]
    fn every_value_knows_its_line() {
        let text =
            "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": [\n 1, 2],\n \"d\": \"\\ud83d\\ude00\"\n  }\n}";
        assert_eq!(
            lines(text),
            [
                ("a".to_owned(), 2),
                ("b.c".to_owned(), 4),
                ("b.d".to_owned(), 6)
            ]
        );
    }

    #[test]
    fn a_key_given_twice_is_an_error_with_its_line() {
        let error = parse(Path::new("c.json"), "{\n\"o\": {\n\"a\": 1,\n\"a\": 2}}")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("c.json line 4 column "), "{error}");
        assert!(error.ends_with(": duplicate mapping key: a"), "{error}");
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = parse(Path::new("c.json"), "{\n\"a\": x}").unwrap_err();
        assert_eq!(error.to_string(), "c.json line 2 column 6: expected value");
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse(Path::new("c.json"), " \n").unwrap().kind, Kind::Null);
    }
}
