//! The wire of sticky-overseer v2, as transcripts: framing, checks and their order, texts, shapes, omissions.

use std::{os::unix::fs::PermissionsExt, path::Path};

use runyard_common::testing;
use serde_json::json;

use crate::hub::{Hub, keys, types};

#[test]
fn a_frame_is_one_compact_object_that_ends_in_a_line_feed() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.send_text(r#"{"type":"purge","id":"1"}"#);
    assert_eq!(
        client.next_text().unwrap(),
        "{\"type\":\"purged\",\"id\":\"1\",\"count\":0}\n"
    );
}

#[test]
fn only_the_first_value_of_a_text_or_binary_frame_counts() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.send_binary(br#"{"type":"purge","id":"1"}"#);
    assert_eq!(client.next()["id"], "1");
    client.send_text(r#" {"type":"purge","id":"2"} {"type":"purge","id":"3"} garbage"#);
    assert_eq!(client.next()["id"], "2");
    client.send_text(r#"{"type":"purge","id":"4"}"#);
    assert_eq!(
        client.next()["id"],
        "4",
        "nothing was read from the rest of the frame before"
    );
}

#[test]
fn keys_match_in_any_case_the_last_of_several_wins_and_null_is_absent() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.send_text(r#"{"TYPE":"purge","Id":"x","id":"1","ID":null,"unknown":{"a":[1]}}"#);
    assert_eq!(client.next()["id"], "1");
    client.send_text(
        r#"{"type":"start","id":"2","action":"echo","task_id":null,"params":{"msg":null}}"#,
    );
    let started = client.until(|message| message["id"] == "2");
    assert_eq!(started["type"], "started");
    assert_eq!(
        started["task_id"].as_str().unwrap().len(),
        36,
        "null is no id, so one was made up"
    );
    assert_eq!(
        client.until(|message| message["type"] == "output")["data"],
        "",
        "null is the empty string"
    );
}

#[test]
fn an_undecodable_message_gets_an_error_and_ends_the_connection() {
    let hub = Hub::usual();
    for text in [
        "nonsense",
        r#"{"type":"list","id":5}"#,
        "[]",
        r#"{"type":"start","id":"1","action":"echo","params":{"msg":1}}"#,
        r#"{"type":"start","id":"1","action":"echo","retry_policy":{"restart_delay":"5"}}"#,
    ] {
        let mut client = hub.client();
        client.send_text(text);
        let error = client.next();
        assert_eq!(error["type"], "error", "{text}");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .starts_with("invalid message: "),
            "{error}"
        );
        assert!(client.is_closed(), "{text}");
    }
    assert_eq!(
        hub.client().call("list", &json!({}))["type"],
        "tasks",
        "the daemon is unharmed"
    );
}

#[test]
fn the_id_is_checked_before_the_type() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.send_text(r#"{"type":"nope"}"#);
    assert_eq!(
        client.next_text().unwrap(),
        "{\"type\":\"error\",\"id\":\"\",\"message\":\"id is required\"}\n"
    );
    client.send_text(r#"{"type":"nope","id":"7"}"#);
    assert_eq!(
        client.next_text().unwrap(),
        "{\"type\":\"error\",\"id\":\"7\",\"message\":\"unknown message type: nope\"}\n"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn every_refusal_has_its_text() {
    let dir = testing::tempdir();
    for (name, mode) in [("noise", 0o755), ("locked", 0o644)] {
        let path = dir.path().join(name);
        std::fs::write(&path, "neither a program nor a script").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (noise, locked) = (dir.path().join("noise"), dir.path().join("locked"));
    let exec_error = |path: &Path, text: &str| {
        format!("pool rejected task: fork/exec {}: {text}", path.display())
    };
    let (no_program, no_permission) = (
        exec_error(&noise, "exec format error"),
        exec_error(&locked, "permission denied"),
    );
    let hub = Hub::start(&format!(
        r#"
actions:
  noise: {{type: exec, config: {{entrypoint: {}}}}}
  locked: {{type: exec, config: {{entrypoint: {}}}}}
  checked:
    type: exec
    config:
      entrypoint: echo
      parameters: {{c: {{default: "x", validate: "value == 'x'"}}, r: null, b: {{default: "", validate: "int(value) > 0"}}}}
  nope: {{type: exec, config: {{entrypoint: nope-nope}}}}
  gone: {{type: exec, config: {{entrypoint: /no/such}}}}
  broken: {{type: exec, config: {{entrypoint: echo, command: ["[[.x"]}}}}
  empty: {{type: exec, config: {{entrypoint: "[[.x]]", parameters: {{x: {{default: ""}}}}}}}}
"#,
        noise.display(),
        locked.display()
    ));
    let mut client = hub.client();
    for (kind, fields, text) in [
        ("start", json!({}), "action is required"),
        (
            "start",
            json!({"action": "a\u{1}\""}),
            r#"unknown action: "a\x01\"""#,
        ),
        (
            "start",
            json!({"action": "checked"}),
            r#"validation error: exec: required parameter "r" is missing"#,
        ),
        (
            "start",
            json!({"action": "checked", "params": {"r": "", "b": "1", "c": "q"}}),
            r#"validation error: exec: parameter "c" failed validation (value: "q")"#,
        ),
        (
            "start",
            json!({"action": "nope"}),
            r#"pool rejected task: exec: "nope-nope": executable file not found in $PATH"#,
        ),
        (
            "start",
            json!({"action": "gone"}),
            "pool rejected task: fork/exec /no/such: no such file or directory",
        ),
        ("start", json!({"action": "noise"}), &no_program),
        ("start", json!({"action": "locked"}), &no_permission),
        (
            "start",
            json!({"action": "broken"}),
            "pool rejected task: exec: failed to render command[0] template: template parse error: template: :1: unclosed action",
        ),
        (
            "start",
            json!({"action": "empty"}),
            "pool rejected task: exec: entrypoint must not be empty after template rendering",
        ),
        ("stop", json!({}), "task_id is required"),
        ("stop", json!({"task_id": "x"}), "task not found"),
        ("reset", json!({}), "task_id is required"),
        ("reset", json!({"task_id": "x"}), "task not found"),
        (
            "list",
            json!({"since": "yesterday"}),
            "invalid since timestamp",
        ),
        ("replay", json!({}), "task_id is required"),
        ("replay", json!({"task_id": "x"}), "task not found"),
        ("subscribe", json!({}), "task_id required for subscribe"),
        ("unsubscribe", json!({}), "task_id required for unsubscribe"),
        ("describe", json!({"action": "x"}), r#"unknown action: "x""#),
    ] {
        let reply = client.call(kind, &fields);
        assert_eq!(
            (&reply["type"], reply["message"].as_str()),
            (&json!("error"), Some(text)),
            "{kind} {fields}"
        );
    }
    let evaluation = client.call(
        "start",
        &json!({"action": "checked", "params": {"r": "", "b": "z"}}),
    );
    let text = evaluation["message"].as_str().unwrap();
    assert!(
        text.starts_with(
            r#"validation error: exec: CEL evaluation error for parameter "b": CEL eval error: "#
        ),
        "{text}"
    );
}

#[test]
fn messages_have_their_keys_in_the_order_of_the_wire() {
    let hub = Hub::usual();
    let mut client = hub.client();
    let id = client.ask(
        "start",
        &json!({"action": "echo", "task_id": "t", "params": {"msg": "a<b>&c"}}),
    );
    let messages = client.all_until(|message| message["type"] == "exited");
    assert_eq!(types(&messages), ["started", "output", "exited"]);
    assert_eq!(keys(&messages[0]), ["type", "id", "task_id", "pid", "ts"]);
    assert_eq!(messages[0]["id"], id.as_str());
    assert_eq!(
        keys(&messages[1]),
        ["type", "task_id", "pid", "stream", "data", "ts", "seq"]
    );
    assert_eq!(
        (&messages[1]["data"], &messages[1]["seq"]),
        (&json!("a<b>&c"), &json!(1))
    );
    assert_eq!(
        keys(&messages[2]),
        ["type", "task_id", "pid", "exit_code", "intentional", "ts"]
    );
    let row = client.row("t").unwrap();
    assert_eq!(
        keys(&row),
        [
            "task_id",
            "action",
            "params",
            "state",
            "current_pid",
            "worker_state",
            "restart_count",
            "created_at",
            "last_started_at",
            "last_exited_at",
            "last_exit_code",
            "phase"
        ]
    );
    assert_eq!(
        (&row["state"], &row["worker_state"], &row["last_exit_code"]),
        (&json!("active"), &json!("exited"), &json!(0))
    );
    assert_eq!(row["params"], json!({"msg": "a<b>&c"}));
    for key in ["created_at", "last_started_at", "last_exited_at"] {
        assert!(row[key].as_str().unwrap().ends_with('Z'), "{key}");
    }
}

#[test]
fn metrics_of_nothing_known_have_no_numbers() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.send_text(r#"{"type":"metrics","id":"9","task_id":"x","action":"echo"}"#);
    assert_eq!(
        client.next_text().unwrap(),
        "{\"type\":\"metrics\",\"id\":\"9\"}\n"
    );
    let global = client.call("metrics", &json!({}));
    assert_eq!(
        keys(&global["global"]),
        [
            "tasks_started",
            "tasks_completed",
            "tasks_errored",
            "tasks_restarted",
            "total_output_lines",
            "enqueued",
            "dequeued",
            "displaced",
            "expired"
        ]
    );
}

#[test]
fn metrics_count_tasks_actions_and_the_daemon() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "echo a; echo b >&2; exit 3");
    client.event("exited", "t");
    client.row_when("t", |row| row["phase"] == "done");
    let task = client.call("metrics", &json!({"task_id": "t", "action": "echo"}));
    assert_eq!(
        keys(&task),
        ["type", "id", "task"],
        "the task wins over the action"
    );
    assert_eq!(
        (
            &task["task"]["output_lines"],
            &task["task"]["last_exit_code"]
        ),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        client.call("metrics", &json!({"action": "sh"}))["action"]["total_output_lines"],
        2
    );
    assert_eq!(
        client.call("metrics", &json!({}))["global"]["tasks_completed"],
        1
    );
}

#[test]
fn describe_shows_actions_as_configured() {
    let hub = Hub::start(
        r#"
retry: {restart_delay: 1s, restart_jitter: 2s, error_window: 1m, error_threshold: 3}
actions:
  a:
    type: exec
    meta: {description: "an action"}
    dedupe_key: [k]
    task_pool: {limit: 1, queue: {enabled: yes, size: 2}}
    config: {entrypoint: echo, parameters: {d: {default: "1"}, m: null}}
  b: {type: exec, retry: {restart_delay: 5s}, config: {entrypoint: echo}}
"#,
    );
    let mut client = hub.client();
    let actions = client.call("describe", &json!({}))["actions"].clone();
    let mut first = actions[0].clone();
    assert_eq!(
        first.to_string(),
        concat!(
            r#"{"name":"a","type":"exec","description":"an action","params":{"d":{"default":"1"},"m":null},"#,
            r#""task_pool":{"limit":1,"queue":{"enabled":true,"size":2,"order":"","max_age":0,"displace":""},"#,
            r#""excess":{"action":"","order":"","grace":0}},"#,
            r#""retry":{"restart_delay":"1s","restart_jitter":"2s","error_window":"1m0s","error_threshold":3},"dedupe_key":["k"]}"#
        )
    );
    assert_eq!(
        actions[1]["retry"]["restart_delay"], "5s",
        "the action's own"
    );
    assert_eq!(
        actions[1]["retry"]["error_threshold"], 3,
        "the global one's"
    );
    first.as_object_mut().unwrap().remove("name");
    assert_eq!(
        client.call("describe", &json!({"action": "a"}))["actions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn invalid_bytes_become_one_replacement_each_and_control_characters_survive() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        r"printf 'a\342\202z\377\nnul\000tab\t\r\n\nlast'",
    );
    let lines: Vec<_> = client.all_until(|message| message["type"] == "exited");
    let data: Vec<_> = lines
        .iter()
        .filter(|message| message["type"] == "output")
        .map(|m| m["data"].as_str().unwrap())
        .collect();
    assert_eq!(
        data,
        ["a\u{fffd}\u{fffd}z\u{fffd}", "nul\0tab\t", "", "last"]
    );
}

#[test]
fn subscriptions_need_no_task_and_decide_who_hears_what() {
    let hub = Hub::usual();
    let (mut starter, mut listener, mut bystander) = (hub.client(), hub.client(), hub.client());
    assert_eq!(
        keys(&listener.call("subscribe", &json!({"task_id": "t"}))),
        ["type", "id", "task_id"]
    );
    let id = starter.ask(
        "start",
        &json!({"action": "echo", "task_id": "t", "params": {"msg": "x"}}),
    );
    let heard = listener.all_until(|message| message["type"] == "exited");
    assert_eq!(types(&heard), ["started", "output", "exited"]);
    assert_eq!(
        heard[0]["id"],
        id.as_str(),
        "the starter's id, for every subscriber"
    );
    assert!(bystander.drain().is_empty());
    starter.event("exited", "t");
    assert_eq!(
        listener.call("unsubscribe", &json!({"task_id": "t"}))["type"],
        "unsubscribed"
    );
}

#[test]
fn hello_grants_what_is_known_and_the_old_messages_stay_as_they_were() {
    let hub = Hub::usual();
    let mut client = hub.client();
    let hello = client.call(
        "hello",
        &json!({"features": ["acks", "task_events", "teleport"]}),
    );
    assert_eq!(
        (&hello["server"], &hello["features"]),
        (&json!("overseerctl"), &json!(["acks", "task_events"]))
    );
    let mut other = hub.client();
    other.start("sh", "t", "exit 4");
    assert_eq!(
        client.event("exited", "t")["exit_code"],
        4,
        "a watcher hears of tasks it did not subscribe to"
    );
    let ack = client.call("stop", &json!({"task_id": "t"}));
    assert_eq!(
        (&ack["type"], &ack["phase"]),
        (&json!("stopping"), &json!("stopped"))
    );
    let replay = client.call("replay", &json!({"task_id": "t"}));
    assert_eq!(
        (&replay["type"], &replay["count"]),
        (&json!("replay_end"), &json!(1))
    );
}

#[test]
fn a_finished_task_can_be_removed_or_replaced_and_not_otherwise_reused() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "true");
    client.row_when("t", |row| row["phase"] == "done");
    let again = client.call(
        "start",
        &json!({"action": "echo", "task_id": "t", "params": {"msg": ""}}),
    );
    assert_eq!(again["message"], "task already running or starting");
    assert_eq!(
        client.call("remove", &json!({"task_id": "t"}))["type"],
        "removed"
    );
    assert_eq!(
        client.call("remove", &json!({"task_id": "t"}))["message"],
        "task not found"
    );
    client.start("sh", "t", "sleep 60");
    assert_eq!(
        client.call("remove", &json!({"task_id": "t"}))["message"],
        "task is not finished: stop it first"
    );
    client.ask("stop", &json!({"task_id": "t"}));
    client.row_when("t", |row| row["phase"] == "stopped");
    let replaced = client.call(
        "start",
        &json!({"action": "echo", "task_id": "t", "params": {"msg": ""}, "replace": true}),
    );
    assert_eq!(replaced["type"], "started");
}
