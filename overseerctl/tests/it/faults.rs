//! What goes wrong: clients that stall or die, configurations that are broken, ends of the daemon under load.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use runyard_common::testing::{self, is_alive};
use serde_json::json;

use crate::hub::{ACTIONS, Hub, types};

/// Limits that a client which does not read reaches soon, and one that reads slowly on a busy machine does not.
const SMALL_QUEUE: &str = "slow_client: {queue: 64KiB, queue_max: 256KiB, grace: 2s, timeout: 4s}";

/// R4
#[test]
fn a_stalled_subscriber_harms_only_itself() {
    let hub = Hub::start(&format!("{SMALL_QUEUE}\n{ACTIONS}"));
    let (mut stalled, mut healthy) = (hub.client(), hub.client());
    stalled.call("subscribe", &json!({"task_id": "t"}));
    healthy.start("sh", "t", "seq 1 200000");
    let mut expected = 1;
    loop {
        let message = healthy.next();
        if message["type"] == "exited" {
            break;
        }
        assert_eq!(message["seq"], expected);
        expected += 1;
    }
    assert_eq!(expected, 200_001);
    assert!(
        hub.get("/metrics")
            .contains("overseer_slow_clients_total 1")
    );
}

/// R5
#[test]
fn a_stalled_subscriber_of_a_restarting_task_stops_nobody() {
    let mut hub = Hub::start(&format!("{SMALL_QUEUE}\n{ACTIONS}"));
    let (mut stalled, mut client) = (hub.client(), hub.client());
    stalled.ask(
        "start",
        &json!({"action": "sh", "task_id": "t", "params": {"s": "seq 1 50000"}, "retry_policy": {"restart_delay": "10ms"}}),
    );
    client.row_when("t", |row| row["restart_count"].as_u64() > Some(2));
    client.start("sh", "u", "true");
    client.call("set_pool", &json!({"limit": 5}));
    let begin = Instant::now();
    assert!(hub.daemon.stop().success());
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn with_drop_a_slow_client_misses_lines_and_is_told() {
    let hub = Hub::start(&format!(
        "slow_client: {{queue: 64KiB, on_slow: drop, timeout: 1h}}\n{ACTIONS}"
    ));
    let mut client = hub.client();
    client.call("hello", &json!({"features": ["lagged"]}));
    client.start(
        "sh",
        "t",
        "seq 1 300000; read x < /dev/null; sleep 1; echo end",
    );
    std::thread::sleep(Duration::from_millis(300)); // Being slow is what is tested.
    let (mut last, mut lagged) = (0, 0);
    loop {
        let message = client.next();
        match message["type"].as_str().unwrap() {
            "output" => {
                let seq = message["seq"].as_u64().unwrap();
                assert!(seq > last);
                last = seq;
            }
            "lagged" => lagged += message["dropped"].as_u64().unwrap(),
            "exited" => break,
            _ => {}
        }
    }
    assert_eq!(last, 300_001);
    assert!(lagged > 0);
}

#[test]
fn a_killed_client_leaves_the_daemon_and_its_tasks_alone() {
    let hub = Hub::usual();
    let mut watcher = hub.client();
    let mut victim = Command::new(testing::tool_binary("overseerctl"))
        .args([
            "--url",
            &format!("ws://{}/ws", hub.address),
            "start",
            "sh",
            "s=echo up; exec sleep 3600",
            "--id",
            "t",
            "--follow",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    watcher.row_when("t", |row| row["phase"] == "running");
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(watcher.row("t").unwrap()["phase"], "running");
    watcher.start("sh", "u", "true");
}

#[test]
fn shutdown_tells_everybody_everything_in_order() {
    let mut hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "one",
        "a",
        "trap 'echo last words; exit 6' TERM; echo ready; while :; do sleep 0.05; done",
    );
    client.event("output", "a");
    client.ask(
        "start",
        &json!({"action": "one", "task_id": "b", "params": {"s": "true"}}),
    );
    client.event("queued", "b");
    client.ask("start", &json!({"action": "sh", "task_id": "c", "params": {"s": "true"}, "retry_policy": {"restart_delay": "1h"}}));
    client.event("restarting", "c");
    hub.daemon.terminate();
    let mut told = client.all_until(|message| message["type"] == "exited");
    // The shell may remark on the end of its own `sleep`.
    told.retain(|message| message["stream"] != "stderr");
    assert_eq!(types(&told), ["dequeued", "output", "exited"]);
    assert_eq!(told[0]["reason"], "pool: shutdown");
    assert_eq!(
        (&told[1]["data"], &told[2]["exit_code"]),
        (&json!("last words"), &json!(6))
    );
    assert!(client.is_closed());
    assert_eq!(hub.daemon.wait(testing::patience()).code(), Some(0));
}

#[test]
fn a_start_during_shutdown_is_refused() {
    let mut hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "sh",
        "a",
        "trap 'read x < fifo' TERM; mkfifo fifo; echo ready; while :; do sleep 0.05; done",
    );
    client.event("output", "a");
    hub.daemon.terminate();
    hub.daemon
        .wait_for_line(|line| line.contains("shutting down").then_some(()));
    let refused = client.call("start", &json!({"action": "echo", "params": {"msg": ""}}));
    assert_eq!(refused["message"], "shutting down");
    std::fs::write(hub.dir.path().join("fifo"), "x\n").unwrap();
    client.ask("stop", &json!({"task_id": "a", "force": true}));
    hub.daemon.wait(testing::patience());
}

/// R12
#[test]
fn a_stubborn_process_does_not_outlive_the_shutdown() {
    let mut hub = Hub::start(&format!("stop_grace: 300ms\n{ACTIONS}"));
    let mut client = hub.client();
    let pid = client.start_stubborn("t");
    assert_eq!(hub.daemon.stop().code(), Some(0));
    assert!(!is_alive(pid));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut hub = Hub::start(&format!("stop_grace: 1h\nshutdown_grace: 1h\n{ACTIONS}"));
    let mut client = hub.client();
    let pid = client.start_stubborn("t");
    hub.daemon.terminate();
    hub.daemon
        .wait_for_line(|line| line.contains("shutting down").then_some(()));
    hub.daemon.interrupt();
    assert_eq!(hub.daemon.wait(testing::patience()).code(), Some(0));
    assert!(!is_alive(pid));
}

#[test]
fn reload_changes_actions_and_limits_and_keeps_what_runs() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "exec sleep 3600");
    let path = hub.dir.path().join("config.yaml");
    std::fs::write(
        &path,
        "actions: {new: {type: exec, config: {entrypoint: echo}}}",
    )
    .unwrap();
    hub.daemon.signal(rustix::process::Signal::HUP);
    hub.daemon
        .wait_for_line(|line| line.contains("configuration reloaded").then_some(()));
    assert_eq!(
        client.call("describe", &json!({}))["actions"][0]["name"],
        "new"
    );
    assert_eq!(client.row("t").unwrap()["phase"], "running");
    std::fs::write(&path, "actions: {new: {type: nope}}").unwrap();
    hub.daemon.signal(rustix::process::Signal::HUP);
    hub.daemon
        .wait_for_line(|line| line.contains("reload failed").then_some(()));
    assert_eq!(
        client.call("start", &json!({"action": "new"}))["type"],
        "started",
        "the old configuration stays"
    );
}

#[test]
fn broken_configurations_are_refused_with_place_and_way_out() {
    let dir = testing::tempdir();
    let path = dir.path().join("config.yaml");
    let exec = |config: &str| format!("actions:\n  a:\n    type: exec\n    config: {config}\n");
    for (text, wanted) in [
        ("listen: [\n".to_owned(), "config.yaml"),
        (
            "retry: {restart_delay: 5}\n".to_owned(),
            "time: missing unit in duration \"5\"",
        ),
        (
            "trusted_cidrs: [x]\n".to_owned(),
            "invalid CIDR or IP \"x\": invalid CIDR address: x",
        ),
        (
            "actions: {x: {type: foo}}\n".to_owned(),
            "action \"x\": unknown action type \"foo\" (registered: [exec])",
        ),
        (
            exec("{entrypoint: e, parameters: {p: {default: '1', validate: 'value > 5'}}}"),
            "no matching overload",
        ),
        (
            exec("{entrypoint: e, parameters: {p: {validate: 'foo == 1'}}}"),
            "undeclared reference to 'foo'",
        ),
        (
            exec("{entrypoint: e, output: {stdout: {condition: '1 +'}}}"),
            "stdout filter CEL error",
        ),
        (
            exec("{entrypoint: e, rlimits: {files: 1}}"),
            "rlimits.files: unknown limit",
        ),
        (exec("{entrypoint: e, umask: '999'}"), "invalid umask"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let output = Command::new(testing::tool_binary("overseerctl"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}: {stderr}");
        assert!(stderr.contains(wanted), "{text}: {stderr}");
    }
}

#[test]
fn unknown_keys_warn_by_name() {
    let hub = Hub::start(
        "listne: x\nactions: {a: {type: exec, config: {entrypoint: echo, comand: [x]}}}\n",
    );
    hub.daemon
        .wait_for_line(|line| line.contains("listne").then_some(()));
    hub.daemon
        .wait_for_line(|line| line.contains("comand").then_some(()));
}

#[test]
fn finished_tasks_are_forgotten_beyond_the_retention() {
    let hub = Hub::start(&format!("keep_finished: {{count: 3}}\n{ACTIONS}"));
    let mut client = hub.client();
    for round in 0..10 {
        client.start("sh", &format!("t{round}"), "true");
        client.event("exited", &format!("t{round}"));
    }
    testing::eventually(testing::patience(), || {
        let tasks = client.call("list", &json!({}))["tasks"]
            .as_array()
            .unwrap()
            .len();
        (tasks == 3).then_some(())
    });
    assert!(client.row("t9").is_some());
}

#[test]
fn events_and_output_are_logged_to_files() {
    let hub = Hub::start(&format!(
        "log_file: events.jsonl\ntask_logs: {{dir: logs}}\n{ACTIONS}"
    ));
    let mut client = hub.client();
    client.start("sh", "t/1", "echo out; echo err >&2");
    client.event("exited", "t/1");
    let events = hub.dir.path().join("events.jsonl");
    let text = testing::eventually(testing::patience(), || {
        std::fs::read_to_string(&events)
            .ok()
            .filter(|text| text.lines().count() == 4)
    });
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{text}"
    );
    let logs = hub.dir.path().join("logs");
    let log = testing::eventually(testing::patience(), || {
        let entry = std::fs::read_dir(&logs).ok()?.next()?.ok()?;
        std::fs::read_to_string(entry.path())
            .ok()
            .filter(|text| text.lines().count() == 2)
    });
    assert!(
        log.contains("stdout | out") && log.contains("stderr | err"),
        "{log}"
    );
}

#[test]
fn history_and_queue_survive_a_killed_daemon() {
    let dir = testing::tempdir();
    let db = dir.path().join("overseer.db");
    let config = format!("db: {}\npersist_queue: true\n{ACTIONS}", db.display());
    let mut hub = Hub::start(&config);
    let mut client = hub.client();
    client.start("sh", "done", "exit 7");
    client.event("exited", "done");
    client.start("one", "busy", "exec sleep 3600");
    client.ask(
        "start",
        &json!({"action": "one", "task_id": "waiting", "params": {"s": "exit 8"}}),
    );
    client.event("queued", "waiting");
    testing::eventually(testing::patience(), || {
        let runs = client.call("history", &json!({}))["runs"]
            .as_array()
            .unwrap()
            .clone();
        (runs.len() == 2).then_some(())
    });
    let left = testing::children(hub.daemon.pid());
    hub.daemon.kill();
    for pid in left {
        // Orphans of a killed daemon are nobody's; this test tidies up after itself.
        let _ = Command::new("sh")
            .args(["-c", &format!("kill -9 {pid}")])
            .status();
    }
    let hub = Hub::start(&config);
    let mut client = hub.client();
    let outcome = |runs: &serde_json::Value, task: &str| {
        runs["runs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|run| run["task_id"] == task)
            .map(|run| run["outcome"].clone())
    };
    testing::eventually(testing::patience(), || {
        let runs = client.call("history", &json!({}));
        (outcome(&runs, "waiting") == Some(json!("exited"))).then_some(())
    });
    let runs = client.call("history", &json!({}));
    assert_eq!(outcome(&runs, "done"), Some(json!("exited")));
    assert_eq!(outcome(&runs, "busy"), Some(json!("lost")));
}
