//! That something changed about a job, told to whoever waits: one subscription to the ledger and one to the scheduler, however
//! many wait.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream::select};
use tokio::{sync::broadcast, task::AbortHandle};

use crate::{job::JobId, ledger::SharedLedger, scheduler::SharedScheduler};

/// Where news come from. Clones share their subscriptions, which begin with the first one who waits.
#[derive(Clone)]
pub(crate) struct News(Arc<Inner>);

struct Inner {
    ledger: SharedLedger,
    scheduler: SharedScheduler,
    sender: broadcast::Sender<JobId>,
    pump: Mutex<Option<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let pump = self.pump.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(pump) = pump.take() {
            pump.abort();
        }
    }
}

impl News {
    pub(crate) fn of(ledger: SharedLedger, scheduler: SharedScheduler) -> Self {
        Self(Arc::new(Inner {
            ledger,
            scheduler,
            sender: broadcast::Sender::new(1024),
            pump: Mutex::new(None),
        }))
    }

    /// Hears whatever happens from now on.
    pub(crate) fn listen(&self) -> Ear {
        let ear = Ear(self.0.sender.subscribe());
        let mut pump = self.0.pump.lock().unwrap_or_else(PoisonError::into_inner);
        if pump.as_ref().is_none_or(AbortHandle::is_finished) {
            let sender = self.0.sender.clone();
            let changes = select(self.0.ledger.changes(), self.0.scheduler.changes());
            let task = tokio::spawn(async move {
                let mut changes = pin!(changes);
                while let Some(id) = changes.next().await {
                    // Nobody may be waiting at present.
                    let _ = sender.send(id);
                }
            });
            *pump = Some(task.abort_handle());
        }
        ear
    }
}

/// One who waits.
pub(crate) struct Ear(broadcast::Receiver<JobId>);

impl Ear {
    /// Returns when one of these jobs may have changed.
    pub(crate) async fn hear(&mut self, ids: &[JobId]) {
        while let Some(id) = self.any().await {
            if ids.contains(&id) {
                return;
            }
        }
    }

    /// Returns the next job that may have changed; none if too many did.
    pub(crate) async fn any(&mut self) -> Option<JobId> {
        match self.0.recv().await {
            Ok(id) => Some(id),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
