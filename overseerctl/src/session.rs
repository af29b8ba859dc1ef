//! One client's conversation: which request gets which answer. Requests are handled strictly one after another, so that
//! any reply is a fence for everything before it.
//!
//! Decisions live in the [`Hub`]; transports live in [`crate::server`]; this file only knows the order of checks and
//! the texts of sticky-overseer v2.

use std::sync::Arc;

use crate::{
    api::{DecodeError, Incoming, Message},
    frame,
    hub::{Hub, Refusal, Removal, Start},
    outbox::{Feature, Outbox},
    store::HistoryQuery,
};

/// One client's conversation with the hub.
#[derive(Clone)]
pub struct Session {
    hub: Hub,
    outbox: Arc<Outbox>,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next message, please.
    Continue,
    /// The client sent something that sticky-overseer drops a connection for.
    Close,
}

impl Session {
    /// A conversation whose answers go to `outbox`.
    pub fn new(hub: Hub, outbox: Arc<Outbox>) -> Self {
        Self { hub, outbox }
    }

    /// Handles one frame: its first JSON value, whatever follows.
    pub async fn receive(&self, frame: &[u8]) -> Flow {
        match Incoming::decode(frame) {
            Ok(request) => {
                self.handle(request).await;
                Flow::Continue
            }
            Err(error) => {
                self.reject(&error);
                Flow::Close
            }
        }
    }

    fn reject(&self, error: &DecodeError) {
        tracing::debug!(client = self.outbox.id(), %error, "undecodable message");
        self.send(&Message::error("", format!("invalid message: {error}")));
    }

    async fn handle(&self, request: Incoming) {
        if request.id.is_empty() {
            return self.send(&Message::error("", "id is required"));
        }
        match request.kind.as_str() {
            "start" => self.start(request).await,
            "stop" => self.stop(&request),
            "reset" => self.reset(&request).await,
            "list" => self.list(request),
            "replay" => self.replay(&request),
            "subscribe" => self.subscribe(request),
            "unsubscribe" => self.unsubscribe(request),
            "describe" => self.describe(request),
            "pool_info" => self.pool_info(request),
            "set_pool" => self.set_pool(request),
            "purge" => self.purge(request),
            "metrics" => self.send(&self.hub.metrics(
                request.id,
                &request.action,
                &request.task_id,
            )),
            "manifest" => self.send(&Message::Manifest {
                id: request.id,
                manifest: self.hub.manifest(),
            }),
            "hello" => self.hello(request),
            "remove" => self.remove(request),
            "history" => self.history(request).await,
            unknown => self.refuse(&request.id, &format!("unknown message type: {unknown}")),
        }
    }

    async fn start(&self, request: Incoming) {
        let id = request.id.clone();
        let start = Start {
            id: request.id,
            action: request.action,
            task_id: request.task_id,
            params: request.params,
            retry: request.retry_policy,
            force: request.force,
            replace: request.replace,
        };
        // In a task of its own: a connection that ends must not cut a spawn in half.
        let (hub, client) = (self.hub.clone(), self.outbox.id());
        let started = tokio::spawn(async move { hub.start(start, Some(client)).await }).await;
        if let Ok(Err(refusal)) = started {
            self.send(&refusal.message(&id));
        }
    }

    fn stop(&self, request: &Incoming) {
        match self.hub.stop(&request.task_id, request.force) {
            Err(refusal) => self.send(&refusal.message(&request.id)),
            Ok(Some(phase)) if self.outbox.has(Feature::Acks) => {
                let (id, task_id) = (request.id.clone(), request.task_id.clone());
                self.send(&Message::Stopping { id, task_id, phase });
            }
            Ok(_) => {}
        }
    }

    async fn reset(&self, request: &Incoming) {
        let (hub, outbox) = (self.hub.clone(), Arc::clone(&self.outbox));
        let (id, task_id) = (request.id.clone(), request.task_id.clone());
        let reset = tokio::spawn(async move { hub.reset(&id, &task_id, &outbox).await }).await;
        if let Ok(Err(refusal)) = reset {
            self.send(&refusal.message(&request.id));
        }
    }

    fn list(&self, request: Incoming) {
        match crate::hub::parse_since(&request.since) {
            Ok(since) => self.send(&Message::Tasks {
                id: request.id,
                tasks: self.hub.list(since),
            }),
            Err(_) => self.refuse(&request.id, "invalid since timestamp"),
        }
    }

    fn replay(&self, request: &Incoming) {
        match self
            .hub
            .replay(&request.task_id, &request.since, &self.outbox)
        {
            Err(refusal) => self.refuse(&request.id, &refusal.to_string()),
            Ok(replayed) if self.outbox.has(Feature::Acks) => self.send(&Message::ReplayEnd {
                id: request.id.clone(),
                task_id: request.task_id.clone(),
                count: replayed.count,
                first_seq: replayed.first_seq,
                last_seq: replayed.last_seq,
            }),
            Ok(_) => {}
        }
    }

    fn subscribe(&self, request: Incoming) {
        if request.task_id.is_empty() {
            return self.refuse(&request.id, "task_id required for subscribe");
        }
        self.hub.subscribe(self.outbox.id(), &request.task_id);
        self.send(&Message::Subscribed {
            id: request.id,
            task_id: request.task_id,
        });
    }

    fn unsubscribe(&self, request: Incoming) {
        if request.task_id.is_empty() {
            return self.refuse(&request.id, "task_id required for unsubscribe");
        }
        self.hub.unsubscribe(self.outbox.id(), &request.task_id);
        self.send(&Message::Unsubscribed {
            id: request.id,
            task_id: request.task_id,
        });
    }

    fn describe(&self, request: Incoming) {
        match self.hub.describe(&request.action) {
            Ok(actions) => self.send(&Message::Actions {
                id: request.id,
                actions,
            }),
            Err(refusal) => self.send(&refusal.message(&request.id)),
        }
    }

    fn pool_info(&self, request: Incoming) {
        let pool = self.hub.pool_info(&request.action);
        self.send(&Message::PoolInfo {
            id: request.id,
            action: request.action,
            pool,
        });
    }

    fn set_pool(&self, request: Incoming) {
        // The original's documents call the field `size`; its code reads `limit`.
        let limit = request.limit.or(request.size).unwrap_or(0);
        let queue_size = request.queue_size;
        self.hub.set_pool(
            &request.id,
            &request.action,
            limit,
            queue_size,
            request.excess,
            &self.outbox,
        );
    }

    fn purge(&self, request: Incoming) {
        let count = self.hub.purge(&request.action);
        self.send(&Message::Purged {
            id: request.id,
            action: request.action,
            count,
        });
    }

    /// Extension: grants the features asked for. The original answers `unknown message type: hello`.
    fn hello(&self, request: Incoming) {
        let granted = Feature::ALL
            .into_iter()
            .filter(|(name, _)| request.features.iter().any(|asked| asked == name));
        let features = granted
            .map(|(name, feature)| {
                self.outbox.grant(feature);
                name
            })
            .collect();
        let (server, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        self.send(&Message::Hello {
            id: request.id,
            server,
            version,
            features,
        });
    }

    /// Extension: forgets a finished task.
    fn remove(&self, request: Incoming) {
        if request.task_id.is_empty() {
            return self.send(&Refusal::TaskIdRequired.message(&request.id));
        }
        match self.hub.remove(&request.task_id, self.outbox.id()) {
            Removal::Done => self.send(&Message::Removed {
                id: request.id,
                task_id: request.task_id,
            }),
            Removal::Live => self.refuse(&request.id, "task is not finished: stop it first"),
            Removal::NotFound => self.send(&Refusal::NotFound.message(&request.id)),
        }
    }

    /// Extension: past runs from the store.
    async fn history(&self, request: Incoming) {
        let hub = self.hub.clone();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let limit = request
            .limit
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| *limit > 0);
        let query = HistoryQuery {
            task_id: some(request.task_id),
            action: some(request.action),
            limit: limit.unwrap_or(100),
        };
        let answer = tokio::task::spawn_blocking(move || hub.history(&query)).await;
        match answer {
            Ok(Some(Ok(runs))) => self.send(&Message::History {
                id: request.id,
                runs,
            }),
            Ok(Some(Err(error))) => self.refuse(&request.id, &format!("history: {error}")),
            Ok(None) => self.refuse(&request.id, "history: no store configured (set `db`)"),
            Err(error) => self.refuse(&request.id, &format!("history: {error}")),
        }
    }

    fn refuse(&self, id: &str, message: &str) {
        self.send(&Message::error(id, message));
    }

    fn send(&self, message: &Message) {
        self.outbox.push(frame::encode(message));
    }
}
