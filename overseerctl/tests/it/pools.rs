//! Pools and queues on the wire: who runs, who waits, who goes, and in which words.

use serde_json::{Value, json};

use crate::hub::{Client, Hub, types};

const SLEEP: &str = "exec sleep 3600";

fn start(client: &mut Client, action: &str, task_id: &str) -> Value {
    client.call(
        "start",
        &json!({"action": action, "task_id": task_id, "params": {"s": SLEEP}}),
    )
}

fn stop(client: &mut Client, task_id: &str) {
    client.ask("stop", &json!({"task_id": task_id}));
}

#[test]
fn a_start_over_the_limit_waits_and_everybody_hears_of_it() {
    let hub = Hub::usual();
    let (mut client, mut other) = (hub.client(), hub.client());
    start(&mut client, "one", "a");
    let queued = start(&mut client, "one", "b");
    assert_eq!(
        (&queued["type"], &queued["position"], &queued["action"]),
        (&json!("queued"), &json!(1), &json!("one"))
    );
    assert_eq!(other.event("queued", "b")["id"], queued["id"]);
    let info = client.call("pool_info", &json!({"action": "one"}));
    assert_eq!(
        (&info["pool"]["running"], &info["pool"]["queue_depth"]),
        (&json!(1), &json!(1))
    );
    let item = &info["pool"]["queue_items"][0];
    assert_eq!(
        (&item["position"], &item["forced"]),
        (&json!(0), &json!(false))
    );
    let row = client.row("b").unwrap();
    assert_eq!(row["state"], "queued");
    assert_eq!(row["created_at"], "0001-01-01T00:00:00Z");
    assert!(row.get("params").is_none());
    stop(&mut client, "a");
    let started = client.event("started", "b");
    assert_eq!(
        started["id"], queued["id"],
        "the id of the start that waited"
    );
}

#[test]
fn the_next_one_starts_before_the_last_ones_fate_is_told() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.ask("start", &json!({"action": "one", "task_id": "a", "params": {"s": "read x; exit 1"}, "retry_policy": {"restart_delay": "1h"}}));
    client.ask(
        "start",
        &json!({"action": "one", "task_id": "b", "params": {"s": SLEEP}}),
    );
    let told = client.all_until(|message| message["type"] == "restarting");
    let after: Vec<_> = told
        .iter()
        .skip_while(|message| message["type"] != "exited")
        .collect();
    let words: Vec<_> = after
        .iter()
        .map(|m| (m["type"].as_str().unwrap(), m["task_id"].as_str().unwrap()))
        .collect();
    if words.len() == 3 {
        assert_eq!(
            words,
            [("exited", "a"), ("started", "b"), ("restarting", "a")]
        );
    } else {
        assert_eq!(
            words,
            [("exited", "a"), ("restarting", "a")],
            "a ended before b was asked for"
        );
    }
}

#[test]
fn a_full_queue_displaces_its_oldest_and_a_pool_without_queue_refuses() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for task_id in ["a", "b", "c"] {
        start(&mut client, "one", task_id);
    }
    client.ask(
        "start",
        &json!({"action": "one", "task_id": "d", "params": {"s": SLEEP}}),
    );
    let told = client.all_until(|message| message["type"] == "queued" && message["task_id"] == "d");
    assert_eq!(types(&told), ["dequeued", "queued"]);
    assert_eq!(
        (&told[0]["task_id"], &told[0]["reason"]),
        (&json!("b"), &json!("pool: displaced by incoming task"))
    );
    start(&mut client, "strict", "s1");
    let refused = start(&mut client, "strict", "s2");
    assert_eq!(
        refused["message"],
        "pool rejected task: pool: task rejected — limit reached and queue is full"
    );
}

/// R7
#[test]
fn a_refused_id_can_be_used_again() {
    let hub = Hub::usual();
    let mut client = hub.client();
    start(&mut client, "strict", "a");
    assert_eq!(start(&mut client, "strict", "b")["type"], "error");
    stop(&mut client, "a");
    client.event("exited", "a");
    client.row_when("a", |row| row["phase"] == "stopped");
    assert_eq!(start(&mut client, "strict", "b")["type"], "started");
}

/// R8
#[test]
fn raising_a_limit_admits_after_its_two_messages() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for task_id in ["a", "b", "c"] {
        start(&mut client, "one", task_id);
    }
    client.ask(
        "set_pool",
        &json!({"action": "one", "limit": 3, "queue_size": 2}),
    );
    let told =
        client.all_until(|message| message["task_id"] == "c" && message["type"] == "started");
    assert_eq!(
        types(&told),
        ["pool_updated", "pool_info", "started", "started"]
    );
    assert_eq!(told[1]["pool"]["limit"], 3);
}

/// R9
#[test]
fn other_actions_exits_never_overrun_an_actions_limit() {
    let hub = Hub::usual();
    let mut client = hub.client();
    start(&mut client, "one", "a");
    start(&mut client, "one", "b");
    for round in 0..20 {
        let task_id = format!("t{round}");
        client.start("sh", &task_id, "true");
        client.row_when(&task_id, |row| row["phase"] == "done");
        let info = client.call("pool_info", &json!({"action": "one"}));
        assert_eq!(info["pool"]["running"], 1, "round {round}");
    }
    assert_eq!(client.row("b").unwrap()["state"], "queued");
}

/// R10
#[test]
fn a_queue_is_not_displaced_for_another_actions_sake() {
    let hub = Hub::start(
        "task_pool: {limit: 1}\nactions:\n  a: &a {type: exec, task_pool: {queue: {enabled: true, size: 1, displace: prohibit}}, \
         config: {entrypoint: sh, command: ['-c', '[[.s]]'], parameters: {s: null}}}\n  \
         b: {<<: *a, task_pool: {queue: {enabled: true, size: 1}}}\n",
    );
    let mut client = hub.client();
    start(&mut client, "a", "a1");
    start(&mut client, "a", "a2");
    start(&mut client, "b", "b1");
    let refused = start(&mut client, "a", "a3");
    assert_eq!(refused["type"], "error", "{refused}");
    assert_eq!(
        client.row("b1").unwrap()["state"],
        "queued",
        "nobody went for nothing"
    );
    assert_eq!(client.row("a3"), None);
    assert_eq!(
        start(&mut client, "b", "b2")["type"],
        "queued",
        "its own queue gives way"
    );
    assert_eq!(client.row("b1"), None);
}

#[test]
fn stopping_and_purging_waiting_starts_is_told_twice() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for task_id in ["a", "b", "c"] {
        start(&mut client, "one", task_id);
    }
    stop(&mut client, "b");
    let reasons: Vec<_> = client
        .drain()
        .iter()
        .map(|message| message["reason"].clone())
        .collect();
    assert_eq!(reasons, ["pool: task dequeued", "stopped"]);
    let id = client.ask("purge", &json!({"action": "one"}));
    let told = client.all_until(|message| message["id"] == id.as_str());
    assert_eq!(types(&told), ["dequeued", "dequeued", "purged"]);
    assert_eq!(
        (&told[0]["reason"], &told[1]["reason"]),
        (&json!("pool: queue purged"), &json!("purged"))
    );
    assert_eq!(
        (&told[2]["count"], &told[2]["action"]),
        (&json!(1), &json!("one"))
    );
}

#[test]
fn a_start_that_waits_too_long_expires() {
    let hub = Hub::start(
        "actions: {q: {type: exec, task_pool: {limit: 1, queue: {enabled: true, max_age: 1}}, \
         config: {entrypoint: sh, command: ['-c', '[[.s]]'], parameters: {s: null}}}}",
    );
    let mut client = hub.client();
    start(&mut client, "q", "a");
    start(&mut client, "q", "b");
    assert_eq!(
        client.event("dequeued", "b")["reason"],
        "pool: item expired"
    );
    assert_eq!(client.call("metrics", &json!({}))["global"]["expired"], 1);
}

#[test]
fn lowering_a_limit_stops_the_oldest_or_the_newest() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for task_id in ["a", "b", "c"] {
        client.start("sh", task_id, SLEEP);
    }
    let info = client.call(
        "set_pool",
        &json!({"action": "sh", "limit": 2, "excess": {"order": "last"}}),
    );
    assert_eq!(
        (&info["pool"]["running"], &info["pool"]["limit"]),
        (&json!(2), &json!(2)),
        "{info}"
    );
    assert_eq!(client.event("exited", "c")["intentional"], true);
    client.call("set_pool", &json!({"action": "sh", "size": 1}));
    assert_eq!(
        client.until(|message| message["type"] == "exited")["task_id"],
        "b",
        "the order was kept"
    );
}

#[test]
fn a_task_that_holds_its_slot_keeps_others_out_while_it_waits() {
    let hub = Hub::start(
        "actions: {h: {type: exec, task_pool: {limit: 1, hold_on_restart: true, queue: {enabled: true}}, \
         config: {entrypoint: sh, command: ['-c', '[[.s]]'], parameters: {s: null}}}}",
    );
    let mut client = hub.client();
    client.ask("start", &json!({"action": "h", "task_id": "a", "params": {"s": "true"}, "retry_policy": {"restart_delay": "1h"}}));
    client.event("restarting", "a");
    assert_eq!(start(&mut client, "h", "b")["type"], "queued");
    stop(&mut client, "a");
    client.event("started", "b");
}

#[test]
fn a_start_that_cannot_be_spawned_makes_room_for_the_next() {
    let hub = Hub::start(
        "task_pool: {limit: 1, queue: {enabled: true}}\nactions:\n  bad: {type: exec, config: {entrypoint: /no/such}}\n  \
         sh: {type: exec, config: {entrypoint: sh, command: ['-c', '[[.s]]'], parameters: {s: null}}}\n",
    );
    let mut client = hub.client();
    start(&mut client, "sh", "a");
    start(&mut client, "sh", "last");
    start(&mut client, "bad", "b");
    stop(&mut client, "a");
    assert_eq!(
        client.event("dequeued", "b")["reason"],
        "fork/exec /no/such: no such file or directory"
    );
    client.event("started", "last");
}
