//! A Nomad in this process, as far as builds see one: a server and one client that really runs `raw_exec` tasks. What it answers,
//! and in which words, was compared with Nomad 2.0.6 (`nomad agent -dev`); what goes wrong in clusters can be made to go wrong.
//!
//! ```text
//!  http    routes: what comes over the wire, blocking queries, faults
//!    │
//!  state   jobs, evaluations, allocations, variables; one index for all, events, who waits for them
//!    │
//!  task    processes of allocations: folders, logs that rotate, signals
//! ```
//!
//! Deliberately absent: templates, artifacts, other drivers than `raw_exec` (jobs with them find no place), and the log stream, which
//! nothing here uses.

mod http;
mod state;
mod task;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use runyard_common::testing::{TempDir, tempdir};
use tokio::{net::TcpListener, task::JoinHandle};

use state::State;

/// A running Nomad. It and its tasks end with this value.
pub(crate) struct Nomad {
    pub(crate) address: String,
    cluster: Cluster,
    server: JoinHandle<()>,
    folder: TempDir,
}

/// What all its parts share.
#[derive(Clone)]
struct Cluster {
    state: Arc<Mutex<State>>,
    changed: Arc<tokio::sync::watch::Sender<u64>>,
    folder: PathBuf,
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes something, and tells everybody who waits.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (done, index) = {
            let mut state = self.lock();
            let done = change(&mut state);
            (done, state.index)
        };
        self.changed.send_replace(index);
        done
    }
}

impl Nomad {
    pub(crate) async fn start() -> Self {
        let folder = tempdir();
        let cluster = Cluster {
            state: Arc::default(),
            changed: Arc::new(tokio::sync::watch::Sender::new(1)),
            folder: folder.path().join("alloc"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = http::routes(cluster.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            cluster,
            server,
            folder,
        }
    }

    /// A folder for whatever a test needs besides.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Only this token may do anything.
    pub(crate) fn require_token(&self, token: &str) {
        self.cluster.lock().faults.token = Some(token.to_owned());
    }

    /// The next `times` requests whose path contains `path` get this answer.
    pub(crate) fn fail(&self, path: &str, times: usize, status: u16, text: &str) {
        let fault = state::Fault {
            path: path.to_owned(),
            times,
            status,
            text: text.to_owned(),
        };
        self.cluster.lock().faults.planned.push(fault);
    }

    /// Makes the server do what it is asked for and lose the next `times` answers of requests whose path contains `path`.
    pub(crate) fn lose_answers(&self, path: &str, times: usize) {
        self.cluster.lock().faults.lost = Some((path.to_owned(), times));
    }

    /// No job finds a place from now on, for want of this; `None` ends that and places what waited.
    pub(crate) fn exhaust(&self, dimension: Option<&str>) {
        let waiting = self.cluster.change(|state| state.exhaust(dimension));
        for name in waiting {
            task::place(&self.cluster, &name);
        }
    }

    /// How many bytes a file of a log may have before the next one is begun; the job's own number of files are kept.
    pub(crate) fn rotate_at(&self, bytes: u64) {
        self.cluster.lock().rotate_at = Some(bytes);
    }

    /// The node that runs a job is gone, and with it its files.
    pub(crate) fn lose_node(&self, name: &str) {
        self.cluster.change(|state| state.lose(name));
    }

    /// The client forgets the files of a job's allocations.
    pub(crate) fn collect_files(&self, name: &str) {
        for id in self.cluster.lock().allocations_of(name) {
            // It may have been collected before.
            let _ = std::fs::remove_dir_all(self.cluster.folder.join(id));
        }
    }

    /// The server forgets a job, as its garbage collection does with dead ones.
    pub(crate) fn collect_job(&self, name: &str) {
        self.cluster.change(|state| state.forget(name));
    }

    /// Removes the result that a run left.
    pub(crate) fn remove_result(&self, name: &str) {
        for id in self.cluster.lock().allocations_of(name) {
            std::fs::remove_file(self.cluster.folder.join(id).join("alloc/result.json")).unwrap();
        }
    }

    /// Ends every event stream that is open.
    pub(crate) fn drop_streams(&self) {
        self.cluster.lock().events.close();
    }

    /// How often a job was really placed.
    pub(crate) fn placements(&self, name: &str) -> usize {
        self.cluster.lock().allocations_of(name).len()
    }

    /// A job as it was registered.
    pub(crate) fn registered(&self, name: &str) -> Option<serde_json::Value> {
        self.cluster.lock().jobs.get(name).cloned()
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.cluster.lock().requests
    }

    /// The most requests there were at once, streams and blocking queries included.
    pub(crate) fn most_at_once(&self) -> usize {
        self.cluster.lock().most_at_once
    }

    /// Forgets how many requests there were.
    pub(crate) fn count_anew(&self) {
        let mut state = self.cluster.lock();
        (state.requests, state.most_at_once) = (0, 0);
    }
}

impl Drop for Nomad {
    fn drop(&mut self) {
        self.server.abort();
        self.cluster.lock().events.close();
        task::kill_all(&self.cluster);
    }
}
