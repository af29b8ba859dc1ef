//! The job files of `examples/` on a real agent, and what people do with running jobs.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use runyard_common::testing::{Output, eventually, patience};

use super::{
    agent::{Agent, Ask, in_path},
    http::{self, Files},
    jars,
};

/// A healthy agent, and the JAR at a URL.
pub(crate) fn place() -> Option<(Agent, String)> {
    let app = jars::app()?;
    let agent = Agent::healthy()?;
    let url = Files::serve([("app.jar", app)]).url("app.jar");
    Some((agent, format!("jar_url={url}")))
}

#[test]
fn the_greeting_is_said_and_not_run() {
    let Some(agent) = Agent::healthy() else {
        return;
    };
    agent.run("hello", &["greeting=Hello; $(touch /tmp/x) `id`"]);
    let task = agent.dead("hello", "hello");
    task.has_event("Terminated", "Exit Code: 0");
    let log = agent.nomad(&["alloc", "logs", &task.allocation]);
    assert_eq!(log.success(), "Hello; $(touch /tmp/x) `id`\n");
    let log = agent.nomad(&["alloc", "logs", "-stderr", &task.allocation]);
    assert_eq!(log.success(), "");
}

#[test]
fn a_downloaded_jar_says_exactly_what_it_says() {
    let Some((agent, url)) = place() else { return };
    agent.run("jar", &[&url]);
    let task = agent.dead("jar", "jar");
    task.has_event("Terminated", "Exit Code: 0");
    assert_eq!(task.state["Failed"], false);
    let log = agent.nomad(&["alloc", "logs", &task.allocation]).success();
    assert_eq!(log, "Hello from Java!\nMilo driver test complete\n");
    // Stopped, forgotten, and nothing of it is left.
    agent
        .nomad(&["job", "stop", "-detach", "-purge", "jar"])
        .success();
    eventually(patience(), || {
        agent.nomad(&["system", "gc"]).success();
        agent
            .driver(&["ps", "--all"])
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
}

#[test]
fn a_failed_jar_is_started_again_as_often_as_the_job_says_and_its_code_is_told() {
    let Some((agent, url)) = place() else { return };
    agent.run("jar", &[&url, r#"args=["exit","42"]"#, "attempts=1"]);
    let task = agent.dead("jar", "jar");
    assert_eq!(
        (&task.state["Failed"], &task.state["Restarts"]),
        (&true.into(), &1.into())
    );
    task.has_event("Terminated", "Exit Code: 42");
    task.has_event("Restarting", "Task restarting in");
    task.has_event("Not Restarting", "Exceeded allowed attempts 1");
    assert_eq!(task.client_status, "failed");
    let log = agent.nomad(&["alloc", "logs", &task.allocation]).success();
    assert_eq!(log, "Application encountered an error\n".repeat(2));
}

#[test]
fn a_java_job_runs_with_nothing_but_its_driver_changed() {
    let Some((agent, url)) = place() else { return };
    agent.run("java", &[&url]);
    let task = agent.dead("java", "java");
    task.has_event("Terminated", "Exit Code: 0");
    assert_eq!(
        agent.nomad(&["alloc", "logs", &task.allocation]).success(),
        "one two\n"
    );
}

#[test]
fn each_task_gets_the_jvm_it_asks_for() {
    let Some(agent) = Agent::healthy() else {
        return;
    };
    // The newest of what this host has; its vendor is asked for, too.
    let jres = agent.driver(&["jres"]);
    let jres = jres["jres"].as_array().unwrap();
    let newest = jres
        .iter()
        .max_by_key(|jre| jre["major"].as_u64())
        .expect("a JVM");
    let (version, vendor) = (
        newest["version"].as_str().unwrap(),
        newest["vendor"].as_str().unwrap(),
    );
    let major = newest["major"].to_string();
    agent.run(
        "jres",
        &[&format!("version={major}"), &format!("vendor={vendor}")],
    );
    for task in ["default", "version", "vendor"] {
        let dead = agent.dead("jres", task);
        dead.has_event("Terminated", "Exit Code: 0");
        let log = agent
            .nomad(&["alloc", "logs", "-stderr", "-task", task, &dead.allocation])
            .success();
        let is_newest = log.contains(&format!("\"{version}\""));
        assert!(
            log.contains("version") && (is_newest || task == "default"),
            "{task}: {log}"
        );
    }
}

#[test]
fn limits_hold_and_a_task_killed_for_its_memory_says_so() {
    let Some((agent, url)) = place() else { return };
    // Also what lies beside the heap is the task's memory: there is no room for both.
    agent.run("limits", &[&url, r#"args=["eat"]"#, "heap_percent=95"]);
    let task = agent.dead("limits", "limits");
    task.has_event("Terminated", "Exit Code: 137");
    let events = task.state["Events"].as_array().unwrap();
    let end = events
        .iter()
        .find(|event| event["Type"] == "Terminated")
        .unwrap();
    assert_eq!(end["Details"]["oom_killed"], "true", "{end:#}");
    assert_eq!(task.state["Failed"], true);
}

#[test]
fn a_running_task_is_entered_signalled_measured_and_stopped() {
    let Some((agent, url)) = place() else { return };
    agent.run("jar", &[&url, r#"args=["stay"]"#]);
    let task = agent.running("jar", "jar");
    let allocation = task.allocation.as_str();
    agent.said(allocation, "jar", "Starting application...");

    enter(&agent, allocation);
    agent
        .nomad(&["alloc", "signal", "-s", "SIGHUP", allocation])
        .success();
    agent.said(allocation, "jar", "hung up");
    let refused = agent.nomad(&["alloc", "signal", "-s", "SIGNONE", allocation]);
    assert!(
        refused.code != 0 && refused.stderr.contains("SIGNONE"),
        "{refused}"
    );

    agent.watch(
        &format!("/v1/client/allocation/{allocation}/stats"),
        |stats| {
            let usage = &stats["Tasks"]["jar"]["ResourceUsage"];
            let is_measured = usage["MemoryStats"]["Measured"]
                .as_array()?
                .contains(&"RSS".into());
            (is_measured && usage["MemoryStats"]["RSS"].as_u64()? > 1 << 20).then_some(())?;
            // The second reading is the first that has a rate.
            (usage["CpuStats"]["TotalTicks"].as_f64()? > 0.0).then_some(())
        },
    );

    let begin = Instant::now();
    agent.nomad(&["job", "stop", "-detach", "jar"]).success();
    let task = agent.dead("jar", "jar");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    task.has_event("Killing", "Sent interrupt");
    task.has_event("Terminated", "Exit Code: 143");
    assert_eq!(
        (&task.state["Failed"], task.client_status.as_str()),
        (&false.into(), "complete")
    );
    assert!(agent.containers().is_empty());
}

/// Commands in a running task: streams and exit code are the command's own, environment and user are the task's.
fn enter(agent: &Agent, allocation: &str) {
    let exec = agent.nomad(&[
        "alloc",
        "exec",
        "-t=false",
        allocation,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (exec.code, exec.stdout.as_str(), exec.stderr.as_str()),
        (7, "out\n", "err\n"),
        "{exec}"
    );
    let exec = agent.nomad(&[
        "alloc",
        "exec",
        "-t=false",
        allocation,
        "sh",
        "-c",
        "echo $NOMAD_TASK_DIR $NOMAD_JOB_NAME; [ $(id -u) = 0 ] || echo nobody; cat /proc/1/comm",
    ]);
    assert_eq!(exec.stdout, "/local jar\nnobody\njava\n", "{exec}");

    if in_path("script").is_some() {
        let tty = agent.terminal(&format!(
            "alloc exec -i -t {allocation} sh -c 'test -t 0 && tty; exit 5'"
        ));
        assert!(tty.code == 5 && tty.stdout.contains("/dev/"), "{tty}");
    }
}

#[test]
fn a_service_is_found_checked_and_restarted_by_hand() {
    let Some((agent, url)) = place() else { return };
    agent.run("service", &[&url]);
    let task = agent.running("service", "web");
    agent.said(&task.allocation, "web", "listening on");
    let services = agent.watch("/v1/service/web", |services| {
        let services = services.as_array()?;
        (services.len() == 1).then(|| services.clone())
    });
    let port = u16::try_from(services[0]["Port"].as_u64().unwrap()).unwrap();
    // What it answers is in the file that the template made in its secrets.
    assert_eq!(
        http::ask(port, "GET", "/health", "").unwrap().body,
        format!("{port}\n")
    );
    agent.watch(
        &format!("/v1/client/allocation/{}/checks", task.allocation),
        |checks| {
            let mut checks = checks.as_object()?.values();
            checks
                .any(|check| check["Status"] == "success")
                .then_some(())
        },
    );
    let before = agent.containers();
    agent
        .nomad(&["alloc", "restart", &task.allocation])
        .success();
    let task = agent.task("service", "web", |state| {
        state["State"] == "running" && state["Restarts"] == 1
    });
    task.has_event("Restart Signaled", "");
    let after = agent.containers();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
}

#[test]
fn what_is_no_jar_fails_with_its_reason_in_the_log_and_in_the_events() {
    let Some(agent) = Agent::healthy() else {
        return;
    };
    let files = Files::serve([("my-script.py", b"print('no')\n".to_vec())]);
    agent.run("jar", &[&format!("jar_url={}", files.url("my-script.py"))]);
    let task = agent.dead("jar", "jar");
    let said = "Error: Artifact must be a .jar file, got: my-script.py";
    task.has_event("Driver Failure", said);
    assert_eq!(
        (&task.state["Failed"], task.client_status.as_str()),
        (&true.into(), "failed")
    );
    // `alloc logs` refuses a task that never started; its log is there nevertheless.
    let file = "alloc/logs/jar.stderr.0";
    let log = agent
        .nomad(&["alloc", "fs", &task.allocation, file])
        .success();
    assert!(log.starts_with(&format!("{said}\n")), "{log}");
    assert_eq!(agent.driver(&["ps", "--all"]), serde_json::json!([]));
}

#[test]
fn a_jar_that_cannot_be_downloaded_fails_before_the_driver_is_asked() {
    let Some(agent) = Agent::healthy() else {
        return;
    };
    let files = Files::serve([]);
    agent.run("jar", &[&format!("jar_url={}", files.url("app.jar"))]);
    let task = agent.dead("jar", "jar");
    task.has_event("Failed Artifact Download", "404");
}

#[test]
fn a_group_with_a_bridge_has_a_network_of_its_own() {
    let Some(plugins) = cni() else { return };
    let Some(app) = jars::app() else { return };
    if !own_network() {
        return;
    }
    let client = format!("  cni_path = \"{}\"", plugins.path().display());
    let Some(agent) = Agent::start(&Ask {
        client: &client,
        ..Ask::default()
    }) else {
        return;
    };
    agent.wait_until_healthy();
    let url = Files::serve([("app.jar", app)]).url("app.jar");
    agent.run("bridge", &[&format!("jar_url={url}")]);
    let task = agent.running("bridge", "server");
    agent.said(&task.allocation, "server", "listening on 8080");
    let exec = agent.nomad(&[
        "alloc", "exec", "-t=false", &task.allocation, "bash", "-c",
        "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3; grep -c backend.example /etc/hosts",
    ]);
    assert_eq!(exec.stdout, "HTTP/1.1 200 OK\r\n1\n", "{exec}");
    let allocation = agent.watch(
        &format!("/v1/allocation/{}", task.allocation),
        |allocation| {
            let status = allocation["NetworkStatus"]["Address"].as_str()?;
            (!status.is_empty()).then(|| allocation.clone())
        },
    );
    assert_eq!(allocation["NetworkStatus"]["InterfaceName"], "eth0");
    agent.nomad(&["job", "stop", "-detach", "bridge"]).success();
    agent
        .dead("bridge", "server")
        .has_event("Terminated", "Exit Code: 143");
}

/// The reference CNI plugins under names of which Nomad learns their version: distributions build them without one, and
/// then Nomad places no group with a bridge.
fn cni() -> Option<runyard_common::testing::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let places = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
    let names = ["bridge", "firewall", "host-local", "loopback", "portmap"];
    let has_all = |place: &&&str| {
        names
            .iter()
            .all(|name| fs::exists(format!("{place}/{name}")).unwrap_or(false))
    };
    let Some(place) = places
        .iter()
        .find(has_all)
        .filter(|_| in_path("iptables").is_some())
    else {
        eprintln!("skipped: needs the CNI plugins {names:?} in one of {places:?}, and iptables");
        return None;
    };
    let dir = runyard_common::testing::tempdir();
    for name in names {
        let script = format!(
            "#!/bin/sh\nexport PATH=\"$PATH:{place}\"\n[ -n \"$CNI_COMMAND\" ] && exec {place}/{name}\n\
             echo \"CNI {name} plugin v1.1.1\" >&2\n"
        );
        let file = dir.path().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Some(dir)
}

/// Gives this test's thread, and what it starts, a network apart: the bridge and its firewall rules are not the host's.
fn own_network() -> bool {
    #[expect(
        unsafe_code,
        reason = "no descriptors are shared between threads that this could part"
    )]
    // SAFETY: only this thread's network namespace changes, which no memory depends on.
    let parted = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    if let Err(error) = parted {
        eprintln!("skipped: needs a network namespace: {error}");
        return false;
    }
    Output::of(Command::new("ip").args(["link", "set", "lo", "up"])).success();
    true
}
