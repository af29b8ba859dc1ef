//! What happens to runs, as Nomad tells it: one event stream for a process, however many listen (Nomad documentation, "Events HTTP
//! API"). What an event means is found out by whoever hears of it, by looking.
//!
//! The stream is no history: Nomad keeps about a hundred events, and a connection that broke has missed some. So each connection
//! begins with a list of the jobs, and tells of those that changed since the last event that was heard.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use runyard_common::backoff::{Backoff, random};
use serde::Deserialize;
use tokio::{
    sync::broadcast,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    client::{ApiError, NomadApi},
    wire::{NomadJob, run_of},
};
use crate::job::JobId;

/// What runs are about.
const TOPICS: [&str; 3] = ["Job", "Evaluation", "Allocation"];
/// Nomad says something at least every 10 s, even if nothing happens.
const SILENCE: Duration = Duration::from_mins(1);
/// How much older than the list a job's last change may be that the first list tells of, in Nomad's indexes: what ended while
/// the stream was being opened.
const RECENT: u64 = 1000;
/// Between connections.
const AGAIN: Backoff = Backoff {
    initial: Duration::from_millis(200),
    factor: 2.0,
    max: Duration::from_secs(10),
    jitter: 0.3,
};
/// Jobs that are ours, by the names of [`crate::phase::Run::of_job`].
const OURS: &str = r#"ID matches "^(build|test-cmd|test-entry|publish|cleanup)-[0-9a-f]{8}-""#;

/// Tells of runs that changed.
pub(super) struct Feed {
    api: NomadApi,
    sender: broadcast::Sender<JobId>,
    pump: Mutex<Option<AbortHandle>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        let pump = self.pump.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(pump) = pump.take() {
            pump.abort();
        }
    }
}

impl Feed {
    pub(super) fn new(api: NomadApi) -> Arc<Self> {
        Arc::new(Self {
            api,
            sender: broadcast::Sender::new(4096),
            pump: Mutex::default(),
        })
    }

    /// Jobs whose runs changed from now on.
    pub(super) fn listen(self: &Arc<Self>) -> BoxStream<'static, JobId> {
        let receiver = self.sender.subscribe();
        let mut pump = self.pump.lock().unwrap_or_else(PoisonError::into_inner);
        if pump.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = tokio::spawn(follow(Arc::downgrade(self), self.api.clone()));
            *pump = Some(task.abort_handle());
        }
        drop(pump);
        let next = |(mut receiver, feed): (broadcast::Receiver<JobId>, Arc<Self>)| async move {
            loop {
                match receiver.recv().await {
                    Ok(id) => return Some((id, (receiver, feed))),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "changes were told faster than they were heard");
                    }
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        stream::unfold((receiver, Arc::clone(self)), next).boxed()
    }
}

/// Follows the events as long as there is somebody to tell.
async fn follow(feed: Weak<Feed>, api: NomadApi) {
    let (mut seen, mut failures) = (0, 0);
    loop {
        let began = seen;
        let Err(error) = connect(&feed, &api, &mut seen).await else {
            return;
        };
        failures = if seen > began { 0 } else { failures + 1 };
        tracing::warn!(%error, "the event stream of Nomad ended; it is opened again");
        sleep(AGAIN.delay(failures, random())).await;
    }
}

/// One connection: the list, then events until it breaks. Ends without an error when nobody listens any more.
async fn connect(feed: &Weak<Feed>, api: &NomadApi, seen: &mut u64) -> Result<(), ApiError> {
    let (jobs, index) = api.jobs(OURS).await?;
    let since = if *seen == 0 {
        index.saturating_sub(RECENT)
    } else {
        *seen
    };
    let mut response = api.events(&TOPICS, index).await?;
    for job in jobs.iter().filter(|job| is_news(job, since, *seen == 0)) {
        if let Some((id, _)) = job.run() {
            tell(feed, id);
        }
    }
    *seen = index;
    // What changed between the list and the stream's opening is in the stream, unless a hundred other things were.
    let lost = |why: String| ApiError::Unreachable {
        place: api.place().to_owned(),
        why,
    };
    let mut rest = Vec::new();
    loop {
        let part = timeout(SILENCE, response.chunk())
            .await
            .map_err(|_| lost("its event stream is silent".to_owned()))?;
        let part = part.map_err(|error| lost(error.without_url().to_string()))?;
        let Some(part) = part else {
            return Err(lost("its event stream ended".to_owned()));
        };
        rest.extend_from_slice(&part);
        let Some(end) = memchr::memrchr(b'\n', &rest) else {
            continue;
        };
        for line in rest[..end].split(|byte| *byte == b'\n') {
            for id in news(line, seen) {
                if !tell(feed, id) {
                    return Ok(());
                }
            }
        }
        rest.drain(..=end);
        if feed.strong_count() == 0 {
            return Ok(());
        }
    }
}

/// Whether a listed job changed since. The first list tells of all that go on.
fn is_news(job: &NomadJob, since: u64, first: bool) -> bool {
    let changed = job.modify_index.max(job.job_summary.modify_index);
    changed >= since || (first && job.status != "dead")
}

fn tell(feed: &Weak<Feed>, id: JobId) -> bool {
    let Some(feed) = feed.upgrade() else {
        return false;
    };
    // Nobody may be listening at present.
    let _ = feed.sender.send(id);
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Batch {
    index: u64,
    events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Event {
    key: String,
    filter_keys: Option<Vec<String>>,
}

/// The jobs that a line of the stream is about, each once.
fn news(line: &[u8], seen: &mut u64) -> Vec<JobId> {
    let batch: Batch = match serde_json::from_slice(line) {
        Ok(batch) => batch,
        Err(_) if line.is_empty() => return Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "an event of Nomad cannot be read");
            return Vec::new();
        }
    };
    *seen = batch.index.max(*seen);
    let names = batch.events.into_iter().flat_map(|event| {
        let others = event.filter_keys.unwrap_or_default();
        [event.key].into_iter().chain(others)
    });
    let mut ids: Vec<JobId> = names
        .filter_map(|name| run_of(&name))
        .map(|(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Run;

    #[test]
    fn an_event_is_about_the_job_of_its_run() {
        let id = JobId::random();
        let line = format!(
            r#"{{"Index":45,"Events":[{{"Topic":"Allocation","Key":"7f5b8c86-df44-1534-09fb-aea18a7df6ec","FilterKeys":["{}",""]}},
            {{"Topic":"Job","Key":"{}","FilterKeys":null}},{{"Topic":"Job","Key":"web"}}]}}"#,
            Run::TestCommand(3).of_job(&id),
            Run::Build.of_job(&id)
        );
        let mut seen = 7;
        assert_eq!(news(line.as_bytes(), &mut seen), [id]);
        assert_eq!(seen, 45);
        assert_eq!(news(b"{}", &mut seen), []);
        assert_eq!(news(b"", &mut seen), []);
        assert_eq!(news(b"not JSON", &mut seen), []);
        assert_eq!(seen, 45);
    }

    #[test]
    fn a_list_tells_of_what_changed_and_the_first_one_of_what_goes_on() {
        let job = |status: &str, modify_index| NomadJob {
            status: status.to_owned(),
            modify_index,
            ..NomadJob::default()
        };
        assert!(is_news(&job("running", 1), 50, true));
        assert!(!is_news(&job("running", 1), 50, false));
        assert!(is_news(&job("dead", 60), 50, false));
        assert!(!is_news(&job("dead", 1), 50, true));
        let mut by_summary = job("dead", 1);
        by_summary.job_summary.modify_index = 99;
        assert!(is_news(&by_summary, 50, false));
    }
}
