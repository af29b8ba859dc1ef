//! The stream of events: what happens to tasks from now on, and no end. An agent that fell behind misses the oldest.

use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Plugin;
use crate::{
    api::measure::timestamp,
    proto::drivers::DriverTaskEvent,
    registry::{Engine, Event},
};

/// The stream.
pub type Stream = ReceiverStream<Result<DriverTaskEvent, Status>>;

/// Begins one.
pub fn stream<E: Engine>(plugin: &Plugin<E>) -> Stream {
    let (sender, stream) = mpsc::channel(16);
    let events = plugin.registry().events();
    tokio::spawn(async move {
        tokio::select! {
            () = forward(events, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn forward(
    mut events: broadcast::Receiver<Event>,
    sender: &mpsc::Sender<Result<DriverTaskEvent, Status>>,
) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if sender.send(Ok(message(event))).await.is_err() {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the agent reads events too slowly");
            }
            // The registry is gone, and with it this process.
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// An agent finds the task by its allocation and name.
fn message(event: Event) -> DriverTaskEvent {
    DriverTaskEvent {
        task_id: event.who.id.0,
        alloc_id: event.who.alloc_id,
        task_name: event.who.name,
        timestamp: Some(timestamp(event.at)),
        message: event.message,
        annotations: event.annotations.into_iter().collect(),
    }
}
