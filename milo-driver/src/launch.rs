//! What the plugin and the command line share: from a [`Task`] to a running container under its shim, back to it after a
//! death, and to nothing left of it. Blocking: async callers use a thread for it. What is in a bundle is the caller's
//! knowledge, and what goes on while a container lives is its [`shim`]'s.
//!
//! # Guarantees
//!
//! - Each step is on record before it is taken, so every verb can be called again with the same task, by anyone, after any
//!   of the processes was killed at any point: [`Launcher::launch`] goes on from where it was, or undoes what is of no use
//!   and begins anew; it never makes a second container of one task.
//! - Callers of the same task wait for each other, in all processes (a lock on `<root>/locks/<key>`).
//! - A launch that fails leaves no process, no container, no cgroup and no record.

pub mod spare;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{FlockOperation, flock},
};

pub use spare::Spare;

use crate::{
    runtime::{Crun, Runtime, RuntimeError, alone, crun::close_rest, run, wait, words},
    shim::{
        self, boot_id,
        client::{Connection, ShimError},
        detach::INHERITED,
        enclosure,
        init::Init,
        protocol::{Answer, Request},
    },
    state::{Header, Intent, LayoutError, Started, StateRoot, TaskDir},
    task::{CgroupPlace, Exit, Task},
};

/// How long a shim's answer may take. It may be busy with two calls of crun, of 30 s each at most.
const PATIENCE: Duration = Duration::from_secs(75);
/// How long a shim may take until it listens.
const SHIM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a shim that was killed may take to let go of everything.
const DYING: Duration = Duration::from_millis(2);
/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What is needed to launch tasks.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Where all records are.
    pub state: StateRoot,
    /// The crun to use for new tasks. One that exists keeps its own.
    pub crun: PathBuf,
    /// The program whose verb `shim` is a shim: [`OURSELVES`].
    pub shim: PathBuf,
    /// The shim that stands by for the next task, if one does.
    pub spare: Spare,
}

/// This very program, also when another file has taken its place since it was started, or none has: the shim that it
/// starts speaks the same language and reads the same records.
pub const OURSELVES: &str = "/proc/self/exe";

/// How a launched or recovered task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Its program runs.
    Running(Started),
    /// It has ended.
    Exited(Exit),
}

/// A task that could not be launched, recovered or dismissed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no record of such a task.
    #[error("no task is kept in `{}`", .0.display())]
    Unknown(PathBuf),
    /// There is a record of a task whose program never began.
    #[error("the task in `{}` was never started", .0.display())]
    NeverStarted(PathBuf),
    /// The records are of another version of this program, which alone can do this.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The container could not be created or started: crun's words.
    #[error("{0}")]
    Container(String),
    /// No shim could be started.
    #[error("the shim `{}` did not start: {problem}", shim.display())]
    Shim {
        /// The program.
        shim: PathBuf,
        /// Its words.
        problem: String,
    },
    /// The shim does not answer.
    #[error(transparent)]
    Silent(#[from] ShimError),
    /// What a dead shim has left could not be removed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Records could not be read or written.
    #[error("{action} `{}`", path.display())]
    Record {
        /// What was to be done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Launcher {
    /// Launches a task, or finds that it was. `bundle` fills the folder that it is given; it is called only for a task
    /// that has to be made.
    ///
    /// A task that has ended is not launched again: it is [`Recovered::Exited`].
    pub fn launch(
        &self,
        task: &Task,
        bundle: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Recovered, LaunchError> {
        let dir = self.state.task(&task.id);
        let _lock = lock(&dir)?;
        if let Some(found) = self.found(&dir)? {
            return Ok(found);
        }
        self.end(&dir)?;
        clear(&dir)?;
        self.write(&dir, task, bundle)?;
        let begun = self.spawn_shim(&dir, None).and_then(|()| self.begin(&dir));
        self.or_undone(&dir, begun)
    }

    /// Launches a task whose streams are the caller's and whose life ends with the caller: when the connection is closed
    /// before it answers with [`Answer::Exited`], the container is killed. There must be no such task yet.
    pub fn launch_attached(
        &self,
        task: &Task,
        streams: [OwnedFd; 3],
        bundle: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(Recovered, Connection), LaunchError> {
        let dir = self.prepare(task, bundle)?;
        let begun = self.spawn_shim(&dir, Some(streams)).and_then(|()| {
            let mut connection = Connection::open(&dir)?;
            connection.send(&Request::Attach)?;
            Ok((self.begin(&dir)?, connection))
        });
        self.or_undone(&dir, begun)
    }

    /// Writes down what is to be run, with nothing started yet. There must be no such task.
    pub fn prepare(
        &self,
        task: &Task,
        bundle: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<TaskDir, LaunchError> {
        let dir = self.state.task(&task.id);
        let _lock = lock(&dir)?;
        if header(&dir)?.is_some() {
            return Err(LaunchError::Record {
                action: "cannot make",
                path: dir.path().to_owned(),
                source: io::ErrorKind::AlreadyExists.into(),
            });
        }
        clear(&dir)?;
        self.write(&dir, task, bundle)?;
        Ok(dir)
    }

    /// Starts a shim on a prepared task, or on one whose shim has died, and returns when it listens. The streams are for
    /// [`Stream::Inherited`](crate::task::Stream::Inherited).
    pub fn spawn_shim(
        &self,
        dir: &TaskDir,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<(), LaunchError> {
        let failed = |problem: String| LaunchError::Shim {
            shim: self.shim.clone(),
            problem,
        };
        let path = std::path::absolute(dir.path()).map_err(|error| failed(error.to_string()))?;
        if self.spare.lead(&path, streams.is_some(), SHIM_PATIENCE) {
            return Ok(());
        }
        let mut command = alone(&self.shim);
        command.arg0("milo-driver").arg("shim").arg(path);
        let held = give(&mut command, streams).map_err(|error| failed(error.to_string()))?;
        let finished =
            run(&mut command, SHIM_PATIENCE).map_err(|error| failed(error.to_string()))?;
        drop(held);
        if finished.status.success() {
            return Ok(());
        }
        let log = fs::read(dir.log()).unwrap_or_default();
        let said = [
            words(&finished.stderr),
            words(&log),
            finished.status.to_string(),
        ];
        Err(failed(
            said.into_iter()
                .find(|words| !words.is_empty())
                .unwrap_or_default(),
        ))
    }

    /// Has a shim start its container, if it was not started.
    pub fn begin(&self, dir: &TaskDir) -> Result<Recovered, LaunchError> {
        match request(dir, &Request::Start)? {
            Answer::Running(started) => Ok(Recovered::Running(started)),
            Answer::Exited(exit) => Ok(Recovered::Exited(exit)),
            Answer::Failed { error } => Err(LaunchError::Container(error)),
            Answer::Created(_) | Answer::Done => Err(LaunchError::NeverStarted(dir.path().into())),
        }
    }

    /// Finds a task again. One whose shim has died gets another, which takes the container over; one that ended under a
    /// dead shim is [`Recovered::Exited`] with an error instead of a code.
    pub fn recover(&self, dir: &TaskDir) -> Result<Recovered, LaunchError> {
        let _lock = lock(dir)?;
        let unknown = || LaunchError::Unknown(dir.path().into());
        let header = header(dir)?.ok_or_else(unknown)?;
        if let Some(exit) = read(dir, TaskDir::exit)? {
            return Ok(Recovered::Exited(exit));
        }
        match self.revived(dir, &header)? {
            Answer::Running(started) => Ok(Recovered::Running(started)),
            Answer::Exited(exit) => Ok(Recovered::Exited(exit)),
            Answer::Failed { error } => Err(LaunchError::Container(error)),
            Answer::Created(_) | Answer::Done => Err(LaunchError::NeverStarted(dir.path().into())),
        }
    }

    /// The state that a task's shim tells, which is a new one if there is none.
    fn revived(&self, dir: &TaskDir, header: &Header) -> Result<Answer, LaunchError> {
        let deadline = Instant::now() + SHIM_PATIENCE;
        loop {
            let error = match request(dir, &Request::State) {
                Err(error @ (ShimError::Dead { .. } | ShimError::Lost { .. })) => error,
                answer => return Ok(answer?),
            };
            if error.is_dead() {
                read(dir, TaskDir::started)?
                    .ok_or_else(|| LaunchError::NeverStarted(dir.path().into()))?;
                header.layout(dir)?;
                self.spawn_shim(dir, None)?;
            }
            if Instant::now() > deadline {
                return Err(error.into());
            }
            // One that is dying holds its door, or the lock at which the next one steps back, a moment longer.
            thread::sleep(DYING);
        }
    }

    /// Ends a task and removes everything of it: processes, container, cgroup, records. One that does not exist is no
    /// error, and neither is a dead shim.
    pub fn dismiss(&self, dir: &TaskDir) -> Result<(), LaunchError> {
        let lock = lock(dir)?;
        self.end(dir)?;
        clear(dir)?;
        lock.remove();
        Ok(())
    }

    /// What an earlier launch of the same task has reached, if that is worth keeping; nothing is begun where there is none.
    pub fn find(&self, dir: &TaskDir) -> Result<Option<Recovered>, LaunchError> {
        let _lock = lock(dir)?;
        self.found(dir)
    }

    fn found(&self, dir: &TaskDir) -> Result<Option<Recovered>, LaunchError> {
        if header(dir)?.is_none() {
            return Ok(None);
        }
        if let Some(exit) = read(dir, TaskDir::exit)? {
            return Ok(Some(Recovered::Exited(exit)));
        }
        Ok(match request(dir, &Request::State) {
            Ok(Answer::Created(_)) => self.begin(dir).ok(),
            Ok(Answer::Running(started)) => Some(Recovered::Running(started)),
            Ok(Answer::Exited(exit)) => Some(Recovered::Exited(exit)),
            Ok(Answer::Failed { .. } | Answer::Done) | Err(_) => None,
        })
    }

    fn write(
        &self,
        dir: &TaskDir,
        task: &Task,
        bundle: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), LaunchError> {
        let written = dir.create().and_then(|()| {
            dir.write_intent(&Intent {
                task: task.clone(),
                crun: self.crun.clone(),
                boot_id: boot_id(),
                created_at: now(),
            })?;
            fs::create_dir_all(dir.bundle())?;
            bundle(&dir.bundle())
        });
        written.map_err(|source| {
            // Nothing was started: no record is better than half of one.
            let _ = dir.remove();
            record("cannot write the task into", dir)(source)
        })
    }

    /// The outcome of a launch, of which nothing is left if it is a failure.
    fn or_undone<T>(&self, dir: &TaskDir, begun: Result<T, LaunchError>) -> Result<T, LaunchError> {
        if begun.is_err() {
            // What cannot be undone now is left to a later dismissal; the first error says more. What was undone leaves no
            // record either: its cgroup may be the next attempt's, and an old record is a licence to kill.
            let _ = self.end(dir).and_then(|()| clear(dir));
        }
        begun
    }

    /// Ends shim and container, if there are any. The records stay.
    fn end(&self, dir: &TaskDir) -> Result<(), LaunchError> {
        header(dir)?;
        match dismissed(dir) {
            Err(LaunchError::Silent(_)) => {
                kill_shim(dir);
                self.end_without_shim(dir)
            }
            other => other,
        }
    }

    /// Does the work of a dead shim.
    fn end_without_shim(&self, dir: &TaskDir) -> Result<(), LaunchError> {
        let Some(header) = header(dir)? else {
            return Ok(());
        };
        if let Some(started) = read(dir, TaskDir::started)?
            && header.boot_id == boot_id()
        {
            kill(&started).map_err(record("cannot kill the task of", dir))?;
        }
        let enclosure = enclosure::of(&header.cgroup);
        if header.boot_id == boot_id() && !self.is_anothers(dir, &header.cgroup) {
            enclosure
                .kill()
                .map_err(record("cannot kill the cgroup of", dir))?;
        }
        let crun = Crun {
            cgroups: !header.cgroup.disabled,
            ..Crun::new(header.crun, self.state.crun_root())
        };
        crun.delete(&header.container)?;
        // Its processes may need a moment to leave it; what stays is empty, and removed with the next attempt.
        let _ = enclosure.remove();
        Ok(())
    }

    /// Whether another task that has not ended has the same cgroup: Nomad gives every attempt of a task the same one.
    fn is_anothers(&self, dir: &TaskDir, place: &CgroupPlace) -> bool {
        let others = self.state.tasks().unwrap_or_default();
        others.iter().filter(|other| *other != dir).any(|other| {
            let same =
                matches!(other.header(), Ok(Some(header)) if header.cgroup.path == place.path);
            same && !matches!(other.exit(), Ok(Some(_)))
        })
    }
}

fn clear(dir: &TaskDir) -> Result<(), LaunchError> {
    dir.remove().map_err(record("cannot remove", dir))
}

/// Has a living shim end everything, and waits for its own end.
fn dismissed(dir: &TaskDir) -> Result<(), LaunchError> {
    let mut connection = open(dir)?;
    if let Answer::Failed { error } = connection.request(&Request::Dismiss)? {
        return Err(LaunchError::Container(error));
    }
    // It closes the connection by ending.
    let _ = connection.receive();
    Ok(())
}

fn open(dir: &TaskDir) -> Result<Connection, ShimError> {
    let connection = Connection::open(dir)?;
    // A socket that takes no time limit has lost its peer; the request will say so.
    let _ = connection.set_patience(Some(PATIENCE));
    Ok(connection)
}

fn request(dir: &TaskDir, request: &Request) -> Result<Answer, ShimError> {
    open(dir)?.request(request)
}

/// Kills a shim that lives but does not answer.
fn kill_shim(dir: &TaskDir) {
    if let Ok(Some(shim)) = shim::process(dir)
        && shim.signal(libc::SIGKILL).is_ok()
    {
        let _ = ended(&shim);
    }
}

/// Kills a container's first process, if it still exists, and waits for its end.
fn kill(started: &Started) -> io::Result<()> {
    let Some(init) = Init::find(started)? else {
        return Ok(());
    };
    init.signal(libc::SIGKILL)?;
    ended(&init)
}

fn ended(init: &Init) -> io::Result<()> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(init, PollFlags::IN)];
        wait(&mut fds, Some(left))?;
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Has a command start with the streams as descriptors 3, 4 and 5, and with no other but stdio. What it answers with is
/// to be kept until the command runs.
fn give(command: &mut Command, streams: Option<[OwnedFd; 3]>) -> io::Result<Vec<OwnedFd>> {
    let first_other = INHERITED + 3;
    let mut held = Vec::new();
    let Some(streams) = streams else {
        // A shim closes what it was not meant to get by itself, and without anything to do between fork and exec nothing of
        // a large caller is copied.
        return Ok(held);
    };
    // `Command` opens a pipe of its own, which must not have one of the three numbers.
    loop {
        let null = OwnedFd::from(File::open("/dev/null")?);
        if null.as_raw_fd() >= first_other {
            break;
        }
        held.push(null);
    }
    for stream in streams {
        held.push(rustix::io::fcntl_dupfd_cloexec(&stream, first_other)?);
    }
    let numbers: Vec<i32> = held
        .iter()
        .map(AsRawFd::as_raw_fd)
        .filter(|number| *number >= first_other)
        .collect();
    let place = move || {
        close_rest();
        for (number, target) in numbers.iter().zip(INHERITED..) {
            // SAFETY: the call has no memory arguments.
            if unsafe { libc::dup2(*number, target) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, on numbers that were collected before the fork.
    unsafe { command.pre_exec(place) };
    Ok(held)
}

/// That nobody else launches, recovers or dismisses the same task; until dropped.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Removes the file too: whoever waits for it will notice and make a new one.
    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(dir: &TaskDir) -> Result<Lock, LaunchError> {
    let key = dir.path().file_name().unwrap_or_default();
    let folder = dir.root().path().join("locks");
    let path = folder.join(key);
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    let locked = made.and_then(|()| {
        loop {
            if let Some(file) = locked(&path)? {
                return Ok(file);
            }
        }
    });
    match locked {
        Ok(file) => Ok(Lock { path, _file: file }),
        Err(source) => Err(LaunchError::Record {
            action: "cannot lock",
            path,
            source,
        }),
    }
}

/// The locked file, unless it was removed before it was ours.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    let ours = file.metadata()?.ino();
    let is_there = fs::metadata(path).is_ok_and(|there| there.ino() == ours);
    Ok(is_there.then_some(file))
}

/// What every layout says of a task that this program may do something to.
fn header(dir: &TaskDir) -> Result<Option<Header>, LaunchError> {
    let header = read(dir, TaskDir::header)?;
    Ok(header.map(|header| header.readable(dir)).transpose()?)
}

fn read<T>(
    dir: &TaskDir,
    what: impl FnOnce(&TaskDir) -> io::Result<Option<T>>,
) -> Result<Option<T>, LaunchError> {
    what(dir).map_err(record("cannot read the records in", dir))
}

fn record(action: &'static str, dir: &TaskDir) -> impl FnOnce(io::Error) -> LaunchError {
    let path = dir.path().to_owned();
    move |source| LaunchError::Record {
        action,
        path,
        source,
    }
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
