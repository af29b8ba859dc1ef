//! The original's routes, and its own command line where `JOBFORGE_BIN` names one (of several, parted by `:`, the first; all of
//! them, with real builds, are the end-to-end tests' matter).

use std::{path::PathBuf, process::Command, time::Duration};

use buildctl::{
    job::{JobId, State},
    phase::Run,
    scheduler::fake::Play,
};
use runyard_common::testing::Output;
use serde_json::{Value, json};

use super::*;

fn request(image: &str) -> Value {
    json!({"job_config": {
        "owner": "team", "repo_url": "https://git.test/app.git", "git_ref": "main", "git_credentials_path": "",
        "dockerfile_path": "Dockerfile", "image_name": image, "image_tags": null, "registry_url": "registry.test:5000",
        "registry_credentials_path": "", "test": {"entry_point": true}, "build_timeout": 2_700_000_000_000_u64,
    }})
}

async fn submitted(stage: &Stage, prefix: &str) -> JobId {
    let answer = stage
        .post(&format!("{prefix}/submitJob"), &request("app"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["status"], "BUILDING");
    answer.json()["job_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_job_is_submitted_looked_at_and_forgotten_below_both_prefixes() {
    for prefix in ["/json", "/mcp"] {
        let stage = Stage::new(Bench::with(&|_, run| {
            Play::default().saying([format!("{run} says")])
        }))
        .await;
        let id = submitted(&stage, prefix).await;
        stage.bench.settled(id).await;
        let of = json!({"job_id": id});
        let at = |name: &str| format!("{prefix}/{name}");
        let status = stage.post(&at("getStatus"), &of).await.json();
        assert_eq!(status["status"], "SUCCEEDED");
        assert_eq!(status["config"]["image_tags"], json!([id]));
        assert!(status["metrics"]["total_duration"].is_i64(), "{status}");
        assert_eq!(
            stage.get(&at(&format!("job/{id}/status"))).await.json(),
            status
        );

        let logs = stage.post(&at("getLogs"), &of).await.json();
        assert_eq!(logs["logs"]["build"], json!(["[main/stdout] build says"]));
        assert_eq!(stage.get(&at(&format!("job/{id}/logs"))).await.json(), logs);
        let only = stage
            .post(&at("getLogs"), &json!({"job_id": id, "phase": "publish"}))
            .await
            .json();
        assert_eq!(
            (&only["logs"]["build"], &only["logs"]["publish"]),
            (&Value::Null, &json!(["[main/stdout] publish says"]))
        );

        let history = stage.post(&at("getHistory"), &json!({})).await.json();
        assert_eq!(
            (&history["total"], &history["jobs"][0]["id"]),
            (&json!(1), &json!(id))
        );
        let killed = stage.post(&at("killJob"), &of).await;
        assert_eq!(
            (killed.status, &killed.json()["success"]),
            (200, &json!(false))
        );
        let cleaned = stage.post(&at("cleanup"), &of).await.json();
        assert_eq!(
            (&cleaned["success"], &cleaned["cleaned_jobs"]),
            (&json!(true), &json!([id]))
        );
        assert_eq!(stage.post(&at("purgeJob"), &of).await.status, 204);
        assert_eq!(stage.post(&at("getStatus"), &of).await.status, 404);
        for unknown in [of, json!({"job_id": "nope"})] {
            let refused = stage.post(&at("cleanup"), &unknown).await;
            assert_eq!(
                (refused.status, refused.json()),
                (
                    200,
                    json!({"success": false, "cleaned_jobs": null, "message": "Cleanup failed: Job not found"})
                )
            );
        }
    }
}

#[tokio::test]
async fn a_running_job_is_killed_and_is_then_a_failed_one() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless())).await;
    let id = submitted(&stage, "/json").await;
    stage.bench.in_state(id, State::Building).await;
    let refused = stage.post("/json/cleanup", &json!({"job_id": id})).await;
    assert_eq!(
        (refused.status, &refused.json()["success"]),
        (200, &json!(false))
    );
    let killed = stage
        .post("/json/killJob", &json!({"jobID": id}))
        .await
        .json();
    assert_eq!(
        killed,
        json!({"job_id": id, "success": true, "message": "Job killed successfully"})
    );
    stage.bench.settled(id).await;
    let status = stage.get(&format!("/json/job/{id}/status")).await.json();
    assert_eq!(
        (&status["status"], &status["error"]),
        (&json!("FAILED"), &json!("Job killed by user"))
    );
}

#[tokio::test]
async fn errors_are_told_as_the_original_tells_them() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless())).await;
    let unknown = JobId::random();
    let bad = stage.request("POST /json/submitJob", &[], "{").await;
    assert_eq!(
        (bad.status, &bad.json()["error"]),
        (400, &json!("Invalid request body"))
    );
    let empty = stage
        .post("/json/submitJob", &json!({"job_config": {"repo_url": "x"}}))
        .await;
    assert_eq!(
        (empty.status, &empty.json()["error"], &empty.json()["code"]),
        (
            400,
            &json!("Job configuration validation failed"),
            &json!(400)
        )
    );
    assert!(
        empty.json()["details"]
            .as_str()
            .unwrap()
            .starts_with("owner is required"),
        "{}",
        empty.body
    );
    for (path, id) in [
        ("getStatus", unknown.to_string()),
        ("getLogs", "no-id".into()),
        ("killJob", String::new()),
    ] {
        let answer = stage
            .post(&format!("/json/{path}"), &json!({"job_id": id}))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (404, &json!("Job not found")),
            "{path}"
        );
    }
    let cases = [
        (format!("/json/job/{unknown}/status"), 404),
        (format!("/json/job/{unknown}/other"), 400),
        ("/mcp/job/x".to_owned(), 400),
        ("/json/nothing".to_owned(), 404),
    ];
    for (path, status) in cases {
        assert_eq!(stage.get(&path).await.status, status, "{path}");
    }
    let wrong = stage.get("/json/submitJob").await;
    assert_eq!((wrong.status, &*wrong.body), (405, "Method not allowed\n"));
    assert_eq!(
        wrong.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
}

#[tokio::test]
async fn a_second_job_for_the_same_image_is_a_conflict_in_the_originals_words() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless())).await;
    submitted(&stage, "/json").await;
    let second = stage.post("/json/submitJob", &request("app")).await;
    assert_eq!(
        (second.status, &second.json()["error"]),
        (409, &json!("Failed to create job"))
    );
    assert!(
        second
            .body
            .contains("cannot start build: lock is already held by another process")
    );
}

#[tokio::test]
async fn the_first_public_notes_names_are_understood() {
    let stage = Stage::new(Bench::new()).await;
    let body = json!({"jobConfig": {
        "owner": "team", "repoURL": "https://git.test/app.git", "gitRef": "main", "dockerfilePath": "Dockerfile",
        "imageName": "app", "imageTags": ["v1"], "registryURL": "registry.test:5000", "testCommands": ["true"],
    }});
    let answer = stage.post("/json/submitJob", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id: JobId = answer.json()["job_id"].as_str().unwrap().parse().unwrap();
    stage.bench.settled(id).await;
    assert_eq!(stage.bench.engine.starts(id, Run::TestCommand(0)), 1);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_in_the_same_words_as_everything() {
    let stage = Stage::new(Bench::new()).await;
    let long = "x".repeat((1 << 20) + 1);
    let answer = stage
        .request("POST /json/submitJob", &["X-Request-Id: long-one"], &long)
        .await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!(413)));
    assert_eq!(answer.header("x-request-id"), Some("long-one"));
}

/// The original's command line.
struct Original {
    program: PathBuf,
    url: String,
}

impl Original {
    fn of(stage: &Stage) -> Option<Self> {
        let named = std::env::var_os("JOBFORGE_BIN").unwrap_or_default();
        let Some(program) = std::env::split_paths(&named).find(|path| path.is_file()) else {
            eprintln!("skipped: JOBFORGE_BIN names no command line of the original");
            return None;
        };
        Some(Self {
            program,
            url: format!("http://{}", stage.address),
        })
    }

    async fn run(&self, args: &[&str], input: &str) -> (u8, Value) {
        let mut command = Command::new(&self.program);
        command.args(["--url", &self.url]).args(args);
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || Output::with_input(&mut command, &input));
        let output = output.await.unwrap();
        let json = output.stdout.find('{').map(|at| &output.stdout[at..]);
        let value = json.and_then(|json| serde_json::from_str(json).ok());
        (
            output.code,
            value.unwrap_or_else(|| Value::String(format!("{}{}", output.stdout, output.stderr))),
        )
    }
}

const JOB_FILE: &str = "owner: team
repo_url: https://git.test/app.git
git_ref: main
dockerfile_path: Dockerfile
image_name: app
image_tags: [v1]
registry_url: registry.test:5000
test:
  commands: [\"true\"]
";

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_command_line_works_against_it() {
    let bench = Bench::with(&|_, run| {
        let takes = Duration::from_secs(if run == Run::Build { 5 } else { 0 });
        Play::default()
            .saying([format!("{run} says")])
            .taking(takes)
    });
    let stage = Stage::new(bench).await;
    let Some(cli) = Original::of(&stage) else {
        return;
    };
    let (code, answer) = cli.run(&["submit-job"], JOB_FILE).await;
    assert_eq!(code, 0, "{answer}");
    let id: JobId = answer["job_id"].as_str().unwrap().parse().unwrap();
    let name = id.to_string();
    stage.bench.in_state(id, State::Building).await;
    assert_eq!(
        cli.run(&["get-status", &name], "").await.1["status"],
        "BUILDING"
    );
    stage.bench.clock.advance(Duration::from_secs(6));
    stage.bench.settled(id).await;
    let (code, status) = cli.run(&["get-status", &name], "").await;
    assert_eq!((code, &status["status"]), (0, &json!("SUCCEEDED")));
    let (code, logs) = cli.run(&["get-logs", &name], "").await;
    assert_eq!(
        (code, &logs["logs"]["build"]),
        (0, &json!(["[main/stdout] build says"]))
    );
    let (code, cleaned) = cli.run(&["cleanup", &name], "").await;
    assert_eq!((code, &cleaned["success"]), (0, &json!(true)));
    let (code, history) = cli.run(&["get-history"], "").await;
    assert_eq!((code, &history["jobs"][0]["id"]), (0, &json!(name)));
    let (code, health) = cli.run(&["health"], "").await;
    assert!(
        code == 0 && health.to_string().contains("healthy"),
        "{health}"
    );

    let (_, second) = cli.run(&["submit-job"], JOB_FILE).await;
    let second = second["job_id"].as_str().unwrap();
    let (code, killed) = cli.run(&["kill-job", second], "").await;
    assert_eq!((code, &killed["success"]), (0, &json!(true)), "{killed}");
    let (code, unknown) = cli
        .run(&["get-status", &JobId::random().to_string()], "")
        .await;
    assert_eq!(code, 1);
    assert!(unknown.to_string().contains("Job not found"), "{unknown}");
}
