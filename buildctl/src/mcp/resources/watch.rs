//! Telling clients that documents have changed: within the request that asked for it in the newer era, and to the other end of
//! the pipe in the older one. What a document is and says is [`super`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use rmcp::{
    ErrorData, RoleServer,
    model::{ResourceUpdatedNotificationParam, SubscriptionFilter},
    service::{Peer, SubscriptionContext, SubscriptionSink},
};
use tokio::{
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

use super::{Document, unknown};
use crate::{
    job::JobId,
    phase::Phase,
    service::{Builds, Event, LogQuery},
};

/// Between two notifications about one document.
const BREATH: Duration = Duration::from_secs(1);

/// The most documents that one client watches at once.
const WATCHED: usize = 64;

/// Who is told of changes.
enum Audience {
    /// Whoever waits for the answer to one request.
    Request(SubscriptionSink),
    /// The other end of the pipe.
    Client(Peer<RoleServer>),
}

impl Audience {
    /// Tells that a document has changed; whether it was heard.
    async fn tell(&self, uri: &str) -> bool {
        match self {
            Self::Request(sink) => sink.notify_resource_updated(uri).await.is_ok(),
            Self::Client(peer) => {
                let update = ResourceUpdatedNotificationParam::new(uri);
                peer.notify_resource_updated(update).await.is_ok()
            }
        }
    }
}

/// What of a wish to be told of changes is granted: documents of ours, so many at most.
pub(in crate::mcp) fn subscribable(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let uris = requested.resource_subscriptions.iter().flatten();
    let ours = uris.filter(|uri| Document::parse(uri).is_some());
    SubscriptionFilter::builder()
        .resource_subscriptions(ours.take(WATCHED))
        .build()
}

/// Tells of changes of documents until the client wants no more of it.
pub(in crate::mcp) async fn listen(builds: &dyn Builds, context: &SubscriptionContext) {
    let uris = context.accepted().resource_subscriptions.iter().flatten();
    let watched = uris.filter_map(|uri| Some((Document::parse(uri)?, uri.clone())));
    let audience = Audience::Request(context.sink().clone());
    tokio::select! {
        () = context.cancelled() => {}
        () = watch(builds, watched.collect(), audience) => {}
    }
}

/// The documents that the client at the other end of a pipe watches. They are watched as long as this is there.
#[derive(Default)]
pub(in crate::mcp) struct Watches(Mutex<BTreeMap<Document, AbortHandle>>);

impl Watches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Document, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to tell of changes of a document.
    pub(in crate::mcp) async fn begin(
        &self,
        builds: Arc<dyn Builds>,
        uri: String,
        client: Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        let document = Document::parse(&uri).ok_or_else(|| unknown(&uri))?;
        let known = builds.status(document.job()).await;
        known.map_err(|error| super::of(&uri, error))?;
        let mut watches = self.lock();
        if watches.contains_key(&document) {
            return Ok(());
        }
        if watches.len() >= WATCHED {
            let message = format!("no more than {WATCHED} resources can be watched at once");
            return Err(ErrorData::invalid_params(message, None));
        }
        let task = tokio::spawn(async move {
            let watched = std::iter::once((document, uri)).collect();
            watch(&*builds, watched, Audience::Client(client)).await;
        });
        watches.insert(document, task.abort_handle());
        Ok(())
    }

    /// Tells no more of a document.
    pub(in crate::mcp) fn end(&self, uri: &str) {
        let document = Document::parse(uri);
        if let Some(task) = document.and_then(|document| self.lock().remove(&document)) {
            task.abort();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.lock().values().for_each(AbortHandle::abort);
    }
}

/// Tells of changes for as long as somebody hears it. How things are at the beginning counts as one: what changed while the watch
/// began is not missed.
async fn watch(builds: &dyn Builds, watched: BTreeMap<Document, String>, audience: Audience) {
    let mut changes = changes(builds, watched.keys().copied()).await;
    let mut changed = BTreeSet::new();
    let mut ticks = interval(BREATH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(documents) = changes.next() => changed.extend(documents),
            _ = ticks.tick() => {
                for document in std::mem::take(&mut changed) {
                    let Some(uri) = watched.get(&document) else { continue };
                    if !audience.tell(uri).await {
                        return;
                    }
                }
            }
        }
    }
}

/// The documents that change, as they do. A job that is not known, or cannot be followed, does not change.
async fn changes(
    builds: &dyn Builds,
    documents: impl Iterator<Item = Document>,
) -> SelectAll<BoxStream<'static, Vec<Document>>> {
    let jobs: BTreeSet<JobId> = documents.map(Document::job).collect();
    let mut streams: Vec<BoxStream<'static, Vec<Document>>> = Vec::new();
    for id in jobs {
        let query = LogQuery {
            tail: NonZeroUsize::new(1),
            ..LogQuery::default()
        };
        if let Ok(events) = builds.follow(id, query).await {
            streams.push(events.map(move |event| touched(id, event.ok())).boxed());
        }
    }
    select_all(streams)
}

/// The documents of job `id` that an event changes.
fn touched(id: JobId, event: Option<Event>) -> Vec<Document> {
    match event {
        Some(Event::Line(line, _)) => {
            let phase = line.run.phase();
            let log = phase.map(|phase| Document::Log(id, phase));
            log.into_iter().collect()
        }
        // The end of a job is the end of its logs.
        Some(Event::Status(view)) if view.job.state.is_terminal() => {
            let logs = Phase::ALL.map(|phase| Document::Log(id, phase));
            std::iter::once(Document::Job(id)).chain(logs).collect()
        }
        Some(Event::Status(_)) => vec![Document::Job(id)],
        Some(Event::Lost) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_documents_can_be_watched_and_not_too_many() {
        let uri = "buildctl://jobs/0c7a1c5e-6d6e-4c3a-9b0a-111111111111".to_owned();
        let mut wanted = vec![uri; 100];
        wanted[0] = "file:///etc/passwd".to_owned();
        let asked = SubscriptionFilter::builder()
            .resource_subscriptions(wanted)
            .tools_list_changed()
            .build();
        let granted = subscribable(&asked);
        let uris = granted.resource_subscriptions.unwrap();
        assert_eq!((uris.len(), granted.tools_list_changed), (64, None));
        assert!(uris.iter().all(|uri| uri.starts_with("buildctl://")));
    }
}
