use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use runyard_common::testing::{TempDir, tempdir};

use super::*;
use crate::{registry::fake::Fake, server::Plugin, state::StateRoot};

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
    engine: Fake,
    agent: Agent,
    dir: TempDir,
}

async fn scene() -> Scene {
    let dir = tempdir();
    let socket = dir.path().join("plugin.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let engine = Fake::new(StateRoot::new(dir.path().join("state")));
    tokio::spawn(Plugin::new(engine.clone()).serve(listener));
    let agent = Agent::connect(&socket).await.unwrap();
    Scene { engine, agent, dir }
}

#[tokio::test]
async fn this_plugin_keeps_every_rule_that_needs_no_process() {
    let mut scene = scene().await;
    let mut report = Report::default();
    scene.agent.look(&mut report).await;
    scene.agent.try_config(&Wish::default(), &mut report).await;
    scene
        .agent
        .begin_to_use(&Wish::default(), &mut report)
        .await;
    let job = Job::new(Some(scene.dir.path()), &[]).unwrap();
    let handle = job.start(&mut scene.agent, &mut report).await.unwrap();
    job.look(&mut scene.agent, &mut report).await;
    job.recover(&mut scene.agent, &handle, "recover", &mut report)
        .await;
    job.stop(&mut scene.agent, &mut report).await;
    job.destroy(&mut scene.agent, &mut report).await;
    assert_eq!(broken(&report), []);
    assert!(report.checks.len() > 20, "{}", report.checks.len());
    assert_eq!(scene.engine.starts(), 1);
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
