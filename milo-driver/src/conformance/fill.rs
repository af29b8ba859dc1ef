//! A `config {}` block as an agent sends it: every option of the schema is there, by its default or nil.

use rmpv::Value;
use serde_json::Map;

use crate::proto::hclspec::{Spec, spec::Block};

/// The block in msgpack. Without a schema it is what was given.
pub(super) fn block(schema: Option<&Spec>, given: &Map<String, serde_json::Value>) -> Vec<u8> {
    let given_values = given
        .iter()
        .map(|(name, value)| (name.as_str().into(), plain(value)));
    let mut members: Vec<(Value, Value)> = given_values.collect();
    if let Some(Block::Object(object)) = schema.and_then(|schema| schema.block.as_ref()) {
        let missing = object
            .attributes
            .iter()
            .filter(|(name, _)| !given.contains_key(*name));
        members.extend(missing.map(|(name, spec)| (name.as_str().into(), absent(spec))));
    }
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = rmpv::encode::write_value(&mut bytes, &Value::Map(members));
    bytes
}

/// What stands for an option that was not given.
fn absent(spec: &Spec) -> Value {
    match &spec.block {
        Some(Block::BlockList(_) | Block::BlockSet(_) | Block::Array(_)) => {
            Value::Array(Vec::new())
        }
        Some(Block::BlockMap(_)) => Value::Map(Vec::new()),
        // Literals that are more than values would need an interpreter; nil is what others get.
        Some(Block::Literal(literal)) => {
            let value = serde_json::from_str(&literal.value);
            value.map_or(Value::Nil, |value| plain(&value))
        }
        Some(Block::Default(default)) => default.default.as_deref().map_or(Value::Nil, absent),
        _ => Value::Nil,
    }
}

fn plain(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(flag) => Value::Boolean(*flag),
        serde_json::Value::Number(number) => whole(number),
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        serde_json::Value::Object(map) => Value::Map(
            map.iter()
                .map(|(name, value)| (name.as_str().into(), plain(value)))
                .collect(),
        ),
    }
}

/// Whole numbers are integers, however they are written.
#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be whole and in range"
)]
fn whole(number: &serde_json::Number) -> Value {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole.into(),
        (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => (float as i64).into(),
        (None, float) => float.map_or(Value::Nil, Value::F64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{agent_options, options};

    #[test]
    fn a_filled_block_of_nothing_is_the_default() {
        let bytes = block(Some(&agent_options::schema()), &Map::new());
        assert_eq!(
            agent_options::decode(&bytes),
            Ok(crate::config::Config::default())
        );
        let bytes = block(Some(&options::schema()), &Map::new());
        assert_eq!(options::decode(&bytes), Ok(options::TaskOptions::default()));
    }

    #[test]
    fn what_is_given_goes_before() {
        let serde_json::Value::Object(given) =
            json!({"greeting": "hi", "pids_limit": 7.0, "args": ["a"]})
        else {
            panic!("not an object");
        };
        let options = options::decode(&block(Some(&options::schema()), &given)).unwrap();
        assert_eq!(
            (options.greeting.as_deref(), options.pids_limit),
            (Some("hi"), Some(7))
        );
        assert_eq!(options.args, ["a"]);
    }
}
