//! JSON schemas for those who write requests, language models above all: the canonical form first, then what is accepted too,
//! and no default where an empty text only means that nothing was said.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Removes what deriving says about fields that need not be there: that they are empty then, and that old ones are only written.
pub(super) fn without_defaults(schema: &mut Schema) {
    let properties = schema.get_mut("properties");
    let properties = properties.and_then(serde_json::Value::as_object_mut);
    for property in properties.into_iter().flat_map(|map| map.values_mut()) {
        if let Some(property) = property.as_object_mut() {
            property.remove("default");
            property.remove("writeOnly");
        }
    }
}

/// A list of texts.
pub(super) struct Words;

impl JsonSchema for Words {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Words".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "string", "description": "One item, or a JSON list of them in a string."},
                {"type": "null"}
            ]
        })
    }
}

/// A number in a text.
pub(super) struct Count;

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]*$"},
                {"type": "integer", "minimum": 1}
            ]
        })
    }
}
