//! What tools say about themselves, and whether they keep to it.

use super::*;

async fn tools(office: &Office) -> Vec<Value> {
    let answer = office.ask("tools/list", &json!({})).await;
    answer.result()["tools"].as_array().unwrap().clone()
}

/// What is wrong with a schema of JSON Schema 2020-12, as far as generated ones can be wrong.
fn faults(root: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
    const TYPES: [&str; 7] = [
        "null", "boolean", "object", "array", "number", "string", "integer",
    ];
    let Some(map) = schema.as_object() else {
        if !schema.is_boolean() {
            found.push(format!("{at}: no schema"));
        }
        return;
    };
    let types = match &map.get("type") {
        None => vec![],
        Some(Value::Array(types)) => types.clone(),
        Some(one) => vec![(*one).clone()],
    };
    if !types
        .iter()
        .all(|kind| kind.as_str().is_some_and(|kind| TYPES.contains(&kind)))
    {
        found.push(format!("{at}: type {types:?}"));
    }
    if map.contains_key("nullable") {
        found.push(format!("{at}: nullable is of OpenAPI"));
    }
    if let Some(name) = map.get("$ref").and_then(Value::as_str)
        && root.pointer(name.trim_start_matches('#')).is_none()
    {
        found.push(format!("{at}: {name} is nowhere"));
    }
    for group in ["properties", "$defs"] {
        for (name, schema) in map
            .get(group)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            faults(root, schema, &format!("{at}/{group}/{name}"), found);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(schema) = map.get(name) {
            faults(root, schema, &format!("{at}/{name}"), found);
        }
    }
    for group in ["anyOf", "oneOf", "allOf"] {
        for schema in map
            .get(group)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            faults(root, schema, &format!("{at}/{group}"), found);
        }
    }
}

/// Whether a value is as a schema says.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(map) = schema.as_object() else {
        return schema != &json!(false);
    };
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => value.is_number(),
    };
    map.iter().all(|(word, rule)| match word.as_str() {
        "type" => match rule {
            Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
            kind => is(kind.as_str().unwrap()),
        },
        "$ref" => {
            let target = rule.as_str().unwrap().trim_start_matches('#');
            fits(root, root.pointer(target).unwrap(), value)
        }
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array()
                .unwrap()
                .iter()
                .all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            let rules = rule.as_object().unwrap();
            object
                .iter()
                .all(|(name, value)| rules.get(name).is_none_or(|rule| fits(root, rule, value)))
        }),
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| fits(root, rule, item))),
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| fits(root, rule, value)),
        "oneOf" => {
            rule.as_array()
                .unwrap()
                .iter()
                .filter(|rule| fits(root, rule, value))
                .count()
                == 1
        }
        "allOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .all(|rule| fits(root, rule, value)),
        _ => true,
    })
}

#[tokio::test]
async fn tools_come_in_the_same_order_with_valid_schemas() {
    let office = Office::open();
    let listed = tools(&office).await;
    assert_eq!(listed, tools(&office).await);
    let names: Vec<&str> = listed
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "submitJob",
            "waitJob",
            "getStatus",
            "getLogs",
            "killJob",
            "listJobs",
            "getHistory",
            "cleanup",
            "purgeFailedJob"
        ]
    );
    for tool in &listed {
        for name in ["inputSchema", "outputSchema"] {
            let schema = &tool[name];
            assert_eq!(schema["type"], "object", "{}: {name}", tool["name"]);
            let mut found = Vec::new();
            faults(schema, schema, "", &mut found);
            assert!(found.is_empty(), "{} {name}: {found:#?}", tool["name"]);
        }
    }
}

#[tokio::test]
async fn every_argument_is_described_and_the_originals_are_there() {
    let office = Office::open();
    for tool in tools(&office).await {
        let properties = tool["inputSchema"]["properties"].as_object().unwrap();
        for (name, property) in properties {
            assert!(
                property["description"].is_string(),
                "{}: {name}",
                tool["name"]
            );
        }
        let required = &tool["inputSchema"]["required"];
        let (arguments, needed): (&[&str], Value) = match tool["name"].as_str().unwrap() {
            "submitJob" => (
                &[
                    "git_ref",
                    "git_credentials_path",
                    "dockerfile_path",
                    "image_tags",
                    "registry_credentials_path",
                    "test",
                    "test_commands",
                    "test_entry_point",
                    "resource_limits",
                    "webhook_url",
                    "webhook_secret",
                    "webhook_on_success",
                    "webhook_on_failure",
                    "webhook_headers",
                ],
                json!(["owner", "repo_url", "image_name", "registry_url"]),
            ),
            "getHistory" => (&["owner", "limit"], json!(null)),
            "listJobs" => (&["owner", "status"], json!(null)),
            "getLogs" => (
                &[
                    "phase",
                    "tail",
                    "cursor",
                    "grep",
                    "errors_only",
                    "max_bytes",
                ],
                json!(["job_id"]),
            ),
            _ => (&[], json!(["job_id"])),
        };
        assert_eq!(required, &needed, "{}", tool["name"]);
        for name in arguments {
            assert!(properties.contains_key(*name), "{}: {name}", tool["name"]);
        }
    }
}

#[tokio::test]
async fn what_looks_says_so_and_what_removes_says_so() {
    let office = Office::open();
    for tool in tools(&office).await {
        let looks = matches!(
            tool["name"].as_str().unwrap(),
            "waitJob" | "getStatus" | "getLogs" | "listJobs" | "getHistory"
        );
        let again = tool["name"] != "submitJob";
        let says = &tool["annotations"];
        assert_eq!(
            (
                &says["readOnlyHint"],
                &says["destructiveHint"],
                &says["idempotentHint"]
            ),
            (&json!(looks), &json!(!looks), &json!(again)),
            "{}",
            tool["name"]
        );
    }
}

#[tokio::test]
async fn answers_are_as_their_schemas_say() {
    let office = Office::open();
    let listed = tools(&office).await;
    let done = office.ended("app", State::Succeeded).await.to_string();
    let failed = office.ended("broken", State::Failed).await.to_string();
    let busy = office.ended("endless", State::Building).await.to_string();
    let mut calls = vec![("submitJob", arguments("other"))];
    for id in [&done, &failed, &busy] {
        calls.push(("getStatus", json!({"job_id": id, "include_config": true})));
        calls.push(("waitJob", json!({"job_id": id, "timeout_s": 0})));
        calls.push(("getLogs", json!({"job_id": id})));
        calls.push(("getLogs", json!({"job_id": id, "phase": "publish"})));
    }
    for id in [&busy, &failed] {
        calls.push(("killJob", json!({"job_id": id})));
    }
    calls.extend([
        ("listJobs", json!({})),
        ("listJobs", json!({"limit": 1})),
        ("getHistory", json!({})),
        ("getHistory", json!({"owner": "nobody"})),
        ("cleanup", json!({"job_id": done})),
        ("purgeFailedJob", json!({"job_id": failed})),
    ]);
    for (name, arguments) in calls {
        let tool = listed.iter().find(|tool| tool["name"] == name).unwrap();
        assert!(
            fits(&tool["inputSchema"], &tool["inputSchema"], &arguments),
            "{name}: {arguments}"
        );
        let answer = office.answer(name, arguments).await;
        assert!(
            fits(&tool["outputSchema"], &tool["outputSchema"], &answer),
            "{name}: {answer}\n{}",
            tool["outputSchema"]
        );
    }
}

#[test]
fn what_does_not_fit_is_noticed() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": ["string", "null"]}}});
    assert!(fits(&schema, &schema, &json!({"a": null})));
    for wrong in [json!({}), json!({"a": 7}), json!([])] {
        assert!(!fits(&schema, &schema, &wrong), "{wrong}");
    }
    let mut found = Vec::new();
    let schema = json!({"properties": {"a": {"type": ""}, "b": {"$ref": "#/$defs/B"}}});
    faults(&schema, &schema, "", &mut found);
    assert_eq!(found.len(), 2);
}
