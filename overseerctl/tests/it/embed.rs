//! The library: a hub in somebody else's program, with drivers of its own.

use std::sync::Arc;

use overseerctl::{
    api::{ActionInfo, OutputStream, Params, RetryPolicy},
    driver::{BoxFuture, Driver, Output, StopSignal, TaskContext, Worker},
    hub::{Action, Actions, Hub, Outlets, Settings, Start},
};
use runyard_common::testing;

/// Says what its parameters say, then waits to be stopped, or panics, as they say.
#[derive(Default)]
struct Parrot;

impl Driver for Parrot {
    fn describe(&self) -> ActionInfo {
        ActionInfo {
            kind: "parrot".to_owned(),
            ..ActionInfo::default()
        }
    }

    fn validate(&self, params: &Params) -> Result<(), String> {
        params
            .get("say")
            .map(drop)
            .ok_or_else(|| "nothing to say".to_owned())
    }

    fn start(&self, task: TaskContext) -> BoxFuture<'_, Result<Worker, String>> {
        let say = task.params["say"].clone();
        let body = move |output: Output, mut stop: StopSignal| async move {
            output.line(OutputStream::Stdout, &say).await;
            assert_ne!(say, "panic", "as asked");
            stop.stopped().await;
            output.line(OutputStream::Stderr, "told to stop").await;
            7
        };
        Box::pin(async move { Ok(Worker::virtual_worker(task, body)) })
    }
}

fn hub(parrot: Arc<Parrot>) -> Hub {
    let action = Action {
        driver: parrot,
        retry: RetryPolicy::default(),
        task_pool: overseerctl::api::PoolConfig::default(),
        dedupe_key: Vec::new(),
    };
    Hub::new(
        Settings::default(),
        overseerctl::api::PoolConfig::default(),
        Actions::from([("parrot".to_owned(), action)]),
        Outlets::default(),
    )
}

fn say(text: &str) -> Start {
    Start {
        action: "parrot".to_owned(),
        params: Params::from([("say".to_owned(), text.to_owned())]),
        ..Start::default()
    }
}

#[tokio::test]
async fn a_virtual_worker_runs_is_stopped_and_has_no_pid() {
    let hub = hub(Arc::default());
    let id = hub.submit(say("hello")).await.unwrap();
    assert_eq!(hub.list(None)[0].current_pid, 0);
    hub.stop(&id, false).unwrap();
    hub.shut_down().await;
    let task = &hub.list(None)[0];
    assert_eq!(task.last_exit_code, Some(7));
    assert_eq!(serde_json::to_value(task).unwrap().get("current_pid"), None);
    let lines = hub.counters().snapshot().total_output_lines;
    assert_eq!(lines, 2, "also what was said after the stop");
}

#[tokio::test]
async fn a_worker_that_panics_is_an_exit_and_not_the_end() {
    let hub = hub(Arc::default());
    hub.submit(say("panic")).await.unwrap();
    while hub.workers() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hub.list(None)[0].last_exit_code, Some(70));
    hub.submit(say("still here")).await.unwrap();
}

#[tokio::test]
async fn submitting_is_refused_in_words() {
    let hub = hub(Arc::default());
    let refusal = |start| {
        let hub = hub.clone();
        async move { hub.submit(start).await.unwrap_err().to_string() }
    };
    assert_eq!(
        refusal(Start {
            action: "x".into(),
            ..Start::default()
        })
        .await,
        "unknown action: \"x\""
    );
    assert_eq!(
        refusal(Start {
            action: "parrot".into(),
            ..Start::default()
        })
        .await,
        "validation error: nothing to say"
    );
}

/// The example: a service that submits a task for every new file.
#[test]
fn the_example_watches_a_directory_and_submits_work() {
    let dir = testing::tempdir();
    let inbox = dir.path().join("inbox");
    std::fs::create_dir(&inbox).unwrap();
    let config = format!(
        "actions:\n  inbox: {{type: watch, config: {{dir: {0}, submit: show}}}}\n  \
         show: {{type: exec, config: {{entrypoint: cat, command: ['[[.file]]'], parameters: {{file: null}}}}}}\n",
        inbox.display()
    );
    let example = testing::tool_binary("overseerctl")
        .with_file_name("examples")
        .join("watch_directory");
    let hub = crate::hub::Hub::start_with(&config, &[], |command| {
        let args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        *command = std::process::Command::new(example);
        command.args(args);
    });
    hub.daemon
        .wait_for_line(|line| line.contains("service started").then_some(()));
    let mut client = hub.client();
    std::fs::write(inbox.join("letter"), "dear runyard\n").unwrap();
    let task = testing::eventually(testing::patience(), || {
        let tasks = client.call("list", &serde_json::json!({}))["tasks"].clone();
        tasks
            .as_array()
            .unwrap()
            .iter()
            .find(|task| task["phase"] == "done")
            .cloned()
    });
    client.ask("replay", &serde_json::json!({"task_id": task["task_id"]}));
    assert_eq!(
        client.until(|message| message["type"] == "output")["data"],
        "dear runyard"
    );
}
