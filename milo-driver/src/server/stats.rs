//! The stream of what a task uses: the first message at once, one each interval, and an end when the task has ended.

use std::time::Duration;

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Plugin;
use crate::{
    api::{error, measure},
    proto::drivers::TaskStatsResponse,
    registry::{Engine, Reading, TaskError},
    task::TaskId,
};

/// The stream.
pub type Stream = ReceiverStream<Result<TaskStatsResponse, Status>>;

/// How often, unless told otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// As often as anybody may ask.
const SHORTEST: Duration = Duration::from_millis(50);

/// Begins one. A task that nobody knows has none.
pub fn stream<E: Engine>(
    plugin: Plugin<E>,
    id: TaskId,
    interval: Duration,
) -> Result<Stream, Status> {
    plugin
        .registry()
        .status(&id)
        .map_err(|cause| error::task(&cause))?;
    let (sender, stream) = mpsc::channel(1);
    let interval = if interval.is_zero() {
        INTERVAL
    } else {
        interval.max(SHORTEST)
    };
    tokio::spawn(async move {
        let ended = plugin.registry().wait(&id);
        tokio::select! {
            () = watch(&plugin, &id, interval, &sender) => {}
            _ = ended => {}
            () = sender.closed() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn watch<E: Engine>(
    plugin: &Plugin<E>,
    id: &TaskId,
    interval: Duration,
    sender: &mpsc::Sender<Result<TaskStatsResponse, Status>>,
) {
    let mut before: Option<Reading> = None;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        match plugin.registry().usage(id).await {
            Ok(now) => {
                let stats = measure::stats(&id.0, before.as_ref(), &now, plugin.settings().compute);
                if sender
                    .send(Ok(TaskStatsResponse { stats: Some(stats) }))
                    .await
                    .is_err()
                {
                    return;
                }
                before = Some(now);
            }
            Err(TaskError::NotFound | TaskError::NotRunning(_)) => return,
            // A cgroup that is just being removed, or made; the next interval tells.
            Err(cause) => {
                tracing::debug!(task = %id, error = %cause, "cannot read what a task uses");
            }
        }
    }
}
