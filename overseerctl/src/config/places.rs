//! Where a value was set, for messages that are written after the file has been read.

use std::collections::BTreeMap;

use runyard_common::config::Origin;

/// The origins of all values by dotted key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a>(pub(super) &'a BTreeMap<String, Origin>);

impl<'a> Places<'a> {
    /// Where the value of `key` came from; for a key with keys below it, where the first of those that is no default did.
    pub(super) fn of(self, key: &str) -> Origin {
        let below = || {
            self.below(key)
                .min_by_key(|origin| origin.line().unwrap_or(u64::MAX))
        };
        self.0
            .get(key)
            .or_else(below)
            .cloned()
            .unwrap_or(Origin::Default)
    }

    /// The first line below `key` in the file.
    pub(super) fn line(self, key: &str) -> Option<u64> {
        let own = self.0.get(key).and_then(Origin::line);
        own.or_else(|| self.below(key).filter_map(Origin::line).min())
    }

    /// Whether a layer above the defaults says anything about `key`.
    pub(super) fn is_set(self, key: &str) -> bool {
        self.of(key) != Origin::Default
    }

    fn below(self, key: &str) -> impl Iterator<Item = &'a Origin> + use<'a> {
        let prefix = format!("{key}.");
        let starts = prefix.clone();
        let entries = self
            .0
            .range(prefix..)
            .take_while(move |(name, _)| name.starts_with(&starts));
        entries
            .map(|(_, origin)| origin)
            .filter(|origin| **origin != Origin::Default)
    }
}

/// A name as a segment of a dotted key: quoted where it holds a dot, a quotation mark or a space.
pub(super) fn segment(name: &str) -> String {
    let plain =
        !name.is_empty() && !name.contains(|c: char| c == '.' || c == '"' || c.is_whitespace());
    if plain {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(line: u64) -> Origin {
        Origin::File {
            path: "c.yaml".into(),
            line,
        }
    }

    #[test]
    fn a_map_is_where_its_first_value_is() {
        let origins = BTreeMap::from([
            ("a.x".to_owned(), file(7)),
            ("a.y".to_owned(), file(5)),
            ("a.z".to_owned(), Origin::Default),
            ("ab".to_owned(), file(1)),
        ]);
        let places = Places(&origins);
        assert_eq!((places.of("a"), places.line("a")), (file(5), Some(5)));
        assert_eq!((places.of("a.x"), places.line("a.x")), (file(7), Some(7)));
        assert_eq!(
            (places.of("a.z"), places.of("b"), places.line("b")),
            (Origin::Default, Origin::Default, None)
        );
        assert!(places.is_set("ab") && !places.is_set("a.z"));
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(
            [segment("a-b"), segment("a.b"), segment("")],
            ["a-b", "\"a.b\"", "\"\""]
        );
    }
}
