mod rogue;

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    sync::Arc,
};

use runyard_common::testing::{TempDir, tempdir};

use self::rogue::{Fault, Rogue};
use super::*;
use crate::{
    proto::drivers::driver_server::DriverServer, registry::fake::Fake, server::Plugin,
    state::StateRoot,
};

/// A plugin in shell, for what goes wrong before the first call.
fn script(dir: &TempDir, lines: &str) -> PathBuf {
    let path = dir.path().join("plugin");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

fn broken(report: &Report) -> Vec<(&'static str, String)> {
    let checks = report.checks.iter();
    let failed = checks.filter_map(|check| match &check.verdict {
        Verdict::Fail(because) => Some((check.name, because.clone())),
        _ => None,
    });
    failed.collect()
}

#[test]
fn a_program_that_is_no_plugin_is_told_what_is_wrong_with_its_handshake() {
    let dir = tempdir();
    for (lines, because) in [
        ("echo hello", "fewer than five fields"),
        ("exit 0", "without a handshake"),
        ("echo '1|2|tcp|127.0.0.1:1234|grpc'", "any local user"),
        (
            "test -n \"$NOMAD_PLUGIN_MAGIC_COOKIE\" && echo '1|1|unix|/x|grpc'",
            "wrong version",
        ),
    ] {
        let report = run(&script(&dir, lines), &Wish::default());
        let broken = broken(&report);
        assert_eq!(
            (report.failures(), broken[0].0),
            (1, "handshake"),
            "{lines}"
        );
        assert!(broken[0].1.contains(because), "{}", broken[0].1);
    }
}

#[test]
fn a_plugin_that_nobody_can_connect_to_is_no_plugin() {
    let dir = tempdir();
    let report = run(
        &script(&dir, "echo '1|2|unix|/nowhere/plugin.sock|grpc'"),
        &Wish::default(),
    );
    assert_eq!(broken(&report)[0].0, "connection");
}

struct Scene {
    agent: Agent,
    dir: TempDir,
}

async fn scene() -> Scene {
    let dir = tempdir();
    let socket = dir.path().join("plugin.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let engine = Fake::new(StateRoot::new(dir.path().join("state")));
    tokio::spawn(Plugin::new(engine).serve(listener));
    let agent = Agent::connect(&socket).await.unwrap();
    Scene { agent, dir }
}

#[tokio::test]
async fn this_plugin_keeps_every_rule_that_needs_no_task() {
    let mut scene = scene().await;
    let mut report = Report::default();
    scene.agent.look(&mut report).await;
    scene.agent.try_config(&Wish::default(), &mut report).await;
    scene
        .agent
        .begin_to_use(&Wish::default(), &mut report)
        .await;
    assert_eq!(broken(&report), []);
    assert!(report.checks.len() > 10, "{}", report.checks.len());
}

/// What is said of a driver with one fault, and how often it was told to start a task.
async fn tried(fault: Fault) -> (Report, usize) {
    let dir = tempdir();
    let socket = dir.path().join("plugin.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let engine = Fake::new(StateRoot::new(dir.path().join("state")));
    let rogue = Rogue {
        plugin: Plugin::new(engine.clone()),
        fault,
        waits: Arc::default(),
        commands: Arc::default(),
    };
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server =
        tonic::transport::Server::builder().serve_with_incoming(DriverServer::new(rogue), incoming);
    tokio::spawn(server);
    let mut agent = Agent::connect(&socket).await.unwrap();
    let mut report = Report::default();
    agent.begin_to_use(&Wish::default(), &mut report).await;
    // Nothing but the driver itself is there.
    report.checks.retain(|check| check.name != "config is used");
    let mut job = Job::new(Some(dir.path()), &[]).unwrap();
    let request = job.start_request().task.unwrap();
    // What the fake engine runs writes nothing.
    let writers = [request.stdout_path, request.stderr_path]
        .map(|path| File::options().read(true).write(true).open(path).unwrap());
    let handle = job.start(&mut agent, &mut report).await.unwrap();
    job.look(&mut agent, &mut report).await;
    job.changes_its_reader(&mut agent, &mut report).await;
    drop(writers);
    job.recover(&mut agent, &handle, "recover", &mut report)
        .await;
    job.stop(&mut agent, &mut report).await;
    job.destroy(&mut agent, &mut report).await;
    let wish = Wish {
        dir: Some(dir.path().to_owned()),
        ..Wish::default()
    };
    other_ends(&wish, &[], &mut agent, &mut report).await;
    (report, engine.starts())
}

#[tokio::test]
async fn a_driver_without_a_fault_keeps_every_rule() {
    let (report, starts) = Box::pin(tried(Fault::None)).await;
    assert_eq!(broken(&report), []);
    assert!(report.checks.len() > 45, "{}", report.checks.len());
    assert_eq!(starts, 4);
}

#[tokio::test]
async fn every_fault_breaks_its_rule() {
    let faults = [
        (Fault::CheckWithoutResult, "check"),
        (Fault::CheckOnOneStream, "check"),
        (Fault::MissingCheckPasses, "check that does not exist"),
        (Fault::CheckSaysAll, "check that says much"),
        (Fault::CheckWithoutLimit, "check that takes too long"),
        (Fault::CheckOfNobody, "check of an unknown task"),
        (Fault::LosesInput, "exec"),
        (Fault::NeverExited, "exec"),
        (Fault::WrongSize, "exec with a terminal"),
        (Fault::MissingExecPasses, "exec of what does not exist"),
        (Fault::KeepsCommands, "exec whose user goes away"),
        (Fault::SwallowsSignals, "everyone who waits"),
        (Fault::OtherEnd, "death by a signal"),
        (Fault::OneWait, "everyone who waits"),
        (Fault::EndlessStats, "end of stats"),
        (Fault::StatsOnce, "next stats"),
        (Fault::StaleInspection, "inspection after the end"),
        (Fault::NeverUnforced, "unforced destruction after the end"),
        (Fault::NoHurry, "stop without any time"),
        (Fault::OwnSignal, "stop of a deaf task"),
        (Fault::StrangeEvents, "events"),
        (Fault::RecoversAll, "recovery of what is no task"),
        (Fault::StartsAll, "start of what makes no sense"),
        (Fault::InspectsAll, "inspection of an unknown task"),
        (Fault::SilentStats, "stats of an unknown task"),
    ];
    let mut tries = tokio::task::JoinSet::new();
    for (fault, rule) in faults {
        tries.spawn(async move { (fault, rule, Box::pin(tried(fault)).await.0) });
    }
    while let Some(done) = tries.join_next().await {
        let (fault, rule, report) = done.unwrap();
        let broken = broken(&report);
        assert!(
            broken.iter().any(|(name, _)| *name == rule),
            "{fault:?}: {broken:?}"
        );
    }
}

#[tokio::test]
async fn a_log_that_nobody_writes_to_any_more_is_found() {
    let mut scene = scene().await;
    let mut report = Report::default();
    let mut job = Job::new(Some(scene.dir.path()), &[]).unwrap();
    job.start(&mut scene.agent, &mut report).await.unwrap();
    job.changes_its_reader(&mut scene.agent, &mut report).await;
    assert_eq!(broken(&report)[0].0, "another reader of the log");
}

#[tokio::test]
async fn a_handle_without_its_task_is_found() {
    let mut scene = scene().await;
    let job = Job::new(Some(scene.dir.path()), &[]).unwrap();
    let mut report = Report::default();
    let handle = TaskHandle {
        version: 1,
        ..TaskHandle::default()
    };
    job.recover(&mut scene.agent, &handle, "recover", &mut report)
        .await;
    assert_eq!(broken(&report)[0].0, "recover");
}
