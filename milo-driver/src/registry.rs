//! The tasks that this plugin answers for: each one's phase, who waits for it, and what happened to it. No wire format and
//! no container here; those are on either side, in [`crate::server`] and behind [`Engine`].
//!
//! ```text
//!            ┌──▶ Failed ──▶ (forgotten)
//!  Starting ─┤
//!            └──▶ Running ──▶ Exited ──destroy──▶ (forgotten)
//!  recover ───────────┴──────────┘
//! ```
//!
//! - Whoever asks to start a task that is being started, or runs, gets the answer of the first.
//! - A start, stop or destruction goes on when the one who asked goes away.
//! - How a task ended is known until it is destroyed, however many ask.

pub mod engine;
#[cfg(test)]
pub(crate) mod fake;

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{broadcast, watch};

pub use self::engine::{
    Begun, Command, Engine, EngineError, Input, Output, Reading, Recovered, Session, StartError,
};
use crate::{
    config::Config,
    fingerprint::Survey,
    state::TaskDir,
    task::{Exit, Task, TaskId},
};

/// How many events are kept for one who listens slowly.
const EVENTS: usize = 256;

/// The tasks. Clones share them.
#[derive(Debug)]
pub struct Registry<E>(Arc<Shared<E>>);

impl<E> Clone for Registry<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Shared<E> {
    engine: E,
    entries: Mutex<HashMap<TaskId, Arc<Entry>>>,
    events: broadcast::Sender<Event>,
}

/// One task.
#[derive(Debug)]
struct Entry {
    who: Identity,
    phase: watch::Sender<Phase>,
}

/// Whose task it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The task's own id.
    pub id: TaskId,
    /// Its name in the job.
    pub name: String,
    /// Its allocation's id.
    pub alloc_id: String,
}

#[derive(Clone, Debug)]
enum Phase {
    Starting,
    Failed(StartError),
    Running(Begun),
    Exited(Begun, Exit),
}

/// Something that happened to a task, in words for its user.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whose.
    pub who: Identity,
    /// When.
    pub at: SystemTime,
    /// What.
    pub message: String,
    /// Details.
    pub annotations: BTreeMap<String, String>,
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whose.
    pub who: Identity,
    /// Its start; while it is being started, nothing.
    pub begun: Option<Begun>,
    /// Its end, if it has ended.
    pub exit: Option<Exit>,
}

/// Why something cannot be done to a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Nobody knows it. Nomad's own words.
    #[error("task not found for given id")]
    NotFound,
    /// It has ended.
    #[error("task `{0}` is not running")]
    NotRunning(TaskId),
    /// It has not ended.
    #[error("task `{0}` is still running: stop it first, or destroy it with force")]
    StillRunning(TaskId),
    /// It never started.
    #[error(transparent)]
    NotStarted(#[from] StartError),
    /// What runs it says no.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl<E: Engine> Registry<E> {
    /// No tasks yet.
    pub fn new(engine: E) -> Self {
        Self(Arc::new(Shared {
            engine,
            entries: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }))
    }

    /// Takes over an operator's decisions.
    pub fn configure(&self, config: &Config) {
        self.0.engine.configure(config);
    }

    /// What can be said of this machine at once.
    pub async fn glance(&self) -> Survey {
        self.0.engine.glance().await
    }

    /// What this machine has for tasks.
    pub async fn survey(&self) -> Survey {
        self.0.engine.survey().await
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Whether a task with these records is one of these.
    pub fn knows(&self, dir: &TaskDir) -> bool {
        let entries = self.entries();
        entries.keys().any(|id| self.0.engine.dir(id) == *dir)
            || entries
                .values()
                .any(|entry| entry.dir().as_ref() == Some(dir))
    }

    /// Starts a task, or joins its start.
    pub async fn start(&self, task: Task) -> Result<Begun, StartError> {
        let (entry, is_new) = self.enter(Identity::of(&task), Phase::Starting);
        if is_new {
            tokio::spawn(self.clone().launch(task, entry.clone()));
        }
        entry.begun().await
    }

    async fn launch(self, task: Task, entry: Arc<Entry>) {
        let registry = self.clone();
        let started = detached(async move { registry.0.engine.start(task).await }).await;
        match started.unwrap_or_else(|Lost| {
            Err(StartError::passing(
                "starting the task ended in a bug of this driver",
            ))
        }) {
            Ok(begun) => {
                let mut annotations = begun.facts.clone();
                annotations.insert("pid".to_owned(), begun.started.pid.to_string());
                tracing::info!(task = %entry.who.id, pid = begun.started.pid, "task started");
                self.tell(&entry.who, "Started the container", annotations);
                self.run(entry, begun);
            }
            Err(error) => {
                self.forget(&entry);
                entry.phase.send_replace(Phase::Failed(error));
            }
        }
    }

    /// Takes up a task that another process started. One that is known already is left as it is.
    pub async fn recover(&self, who: Identity, dir: Option<TaskDir>) -> Result<(), TaskError> {
        if self.entry(&who.id).is_ok() {
            return Ok(());
        }
        let dir = dir.unwrap_or_else(|| self.0.engine.dir(&who.id));
        let recovered = self.0.engine.recover(&dir).await?;
        let (entry, is_new) = self.enter(who, Phase::Starting);
        match recovered {
            _ if !is_new => {}
            Recovered::Running(begun) => self.run(entry, begun),
            Recovered::Exited(begun, exit) => {
                entry.phase.send_replace(Phase::Exited(begun, exit));
            }
        }
        Ok(())
    }

    /// From here on somebody waits for its end.
    fn run(&self, entry: Arc<Entry>, begun: Begun) {
        let dir = begun.dir.clone();
        entry.phase.send_replace(Phase::Running(begun));
        let registry = self.clone();
        tokio::spawn(async move {
            let exit = registry.0.engine.wait(&dir).await;
            registry.ended(&entry, &exit.unwrap_or_else(unknown_end));
        });
    }

    /// The first to know how it ended is believed.
    fn ended(&self, entry: &Entry, exit: &Exit) {
        let is_first = entry.phase.send_if_modified(|phase| match phase {
            Phase::Running(begun) => {
                *phase = Phase::Exited(begun.clone(), exit.clone());
                true
            }
            _ => false,
        });
        if is_first {
            let Exit { code, signal, .. } = exit;
            tracing::info!(task = %entry.who.id, code, signal, oom = exit.oom_killed, "task ended");
        }
        if is_first && exit.oom_killed {
            let message =
                "The kernel killed a process of the task: it was out of memory under its own limit";
            self.tell(
                &entry.who,
                message,
                BTreeMap::from([("oom_killed".to_owned(), "true".to_owned())]),
            );
        }
    }

    /// How a task ended, as soon as it has.
    pub async fn wait(&self, id: &TaskId) -> Result<Exit, TaskError> {
        let entry = self.entry(id)?;
        entry.begun().await?;
        Ok(entry.exit().await)
    }

    /// What is known of a task.
    pub fn status(&self, id: &TaskId) -> Result<Status, TaskError> {
        let entry = self.entry(id)?;
        let phase = entry.phase.borrow().clone();
        let (begun, exit) = match phase {
            Phase::Starting | Phase::Failed(_) => (None, None),
            Phase::Running(begun) => (Some(begun), None),
            Phase::Exited(begun, exit) => (Some(begun), Some(exit)),
        };
        Ok(Status {
            who: entry.who.clone(),
            begun,
            exit,
        })
    }

    /// Sends a signal to a task that runs.
    pub async fn signal(&self, id: &TaskId, signal: i32) -> Result<(), TaskError> {
        let dir = self.running(id).await?;
        Ok(self.0.engine.signal(&dir, signal).await?)
    }

    /// Ends a task: a signal, a while, then force. One that has ended is no error.
    pub async fn stop(&self, id: &TaskId, signal: i32, timeout: Duration) -> Result<(), TaskError> {
        let entry = self.entry(id)?;
        let registry = self.clone();
        finished(detached(async move { registry.stop_entry(&entry, signal, timeout).await }).await)
    }

    async fn stop_entry(
        &self,
        entry: &Entry,
        signal: i32,
        timeout: Duration,
    ) -> Result<(), TaskError> {
        let begun = entry.begun().await?;
        if entry.has_ended() {
            return Ok(());
        }
        match self.0.engine.stop(&begun.dir, signal, timeout).await {
            Ok(exit) => self.ended(entry, &exit),
            Err(_) if entry.has_ended() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes every trace of a task. One that nobody knows is looked for on disk; nothing there is no error.
    pub async fn destroy(&self, id: &TaskId, force: bool) -> Result<(), TaskError> {
        let registry = self.clone();
        let id = id.clone();
        finished(detached(async move { registry.destroy_now(&id, force).await }).await)
    }

    async fn destroy_now(&self, id: &TaskId, force: bool) -> Result<(), TaskError> {
        let Ok(entry) = self.entry(id) else {
            return Ok(self.0.engine.destroy(&self.0.engine.dir(id)).await?);
        };
        let Ok(begun) = entry.begun().await else {
            return Ok(self.0.engine.destroy(&self.0.engine.dir(id)).await?);
        };
        if !entry.has_ended() {
            if !force {
                return Err(TaskError::StillRunning(id.clone()));
            }
            // So that those who wait learn its true end; destruction goes on without it.
            if let Err(error) = self.stop_entry(&entry, libc::SIGKILL, Duration::ZERO).await {
                tracing::warn!(task = %id, %error, "could not kill a task before destroying it");
            }
        }
        let destroyed = self.0.engine.destroy(&begun.dir).await;
        self.ended(
            &entry,
            &unknown_end(EngineError(
                "the task was destroyed while it ran".to_owned(),
            )),
        );
        // Also when it failed: an agent does not come back to it, and only what is forgotten is swept.
        self.forget(&entry);
        Ok(destroyed?)
    }

    /// Removes the records of a task that is not one of these.
    pub async fn discard(&self, dir: &TaskDir) -> Result<(), EngineError> {
        self.0.engine.destroy(dir).await
    }

    /// Runs a command inside a task.
    pub async fn exec(&self, id: &TaskId, command: Command) -> Result<Session, TaskError> {
        let dir = self.running(id).await?;
        Ok(self.0.engine.exec(&dir, command).await?)
    }

    /// Tells those who listen that somebody has entered a task.
    pub fn tell_of_visit(&self, id: &TaskId, argv: &[String]) {
        if let Ok(entry) = self.entry(id) {
            let program = argv.first().map_or("", String::as_str);
            let message = format!("A command was run in the task: {program}");
            self.tell(
                &entry.who,
                &message,
                BTreeMap::from([("command".to_owned(), argv.join(" "))]),
            );
        }
    }

    /// What a task uses now.
    pub async fn usage(&self, id: &TaskId) -> Result<Reading, TaskError> {
        let dir = self.running(id).await?;
        Ok(self.0.engine.usage(&dir).await?)
    }

    async fn running(&self, id: &TaskId) -> Result<TaskDir, TaskError> {
        let entry = self.entry(id)?;
        let begun = entry.begun().await?;
        if entry.has_ended() {
            return Err(TaskError::NotRunning(id.clone()));
        }
        Ok(begun.dir)
    }

    fn entry(&self, id: &TaskId) -> Result<Arc<Entry>, TaskError> {
        self.entries().get(id).cloned().ok_or(TaskError::NotFound)
    }

    /// The entry of a task, and whether it is new.
    fn enter(&self, who: Identity, phase: Phase) -> (Arc<Entry>, bool) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&who.id) {
            return (entry.clone(), false);
        }
        let entry = Arc::new(Entry {
            who,
            phase: watch::Sender::new(phase),
        });
        entries.insert(entry.who.id.clone(), entry.clone());
        (entry, true)
    }

    fn forget(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        if entries
            .get(&entry.who.id)
            .is_some_and(|known| Arc::ptr_eq(known, entry))
        {
            entries.remove(&entry.who.id);
        }
    }

    fn tell(&self, who: &Identity, message: &str, annotations: BTreeMap<String, String>) {
        // Nobody listens between two agents; that is no error.
        let _ = self.0.events.send(Event {
            who: who.clone(),
            at: SystemTime::now(),
            message: message.to_owned(),
            annotations,
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Entry>>> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    async fn begun(&self) -> Result<Begun, StartError> {
        let mut phases = self.phase.subscribe();
        let settled = phases
            .wait_for(|phase| !matches!(phase, Phase::Starting))
            .await;
        match settled.as_deref() {
            Ok(Phase::Running(begun) | Phase::Exited(begun, _)) => Ok(begun.clone()),
            Ok(Phase::Failed(error)) => Err(error.clone()),
            // The sender is part of `self`.
            Ok(Phase::Starting) | Err(_) => Err(StartError::passing("the task's start was lost")),
        }
    }

    async fn exit(&self) -> Exit {
        let mut phases = self.phase.subscribe();
        let ended = phases
            .wait_for(|phase| matches!(phase, Phase::Exited(..)))
            .await;
        match ended.as_deref() {
            Ok(Phase::Exited(_, exit)) => exit.clone(),
            _ => unknown_end(EngineError("the task's end was lost".to_owned())),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Exited(..))
    }

    fn dir(&self) -> Option<TaskDir> {
        match &*self.phase.borrow() {
            Phase::Running(begun) | Phase::Exited(begun, _) => Some(begun.dir.clone()),
            Phase::Starting | Phase::Failed(_) => None,
        }
    }
}

impl Identity {
    fn of(task: &Task) -> Self {
        Self {
            id: task.id.clone(),
            name: task.name.clone(),
            alloc_id: task.alloc_id.clone(),
        }
    }
}

/// The end of a task whose true end nobody can learn.
fn unknown_end(error: EngineError) -> Exit {
    Exit {
        code: -1,
        ended_at: since_1970(SystemTime::now()),
        error: Some(error.0),
        ..Exit::default()
    }
}

fn since_1970(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The one that worked panicked.
struct Lost;

/// Work that goes on when the one who waits for it goes away.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Lost> {
    tokio::spawn(work).await.map_err(|_| Lost)
}

fn finished<T>(work: Result<Result<T, TaskError>, Lost>) -> Result<T, TaskError> {
    work.unwrap_or_else(|Lost| {
        Err(EngineError("a bug of this driver ended the work".to_owned()).into())
    })
}

#[cfg(test)]
mod tests;
