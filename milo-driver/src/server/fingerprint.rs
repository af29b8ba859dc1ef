//! The stream of fingerprints: the first at once, from what can be seen without starting anything; the next when more is
//! known, or something has changed; and no end.

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Plugin;
use crate::{api::attribute, proto::drivers::FingerprintResponse, registry::Engine};

/// The stream.
pub type Stream = ReceiverStream<Result<FingerprintResponse, Status>>;

/// Begins one.
pub fn stream<E: Engine>(plugin: Plugin<E>) -> Stream {
    let (sender, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = watch(&plugin, &sender) => {}
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn watch<E: Engine>(
    plugin: &Plugin<E>,
    sender: &mpsc::Sender<Result<FingerprintResponse, Status>>,
) {
    let mut last = None;
    let mut survey = plugin.registry().glance().await;
    let mut is_glance = true;
    loop {
        let now = plugin.0.said.say(&survey);
        if last.as_ref() != Some(&now) {
            if let Some(reason) = &now.unhealthy {
                tracing::warn!(reason, "tasks cannot run here");
            }
            if sender.send(Ok(attribute::fingerprint(&now))).await.is_err() {
                return;
            }
            last = Some(now);
        }
        if !std::mem::take(&mut is_glance) {
            time::sleep(plugin.settings().config.fingerprint_period).await;
        }
        survey = plugin.registry().survey().await;
    }
}
