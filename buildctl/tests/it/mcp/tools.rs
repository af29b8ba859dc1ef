//! The tools, as an agent uses them.

use super::*;

#[tokio::test]
async fn an_agent_submits_waits_and_finds_out_what_failed() {
    let office = Office::open();
    let mut submission = arguments("broken");
    submission["test"] = json!({"commands": ["make test"]});
    let submitted = office.answer("submitJob", submission).await;
    assert_eq!(submitted["status"], "BUILDING");
    let id = &submitted["job_id"];
    assert_eq!(
        submitted["hint"],
        format!("Call waitJob with job_id {}.", id.as_str().unwrap())
    );
    let waited = office
        .answer("waitJob", json!({"job_id": id, "timeout_s": 30}))
        .await;
    assert_eq!(
        (&waited["status"], &waited["ended"]),
        (&json!("FAILED"), &json!(true))
    );
    assert_eq!(waited["failed_phase"], "test");
    assert!(
        waited["error"]
            .as_str()
            .unwrap()
            .starts_with("Test phase failed: "),
        "{waited}"
    );
    assert!(
        waited["hint"]
            .as_str()
            .unwrap()
            .contains("phase `test` and errors_only true"),
        "{waited}"
    );
    let logs = office
        .answer(
            "getLogs",
            json!({"job_id": id, "phase": "test", "errors_only": true}),
        )
        .await;
    let lines = logs["test"].as_array().unwrap();
    assert!(
        lines.contains(&json!("[main/stdout] tests/test_a.py FAILED")),
        "{logs}"
    );
    assert_eq!(
        (&logs["build"], &logs["publish"], &logs["complete"]),
        (&json!(null), &json!(null), &json!(true))
    );
}

#[tokio::test]
async fn a_job_belongs_to_the_trace_of_whoever_submits_it() {
    let office = Office::open();
    let one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let two = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    for (index, (said, header, meant)) in [
        (Some(one), None, Some(one)),
        (Some(one), Some(two), Some(one)),
        (Some("nonsense"), Some(two), Some(two)),
        (None, Some(two), Some(two)),
        (Some("00-0-0-01"), Some("nonsense"), None),
        (None, None, None),
    ]
    .into_iter()
    .enumerate()
    {
        for anew in [false, true] {
            let image = format!("app-{index}-{anew}");
            let mut params = json!({"name": "submitJob", "arguments": arguments(&image)});
            if let Some(said) = said {
                params["_meta"] = json!({"traceparent": said});
            }
            let mut request = if anew {
                new("tools/call", &params)
            } else {
                request(&OLD, old("tools/call", &params).to_string())
            };
            if let Some(header) = header {
                let header = HeaderValue::from_static(header);
                request.headers_mut().insert("traceparent", header);
            }
            let answer = send(&office.door, request).await;
            let id = &answer.result()["structuredContent"]["job_id"];
            let id = id.as_str().unwrap().parse().unwrap();
            let job = office.ledger.get(id).await.unwrap().unwrap().job;
            let trace = job.trace.map(|trace| trace.to_string());
            assert_eq!(trace.as_deref(), meant, "{index}");
        }
    }
}

#[tokio::test]
async fn a_job_that_goes_on_is_answered_in_time_and_as_such() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await.to_string();
    let waited = office
        .answer("waitJob", json!({"job_id": id, "timeout_s": 0.05}))
        .await;
    assert_eq!(
        (&waited["status"], &waited["ended"]),
        (&json!("BUILDING"), &json!(false))
    );
    assert!(
        waited["hint"].as_str().unwrap().contains("call waitJob"),
        "{waited}"
    );
    let killed = office
        .answer("killJob", json!({"job_id": id, "reason": "enough"}))
        .await;
    assert_eq!(killed["success"], true);
    let waited = office.answer("waitJob", json!({"job_id": id})).await;
    assert_eq!(waited["error"], "Job killed by user");
    let again = office.answer("killJob", json!({"job_id": id})).await;
    assert_eq!(again["success"], false);
}

#[tokio::test]
async fn a_mistyped_argument_publishes_nothing() {
    let office = Office::open();
    for (name, value) in [
        ("tests", json!(["make test"])),
        ("test", json!({"cmds": ["make test"]})),
    ] {
        let mut submission = arguments("app");
        submission[name] = value;
        let said = office.refusal("submitJob", submission).await;
        assert!(said.contains("is unknown (known: "), "{said}");
    }
    assert!(office.ledger.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn tests_asked_for_as_of_old_are_tests() {
    let office = Office::open();
    let mut submission = arguments("app");
    submission["test_commands"] = json!(["make test"]);
    submission["test_entry_point"] = json!(true);
    submission["image_tags"] = json!("[\"v1\", \"latest\"]");
    let submitted = office.answer("submitJob", submission).await;
    assert!(!submitted["hint"].as_str().unwrap().contains("untested"));
    let waited = office
        .answer("waitJob", json!({"job_id": submitted["job_id"]}))
        .await;
    let runs: Vec<&str> = waited["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["run"].as_str().unwrap())
        .collect();
    assert!(
        runs.contains(&"test-cmd-0") && runs.contains(&"test-entry"),
        "{runs:?}"
    );
    let tags: Vec<&Value> = waited["published"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["tag"])
        .collect();
    assert_eq!(tags, [&submitted["job_id"], &json!("v1"), &json!("latest")]);
}

#[tokio::test]
async fn an_untested_image_is_said_to_be_one() {
    let office = Office::open();
    let submitted = office.answer("submitJob", arguments("app")).await;
    assert!(
        submitted["hint"]
            .as_str()
            .unwrap()
            .contains("published untested"),
        "{submitted}"
    );
}

#[tokio::test]
async fn mistakes_are_answers_that_say_what_to_do() {
    let office = Office::open();
    let busy = office.ended("endless", State::Building).await.to_string();
    let unknown = "0c7a1c5e-6d6e-4c3a-9b0a-111111111111";
    for (tool, arguments, said) in [
        ("getStatus", json!({}), "job_id is required"),
        (
            "getStatus",
            json!({"job_id": "build-7"}),
            "`build-7` is no job id",
        ),
        (
            "waitJob",
            json!({"job_id": unknown}),
            "listJobs shows those there are",
        ),
        (
            "getLogs",
            json!({"job_id": busy, "phase": "deploy"}),
            "`deploy` is no phase (known: build, test, publish)",
        ),
        (
            "getLogs",
            json!({"job_id": busy, "grep": "("}),
            "`(` is no regular expression",
        ),
        (
            "getLogs",
            json!({"job_id": busy, "cursor": "x"}),
            "`x` is no log cursor",
        ),
        (
            "getLogs",
            json!({"job_id": busy, "lines": 5}),
            "`lines` is unknown (known: ",
        ),
        (
            "purgeFailedJob",
            json!({"job_id": busy}),
            "kill it, and purge it when it has ended",
        ),
        (
            "submitJob",
            json!({"owner": "team"}),
            "repo_url is required; image_name is required",
        ),
        ("submitJob", arguments("endless"), "on_conflict `queue`"),
        ("submitJob", json!({"owner": 1.5}), "owner: "),
        ("listJobs", json!({"status": "DONE"}), "status: "),
    ] {
        let text = office.refusal(tool, arguments).await;
        assert!(text.contains(said), "{tool}: {text}");
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_job() {
    let office = Office::open();
    let mut submission = arguments("app");
    submission["idempotency_key"] = json!("agent-1");
    let first = office.answer("submitJob", submission.clone()).await;
    let second = office.answer("submitJob", submission).await;
    assert_eq!(
        (&first["job_id"], &second["existing"]),
        (&second["job_id"], &json!(true))
    );
}

#[tokio::test]
async fn jobs_are_found_by_owner_state_and_page() {
    let office = Office::open();
    let done = office.ended("app", State::Succeeded).await.to_string();
    let failed = office.ended("broken", State::Failed).await.to_string();
    let busy = office.ended("endless", State::Building).await.to_string();
    let ids = |answer: &Value, name: &str| -> Vec<String> {
        let jobs = answer["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job[name].as_str().unwrap().to_owned())
            .collect()
    };
    for (filter, found) in [
        (json!({}), vec![&busy, &failed, &done]),
        (json!({"owner": "team", "active": true}), vec![&busy]),
        (json!({"active": false}), vec![&failed, &done]),
        (json!({"status": "failed"}), vec![&failed]),
        (json!({"owner": "other"}), vec![]),
    ] {
        let answer = office.answer("listJobs", filter.clone()).await;
        assert_eq!(
            ids(&answer, "job_id").iter().collect::<Vec<_>>(),
            found,
            "{filter}"
        );
    }
    let page = office.answer("listJobs", json!({"limit": 2})).await;
    assert_eq!(
        (&page["total"], &page["next_offset"]),
        (&json!(3), &json!(2))
    );
    let rest = office
        .answer(
            "listJobs",
            json!({"limit": 2, "offset": page["next_offset"]}),
        )
        .await;
    assert_eq!(
        (ids(&rest, "job_id"), rest.get("next_offset")),
        (vec![done.clone()], None)
    );
    let history = office.answer("getHistory", json!({"owner": "team"})).await;
    assert_eq!(ids(&history, "id"), [failed.clone(), done]);
    assert_eq!(history["jobs"][0]["config"]["image_name"], "broken");
}

#[tokio::test]
async fn only_what_has_ended_is_removed_and_only_what_failed_is_forgotten() {
    let office = Office::open();
    let done = office.ended("app", State::Succeeded).await.to_string();
    let failed = office.ended("broken", State::Failed).await.to_string();
    let cleaned = office.answer("cleanup", json!({"job_id": done})).await;
    assert_eq!(
        (&cleaned["success"], &cleaned["cleaned_jobs"]),
        (&json!(true), &json!([done]))
    );
    let said = office
        .refusal("purgeFailedJob", json!({"job_id": done}))
        .await;
    assert!(said.contains("SUCCEEDED"), "{said}");
    let purged = office
        .answer("purgeFailedJob", json!({"job_id": failed}))
        .await;
    assert_eq!(
        purged["message"],
        format!("Job {failed} purged successfully")
    );
    assert!(
        office
            .refusal("getStatus", json!({"job_id": failed}))
            .await
            .starts_with("Job not found")
    );
    assert_eq!(
        office.answer("getStatus", json!({"job_id": done})).await["status"],
        "SUCCEEDED"
    );
}

#[tokio::test]
async fn no_secret_leaves_through_an_agent() {
    let office = Office::open();
    let mut submission = arguments("app");
    submission["webhook_url"] = json!("https://hooks.test/x");
    submission["webhook_secret"] = json!("s3cr3t-marker");
    submission["webhook_headers"] = json!({"authorization": "s3cr3t-marker"});
    let submitted = office.tool("submitJob", submission).await;
    let id = &submitted["structuredContent"]["job_id"];
    let mut said = vec![submitted.to_string()];
    for (tool, arguments) in [
        ("waitJob", json!({"job_id": id})),
        ("getStatus", json!({"job_id": id, "include_config": true})),
        ("getHistory", json!({})),
        ("listJobs", json!({})),
        ("getLogs", json!({"job_id": id})),
    ] {
        said.push(office.tool(tool, arguments).await.to_string());
    }
    let uri = json!({"uri": format!("buildctl://jobs/{}", id.as_str().unwrap())});
    said.push(
        office
            .ask("resources/read", &uri)
            .await
            .result()
            .to_string(),
    );
    assert!(said[2].contains("[redacted]") && said[6].contains("[redacted]"));
    assert!(
        said.iter().all(|text| !text.contains("s3cr3t-marker")),
        "{said:#?}"
    );
}
