//! A service behind a URL as [`Builds`]: each request by a thread that may block.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use runyard_common::report::Failure;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;

use super::Client;
use crate::{
    api::JobConfig,
    config::ClientConfig,
    job::JobId,
    service::{
        BuildError, Builds, Cleaned, Cleanup, Event, Health, JobFilter, JobList, JobView, Killed,
        LogPage, LogQuery, Submitted,
    },
    trace,
};

/// Events that wait for a slow reader.
const AHEAD: usize = 256;

/// A service behind a URL. Clones share their connections.
#[derive(Clone)]
pub struct Remote(Arc<Away>);

/// A client that may be dropped anywhere.
struct Away(Option<Client>);

impl Drop for Away {
    fn drop(&mut self) {
        // Dropping it waits for a thread of its own, which an async task may not.
        if let Some(client) = self.0.take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

impl Remote {
    /// The service that a configuration names. Not to be called in an async task.
    pub fn new(config: &ClientConfig) -> Result<Self, Failure> {
        Ok(Self(Arc::new(Away(Some(Client::new(config)?)))))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let this = self.clone();
        let trace = trace::current();
        let asked = spawn_blocking(move || trace::within_blocking(trace, || this.with(question)));
        asked
            .await
            .unwrap_or_else(|error| Err(BuildError::Internal(error.to_string())))
    }

    fn with<T>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        match &self.0.0 {
            Some(client) => question(client),
            None => Err(BuildError::Internal("the client is gone".to_owned())),
        }
    }
}

/// Follows until all is told or nobody listens.
fn pump(client: &Client, id: JobId, query: LogQuery, sender: &mpsc::Sender<Told>) {
    let mut follow = match client.follow(id, query) {
        Ok(follow) => follow,
        Err(error) => {
            // Whoever asked is gone.
            let _ = sender.blocking_send(Err(error));
            return;
        }
    };
    // The first word says that it began.
    if sender.blocking_send(Ok(None)).is_err() {
        return;
    }
    while let Some(told) = follow.poll() {
        let gone = match told {
            Ok(None) => sender.is_closed(),
            told => sender.blocking_send(told).is_err(),
        };
        if gone {
            return;
        }
    }
}

type Told = Result<Option<Event>, BuildError>;

#[async_trait]
impl Builds for Remote {
    async fn submit(
        &self,
        config: JobConfig,
        key: Option<String>,
    ) -> Result<Submitted, BuildError> {
        self.ask(move |client| client.submit(config, key)).await
    }

    async fn status(&self, id: JobId) -> Result<JobView, BuildError> {
        self.ask(move |client| client.status(id)).await
    }

    async fn logs(&self, id: JobId, query: LogQuery) -> Result<LogPage, BuildError> {
        self.ask(move |client| client.logs(id, &query)).await
    }

    async fn follow(
        &self,
        id: JobId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Event, BuildError>>, BuildError> {
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let this = self.clone();
        spawn_blocking(move || {
            this.with(|client| {
                pump(client, id, query, &sender);
                Ok(())
            })
        });
        match receiver.recv().await {
            Some(Err(error)) => Err(error),
            _ => Ok(ReceiverStream::new(receiver)
                .filter_map(|told| async { told.transpose() })
                .boxed()),
        }
    }

    async fn wait(&self, id: JobId, limit: Duration) -> Result<JobView, BuildError> {
        self.ask(move |client| client.wait(id, limit)).await
    }

    async fn kill(&self, id: JobId, reason: Option<String>) -> Result<Killed, BuildError> {
        self.ask(move |client| client.kill(id, reason)).await
    }

    async fn cleanup(&self, what: Cleanup) -> Result<Cleaned, BuildError> {
        self.ask(move |client| client.cleanup(&what)).await
    }

    async fn purge(&self, id: JobId) -> Result<(), BuildError> {
        self.ask(move |client| client.purge(id)).await
    }

    async fn list(&self, filter: JobFilter) -> Result<JobList, BuildError> {
        self.ask(move |client| client.list(&filter)).await
    }

    async fn health(&self) -> Result<Health, BuildError> {
        self.ask(Client::health).await
    }
}
