//! Jobs and logs as documents.

use super::*;

#[tokio::test]
async fn documents_are_listed_newest_job_first_and_read() {
    let office = Office::open();
    let first = office.ended("app", State::Succeeded).await;
    let second = office.ended("endless", State::Building).await;
    let list = office.ask_anew("resources/list", &json!({})).await;
    let uris: Vec<&str> = list.result()["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["uri"].as_str().unwrap())
        .collect();
    let job = |id: JobId| format!("buildctl://jobs/{id}");
    let log = |id: JobId, phase: &str| format!("buildctl://jobs/{id}/logs/{phase}");
    assert_eq!(
        uris,
        [
            job(second),
            log(second, "build"),
            job(first),
            log(first, "build"),
            log(first, "test"),
            log(first, "publish")
        ]
    );
    for (uri, mime, words, ttl) in [
        (job(first), "application/json", "\"SUCCEEDED\"", 60_000),
        (job(second), "application/json", "\"BUILDING\"", 0),
        (log(first, "test"), "text/plain", "=== Test Job 0", 60_000),
        (
            log(second, "build"),
            "text/plain",
            "[main/stdout] STEP 1: FROM scratch\n",
            0,
        ),
    ] {
        let read = office
            .ask_anew("resources/read", &json!({"uri": uri}))
            .await;
        let result = read.result();
        assert_eq!(
            (&result["ttlMs"], &result["cacheScope"]),
            (&json!(ttl), &json!("private")),
            "{uri}"
        );
        let content = &result["contents"][0];
        assert_eq!(
            (&content["uri"], &content["mimeType"]),
            (&json!(uri), &json!(mime))
        );
        assert!(
            content["text"].as_str().unwrap().contains(words),
            "{content}"
        );
    }
}

#[tokio::test]
async fn a_long_log_is_a_bounded_document_that_says_so() {
    let office = Office::open();
    office
        .engine
        .script(|_, _| Play::default().saying((0..20_000).map(|n| format!("line {n}"))));
    let id = office.ended("app", State::Succeeded).await;
    let read = office
        .ask(
            "resources/read",
            &json!({"uri": format!("buildctl://jobs/{id}/logs/build")}),
        )
        .await;
    let text = read.result()["contents"][0]["text"].as_str().unwrap();
    assert!(text.len() < 300_000 && text.ends_with("line 19999\n"));
    assert!(
        text.starts_with("[buildctl] the beginning of this log may be left out"),
        "{}",
        &text[..80]
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found_in_the_words_of_the_era() {
    let office = Office::open();
    for uri in [
        "buildctl://jobs/0c7a1c5e-6d6e-4c3a-9b0a-111111111111",
        "buildctl://jobs/x/logs/build",
        "file:///etc/passwd",
    ] {
        let params = json!({"uri": uri});
        let answer = office.ask("resources/read", &params).await;
        assert_eq!(
            (answer.code(), &answer.last()["error"]["data"]["uri"]),
            (-32002, &json!(uri))
        );
        assert_eq!(
            office.ask_anew("resources/read", &params).await.code(),
            -32602
        );
    }
    assert_eq!(
        office
            .ask("resources/list", &json!({"cursor": "x"}))
            .await
            .code(),
        -32602
    );
}

#[tokio::test]
async fn pages_of_documents_follow_each_other() {
    let office = Office::open();
    for n in 0..30 {
        office.ended(&format!("app-{n}"), State::Succeeded).await;
    }
    let first = office.ask("resources/list", &json!({})).await;
    let cursor = first.result()["nextCursor"].clone();
    let rest = office
        .ask("resources/list", &json!({"cursor": cursor}))
        .await;
    assert!(rest.result().get("nextCursor").is_none());
    let count = |answer: &Answer| answer.result()["resources"].as_array().unwrap().len();
    // Each job, and the log of each of its phases.
    assert_eq!((count(&first), count(&rest)), (100, 20));
}

#[tokio::test]
async fn a_subscriber_is_told_what_changed_and_nothing_else() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await;
    let job = format!("buildctl://jobs/{id}");
    let wanted = json!({"notifications": {"resourceSubscriptions": [job, "file:///etc/passwd"], "toolsListChanged": true}});
    let response = office
        .door
        .clone()
        .oneshot(new("subscriptions/listen", &wanted))
        .await
        .unwrap();
    let mut stream = response.into_body().into_data_stream();
    let mut heard = String::new();
    let mut messages = Vec::new();
    let told = async {
        while messages.len() < 3 {
            heard.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
            messages = heard
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok())
                .collect();
            // How it was at the beginning is the first that is told.
            if messages.len() == 2 {
                office.builds.kill(id, None).await.unwrap();
            }
        }
    };
    timeout(patience(), told).await.expect("a change");
    assert_eq!(
        messages[0]["method"],
        "notifications/subscriptions/acknowledged"
    );
    assert_eq!(
        messages[0]["params"]["notifications"],
        json!({"resourceSubscriptions": [job]})
    );
    assert_eq!(
        (&messages[2]["method"], &messages[2]["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!(job))
    );
    assert!(
        messages
            .iter()
            .all(|message| message["params"]["_meta"][format!("{META}/subscriptionId")] == 1),
        "{messages:?}"
    );
}
