//! The manifest: the protocol described for programs, as sticky-overseer v2 describes it, with this hub's extensions.
//!
//! What is said stands in data files, `manifest/{types,messages,operations}.json`; here the parts that depend on the
//! daemon are added, its version and its actions. Nothing here knows how messages are encoded or handled.
//!
//! # Form
//!
//! Keys, words and shapes are sticky-overseer's, including what it leaves out (`started.id`, `restart_jitter`) and its
//! object for `displace`, which in messages is a word; the descriptions say so. Replies that share their type with a
//! request are found under that type and `_response`, while operations name the bare type.
//!
//! Whatever v2 does not have carries `"extension": true` and, if `hello` has a word for it, that word as `"feature"`. What
//! operations of v2 bring forth only for a connection with a feature stands in `responses.with_features`, by feature, so
//! that everything else in `responses` is true of every connection.

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::api::ActionInfo;

static TYPES: LazyLock<Value> = LazyLock::new(|| part(include_str!("manifest/types.json")));
static MESSAGES: LazyLock<Value> = LazyLock::new(|| part(include_str!("manifest/messages.json")));
static OPERATIONS: LazyLock<Value> =
    LazyLock::new(|| part(include_str!("manifest/operations.json")));

/// The document for a hub with these actions, which come out by name.
pub fn manifest(actions: &[ActionInfo]) -> Value {
    json!({
        "$schema": "https://github.com/whisper-darkly/sticky-bb/raw/main/docs/ws-manifest.schema.json",
        "protocol": "sticky-overseer",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Starts processes as configured actions, keeps them under limits and retry policies, and tells \
                        its clients what they write and how they end",
        "transport": {"path": "/ws", "type_field": "type", "correlation_field": "id"},
        "types": *TYPES,
        "messages": *MESSAGES,
        "operations": *OPERATIONS,
        "actions": by_name(actions),
    })
}

/// The actions in the order in which documents list them.
pub(crate) fn by_name(actions: &[ActionInfo]) -> Vec<&ActionInfo> {
    let mut sorted: Vec<_> = actions.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// The description of a message by its key; null if there is none.
pub(crate) fn message(key: &str) -> &'static Value {
    &MESSAGES[key]
}

/// The type of a field in one word, that of the type it refers to if it does; empty if it has none.
pub(crate) fn type_word(field: &Value) -> &str {
    let named = field["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/types/"));
    named.map_or(field, |name| &TYPES[name])["type"]
        .as_str()
        .unwrap_or_default()
}

fn part(text: &str) -> Value {
    serde_json::from_str(text)
        .unwrap_or_else(|error| unreachable!("a part of the manifest is no JSON: {error}"))
}
