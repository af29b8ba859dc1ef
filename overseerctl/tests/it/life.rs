//! Lives of tasks: stops, restarts, resets, output, and the order in which clients hear of them.

use std::time::{Duration, Instant};

use runyard_common::testing::{self, is_alive};
use serde_json::{Value, json};

use crate::hub::{ACTIONS, Hub, types};

fn pid(message: &Value) -> u32 {
    message["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .expect("a pid")
}

/// R1
#[test]
fn a_second_stop_is_harmless() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
    );
    client.event("output", "t");
    for _ in 0..5 {
        client.ask("stop", &json!({"task_id": "t"}));
    }
    let exited = client.event("exited", "t");
    assert_eq!(
        (&exited["exit_code"], &exited["intentional"]),
        (&json!(5), &json!(true))
    );
    client.ask("stop", &json!({"task_id": "t"}));
    assert_eq!(
        client.row_when("t", |row| row["phase"] == "stopped")["state"],
        "stopped"
    );
}

/// R2
#[test]
fn a_process_that_ignores_the_signal_is_killed_after_the_grace() {
    let hub = Hub::start(&format!("stop_grace: 500ms\n{ACTIONS}"));
    let mut client = hub.client();
    let started = client.start(
        "sh",
        "t",
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    );
    client.event("output", "t");
    let begin = Instant::now();
    client.ask("stop", &json!({"task_id": "t"}));
    let exited = client.event("exited", "t");
    assert!(
        begin.elapsed() >= Duration::from_millis(500),
        "not before the grace is over"
    );
    assert_eq!(
        (
            &exited["exit_code"],
            &exited["intentional"],
            &exited["signal"]
        ),
        (&json!(-1), &json!(true), &json!(9))
    );
    assert!(!is_alive(pid(&started)));
}

#[test]
fn a_stop_with_force_does_not_wait() {
    let hub = Hub::start(&format!("stop_grace: 1h\n{ACTIONS}"));
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    );
    client.event("output", "t");
    client.ask("stop", &json!({"task_id": "t"}));
    client.ask("stop", &json!({"task_id": "t", "force": true}));
    assert_eq!(client.event("exited", "t")["exit_code"], -1);
}

/// R3
#[test]
fn an_overlong_line_is_cut_and_the_task_goes_on() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        "head -c 11000000 /dev/zero | tr '\\0' x; echo; echo after; while :; do sleep 0.05; done",
    );
    let long = client.event("output", "t");
    assert_eq!(
        (long["data"].as_str().unwrap().len(), &long["truncated"]),
        (10_485_759, &json!(true))
    );
    let after = client.event("output", "t");
    assert_eq!(
        (&after["data"], &after["seq"]),
        (&json!("after"), &json!(2))
    );
    client.ask("stop", &json!({"task_id": "t"}));
    assert_eq!(client.event("exited", "t")["intentional"], true);
}

#[test]
fn a_line_of_just_the_limit_is_whole() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "head -c 10485759 /dev/zero | tr '\\0' x; echo");
    let line = client.event("output", "t");
    assert_eq!(
        (line["data"].as_str().unwrap().len(), line.get("truncated")),
        (10_485_759, None)
    );
}

/// R6
#[test]
fn the_starter_hears_started_output_and_exited_in_this_order_always() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for round in 0..500 {
        let task_id = format!("t{round}");
        client.ask(
            "start",
            &json!({"action": "echo", "task_id": task_id, "params": {"msg": "hi"}}),
        );
    }
    let mut lives = std::collections::HashMap::<String, Vec<String>>::new();
    while lives.len() < 500 || lives.values().any(|life| life.len() < 3) {
        let message = client.next();
        let task_id = message["task_id"].as_str().unwrap().to_owned();
        lives
            .entry(task_id)
            .or_default()
            .push(message["type"].as_str().unwrap().to_owned());
    }
    for (task_id, life) in lives {
        assert_eq!(life, ["started", "output", "exited"], "{task_id}");
    }
}

#[test]
fn restarts_follow_the_policy_and_seq_goes_on() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.ask(
        "start",
        &json!({"action": "sh", "task_id": "t", "params": {"s": "echo x; exit 3"},
               "retry_policy": {"restart_delay": "10ms", "error_window": "1m", "error_threshold": 3}}),
    );
    let life = client.all_until(|message| message["type"] == "errored");
    let round = ["started", "output", "exited"];
    let expected: Vec<&str> = [
        &round[..],
        &["restarting"],
        &round,
        &["restarting"],
        &round,
        &["errored"],
    ]
    .concat();
    assert_eq!(types(&life), expected);
    let restarting = &life[3];
    assert_eq!(
        (&restarting["restart_delay"], &restarting["attempt"]),
        (&json!("10ms"), &json!(1))
    );
    assert_eq!(
        (&restarting["pid"], &restarting["ts"]),
        (&life[2]["pid"], &life[2]["ts"])
    );
    assert_eq!(
        (&life[4]["id"], &life[4]["restart_of"]),
        (&json!(""), &life[0]["pid"])
    );
    let seqs: Vec<_> = life
        .iter()
        .filter_map(|message| message["seq"].as_u64())
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(
        (&life[11]["exit_count"], &life[11]["ts"]),
        (&json!(3), &life[10]["ts"])
    );
    let row = client.row("t").unwrap();
    assert_eq!(
        (&row["state"], &row["restart_count"], &row["last_exit_code"]),
        (&json!("errored"), &json!(2), &json!(3))
    );
}

#[test]
fn a_policy_restarts_after_success_too_unless_it_says_on_failure() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.ask("start", &json!({"action": "sh", "task_id": "always", "params": {"s": "true"}, "retry_policy": {"restart_delay": "1h"}}));
    assert_eq!(
        client.event("restarting", "always")["restart_delay"],
        "1h0m0s"
    );
    client.ask("start", &json!({"action": "sh", "task_id": "fail", "params": {"s": "exit 3"},
                               "retry_policy": {"restart": "on-failure", "success_exit_codes": [0, 3]}}));
    client.event("exited", "fail");
    assert_eq!(
        client.row_when("fail", |row| row["phase"] != "settling")["phase"],
        "done"
    );
}

#[test]
fn a_stop_cancels_a_waiting_restart_without_a_word() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.ask("start", &json!({"action": "sh", "task_id": "t", "params": {"s": "true"}, "retry_policy": {"restart_delay": "200ms"}}));
    client.event("restarting", "t");
    client.ask("stop", &json!({"task_id": "t"}));
    assert!(client.drain().is_empty());
    assert_eq!(client.row("t").unwrap()["phase"], "stopped");
    assert_eq!(
        client.call("reset", &json!({"task_id": "t"}))["message"],
        "task is not in errored state"
    );
}

#[test]
fn replay_knows_the_newest_worker_only() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.ask(
        "start",
        &json!({"action": "sh", "task_id": "t", "params": {"s": "echo $$"},
                               "retry_policy": {"restart_delay": "1ms", "error_threshold": 2}}),
    );
    let life = client.all_until(|message| message["type"] == "errored");
    let mut other = hub.client();
    other.ask("replay", &json!({"task_id": "t"}));
    let replayed = other.drain();
    assert_eq!(types(&replayed), ["output", "exited"]);
    assert_eq!(replayed[0], life[5], "as it was when it was live");
    let since = replayed[1]["ts"].as_str().unwrap();
    other.ask("replay", &json!({"task_id": "t", "since": since}));
    assert_eq!(types(&other.drain()), ["exited"], "since is inclusive");
}

#[test]
fn replay_keeps_the_last_hundred_events() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "seq 1 1000");
    client.event("exited", "t");
    client.ask("replay", &json!({"task_id": "t"}));
    let replayed = client.drain();
    assert_eq!(replayed.len(), 100);
    assert_eq!(
        (&replayed[0]["seq"], &replayed[98]["data"]),
        (&json!(902), &json!("1000"))
    );
    assert_eq!(replayed[99]["type"], "exited");
}

/// R11
#[test]
fn a_restart_or_reset_whose_program_is_gone_ends_in_errored() {
    let dir = testing::tempdir();
    let program = dir.path().join("program");
    std::fs::copy("/bin/true", &program).unwrap();
    let config = format!(
        "actions: {{p: {{type: exec, config: {{entrypoint: {}}}}}}}",
        program.display()
    );
    let hub = Hub::start(&config);
    let mut client = hub.client();
    client.ask(
        "start",
        &json!({"action": "p", "task_id": "t", "retry_policy": {"restart_delay": "50ms"}}),
    );
    client.event("restarting", "t");
    std::fs::remove_file(&program).unwrap();
    client.event("errored", "t");
    let row = client.row("t").unwrap();
    assert_eq!(row["state"], "errored");
    let message = format!("fork/exec {}: no such file or directory", program.display());
    assert_eq!(row["error_message"], message);
    assert_eq!(
        client.call("reset", &json!({"task_id": "t"}))["message"],
        message
    );
    assert_eq!(
        client.row("t").unwrap()["state"],
        "errored",
        "and can be reset again"
    );
    std::fs::copy("/bin/true", &program).unwrap();
    let reset = client.call("reset", &json!({"task_id": "t"}));
    assert_eq!(
        (&reset["type"], reset.get("restart_of")),
        (&json!("started"), None)
    );
}

#[test]
fn only_the_caller_hears_of_a_reset() {
    let hub = Hub::usual();
    let (mut caller, mut starter) = (hub.client(), hub.client());
    starter.ask("start", &json!({"action": "sh", "task_id": "t", "params": {"s": "exit 1"}, "retry_policy": {"error_threshold": 1}}));
    starter.event("errored", "t");
    let reset = caller.call("reset", &json!({"task_id": "t"}));
    assert_eq!(reset["type"], "started");
    starter.event("errored", "t");
    assert!(
        starter
            .drain()
            .iter()
            .all(|message| message["type"] != "started")
    );
    assert!(
        caller.drain().is_empty(),
        "the caller is not subscribed by it"
    );
}

#[test]
fn a_duplicate_is_refused_by_its_key_and_named() {
    let hub = Hub::start(
        "actions: {d: {type: exec, dedupe_key: [k], task_pool: {limit: 1, queue: {enabled: true}}, \
         config: {entrypoint: sleep, command: ['60'], parameters: {k: {default: ''}, o: {default: ''}}}}}",
    );
    let mut client = hub.client();
    let start =
        |k: &str, id: &str| json!({"action": "d", "task_id": id, "params": {"k": k, "o": id}});
    client.call("start", &start("1", "a"));
    let duplicate = client.call("start", &start("1", "b"));
    assert_eq!(duplicate["message"], "duplicate task: already running as a");
    assert_eq!(duplicate["existing_task_id"], "a");
    client.call("start", &start("2", "c"));
    let waiting = client.call("start", &start("2", "e"));
    assert_eq!(
        waiting["existing_task_id"], "c",
        "a waiting start counts too"
    );
}

/// R12 for a task, R13
#[test]
fn a_grandchild_in_a_session_of_its_own_does_not_survive_a_stop() {
    let hub = Hub::start(&format!(
        "stop_grace: 300ms\ndrain_timeout: 500ms\n{ACTIONS}"
    ));
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' & wait",
    );
    let grandchild: u32 = client.event("output", "t")["data"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    client.ask("stop", &json!({"task_id": "t"}));
    assert_eq!(client.event("exited", "t")["intentional"], true);
    testing::eventually(testing::patience(), || {
        (!is_alive(grandchild)).then_some(())
    });
}

#[test]
fn a_daemon_that_a_task_left_behind_does_not_survive_a_stop() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start(
        "sh",
        "t",
        "setsid sleep 3600 < /dev/null > /dev/null 2>&1 & echo $!; wait",
    );
    let left: u32 = client.event("output", "t")["data"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    client.ask("stop", &json!({"task_id": "t"}));
    client.event("exited", "t");
    testing::eventually(testing::patience(), || (!is_alive(left)).then_some(()));
}

#[test]
fn output_of_a_grandchild_is_waited_for_unless_configured_otherwise() {
    let action = |orphans: &str| {
        format!(
            "orphans: {orphans}\nactions: {{sh: {{type: exec, config: {{entrypoint: sh, \
             command: ['-c', '[[.s]]'], parameters: {{s: null}}}}}}}}"
        )
    };
    let script = "(sleep 0.3; echo late) & exit 4";
    let lines = |orphans: &str| {
        let hub = Hub::start(&action(orphans));
        let mut client = hub.client();
        client.ask(
            "start",
            &json!({"action": "sh", "task_id": "t", "params": {"s": script}}),
        );
        let life = client.all_until(|message| message["type"] == "exited");
        assert_eq!(life.last().unwrap()["exit_code"], 4, "{orphans}");
        life.len() - 2
    };
    assert_eq!((lines("wait"), lines("kill"), lines("detach")), (1, 0, 0));
}

/// R18
#[test]
fn a_stop_right_after_a_start_leaves_no_process() {
    let hub = Hub::usual();
    let mut client = hub.client();
    for round in 0..300 {
        client.ask("start", &json!({"action": "sh", "task_id": format!("t{round}"), "params": {"s": "exec sleep 3600"}}));
        client.ask("stop", &json!({"task_id": format!("t{round}")}));
    }
    let mut exits = 0;
    while exits < 300 {
        exits += usize::from(client.next()["type"] == "exited");
    }
    let left = testing::children(hub.daemon.pid());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_filtered_line_leaves_no_trace() {
    let hub = Hub::start(
        r#"
actions:
  f:
    type: exec
    config:
      entrypoint: sh
      command: ["-c", "echo keep; echo drop; echo '{\"level\":5}'; echo '{\"level\":1}'; echo err >&2"]
      output:
        stdout: {condition: "output.data == 'keep' || (has(output.json.level) && output.json.level > 3.0)"}
        stderr: {condition: "false"}
"#,
    );
    let mut client = hub.client();
    client.ask("start", &json!({"action": "f", "task_id": "t"}));
    let life = client.all_until(|message| message["type"] == "exited");
    let lines: Vec<_> = life
        .iter()
        .filter(|m| m["type"] == "output")
        .map(|m| (m["data"].clone(), m["seq"].clone()))
        .collect();
    assert_eq!(
        lines,
        [
            (json!("keep"), json!(1)),
            (json!("{\"level\":5}"), json!(2))
        ]
    );
    client.ask("replay", &json!({"task_id": "t"}));
    assert_eq!(types(&client.drain()), ["output", "output", "exited"]);
}

#[test]
fn an_exec_task_gets_the_surroundings_it_asks_for() {
    let dir = testing::tempdir();
    std::fs::write(
        dir.path().join("vars"),
        "# from a file\nexport FROM_FILE='a b'\nBOTH=file\n",
    )
    .unwrap();
    let hub = Hub::start_with(
        &format!(
            r#"
actions:
  e:
    type: exec
    config:
      entrypoint: sh
      command: ["-c", 'echo "$FROM_FILE|$BOTH|$WHO|$(pwd)|$(umask)|$(ulimit -n)|$(id -u)|$(cat)"']
      parameters: {{who: null}}
      env: {{WHO: "[[.who]]!", BOTH: action}}
      env_file: {0}/vars
      cwd: {0}
      umask: "027"
      user: "12345:12345"
      stdin: {{text: "from stdin"}}
      rlimits: {{nofile: 77}}
"#,
            dir.path().display()
        ),
        &[],
        |_| {},
    );
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut client = hub.client();
    client.ask(
        "start",
        &json!({"action": "e", "task_id": "t", "params": {"who": "me"}}),
    );
    let line = client.event("output", "t")["data"]
        .as_str()
        .unwrap()
        .to_owned();
    let expected = format!(
        "a b|action|me!|{}|0027|77|12345|from stdin",
        dir.path().display()
    );
    assert_eq!(line, expected);
}

#[test]
fn children_get_the_limit_on_open_files_that_the_daemon_was_started_with() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "ulimit -Sn");
    let own = std::process::Command::new("sh")
        .args(["-c", "ulimit -Sn"])
        .output()
        .unwrap();
    assert_eq!(
        client.event("output", "t")["data"].as_str().unwrap(),
        String::from_utf8_lossy(&own.stdout).trim()
    );
}

/// R17
#[test]
fn running_out_of_descriptors_refuses_a_start_and_ends_nothing() {
    let hub = Hub::start_with(ACTIONS, &[], |command| {
        let binary = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let dir = command.get_current_dir().unwrap().to_owned();
        *command = std::process::Command::new("sh");
        command
            .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
            .arg(binary)
            .args(args)
            .current_dir(dir);
    });
    let mut client = hub.client();
    let mut refused = None;
    for round in 0..30 {
        let reply = client.call(
            "start",
            &json!({"action": "sh", "task_id": format!("t{round}"), "params": {"s": "sleep 60"}}),
        );
        if reply["type"] == "error" {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("40 descriptors are not enough for 30 tasks");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("pool rejected task: "),
        "{refused}"
    );
    for round in 0..30 {
        client.ask("stop", &json!({"task_id": format!("t{round}")}));
    }
    testing::eventually(testing::patience(), || {
        testing::children(hub.daemon.pid()).is_empty().then_some(())
    });
    let again = client.call(
        "start",
        &json!({"action": "echo", "params": {"msg": "recovered"}}),
    );
    assert_eq!(again["type"], "started");
}

#[test]
fn orphans_that_nobody_waits_for_are_reaped() {
    let hub = Hub::usual();
    let mut client = hub.client();
    client.start("sh", "t", "setsid sleep 0.2 > /dev/null 2>&1 & exit 0");
    client.event("exited", "t");
    testing::eventually(testing::patience(), || {
        testing::children(hub.daemon.pid()).is_empty().then_some(())
    });
}

/// Whether this machine lets the tests make control groups: root, with the controllers mounted.
#[expect(clippy::print_stderr, reason = "says why a test did nothing")]
fn cgroups_can_be_had() -> bool {
    let limits = overseerctl::cgroup::Limits {
        pids: Some(10),
        memory: Some(1 << 26),
        cpu: None,
    };
    let parent = overseerctl::driver::CgroupParent::Auto;
    let made = overseerctl::cgroup::Cgroup::create(
        &parent,
        &format!("probe-{}", std::process::id()),
        &limits,
    );
    if let Err(error) = &made {
        eprintln!("skipped: {error}");
    }
    made.is_ok()
}

#[test]
fn limits_of_a_control_group_hold() {
    if !cgroups_can_be_had() {
        return;
    }
    let hub = Hub::start(
        "actions:\n  few: {type: exec, config: {entrypoint: sh, command: ['-c', 'for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; \
         wait'], cgroup: {pids: 5}}}\n  small: {type: exec, config: {entrypoint: sh, \
         command: ['-c', 'exec tail /dev/zero'], cgroup: {memory: 32MiB}}}\n",
    );
    let mut client = hub.client();
    client.ask("start", &json!({"action": "small", "task_id": "m"}));
    let exited = client.event("exited", "m");
    assert_eq!(
        (&exited["signal"], &exited["out_of_memory"]),
        (&json!(9), &json!(true)),
        "{exited}"
    );
    let row = client.row_when("m", |row| row["phase"] == "done");
    assert!(
        row["error_message"]
            .as_str()
            .unwrap()
            .starts_with("out of memory")
    );
    client.ask("start", &json!({"action": "few", "task_id": "p"}));
    let refused = client.until(|message| message["stream"] == "stderr");
    assert!(
        refused["data"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("fork"),
        "{refused}"
    );
    client.ask("stop", &json!({"task_id": "p"}));
    client.event("exited", "p");
}
