//! The effective configuration for people and programs: every value with its origin, secrets
//! redacted.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::key::{Key, Secrets};
use super::node::{Kind, Node};
use super::origin::Origin;
use crate::output::{Table, Tabular};
use crate::secret::REDACTED;

/// What `config show` prints. As JSON or YAML it is a map from dotted key to `value`, `from` and
/// the place; as a table, one row a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown(Vec<Row>);

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    #[serde(skip)]
    key: String,
    value: Value,
    #[serde(flatten)]
    origin: Origin,
}

impl Shown {
    pub(super) fn new(tree: &Node, secrets: &Secrets) -> Self {
        let mut rows = Vec::new();
        tree.leaves(&Key::default(), &mut |key, node| {
            let value = shown(&key, node, secrets);
            rows.push(Row {
                key: key.to_string(),
                value,
                origin: node.origin.clone(),
            });
        });
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        Self(rows)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for row in &self.0 {
            map.serialize_entry(&row.key, row)?;
        }
        map.end()
    }
}

impl Tabular for Shown {
    fn table(&self) -> Table {
        let mut table = Table::new(["key", "value", "from"]);
        for row in &self.0 {
            let value = row
                .value
                .as_str()
                .map_or_else(|| row.value.to_string(), str::to_owned);
            table.push([row.key.clone(), value, row.origin.to_string()]);
        }
        table
    }
}

/// A value as it may be shown. That a secret is *not* set may be seen.
fn shown(key: &Key, node: &Node, secrets: &Secrets) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Str(text) | Kind::Text(text) if text.is_empty() => Value::from(""),
        Kind::Seq(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| shown(&key.join(index), item, secrets))
            .collect(),
        Kind::Map(entries) => {
            let entry = |entry: &super::node::Entry| {
                (
                    entry.name.clone(),
                    shown(&key.join(&entry.name), &entry.node, secrets),
                )
            };
            Value::Object(entries.iter().map(entry).collect())
        }
        _ if secrets.cover(key) => Value::from(REDACTED),
        Kind::Bool(value, _) => Value::from(*value),
        Kind::Number(number, _) => Value::Number(number.clone()),
        Kind::Str(text) | Kind::Text(text) => Value::from(text.as_str()),
    }
}
