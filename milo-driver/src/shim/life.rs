//! The life of one container, from its creation to its end: which state it is in, what each request does to it, and who
//! waits for what. It speaks to the runtime, the cgroup and the records; how requests come in is the
//! [`server`](super::server)'s business, and when to look again the loop's in [`shim`](super).
//!
//! ```text
//!              ┌─▶ Failed ────────────────────────────────────┐
//!  Preparing ──┼─▶ Created ──start──▶ Running ──┐             ├──dismiss──▶ (over)
//!              │      └──────────kill───────────┴──▶ Exited ──┘
//!              ├─▶ Intended ──start──▶ (Running or Failed)
//!              └─▶ (adopted: Created, Running or Exited, as the records and the process say)
//! ```
//!
//! - Preparing is the time before [`Life::begin`] returns: clients connect and wait.
//! - Intended is an ephemeral task, of which nothing has to be on record before it runs, because nobody could use it: the
//!   task dies with the one who asks for it. It is made and started in one step.
//! - To Created: stdio open, `create`, pidfd, `started.json`.
//! - To Exited: the program's output is copied to its end, OOM evidence read, `exit.json` written, everyone answered; then
//!   the container is deleted. An ephemeral task's container and records are gone before anyone is answered.
//! - Failed holds nothing: what creation left behind is removed.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    enclosure::Enclosure,
    init::{Ending, Init},
    log::Log,
    protocol::{Answer, Request},
    server::Client,
    stdio::Plumbing,
};
use crate::{
    bundle::sources,
    runtime::{Create, Runtime, RuntimeError, Status},
    state::{Intent, Started, TaskDir},
    task::Exit,
};

/// How long after a kill the runtime is asked to kill too: a frozen cgroup does not die of a signal.
const KILL_AGAIN: Duration = Duration::from_secs(2);
/// How long after a kill the end is waited for.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often one looks for the reader of what is unread.
const LOOK_FOR_READER: Duration = Duration::from_secs(1);
/// How often one looks whether a program heeds a signal by now.
const LOOK_FOR_HANDLER: Duration = Duration::from_millis(20);
/// What is said of a task that nobody has started yet.
const NOT_BEGUN: &str = "it has not begun";
/// How long a state that only a client can lead on from lasts without any client.
const UNATTENDED: Duration = Duration::from_secs(10);

/// What a life depends on.
pub struct Parts {
    /// The records.
    pub dir: TaskDir,
    /// What is to be run.
    pub intent: Intent,
    /// What makes containers.
    pub runtime: Box<dyn Runtime>,
    /// The cgroup.
    pub enclosure: Box<dyn Enclosure>,
    /// The shim's log.
    pub log: Log,
    /// This boot.
    pub boot_id: String,
    /// The descriptors of inherited streams.
    pub inherited: Option<[OwnedFd; 3]>,
}

/// One container's life.
pub struct Life {
    dir: TaskDir,
    intent: Intent,
    id: String,
    runtime: Box<dyn Runtime>,
    enclosure: Box<dyn Enclosure>,
    log: Log,
    plumbing: Plumbing,
    state: State,
    stopping: Option<Stopping>,
    waiting: Vec<Waiting>,
    answers: Vec<(Client, Answer)>,
    /// OOM kills that the cgroup had counted before the program began.
    oom_before: u64,
    /// The container still has to be deleted.
    is_untidy: bool,
    /// The end could not be written down, as where a disk is full; whoever asks has it tried again.
    is_unrecorded: bool,
    is_over: bool,
}

enum State {
    Failed(String),
    /// With the descriptors of inherited streams.
    Intended(Option<[OwnedFd; 3]>),
    Created(Container),
    Running(Container),
    Exited(Exit),
}

/// A container that lives.
struct Container {
    init: Init,
    started_at: i64,
}

impl Container {
    fn started(&self) -> Started {
        self.init.started(self.started_at)
    }
}

/// A stop on its way.
#[derive(Clone, Copy)]
enum Stopping {
    /// A signal was sent, or will be as soon as the program heeds it; all is killed then.
    Asked {
        kill_at: Instant,
        unsent: Option<i32>,
    },
    /// All was killed; the runtime is asked to do it again then.
    Killed { at: Instant },
    /// The runtime was asked too.
    KilledAgain { at: Instant },
}

/// Who waits for the end, and what for.
struct Waiting {
    client: Client,
    what: For,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// The exit.
    Exit,
    /// The exit, and it is this client's container.
    OwnExit,
    /// The exit that was asked for.
    Stop,
    /// That nothing is left.
    Dismissal,
}

impl Life {
    /// Creates the container, or takes over what an earlier shim has left. What fails is said to whoever asks.
    pub fn begin(parts: Parts) -> Self {
        let mut life = Self {
            id: parts.intent.task.id.container(),
            dir: parts.dir,
            runtime: parts.runtime,
            enclosure: parts.enclosure,
            log: parts.log,
            plumbing: Plumbing::default(),
            state: State::Failed(String::new()),
            stopping: None,
            waiting: Vec::new(),
            answers: Vec::new(),
            oom_before: 0,
            is_untidy: false,
            is_unrecorded: false,
            is_over: false,
            intent: parts.intent,
        };
        life.state = match life.first_state(&parts.boot_id, parts.inherited) {
            Ok(state) => state,
            Err(problem) => State::Failed(life.failed(problem)),
        };
        life
    }

    fn first_state(&mut self, boot: &str, given: Option<[OwnedFd; 3]>) -> Result<State, String> {
        let unreadable = |error: io::Error| format!("cannot read the records: {error}");
        if let Some(exit) = self.dir.exit().map_err(unreadable)? {
            self.is_untidy = true;
            return Ok(State::Exited(exit));
        }
        match self.dir.started().map_err(unreadable)? {
            Some(started) => self.adopt(&started, boot).map_err(unreadable),
            None if self.is_one_step() => Ok(State::Intended(given)),
            None => self.create(given).map(State::Created),
        }
    }

    /// Whether the task is made and started at once. Its cgroup is all that is known of it should this process die meanwhile.
    fn is_one_step(&self) -> bool {
        let task = &self.intent.task;
        task.ephemeral && task.cgroup.join.is_empty() && !task.cgroup.disabled
    }

    // === Creation ===

    fn create(&mut self, given: Option<[OwnedFd; 3]>) -> Result<Container, String> {
        let (pid, plumbing) = self.made(given, |runtime, create| runtime.create(create))?;
        self.record(pid).inspect(|_| self.plumbing = plumbing)
    }

    /// Makes and starts it in one step.
    fn make_and_start(&mut self, given: Option<[OwnedFd; 3]>) -> Result<Container, String> {
        self.oom_before = self.oom_kills();
        let (pid, plumbing) = self.made(given, |runtime, create| runtime.run(create))?;
        self.plumbing = plumbing;
        let container = Container {
            init: watched(pid)?,
            started_at: now(),
        };
        self.note(&container.started());
        Ok(container)
    }

    fn made(
        &self,
        given: Option<[OwnedFd; 3]>,
        make: impl FnOnce(&dyn Runtime, Create<'_>) -> Result<i32, RuntimeError>,
    ) -> Result<(i32, Plumbing), String> {
        let task = &self.intent.task;
        let (plumbing, stdio) = Plumbing::open(&self.dir, &task.stdio, &task.dirs, given)
            .map_err(|error| error.to_string())?;
        let sources = sources::hold(task, &self.dir.bundle()).map_err(|error| error.to_string())?;
        let create = Create {
            id: &self.id,
            bundle: &self.dir.bundle(),
            pid_file: &self.dir.path().join("pid"),
            log: &self.dir.log(),
            sources,
            stdio,
        };
        let pid = make(&*self.runtime, create).map_err(|error| error.to_string())?;
        Ok((pid, plumbing))
    }

    /// Makes a new container known: to its cgroups and to the records.
    fn record(&mut self, pid: i32) -> Result<Container, String> {
        for folder in &self.intent.task.cgroup.join {
            join(folder, pid)?;
        }
        if let Err(error) = self.enclosure.yield_to(&self.intent.task.cgroup.join) {
            self.log
                .say(format_args!("cannot leave a cgroup to another: {error}"));
        }
        let container = Container {
            init: watched(pid)?,
            started_at: 0,
        };
        self.oom_before = self.oom_kills();
        self.dir
            .write_started(&container.started())
            .map_err(|error| format!("cannot write started.json: {error}"))?;
        Ok(container)
    }

    /// Removes what a failed creation has left, and completes the words about it.
    fn failed(&mut self, problem: String) -> String {
        self.log.say(format_args!("creation failed: {problem}"));
        self.plumbing = Plumbing::default();
        self.is_untidy = true;
        self.tidy_up();
        if self.intent.task.ephemeral {
            return problem;
        }
        format!("{problem}\nlog: {}", self.dir.log().display())
    }

    // === Adoption ===

    /// Takes over the container that an earlier shim has created.
    fn adopt(&mut self, started: &Started, boot: &str) -> io::Result<State> {
        let found = if self.intent.boot_id == boot {
            Init::find(started)?
        } else {
            None
        };
        let Some(init) = found else {
            self.log
                .say(format_args!("process {} is gone", started.pid));
            self.is_untidy = true;
            return Ok(State::Exited(self.exit(Ending::Unknown)));
        };
        self.log
            .say(format_args!("adopted process {}", started.pid));
        let task = &self.intent.task;
        match Plumbing::open(&self.dir, &task.stdio, &task.dirs, None) {
            Ok((plumbing, _)) => self.plumbing = plumbing,
            Err(error) => self.log.say(format_args!("{error}")),
        }
        let started_at = started.started_at;
        let container = Container { init, started_at };
        Ok(self.adopted(container))
    }

    /// Whether an adopted program had begun is on record only if its shim lived a moment longer than its start.
    fn adopted(&self, mut container: Container) -> State {
        if container.started_at == 0
            && matches!(self.runtime.status(&self.id), Ok(Some(Status::Running)))
        {
            container.started_at = now();
            self.note(&container.started());
        }
        if container.started_at == 0 {
            State::Created(container)
        } else {
            State::Running(container)
        }
    }

    // === Requests ===

    /// Takes a request; its answer is among [`Self::answers`] now or later.
    pub fn ask(&mut self, client: Client, request: &Request) {
        if self.is_unrecorded
            && let State::Exited(exit) = &self.state
        {
            self.is_unrecorded = self.dir.write_exit(exit).is_err();
        }
        match request {
            Request::Start => self.start(client),
            Request::State => self.answer(client, self.described()),
            Request::Wait => self.wait(client, For::Exit),
            Request::Attach => self.wait(client, For::OwnExit),
            Request::Signal { signal } => self.signal(client, *signal),
            Request::Stop { signal, timeout_ms } => {
                self.stop(*signal, Duration::from_millis(*timeout_ms));
                self.wait(client, For::Stop);
            }
            Request::Dismiss => {
                self.kill();
                self.wait(client, For::Dismissal);
            }
        }
    }

    /// A client has closed its connection.
    pub fn lost(&mut self, client: Client) {
        let was_its_own = self
            .waiting
            .iter()
            .any(|waiting| waiting.client == client && waiting.what == For::OwnExit);
        // A dismissal is carried out even if nobody waits for it any more.
        self.waiting
            .retain(|waiting| waiting.client != client || waiting.what == For::Dismissal);
        if was_its_own {
            self.log
                .say(format_args!("the one who was attached has gone"));
            self.kill();
        }
    }

    /// The answers that are due.
    pub fn answers(&mut self) -> Vec<(Client, Answer)> {
        std::mem::take(&mut self.answers)
    }

    fn answer(&mut self, client: Client, answer: Answer) {
        self.answers.push((client, answer));
    }

    fn described(&self) -> Answer {
        match &self.state {
            State::Failed(error) => Answer::Failed {
                error: error.clone(),
            },
            State::Intended(_) => Answer::Failed {
                error: NOT_BEGUN.into(),
            },
            State::Created(container) => Answer::Created(container.started()),
            State::Running(container) => Answer::Running(container.started()),
            State::Exited(exit) => Answer::Exited(exit.clone()),
        }
    }

    fn start(&mut self, client: Client) {
        if let State::Intended(given) = &mut self.state {
            let given = given.take();
            self.state = match self.make_and_start(given) {
                Ok(container) => State::Running(container),
                Err(problem) => State::Failed(self.failed(problem)),
            };
        }
        if let State::Created(container) = &self.state {
            if let Err(error) = self.runtime.start(&self.id) {
                self.log.say(format_args!("{error}"));
                let error = error.to_string();
                self.answer(client, Answer::Failed { error });
                return;
            }
            let started = container.init.started(now());
            self.note(&started);
            self.run(started.started_at);
        }
        self.answer(client, self.described());
    }

    fn run(&mut self, started_at: i64) {
        let before = std::mem::replace(&mut self.state, State::Failed(String::new()));
        self.state = match before {
            State::Created(container) => State::Running(Container {
                started_at,
                ..container
            }),
            other => other,
        };
    }

    fn note(&self, started: &Started) {
        if let Err(error) = self.dir.write_started(started) {
            self.log
                .say(format_args!("cannot write started.json: {error}"));
        }
    }

    fn wait(&mut self, client: Client, what: For) {
        match &self.state {
            State::Intended(_) | State::Created(_) | State::Running(_) => {
                self.waiting.push(Waiting { client, what });
            }
            State::Failed(_) | State::Exited(_) if what == For::Dismissal => self.dismiss(client),
            State::Failed(_) | State::Exited(_) => self.answer(client, self.described()),
        }
    }

    fn dismiss(&mut self, client: Client) {
        match self.tidy_up() {
            None => {
                self.is_over = true;
                self.answer(client, Answer::Done);
            }
            Some(error) => self.answer(client, Answer::Failed { error }),
        }
    }

    fn signal(&mut self, client: Client, signal: i32) {
        let answer = match self
            .container()
            .map(|container| container.init.signal(signal))
        {
            Some(Ok(())) => Answer::Done,
            Some(Err(error)) => Answer::Failed {
                error: format!("signal {signal}: {error}"),
            },
            None => match self.described() {
                Answer::Exited(_) => Answer::Failed {
                    error: format!("signal {signal}: the task has ended"),
                },
                other => other,
            },
        };
        self.answer(client, answer);
    }

    fn container(&self) -> Option<&Container> {
        match &self.state {
            State::Created(container) | State::Running(container) => Some(container),
            State::Failed(_) | State::Intended(_) | State::Exited(_) => None,
        }
    }

    // === Stopping ===

    /// Sends a signal and sets the time of the kill; a second stop can only make that earlier.
    fn stop(&mut self, signal: i32, timeout: Duration) {
        let State::Running(container) = &self.state else {
            // What has not begun has no handlers, and its first process ignores every signal but one.
            return self.kill();
        };
        if timeout.is_zero() {
            return self.kill();
        }
        let unsent = self.send_if_heeded(container, signal);
        let kill_at = Instant::now() + timeout;
        self.stopping = Some(match self.stopping {
            None => Stopping::Asked { kill_at, unsent },
            Some(Stopping::Asked {
                kill_at: earlier, ..
            }) => Stopping::Asked {
                kill_at: kill_at.min(earlier),
                unsent,
            },
            Some(killed) => killed,
        });
    }

    /// Answers the signal where the kernel would drop it, as it does for a first process without a handler: a program that
    /// has just begun may have one in a moment.
    fn send_if_heeded(&self, container: &Container, signal: i32) -> Option<i32> {
        if !container.init.heeds(signal) {
            return Some(signal);
        }
        if let Err(error) = container.init.signal(signal) {
            self.log.say(format_args!("signal {signal}: {error}"));
        }
        None
    }

    /// Kills everything: what is in the cgroup, and the first process, with which its pid namespace dies.
    fn kill(&mut self) {
        if matches!(self.state, State::Intended(_)) {
            self.state = State::Failed(NOT_BEGUN.into());
            return self.vanish();
        }
        let Some(container) = self.container() else {
            return;
        };
        if let Err(error) = self.enclosure.kill() {
            self.log
                .say(format_args!("cannot kill the cgroup: {error}"));
        }
        if let Err(error) = container.init.signal(libc::SIGKILL) {
            self.log
                .say(format_args!("cannot kill the first process: {error}"));
        }
        if matches!(self.stopping, None | Some(Stopping::Asked { .. })) {
            self.stopping = Some(Stopping::Killed { at: Instant::now() });
        }
    }

    fn advance_stop(&mut self, now: Instant) {
        match self.stopping {
            Some(Stopping::Asked { kill_at, .. }) if kill_at <= now => self.kill(),
            Some(Stopping::Asked {
                kill_at,
                unsent: Some(signal),
            }) => {
                let unsent = self
                    .container()
                    .and_then(|container| self.send_if_heeded(container, signal));
                self.stopping = Some(Stopping::Asked { kill_at, unsent });
            }
            Some(Stopping::Killed { at }) if at + KILL_AGAIN <= now => {
                if let Err(error) = self.runtime.kill(&self.id, libc::SIGKILL) {
                    self.log.say(format_args!("{error}"));
                }
                self.stopping = Some(Stopping::KilledAgain { at });
            }
            Some(Stopping::KilledAgain { at }) if at + GIVE_UP <= now => self.give_up(),
            _ => {}
        }
    }

    /// The kernel does not let go of it (a process in an uninterruptible wait). Those who wait for the exit still do.
    fn give_up(&mut self) {
        self.stopping = None;
        let error = format!("it has not ended within {GIVE_UP:?} after SIGKILL");
        self.log.say(format_args!("{error}"));
        let (patient, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| matches!(waiting.what, For::Exit | For::OwnExit));
        self.waiting = patient;
        let others: Vec<Waiting> = others;
        for waiting in others {
            let error = error.clone();
            self.answer(waiting.client, Answer::Failed { error });
        }
    }

    // === The end ===

    /// Looks what has happened since: output to copy, the end, a time that has come.
    pub fn advance(&mut self) {
        self.plumbing.copy();
        self.plumbing.tidy();
        if let Some(container) = self.container() {
            match container.init.ending_behind(self.intent.task.init) {
                Ok(None) => self.advance_stop(Instant::now()),
                Ok(Some(ending)) => self.ended(ending),
                Err(error) => {
                    self.log.say(format_args!("cannot wait for it: {error}"));
                    self.ended(Ending::Unknown);
                }
            }
        }
    }

    fn ended(&mut self, ending: Ending) {
        self.plumbing.finish(&self.log);
        let exit = self.exit(ending);
        self.stopping = None;
        self.is_untidy = true;
        self.state = State::Exited(exit);
        if self.intent.task.ephemeral {
            self.vanish();
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.wait(waiting.client, waiting.what);
        }
    }

    /// Tells how it ended, with the evidence, and writes it down.
    fn exit(&mut self, ending: Ending) -> Exit {
        let (code, signal) = match ending {
            Ending::Code(code) => (code, 0),
            Ending::Signal(signal) => (128 + signal, signal),
            Ending::Unknown => (-1, 0),
        };
        let exit = Exit {
            code,
            signal,
            oom_killed: self.oom_kills() > self.oom_before,
            ended_at: now(),
            error: (ending == Ending::Unknown)
                .then(|| "it ended while its shim was dead: its exit code is lost".to_owned()),
        };
        let written = if self.intent.task.ephemeral {
            self.dir.note_exit(&exit)
        } else {
            self.dir.write_exit(&exit)
        };
        if let Err(error) = written {
            self.is_unrecorded = true;
            self.log
                .say(format_args!("cannot write exit.json: {error}"));
        }
        exit
    }

    fn oom_kills(&self) -> u64 {
        self.enclosure.oom_kills().unwrap_or_else(|error| {
            self.log.say(format_args!("cannot read OOM kills: {error}"));
            0
        })
    }

    /// Removes the container and the records.
    fn vanish(&mut self) {
        self.tidy_up();
        if let Err(error) = self.dir.set_aside().or_else(|_| self.dir.remove()) {
            self.log
                .say(format_args!("cannot remove the records: {error}"));
        }
        self.is_over = true;
    }

    /// Deletes the container, if that was not done; answers with what went wrong. For the time after the answers.
    pub fn tidy_up(&mut self) -> Option<String> {
        if !self.is_untidy || self.container().is_some() {
            return None;
        }
        if let Err(error) = self.delete() {
            self.log.say(format_args!("{error}"));
            return Some(error);
        }
        self.is_untidy = false;
        None
    }

    fn delete(&self) -> Result<(), String> {
        // What is left in the cgroup would keep it from being removed.
        let _ = self.enclosure.kill();
        self.runtime
            .delete(&self.id)
            .map_err(|error| error.to_string())?;
        if let Err(error) = self.enclosure.remove() {
            self.log
                .say(format_args!("cannot remove the cgroup: {error}"));
        }
        Ok(())
    }

    // === For the loop ===

    /// Whether there is nothing more to do, for ever.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Gives up what is kept for the next thing to happen, which may be days away.
    pub fn rest(&self) {
        self.runtime.rest();
    }

    /// What is left to do when it is over and everyone knows: of an ephemeral task's records nothing stays.
    pub fn clear_away(self) {
        if self.intent.task.ephemeral {
            self.dir.root().clear_away();
        }
    }

    /// Whether the next thing to happen may be days away.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Running(_) | State::Exited(_))
    }

    /// What to wait for, apart from clients.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let init = self.container().map(|container| container.init.as_fd());
        init.into_iter().chain(self.plumbing.sources())
    }

    /// When to look again even if nothing happens.
    pub fn next_look(&self) -> Option<Instant> {
        let stop = self.stopping.map(|stopping| match stopping {
            Stopping::Asked {
                kill_at,
                unsent: Some(_),
            } => kill_at.min(Instant::now() + LOOK_FOR_HANDLER),
            Stopping::Asked { kill_at, .. } => kill_at,
            Stopping::Killed { at } => at + KILL_AGAIN,
            Stopping::KilledAgain { at } => at + GIVE_UP,
        });
        let reader = self
            .plumbing
            .has_unread()
            .then(|| Instant::now() + LOOK_FOR_READER);
        stop.into_iter().chain(reader).min()
    }

    /// How long this state may last without any client: a failure that nobody asks about any more; an ephemeral task
    /// whose owner died before it was started.
    pub fn patience(&self) -> Option<Duration> {
        let needs_client = match &self.state {
            State::Failed(_) | State::Intended(_) => true,
            State::Created(_) => self.intent.task.ephemeral,
            State::Running(_) | State::Exited(_) => false,
        };
        needs_client.then_some(UNATTENDED)
    }

    /// That time is over.
    pub fn abandon(&mut self) {
        self.log.say(format_args!("nobody asks any more"));
        match &self.state {
            State::Failed(_) if self.intent.task.ephemeral => self.vanish(),
            State::Failed(_) => self.is_over = true,
            _ => self.kill(),
        }
    }
}

fn watched(pid: i32) -> Result<Init, String> {
    Init::of(pid).map_err(|error| format!("cannot watch process {pid}: {error}"))
}

/// Adds a process to a cgroup of a version 1 hierarchy.
fn join(folder: &Path, pid: i32) -> Result<(), String> {
    let procs: PathBuf = folder.join("cgroup.procs");
    fs::write(&procs, pid.to_string())
        .map_err(|error| format!("cannot join `{}`: {error}", procs.display()))
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
