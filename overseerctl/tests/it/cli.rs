//! The command line against a real daemon, and against what looks like a sticky-overseer.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the failure")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use runyard_common::{
    exit::Exit,
    testing::{self, Daemon, Output},
};
use serde_json::{Value, json};

use crate::{
    hub::{ACTIONS, Hub},
    original,
};

/// The client, talking to the hub at `url`, with nothing of this process's environment that it would obey.
fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(testing::tool_binary("overseerctl"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OVERSEER_"))
    {
        command.env_remove(name);
    }
    command
        .env_remove("RUNYARD_LOG")
        .args(["--url", url])
        .args(args);
    command
}

fn run(url: &str, args: &[&str]) -> Output {
    Output::of(&mut command(url, args))
}

fn json(url: &str, args: &[&str]) -> Value {
    let stdout = run(url, &[&["--output", "json"], args].concat()).success();
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
}

/// The states of a task, as `list` has them.
fn task(url: &str, id: &str) -> Value {
    let tasks = json(url, &["list"]);
    tasks
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["task_id"] == id)
        .cloned()
        .unwrap_or_default()
}

/// Runs a check against our own daemon, and against the stand-in for the original.
fn on_both(check: impl Fn(&str)) {
    let hub = Hub::usual();
    check(&hub.address);
    let hub = Hub::usual();
    check(&original::in_front_of(&hub));
}

#[test]
fn run_is_like_the_command_itself() {
    on_both(|url| {
        let output = run(url, &["run", "sh", "s=echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (7, "out\n", "err\n")
        );
        assert_eq!(run(url, &["run", "echo", "msg=a=b"]).success(), "a=b\n");
    });
}

#[test]
fn a_signal_is_128_plus_n_where_the_hub_tells_it() {
    let hub = Hub::usual();
    let killed = ["run", "sh", "s=kill -9 $$"];
    assert_eq!(run(&hub.address, &killed).code, 137);
    assert_eq!(run(&original::in_front_of(&hub), &killed).code, 1);
}

#[test]
fn a_line_of_ten_megabytes_comes_whole() {
    let hub = Hub::usual();
    // A control character takes six bytes of JSON.
    let script = "s=head -c 10000000 /dev/zero | tr '\\0' '\\001'; echo";
    let stdout = run(&hub.address, &["run", "sh", script]).success();
    assert!(stdout.len() == 10_000_001 && stdout.bytes().take(10_000_000).all(|byte| byte == 1));
}

#[test]
fn run_goes_on_over_restarts_and_ends_with_the_last_code() {
    on_both(|url| {
        let args = [
            "run",
            "sh",
            "--retry-delay",
            "20ms",
            "--error-threshold",
            "3",
            "s=echo try; exit 4",
        ];
        let output = run(url, &args);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (4, "try\ntry\ntry\n")
        );
    });
}

#[test]
fn an_interrupt_stops_the_task_and_its_own_code_is_returned() {
    let hub = Hub::usual();
    let script = "s=trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let (mut client, ()) = Daemon::start(command(&hub.address, &["run", "sh", script]), |line| {
        (line == "ready").then_some(())
    });
    client.interrupt();
    assert_eq!(client.wait(testing::patience()).code(), Some(9));
    assert!(client.output().contains("out bye\n"));
}

#[test]
fn a_second_interrupt_leaves_the_task_to_itself() {
    let mut hub = Hub::start(&format!("stop_grace: 1h\nshutdown_grace: 100ms\n{ACTIONS}"));
    let script = "s=trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done";
    let args = ["run", "sh", "--id", "stubborn", script];
    let (mut client, ()) = Daemon::start(command(&hub.address, &args), |line| {
        (line == "ready").then_some(())
    });
    client.interrupt();
    client.wait_for_line(|line| (line == "no").then_some(()));
    client.interrupt();
    assert_eq!(client.wait(testing::patience()).code(), Some(130));
    assert_eq!(task(&hub.address, "stubborn")["worker_state"], "running");
    assert_eq!(hub.daemon.stop().code(), Some(0));
}

#[test]
fn a_task_whose_reader_went_away_is_stopped() {
    let hub = Hub::usual();
    let mut client = command(
        &hub.address,
        &[
            "run",
            "sh",
            "--id",
            "loud",
            "s=while :; do echo x; sleep 0.01; done",
        ],
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut reader = BufReader::new(client.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    assert_eq!(client.wait().unwrap().code(), Some(0));
    testing::eventually(testing::patience(), || {
        (task(&hub.address, "loud")["worker_state"] == "exited").then_some(())
    });
}

#[test]
fn what_is_refused_says_why_and_what_to_do() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    let unknown = run(url, &["start", "nope"]).failure(Exit::NotFound);
    assert!(
        unknown.contains("no action `nope`")
            && unknown.contains("hint: it has: echo, one, sh, strict"),
        "{unknown}"
    );
    let missing = run(url, &["start", "echo"]).failure(Exit::Failed);
    assert!(
        missing.contains("required parameter \"msg\" is missing")
            && missing.contains("describe echo"),
        "{missing}"
    );
    let none = run(url, &["logs", "nobody"]).failure(Exit::NotFound);
    assert!(none.contains("no task `nobody`"), "{none}");
    for args in [
        ["stop", "nobody"],
        ["follow", "nobody"],
        ["reset", "nobody"],
        ["remove", "nobody"],
        ["pool", "nope"],
        ["purge", "nope"],
    ] {
        run(url, &args).failure(Exit::NotFound);
    }
    run(url, &["metrics", "--task", "nobody"]).failure(Exit::NotFound);
    run(url, &["run", "echo", "msg"]).failure(Exit::Usage);
    run(url, &["start", "echo", "msg=x", "--retry-delay", "5"]).failure(Exit::Usage);
    let unreachable = run("127.0.0.1:1", &["list"]).failure(Exit::Unreachable);
    assert!(
        unreachable.contains("cannot reach the hub at ws://127.0.0.1:1/ws"),
        "{unreachable}"
    );
}

#[test]
fn a_taken_id_is_named_and_replace_frees_it() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    run(url, &["run", "echo", "--id", "t", "msg=1"]).success();
    let taken = run(url, &["start", "echo", "--id", "t", "msg=2"]).failure(Exit::Failed);
    assert!(
        taken.contains("the id `t` is taken") && taken.contains("--replace"),
        "{taken}"
    );
    assert_eq!(
        run(url, &["run", "echo", "--id", "t", "--replace", "msg=2"]).success(),
        "2\n"
    );
    assert_eq!(
        json(url, &["remove", "t"]),
        json!([{"task_id": "t", "state": "removed"}])
    );
    assert_eq!(json(url, &["list"]), json!([]));
}

#[test]
fn extensions_are_refused_by_name_where_the_hub_has_none() {
    let hub = Hub::usual();
    let url = original::in_front_of(&hub);
    run(&url, &["run", "echo", "--id", "t", "msg=1"]).success();
    for args in [
        ["stop", "--kill", "t"].as_slice(),
        &["start", "echo", "msg=2", "--id", "t", "--replace"],
        &["start", "echo", "msg=2", "--restart", "on-failure"],
    ] {
        let refused = run(&url, args).failure(Exit::Failed);
        assert!(
            refused.contains("is a sticky-overseer, which has no `--"),
            "{refused}"
        );
    }
    for args in [["remove", "t"].as_slice(), &["history"]] {
        let refused = run(&url, args).failure(Exit::Failed);
        assert!(refused.contains("does not understand"), "{refused}");
    }
}

#[test]
fn start_prints_what_became_of_it() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    let started = json(url, &["start", "one", "--id", "a", "s=exec sleep 1000"]);
    assert_eq!(
        (&started["task_id"], &started["action"]),
        (&json!("a"), &json!("one"))
    );
    assert!(
        started["state"] == "started" && started["pid"].as_u64() > Some(1),
        "{started}"
    );
    let queued = json(url, &["start", "one", "--id", "b", "s=true"]);
    assert_eq!(
        queued,
        json!({"task_id": "b", "action": "one", "state": "queued", "position": 1})
    );
    assert_eq!(
        run(url, &["start", "one", "--id", "c", "s=true"]).success(),
        "c  queued  position 2\n"
    );
}

#[test]
fn a_queued_start_is_waited_for_and_its_end_in_the_queue_is_a_failure() {
    on_both(|url| {
        run(url, &["start", "one", "--id", "a", "s=exec sleep 1000"]).success();
        let wait = |id: &str| command(url, &["start", "one", "--id", id, "--wait", "s=echo ran"]);
        let is_queued = |line: &str| line.contains("waits in the queue").then_some(());
        let (mut admitted, ()) = Daemon::start(wait("b"), is_queued);
        let (mut purged, ()) = Daemon::start(wait("c"), is_queued);
        run(url, &["stop", "c"]).success();
        assert_eq!(purged.wait(testing::patience()).code(), Some(1));
        assert!(
            purged
                .output()
                .contains("`c` left the queue without having run: pool: task dequeued")
        );
        run(url, &["stop", "--wait", "a"]).success();
        assert_eq!(admitted.wait(testing::patience()).code(), Some(0));
        assert!(admitted.output().contains("out b  started  pid "));
    });
}

#[test]
fn stop_waits_for_the_end_of_all_and_names_those_that_are_not_there() {
    on_both(|url| {
        let script = "s=trap 'sleep 0.2; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        run(url, &["start", "sh", "--id", "a", script]).success();
        run(url, &["start", "one", "--id", "b", "s=exec sleep 1000"]).success();
        run(url, &["start", "one", "--id", "c", "s=true"]).success();
        let output = run(url, &["stop", "--wait", "a", "b", "c", "nobody"]);
        assert_eq!(output.code, Exit::NotFound.code(), "{output}");
        assert!(output.stderr.contains("no task `nobody`"), "{output}");
        for id in ["a", "b"] {
            assert!(
                output.stdout.contains(&format!("{id}  stopped\n")),
                "{output}"
            );
            assert_eq!(task(url, id)["worker_state"], "exited");
        }
        // It may have been admitted by the end of `b`.
        assert!(
            output.stdout.contains("c  dequeued\n") || output.stdout.contains("c  stopped\n"),
            "{output}"
        );
    });
}

#[test]
fn kill_skips_the_grace() {
    let hub = Hub::start(&format!("stop_grace: 1h\n{ACTIONS}"));
    let url = hub.address.as_str();
    run(
        url,
        &[
            "start",
            "sh",
            "--id",
            "a",
            "s=trap '' TERM; while :; do sleep 0.01; done",
        ],
    )
    .success();
    run(url, &["stop", "--kill", "--wait", "a"]).success();
    assert_eq!(task(url, "a")["last_exit_code"], -1);
}

/// R19
#[test]
fn following_over_restarts_has_no_gap_and_no_repetition() {
    on_both(|url| {
        let script =
            "s=i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.002; done; exit 3";
        let flags = [
            "--id",
            "t",
            "--retry-delay",
            "10ms",
            "--error-threshold",
            "4",
        ];
        run(
            url,
            &[&["start", "sh"], flags.as_slice(), &[script]].concat(),
        )
        .success();
        let output = run(url, &["--output", "json", "follow", "t"]).success();
        let events: Vec<Value> = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let seqs: Vec<u64> = events
            .iter()
            .filter_map(|event| event["seq"].as_u64())
            .collect();
        assert!(
            seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{seqs:?}"
        );
        assert_eq!(seqs.last(), Some(&240));
        let starts = events
            .iter()
            .filter(|event| event["type"] == "started")
            .count();
        assert!(starts <= 3, "a restart was told twice");
        assert_eq!(events.last().unwrap()["type"], "errored");
    });
}

#[test]
fn a_follow_ends_when_the_restart_it_waits_for_is_cancelled() {
    on_both(|url| {
        run(
            url,
            &[
                "start",
                "sh",
                "--id",
                "t",
                "--retry-delay",
                "1h",
                "s=echo once; exit 1",
            ],
        )
        .success();
        let (mut follow, ()) = Daemon::start(command(url, &["follow", "t"]), |line| {
            line.contains("exited with code 1").then_some(())
        });
        // No message tells of this.
        run(url, &["stop", "t"]).success();
        assert_eq!(follow.wait(testing::patience()).code(), Some(0));
        assert!(follow.output().contains("out once\n"));
    });
}

#[test]
fn logs_are_the_lines_that_were_asked_for() {
    on_both(|url| {
        run(url, &["run", "sh", "--id", "t", "s=seq 1 5; echo oops >&2"]).success();
        assert_eq!(
            run(url, &["logs", "t", "--stream", "stdout", "--tail", "2"]).success(),
            "4\n5\n"
        );
        assert_eq!(
            run(url, &["logs", "t", "--stream", "stderr"]).success(),
            "oops\n"
        );
        let dated = run(
            url,
            &[
                "logs",
                "t",
                "--timestamps",
                "--tail",
                "1",
                "--stream",
                "stdout",
            ],
        )
        .success();
        assert!(
            dated.ends_with("Z 5\n") && dated.starts_with("20"),
            "{dated}"
        );
        assert_eq!(
            run(url, &["logs", "t", "--since", "2999-01-01T00:00:00Z"]).success(),
            ""
        );
        assert_eq!(
            run(url, &["logs", "t", "--since", "1h", "--stream", "stderr"]).success(),
            "oops\n"
        );
    });
}

#[test]
fn a_list_is_sorted_and_filtered() {
    on_both(|url| {
        for id in ["z", "y", "x"] {
            run(url, &["run", "echo", "--id", id, "msg=1"]).success();
        }
        run(url, &["start", "one", "--id", "w", "s=exec sleep 1000"]).success();
        run(url, &["start", "one", "--id", "a", "s=true"]).success();
        let ids = |args: &[&str]| -> Vec<String> {
            let tasks = json(url, args);
            tasks
                .as_array()
                .unwrap()
                .iter()
                .map(|task| task["task_id"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(ids(&["list"]), ["z", "y", "x", "w", "a"]);
        assert_eq!(ids(&["list", "--state", "running,queued"]), ["w", "a"]);
        assert_eq!(
            ids(&["list", "--since", "2999-01-01T00:00:00Z"]),
            ["a"],
            "waiting starts are always shown"
        );
        let table = run(url, &["list"]).success();
        assert!(table.starts_with("TASK  ACTION  STATE"), "{table}");
    });
}

#[test]
fn setting_one_limit_leaves_the_others() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    assert_eq!(
        json(url, &["pool", "set", "one", "--limit", "3"])["limit"],
        3
    );
    let described = json(url, &["describe", "one"]);
    assert_eq!(
        described["task_pool"]["queue"],
        json!({"enabled": true, "size": 2, "order": "", "max_age": 0, "displace": ""})
    );
    run(url, &["pool", "set", "one", "--queue-size", "5"]).success();
    assert_eq!(
        json(url, &["pool", "one"]),
        json!({"action": "one", "limit": 3, "running": 0, "queue_depth": 0})
    );
    assert_eq!(
        json(url, &["describe", "one"])["task_pool"]["queue"]["size"],
        5
    );
    let incomplete = run(url, &["pool", "set", "--limit", "3"]).failure(Exit::Usage);
    assert!(incomplete.contains("--queue-size"), "{incomplete}");
    run(url, &["pool", "set", "one"]).failure(Exit::Usage);
}

#[test]
fn pools_metrics_and_manifest_are_shown() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    run(url, &["run", "echo", "--id", "t", "msg=1"]).success();
    run(url, &["start", "one", "--id", "a", "s=exec sleep 1000"]).success();
    run(url, &["start", "one", "--id", "b", "s=true"]).success();
    let pool = run(url, &["pool", "one"]).success();
    assert!(
        pool.contains("limit    1\n")
            && pool.contains("waiting  1\n")
            && pool.contains("0 b (one), for "),
        "{pool}"
    );
    assert_eq!(
        json(url, &["purge", "one"]),
        json!({"count": 1, "action": "one"})
    );
    assert_eq!(json(url, &["metrics"])["tasks_started"], 2);
    assert_eq!(json(url, &["metrics", "--task", "t"])["output_lines"], 1);
    assert_eq!(
        json(url, &["metrics", "--action", "echo"])["total_output_lines"],
        1
    );
    assert_eq!(json(url, &["manifest"])["protocol"], "sticky-overseer");
    let snapshot = json(url, &["top"]);
    assert_eq!(
        snapshot["pools"][1],
        json!({"name": "one", "limit": 1, "running": 1, "queue_depth": 0})
    );
    assert_eq!(snapshot["tasks"].as_array().unwrap().len(), 2);
}

#[test]
fn an_errored_task_is_reset() {
    let hub = Hub::usual();
    let url = hub.address.as_str();
    run(
        url,
        &[
            "run",
            "sh",
            "--id",
            "t",
            "--error-threshold",
            "1",
            "s=exit 1",
        ],
    )
    .failure(Exit::Failed);
    assert_eq!(task(url, "t")["state"], "errored");
    assert_eq!(json(url, &["reset", "t"])["state"], "started");
    let (id, args) = ("done", ["run", "echo", "--id", "done", "msg=1"]);
    run(url, &args).success();
    assert!(
        run(url, &["reset", id])
            .failure(Exit::Failed)
            .contains("task `done` cannot be reset")
    );
}

#[test]
fn history_comes_from_the_store() {
    let hub = Hub::start_with(ACTIONS, &["--db", "runs.db"], |_| {});
    let url = hub.address.as_str();
    run(url, &["run", "sh", "--id", "t", "s=exit 3"]).failure(Exit::Child(3));
    let runs = testing::eventually(testing::patience(), || {
        let runs = json(url, &["history", "--task", "t"]);
        (runs[0]["outcome"] == "exited").then_some(runs)
    });
    assert_eq!(
        (&runs[0]["action"], &runs[0]["exit_code"]),
        (&json!("sh"), &json!(3))
    );
    let table = run(url, &["history", "--action", "sh"]).success();
    assert!(
        table.starts_with("TASK  ACTION  STARTED") && table.contains("exit 3"),
        "{table}"
    );
    let none = run(&Hub::usual().address, &["history"]).failure(Exit::Failed);
    assert!(none.contains("no store") && none.contains("--db"), "{none}");
}

#[test]
fn a_unix_socket_and_a_token_are_all_that_is_needed() {
    let dir = testing::tempdir();
    let (socket, token) = (dir.path().join("hub.sock"), dir.path().join("token"));
    std::fs::write(&token, "hunter2\n").unwrap();
    let (url, token) = (
        format!("unix:{}", socket.display()),
        token.to_str().unwrap(),
    );
    let hub = Hub::start_with(ACTIONS, &["--listen", &url, "--token-file", token], |_| {});
    let refused = run(&hub.address, &["list"]).failure(Exit::Failed);
    assert!(
        refused.contains("wants a token") && refused.contains("--token-file"),
        "{refused}"
    );
    let wrong = run(&hub.address, &["--token", "wrong", "list"]).failure(Exit::Failed);
    assert!(
        wrong.contains("does not accept this token") && !wrong.contains("wrong\n"),
        "{wrong}"
    );
    testing::eventually(testing::patience(), || socket.exists().then_some(()));
    for place in [url.as_str(), socket.to_str().unwrap()] {
        assert_eq!(
            run(place, &["--token-file", token, "run", "echo", "msg=hi"]).success(),
            "hi\n"
        );
    }
    let by_variable =
        Output::of(command(&hub.address, &["list"]).env("OVERSEER_TOKEN_FILE", token));
    by_variable.success();
}

#[test]
fn a_certificate_of_nobody_known_is_not_trusted() {
    let (hub, _, url) = Hub::with_tls();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca = hub.dir.path().join("other.pem");
    std::fs::write(&ca, other.cert.pem()).unwrap();
    let refused = run(&url, &["--ca", ca.to_str().unwrap(), "list"]).failure(Exit::Unreachable);
    assert!(
        refused.contains("certificate") && refused.contains("--ca FILE"),
        "{refused}"
    );
    std::fs::write(&ca, "nothing").unwrap();
    let unusable = run(&url, &["--ca", ca.to_str().unwrap(), "list"]).failure(Exit::Config);
    assert!(unusable.contains("BEGIN CERTIFICATE"), "{unusable}");
    // Plain WebSocket to a port that speaks TLS.
    run(&hub.address, &["--timeout", "1s", "list"]).failure(Exit::Unreachable);
}

#[test]
fn the_doctor_tells_which_hub_it_is_and_fails_when_there_is_none() {
    let hub = Hub::usual();
    let findings = json(&hub.address, &["doctor"]);
    let finding = |name: &str| {
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["check"] == name)
            .cloned()
            .unwrap_or_default()
    };
    for name in ["hub", "protocol", "actions", "health", "ready"] {
        assert_eq!(finding(name)["verdict"], "ok", "{findings}");
    }
    assert!(
        finding("protocol")["says"]
            .as_str()
            .unwrap()
            .starts_with("overseerctl "),
        "{findings}"
    );
    let original = run(&original::in_front_of(&hub), &["doctor"]);
    assert!(
        original
            .stdout
            .contains("sticky-overseer v2, without extensions"),
        "{original}"
    );
    let none = run("127.0.0.1:1", &["doctor"]);
    assert!(
        none.code == 1 && none.stdout.starts_with("FAIL  hub"),
        "{none}"
    );
}

#[test]
fn the_originals_spelling_of_flags_works() {
    let dir = testing::tempdir();
    let config = dir.path().join("c.yaml");
    std::fs::write(&config, ACTIONS).unwrap();
    let mut serve = Command::new(testing::tool_binary("overseerctl"));
    serve
        .args(["serve", "-config"])
        .arg(&config)
        .env("OVERSEER_LISTEN", "127.0.0.1:0")
        .current_dir(dir.path());
    let (mut daemon, address) = Daemon::start(serve, crate::hub::announced);
    assert_eq!(run(&address, &["run", "echo", "msg=1"]).success(), "1\n");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(run("", &["serve", "-list-handlers"]).success(), "exec\n");
    assert_eq!(
        run("", &["-version"]).success(),
        format!("overseerctl {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_configuration_is_checked_shown_and_exemplified() {
    let dir = testing::tempdir();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (good, bad, example) = (path("good.yaml"), path("bad.yaml"), path("example.yaml"));
    std::fs::write(&good, ACTIONS).unwrap();
    std::fs::write(&bad, "actions: {x: {type: nope}}").unwrap();
    let check = |path: &str| run("", &["config", "check", "--config", path]);
    assert_eq!(check(&good).success(), format!("ok: {good}, 4 actions\n"));
    let refused = check(&bad).failure(Exit::Config);
    assert!(
        refused.contains("nope") && refused.contains("actions.x"),
        "{refused}"
    );
    std::fs::write(&example, run("", &["config", "example"]).success()).unwrap();
    check(&example).success();
    let shown = json("", &["config", "show", "--config", &good]);
    assert!(
        shown.as_object().is_some_and(|keys| !keys.is_empty()),
        "{shown}"
    );
}

#[test]
fn a_template_that_cannot_be_parsed_is_named_before_anybody_starts_it() {
    let dir = testing::tempdir();
    let path = dir.path().join("config.yaml");
    let config = r#"actions: {x: {type: exec, config: {entrypoint: echo, command: [a, "[[.x"]}}}"#;
    std::fs::write(&path, config).unwrap();
    let checked = run("", &["config", "check", "--config", path.to_str().unwrap()]);
    assert!(
        checked
            .stderr
            .contains("actions.x.config.command[1]: template parse error:"),
        "{}",
        checked.stderr
    );
    checked.success();
}

#[test]
fn completions_manual_and_version_need_no_hub() {
    let url = "127.0.0.1:1";
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(
            run(url, &["completions", shell])
                .success()
                .contains("overseerctl")
        );
    }
    let page = run(url, &["man"]).success();
    assert!(
        page.contains(".TH overseerctl 1") && page.contains(".SH \"OVERSEERCTL STOP\""),
        "{page}"
    );
    assert_eq!(json(url, &["version"])["name"], "overseerctl");
}
