//! Both eras of the protocol over HTTP: the one with a handshake and the one without.

use super::*;

#[tokio::test]
async fn the_older_era_shakes_hands_and_needs_no_session() {
    let office = Office::open();
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let answer = office.ask("initialize", &hello).await;
    assert!(!answer.headers.contains_key("mcp-session-id"));
    let result = answer.result();
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(result["serverInfo"]["name"], "buildctl");
    assert_eq!(
        result["capabilities"],
        json!({"tools": {}, "resources": {}})
    );
    assert!(result["instructions"].as_str().unwrap().contains("waitJob"));
    let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let answer = send(&office.door, request(&OLD, told.to_string())).await;
    assert_eq!(
        (answer.status, answer.messages.len()),
        (StatusCode::ACCEPTED, 0)
    );
    assert_eq!(office.ask("ping", &json!({})).await.result(), &json!({}));
    let tools = office.ask("tools/list", &json!({})).await;
    assert!(tools.result().get("resultType").is_none() && tools.result().get("ttlMs").is_some());
    let result = office.tool("listJobs", json!({})).await;
    assert!(
        result.get("resultType").is_none() && result.get("_meta").is_none(),
        "{result}"
    );
}

#[tokio::test]
async fn every_revision_of_the_older_era_is_spoken() {
    let office = Office::open();
    for (asked, spoken) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        // Whoever shakes hands is of the older era, whatever it asks for.
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let hello = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let headers = [("accept", "application/json, text/event-stream")];
        let answer = send(
            &office.door,
            request(&headers, old("initialize", &hello).to_string()),
        )
        .await;
        assert_eq!(answer.result()["protocolVersion"], spoken, "{asked}");
    }
}

#[tokio::test]
async fn the_newer_era_asks_without_a_handshake() {
    let office = Office::open();
    let found = office.ask_anew("server/discover", &json!({})).await;
    let found = found.result();
    assert_eq!(found["resultType"], "complete");
    assert!(
        found["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&"2026-07-28".into())
    );
    assert_eq!(
        found["capabilities"],
        json!({"tools": {}, "resources": {"subscribe": true}})
    );
    assert_eq!(
        (&found["ttlMs"], &found["cacheScope"]),
        (&json!(300_000), &json!("public"))
    );
    assert_eq!(
        found["_meta"][format!("{META}/serverInfo")]["name"],
        "buildctl"
    );
    let answer = office
        .ask_anew("tools/call", &json!({"name": "listJobs", "arguments": {}}))
        .await;
    let result = answer.result();
    assert_eq!(
        (&result["resultType"], &result["isError"]),
        (&json!("complete"), &json!(false))
    );
    assert_eq!(
        result["_meta"][format!("{META}/serverInfo")]["name"],
        "buildctl"
    );
    assert_eq!(result["structuredContent"], json!({"jobs": [], "total": 0}));
    for method in ["tools/list", "resources/list", "resources/templates/list"] {
        let answer = office.ask_anew(method, &json!({})).await;
        let result = answer.result();
        assert!(
            result["ttlMs"].is_u64() && result["cacheScope"].is_string(),
            "{method}: {result}"
        );
        assert_eq!(result["resultType"], "complete");
    }
}

#[tokio::test]
async fn headers_and_metadata_of_the_newer_era_must_agree() {
    let office = Office::open();
    let call = json!({"name": "listJobs"});
    let with = |name: &'static str, value: Option<&'static str>| {
        let mut request = new("tools/call", &call);
        match value {
            Some(value) => request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value)),
            None => request.headers_mut().remove(name),
        };
        send(&office.door, request)
    };
    for (name, value) in [
        ("mcp-method", Some("tools/list")),
        ("mcp-method", None),
        ("mcp-name", Some("killJob")),
        ("mcp-name", None),
        ("mcp-protocol-version", Some("2025-11-25")),
        ("mcp-protocol-version", None),
    ] {
        let answer = with(name, value).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::BAD_REQUEST, -32020),
            "{name}: {value:?}"
        );
        assert_eq!(answer.last()["id"], 1);
    }
}

#[tokio::test]
async fn a_revision_that_nobody_knows_and_no_metadata_at_all_are_refused() {
    let office = Office::open();
    let unknown = old(
        "tools/list",
        &json!({"_meta": {
            format!("{META}/protocolVersion"): "2099-01-01", format!("{META}/clientCapabilities"): {}
        }}),
    );
    let headers = [
        OLD[0],
        ("mcp-protocol-version", "2099-01-01"),
        ("mcp-method", "tools/list"),
    ];
    let answer = send(&office.door, request(&headers, unknown.to_string())).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::BAD_REQUEST, -32022)
    );
    assert!(
        answer.last()["error"]["data"]["supported"]
            .as_array()
            .unwrap()
            .contains(&"2026-07-28".into())
    );
    let bare = request(
        &[
            OLD[0],
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/list"),
        ],
        old("tools/list", &json!({})).to_string(),
    );
    let answer = send(&office.door, bare).await;
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::BAD_REQUEST, -32602)
    );
}

#[tokio::test]
async fn what_is_not_declared_is_not_served() {
    let office = Office::open();
    let uri = json!({"uri": "buildctl://jobs/0c7a1c5e-6d6e-4c3a-9b0a-111111111111"});
    let complete = json!({"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": "b"}});
    let both = [
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "x"})),
        ("completion/complete", complete),
        ("logging/setLevel", json!({"level": "debug"})),
        ("resources/subscribe", uri.clone()),
        ("resources/unsubscribe", uri),
        ("tasks/get", json!({"taskId": "x"})),
        ("no/such", json!({})),
    ];
    for (method, params) in &both {
        let answer = office.ask(method, params).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::OK, -32601),
            "{method}"
        );
        let answer = office.ask_anew(method, params).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::NOT_FOUND, -32601),
            "{method}"
        );
    }
    for method in ["ping", "initialize", "notifications/none"] {
        let answer = office.ask_anew(method, &json!({})).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::NOT_FOUND, -32601),
            "{method}"
        );
    }
}

#[tokio::test]
async fn an_unknown_tool_and_wrong_parameters_are_errors_of_the_protocol() {
    let office = Office::open();
    for params in [
        json!({"name": "buildImage", "arguments": {}}),
        json!({}),
        json!({"name": "listJobs", "arguments": "none"}),
    ] {
        assert_eq!(
            office.ask("tools/call", &params).await.code(),
            -32602,
            "{params}"
        );
    }
    let answer = office
        .ask("tools/call", &json!({"name": "buildImage"}))
        .await;
    let message = answer.last()["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("there is no tool `buildImage` (known: submitJob, "),
        "{message}"
    );
}

#[tokio::test]
async fn it_does_not_matter_which_replica_gets_which_request() {
    let office = Office::open();
    let other = replica(&office.ledger, &office.engine);
    let other = door(&other);
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    office.ask("initialize", &hello).await;
    let id = office.submit("app").await;
    let wait = json!({"name": "waitJob", "arguments": {"job_id": id.to_string()}});
    for request in [
        request(&OLD, old("tools/call", &wait).to_string()),
        new("tools/call", &wait),
    ] {
        let answer = send(&other, request).await;
        assert_eq!(answer.result()["structuredContent"]["status"], "SUCCEEDED");
    }
}
