//! Logs, of which no model gets more than it can read.

use super::*;

#[tokio::test]
async fn a_long_log_is_its_end_and_where_the_rest_is() {
    let office = Office::open();
    let id = office.ended("long", State::Succeeded).await;
    let result = office
        .tool(
            "getLogs",
            json!({"job_id": id.to_string(), "phase": "build"}),
        )
        .await;
    let logs = &result["structuredContent"];
    let lines = logs["build"].as_array().unwrap();
    assert_eq!(
        (lines.len(), &lines[199]),
        (200, &json!("[main/stdout] step 2999 of \"the\" build"))
    );
    assert!(
        result.to_string().len() < 100_000,
        "{} bytes",
        result.to_string().len()
    );
    let link = &result["content"][1];
    assert_eq!(
        (&link["type"], &link["mimeType"]),
        (&json!("resource_link"), &json!("text/plain"))
    );
    assert_eq!(link["uri"], format!("buildctl://jobs/{id}/logs/build"));
}

#[tokio::test]
async fn the_most_that_can_be_asked_for_is_bounded_too() {
    let office = Office::open();
    let id = office.ended("long", State::Succeeded).await;
    let greedy = json!({"job_id": id.to_string(), "tail": 1_000_000, "max_bytes": 1_000_000_000});
    let result = office.tool("getLogs", greedy).await;
    let bytes = result["structuredContent"].to_string().len();
    assert!((30_000..60_000).contains(&bytes), "{bytes} bytes");
}

#[tokio::test]
async fn from_cursor_to_cursor_every_line_is_read_once() {
    let office = Office::open();
    let id = office.ended("long", State::Succeeded).await.to_string();
    let mut query = json!({"job_id": id, "cursor": "build.0.0"});
    let mut read = Vec::new();
    loop {
        let page = office.answer("getLogs", query.clone()).await;
        let lines = page["build"].as_array().into_iter().flatten();
        let lines = lines.filter_map(|line| line.as_str()?.strip_prefix("[main/stdout] step "));
        read.extend(lines.map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()));
        if page["complete"] == true {
            break;
        }
        assert_eq!(page["more"], true);
        query["cursor"] = page["cursor"].clone();
    }
    assert_eq!(read, (0..3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_expression_picks_lines_and_older_clients_get_no_links() {
    let office = Office::open();
    let id = office.ended("long", State::Succeeded).await.to_string();
    let logs = office
        .answer("getLogs", json!({"job_id": id, "grep": "step 29+ of"}))
        .await;
    assert_eq!(
        logs["build"],
        json!([
            "[main/stdout] step 29 of \"the\" build",
            "[main/stdout] step 299 of \"the\" build",
            "[main/stdout] step 2999 of \"the\" build"
        ])
    );
    let call = json!({"name": "getLogs", "arguments": {"job_id": id, "tail": 1}});
    // Without the header a client is one of March 2025, and links are younger.
    let answer = send(
        &office.door,
        request(&[], old("tools/call", &call).to_string()),
    )
    .await;
    let content = answer.result()["content"].as_array().unwrap();
    assert!(
        content.iter().all(|block| block["type"] == "text"),
        "{content:?}"
    );
}
