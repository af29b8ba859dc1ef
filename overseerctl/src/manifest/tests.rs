//! The manifest against the code: what is sent is described, what is described is sent or read, and nothing of
//! sticky-overseer's is missing.

mod samples;

use std::collections::BTreeSet;

use serde::Serialize;

use super::*;
use crate::{
    api::{Incoming, OutputStream, Phase, RestartMode, TaskState, WorkerState},
    duration::GoDuration,
    outbox::Feature,
    store::Outcome,
    time::Timestamp,
};

const V2_TYPES: &str = "ActionInfo ActionMetrics DisplacePolicy ExcessAction ExcessConfig GlobalMetrics KillOrder ParamSpec \
    PoolConfig PoolInfo QueueConfig QueueOrder RetryPolicy Stream TaskInfo TaskMetrics TaskState WorkerState";

const V2_MESSAGES: &str = "actions dequeued describe error errored exited list manifest manifest_response metrics \
    metrics_response output pool_info pool_info_response pool_updated purge purged queued replay reset restarting set_pool \
    start started stop subscribe subscribed tasks unsubscribe unsubscribed";

const V2_OPERATIONS: &str = "describe_actions get_manifest get_metrics get_pool_info list_tasks purge_queue replay_task \
    reset_task set_pool_limits start_task stop_task subscribe_task unsubscribe_task";

/// What v2 sends without describing it, or describes otherwise; in this its manifest is left as it is.
const GAPS_OF_V2: [&str; 12] = [
    "actions/actions/retry/restart_jitter: not described",
    "actions/actions/task_pool/queue/displace: no object",
    "pool_info_response/pool/queue_items/forced: not described",
    "pool_info_response/pool/queue_items/position: not described",
    "pool_info_response/pool/queue_items/queued_at: not described",
    "pool_updated/pool/queue_items/forced: not described",
    "pool_updated/pool/queue_items/position: not described",
    "pool_updated/pool/queue_items/queued_at: not described",
    "started/id: not described",
    "tasks/tasks/retry_policy/restart_jitter: not described",
    // An action that says nothing of a parameter has null for it.
    "actions/actions/params/free: no object",
    // The type of a manifest is just "object".
    "manifest_response/manifest: no fields to compare",
];

// === The document ===

#[test]
fn the_head_is_that_of_v2_with_the_version_of_this_program() {
    let document = manifest(&[]);
    let keys: Vec<_> = document
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "$schema",
        "protocol",
        "version",
        "description",
        "transport",
        "types",
        "messages",
        "operations",
        "actions",
    ];
    assert_eq!(keys, expected);
    assert_eq!(document["protocol"], "sticky-overseer");
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["transport"],
        json!({"path": "/ws", "type_field": "type", "correlation_field": "id"})
    );
    assert_eq!(document["actions"], json!([]));
}

#[test]
fn actions_come_by_name_and_as_describe_shows_them() {
    let [mut b, mut a] = [samples::action(), samples::action()];
    "a".clone_into(&mut a.name);
    "b".clone_into(&mut b.name);
    assert_eq!(manifest(&[b.clone(), a.clone()])["actions"], json!([a, b]));
}

#[test]
fn what_is_not_an_extension_is_exactly_what_v2_has() {
    let parts = [
        (&*TYPES, V2_TYPES),
        (&*MESSAGES, V2_MESSAGES),
        (&*OPERATIONS, V2_OPERATIONS),
    ];
    for (part, names) in parts {
        let old: BTreeSet<_> = entries(part)
            .filter(|(_, entry)| entry["extension"] != true)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(old, names.split_whitespace().collect());
    }
}

#[test]
fn every_reference_leads_to_a_type() {
    let document = manifest(&[]);
    let references: Vec<_> = values_of("$ref", &document).collect();
    assert!(references.len() > 30);
    for reference in references {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn everything_is_described() {
    for part in [&*TYPES, &*MESSAGES, &*OPERATIONS] {
        for (name, entry) in entries(part) {
            assert_ne!(
                entry["description"].as_str().unwrap_or_default(),
                "",
                "{name}"
            );
            for (field, spec) in
                entries(&entry["fields"]).filter(|(_, spec)| spec["ui_hint"] != "hidden")
            {
                assert_ne!(
                    spec["description"].as_str().unwrap_or_default(),
                    "",
                    "{name}.{field}"
                );
            }
        }
    }
}

#[test]
fn every_message_has_its_direction_and_hides_its_type() {
    for (key, message) in entries(&MESSAGES) {
        let kind = &message["fields"]["type"];
        if message["direction"] == "c2s" {
            let expected =
                json!({"type": "string", "required": true, "ui_hint": "hidden", "default": key});
            assert_eq!((kind, message.get("delivery")), (&expected, None), "{key}");
        } else {
            assert_eq!(message["direction"], "s2c", "{key}");
            assert_eq!(
                *kind,
                json!({"type": "string", "ui_hint": "hidden"}),
                "{key}"
            );
            let delivery = message["delivery"].as_str().unwrap();
            assert!(
                ["direct", "broadcast", "broadcast_subscribers"].contains(&delivery),
                "{key}: {delivery}"
            );
        }
    }
}

#[test]
fn features_are_those_that_hello_grants_and_mark_extensions_only() {
    let known = Feature::ALL.map(|(word, _)| word);
    assert_eq!(TYPES["Feature"]["values"], json!(known));
    let marked: Vec<_> = [&*TYPES, &*MESSAGES, &*OPERATIONS]
        .into_iter()
        .flat_map(entries)
        .filter(|(_, entry)| entry.get("feature").is_some())
        .collect();
    for (name, entry) in &marked {
        assert_eq!(entry["extension"], true, "{name}");
    }
    let per_operation = values_of("with_features", &OPERATIONS)
        .flat_map(entries)
        .map(|(word, _)| word);
    let used: BTreeSet<_> = marked
        .iter()
        .map(|(_, entry)| entry["feature"].as_str().unwrap())
        .chain(per_operation)
        .collect();
    assert_eq!(used, BTreeSet::from(known));
}

// === Operations ===

#[test]
fn every_request_belongs_to_one_operation() {
    let mut sent: Vec<_> = entries(&OPERATIONS)
        .map(|(_, operation)| operation["send"].as_str().unwrap())
        .collect();
    let mut requests: Vec<_> = entries(&MESSAGES)
        .filter(|(_, message)| message["direction"] == "c2s")
        .map(|(key, _)| key)
        .collect();
    sent.sort_unstable();
    requests.sort_unstable();
    assert_eq!(sent, requests);
}

#[test]
fn operations_bring_forth_every_message_of_the_hub_and_no_other() {
    let lists = ["success", "error", "broadcast", "broadcast_subscribers"];
    let named: BTreeSet<_> = lists
        .into_iter()
        .flat_map(|list| values_of(list, &OPERATIONS))
        .flat_map(|names| names.as_array().unwrap())
        .map(|name| reply_key(name.as_str().unwrap()))
        .collect();
    let sent = entries(&MESSAGES)
        .filter(|(_, message)| message["direction"] == "s2c")
        .map(|(key, _)| key.to_owned());
    assert_eq!(named, sent.collect());
}

// === Messages of the hub ===

#[test]
fn every_message_that_is_sent_is_described_and_the_other_way_round() {
    let sent: BTreeSet<_> = samples::messages()
        .iter()
        .map(|message| key_of(&json!(message)))
        .collect();
    let described = entries(&MESSAGES).filter(|(_, message)| message["direction"] == "s2c");
    assert_eq!(sent, described.map(|(key, _)| key.to_owned()).collect());
}

#[test]
fn messages_have_the_fields_that_are_described_and_differ_only_where_v2_does() {
    let mut faults = BTreeSet::new();
    for message in samples::messages() {
        let message = json!(message);
        let key = key_of(&message);
        compare_fields(&MESSAGES[&key]["fields"], &message, &key, &mut faults);
    }
    assert_eq!(faults, GAPS_OF_V2.map(str::to_owned).into());
}

#[test]
fn enumerations_have_every_word() {
    use Phase::{Delay, Done, Errored, Queued, Running, Settling, Starting, Stopped, Stopping};
    assert_words(
        "TaskState",
        [
            TaskState::Active,
            TaskState::Stopped,
            TaskState::Errored,
            TaskState::Queued,
        ],
    );
    assert_words("WorkerState", [WorkerState::Running, WorkerState::Exited]);
    assert_words("Stream", [OutputStream::Stdout, OutputStream::Stderr]);
    assert_words(
        "Phase",
        [
            Queued, Starting, Running, Stopping, Settling, Delay, Done, Stopped, Errored,
        ],
    );
    assert_words(
        "RestartMode",
        [
            RestartMode::Always,
            RestartMode::OnFailure,
            RestartMode::Never,
        ],
    );
    assert_words(
        "Outcome",
        [
            Outcome::Running,
            Outcome::Exited,
            Outcome::Lost,
            Outcome::Failed,
        ],
    );
}

fn assert_words<const N: usize>(name: &str, variants: [impl Serialize; N]) {
    assert_eq!(
        TYPES[name]["values"],
        json!(variants.map(|variant| json!(variant)).to_vec()),
        "{name}"
    );
}

// === Messages of clients ===

#[test]
fn every_field_of_a_request_is_read_in_its_type() {
    for (key, message) in entries(&MESSAGES).filter(|(_, message)| message["direction"] == "c2s") {
        for (name, field) in entries(&message["fields"]) {
            assert_ne!(
                read(name, &example(field)),
                Incoming::default(),
                "{key}.{name}"
            );
        }
    }
}

#[test]
fn every_part_of_a_field_is_read_in_its_type() {
    for (field, kind) in [("retry_policy", "RetryPolicy"), ("excess", "ExcessConfig")] {
        let untouched = read(field, &json!({}));
        for (name, part) in entries(&TYPES[kind]["fields"]) {
            assert_ne!(
                read(field, &json!({name: example(part)})),
                untouched,
                "{field}.{name}"
            );
        }
    }
}

fn read(field: &str, value: &Value) -> Incoming {
    Incoming::decode(json!({field: value}).to_string().as_bytes()).unwrap()
}

/// A value that fits a field and is not what a request has without it.
fn example(field: &Value) -> Value {
    let spec = resolved(field);
    match type_word(field) {
        "string" | "uuid" => json!("x"),
        "timestamp" => json!("2026-01-01T00:00:00Z"),
        "duration" => json!("1s"),
        "integer" | "number" => json!(2),
        "boolean" => json!(true),
        "enum" => spec["values"].as_array().unwrap().last().unwrap().clone(),
        "array" => json!([example(&spec["items"])]),
        "map" => json!({"k": example(&spec["value_type"])}),
        "object" => entries(&spec["fields"])
            .map(|(name, field)| (name.to_owned(), example(field)))
            .collect(),
        other => panic!("{other:?} is no type of the manifest"),
    }
}

// === Comparing ===

/// Notes where a value is not what its field describes.
fn compare(field: &Value, value: &Value, place: &str, faults: &mut BTreeSet<String>) {
    let spec = resolved(field);
    let kind = type_word(field);
    let text = value.as_str();
    let fits = match kind {
        "string" | "uuid" => text.is_some(),
        "timestamp" => text.is_some_and(|text| text.parse::<Timestamp>().is_ok()),
        "duration" => text.is_some_and(|text| text.parse::<GoDuration>().is_ok()),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "enum" => spec["values"].as_array().unwrap().contains(value),
        "array" => value.is_array(),
        "map" | "object" => value.is_object(),
        other => panic!("{other:?} is no type of the manifest"),
    };
    if !fits {
        faults.insert(format!("{place}: no {kind}"));
        return;
    }
    match kind {
        "array" => value
            .as_array()
            .unwrap()
            .iter()
            .for_each(|item| compare(&spec["items"], item, place, faults)),
        "map" => entries(value).for_each(|(key, item)| {
            compare(&spec["value_type"], item, &format!("{place}/{key}"), faults);
        }),
        "object" => compare_fields(&spec["fields"], value, place, faults),
        _ => {}
    }
}

/// Notes fields that are not described, and described ones that are not there.
fn compare_fields(fields: &Value, object: &Value, place: &str, faults: &mut BTreeSet<String>) {
    if fields.is_null() {
        faults.insert(format!("{place}: no fields to compare"));
        return;
    }
    for (name, value) in entries(object) {
        let place = format!("{place}/{name}");
        match fields.get(name) {
            Some(field) => compare(field, value, &place, faults),
            None => _ = faults.insert(format!("{place}: not described")),
        }
    }
    for (name, _) in entries(fields).filter(|(name, _)| object.get(name).is_none()) {
        faults.insert(format!("{place}/{name}: not sent"));
    }
}

fn resolved(field: &Value) -> &Value {
    let name = field["$ref"]
        .as_str()
        .map(|reference| reference.trim_start_matches("#/types/"));
    name.map_or(field, |name| &TYPES[name])
}

/// Where the manifest describes a message of the hub.
fn key_of(message: &Value) -> String {
    reply_key(message["type"].as_str().unwrap())
}

/// Replies that are called like a request have a key of their own.
fn reply_key(kind: &str) -> String {
    if message(kind)["direction"] == "c2s" {
        format!("{kind}_response")
    } else {
        kind.to_owned()
    }
}

/// Members of an object; none of anything else.
fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
}

/// All values under a key, however deep.
fn values_of<'a>(key: &'a str, value: &'a Value) -> Box<dyn Iterator<Item = &'a Value> + 'a> {
    match value {
        Value::Object(members) => {
            let deeper = members
                .values()
                .flat_map(move |member| values_of(key, member));
            Box::new(members.get(key).into_iter().chain(deeper))
        }
        Value::Array(items) => Box::new(items.iter().flat_map(move |item| values_of(key, item))),
        _ => Box::new(std::iter::empty()),
    }
}
