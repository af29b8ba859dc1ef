//! The one process that owns a container: `milo-driver shim <task dir>`, or without a folder one that
//! [stands by](standby) for it. It creates the container, starts it when told,
//! waits for its end, writes down how that was, and tells everyone who asks; agent, plugin and command line may die and
//! come back meanwhile. What is to be run, and every decision about a task that is not its container's life, is made by
//! those who start it.
//!
//! ```text
//!  detach ──▶ listen ──▶ Life::begin ──▶ ┌▶ wait ─▶ hear ─▶ ask ─▶ advance ─▶ answer ─▶ tidy up ─┐ ──▶ over
//!  (a fork of its own session)           └──────────────────────────────────────────────────────┘
//! ```
//!
//! One thread, no runtime, no subscriber: it is idle for nearly all of its life, once per task, and is to cost nothing.
//! The process that was started ends as soon as the socket listens, with 0; or with 1 when it never will.
//!
//! A second shim on the same folder finds it locked and ends, with 0: there is one already.

pub mod client;
pub mod detach;
pub mod enclosure;
pub mod init;
pub mod life;
pub mod log;
pub mod protocol;
pub mod server;
pub mod standby;
pub mod stdio;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use runyard_common::memory;
use rustix::{
    event::{PollFd, PollFlags},
    fs::{FlockOperation, flock},
    process::getpid,
};
use serde::{Deserialize, Serialize};

use self::{
    detach::Side,
    init::Init,
    life::{Life, Parts},
    log::Log,
    protocol::Answer,
    server::{Heard, Server},
};
use crate::{
    runtime::{Apart, Crun, Runtime, wait},
    state::{Intent, Started, TaskDir},
    task::{Stdio, Stream},
};

/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long nothing has happened when a shim gives back what it does not need to wait. Not at once: a program's first moments
/// are not the time for it, and of a short program the end is near.
const QUIET: Duration = Duration::from_millis(250);

/// Runs the shim of the task whose folder is `dir`. To be called before anything starts a thread.
pub fn main(dir: &Path) -> ExitCode {
    take_name();
    // From here on the process lives in `/`.
    let dir = TaskDir::at(std::path::absolute(dir).unwrap_or_else(|_| PathBuf::from(dir)));
    let prepared = intent(&dir).and_then(|intent| {
        // Before anything is opened that is to stay open.
        let inherited = detach::only_inherited(is_inherited(&intent.task.stdio))?;
        prepared(&dir, intent, inherited)
    });
    match prepared {
        Ok(Some(ready)) => leave(&dir, ready),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => failed(&dir, &error, io::stderr()),
    }
}

/// The process may have been run as `/proc/self/exe`, whose last part would be its name.
fn take_name() {
    // SAFETY: the name ends with a zero and is copied.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"milo-driver".as_ptr()) };
}

/// Says why there will be no shim: to whoever has asked for one, and for whoever looks later.
fn failed(dir: &TaskDir, error: &io::Error, mut asker: impl Write) -> ExitCode {
    let _ = write!(asker, "cannot begin: {error}");
    if let Ok(log) = Log::open(dir) {
        log.say(format_args!("cannot begin: {error}"));
    }
    ExitCode::FAILURE
}

/// What is needed before the process is on its own.
struct Ready {
    intent: Intent,
    log: Log,
    /// Held, never read: that there is one shim only.
    lock: File,
    /// The descriptors of inherited streams.
    inherited: Option<[OwnedFd; 3]>,
}

fn intent(dir: &TaskDir) -> io::Result<Intent> {
    dir.intent()?.ok_or_else(|| {
        let path = dir.path().join("task.json");
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("`{}` is missing: no task is kept here", path.display()),
        )
    })
}

/// `None` when there is a shim on the task already.
fn prepared(
    dir: &TaskDir,
    intent: Intent,
    inherited: Option<[OwnedFd; 3]>,
) -> io::Result<Option<Ready>> {
    let Some(lock) = lock(dir)? else {
        return Ok(None);
    };
    Ok(Some(Ready {
        intent,
        log: Log::open(dir)?,
        lock,
        inherited,
    }))
}

fn lock(dir: &TaskDir) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.lock())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who holds the lock of a task.
#[derive(Serialize, Deserialize)]
struct Holder {
    boot_id: String,
    pid: i32,
    start_time: u64,
}

/// Writes into the lock who holds it. To be called by the one who lives on.
fn sign(lock: &File) -> io::Result<()> {
    let us = getpid().as_raw_nonzero().get();
    let Started {
        pid, start_time, ..
    } = Init::of(us)?.started(0);
    let holder = serde_json::to_vec(&Holder {
        boot_id: boot_id(),
        pid,
        start_time,
    })?;
    lock.set_len(0)?;
    lock.write_all_at(&holder, 0)
}

/// A task's shim, if it lives, whether it listens or not: by the pid and start time that it has written down.
pub fn process(dir: &TaskDir) -> io::Result<Option<Init>> {
    let text = match fs::read(dir.lock()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    // It is empty until a shim is on its own.
    let Ok(holder) = serde_json::from_slice::<Holder>(&text) else {
        return Ok(None);
    };
    if holder.boot_id != boot_id() {
        return Ok(None);
    }
    Init::find(&Started {
        pid: holder.pid,
        start_time: holder.start_time,
        started_at: 0,
    })
}

/// Detaches, listens, and lives. Two processes come back from here: the one that was started, and the shim.
fn leave(dir: &TaskDir, ready: Ready) -> ExitCode {
    match detach::detach(Some(&ready.log), || listen(dir, &ready)) {
        Ok(Side::Starter(code)) => code,
        Ok(Side::Shim(server)) => {
            live(dir, ready, server);
            ExitCode::SUCCESS
        }
        Err(error) => {
            ready.log.say(format_args!("cannot detach: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn listen(dir: &TaskDir, ready: &Ready) -> io::Result<Server> {
    sign(&ready.lock)?;
    Server::bind(dir)
}

fn live(dir: &TaskDir, ready: Ready, server: Server) {
    let (parts, lock) = parts(dir, ready);
    serve(Life::begin(parts), server);
    drop(lock);
}

fn parts(dir: &TaskDir, ready: Ready) -> (Parts, File) {
    let intent = ready.intent;
    let place = &intent.task.cgroup;
    // Looked at where the host is seen as it is.
    let enclosure = enclosure::of(place);
    let crun = Crun {
        cgroups: !place.disabled,
        bound: true,
        ..Crun::new(&intent.crun, dir.root().crun_root())
    };
    let parts = Parts {
        dir: dir.clone(),
        runtime: runtime(crun, &ready.log),
        enclosure,
        log: ready.log,
        boot_id: boot_id(),
        inherited: ready.inherited,
        intent,
    };
    (parts, ready.lock)
}

/// crun in a namespace for all calls, where each would need one.
fn runtime(crun: Crun, log: &Log) -> Box<dyn Runtime> {
    if !crun.private_cgroups {
        return Box::new(crun);
    }
    match Apart::enter(crun.clone()) {
        Ok(apart) => Box::new(apart),
        Err(error) => {
            log.say(format_args!(
                "no mount namespace for this process ({error}): each call of crun tries to have one"
            ));
            Box::new(crun)
        }
    }
}

/// This boot; empty where the kernel does not say.
pub fn boot_id() -> String {
    let id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    id.trim().to_owned()
}

fn is_inherited(stdio: &Stdio) -> bool {
    [&stdio.stdin, &stdio.stdout, &stdio.stderr].contains(&&Stream::Inherited)
}

/// Leads a life to its end.
pub fn serve(mut life: Life, mut server: Server) {
    let mut alone_since = Some(Instant::now());
    let mut rest_at = Some(Instant::now() + QUIET);
    while !life.is_over() {
        let abandoned = alone_since
            .zip(life.patience())
            .map(|(since, patience)| since + patience);
        if abandoned.is_some_and(|at| at <= Instant::now()) {
            life.abandon();
            alone_since = Some(Instant::now());
        }
        let is_due = |at: &Instant| life.is_settled() && *at <= Instant::now();
        if rest_at.take_if(|at| is_due(at)).is_some() {
            life.rest();
            // What could not be given back is kept.
            let _ = memory::release_startup_pages();
        }
        let rest = rest_at.filter(|_| life.is_settled());
        let look = life.next_look().into_iter().chain(abandoned).chain(rest);
        // Waiting fails for lack of memory only, and then not for long.
        let _ = pause(&life, &server, look.min());
        if turn(&mut life, &mut server) {
            rest_at = Some(Instant::now() + QUIET);
        }
        alone_since = match (server.has_clients(), alone_since) {
            (true, _) => None,
            (false, since) => since.or_else(|| Some(Instant::now())),
        };
    }
    // Those who wait for the end of all see it by this.
    drop(server);
    life.clear_away();
}

fn pause(life: &Life, server: &Server, until: Option<Instant>) -> io::Result<()> {
    let sources = life.sources();
    let mut fds: Vec<PollFd<'_>> = server
        .interests()
        .chain(sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)))
        .collect();
    wait(
        &mut fds,
        until.map(|until| until.saturating_duration_since(Instant::now())),
    )
}

/// Everything that is due: what was asked, what has happened, who is to be told, and only then what nobody waits for.
/// Says whether it was more than copying.
fn turn(life: &mut Life, server: &mut Server) -> bool {
    life.advance();
    let all_heard = server.hear();
    let mut has_worked = !all_heard.is_empty();
    for heard in all_heard {
        match heard {
            Heard::Request(client, request) => life.ask(client, &request),
            Heard::Nonsense(client, error) => server.answer(client, &Answer::Failed { error }),
            Heard::Gone(client) => life.lost(client),
        }
    }
    for (client, answer) in life.answers() {
        server.answer(client, &answer);
        has_worked = true;
    }
    life.tidy_up();
    has_worked
}
