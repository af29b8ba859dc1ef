//! Schemas of arguments, and what they say about arguments that came: the names that nobody knows. Values are read, and refused,
//! by their types.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

/// What a property is a schema of.
pub(super) type Object = Map<String, Value>;

/// Names in `arguments` that the schema does not have, each with those that it has there. Spellings do not count: what reads
/// arguments takes `repoURL` for `repo_url`.
pub(super) fn strangers(schema: &Object, arguments: &Value) -> Vec<String> {
    let mut strangers = Vec::new();
    look(schema, schema, arguments, "", &mut strangers);
    strangers
}

fn look(root: &Object, schema: &Object, value: &Value, at: &str, strangers: &mut Vec<String>) {
    let Some(properties) = properties(root, schema) else {
        return;
    };
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{at}{name}");
        match properties
            .iter()
            .find(|(known, _)| is_spelling(known, name))
        {
            Some((_, Value::Object(schema))) => {
                look(root, schema, value, &format!("{path}."), strangers);
            }
            Some(_) => {}
            None => {
                let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                strangers.push(format!("`{path}` is unknown (known: {})", known.join(", ")));
            }
        }
    }
}

/// The properties of an object with fixed ones, behind references and alternatives.
fn properties<'a>(root: &'a Object, schema: &'a Object) -> Option<&'a Object> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        return Some(properties);
    }
    let named = schema.get("$ref").and_then(Value::as_str);
    let named = named.and_then(|name| name.strip_prefix("#/$defs/"));
    if let Some(schema) = named.and_then(|name| root.get("$defs")?.get(name)?.as_object()) {
        return properties(root, schema);
    }
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    alternatives
        .into_iter()
        .flatten()
        .find_map(|alternative| properties(root, alternative.as_object()?))
}

/// Whether somebody may have meant this name: `repoURL` is a spelling of `repo_url`.
pub(super) fn is_spelling(name: &str, written: &str) -> bool {
    bare(name) == bare(written)
}

/// A name without what spellings differ in.
fn bare(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// A schema as clients read it that map schemas onto poorer languages: formats of JSON Schema only, and one type at a time.
pub(super) fn portable(schema: &Object) -> Object {
    let mut schema = Value::Object(schema.clone());
    simplify(&mut schema);
    match schema {
        Value::Object(schema) => schema,
        _ => Object::new(),
    }
}

fn simplify(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Object(schema) => {
            schema.values_mut().for_each(simplify);
            // Sizes of Rust's numbers.
            let format = schema.get("format").and_then(Value::as_str);
            if format.is_some_and(|format| format.starts_with("int") || format.starts_with("uint"))
            {
                schema.remove("format");
            }
            split_nullable(schema);
        }
        _ => {}
    }
}

/// What says something about a value and does not restrict it.
const ABOUT: [&str; 4] = ["title", "description", "default", "deprecated"];

/// `{"type": ["string", "null"]}` as two alternatives.
fn split_nullable(schema: &mut Object) {
    let types = schema.get("type").and_then(Value::as_array);
    let Some(types) = types
        .filter(|types| types.contains(&"null".into()))
        .cloned()
    else {
        return;
    };
    let (about, rules): (Object, Object) = std::mem::take(schema)
        .into_iter()
        .partition(|(word, _)| ABOUT.contains(&word.as_str()));
    let one = |kind: Value| {
        let mut one = if kind == "null" {
            Object::new()
        } else {
            rules.clone()
        };
        one.insert("type".to_owned(), kind);
        Value::Object(one)
    };
    *schema = about;
    schema.insert("anyOf".to_owned(), types.into_iter().map(one).collect());
}

/// The id of a job.
pub(super) fn job_id(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "string",
        "format": "uuid",
        "minLength": 1
    })
}

/// A phase, by name.
pub(super) fn phase(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "string", "enum": ["build", "test", "publish"]})
}

/// A state, by name.
pub(super) fn state(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<crate::job::State>()
}

/// The schema of a type as an object, to be added to.
pub(super) fn object_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Object {
    match T::json_schema(generator).to_value() {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

#[cfg(test)]
mod tests {
    use rmcp::handler::server::tool::schema_for_input;
    use serde_json::json;

    use super::*;
    use crate::api::JobConfig;

    fn found(arguments: &Value) -> Vec<String> {
        let schema = schema_for_input::<JobConfig>().unwrap();
        let strangers = strangers(&schema, arguments);
        let name = |text: String| text.split(" is").next().unwrap().to_owned();
        strangers.into_iter().map(name).collect()
    }

    #[test]
    fn names_that_nobody_knows_are_found_wherever_they_stand() {
        let arguments = json!({
            "repoURL": "x", "owner": "o", "tests": {}, "test": {"command": "make", "entry_point": true},
            "resource_limits": {"build": {"cpus": "1"}, "cpu": "1"}
        });
        assert_eq!(
            found(&arguments),
            ["`tests`", "`test.command`", "`resource_limits.build.cpus`"]
        );
    }

    #[test]
    fn names_that_are_data_are_no_strangers() {
        let arguments = json!({"labels": {"any": "thing"}, "test": {"env": {"HOME": "/"}}, "image_tags": "v1", "test_commands": ["x"]});
        assert_eq!(found(&arguments), [""; 0]);
    }

    #[test]
    fn types_stand_alone_and_formats_are_known_ones() {
        let schema = json!({"properties": {
            "count": {"type": "integer", "format": "uint", "minimum": 0},
            "id": {"type": "string", "format": "uuid"},
            "tags": {"description": "Tags.", "type": ["array", "null"], "items": {"type": "string"}}
        }});
        let portable = portable(schema.as_object().unwrap());
        assert_eq!(
            Value::Object(portable),
            json!({"properties": {
                "count": {"type": "integer", "minimum": 0},
                "id": {"type": "string", "format": "uuid"},
                "tags": {"description": "Tags.", "anyOf": [
                    {"type": "array", "items": {"type": "string"}}, {"type": "null"}
                ]}
            }})
        );
    }

    #[test]
    fn a_stranger_comes_with_the_names_that_are_known_there() {
        let schema = schema_for_input::<JobConfig>().unwrap();
        let said = strangers(&schema, &json!({"test": {"cmds": []}}));
        assert!(
            said[0].starts_with("`test.cmds` is unknown (known: commands, entry_point, "),
            "{said:?}"
        );
    }
}
