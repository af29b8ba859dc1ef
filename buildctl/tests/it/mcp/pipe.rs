//! Conversations by a pipe, as `buildctl mcp` has them.

use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, duplex,
    split,
};

use super::*;

/// The client's end of a pipe.
struct Pipe {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    write: WriteHalf<DuplexStream>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Pipe {
    fn to(office: &Office) -> Self {
        let (ours, theirs) = duplex(1 << 20);
        let (read, write) = split(theirs);
        let served = tokio::spawn(mcp::converse(Arc::clone(&office.builds), read, write));
        let (read, write) = split(ours);
        Self {
            lines: BufReader::new(read).lines(),
            write,
            served,
        }
    }

    async fn say(&mut self, message: &Value) {
        self.write
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = timeout(patience(), self.lines.next_line())
            .await
            .expect("a line");
        serde_json::from_str(&line.unwrap().expect("no end")).unwrap()
    }

    /// The answer; what is told meanwhile is passed over.
    async fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.say(&old(method, params)).await;
        loop {
            let message = self.hear().await;
            if message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn close(mut self) {
        self.write.shutdown().await.unwrap();
        drop(self.lines);
        timeout(patience(), self.served)
            .await
            .expect("the end")
            .unwrap()
            .unwrap();
    }
}

fn hello() -> Value {
    json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}})
}

#[tokio::test]
async fn a_client_at_a_pipe_shakes_hands_asks_and_goes() {
    let office = Office::open();
    let mut pipe = Pipe::to(&office);
    let answer = pipe.ask("initialize", &hello()).await;
    assert_eq!(
        answer["result"]["capabilities"]["resources"],
        json!({"subscribe": true})
    );
    pipe.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    let answer = pipe
        .ask(
            "tools/call",
            &json!({"name": "submitJob", "arguments": arguments("app")}),
        )
        .await;
    let id = answer["result"]["structuredContent"]["job_id"].clone();
    let answer = pipe
        .ask(
            "tools/call",
            &json!({"name": "waitJob", "arguments": {"job_id": id}}),
        )
        .await;
    assert_eq!(answer["result"]["structuredContent"]["status"], "SUCCEEDED");
    assert_eq!(
        pipe.ask("prompts/list", &json!({})).await["error"]["code"],
        -32601
    );
    pipe.close().await;
}

#[tokio::test]
async fn a_client_of_the_newer_era_asks_at_once() {
    let office = Office::open();
    let mut pipe = Pipe::to(&office);
    let meta = json!({"_meta": {format!("{META}/protocolVersion"): "2026-07-28", format!("{META}/clientCapabilities"): {}}});
    let answer = pipe.ask("server/discover", &meta).await;
    assert_eq!(answer["result"]["resultType"], "complete");
    let mut call = meta.clone();
    call["name"] = json!("listJobs");
    let answer = pipe.ask("tools/call", &call).await;
    assert_eq!(answer["result"]["structuredContent"]["total"], 0);
    assert_eq!(answer["result"]["resultType"], "complete");
    pipe.close().await;
}

#[tokio::test]
async fn a_client_that_goes_before_it_says_anything_is_no_error() {
    Pipe::to(&Office::open()).close().await;
}

#[tokio::test]
async fn a_subscription_lasts_until_it_is_given_up() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await;
    let uri = json!({"uri": format!("buildctl://jobs/{id}")});
    let mut pipe = Pipe::to(&office);
    pipe.ask("initialize", &hello()).await;
    let other = json!({"uri": "file:///x"});
    assert_eq!(
        pipe.ask("resources/subscribe", &other).await["error"]["code"],
        -32002
    );
    assert_eq!(
        pipe.ask("resources/subscribe", &uri).await["result"],
        json!({})
    );
    // How it was at the beginning is the first that is told.
    for _ in 0..2 {
        let told = pipe.hear().await;
        assert_eq!(told["method"], "notifications/resources/updated");
        assert_eq!(told["params"]["uri"], uri["uri"]);
        office.builds.kill(id, None).await.unwrap();
    }
    assert_eq!(
        pipe.ask("resources/unsubscribe", &uri).await["result"],
        json!({})
    );
    pipe.close().await;
}

#[tokio::test]
async fn a_cancelled_wait_leaves_the_job_and_the_pipe_alone() {
    let office = Office::open();
    let id = office.ended("endless", State::Building).await;
    let mut pipe = Pipe::to(&office);
    pipe.ask("initialize", &hello()).await;
    let wait = json!({"name": "waitJob", "arguments": {"job_id": id.to_string()}, "_meta": {"progressToken": 1}});
    pipe.say(&old("tools/call", &wait)).await;
    assert_eq!(pipe.hear().await["method"], "notifications/progress");
    pipe.say(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    )
    .await;
    pipe.say(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "getStatus", "arguments": {"job_id": id.to_string()}}})).await;
    let answer = loop {
        let message = pipe.hear().await;
        if message.get("method").is_none() {
            break message;
        }
    };
    assert_eq!(
        (
            &answer["id"],
            &answer["result"]["structuredContent"]["status"]
        ),
        (&json!(2), &json!("BUILDING"))
    );
    pipe.close().await;
}
