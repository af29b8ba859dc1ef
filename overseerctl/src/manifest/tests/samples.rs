//! One message of every type that the hub sends, with everything in it that can be in it.

use std::sync::Arc;

use crate::{
    api::{
        ActionInfo, ActionMetrics, Backoff, ExcessConfig, GlobalMetrics, Message, OutputStream,
        ParamSpec, Params, Phase, PoolConfig, PoolInfo, QueueConfig, QueueItemInfo, RestartMode,
        RetryPolicy, TaskInfo, TaskMetrics, TaskState, WorkerState,
    },
    duration::GoDuration,
    store::{Outcome, Run},
    time::Timestamp,
};

/// One message of every type.
pub(super) fn messages() -> Vec<Message> {
    let mut all = workers();
    all.extend(pools());
    all.extend(replies());
    all.extend(extensions());
    all.iter().for_each(is_sampled);
    all
}

/// Does not compile when a type of message is added: it wants a sample above and a place in the manifest.
fn is_sampled(message: &Message) {
    match message {
        Message::Started { .. }
        | Message::Output { .. }
        | Message::Exited { .. }
        | Message::Restarting { .. }
        | Message::Errored { .. }
        | Message::Queued { .. }
        | Message::Dequeued { .. }
        | Message::PoolUpdated { .. }
        | Message::Tasks { .. }
        | Message::Actions { .. }
        | Message::PoolInfo { .. }
        | Message::Purged { .. }
        | Message::Metrics { .. }
        | Message::Subscribed { .. }
        | Message::Unsubscribed { .. }
        | Message::Manifest { .. }
        | Message::Error { .. }
        | Message::Hello { .. }
        | Message::Stopping { .. }
        | Message::ReplayEnd { .. }
        | Message::Removed { .. }
        | Message::TaskRemoved { .. }
        | Message::Lagged { .. }
        | Message::History { .. } => {}
    }
}

fn workers() -> Vec<Message> {
    let ts = Timestamp::now();
    vec![
        Message::Started {
            id: id(),
            task_id: id(),
            pid: 2,
            restart_of: 1,
            ts,
        },
        Message::Output {
            task_id: id(),
            pid: 2,
            stream: OutputStream::Stderr,
            data: "line".to_owned(),
            ts,
            seq: 1,
            truncated: true,
        },
        Message::Exited {
            task_id: id(),
            pid: 2,
            exit_code: -1,
            intentional: false,
            ts,
            signal: Some(9),
            out_of_memory: true,
        },
        Message::Restarting {
            task_id: id(),
            pid: 2,
            restart_delay: seconds(90),
            attempt: 1,
            ts,
        },
        Message::Errored {
            task_id: id(),
            pid: 2,
            exit_count: 3,
            ts,
        },
    ]
}

fn pools() -> Vec<Message> {
    let ts = Timestamp::now();
    vec![
        Message::Queued {
            id: id(),
            task_id: id(),
            action: id(),
            position: 1,
            ts,
        },
        Message::Dequeued {
            task_id: id(),
            reason: "purged".to_owned(),
            ts,
        },
        Message::PoolUpdated {
            action: id(),
            pool: pool(),
        },
        Message::PoolInfo {
            id: id(),
            action: id(),
            pool: pool(),
        },
        Message::Purged {
            id: id(),
            action: id(),
            count: 1,
        },
    ]
}

fn replies() -> Vec<Message> {
    vec![
        Message::Tasks {
            id: id(),
            tasks: vec![task()],
        },
        Message::Actions {
            id: id(),
            actions: vec![action()],
        },
        Message::Metrics {
            id: id(),
            global: Some(GlobalMetrics::default()),
            action: Some(ActionMetrics::default()),
            task: Some(TaskMetrics::default()),
        },
        Message::Subscribed {
            id: id(),
            task_id: id(),
        },
        Message::Unsubscribed {
            id: id(),
            task_id: id(),
        },
        Message::Manifest {
            id: id(),
            manifest: super::manifest(&[]),
        },
        Message::Error {
            id: id(),
            message: "no".to_owned(),
            existing_task_id: id(),
        },
    ]
}

fn extensions() -> Vec<Message> {
    let ts = Timestamp::now();
    vec![
        Message::Hello {
            id: id(),
            server: "overseerctl",
            version: "1",
            features: vec!["acks"],
        },
        Message::Stopping {
            id: id(),
            task_id: id(),
            phase: Phase::Stopping,
        },
        Message::ReplayEnd {
            id: id(),
            task_id: id(),
            count: 1,
            first_seq: 1,
            last_seq: 1,
        },
        Message::Removed {
            id: id(),
            task_id: id(),
        },
        Message::TaskRemoved { task_id: id(), ts },
        Message::Lagged {
            task_id: id(),
            dropped: 1,
            ts,
        },
        Message::History {
            id: id(),
            runs: vec![run()],
        },
    ]
}

/// An action with everything.
pub(super) fn action() -> ActionInfo {
    let checked = ParamSpec {
        default: Some("x".to_owned()),
        validate: "value != ''".to_owned(),
    };
    ActionInfo {
        name: id(),
        kind: "exec".to_owned(),
        description: "Does it".to_owned(),
        params: [
            ("checked".to_owned(), Some(checked)),
            ("free".to_owned(), None),
        ]
        .into(),
        task_pool: PoolConfig {
            limit: 1,
            queue: Some(QueueConfig {
                enabled: true,
                size: 1,
                order: "last".to_owned(),
                max_age: 1,
                displace: "false".to_owned(),
            }),
            excess: ExcessConfig {
                action: "stop".to_owned(),
                order: "first".to_owned(),
                grace: 1,
            },
            hold_on_restart: true,
        },
        retry: Some(policy()),
        dedupe_key: vec!["free".to_owned()],
    }
}

fn task() -> TaskInfo {
    let ts = Timestamp::now();
    TaskInfo {
        task_id: id().into(),
        action: id().into(),
        params: Arc::new(params()),
        queued_at: Some(ts),
        state: TaskState::Active,
        retry_policy: Some(Arc::new(policy())),
        current_pid: 2,
        worker_state: Some(WorkerState::Exited),
        restart_count: 1,
        created_at: ts,
        last_started_at: Some(ts),
        last_exited_at: Some(ts),
        last_exit_code: Some(0),
        error_message: "no".to_owned(),
        phase: Some(Phase::Delay),
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        restart_delay: seconds(1),
        restart_jitter: seconds(1),
        error_window: seconds(60),
        error_threshold: 3,
        restart: RestartMode::OnFailure,
        success_exit_codes: vec![3],
        backoff: Some(Backoff {
            factor: 1.5,
            max: seconds(60),
        }),
    }
}

fn pool() -> PoolInfo {
    let waiting = QueueItemInfo {
        task_id: id(),
        action: id(),
        queued_at: Timestamp::now(),
        position: 0,
        forced: false,
    };
    PoolInfo {
        limit: 1,
        running: 1,
        queue_depth: 1,
        queue_items: vec![waiting],
    }
}

fn run() -> Run {
    let ts = Timestamp::now();
    Run {
        task_id: id(),
        action: id(),
        params: params(),
        pid: 2,
        restart_of: 1,
        started_at: ts,
        exited_at: Some(ts),
        exit_code: Some(-1),
        signal: Some(9),
        intentional: false,
        outcome: Outcome::Exited,
        error: Some("no".to_owned()),
    }
}

fn params() -> Params {
    [("k".to_owned(), "v".to_owned())].into()
}

fn seconds(count: u64) -> GoDuration {
    GoDuration::from_std(std::time::Duration::from_secs(count))
}

fn id() -> String {
    "x".to_owned()
}
