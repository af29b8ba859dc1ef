//! Logs over a WebSocket.

use std::time::Duration;

use buildctl::{
    job::{JobId, State},
    scheduler::fake::Play,
};
use tungstenite::{ClientRequestBuilder, Message, WebSocket, protocol::frame::coding::CloseCode};

use super::{
    events::{all, ended, talking},
    *,
};
use crate::service::config;

type Socket = WebSocket<std::net::TcpStream>;

fn open(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
    let uri = format!("ws://{address}/json/streamLogs?{query}")
        .parse()
        .unwrap();
    let request = headers
        .iter()
        .fold(ClientRequestBuilder::new(uri), |request, (name, value)| {
            request.with_header(*name, *value)
        });
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(other) => panic!("{other}"),
    }
}

/// Messages to the end, and the word it ends with.
fn rest(socket: &mut Socket) -> (Vec<Value>, Option<(CloseCode, String)>) {
    let mut lines = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => lines.push(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(frame)) => {
                return (
                    lines,
                    frame.map(|frame| (frame.code, frame.reason.to_string())),
                );
            }
            Ok(_) => {}
            Err(_) => return (lines, None),
        }
    }
}

fn texts(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_comes_first_then_what_is_said_then_the_end() {
    let stage = Stage::new(talking()).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    stage.bench.clock.advance(Duration::from_secs(3));
    let address = stage.address;
    let (mut socket, early) = blocking(move || {
        let mut socket = open(address, &format!("job_id={id}"), &[]).unwrap();
        let early: Vec<Value> = (0..4)
            .map(|_| serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap())
            .collect();
        (socket, early)
    })
    .await;
    assert_eq!(texts(&early), all()[..4]);
    let first = &early[0];
    assert_eq!(
        (&first["job_id"], &first["phase"], &first["level"]),
        (&id.to_string().into(), &"build".into(), &"INFO".into())
    );
    assert!(first["timestamp"].as_str().unwrap().ends_with('Z'));
    stage.bench.clock.advance(Duration::from_secs(10));
    let (lines, end) = blocking(move || rest(&mut socket)).await;
    assert_eq!(texts(&lines), all()[4..]);
    assert_eq!(end, Some((CloseCode::Normal, "SUCCEEDED".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_come_whole_and_many_lines_come_all() {
    let bench = Bench::with(&|_, _| {
        let many = (0..5000).map(|n| n.to_string());
        Play::default().saying(many.chain(["x".repeat(100_000)]))
    });
    let stage = Stage::new(bench).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.settled(id).await;
    let address = stage.address;
    let (lines, _) = blocking(move || {
        rest(&mut open(address, &format!("job_id={id}&phase=build"), &[]).unwrap())
    })
    .await;
    let texts = texts(&lines);
    assert_eq!(
        (texts.len(), texts[4999].as_str(), texts[5000].len()),
        (5001, "4999", 100_000)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused_before_the_handshake() {
    let stage = Stage::new(talking()).await;
    let id = ended(&stage.bench).await;
    let (address, unknown) = (stage.address, JobId::random());
    let refused = blocking(move || {
        let of = format!("job_id={id}");
        [
            open(address, "", &[]).err(),
            open(address, &format!("job_id={unknown}"), &[]).err(),
            open(address, &format!("{of}&cursor=x"), &[]).err(),
            open(address, &of, &[("Origin", "https://evil.example")]).err(),
            open(address, &of, &[("Origin", "http://localhost:3000")]).err(),
        ]
    })
    .await;
    assert_eq!(refused, [Some(400), Some(404), Some(400), Some(403), None]);
    let plain = stage.get(&format!("/json/streamLogs?job_id={id}")).await;
    assert_eq!(plain.status, 426);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_lets_its_listeners_go_with_a_word() {
    let stage = Stage::new(Bench::with(&|_, _| Play::endless().saying(["here"]))).await;
    let id = stage.bench.submit(config("app")).await;
    stage.bench.in_state(id, State::Building).await;
    let address = stage.address;
    let mut socket = blocking(move || {
        let mut socket = open(address, &format!("job_id={id}"), &[]).unwrap();
        assert!(socket.read().unwrap().to_text().unwrap().contains("here"));
        socket
    })
    .await;
    stage.trigger.drain();
    let (_, end) = blocking(move || rest(&mut socket)).await;
    assert_eq!(end.map(|(code, _)| code), Some(CloseCode::Away));
}
