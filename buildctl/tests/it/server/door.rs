//! Who gets in: by name, by page, by token.

use std::{fs, time::Duration};

use buildctl::job::JobId;
use runyard_common::testing::{eventually, tempdir};
use serde_json::json;

use super::*;

const MARK: &str = "m4rked-t0ken";

async fn status(stage: &Stage, headers: &[&str]) -> u16 {
    stage.request("GET /v1/jobs", headers, "").await.status
}

#[tokio::test]
async fn a_local_service_answers_to_names_of_this_machine_only() {
    let stage = Stage::with(
        Bench::new(),
        &[("BUILDCTL_ALLOWED_HOSTS", "builds.example,*.ci.example")],
    )
    .await;
    for (host, expected) in [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("192.0.2.7:8080", 200),
        ("builds.example", 200),
        ("a.ci.example:80", 200),
        ("evil.example", 403),
        ("ci.example", 403),
        ("localhost.evil.example", 403),
        ("a b", 403),
    ] {
        assert_eq!(
            status(&stage, &[&format!("Host: {host}")]).await,
            expected,
            "{host}"
        );
    }
    let page = stage.request("GET /", &["Host: evil.example"], "").await;
    assert_eq!(page.status, 403);
}

#[tokio::test]
async fn a_public_service_answers_to_every_name_but_not_to_pages_under_it() {
    let stage = Stage::with(Bench::new(), &[("BUILDCTL_LISTEN", "0.0.0.0:8080")]).await;
    assert_eq!(
        status(&stage, &["Host: builds.service.consul:8080"]).await,
        200
    );
    let page = ["Host: rebound.example", "Origin: http://rebound.example"];
    assert_eq!(status(&stage, &page).await, 403);
    let own = ["Host: 192.0.2.7:8080", "Origin: http://192.0.2.7:8080"];
    assert_eq!(status(&stage, &own).await, 200);
}

#[tokio::test]
async fn foreign_pages_are_kept_out_of_every_route() {
    let stage = Stage::new(Bench::new()).await;
    let id = JobId::random();
    for line in [
        "POST /json/submitJob",
        "POST /mcp/killJob",
        "GET /json/streamLogs",
        "GET /v1/jobs",
        "GET /health",
        "GET /nothing",
        &format!("POST /v1/jobs/{id}/kill"),
    ] {
        let answer = stage
            .request(line, &["Origin: https://evil.example"], "{}")
            .await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (403, None),
            "{line}"
        );
        assert_eq!(answer.json()["code"], 403);
    }
    for origin in [
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
    ] {
        assert_eq!(
            status(&stage, &[&format!("Origin: {origin}")]).await,
            403,
            "{origin}"
        );
    }
}

#[tokio::test]
async fn configured_pages_may_call_and_are_told_so() {
    let listed = Stage::with(
        Bench::new(),
        &[("BUILDCTL_CORS_ORIGINS", "https://ops.example")],
    )
    .await;
    let answer = listed
        .request("GET /v1/jobs", &["Origin: https://ops.example"], "")
        .await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://ops.example")
    );
    assert_eq!(answer.header("vary"), Some("origin"));
    assert_eq!(
        status(&listed, &["Origin: https://evil.example"]).await,
        403
    );

    let any = Stage::with(Bench::new(), &[("CORS_ORIGIN", "*")]).await;
    let asked = [
        "Origin: https://x.example",
        "Access-Control-Request-Method: POST",
    ];
    let preflight = any.request("OPTIONS /mcp", &asked, "").await;
    assert_eq!(
        (
            preflight.status,
            preflight.header("access-control-allow-origin")
        ),
        (200, Some("*"))
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .unwrap()
            .contains("mcp-protocol-version")
    );
    assert_eq!(preflight.header("access-control-max-age"), Some("3600"));
}

#[tokio::test]
async fn without_a_token_nothing_but_what_is_for_anybody() {
    let folder = tempdir();
    let file = folder.path().join("tokens");
    fs::write(&file, format!("# of people\nfirst\n\n{MARK}\n")).unwrap();
    let stage = Stage::with(
        Bench::new(),
        &[("BUILDCTL_TOKEN_FILE", file.to_str().unwrap())],
    )
    .await;
    let id = JobId::random();
    for line in [
        "POST /json/submitJob",
        "POST /mcp/getStatus",
        "GET /json/streamLogs",
        "GET /v1/jobs",
        "GET /metrics",
        "GET /v1/openapi.json",
        &format!("DELETE /v1/jobs/{id}"),
    ] {
        for header in [
            "X-None: 1",
            "Authorization: Bearer wrong",
            "Authorization: Bearer",
            "Authorization: Basic first",
        ] {
            let answer = stage.request(line, &[header], "{}").await;
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (401, Some("bearer")),
                "{line} {header}"
            );
            assert!(!answer.body.contains(MARK) && !answer.body.contains("wrong"));
        }
    }
    for path in ["/", "/health", "/ready", "/live"] {
        assert_eq!(stage.get(path).await.status, 200, "{path}");
    }
    assert_eq!(stage.get("/v1/runner?arch=none").await.status, 404);
    for token in ["first", MARK] {
        assert_eq!(
            status(&stage, &[&format!("Authorization: Bearer {token}")]).await,
            200
        );
    }
    assert_eq!(
        stage.get(&format!("/v1/jobs?token={MARK}")).await.status,
        401,
        "only WebSockets take it from there"
    );
    let socket = format!("GET /json/streamLogs?job_id={id}&token={MARK}");
    let answer = stage.request(&socket, &["Sec-WebSocket-Key: x"], "").await;
    assert_eq!(answer.status, 426, "it got past the door");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_again_and_a_broken_file_changes_nothing() {
    let folder = tempdir();
    let file = folder.path().join("tokens");
    fs::write(&file, "old\n").unwrap();
    let stage = Stage::with(
        Bench::new(),
        &[("BUILDCTL_TOKEN_FILE", file.to_str().unwrap())],
    )
    .await;
    let with =
        async |token: &str| status(&stage, &[&format!("Authorization: Bearer {token}")]).await;
    assert_eq!(with("old").await, 200);
    fs::write(&file, "a-new-one\n").unwrap();
    let within = tokio::time::Instant::now() + Duration::from_secs(20);
    while with("a-new-one").await != 200 {
        assert!(tokio::time::Instant::now() < within);
        tokio::task::yield_now().await;
    }
    assert_eq!(with("old").await, 401);
    fs::remove_file(&file).unwrap();
    let began = std::time::Instant::now();
    eventually(patience(), || {
        (began.elapsed() > Duration::from_millis(1100)).then_some(())
    });
    assert_eq!((with("a-new-one").await, with("").await), (200, 401));
}

#[tokio::test]
async fn another_protocol_stands_beside_the_originals_routes_behind_the_same_door() {
    use axum::{Router, body::Body, http::Request};
    use tower::ServiceExt;

    let folder = tempdir();
    let file = folder.path().join("tokens");
    fs::write(&file, MARK).unwrap();
    let variables = [("BUILDCTL_TOKEN_FILE", file.to_str().unwrap())];
    let bench = Bench::new();
    let context = context(&bench, &variables, Shutdown::manual().1).0;
    let router = server::router(context, Some(Router::new().fallback(|| async { "spoken" })));
    let ask = async |path: &str, token: &str| {
        let request = Request::post(path).header("authorization", format!("Bearer {token}"));
        let answer = router
            .clone()
            .oneshot(request.body(Body::from("{}")).unwrap())
            .await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20)
            .await
            .unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(ask("/mcp", MARK).await, (200, "spoken".to_owned()));
    assert_eq!(ask("/mcp", "wrong").await.0, 401);
    let (status, body) = ask("/mcp/getStatus", MARK).await;
    assert!(status == 404 && body.contains("Job not found"), "{body}");
}

/// What `/mcp` answers a client with these headers: the status, and which pages may read it.
async fn spoken(stage: &Stage, headers: &[&str]) -> (u16, Option<String>) {
    let json = [
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
    ];
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let headers: Vec<&str> = json.iter().chain(headers).copied().collect();
    let answer = stage.request("POST /mcp", &headers, ping).await;
    let pages = answer.header("access-control-allow-origin");
    (answer.status, pages.map(str::to_owned))
}

#[tokio::test]
async fn agents_are_let_in_by_the_same_rules_as_everybody() {
    let alone = Stage::new(Bench::new()).await;
    let variables = [
        ("BUILDCTL_ALLOWED_HOSTS", "builds.example"),
        ("BUILDCTL_CORS_ORIGINS", "https://tools.example"),
    ];
    let listed = Stage::with(Bench::new(), &variables).await;
    let any = Stage::with(
        Bench::new(),
        &[
            ("BUILDCTL_ALLOWED_HOSTS", "*"),
            ("BUILDCTL_CORS_ORIGINS", "*"),
        ],
    )
    .await;
    let here = "127.0.0.1:8080";
    // Where nobody is listed, and where these are.
    for (host, origin, is_let_in, is_let_in_if_listed) in [
        ("evil.example", None, false, false),
        ("builds.example:8080", None, false, true),
        ("localhost:1", None, true, true),
        (here, Some("https://evil.example"), false, false),
        (here, Some("null"), false, false),
        (here, Some("https://tools.example:8443"), false, false),
        (here, Some("https://tools.example"), false, true),
        (here, Some("http://localhost:6274"), true, true),
        (
            "builds.example:8080",
            Some("http://builds.example:8080"),
            false,
            true,
        ),
    ] {
        let host = format!("Host: {host}");
        let page = origin.map(|origin| format!("Origin: {origin}"));
        let headers: Vec<&str> = [Some(&*host), page.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        for (stage, is_let_in) in [(&alone, is_let_in), (&listed, is_let_in_if_listed)] {
            let wanted = if is_let_in { 200 } else { 403 };
            let (status, _) = spoken(stage, &headers).await;
            assert_eq!(status, wanted, "{host} {origin:?}");
        }
        let everybody = origin.map(|_| "*".to_owned());
        assert_eq!(spoken(&any, &headers).await, (200, everybody), "{host}");
    }
}

#[tokio::test]
async fn a_page_of_this_machine_may_ask_and_read() {
    let stage = Stage::new(Bench::new()).await;
    let page = "http://localhost:6274";
    let origin = format!("Origin: {page}");
    let asked = [&*origin, "Access-Control-Request-Method: POST"];
    let preflight = stage.request("OPTIONS /mcp", &asked, "").await;
    assert_eq!(
        (
            preflight.status,
            preflight.header("access-control-allow-origin")
        ),
        (200, Some(page))
    );
    assert_eq!(
        spoken(&stage, &[&origin]).await,
        (200, Some(page.to_owned()))
    );
    let stranger = ["Origin: https://evil.example", asked[1]];
    let refused = stage.request("OPTIONS /mcp", &stranger, "").await;
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (403, None)
    );
}

#[tokio::test]
async fn what_goes_wrong_inside_stays_inside() {
    let stage = Stage::new(Bench::new()).await;
    stage.bench.ledger.set_unreachable(true);
    let answer = stage.get("/v1/jobs").await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (503, &json!("Service unavailable"))
    );
    assert!(
        answer
            .header("x-request-id")
            .is_some_and(|id| id.len() == 32)
    );
}
