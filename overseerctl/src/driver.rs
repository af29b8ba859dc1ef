//! What an action runs: the seam between the hub and whatever does the work.
//!
//! A [`Driver`] is one configured action; a [`DriverFactory`] makes drivers of one kind from the `config` block of an
//! action; a [`Registry`] holds the factories that a binary was built with, by explicit registration. The one that
//! ships is [`exec`]; a downstream binary adds its own in a dozen lines and hands the registry to
//! [`crate::cli::main_with`] (see `examples/watch_directory.rs`).
//!
//! # Contract of a driver
//!
//! - [`Driver::validate`] has no side effects and is quick: the hub calls it before it reserves anything.
//! - [`Driver::start`] either makes a worker or makes nothing. It may wait, but no longer than a spawn takes.
//! - [`Worker::run`](Worker) does all the rest, and is first polled after `started` went out; it publishes output, obeys
//!   the [`StopSignal`], and resolves only when nothing of the worker is left. A panic in it counts as exit code 70.

pub mod exec;

use std::{collections::BTreeMap, fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    api::{ActionInfo, OutputStream, Params, PoolConfig, RetryPolicy},
    hub::Hub,
    topic::{Line, Pressure, Topic},
};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Work that a driver does for as long as the daemon runs, such as watching something and submitting tasks.
pub type Service = Box<dyn FnOnce(Hub, StopSignal) -> BoxFuture<'static, ()> + Send>;

/// Everything an action's configuration says besides its driver's own block.
#[derive(Clone, Debug, Default)]
pub struct ActionContext {
    /// Its name.
    pub name: String,
    /// From `meta.description`.
    pub description: String,
    /// Global policy overridden by the action's.
    pub retry: RetryPolicy,
    /// Its pool.
    pub task_pool: PoolConfig,
    /// Parameters that make two starts duplicates.
    pub dedupe_key: Vec<String>,
    /// What relative paths in the configuration are relative to.
    pub base_dir: PathBuf,
    /// The daemon's settings for workers, unless the action says otherwise.
    pub worker: WorkerDefaults,
}

/// How workers end, unless an action says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerDefaults {
    /// Between the first signal and SIGKILL.
    pub stop_grace: Duration,
    /// What becomes of processes that outlive the one that was started.
    pub orphans: Orphans,
    /// How long output is still read after a stopped worker has ended.
    pub drain_timeout: Duration,
    /// Bytes of one line kept; the rest is skipped.
    pub max_line: usize,
    /// Directory in a cgroup hierarchy under which tasks get groups of their own, if there is one.
    pub cgroup_parent: CgroupParent,
}

/// Where cgroups of tasks are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupParent {
    /// Beside the daemon's own cgroup, if that is possible.
    #[default]
    Auto,
    /// Nowhere: limits that need one are refused.
    Off,
    /// Below this directory.
    Path(PathBuf),
}

impl Default for WorkerDefaults {
    fn default() -> Self {
        Self {
            stop_grace: Duration::from_secs(5),
            orphans: Orphans::Wait,
            drain_timeout: Duration::from_secs(2),
            max_line: MAX_LINE,
            cgroup_parent: CgroupParent::Auto,
        }
    }
}

/// Longest line that sticky-overseer delivers, in bytes (its scanner's buffer of 10 MiB less one).
pub const MAX_LINE: usize = 10_485_759;

/// What becomes of processes that outlive the one that was started and hold its output open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Orphans {
    /// The task goes on until the last of them closes the output, as in sticky-overseer.
    #[default]
    Wait,
    /// They are killed when the one that was started ends.
    Kill,
    /// The task ends with the one that was started; they keep running without a reader.
    Detach,
}

/// A driver could not be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No factory of that kind is registered.
    #[error("action {action:?}: unknown action type {kind:?} (registered: [{}])", known.join(" "))]
    UnknownKind {
        /// The action.
        action: String,
        /// What its `type` says.
        kind: String,
        /// What is registered.
        known: Vec<String>,
    },
    /// The factory refused the configuration.
    #[error("action {action:?}: failed to create handler: {reason}")]
    Refused {
        /// The action.
        action: String,
        /// The factory's words.
        reason: String,
    },
}

/// Makes drivers of one kind.
pub trait DriverFactory: Send + Sync {
    /// The word in an action's `type`.
    fn kind(&self) -> &str;

    /// Makes the driver of one action from the action's `config` block.
    ///
    /// # Errors
    /// A text that names what is wrong with the block; the hub adds the action's name.
    fn create(
        &self,
        config: serde_json::Value,
        context: ActionContext,
    ) -> Result<Arc<dyn Driver>, String>;
}

/// One configured action.
pub trait Driver: Send + Sync {
    /// As `describe` shows it; the hub fills in the pool as it is now.
    fn describe(&self) -> ActionInfo;

    /// Whether a start with these parameters makes sense.
    ///
    /// # Errors
    /// A text for the client, which sees it behind `validation error: `.
    fn validate(&self, params: &Params) -> Result<(), String>;

    /// Starts a worker.
    ///
    /// # Errors
    /// A text for the client, which sees it behind `pool rejected task: `.
    fn start(&self, task: TaskContext) -> BoxFuture<'_, Result<Worker, String>>;

    /// Work of its own beside tasks, run once from the daemon's start to its end.
    fn service(&self) -> Option<Service> {
        None
    }
}

/// What a driver needs to know to start one worker.
#[derive(Debug)]
pub struct TaskContext {
    /// The task.
    pub task_id: Arc<str>,
    /// Its parameters, as sent.
    pub params: Arc<Params>,
    /// Where its output goes.
    pub output: Output,
    /// When and how it is to end.
    pub stop: StopSignal,
}

/// A worker that was started: a process, or a future of this process.
pub struct Worker {
    pid: u32,
    run: BoxFuture<'static, WorkerExit>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A process that runs; `run` sees it to its end.
    pub fn process(pid: u32, run: impl Future<Output = WorkerExit> + Send + 'static) -> Self {
        Self {
            pid,
            run: Box::pin(run),
        }
    }

    /// Work inside this process. Its pid is 0; its output is the exit code. It should end soon after
    /// [`StopSignal::stopped`] resolves; when it is to be killed it is dropped.
    pub fn virtual_worker(task: TaskContext, run: impl VirtualRun) -> Self {
        let mut kill = task.stop.clone();
        let work = run.run(task.output, task.stop);
        let run = async move {
            tokio::select! {
                code = work => WorkerExit::code(code),
                () = kill.killed() => WorkerExit::signal(None),
            }
        };
        Self {
            pid: 0,
            run: Box::pin(run),
        }
    }

    /// Its pid; 0 for a virtual worker.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn into_run(self) -> BoxFuture<'static, WorkerExit> {
        self.run
    }
}

/// The body of a virtual worker: any `FnOnce(Output, StopSignal) -> impl Future<Output = i32>`.
pub trait VirtualRun {
    /// Its future.
    fn run(self, output: Output, stop: StopSignal) -> BoxFuture<'static, i32>;
}

impl<F, R> VirtualRun for F
where
    F: FnOnce(Output, StopSignal) -> R,
    R: Future<Output = i32> + Send + 'static,
{
    fn run(self, output: Output, stop: StopSignal) -> BoxFuture<'static, i32> {
        Box::pin(self(output, stop))
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerExit {
    /// Its exit code; -1 for death by signal, as on the wire.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether its control group ran out of memory.
    pub out_of_memory: bool,
}

impl WorkerExit {
    /// It ended by itself with this code.
    pub fn code(code: i32) -> Self {
        Self {
            code,
            signal: None,
            out_of_memory: false,
        }
    }

    /// A signal killed it; the wire's code for that is -1.
    pub fn signal(signal: Option<i32>) -> Self {
        Self {
            code: -1,
            signal,
            out_of_memory: false,
        }
    }
}

/// Where a worker's output goes.
#[derive(Clone, Debug)]
pub struct Output {
    topic: Arc<Topic>,
    pid: u32,
}

impl Output {
    pub(crate) fn new(topic: Arc<Topic>) -> Self {
        Self { topic, pid: 0 }
    }

    /// The same, for lines of process `pid`.
    #[must_use]
    pub fn of_process(&self, pid: u32) -> Self {
        Self {
            topic: Arc::clone(&self.topic),
            pid,
        }
    }

    /// Publishes lines that belong together. Never blocks; wait for the result before producing more.
    pub fn publish(&self, stream: OutputStream, lines: &[Line<'_>]) -> Pressure {
        self.topic.publish(self.pid, stream, lines)
    }

    /// Publishes one line, and waits for clients that are behind.
    pub async fn line(&self, stream: OutputStream, line: &str) {
        self.publish(
            stream,
            &[Line {
                data: line.as_bytes(),
                truncated: false,
            }],
        )
        .relieved()
        .await;
    }
}

/// How urgently a worker is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// Go on.
    Run,
    /// End, and clean up first; `grace` overrides how long that may take.
    Stop {
        /// `None` means what the action's configuration says.
        grace: Option<Duration>,
    },
    /// End now.
    Kill,
}

/// When and how a worker is to end. Levels only rise.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<StopLevel>);

impl StopSignal {
    /// A signal and the end that raises it.
    pub fn new() -> (StopHandle, Self) {
        let (sender, receiver) = watch::channel(StopLevel::Run);
        (StopHandle(sender), Self(receiver))
    }

    /// The level now.
    pub fn level(&self) -> StopLevel {
        *self.0.borrow()
    }

    /// Resolves when the level is no longer `seen`.
    pub async fn raised(&mut self, seen: StopLevel) -> StopLevel {
        loop {
            let level = *self.0.borrow_and_update();
            if level != seen {
                return level;
            }
            if self.0.changed().await.is_err() {
                // Nobody is left who could raise it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the worker is to end, one way or another.
    pub async fn stopped(&mut self) {
        self.raised(StopLevel::Run).await;
    }

    /// Resolves when the worker is to end now.
    pub async fn killed(&mut self) {
        let mut seen = self.level();
        while seen != StopLevel::Kill {
            seen = self.raised(seen).await;
        }
    }
}

/// Raises a [`StopSignal`].
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<StopLevel>);

impl StopHandle {
    /// Raises the level; lowering it has no effect.
    pub fn raise(&self, level: StopLevel) {
        self.0.send_if_modified(|current| {
            let rises = level > *current
                && !matches!(
                    (*current, level),
                    (StopLevel::Stop { .. }, StopLevel::Stop { .. })
                );
            if rises {
                *current = level;
            }
            rises
        });
    }
}

/// The kinds of drivers a binary was built with.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<String, Arc<dyn DriverFactory>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

impl Registry {
    /// No drivers at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// What `overseerctl` ships with: `exec`.
    pub fn standard() -> Self {
        Self::empty().with(exec::ExecFactory)
    }

    /// Adds a kind, replacing one of the same name.
    #[must_use]
    pub fn with(mut self, factory: impl DriverFactory + 'static) -> Self {
        self.0.insert(factory.kind().to_owned(), Arc::new(factory));
        self
    }

    /// The registered kinds, sorted.
    pub fn kinds(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Makes the driver of one action.
    pub fn create(
        &self,
        kind: &str,
        config: serde_json::Value,
        context: ActionContext,
    ) -> Result<Arc<dyn Driver>, DriverError> {
        let action = context.name.clone();
        let Some(factory) = self.0.get(kind) else {
            return Err(DriverError::UnknownKind {
                action,
                kind: kind.to_owned(),
                known: self.kinds(),
            });
        };
        factory
            .create(config, context)
            .map_err(|reason| DriverError::Refused { action, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_signal_only_rises() {
        let (handle, mut signal) = StopSignal::new();
        handle.raise(StopLevel::Stop { grace: None });
        signal.stopped().await;
        handle.raise(StopLevel::Stop {
            grace: Some(Duration::ZERO),
        });
        assert_eq!(
            signal.level(),
            StopLevel::Stop { grace: None },
            "the first stop counts"
        );
        handle.raise(StopLevel::Kill);
        signal.killed().await;
        handle.raise(StopLevel::Stop { grace: None });
        assert_eq!(signal.level(), StopLevel::Kill);
    }

    #[test]
    fn an_unknown_kind_names_the_known_ones() {
        let error = Registry::standard()
            .create(
                "foo",
                serde_json::Value::Null,
                ActionContext {
                    name: "x".into(),
                    ..Default::default()
                },
            )
            .err()
            .map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some(r#"action "x": unknown action type "foo" (registered: [exec])"#)
        );
    }
}
