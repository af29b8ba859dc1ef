//! Webhooks whose receiver is down while daemon and supervisor are killed.

use std::{
    fs,
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
            body: body.to_owned(),
        }
    }
}

#[test]
fn what_a_receiver_could_not_take_is_posted_again_after_everything_was_killed() {
    if !ready() {
        return;
    }
    let (heard, posts) = mpsc::channel();
    let is_up = Arc::new(AtomicBool::new(false));
    let hook = answering({
        let is_up = Arc::clone(&is_up);
        move |head, body| {
            let _ = heard.send(Post::of(head, body));
            match is_up.load(Ordering::SeqCst) {
                true => ("200 OK", String::new()),
                false => (
                    "503 Service Unavailable\r\nRetry-After: 5",
                    "not yet".to_owned(),
                ),
            }
        }
    });
    let config = "webhooks: {allow_private: true}\n";
    let mut plant = Plant::with(Registry::open(), config, Vec::new());
    let wanted = json!({"webhook_url": hook, "webhook_secret": "key"});
    // Nobody answers there: it fails, which is news.
    let id = plant
        .submit("app", "http://127.0.0.1:1/x.git", &wanted)
        .unwrap();
    let first = posts.recv_timeout(patience()).unwrap();
    let notices = || {
        let record = fs::read(plant.job_folder(&id).join("record.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["job"]["notices"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    // It waits for the five seconds to pass.
    eventually(patience(), || {
        notices()
            .first()
            .is_some_and(|it| it["result"].is_string())
            .then_some(())
    });
    assert!(notices()[0]["due"].is_string());
    plant.daemon.kill();
    for pid in supervisors(&id) {
        kill(pid);
    }
    assert_eq!(posts.try_iter().count(), 0, "nothing was posted since");
    is_up.store(true, Ordering::SeqCst);
    plant.serve_again();
    let rest: Vec<Post> = (0..3)
        .map(|_| posts.recv_timeout(patience()).unwrap())
        .collect();
    assert_eq!(rest[0], first);
    let events: Vec<&str> = rest.iter().map(|post| post.event.as_str()).collect();
    assert_eq!(events, ["build.started", "build.failed", "job.failed"]);
    assert_eq!(
        first.signature,
        buildctl::webhook::signature("key", first.body.as_bytes())
    );
}
