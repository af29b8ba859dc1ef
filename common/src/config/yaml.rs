//! YAML into [`Node`]s, as leniently as Go's yaml.v3 reads it: `yes` and `on` are booleans, `010`
//! is eight, merge keys (`<<`) work, a key given twice is an error, and of several documents the
//! first one counts.
//!
//! Scalars keep their spelling, since only the type that reads them knows whether `1.10` is a
//! number or a version.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, NonFiniteFloatPolicy, Spanned};

use super::error::ConfigError;
use super::node::{Entry, Kind, Node};
use super::origin::Origin;

/// Parses the first document of `text`; `path` is what messages and origins name. Nothing at all is
/// an empty map.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, ConfigError> {
    let text = first_document(text);
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    let raw: Spanned<Raw> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(path, &error))?;
    Ok(Source { path, text }.node(raw))
}

fn syntax(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let text = error.without_snippet().to_string();
    // The place is told beside the message; the library's hint to its own options helps no user.
    let message = text.split(" at line ").next().unwrap_or(&text);
    let message = message
        .split(", set DuplicateKeyPolicy")
        .next()
        .unwrap_or(message);
    ConfigError::Syntax {
        path: path.to_owned(),
        line: location.line(),
        column: location.column(),
        message: message.to_owned(),
    }
}

/// Cuts a stream of documents after the first. YAML forbids `---` and `...` at the start of a line
/// within any scalar, so that looking at lines is enough.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let marker = |mark: &str| {
            line.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        let start = marker("---");
        if begun && (start || marker("...")) {
            return &text[..offset];
        }
        let trimmed = line.trim_start();
        begun |=
            start || !(trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%'));
        offset += line.len();
    }
    text
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let spelling = || self.spelling(raw.defined);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Bool(value) => Kind::Bool(value, spelling()),
            Raw::Number(number) => Kind::Number(number, spelling()),
            Raw::Str(text) => Kind::Str(text),
            Raw::Seq(items) => Kind::Seq(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| self.entry(key, value))
                    .collect(),
            ),
        };
        Node::new(kind, self.origin(raw.referenced))
    }

    fn entry(&self, key: Spanned<String>, value: Spanned<Raw>) -> Entry {
        Entry {
            name: key.value,
            origin: self.origin(key.referenced),
            node: self.node(value),
        }
    }

    fn origin(&self, location: Location) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line: location.line(),
        }
    }

    /// What the file says, letter by letter.
    fn spelling(&self, location: Location) -> Option<String> {
        let span = location.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        self.text.get(start..end).map(|text| text.trim().to_owned())
    }
}

/// A YAML value as the library resolves it without a type in hand.
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    Str(String),
    Seq(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        // Not finite cannot happen: the policy above makes such values strings.
        Ok(Number::from_f64(value).map_or(Raw::Null, Raw::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Str(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut seq = Vec::new();
        while let Some(item) = items.next_element()? {
            seq.push(item);
        }
        Ok(Raw::Seq(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Node {
        parse(Path::new("hub.yaml"), text).unwrap()
    }

    fn find<'a>(node: &'a Node, name: &str) -> &'a Node {
        let Kind::Map(entries) = &node.kind else {
            panic!("{node:?} is no map")
        };
        &entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap()
            .node
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1_and_keep_their_spelling() {
        for (word, value) in [
            ("yes", true),
            ("on", true),
            ("y", true),
            ("True", true),
            ("off", false),
            ("no", false),
        ] {
            assert_eq!(
                find(&yaml(&format!("a: {word}")), "a").kind,
                Kind::Bool(value, Some(word.to_owned())),
                "{word}"
            );
        }
    }

    #[test]
    fn numbers_are_those_of_yaml_v3_and_keep_their_spelling() {
        for (word, value) in [
            ("010", 8),
            ("1_000", 1000),
            ("0x1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("+5", 5),
        ] {
            let expected = Kind::Number(Number::from(value), Some(word.to_owned()));
            assert_eq!(
                find(&yaml(&format!("a: {word} # so\n")), "a").kind,
                expected,
                "{word}"
            );
        }
        let version = find(&yaml("v: 1.10"), "v").kind.clone();
        assert_eq!(
            version,
            Kind::Number(Number::from_f64(1.1).unwrap(), Some("1.10".to_owned()))
        );
    }

    #[test]
    fn quoted_scalars_are_strings_whatever_they_say() {
        assert_eq!(
            find(&yaml("a: \"yes\""), "a").kind,
            Kind::Str("yes".to_owned())
        );
        assert_eq!(find(&yaml("a: '1'"), "a").kind, Kind::Str("1".to_owned()));
    }

    #[test]
    fn values_that_are_not_finite_stay_text() {
        assert_eq!(
            find(&yaml("a: .inf"), "a").kind,
            Kind::Str(".inf".to_owned())
        );
    }

    #[test]
    fn merge_keys_bring_values_in_and_an_alias_keeps_its_spelling() {
        let tree = yaml("base: &b\n  x: yes\n  y: 1\nz:\n  <<: *b\n  y: 2\n");
        let z = find(&tree, "z");
        assert_eq!(find(z, "x").kind, Kind::Bool(true, Some("yes".to_owned())));
        assert_eq!(
            find(z, "y").kind,
            Kind::Number(2.into(), Some("2".to_owned()))
        );
    }

    #[test]
    fn every_value_knows_its_line() {
        let tree = yaml("# first\na: 1\nlist:\n  - x\n  - y\n");
        assert_eq!(
            find(&tree, "a").origin,
            Origin::File {
                path: "hub.yaml".into(),
                line: 2
            }
        );
        let Kind::Seq(items) = &find(&tree, "list").kind else {
            panic!("no list")
        };
        assert_eq!(
            items[1].origin,
            Origin::File {
                path: "hub.yaml".into(),
                line: 5
            }
        );
    }

    #[test]
    fn a_key_given_twice_is_an_error_that_names_it_and_the_line() {
        let error = parse(Path::new("hub.yaml"), "a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "hub.yaml line 3 column 1: duplicate mapping key: a"
        );
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = parse(Path::new("hub.yaml"), "a: [1, 2\nb").unwrap_err();
        assert_eq!(
            error.to_string(),
            "hub.yaml line 1 column 4: unclosed bracket '['"
        );
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# only a comment\n", "---\n", "~"] {
            assert_eq!(yaml(text).kind, Kind::Null, "{text:?}");
        }
    }

    #[test]
    fn the_first_of_several_documents_counts() {
        let text = "%YAML 1.2\n# c\n---\na: 1\nb: |\n  ---\n  x\n--- # next\na: 2\n";
        assert_eq!(
            first_document(text),
            "%YAML 1.2\n# c\n---\na: 1\nb: |\n  ---\n  x\n"
        );
        assert_eq!(first_document("a: 1\n...\nb: 2\n"), "a: 1\n");
        assert_eq!(first_document("a: 1\n---"), "a: 1\n");
        assert_eq!(
            first_document("--- {a: 1}\n---x: 2\n"),
            "--- {a: 1}\n---x: 2\n"
        );
        assert_eq!(first_document("a: 1\r\n---\r\nb: 2"), "a: 1\r\n");
    }
}
