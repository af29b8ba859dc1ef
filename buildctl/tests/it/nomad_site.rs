//! Builds on a Nomad, real or not, that are no builds: the runner is a shell script that does what a test says, keeps records as
//! `run-phase` does, and leaves a result.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use buildctl::{
    api::{JobConfig, TestConfig},
    config::{Config, SettingsArgs},
    job::{Job, JobId},
    phase::Run,
    scheduler::nomad::NomadSettings,
};
use jiff::Timestamp;

use crate::contract::scheduler::{Behaviour, Script};

/// A job whose runs do what these scripts say.
pub(crate) fn submitted(folder: &Path, runs: &[(Run, &str)]) -> Job {
    let commands = runs
        .iter()
        .filter(|(run, _)| matches!(run, Run::TestCommand(_)));
    let job = Job::new(JobId::random(), config(commands.count()), Timestamp::now());
    let folder = folder.join(job.id.to_string());
    fs::create_dir(&folder).unwrap();
    for (run, script) in runs {
        fs::write(folder.join(run.to_string()), script).unwrap();
    }
    job
}

/// A job for the contract.
pub(crate) fn job_of(folder: &Path, what: &Script) -> Job {
    let build = script(&what.build);
    let tests: Vec<String> = what.tests.iter().map(script).collect();
    let commands = (0..)
        .map(Run::TestCommand)
        .zip(tests.iter().map(String::as_str));
    let runs: Vec<(Run, &str)> = [(Run::Build, build.as_str())]
        .into_iter()
        .chain(commands)
        .collect();
    submitted(folder, &runs)
}

pub(crate) fn settings(address: &str, folder: &Path) -> NomadSettings {
    fs::create_dir_all(folder).unwrap();
    let runner = folder.join("runner");
    fs::write(&runner, runner_script(folder)).unwrap();
    fs::set_permissions(&runner, fs::Permissions::from_mode(0o755)).unwrap();
    let runner = runner.display().to_string();
    let env = |name: &str| {
        Some(match name {
            "BUILDCTL_NOMAD_ADDRESS" => address.to_owned(),
            "BUILDCTL_NOMAD_DRIVER" => "raw_exec".to_owned(),
            "BUILDCTL_NOMAD_RUNNER_PATH" => runner.clone(),
            "BUILDCTL_NOMAD_VAULT_ENABLED" => "false".to_owned(),
            "BUILDCTL_TIMEOUTS_KILL" => "2s".to_owned(),
            _ => return None,
        })
    };
    let loaded = Config::load(&SettingsArgs::default(), &env).unwrap();
    NomadSettings::of(&loaded.config).unwrap()
}

/// Does what the file of its job and run says, keeps records as `run-phase` does, and leaves a result.
fn runner_script(folder: &Path) -> String {
    let digest = "a".repeat(64);
    format!(
        r#"#!/bin/sh
work=$(printf %s "$BUILDCTL_WORK_B64" | base64 -d)
job=$(printf %s "$work" | sed 's/^{{"job":"\([^"]*\)".*/\1/')
run=$(printf %s "$work" | sed 's/^{{"job":"[^"]*","run":"\([^"]*\)".*/\1/')
result=$3
say() {{ printf '%s %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" "$1" "$2"; }}
leave() {{
    json="{{$1,\"started_at\":\"2026-11-21T10:00:00Z\",\"ended_at\":\"2026-11-21T10:00:01Z\"}}"
    printf %s "$json" > "$result.draft" && mv "$result.draft" "$result"
    say S "result: $json"
    exit "$2"
}}
trap 'kill "$child" 2>/dev/null; leave "\"ending\":\"cancelled\"" 143' TERM
say S "$run begins"
: > "$result.out"
( . "{folder}/$job/$run" ) > "$result.out" 2>&1 & child=$!
shown=0
show() {{
    now=$(wc -l < "$result.out")
    if [ "$now" -gt "$shown" ]; then
        sed -n "$((shown + 1)),${{now}}p" "$result.out" | sed "s/^/$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ) O /"
        shown=$now
    fi
}}
while kill -0 "$child" 2>/dev/null; do show; sleep 0.02; done
wait "$child"; code=$?
show
[ "$code" = 0 ] || leave "\"ending\":\"failed\",\"kind\":{{\"kind\":\"exit\",\"code\":$code}},\"message\":\"exit code $code\"" 1
case $run in
    build) leave '"ending":"succeeded","outcome":{{"outcome":"built","image_id":"i","temporary":"r.example/temp-app:t","digest":"sha256:{digest}"}}' 0 ;;
    publish) leave '"ending":"succeeded","outcome":{{"outcome":"published","tags":[]}}' 0 ;;
    *) leave '"ending":"succeeded","outcome":{{"outcome":"tested"}}' 0 ;;
esac
"#,
        folder = folder.display()
    )
}

pub(crate) fn config(tests: usize) -> JobConfig {
    JobConfig {
        owner: "team".to_owned(),
        repo_url: "https://git.example/app.git".to_owned(),
        git_ref: "main".to_owned(),
        dockerfile_path: "Dockerfile".to_owned(),
        image_name: "app".to_owned(),
        registry_url: "r.example".to_owned(),
        test: Some(TestConfig {
            commands: (0..tests).map(|index| format!("test {index}")).collect(),
            ..TestConfig::default()
        }),
        ..JobConfig::default()
    }
}

fn script(behaviour: &Behaviour) -> String {
    match behaviour {
        Behaviour::Says(lines, code) => {
            let echo = |line: &String| format!("echo '{line}'\n");
            lines.iter().map(echo).collect::<String>() + &format!("exit {code}\n")
        }
        Behaviour::Stays(line) => format!("echo '{line}'\nexec sleep 1000\n"),
    }
}
