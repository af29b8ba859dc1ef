//! The examples for Nomad on a real agent: they are jobs of Nomad's, and the one that needs no Consul runs the service, which
//! builds.

use std::{path::Path, process::Command};

use runyard_common::testing::{Output, eventually, patience, tempdir, tool_binary};
use serde_json::{Value, json};

use crate::{
    cli::{DOCKERFILE, plain},
    nomad::ready,
    nomad_agent::Agent,
    support::{Registry, Repository},
};

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nomad");
    folder.join(name).display().to_string()
}

#[test]
fn the_examples_are_what_nomad_accepts() {
    let Some(agent) = Agent::shared() else {
        return;
    };
    let file = example("buildctl.nomad.hcl");
    for more in [
        &[][..],
        &[
            "-var",
            "provider=consul",
            "-var",
            "consul=http://127.0.0.1:8500",
        ],
        &["-var", "tokens=true", "-var", "settings={A=\"b\"}"],
    ] {
        let words = [&["job", "validate"], more, &[file.as_str()]].concat();
        agent.command(&words, "").success();
    }
    for name in ["buildctl.nomad.hcl", "client.hcl", "policy.hcl"] {
        agent
            .command(&["fmt", "-check", &example(name)], "")
            .success();
    }
}

/// What is known of a service's replicas.
fn replicas(agent: &Agent) -> Vec<Value> {
    let all = agent.list("/v1/allocations?filter=JobID==%22buildctl%22");
    let healthy =
        |it: &&Value| it["ClientStatus"] == "running" && it["DeploymentStatus"]["Healthy"] == true;
    let count = all.iter().filter(healthy).count();
    if count < 2 {
        return Vec::new();
    }
    agent.list("/v1/service/buildctl")
}

#[test]
fn the_service_runs_as_a_job_of_the_nomad_that_it_builds_on() {
    if !ready() {
        return;
    }
    // Its name is one for all namespaces of its own; others need not wait for it.
    let Some(agent) = Agent::start() else {
        return;
    };
    let (registry, folder) = (Registry::open(), tempdir());
    let source = Repository::with(DOCKERFILE);
    let program = tool_binary("buildctl").display().to_string();
    let file = example("buildctl.nomad.hcl");
    let settings = format!(
        "settings={{BUILDCTL_REGISTRY_INSECURE=\"{}\",BUILDCTL_ALLOW_FILE_URLS=\"true\",BUILDCTL_LIMITS_BUILD_CPU=\"50\",\
         BUILDCTL_LIMITS_BUILD_DISK=\"200\",BUILDCTL_LIMITS_BUILD_MEMORY=\"256\"}}",
        registry.host()
    );
    let variables = [
        "driver=raw_exec".to_owned(),
        "builds=raw_exec".to_owned(),
        format!("program={program}"),
        format!("nodes={program}"),
        format!("cache={}", folder.path().join("cache").display()),
        settings,
    ];
    let mut words = vec!["job", "run", "-detach"];
    words.extend(variables.iter().flat_map(|it| ["-var", it.as_str()]));
    words.push(&file);
    agent.command(&words, "").success();
    let found = eventually(patience() * 2, || {
        let found = replicas(&agent);
        (found.len() == 2).then_some(found)
    });
    let at = |index: usize, words: &[&str]| -> Command {
        let (address, port) = (&found[index]["Address"], &found[index]["Port"]);
        let mut command = plain(words);
        let url = format!("http://{}:{port}", address.as_str().unwrap());
        command.env("BUILDCTL_URL", url).env("NO_PROXY", "*");
        command
    };
    let job = json!({
        "owner": "team", "repo_url": source.url(), "image_name": "app",
        "registry_url": registry.host(), "image_tags": ["v1"],
    });
    let id = Output::with_input(&mut at(0, &["submit"]), &job.to_string()).success();
    let waited = Output::of(&mut at(1, &["wait", id.trim()])).success();
    assert!(waited.contains("SUCCEEDED"), "{waited}");
    assert!(registry.digest("app", "v1").is_some());
    let listed: Vec<String> = [0, 1]
        .map(|index| Output::of(&mut at(index, &["history"])).success())
        .into();
    assert_eq!(listed[0], listed[1]);
    agent
        .command(&["job", "stop", "-detach", "buildctl"], "")
        .success();
    eventually(patience(), || {
        let all = agent.list("/v1/job/buildctl/allocations");
        let runs = all.iter().any(|it| it["ClientStatus"] == "running");
        (!runs).then_some(())
    });
}
