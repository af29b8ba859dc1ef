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
mod tests {
    use std::{
        cell::Cell,
        io::Read as _,
        rc::Rc,
        sync::mpsc,
        thread::{self, JoinHandle},
    };

    use runyard_common::testing::{TempDir, eventually, patience, tempdir};

    use super::*;
    use crate::{
        runtime::Fake,
        shim::{client::Connection, server::Server},
        task::{OnFull, Stream},
    };

    /// A cgroup that says what it is told, and counts its kills.
    #[derive(Clone, Default)]
    struct Told {
        ooms: Rc<Cell<u64>>,
    }

    impl Enclosure for Told {
        fn oom_kills(&self) -> io::Result<u64> {
            // One more each time: somebody was killed while the program ran.
            self.ooms.set(self.ooms.get() + 1);
            Ok(self.ooms.get())
        }

        fn kill(&self) -> io::Result<()> {
            Ok(())
        }

        fn yield_to(&self, _: &[PathBuf]) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A shim in a thread, on a fake runtime.
    struct Place {
        root: TempDir,
        dir: TaskDir,
        fake: Fake,
        intent: Intent,
    }

    impl Place {
        fn new(script: &str) -> Self {
            let root = tempdir();
            let dir = TaskDir::at(root.path().join("tasks/x"));
            dir.create().unwrap();
            fs::create_dir(dir.bundle()).unwrap();
            let config = serde_json::json!({ "process": { "args": ["/bin/sh", "-c", script] } });
            fs::write(dir.bundle().join("config.json"), config.to_string()).unwrap();
            Self {
                fake: Fake::new(root.path().join("fake")),
                intent: intent(),
                root,
                dir,
            }
        }

        fn shim(&self) -> JoinHandle<()> {
            let (dir, fake, intent) = (self.dir.clone(), self.fake.clone(), self.intent.clone());
            let (listens, listening) = mpsc::channel();
            let shim = thread::spawn(move || {
                let server = Server::bind(&dir).unwrap();
                listens.send(()).unwrap();
                let parts = Parts {
                    log: Log::open(&dir).unwrap(),
                    dir,
                    intent,
                    runtime: Box::new(fake),
                    enclosure: Box::new(Told::default()),
                    boot_id: "this boot".into(),
                    inherited: None,
                };
                crate::shim::serve(Life::begin(parts), server);
            });
            listening.recv().unwrap();
            shim
        }

        fn connect(&self) -> Connection {
            let connection = Connection::open(&self.dir).unwrap();
            connection.set_patience(Some(patience())).unwrap();
            connection
        }

        fn ask(&self, request: &Request) -> Answer {
            self.connect().request(request).unwrap()
        }

        fn exit(&self) -> Exit {
            match self.ask(&Request::Wait) {
                Answer::Exited(exit) => exit,
                other => panic!("{other:?}"),
            }
        }

        fn start(&self) -> Started {
            match self.ask(&Request::Start) {
                Answer::Running(started) => started,
                other => panic!("{other:?}"),
            }
        }

        fn dismiss(&self, shim: JoinHandle<()>) {
            assert_eq!(self.ask(&Request::Dismiss), Answer::Done);
            shim.join().unwrap();
        }

        fn containers(&self) -> usize {
            fs::read_dir(&self.fake.root).map_or(0, Iterator::count)
        }

        /// A FIFO as the program's stdout, and its reader.
        fn stdout(&mut self) -> fs::File {
            let path = self.root.path().join("stdout");
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
            self.intent.task.stdio.stdout = Stream::Fifo(path.clone());
            let mut both = fs::OpenOptions::new();
            both.read(true).write(true).open(path).unwrap()
        }
    }

    fn intent() -> Intent {
        let task = serde_json::json!({
            "id": "alloc/task/1", "name": "task", "origin": "nomad", "alloc_id": "", "user": "",
            "program": { "java": {
                "jar": null, "class": null, "class_path": null, "jvm_options": [], "args": [],
                "select": { "version": null, "vendor": null, "home": null },
                "heap": "jvm", "exit_on_oom": false, "heap_dump": false } },
            "env": {}, "dirs": { "alloc": null, "local": null, "secrets": null }, "work_dir": null,
            "limits": { "memory": null, "memory_reservation": null, "heap_basis": null, "swap": 0,
                "cpu_shares": null, "cpu_quota": null, "cpuset": null, "pids": null, "ulimits": {},
                "shm_size": null, "oom_score_adj": 0 },
            "cgroup": { "path": "", "join": [], "disabled": true },
            "mounts": [], "tmpfs": [], "devices": [], "network": "host", "dns": null,
            "extra_hosts": [],
            "security": { "capabilities": [], "seccomp": "default", "readonly_rootfs": true,
                "no_new_privileges": true, "host_tools": true, "sysctl": {} },
            "init": false, "rootfs": null,
            "stdio": { "stdin": "null", "stdout": "null", "stderr": "null", "on_full": "block" },
            "ephemeral": false
        });
        Intent {
            task: serde_json::from_value(task).unwrap(),
            crun: "/usr/bin/crun".into(),
            boot_id: "this boot".into(),
            created_at: 0,
        }
    }

    #[test]
    fn a_task_is_created_started_and_ends_with_its_code() {
        let place = Place::new("exit 42");
        let shim = place.shim();
        let Answer::Created(created) = place.ask(&Request::State) else {
            panic!("not created");
        };
        assert_eq!(created.started_at, 0);
        let started = place.start();
        assert_eq!(
            (started.pid, started.start_time),
            (created.pid, created.start_time)
        );
        assert!(started.started_at > 0);
        let exit = place.exit();
        assert_eq!(
            (exit.code, exit.signal, exit.error.as_deref()),
            (42, 0, None)
        );
        assert!(exit.oom_killed);
        assert_eq!(place.dir.exit().unwrap(), Some(exit.clone()));
        for request in [
            Request::State,
            Request::Wait,
            Request::Start,
            Request::Attach,
        ] {
            assert_eq!(place.ask(&request), Answer::Exited(exit.clone()));
        }
        eventually(patience(), || (place.containers() == 0).then_some(()));
        place.dismiss(shim);
        assert!(place.dir.intent().unwrap().is_none());
    }

    #[test]
    fn everyone_who_waits_is_told() {
        let mut place = Place::new("read x </dev/fd/1; exit 3");
        let mut stdout = place.stdout();
        let shim = place.shim();
        place.start();
        let mut waiting: Vec<Connection> = (0..5).map(|_| place.connect()).collect();
        for connection in &mut waiting {
            connection.send(&Request::Wait).unwrap();
        }
        io::Write::write_all(&mut stdout, b"go\n").unwrap();
        for connection in &mut waiting {
            let answer = connection.receive().unwrap();
            assert!(
                matches!(answer, Answer::Exited(Exit { code: 3, .. })),
                "{answer:?}"
            );
        }
        place.dismiss(shim);
    }

    #[test]
    fn a_stop_kills_what_ignores_the_signal_and_is_answered_again_afterwards() {
        for timeout_ms in [0, 100] {
            let mut place = Place::new("trap '' TERM; echo deaf; while :; do sleep 1000; done");
            let mut stdout = place.stdout();
            let shim = place.shim();
            place.start();
            stdout.read_exact(&mut [0; 5]).unwrap();
            let stop = Request::Stop {
                signal: libc::SIGTERM,
                timeout_ms,
            };
            let began = Instant::now();
            let stopped = place.ask(&stop);
            assert!(began.elapsed() >= Duration::from_millis(timeout_ms));
            assert!(matches!(
                stopped,
                Answer::Exited(Exit {
                    code: 137,
                    signal: 9,
                    ..
                })
            ));
            assert_eq!(place.ask(&stop), stopped);
            place.dismiss(shim);
        }
    }

    #[test]
    fn a_program_that_obeys_the_signal_keeps_its_own_code() {
        let mut place =
            Place::new("trap 'exit 143' TERM; echo ready; while :; do sleep 0.01; done");
        let mut stdout = place.stdout();
        let shim = place.shim();
        place.start();
        stdout.read_exact(&mut [0; 6]).unwrap();
        let stop = Request::Stop {
            signal: libc::SIGTERM,
            timeout_ms: 60_000,
        };
        let stopped = place.ask(&stop);
        assert!(matches!(
            stopped,
            Answer::Exited(Exit {
                code: 143,
                signal: 0,
                ..
            })
        ));
        place.dismiss(shim);
    }

    #[test]
    fn a_second_stop_can_only_bring_the_kill_forward() {
        let mut place = Place::new("trap '' TERM; echo deaf; while :; do sleep 1000; done");
        let mut stdout = place.stdout();
        let shim = place.shim();
        place.start();
        stdout.read_exact(&mut [0; 5]).unwrap();
        let mut slow = place.connect();
        slow.send(&Request::Stop {
            signal: 15,
            timeout_ms: 600_000,
        })
        .unwrap();
        let answer = place.ask(&Request::Stop {
            signal: 15,
            timeout_ms: 10,
        });
        assert_eq!(slow.receive().unwrap(), answer);
        place.dismiss(shim);
    }

    #[test]
    fn a_created_task_is_stopped_at_once() {
        let place = Place::new("exit 0");
        let shim = place.shim();
        let stop = Request::Stop {
            signal: 15,
            timeout_ms: 600_000,
        };
        assert!(matches!(
            place.ask(&stop),
            Answer::Exited(Exit { signal: 9, .. })
        ));
        place.dismiss(shim);
    }

    #[test]
    fn the_death_of_the_attached_kills_and_that_of_others_does_not() {
        let place = Place::new("exec sleep 1000");
        let shim = place.shim();
        let mut attached = place.connect();
        attached.send(&Request::Attach).unwrap();
        let started = place.start();
        let mut other = place.connect();
        other.send(&Request::Wait).unwrap();
        drop(other);
        assert_eq!(place.ask(&Request::State), Answer::Running(started));
        drop(attached);
        assert_eq!(place.exit().signal, 9);
        place.dismiss(shim);
    }

    /// A task that is made and started in one step.
    fn ephemeral(script: &str) -> Place {
        let mut place = Place::new(script);
        place.intent.task.ephemeral = true;
        place.intent.task.cgroup.disabled = false;
        place
    }

    #[test]
    fn an_ephemeral_task_is_gone_when_its_end_is_told() {
        for is_one_step in [true, false] {
            let mut place = ephemeral("exit 5");
            place.intent.task.cgroup.disabled = !is_one_step;
            let shim = place.shim();
            let mut attached = place.connect();
            attached.send(&Request::Attach).unwrap();
            place.start();
            let answer = attached.receive().unwrap();
            assert!(
                matches!(answer, Answer::Exited(Exit { code: 5, .. })),
                "{answer:?}"
            );
            assert!(!place.dir.path().exists());
            assert_eq!(place.containers(), 0);
            shim.join().unwrap();
        }
    }

    #[test]
    fn an_ephemeral_task_is_on_record_as_soon_as_it_runs() {
        let place = ephemeral("exec sleep 1000");
        let shim = place.shim();
        let mut attached = place.connect();
        attached.send(&Request::Attach).unwrap();
        assert_eq!(place.containers(), 0);
        let started = place.start();
        assert_eq!(place.dir.started().unwrap(), Some(started.clone()));
        assert_eq!(place.start(), started);
        drop(attached);
        shim.join().unwrap();
        assert_eq!(place.containers(), 0);
    }

    #[test]
    fn an_ephemeral_task_that_nobody_starts_is_never_made() {
        for is_dismissed in [true, false] {
            let place = ephemeral("exit 0");
            let shim = place.shim();
            let error = NOT_BEGUN.to_owned();
            assert_eq!(place.ask(&Request::State), Answer::Failed { error });
            let mut attached = place.connect();
            attached.send(&Request::Attach).unwrap();
            if is_dismissed {
                assert_eq!(place.ask(&Request::Dismiss), Answer::Done);
            }
            drop(attached);
            shim.join().unwrap();
            assert!(!place.dir.path().exists());
            assert_eq!(place.containers(), 0);
        }
    }

    #[test]
    fn an_ephemeral_task_that_cannot_be_made_says_why() {
        let mut place = ephemeral("exit 0");
        place.fake.start_fault = Some("not today".into());
        let shim = place.shim();
        let mut attached = place.connect();
        attached.send(&Request::Attach).unwrap();
        let error = "fake start: not today".to_owned();
        assert_eq!(place.ask(&Request::Start), Answer::Failed { error });
        assert_eq!(place.containers(), 0);
        drop(attached);
        place.dismiss(shim);
    }

    #[test]
    fn a_failed_creation_leaves_nothing_and_is_told_in_the_runtimes_words() {
        let mut place = Place::new("exit 0");
        place.fake.create_fault = Some("no such luck".into());
        let shim = place.shim();
        let log = place.dir.log();
        for request in [Request::Start, Request::State, Request::Wait] {
            let Answer::Failed { error } = place.ask(&request) else {
                panic!("not failed");
            };
            assert_eq!(
                error,
                format!("fake create: no such luck\nlog: {}", log.display())
            );
        }
        assert_eq!(place.containers(), 0);
        assert_eq!(place.dir.started().unwrap(), None);
        place.dismiss(shim);
    }

    #[test]
    fn a_missing_fifo_is_named() {
        let mut place = Place::new("exit 0");
        place.intent.task.stdio.stderr = Stream::Fifo("/nowhere/fifo".into());
        let shim = place.shim();
        let Answer::Failed { error } = place.ask(&Request::Start) else {
            panic!("not failed");
        };
        assert!(
            error.starts_with("stderr `/nowhere/fifo`: No such file"),
            "{error}"
        );
        place.dismiss(shim);
    }

    #[test]
    fn a_failed_start_leaves_the_task_created() {
        let mut place = Place::new("exit 0");
        place.fake.start_fault = Some("not today".into());
        let shim = place.shim();
        let error = "fake start: not today".to_owned();
        assert_eq!(place.ask(&Request::Start), Answer::Failed { error });
        assert!(matches!(place.ask(&Request::State), Answer::Created(_)));
        place.dismiss(shim);
        assert_eq!(place.containers(), 0);
    }

    #[test]
    fn a_dismissal_that_fails_can_be_repeated() {
        let mut place = Place::new("exit 0");
        place.fake.delete_fault = Some("busy".into());
        let _shim = place.shim();
        place.start();
        let error = "fake delete: busy".to_owned();
        for _ in 0..2 {
            let error = error.clone();
            assert_eq!(place.ask(&Request::Dismiss), Answer::Failed { error });
        }
    }

    #[test]
    fn signals_reach_the_program_and_none_after_its_end() {
        let mut place = Place::new("trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done");
        let mut stdout = place.stdout();
        let shim = place.shim();
        place.start();
        stdout.read_exact(&mut [0; 6]).unwrap();
        let signal = Request::Signal {
            signal: libc::SIGUSR1,
        };
        assert_eq!(place.ask(&signal), Answer::Done);
        assert_eq!(place.exit().code, 7);
        let error = "signal 10: the task has ended".to_owned();
        assert_eq!(place.ask(&signal), Answer::Failed { error });
        place.dismiss(shim);
    }

    #[test]
    fn much_output_waits_for_its_reader_and_ends_with_the_program() {
        let mut place = Place::new("head -c 300000 /dev/zero; echo end");
        let both = place.stdout();
        drop(both);
        let shim = place.shim();
        place.start();
        let mut all = Vec::new();
        let mut reader = fs::File::open(place.root.path().join("stdout")).unwrap();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 300_004);
        assert_eq!(place.exit().code, 0);
        place.dismiss(shim);
    }

    #[test]
    fn a_program_that_may_lose_output_does_not_wait_for_a_reader() {
        let mut place = Place::new("head -c 300000 /dev/zero");
        let _both = place.stdout();
        place.intent.task.stdio.on_full = OnFull::Drop;
        let shim = place.shim();
        place.start();
        assert_eq!(place.exit().code, 0);
        place.dismiss(shim);
    }

    /// What a shim leaves that was killed after the creation: records and a container of which nobody knows the parent.
    fn orphan(place: &Place) -> Init {
        let task = &place.intent.task;
        let (_, stdio) = Plumbing::open(&place.dir, &task.stdio, &task.dirs, None).unwrap();
        let create = Create {
            id: &place.intent.task.id.container(),
            bundle: &place.dir.bundle(),
            pid_file: &place.dir.path().join("pid"),
            log: &place.dir.log(),
            sources: Vec::new(),
            stdio,
        };
        let init = Init::of(place.fake.create(create).unwrap()).unwrap();
        place.dir.write_started(&init.started(0)).unwrap();
        init
    }

    #[test]
    fn a_container_that_was_only_created_is_adopted_and_started() {
        let place = Place::new("exit 6");
        let orphan = orphan(&place);
        let shim = place.shim();
        assert_eq!(
            place.ask(&Request::State),
            Answer::Created(orphan.started(0))
        );
        place.start();
        assert_eq!(place.exit().code, 6);
        place.dismiss(shim);
    }

    #[test]
    fn a_container_that_runs_is_adopted_even_if_its_start_is_not_on_record() {
        let place = Place::new("exec sleep 1000");
        orphan(&place);
        place.fake.start(&place.intent.task.id.container()).unwrap();
        let shim = place.shim();
        assert!(matches!(place.ask(&Request::State), Answer::Running(_)));
        assert!(place.dir.started().unwrap().unwrap().started_at > 0);
        place.dismiss(shim);
    }

    #[test]
    fn what_ended_under_a_dead_shim_has_no_code_but_an_error() {
        let place = Place::new("exit 0");
        let mut started = orphan(&place).started(1);
        started.start_time += 1;
        place.dir.write_started(&started).unwrap();
        let shim = place.shim();
        let exit = place.exit();
        assert_eq!(exit.code, -1);
        assert!(exit.error.is_some());
        assert_eq!(place.dir.exit().unwrap(), Some(exit));
        place.dismiss(shim);
        assert_eq!(place.containers(), 0);
    }

    #[test]
    fn a_record_of_another_boot_has_no_process() {
        let mut place = Place::new("exec sleep 1000");
        let orphan = orphan(&place);
        place.intent.boot_id = "another boot".into();
        let shim = place.shim();
        assert!(place.exit().error.is_some());
        place.dismiss(shim);
        eventually(patience(), || orphan.ending().unwrap());
    }

    #[test]
    fn a_record_of_the_end_is_served() {
        let place = Place::new("exit 0");
        let exit = Exit {
            code: 9,
            ..Exit::default()
        };
        place.dir.write_exit(&exit).unwrap();
        let shim = place.shim();
        assert_eq!(place.exit(), exit);
        place.dismiss(shim);
    }

    #[test]
    fn nonsense_is_answered_and_the_shim_lives() {
        let place = Place::new("exit 0");
        let shim = place.shim();
        let mut raw = std::os::unix::net::UnixStream::connect(place.dir.socket()).unwrap();
        io::Write::write_all(&mut raw, b"{\"do\":\"dance\"}\n").unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(raw), &mut line).unwrap();
        assert!(line.contains("this is no request"), "{line}");
        assert!(matches!(place.ask(&Request::State), Answer::Created(_)));
        place.dismiss(shim);
    }
}
