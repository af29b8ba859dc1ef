//! The wire, held against what the original's own marshaller and client write (`golden/`, of made-up values), and against
//! whatever a client may send.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::{
    job::{Failure, Job, JobId, Kill, Notice, Span, State, Temporary},
    logs::{Cursor, Line, Position, Stream},
    phase::{Built, Ending, MovedTag, Observed, Phase, Progress, Run, RunFailure, Usage},
    service::{BuildError, Cleaned, Health, JobList, JobView, Killed, LogPage},
    spec::{Conflict, TestMode},
};

const ID: &str = "2f1c9f0a-7d3e-4c55-9a0b-6f2d1e3c4b5a";

fn id() -> JobId {
    ID.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    format!("2026-03-01T{text}Z").parse().unwrap()
}

/// Reads what the original writes, and writes the same: names, order, forms.
fn same<T: Serialize + DeserializeOwned>(golden: &str) -> T {
    let value: T = serde_json::from_str(golden).unwrap();
    // Go escapes `<`, `>` and `&`, which is the same text.
    let written: Value = serde_json::from_str(golden).unwrap();
    assert_eq!(
        serde_json::to_string(&value).unwrap(),
        serde_json::to_string(&written).unwrap()
    );
    value
}

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("golden/", $name, ".json"))
    };
}

#[test]
fn requests_of_the_original_client_read_and_write_the_same() {
    let minimal: SubmitRequest = same(golden!("submit_minimal"));
    assert!(minimal.job_config.image_tags.is_empty());
    assert!(minimal.job_config.test.unwrap().entry_point);
    let full: SubmitRequest = same(golden!("submit_full"));
    let config = full.job_config;
    assert_eq!(config.build_timeout, Some(Nanoseconds(1_200_000_000_000)));
    assert_eq!(config.resource_limits.unwrap().all.cpu, "800");
    assert_eq!(config.deploy_dir, "./release");
    assert_eq!(config.test.unwrap().constraints[0].operand, "=");
}

#[test]
fn answers_have_the_names_order_and_forms_of_the_original() {
    let _: StatusAnswer = same(golden!("status_new"));
    let failed: StatusAnswer = same(golden!("status_failed"));
    assert_eq!(failed.error, "Test phase failed: exit code 3");
    let _: crate::service::Submitted = same(golden!("submit_answer"));
    let logs: LogsAnswer = same(golden!("logs_all"));
    assert_eq!((logs.logs.test, logs.logs.publish), (Some(vec![]), None));
    let _: LogsAnswer = same(golden!("logs_test"));
    let _: KillAnswer = same(golden!("kill"));
    let _: CleanupAnswer = same(golden!("cleanup_one"));
    let _: CleanupAnswer = same(golden!("cleanup_none"));
    let _: HistoryAnswer = same(golden!("history"));
    let _: HistoryAnswer = same(golden!("history_none"));
    let _: ErrorAnswer = same(golden!("error"));
    let _: ErrorAnswer = same(golden!("error_bare"));
    let _: HealthAnswer = same(golden!("health"));
    let _: StreamMessage = same(golden!("stream"));
    let _: WebhookPayload = same(golden!("webhook_failed"));
    let _: WebhookPayload = same(golden!("webhook_started"));
    let _: JobRecord = same(golden!("record_new"));
    let _: JobRecord = same(golden!("record_failed"));
}

fn config(value: Value) -> JobConfig {
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_names_of_the_first_notes_and_of_language_models_are_understood() {
    let request: SubmitRequest = serde_json::from_value(json!({
        "jobConfig": {
            "owner": "red", "repoURL": "r", "gitRef": "v1", "dockerfilePath": "d", "imageName": "i",
            "imageTags": "[\"a\", \"b\"]", "registryURL": "g", "testCommands": ["./t"], "testEntryPoint": "true",
            "buildTimeout": "30m", "resourceLimits": {"cpu": 1000, "build": {"memory": 2048}}, "onConflict": "CancelPrevious"
        },
        "idempotencyKey": "k", "somethingElse": 1
    }))
    .unwrap();
    let config = request.job_config;
    assert_eq!(config.repo_url, "r");
    assert_eq!(config.image_tags, ["a", "b"]);
    assert_eq!(config.build_timeout, Some(Nanoseconds(1_800_000_000_000)));
    let limits = config.resource_limits.unwrap();
    assert_eq!(
        (
            limits.all.cpu.as_str(),
            limits.build.unwrap().memory.as_str()
        ),
        ("1000", "2048")
    );
    let test = config.test.unwrap();
    assert_eq!(
        (test.commands, test.entry_point),
        (vec!["./t".to_owned()], true)
    );
    assert_eq!(config.on_conflict, Some(Conflict::CancelPrevious));
    assert_eq!(request.idempotency_key.as_deref(), Some("k"));
    let status: StatusRequest = serde_json::from_value(json!({"jobID": ID})).unwrap();
    assert_eq!(status.job_id, ID);
}

#[test]
fn null_is_absent_everywhere() {
    let text = serde_json::to_string(&json!({
        "owner": null, "image_tags": null, "test": null, "resource_limits": null, "build_timeout": null, "clear_cache": null,
        "webhook_headers": null, "test_commands": null, "test_timeout": null
    }));
    let read: JobConfig = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(read, JobConfig::default());
    let test = config(
        json!({"test": {"commands": null, "env": {"A": null}, "vault_secrets": null, "constraints": null}}),
    );
    let test = test.test.unwrap();
    assert_eq!(test.env, BTreeMap::from([("A".to_owned(), String::new())]));
}

#[test]
fn one_text_is_a_list_of_one_and_a_command_in_brackets_is_a_command() {
    assert_eq!(
        config(json!({"image_tags": "latest"})).image_tags,
        ["latest"]
    );
    assert_eq!(config(json!({"image_tags": ""})).image_tags, [""; 0]);
    assert_eq!(
        config(json!({"image_tags": [1, "2"]})).image_tags,
        ["1", "2"]
    );
    let command = "[ -f /etc/app.conf ]";
    let test = config(json!({"test": {"commands": command, "mode": "INLINE"}}))
        .test
        .unwrap();
    assert_eq!(
        (test.commands, test.mode),
        (vec![command.to_owned()], Some(TestMode::Inline))
    );
    let error = serde_json::from_value::<JobConfig>(json!({"image_tags": [1.10]})).unwrap_err();
    assert!(error.to_string().contains("image_tags.0"), "{error}");
}

#[test]
fn old_test_fields_come_on_top_of_new_ones_and_are_never_lost() {
    let read = config(json!({
        "test_commands": ["a", "b"], "test_timeout": 5_000_000_000_u64, "test": {"commands": ["b", "c"], "gpu_required": true}
    }));
    let test = read.test.clone().unwrap();
    assert_eq!(test.commands, ["b", "c", "a"]);
    assert!(test.gpu_required && !test.entry_point);
    assert_eq!(test.timeout, Some(Nanoseconds(5_000_000_000)));
    let by_hand = JobConfig {
        test_entry_point: true,
        ..JobConfig::default()
    };
    let sent = serde_json::to_value(&by_hand).unwrap();
    assert_eq!(sent["test"], json!({"entry_point": true}));
    assert_eq!(config(json!({"test_timeout": "1m"})).test, None);
}

#[test]
fn what_says_nothing_is_filled_in() {
    let filled = config(json!({"git_ref": " ", "test_entry_point": true})).filled();
    assert_eq!(
        (filled.git_ref.as_str(), filled.dockerfile_path.as_str()),
        ("main", "Dockerfile")
    );
    let said = config(json!({"git_ref": "v1", "dockerfile_path": "d"}));
    assert_eq!(said.clone().filled(), said);
}

#[test]
fn an_error_names_the_field_that_is_wrong() {
    let said = |value| {
        serde_json::from_value::<SubmitRequest>(value)
            .unwrap_err()
            .to_string()
    };
    let error = said(json!({"job_config": {"test": {"timeout": "soon"}}}));
    assert!(error.starts_with("job_config.test.timeout: "), "{error}");
    let error = said(json!({"job_config": {"test": "yes"}}));
    assert!(error.starts_with("job_config.test: "), "{error}");
    assert!(said(json!([])).starts_with("invalid type: sequence"));
}

/// A configuration with something to hide in every place that can hide something.
fn secretive() -> JobConfig {
    config(json!({
        "owner": "red", "repo_url": "https://red:hunter2@git.example.com/hello", "git_ref": "main", "image_name": "hello",
        "image_tags": ["latest"], "registry_url": "registry.example.com", "test": {"entry_point": true},
        "webhook_url": "https://u:hunter2@hooks.example.com/x", "webhook_secret": "hunter2",
        "webhook_headers": {"Authorization": "hunter2"}
    }))
}

fn job() -> Job {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let span = |start: &str, end: &str| Span {
        start: Some(at(start)),
        end: Some(at(end)),
    };
    let built = Built {
        commit: Some("c0ffee".into()),
        image_id: "x".into(),
        temporary: "registry.example.com/temp-hello:main-1".parse().unwrap(),
        digest: digest.parse().unwrap(),
    };
    let observed = |run, progress| {
        let observed = Observed {
            run,
            progress,
            place: Some("node-1".into()),
            started_at: None,
            ended_at: None,
            unaccounted: false,
            usage: None,
        };
        (run, observed)
    };
    let ending = Ending::Failed(RunFailure {
        kind: crate::phase::FailureKind::Exit { code: 3 },
        message: "exit code 3".into(),
        moved: Vec::new(),
        built: None,
    });
    Job {
        state: State::Failed,
        updated_at: at("10:01:10"),
        finished_at: Some(at("10:01:10")),
        claimed: true,
        runs: BTreeMap::from([
            observed(Run::Build, Progress::Running),
            observed(Run::TestEntry, Progress::Ended { ending }),
        ]),
        phases: BTreeMap::from([
            (Phase::Build, span("10:00:01.5", "10:01:01.75")),
            (Phase::Test, span("10:01:02", "10:01:07")),
        ]),
        built: Some(built),
        published: vec![MovedTag {
            tag: "latest".parse().unwrap(),
            digest: digest.parse().unwrap(),
            previous: None,
        }],
        kill: Some(Kill {
            at: at("10:01:00"),
            reason: None,
        }),
        failure: Some(Failure {
            phase: Some(Phase::Test),
            error: "Test phase failed: exit code 3".into(),
        }),
        temporary: Temporary::Pushed,
        ..Job::new(id(), secretive(), at("10:00:00"))
    }
}

fn notice(event: &str) -> Notice {
    Notice {
        event: event.into(),
        delivery: uuid::Uuid::nil(),
        at: at("10:01:10"),
        attempts: 0,
        due: None,
        result: None,
        body: None,
        given_up: false,
    }
}

#[test]
fn a_status_tells_what_the_original_told_and_more() {
    let answer = StatusAnswer::from(&JobView { job: job() });
    let value = serde_json::to_value(&answer).unwrap();
    assert_eq!(value["status"], "FAILED");
    assert_eq!(value["config"]["image_tags"], json!([ID, "latest"]));
    assert_eq!(value["metrics"]["build_duration"], 60_250_000_000_u64);
    assert_eq!(value["metrics"]["publish_duration"], 0);
    assert_eq!(value["metrics"]["total_duration"], 70_000_000_000_u64);
    assert_eq!(value["metrics"]["build_start"], "2026-03-01T10:00:01.5Z");
    assert_eq!(value["error"], "Test phase failed: exit code 3");
    assert_eq!(
        (&value["phase"], &value["failed_phase"]),
        (&json!("test"), &json!("test"))
    );
    assert_eq!(value["image"], "registry.example.com/hello");
    assert_eq!(value["runs"][1]["state"], "failed");
    let back: StatusAnswer = serde_json::from_value(value).unwrap();
    assert_eq!(back, answer);
}

#[test]
fn what_runs_used_is_told_of_the_one_that_used_most() {
    let mut job = job();
    let usages = [(4_000, 700 << 20), (9_000, 90 << 20)];
    for (run, (cpu_ms, peak_memory)) in job.runs.values_mut().zip(usages) {
        run.started_at = Some(at("10:00:00"));
        run.ended_at = Some(at("10:00:08"));
        run.usage = Some(Usage {
            cpu_ms,
            peak_memory,
        });
    }
    let told = serde_json::to_value(StatusAnswer::from(&JobView { job })).unwrap();
    assert_eq!(
        told["metrics"]["resource_usage"],
        json!({"max_cpu": 113, "max_memory": 700, "disk_used": 0})
    );
}

#[test]
fn a_job_that_waits_says_for_what() {
    let mut job = job();
    (job.state, job.failure, job.claimed) = (State::Pending, None, false);
    let waiting = |job: &Job| Details::of(job).waiting_for;
    assert_eq!(waiting(&job), None, "nobody has looked yet");
    let holder = JobId::random();
    job.behind = Some(holder);
    assert!(waiting(&job).unwrap().contains(&holder.to_string()));
    (job.claimed, job.behind) = (true, None);
    let progress = Progress::Waiting {
        reason: Some("2 builds ahead".into()),
        since: at("10:00:00"),
    };
    job.runs.get_mut(&Run::Build).unwrap().progress = progress;
    assert_eq!(waiting(&job).as_deref(), Some("2 builds ahead"));
    job.state = State::Failed;
    assert_eq!(waiting(&job), None);
}

#[test]
fn no_secret_leaves() {
    let job = job();
    let list = JobList {
        jobs: vec![JobView { job: job.clone() }],
        total: 1,
    };
    let answers = [
        serde_json::to_string(&StatusAnswer::from(&list.jobs[0])),
        serde_json::to_string(&HistoryAnswer::from(&list)),
        serde_json::to_string(&JobRecord::from(&job)),
        serde_json::to_string(&WebhookPayload::of(&job, &notice("job.failed"))),
        serde_json::to_string(&job.config.redacted()),
        serde_json::to_string(&JobView::of(job.clone())),
        Ok(format!("{job:?}")),
    ];
    for answer in answers {
        let answer = answer.unwrap();
        assert!(!answer.contains("hunter2"), "{answer}");
        assert!(answer.contains("git.example.com"), "{answer}");
    }
    let stored = serde_json::to_string(&job).unwrap();
    assert!(
        stored.contains("hunter2"),
        "the record keeps what webhooks are signed with"
    );
}

#[test]
fn a_token_in_front_of_a_host_is_hidden_and_the_user_of_ssh_is_not() {
    for (url, shown) in [
        ("https://token@host/x", "https://[redacted]@host/x"),
        ("http://a:b@host", "http://[redacted]@host"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("ssh://git:b@host/x", "ssh://git:[redacted]@host/x"),
        ("git@host:x", "git@host:x"),
        ("https://host/a@b:c", "https://host/a@b:c"),
    ] {
        let config = config(json!({"repo_url": url}));
        assert_eq!(config.redacted().repo_url, shown);
    }
}

#[test]
fn a_record_for_watchers_is_the_originals() {
    let value = serde_json::to_value(JobRecord::from(&job())).unwrap();
    assert_eq!(value["build_job_id"], format!("build-{ID}"));
    assert_eq!(value["test_job_ids"], json!([format!("test-entry-{ID}")]));
    assert_eq!(value.get("publish_job_id"), None);
    assert_eq!(value["current_phase"], "test");
    assert_eq!(value["lock_key"], "image-registry.example.com-hello-main");
    assert_eq!(
        value["logs"],
        json!({"build": null, "test": null, "publish": null})
    );
}

#[test]
fn a_webhook_tells_of_the_moment_of_its_event() {
    let job = job();
    let payload = |event: &str| WebhookPayload::of(&job, &notice(event));
    let started = payload("build.started");
    assert_eq!(
        (started.status, started.phase.as_str()),
        (State::Building, "build")
    );
    assert_eq!(
        (started.error.as_str(), started.duration),
        ("", Nanoseconds(0))
    );
    let failed = payload("job.failed");
    assert_eq!(
        (failed.status, failed.phase.as_str()),
        (State::Failed, "test")
    );
    assert_eq!(failed.duration, Nanoseconds(70_000_000_000));
    assert_eq!(failed.error, "Test phase failed: exit code 3");
    assert_eq!(failed.image_tags, [ID, "latest"]);
    assert_eq!(failed.event, "job.failed");
}

fn line(run: Run, stream: Stream, text: &str, partial: bool) -> Line {
    Line {
        run,
        stream,
        time: Some(at("10:00:02")),
        text: text.into(),
        partial,
    }
}

#[test]
fn logs_are_grouped_by_phase_and_test_and_parts_are_joined() {
    let test = Run::TestCommand(1);
    let page = LogPage {
        lines: vec![
            line(Run::Build, Stream::System, "git fetch", false),
            line(Run::Build, Stream::Stdout, "STEP ", true),
            line(Run::Build, Stream::Stderr, "a warning", false),
            line(Run::Build, Stream::Stdout, "1/2", false),
            line(Run::TestEntry, Stream::Stdout, "up", false),
            line(test, Stream::Stdout, "ok", false),
            line(Run::TestEntry, Stream::Stdout, "and on", true),
        ],
        next: Cursor(BTreeMap::from([(Run::Build, Position { out: 9, err: 0 })])),
        complete: false,
        more: true,
        lost: true,
    };
    let all = LogsAnswer::of(id(), &page, None);
    let build = all.logs.build.unwrap();
    assert_eq!(
        build[1..],
        [
            "[buildctl] git fetch",
            "[main/stderr] a warning",
            "[main/stdout] STEP 1/2"
        ]
    );
    assert!(build[0].contains("no longer kept"));
    let tests = all.logs.test.unwrap();
    assert_eq!(
        tests[..5],
        [
            format!("=== Test Job 1 (test-cmd-{ID}-1) ===").as_str(),
            "[main/stdout] ok",
            &format!("=== Test Job 1 (test-entry-{ID}) ==="),
            "[main/stdout] up",
            "[main/stdout] and on"
        ]
    );
    assert!(tests[5].contains("full"));
    assert_eq!((all.logs.publish, all.cursor.as_str()), (None, "build.9.0"));
    let only = LogsAnswer::of(id(), &page, Some(Phase::Publish)).logs;
    assert_eq!((&only.build, &only.test), (&None, &None));
    assert_eq!(only.publish.unwrap().len(), 2);
}

#[test]
fn the_message_of_a_line_says_where_to_go_on() {
    let said = line(Run::TestEntry, Stream::Stderr, "no", false);
    let cursor = "test-entry.3.0".parse().unwrap();
    let message = StreamMessage::of(id(), &said, &cursor, at("11:00:00"));
    let value = serde_json::to_value(message).unwrap();
    assert_eq!(
        (&value["phase"], &value["level"]),
        (&json!("test"), &json!("INFO"))
    );
    assert_eq!(value["timestamp"], "2026-03-01T10:00:02Z");
    assert_eq!(
        (&value["stream"], &value["cursor"]),
        (&json!("stderr"), &json!("test-entry.3.0"))
    );
}

#[test]
fn errors_have_the_originals_words_and_their_status() {
    let of = |error| ErrorAnswer::from(&error);
    let wrong = vec!["owner is required".to_owned(), "git_ref: no".to_owned()];
    let invalid = of(BuildError::Invalid(wrong));
    assert_eq!(
        (invalid.code, invalid.error.as_str()),
        (400, "Job configuration validation failed")
    );
    assert_eq!(invalid.details, "owner is required; git_ref: no");
    assert_eq!(of(BuildError::NotFound(id())).error, "Job not found");
    let conflict = of(BuildError::Conflict { holder: id() });
    assert_eq!(
        (conflict.code, conflict.error.as_str()),
        (409, "Failed to create job")
    );
    assert!(
        conflict
            .details
            .starts_with("cannot start build: lock is already held by another process")
    );
    let codes = [
        of(BuildError::BadRequest(String::new())).code,
        of(BuildError::WrongState(String::new())).code,
        of(BuildError::Forbidden(String::new())).code,
        of(BuildError::Unreachable(String::new())).code,
        of(BuildError::Internal(String::new())).code,
    ];
    assert_eq!(codes, [400, 409, 403, 503, 500]);
}

#[test]
fn small_answers_are_the_originals() {
    let killed = Killed {
        killed: true,
        message: "Job killed successfully".into(),
    };
    let text = serde_json::to_string(&KillAnswer::of(id(), killed)).unwrap();
    assert_eq!(text, golden!("kill").trim());
    let cleaned = Cleaned {
        jobs: vec![id()],
        problems: Vec::new(),
    };
    let text = serde_json::to_string(&CleanupAnswer::from(cleaned)).unwrap();
    assert_eq!(text, golden!("cleanup_one").trim());
    let health = Health {
        services: vec![
            ("nomad".into(), Ok(())),
            ("consul".into(), Err("refused".into())),
        ],
    };
    let (answer, healthy) = HealthAnswer::of(&health, at("10:00:00"));
    assert!(!healthy);
    let text = serde_json::to_string(&answer).unwrap();
    let golden = golden!("health").trim().trim_end_matches('}');
    assert_eq!(
        text,
        format!("{golden},\"problems\":{{\"consul\":\"refused\"}}}}")
    );
}

#[test]
fn paging_is_bounded_as_in_the_original() {
    let history = |value| serde_json::from_value::<HistoryRequest>(value).unwrap();
    let asked = history(json!({"limit": "5", "offset": 3}));
    assert_eq!((asked.limit(), asked.offset()), (5, 3));
    let asked = history(json!({"limit": -1, "offset": -1}));
    assert_eq!((asked.limit(), asked.offset()), (50, 0));
    let logs: LogsRequest = serde_json::from_value(json!({"jobId": ID, "phase": "Test"})).unwrap();
    assert_eq!(logs.phase(), Some(Phase::Test));
    let logs: LogsRequest = serde_json::from_value(json!({"phase": "deploy"})).unwrap();
    assert_eq!(logs.phase(), None);
}

#[test]
fn the_schema_tells_agents_the_canonical_forms_and_accepts_the_others() {
    let schema = schemars::schema_for!(SubmitRequest).to_value();
    let text = serde_json::to_string(&schema).unwrap();
    assert_eq!(schema["required"], json!(["job_config"]));
    let config = &schema["$defs"]["JobConfig"];
    assert_eq!(
        config["required"],
        json!(["owner", "repo_url", "image_name", "registry_url"])
    );
    let tags = &config["properties"]["image_tags"]["anyOf"];
    assert_eq!(
        tags[0],
        json!({"type": "array", "items": {"type": "string"}})
    );
    assert_eq!(config["properties"]["test_commands"]["deprecated"], true);
    let duration = &schema["$defs"]["Duration"]["anyOf"];
    assert_eq!(duration[0]["type"], "string");
    assert_eq!(duration[1]["type"], "integer");
    let cpu = &schema["$defs"]["ResourceLimits"]["properties"]["cpu"]["anyOf"];
    assert_eq!(
        (&cpu[0]["type"], &cpu[1]["type"]),
        (&json!("string"), &json!("integer"))
    );
    for word in [
        "python_command",
        "deploy_dir",
        "\"default\":",
        "writeOnly",
        "\"additionalProperties\":false",
    ] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("job_config".to_owned()),
        Just("jobConfig".to_owned()),
        Just("test".to_owned()),
        Just("commands".to_owned()),
        Just("image_tags".to_owned()),
        Just("build_timeout".to_owned()),
        Just("resource_limits".to_owned()),
        Just("build".to_owned()),
        Just("env".to_owned()),
        Just("on_conflict".to_owned()),
        "[a-zA-Z_]{0,8}",
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_config()(
        texts in prop::collection::vec(".{0,10}", 8),
        tags in prop::collection::vec("[^\\[].{0,8}", 0..3),
        commands in prop::collection::vec(".{0,8}", 0..3),
        entry_point: bool,
        timeout in prop::option::of(any::<i64>().prop_map(Nanoseconds)),
        clear_cache: bool,
    ) -> JobConfig {
        let mut text = texts.into_iter();
        let mut next = || text.next().unwrap_or_default();
        JobConfig {
            owner: next(), repo_url: next(), git_ref: next(), image_name: next(), target: next(),
            webhook_headers: BTreeMap::from([(next(), next())]),
            image_tags: tags,
            build_timeout: timeout,
            clear_cache,
            resource_limits: Some(ResourceLimits {
                all: PhaseResources { cpu: next(), ..PhaseResources::default() },
                build: Some(PhaseResources::default()),
                ..ResourceLimits::default()
            }),
            test: Some(TestConfig { commands, entry_point, timeout, ..TestConfig::default() }),
            ..JobConfig::default()
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in any_config()) {
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<JobConfig>(&text).unwrap(), config);
    }

    #[test]
    fn no_json_panics(value in any_json()) {
        let text = serde_json::to_string(&value).unwrap();
        let _ = serde_json::from_str::<SubmitRequest>(&text);
        let _ = serde_json::from_str::<LogsRequest>(&text);
        let _ = serde_json::from_str::<HistoryRequest>(&text);
        let _ = lenient::from_slice::<JobConfig>(text.as_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = lenient::from_slice::<SubmitRequest>(&bytes);
    }

    #[test]
    fn redaction_leaves_no_password_of_a_url(password in "[a-zA-Z0-9]{12}", user in "[a-z]{0,5}", path in "[a-z/@:]{0,9}") {
        let config = JobConfig {
            webhook_url: format!("https://{user}:{password}@host/{path}"),
            ..JobConfig::default()
        };
        let redacted = config.redacted();
        prop_assert!(!redacted.webhook_url.contains(&password));
        prop_assert_eq!(redacted.redacted(), redacted);
    }
}
