//! Configuration before it has a type: a tree of values, each with its origin. Parsing is
//! [`super::yaml`]'s and [`super::json`]'s work, reading into a type [`super::read`]'s.

use serde_json::{Number, Value};

use super::key::Key;
use super::origin::Origin;
use crate::secret::REDACTED;

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    /// A boolean, with its spelling where the file had one (`yes`): a string wanted there gets the
    /// spelling.
    Bool(bool, Option<String>),
    /// A number, with its spelling (`1.10`) likewise.
    Number(Number, Option<String>),
    /// A string of a file or of the defaults.
    Str(String),
    /// Text of the environment or of a flag, which is whatever the wanted type reads in it.
    Text(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where the key is written, which can be above its value.
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn new(kind: Kind, origin: Origin) -> Self {
        Self { kind, origin }
    }

    /// An empty map of the defaults.
    pub(super) fn root() -> Self {
        Self::new(Kind::Map(Vec::new()), Origin::Default)
    }

    /// A value that code or a flag gives, with one origin for all of it. Strings of a flag are
    /// [`Kind::Text`].
    pub(super) fn from_value(value: Value, origin: &Origin) -> Self {
        let kind = match value {
            Value::Null => Kind::Null,
            Value::Bool(value) => Kind::Bool(value, None),
            Value::Number(number) => Kind::Number(number, None),
            Value::String(text) if *origin == Origin::Default => Kind::Str(text),
            Value::String(text) => Kind::Text(text),
            Value::Array(items) => Kind::Seq(
                items
                    .into_iter()
                    .map(|item| Self::from_value(item, origin))
                    .collect(),
            ),
            Value::Object(fields) => {
                let entry = |(name, value)| Entry {
                    name,
                    origin: origin.clone(),
                    node: Self::from_value(value, origin),
                };
                Kind::Map(fields.into_iter().map(entry).collect())
            }
        };
        Self::new(kind, origin.clone())
    }

    /// A tree that holds one value at `key`.
    pub(super) fn at(key: &Key, node: Self) -> Self {
        key.segments().iter().rev().fold(node, |node, segment| {
            let origin = node.origin.clone();
            let entry = Entry {
                name: segment.clone(),
                origin: origin.clone(),
                node,
            };
            Self::new(Kind::Map(vec![entry]), origin)
        })
    }

    /// Lays `upper` over this tree. Maps are merged key by key; anything else replaces what is
    /// below, but a null says nothing where there is a value already (`listen:` with nothing behind
    /// it keeps the default).
    pub(super) fn overlay(&mut self, upper: Self) {
        match (&mut self.kind, upper.kind) {
            (Kind::Map(entries), Kind::Map(uppers)) => {
                for entry in uppers {
                    match entries.iter_mut().find(|known| known.name == entry.name) {
                        Some(known) => {
                            // A map keeps saying where it was first named, unless something
                            // replaces it.
                            if !matches!(entry.node.kind, Kind::Null) {
                                known.origin = entry.origin;
                            }
                            known.node.overlay(entry.node);
                        }
                        None => entries.push(entry),
                    }
                }
            }
            (kind, upper_kind)
                if matches!(kind, Kind::Null) || !matches!(upper_kind, Kind::Null) =>
            {
                *kind = upper_kind;
                self.origin = upper.origin;
            }
            _ => {}
        }
    }

    /// Takes out every value that is the mark of a redacted secret: the defaults were serialised,
    /// and serialising hid it. What is missing gets serde's default.
    pub(super) fn without_redacted(mut self) -> Self {
        if let Kind::Map(entries) = &mut self.kind {
            let kept = std::mem::take(entries)
                .into_iter()
                .filter(|entry| !entry.node.is_redacted());
            *entries = kept
                .map(|entry| Entry {
                    node: entry.node.without_redacted(),
                    ..entry
                })
                .collect();
        }
        self
    }

    fn is_redacted(&self) -> bool {
        matches!(&self.kind, Kind::Str(text) if text == REDACTED)
    }

    /// Calls `visit` with every value that has no keys of its own: scalars, lists, and maps without
    /// entries.
    pub(super) fn leaves<'a>(&'a self, key: &Key, visit: &mut dyn FnMut(Key, &'a Self)) {
        match &self.kind {
            Kind::Map(entries) if !entries.is_empty() => {
                for entry in entries {
                    entry.node.leaves(&key.join(&entry.name), visit);
                }
            }
            _ if key.is_root() => {}
            _ => visit(key.clone(), self),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(value: Value) -> Node {
        Node::from_value(value, &Origin::Default)
    }

    fn flag(value: Value) -> Node {
        Node::from_value(
            value,
            &Origin::Flag {
                name: "--x".to_owned(),
            },
        )
    }

    fn leaf_origins(node: &Node) -> Vec<(String, Origin)> {
        let mut leaves = Vec::new();
        node.leaves(&Key::default(), &mut |key, node| {
            leaves.push((key.to_string(), node.origin.clone()));
        });
        leaves
    }

    #[test]
    fn maps_merge_and_everything_else_replaces() {
        let mut tree = node(json!({"a": {"x": 1, "y": [1, 2]}, "b": 1}));
        tree.overlay(node(json!({"a": {"y": [3]}, "b": {"z": 1}})));
        assert_eq!(tree, node(json!({"a": {"x": 1, "y": [3]}, "b": {"z": 1}})));
    }

    #[test]
    fn a_null_keeps_the_value_below_and_stays_where_there_is_none() {
        let mut tree = node(json!({"a": 1}));
        tree.overlay(node(json!({"a": null, "b": null})));
        assert_eq!(tree, node(json!({"a": 1, "b": null})));
    }

    #[test]
    fn each_leaf_keeps_the_origin_of_its_layer() {
        let mut tree = node(json!({"a": {"x": 1, "y": 2}}));
        tree.overlay(flag(json!({"a": {"y": 3}})));
        let by_flag = Origin::Flag {
            name: "--x".to_owned(),
        };
        assert_eq!(
            leaf_origins(&tree),
            [
                ("a.x".to_owned(), Origin::Default),
                ("a.y".to_owned(), by_flag)
            ]
        );
    }

    #[test]
    fn redacted_defaults_are_left_to_serde() {
        assert_eq!(
            node(json!({"t": {"token": "[redacted]", "n": 1}})).without_redacted(),
            node(json!({"t": {"n": 1}}))
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn overlaying_twice_changes_nothing_more(lower in values(), upper in values()) {
            let mut once = node(lower);
            once.overlay(node(upper.clone()));
            let mut twice = once.clone();
            twice.overlay(node(upper));
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn an_empty_layer_changes_nothing(lower in values()) {
            let mut tree = node(json!({"root": lower}));
            let before = tree.clone();
            tree.overlay(node(json!({})));
            prop_assert_eq!(tree, before);
        }
    }
}
