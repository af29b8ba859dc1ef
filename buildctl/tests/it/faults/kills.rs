//! The daemon, supervisors and jobs are killed in each phase.

use std::net::TcpStream;

use buildctl::state::lock;
use runyard_common::testing::{eventually, is_alive, patience};
use serde_json::json;

use super::Plant;
use crate::{
    cli::{DOCKERFILE, Gate, go_on},
    support::{Held, Repository, contains, kill, processes, ready, supervisors},
};

/// A job that stands still in a phase.
struct Still {
    id: String,
    /// The run that it stands still in.
    run: &'static str,
    hold: Hold,
}

enum Hold {
    Program(TcpStream),
    Request(Held),
}

impl Still {
    fn go_on(self) -> (String, &'static str) {
        match self.hold {
            Hold::Program(stream) => go_on(stream),
            Hold::Request(held) => held.go_on(),
        }
        (self.id, self.run)
    }
}

/// A job for each phase, and one that has failed and is being cleaned up after.
fn in_each_phase(plant: &Plant, source: &Repository) -> Vec<Still> {
    let url = source.url();
    let building = Gate::open();
    let slow = building.repository();
    let build = plant.submit("build", &slow.url(), &json!({})).unwrap();
    let build = (build, "build", Hold::Program(building.reached()));

    let testing = Gate::open();
    let command = format!(
        "echo waiting; wget -q -O - http://127.0.0.1:{}/",
        testing.port()
    );
    let tested = json!({"test": {"commands": [command]}});
    let test = plant.submit("test", &url, &tested).unwrap();
    let test = (test, "test-cmd-0", Hold::Program(testing.reached()));

    let publishing = plant.toll.hold("PUT", "/v2/publish/manifests/");
    let publish = plant
        .submit("publish", &url, &json!({"image_tags": ["v1"]}))
        .unwrap();
    let publish = (
        publish,
        "publish",
        Hold::Request(publishing.recv_timeout(patience()).unwrap()),
    );

    let cleaning = plant.toll.hold("DELETE", "/v2/temp-cleanup/manifests/");
    let broken = json!({"test": {"commands": ["exit 3"]}});
    let clean = plant.submit("cleanup", &url, &broken).unwrap();
    let clean = (
        clean,
        "cleanup",
        Hold::Request(cleaning.recv_timeout(patience()).unwrap()),
    );
    [build, test, publish, clean]
        .map(|(id, run, hold)| Still { id, run, hold })
        .into()
}

/// All went on as if nothing had happened, and once.
fn check(plant: &Plant, jobs: Vec<Still>) {
    for (id, run) in jobs.into_iter().map(Still::go_on).collect::<Vec<_>>() {
        let ended = plant.end(&id);
        let log = plant.log(&id);
        if run == "cleanup" {
            assert_eq!(ended["status"], "FAILED");
            assert!(
                ended["error"]
                    .as_str()
                    .unwrap()
                    .starts_with("Test phase failed: "),
                "{ended}"
            );
            eventually(patience(), || {
                let runs = plant.end(&id)["runs"].clone();
                let cleaned = runs
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|it| it["run"] == "cleanup" && it["state"] == "succeeded");
                cleaned.then_some(())
            });
            continue;
        }
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}\n{log}");
        assert_eq!(
            plant
                .registry
                .digest(run.trim_end_matches("-cmd-0"), &id)
                .as_deref(),
            ended["digest"].as_str()
        );
        assert_eq!(log.matches("build: succeeded").count(), 1, "{log}");
        let used = &ended["metrics"]["resource_usage"];
        let most = |of: &str| used[of].as_f64().unwrap();
        assert!(most("max_memory") > 0.0 && most("max_cpu") > 0.0, "{used}");
        let once = usize::from(matches!(run, "build" | "test-cmd-0"));
        assert_eq!(
            log.lines()
                .filter(|line| line.ends_with(" waiting"))
                .count(),
            once,
            "{log}"
        );
    }
    eventually(patience(), || plant.remains().is_empty().then_some(()));
}

#[test]
fn a_daemon_that_is_killed_neither_ends_nor_loses_a_job_in_any_phase() {
    if !ready() {
        return;
    }
    let mut plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    let jobs = in_each_phase(&plant, &source);
    plant.daemon.kill();
    for job in &jobs {
        assert!(is_alive(plant.runner(&job.id, job.run)), "{}", job.run);
    }
    plant.serve_again();
    check(&plant, jobs);
}

#[test]
fn a_supervisor_that_is_killed_in_any_phase_is_replaced_though_nobody_asks() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    let jobs = in_each_phase(&plant, &source);
    for job in &jobs {
        let [first] = supervisors(&job.id)[..] else {
            panic!("{}", job.run)
        };
        kill(first);
        let held = plant.job_folder(&job.id).join("supervisor.lock");
        eventually(patience(), || {
            let other = matches!(supervisors(&job.id)[..], [other] if other != first);
            (other && lock::is_held(&held).unwrap()).then_some(())
        });
        assert!(is_alive(plant.runner(&job.id, job.run)), "{}", job.run);
    }
    check(&plant, jobs);
}

#[test]
fn a_job_that_is_killed_in_any_phase_leaves_nothing_and_its_image_free() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    let jobs = in_each_phase(&plant, &source);
    for job in jobs {
        let killed = plant.run(&["kill", &job.id]);
        if job.run == "cleanup" {
            assert_eq!(killed.code, 1, "it has ended: {killed}");
            job.go_on();
            continue;
        }
        assert_eq!(killed.code, 0, "{killed}");
        let ended = plant.end(&job.id);
        assert_eq!(ended["error"], "Job killed by user");
        assert_eq!(plant.registry.digest(job.run, &job.id), None, "{}", job.run);
        let mark = format!("BUILDCTL_RUN={}/{}", job.id, job.run);
        eventually(patience(), || {
            processes(|_, environ| contains(environ, &mark))
                .is_empty()
                .then_some(())
        });
    }
    eventually(patience(), || plant.remains().is_empty().then_some(()));
    let again = plant
        .submit("publish", &source.url(), &json!({"image_tags": ["v1"]}))
        .unwrap();
    assert_eq!(plant.end(&again)["status"], "SUCCEEDED");
    assert!(plant.registry.digest("publish", "v1").is_some());
}

#[test]
fn a_runner_that_is_killed_after_its_push_leaves_no_image() {
    if !ready() {
        return;
    }
    let plant = Plant::open();
    let source = Repository::with(DOCKERFILE);
    let pushed = plant.toll.hold_answer("PUT", "/v2/temp-app/manifests/");
    let id = plant.submit("app", &source.url(), &json!({})).unwrap();
    let answer = pushed.recv_timeout(patience()).unwrap();
    let tag = format!("main-{id}");
    let there = || plant.registry.digest("temp-app", &tag);
    assert!(there().is_some(), "the registry has it");
    kill(plant.runner(&id, "build"));
    let ended = plant.end(&id);
    assert_eq!(ended["status"], "FAILED", "{ended}");
    eventually(patience(), || there().is_none().then_some(()));
    drop(answer);
    eventually(patience(), || {
        let runs = plant.end(&id)["runs"].clone();
        let mut runs = runs.as_array().unwrap().iter();
        runs.any(|run| run["run"] == "cleanup" && run["state"] == "succeeded")
            .then_some(())
    });
}
