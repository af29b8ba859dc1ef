//! The release binary beside real components: a load with a killed client, a stalled one and a signal in the middle; the
//! built-in page in a real browser; the client against a sticky-overseer.
//!
//! Run by `cargo xtask e2e overseerctl`, which builds the binary and names it in `OVERSEERCTL_BIN`.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the failure")]

#[path = "it/hub.rs"]
#[expect(
    dead_code,
    reason = "shared with the integration tests, which use more of it"
)]
mod hub;

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use hub::Hub;
use runyard_common::testing::{self, Browser, Daemon, program};
use serde_json::{Value, json};

const LOAD: &str = r#"
task_pool: {limit: 50, queue: {enabled: true}}
slow_client: {queue: 64KiB, queue_max: 1MiB, grace: 3s, timeout: 20s}
actions:
  sh: {type: exec, config: {entrypoint: sh, command: ["-c", "[[.s]]"], parameters: {s: null}}}
"#;

/// 200 tasks from 20 clients, each of which must see all of its own: `started`, every line, `exited`.
#[test]
fn nothing_is_lost_under_load_with_a_killed_and_a_stalled_client() {
    let mut hub = Hub::start(LOAD);
    let mut stalled = hub.client();
    stalled.call("hello", &json!({"features": ["task_events"]}));
    (0..200)
        .for_each(|task| drop(stalled.call("subscribe", &json!({"task_id": format!("t{task}")}))));
    let mut victim = follower(&hub);
    let workers: Vec<_> = (0..20)
        .map(|number| {
            let mut client = hub.client();
            thread::spawn(move || drive(&mut client, number))
        })
        .collect();
    victim.kill().unwrap();
    victim.wait().unwrap();
    for worker in workers {
        worker.join().unwrap();
    }
    let tasks = hub.client().call("list", &json!({}))["tasks"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(
        tasks
            .iter()
            .filter(|task| task["last_exit_code"] == 0)
            .count(),
        200
    );
    assert!(testing::children(hub.daemon.pid()).is_empty());
    assert_eq!(hub.daemon.stop().code(), Some(0));
}

fn follower(hub: &Hub) -> std::process::Child {
    Command::new(testing::tool_binary("overseerctl"))
        .args(["--url", &format!("ws://{}/ws", hub.address), "follow", "t0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Starts ten tasks of a thousand lines and checks every one.
fn drive(client: &mut hub::Client, number: usize) {
    let ids: Vec<String> = (0..10)
        .map(|task| format!("t{}", number * 10 + task))
        .collect();
    for id in &ids {
        client.ask(
            "start",
            &json!({"action": "sh", "task_id": id, "params": {"s": "seq 1 500; seq 501 1000 >&2"}}),
        );
    }
    let mut seqs: HashMap<String, Vec<u64>> = HashMap::new();
    let mut ended = 0;
    while ended < ids.len() {
        let message = client.next();
        let Some(id) = message["task_id"]
            .as_str()
            .filter(|id| ids.iter().any(|own| own == id))
        else {
            continue;
        };
        match message["type"].as_str().unwrap() {
            "started" => assert!(
                seqs.insert(id.to_owned(), Vec::new()).is_none(),
                "{message}"
            ),
            "output" => seqs
                .get_mut(id)
                .expect("output after started")
                .push(message["seq"].as_u64().unwrap()),
            "exited" => {
                assert_eq!(seqs[id], (1..=1000).collect::<Vec<u64>>(), "{id}");
                ended += 1;
            }
            _ => {}
        }
    }
}

/// A signal in the middle of all that: every task that started is told to have ended, and none is left.
#[test]
fn a_signal_under_load_ends_everything_and_says_so() {
    let mut hub = Hub::start(LOAD);
    let mut client = hub.client();
    for task in 0..100 {
        client.ask("start", &json!({"action": "sh", "task_id": format!("t{task}"), "params": {"s": "while :; do echo x; sleep 0.01; done"}}));
    }
    client.event("output", "t49");
    hub.daemon.terminate();
    let mut state: HashMap<String, &'static str> = HashMap::new();
    while let Some(text) = client.next_text() {
        let message: Value = serde_json::from_str(&text).unwrap();
        let id = message["task_id"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap() {
            "started" => drop(state.insert(id, "runs")),
            "queued" => drop(state.insert(id, "waits")),
            "exited" | "dequeued" => drop(state.remove(&id)),
            _ => {}
        }
    }
    assert!(
        state.values().all(|state| *state == "runs") && state.len() <= 50,
        "{state:?}"
    );
    assert_eq!(hub.daemon.wait(testing::patience()).code(), Some(0));
}

/// The page in a real browser: a task started by its form appears with its output.
#[test]
fn the_page_shows_tasks_and_starts_them() {
    let Some(chromium) = program("chromium", "CHROMIUM_BIN") else {
        return;
    };
    let hub = Hub::start(LOAD);
    let mut client = hub.client();
    client.call("start", &json!({"action": "sh", "task_id": "from-the-wire", "params": {"s": "echo seen-in-the-page; exec sleep 600"}}));
    let mut browser = Browser::open(&chromium, &format!("http://{}/", hub.address));
    browser.eventually("document.body.dataset.mode === 'events'");
    browser.eventually("document.querySelector('tr.row[data-task-id=\"from-the-wire\"]') !== null");
    browser.evaluate("location.hash = '#/task/from-the-wire'");
    browser.eventually("document.querySelector('#output').innerText.includes('seen-in-the-page')");
    browser.evaluate(
        "document.querySelector('#start-open').click();
         document.querySelector('#start-action').value = 'sh';
         document.querySelector('#start-action').dispatchEvent(new Event('change', {bubbles: true}));
         document.querySelector('#start-task-id').value = 'from-the-page';
         document.querySelector('#start-params [data-param=s]').value = 'exit 3';
         document.querySelector('#start-submit').click()",
    );
    assert_eq!(
        client.row_when("from-the-page", |row| row["phase"] == "done")["last_exit_code"],
        3
    );
    browser.evaluate("location.hash = '#/tasks'");
    browser.eventually("document.querySelector('tr.row[data-task-id=\"from-the-page\"] .state').dataset.exitCode === '3'");
}

/// The client's algorithms on the unchanged wire, where a sticky-overseer is at hand.
#[test]
fn the_client_works_against_a_sticky_overseer() {
    let Some(original) = program("sticky-overseer", "STICKY_OVERSEER_BIN") else {
        return;
    };
    let dir = testing::tempdir();
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, LOAD.replace("slow_client", "#")).unwrap();
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut command = Command::new(original);
    command
        .arg("-config")
        .arg(&config)
        .env("OVERSEER_LISTEN", &address);
    let (_daemon, ()) = Daemon::start(command, |line| line.contains("listening on").then_some(()));
    let (send, lines) = mpsc::channel();
    let client = |args: &[&str]| {
        let output = Command::new(testing::tool_binary("overseerctl"))
            .args(["--url", &format!("ws://{address}/ws")])
            .args(args)
            .output()
            .unwrap();
        send.send(String::from_utf8_lossy(&output.stderr).into_owned())
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(
        client(&["run", "sh", "s=sleep 0.3; echo out; exit 9"]),
        (Some(9), "out\n".to_owned())
    );
    assert_eq!(
        client(&[
            "start",
            "sh",
            "s=sleep 0.3; echo logged; exec sleep 600",
            "--id",
            "t"
        ])
        .0,
        Some(0)
    );
    testing::eventually(testing::patience(), || {
        client(&["logs", "t"]).1.contains("logged").then_some(())
    });
    assert_eq!(client(&["stop", "t", "--wait"]).0, Some(0));
    assert!(
        client(&["--output", "json", "list"])
            .1
            .contains("\"stopped\"")
    );
    drop(send);
    let noise: Vec<String> = lines
        .into_iter()
        .filter(|text| text.contains("error:"))
        .collect();
    assert!(noise.is_empty(), "{noise:?}");
}
