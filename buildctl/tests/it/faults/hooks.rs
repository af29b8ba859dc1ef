//! Webhooks whose receiver is down while daemon and supervisor are killed.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use runyard_common::testing::{eventually, patience};
use serde_json::{Value, json};

use super::{Plant, answering};
use crate::support::{Registry, kill, ready, supervisors};

/// What tells one post from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Post {
    event: String,
    delivery: String,
    signature: String,
    trace: String,
    body: String,
}

impl Post {
    fn of(head: &str, body: &str) -> Self {
        let header = |wanted: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.expect(wanted).1.to_owned()
        };
        Self {
            event: header("x-buildctl-event"),
            delivery: header("x-buildctl-delivery"),
            signature: header("x-webhook-signature"),
            trace: header("traceparent"),
            body: body.to_owned(),
        }
    }
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Hands a job in that fails, because nobody answers where its source is, and says so in the log of the daemon.
fn submit(plant: &Plant, hook: &str) -> String {
    let job = json!({
        "owner": "tester", "repo_url": "http://127.0.0.1:1/x.git", "image_name": "app", "registry_url": plant.toll.host(),
        "webhook_url": hook, "webhook_secret": "key",
    });
    let body = json!({"job_config": job}).to_string();
    let head = format!(
        "POST /json/submitJob HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\ntraceparent: {TRACE}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(plant.url.trim_start_matches("http://")).unwrap();
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let submitted: Value = serde_json::from_str(body).unwrap();
    let accepted = |line: &str| {
        let is_it = line.contains("a job is accepted");
        is_it.then(|| line.to_owned())
    };
    let accepted = plant.daemon.wait_for_line(accepted);
    assert!(accepted.contains(&TRACE[3..35]), "{accepted}");
    submitted["job_id"].as_str().unwrap().to_owned()
}

/// A receiver that can take nothing until it is up, and asks for five seconds each time.
struct Receiver {
    url: String,
    posts: mpsc::Receiver<Post>,
    is_up: Arc<AtomicBool>,
}

impl Receiver {
    fn open() -> Self {
        let (heard, posts) = mpsc::channel();
        let is_up = Arc::new(AtomicBool::new(false));
        let up = Arc::clone(&is_up);
        let url = answering(move |head, body| {
            let _ = heard.send(Post::of(head, body));
            let status = if up.load(Ordering::SeqCst) {
                "200 OK"
            } else {
                "503 Service Unavailable\r\nRetry-After: 5"
            };
            (status, String::new())
        });
        Self { url, posts, is_up }
    }

    fn next(&self) -> Post {
        self.posts.recv_timeout(patience()).unwrap()
    }
}

/// Waits until it is written down that the first attempt failed: the next one is five seconds away.
fn first_has_failed(plant: &Plant, id: &str) {
    let path = plant.job_folder(id).join("record.json");
    let notice = eventually(patience(), || {
        let record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let notice = &record["job"]["notices"][0];
        notice["result"].is_string().then(|| notice.clone())
    });
    assert_eq!(
        (&notice["attempts"], notice["due"].is_string()),
        (&json!(1), true)
    );
}

#[test]
fn what_a_receiver_could_not_take_is_posted_again_after_everything_was_killed() {
    if !ready() {
        return;
    }
    let receiver = Receiver::open();
    let config = "webhooks: {allow_private: true}\n";
    let mut plant = Plant::with(Registry::open(), config, Vec::new());
    let id = submit(&plant, &receiver.url);
    let first = receiver.next();
    first_has_failed(&plant, &id);
    plant.daemon.kill();
    for pid in supervisors(&id) {
        kill(pid);
    }
    let since = receiver.posts.try_iter().count();
    assert_eq!(since, 0, "it waits");
    receiver.is_up.store(true, Ordering::SeqCst);
    plant.serve_again();
    let rest: Vec<Post> = (0..3).map(|_| receiver.next()).collect();
    assert_eq!(rest[0], first);
    let events: Vec<&str> = rest.iter().map(|post| post.event.as_str()).collect();
    assert_eq!(events, ["build.started", "build.failed", "job.failed"]);
    let signature = buildctl::webhook::signature("key", first.body.as_bytes());
    assert_eq!(
        (&*first.signature, &*first.trace),
        (signature.as_str(), TRACE)
    );
    let supervisor = fs::read_to_string(plant.job_folder(&id).join("supervisor.log")).unwrap();
    let traced = |line: &str| line.contains(&TRACE[3..35]);
    let mut moves = supervisor
        .lines()
        .filter(|line| line.contains("a job moved"))
        .peekable();
    assert!(moves.peek().is_some() && moves.all(traced), "{supervisor}");
}
