//! HTTP itself: what is taken, what is answered, and what happens when a client goes away.

use axum::http::Method;
use buildctl::job::State;

use super::*;

fn ping() -> String {
    old("ping", &json!({})).to_string()
}

#[tokio::test]
async fn the_originals_clients_post_once_and_get_json() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await;
    // One that asks for progress and takes no stream of it gets its answer.
    let wait = json!({"name": "waitJob", "arguments": {"job_id": id.to_string(), "timeout_s": 0.05}, "_meta": {"progressToken": 7}});
    for body in [ping(), old("tools/call", &wait).to_string()] {
        for accept in [None, Some("*/*"), Some("application/json")] {
            let headers: Vec<(&str, &str)> = accept
                .map(|accept| ("accept", accept))
                .into_iter()
                .collect();
            let answer = send(&office.door, request(&headers, body.clone())).await;
            assert_eq!(answer.status, StatusCode::OK, "{accept:?}");
            assert!(
                !answer.is_stream() && answer.messages.len() == 1,
                "{answer:?}"
            );
            answer.result();
        }
    }
    let mut bare = request(&[], ping());
    bare.headers_mut().remove("content-type");
    assert_eq!(send(&office.door, bare).await.status, StatusCode::OK);
}

#[tokio::test]
async fn nothing_but_post_is_served() {
    let office = Office::open();
    for method in [Method::GET, Method::DELETE, Method::PUT] {
        let mut request = request(&[("accept", "text/event-stream")], "");
        *request.method_mut() = method.clone();
        let answer = send(&office.door, request).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "POST", "{method}");
    }
    let mut asks = request(&[], "");
    *asks.method_mut() = Method::OPTIONS;
    let answer = send(&office.door, asks).await;
    assert_eq!(
        (answer.status, &answer.headers["allow"]),
        (
            StatusCode::NO_CONTENT,
            &HeaderValue::from_static("POST, OPTIONS")
        )
    );
    let mut elsewhere = request(&[], ping());
    *elsewhere.uri_mut() = "/mcp/other".parse().unwrap();
    assert_eq!(
        send(&office.door, elsewhere).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn what_is_no_message_is_answered_as_the_protocol_says() {
    let office = Office::open();
    for (body, code, id) in [
        ("{", -32700, json!(null)),
        ("[]", -32600, json!(null)),
        (
            r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
            -32600,
            json!(7),
        ),
        (r#"{"id":"a","method":"ping"}"#, -32600, json!("a")),
        ("7", -32600, json!(null)),
    ] {
        let answer = send(&office.door, request(&OLD, body)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::BAD_REQUEST, code),
            "{body}"
        );
        assert_eq!(answer.last()["id"], id, "{body}");
    }
    let text = send(
        &office.door,
        request(&[OLD[0], ("content-type", "text/plain")], ping()),
    )
    .await;
    assert_eq!(text.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = send(&office.door, request(&OLD, "x".repeat((4 << 20) + 1))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
}

/// A call of `waitJob` that asks for progress.
fn wait(id: JobId) -> Value {
    json!({"name": "waitJob", "arguments": {"job_id": id.to_string()}, "_meta": {"progressToken": "p"}})
}

#[tokio::test]
async fn whoever_waits_hears_of_progress_in_either_era() {
    let office = Office::open();
    for anew in [false, true] {
        let id = office.submit("second").await;
        let answer = if anew {
            office.ask_anew("tools/call", &wait(id)).await
        } else {
            office.ask("tools/call", &wait(id)).await
        };
        assert!(answer.is_stream(), "{answer:?}");
        assert_eq!(answer.headers["x-accel-buffering"], "no");
        assert_eq!(answer.result()["structuredContent"]["ended"], true);
        let (_, told) = answer.messages.split_last().unwrap();
        assert!(
            told.iter()
                .all(|message| message["method"] == "notifications/progress")
        );
        assert!(
            told.iter()
                .all(|message| message["params"]["progressToken"] == "p")
        );
        let numbers: Vec<f64> = told
            .iter()
            .map(|message| message["params"]["progress"].as_f64().unwrap())
            .collect();
        assert!(
            numbers.len() > 1 && numbers.is_sorted_by(|a, b| a < b),
            "{numbers:?}"
        );
        let words: Vec<&str> = told
            .iter()
            .map(|message| message["params"]["message"].as_str().unwrap())
            .collect();
        assert!(words.contains(&"BUILDING"), "{words:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_ends_its_wait_and_not_the_job() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await;
    let idle = Arc::strong_count(&office.builds);
    for request in [
        request(&OLD, old("tools/call", &wait(id)).to_string()),
        new("tools/call", &wait(id)),
    ] {
        let response = office.door.clone().oneshot(request).await.unwrap();
        let mut stream = response.into_body().into_data_stream();
        // The first that it hears is progress, so that the wait has begun.
        timeout(patience(), stream.next())
            .await
            .expect("progress")
            .unwrap()
            .unwrap();
        assert!(Arc::strong_count(&office.builds) > idle);
        drop(stream);
        let ended = async {
            while Arc::strong_count(&office.builds) > idle {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), ended)
            .await
            .expect("the end of the wait");
    }
    assert_eq!(
        office
            .answer("getStatus", json!({"job_id": id.to_string()}))
            .await["status"],
        "BUILDING"
    );
}
