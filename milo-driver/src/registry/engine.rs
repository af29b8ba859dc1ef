//! The border between the plugin and what runs containers: the few verbs that a [`Registry`](super::Registry) needs, and
//! the values that pass it. What is behind it knows shims, crun and cgroups, and no agent.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;

use crate::{
    config::Config,
    fingerprint::Survey,
    state::{Started, TaskDir},
    stats::Usage,
    task::{Exit, Task, TaskId},
};

/// What runs containers.
///
/// # Contract
///
/// - No verb blocks the thread that polls it.
/// - A verb that is dropped half-way leaves a state that the same verb, or `destroy`, can go on from.
/// - No process that is started inherits this one's standard output or standard error.
pub trait Engine: Send + Sync + 'static {
    /// Takes over an operator's decisions. Nothing on the machine is looked at or changed; verbs from now on obey.
    fn configure(&self, config: &Config);

    /// Where the records of a task are, or would be.
    fn dir(&self, id: &TaskId) -> TaskDir;

    /// Creates and starts a container.
    ///
    /// Where the program is Java with neither JAR nor class, its JAR is the only one below `local/`; a JAR that is named is
    /// checked. A task that runs already is answered as if it had just been started, and one of which only some records
    /// exist is undone and started anew. A failure leaves nothing behind.
    fn start(&self, task: Task) -> impl Future<Output = Result<Begun, StartError>> + Send;

    /// Finds a task that another process started. One that has ended meanwhile is found, too.
    fn recover(&self, dir: &TaskDir)
    -> impl Future<Output = Result<Recovered, EngineError>> + Send;

    /// How a task ended, as soon as it has. Any number may wait at once. An error says that nobody can know.
    fn wait(&self, dir: &TaskDir) -> impl Future<Output = Result<Exit, EngineError>> + Send;

    /// Sends a signal to a task's first process.
    fn signal(
        &self,
        dir: &TaskDir,
        signal: i32,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Sends a signal, waits, and kills everything that is left; answers how it ended. A timeout of zero kills at once, and
    /// a task that has ended already is answered alike.
    fn stop(
        &self,
        dir: &TaskDir,
        signal: i32,
        timeout: Duration,
    ) -> impl Future<Output = Result<Exit, EngineError>> + Send;

    /// Kills what runs and removes every trace. Nothing to remove is no error.
    fn destroy(&self, dir: &TaskDir) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Runs a command inside a task.
    fn exec(
        &self,
        dir: &TaskDir,
        command: Command,
    ) -> impl Future<Output = Result<Session, EngineError>> + Send;

    /// What a task uses now.
    fn usage(&self, dir: &TaskDir) -> impl Future<Output = Result<Reading, EngineError>> + Send;

    /// What can be said of this machine at once, without starting anything.
    fn glance(&self) -> impl Future<Output = Survey> + Send;

    /// What this machine has for tasks. Cheap when nothing changed since the last time.
    fn survey(&self) -> impl Future<Output = Survey> + Send;
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// Where its records are.
    pub dir: TaskDir,
    /// Its first process.
    pub started: Started,
    /// What else is worth knowing, for people: the JVM, its heap, the container's name.
    pub facts: BTreeMap<String, String>,
}

/// A task that was found again.
#[derive(Clone, Debug, PartialEq)]
pub enum Recovered {
    /// It runs.
    Running(Begun),
    /// It has ended meanwhile.
    Exited(Begun, Exit),
}

/// Why a task did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StartError {
    /// The whole text, which may have several lines: it goes to the task's log as it is.
    pub text: String,
    /// Whether the same task may start at another time, or on another node.
    pub retry: bool,
}

impl StartError {
    /// One that will be the same next time: the job is wrong.
    pub fn fatal(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            retry: false,
        }
    }

    /// One that may be gone next time: the machine was busy, full or half set up.
    pub fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            retry: true,
        }
    }
}

/// Why a verb failed, in words for a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A command to run inside a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// A command that runs inside a task. Dropping it ends the command.
///
/// What the command wrote before it ended comes before [`Output::Exited`] where it has a terminal. Without one, output may
/// follow from processes that it left behind, and the channel closes when both streams have ended.
#[derive(Debug)]
pub struct Session {
    /// To the command. Dropping it alone closes nothing.
    pub input: mpsc::Sender<Input>,
    /// From the command.
    pub output: mpsc::Receiver<Output>,
}

/// What a command is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes of its standard input.
    Data(Vec<u8>),
    /// The end of its standard input.
    Close,
    /// The size of its terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
}

/// What a command gives. With a terminal, everything is standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended, with this code; 128 + n after signal n.
    Exited(i32),
}

/// What a task has used up to a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The moment.
    pub at: SystemTime,
    /// All of it.
    pub total: Usage,
    /// Each process, by its pid on the host.
    pub processes: BTreeMap<i32, Usage>,
}
