//! A scheduler whose requests are counted.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use runyard_common::doctor::Finding;

use super::Metrics;
use crate::{
    job::{Job, JobId},
    logs::{Chunk, Position},
    phase::{Observed, Run},
    scheduler::{Attended, Scheduler, SchedulerError, SharedScheduler, Started},
};

/// Counts the requests to the scheduler inside.
pub struct Metered {
    inner: SharedScheduler,
    metrics: Arc<Metrics>,
}

impl Metered {
    /// Counts from now on.
    pub fn new(inner: SharedScheduler, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    fn count<T>(
        &self,
        operation: &'static str,
        result: Result<T, SchedulerError>,
    ) -> Result<T, SchedulerError> {
        let code = match &result {
            Ok(_) => "ok",
            Err(SchedulerError::Unreachable { .. }) => "unreachable",
            Err(SchedulerError::Refused(_)) => "refused",
            Err(SchedulerError::Unknown) => "unknown",
            Err(SchedulerError::Io(_)) => "io",
        };
        self.metrics.request(operation, code);
        result
    }
}

#[async_trait]
impl Scheduler for Metered {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn attend(&self, id: JobId) -> Result<Attended, SchedulerError> {
        self.count("attend", self.inner.attend(id).await)
    }

    async fn start(&self, job: &Job, run: Run) -> Result<Started, SchedulerError> {
        self.count("start", self.inner.start(job, run).await)
    }

    async fn observe(&self, job: &Job) -> Result<Vec<Observed>, SchedulerError> {
        self.count("observe", self.inner.observe(job).await)
    }

    async fn stop(&self, job: &Job, run: Run) -> Result<(), SchedulerError> {
        self.count("stop", self.inner.stop(job, run).await)
    }

    async fn read_log(
        &self,
        job: &Job,
        run: Run,
        from: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Chunk, SchedulerError> {
        let chunk = self.inner.read_log(job, run, from, limit, wait).await;
        if let Ok(chunk) = &chunk {
            let bytes: usize = chunk.lines.iter().map(|line| line.text.len()).sum();
            self.metrics
                .log_bytes(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        self.count("read_log", chunk)
    }

    async fn log_end(&self, job: &Job, run: Run) -> Result<Position, SchedulerError> {
        self.count("log_end", self.inner.log_end(job, run).await)
    }

    async fn collect(&self, job: &Job) -> Result<(), SchedulerError> {
        self.count("collect", self.inner.collect(job).await)
    }

    fn changes(&self) -> BoxStream<'static, JobId> {
        self.inner.changes()
    }

    async fn doctor(&self) -> Vec<Finding> {
        self.inner.doctor().await
    }

    async fn healthy(&self) -> Result<(), SchedulerError> {
        self.count("healthy", self.inner.healthy().await)
    }
}
