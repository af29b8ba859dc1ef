//! One more process in a running container: its streams as plain descriptors, which any loop can drive, its end, its
//! terminal's size. Who may ask for it, and how its output travels, is the callers' business.
//!
//! It is what the container's own program is (user, capabilities, environment, working folder, all from the bundle), but
//! for its command. It lives in the container's namespaces and cgroups, and dies with the container, and with the one who
//! asked for it: a keeper sees to that.
//!
//! # When it is over
//!
//! Without a terminal, when the process has ended *and* its output has come to its end: read both streams first, then
//! [`Process::wait`]. With one, when the process has ended: what it left in the background may hold the terminal for ever,
//! so read what is there then, and go.

mod keeper;
mod pty;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;

use self::pty::Console;
use crate::{
    runtime::{self, Crun, Runtime, wait},
    state::{Header, TaskDir},
};

pub use self::pty::{Size, Terminal};

/// How long crun may take until the terminal is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal: then its output is one stream.
    pub tty: bool,
    /// The terminal's first size.
    pub size: Option<Size>,
    /// More variables; they win over the program's.
    pub env: BTreeMap<String, String>,
}

/// A process that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The command has no words.
    #[error("the command is empty")]
    Empty,
    /// No such task, or its records cannot be read.
    #[error("no task is kept in `{}`", path.display())]
    Unknown {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// crun did not make the terminal: its words.
    #[error("crun exec: {0}")]
    Container(String),
    /// Something of the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was to be done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A running process.
#[derive(Debug)]
pub struct Session {
    /// Its streams; take what you want.
    pub streams: Streams,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// The process. It is killed when this is dropped before its end.
    pub process: Process,
}

/// A process' streams. They block; a loop sets `O_NONBLOCK` where it wants to.
///
/// With a terminal, `stdin` and `stdout` are the same terminal, `stderr` is none, and the end of the output reads as `EIO`.
/// That there is no such program is found out only then: crun writes it to the terminal.
#[derive(Debug)]
pub struct Streams {
    /// Where its input is written. Closing it is the input's end; on a terminal that takes a Ctrl-D (0x04).
    pub stdin: Option<OwnedFd>,
    /// Where its output is read.
    pub stdout: Option<OwnedFd>,
    /// Where its errors are read.
    pub stderr: Option<OwnedFd>,
}

/// Runs a command in a task's container.
pub fn spawn(dir: &TaskDir, request: &ExecRequest) -> Result<Session, ExecError> {
    let header = known(dir)?;
    let place = &header.cgroup;
    let crun = Crun {
        cgroups: !place.disabled,
        ..Crun::new(header.crun, dir.root().crun_root())
    };
    spawn_in(&crun, dir, &header.container, &place.join, request)
}

/// The same with any runtime.
pub fn spawn_with(
    runtime: &dyn Runtime,
    dir: &TaskDir,
    container: &str,
    request: &ExecRequest,
) -> Result<Session, ExecError> {
    spawn_in(runtime, dir, container, &[], request)
}

fn spawn_in(
    runtime: &dyn Runtime,
    dir: &TaskDir,
    container: &str,
    join: &[PathBuf],
    request: &ExecRequest,
) -> Result<Session, ExecError> {
    if request.command.is_empty() {
        return Err(ExecError::Empty);
    }
    let process = described(dir, request)?;
    let desk = Desk::new(dir).map_err(host("make a folder for the process"))?;
    write(&desk.path("process.json"), &process).map_err(host("write process.json"))?;
    let visit = Visit {
        runtime,
        container,
        join,
    };
    if request.tty {
        with_terminal(&visit, desk, request.size)
    } else {
        with_pipes(&visit, desk)
    }
}

/// Where a process is to run.
struct Visit<'a> {
    runtime: &'a dyn Runtime,
    container: &'a str,
    /// Folders of version 1 cgroups that are not the container's own.
    join: &'a [PathBuf],
}

fn known(dir: &TaskDir) -> Result<Header, ExecError> {
    let header = dir.header().and_then(|header| {
        let header = header.ok_or(io::ErrorKind::NotFound)?;
        Ok(header.readable(dir)?)
    });
    header.map_err(|source| ExecError::Unknown {
        path: dir.path().to_owned(),
        source,
    })
}

fn host(action: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Host { action, source }
}

/// The process in the runtime specification's JSON: the container's own, with another command.
fn described(dir: &TaskDir, request: &ExecRequest) -> Result<Value, ExecError> {
    let config = fs::read(dir.bundle().join("config.json")).and_then(|text| {
        let config: Value = serde_json::from_slice(&text)?;
        Ok(config)
    });
    let mut process = config
        .map_err(|source| ExecError::Unknown {
            path: dir.path().to_owned(),
            source,
        })?
        .get_mut("process")
        .map(Value::take)
        .unwrap_or_default();
    process["args"] = request.command.clone().into();
    process["terminal"] = request.tty.into();
    process["env"] = environment(&process["env"], &request.env);
    if let Some(size) = request.size {
        process["consoleSize"] = serde_json::json!({ "height": size.rows, "width": size.columns });
    }
    Ok(process)
}

/// The variables of the one with those of the other over them.
fn environment(program: &Value, more: &BTreeMap<String, String>) -> Value {
    let own = program.as_array().into_iter().flatten();
    let kept = own.filter(|line| {
        let name = line.as_str().and_then(|line| line.split_once('='));
        name.is_none_or(|(name, _)| !more.contains_key(name))
    });
    let added = more
        .iter()
        .map(|(name, value)| format!("{name}={value}").into());
    kept.cloned().chain(added).collect()
}

fn with_pipes(visit: &Visit<'_>, desk: Desk) -> Result<Session, ExecError> {
    let mut command = visit.command(&desk, None)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::start(command, desk)?;
    let streams = Streams {
        stdin: process.child.stdin.take().map(OwnedFd::from),
        stdout: process.child.stdout.take().map(OwnedFd::from),
        stderr: process.child.stderr.take().map(OwnedFd::from),
    };
    Ok(Session {
        streams,
        terminal: None,
        process,
    })
}

fn with_terminal(visit: &Visit<'_>, desk: Desk, size: Option<Size>) -> Result<Session, ExecError> {
    let console = Console::bind(&desk.folder).map_err(host("make the console socket"))?;
    let command = visit.command(&desk, Some(&console.path()))?;
    let mut process = Process::start(command, desk)?;
    let received = console.receive(&process, Instant::now() + PATIENCE);
    let Some(terminal) = received.map_err(host("receive the terminal"))? else {
        return Err(ExecError::Container(process.last_words()));
    };
    if let Some(size) = size {
        terminal
            .resize(size)
            .map_err(host("set the terminal's size"))?;
    }
    let copy = || {
        terminal
            .as_fd()
            .try_clone_to_owned()
            .map_err(host("copy a descriptor"))
    };
    let streams = Streams {
        stdin: Some(copy()?),
        stdout: Some(copy()?),
        stderr: None,
    };
    Ok(Session {
        streams,
        terminal: Some(terminal),
        process,
    })
}

impl Visit<'_> {
    fn command(&self, desk: &Desk, socket: Option<&Path>) -> Result<Command, ExecError> {
        let mut command = self.runtime.exec(&runtime::Exec {
            id: self.container,
            process: &desk.path("process.json"),
            pid_file: &desk.path("pid"),
            console_socket: socket,
        });
        for folder in self.join {
            join(&mut command, folder).map_err(host("join the task's cgroup"))?;
        }
        Ok(command)
    }
}

/// Has a command begin in a cgroup of a version 1 hierarchy. The runtime leaves its process there, because the container
/// has no cgroup of its own in that hierarchy.
fn join(command: &mut Command, folder: &Path) -> io::Result<()> {
    let procs = OpenOptions::new()
        .write(true)
        .open(folder.join("cgroup.procs"))?;
    // SAFETY: one write of a constant to a descriptor that was opened before the fork.
    unsafe {
        command.pre_exec(move || {
            rustix::io::write(&procs, b"0")?;
            Ok(())
        });
    }
    Ok(())
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct Process {
    /// The runtime's keeper, which ends when the process does and with its code.
    child: Child,
    /// As long as it is held, the process may run.
    leash: Option<OwnedFd>,
    ended: OwnedFd,
    _desk: Desk,
}

impl Process {
    fn start(mut command: Command, desk: Desk) -> Result<Self, ExecError> {
        let leash =
            keeper::keep(&mut command, &desk.folder).map_err(host("keep an eye on crun"))?;
        let mut child = command.spawn().map_err(host("run crun"))?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => Ok(Self {
                child,
                leash: Some(leash),
                ended,
                _desk: desk,
            }),
            Err(error) => {
                drop(leash);
                let _ = child.wait();
                Err(host("watch crun")(error.into()))
            }
        }
    }

    /// Waits for its end: its exit code, or 128 + n after signal n.
    pub fn wait(&mut self) -> io::Result<i32> {
        self.child.wait().map(code)
    }

    /// Its exit code, if it has ended. [`AsFd`] tells when to ask.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(code))
    }

    /// Kills it, and waits for its end. One that has ended keeps its code.
    ///
    /// Without a terminal, what it has started dies too, unless it has left the process group; with one, it is hung up.
    pub fn kill(&mut self) -> io::Result<i32> {
        self.leash = None;
        self.wait()
    }

    /// What the runtime has said on its way to its end.
    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        self.leash = None;
        if let Some(stderr) = &mut self.child.stderr {
            let _ = stderr.read_to_end(&mut text);
        }
        runtime::words(&text)
    }
}

impl AsFd for Process {
    /// Becomes readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.kill();
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// The folder of what runtime and caller exchange about one process; gone with the value.
#[derive(Debug)]
struct Desk {
    folder: PathBuf,
}

impl Desk {
    fn new(dir: &TaskDir) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", process::id());
        let folder = dir.path().join("exec").join(name);
        // A process with the same pid may have died here before.
        let _ = fs::remove_dir_all(&folder);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Writes what may hold secrets.
fn write(path: &Path, process: &Value) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(process)?)
}

/// What came of a process that was run to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; `None` when it was killed because its time was over.
    pub code: Option<i32>,
    /// The end of its output.
    pub stdout: Vec<u8>,
    /// The end of its errors.
    pub stderr: Vec<u8>,
}

/// Runs a command to its end and keeps the last `keep` bytes of each stream. When `limit` is over first, it is killed.
pub fn output(
    dir: &TaskDir,
    command: Vec<String>,
    limit: Option<Duration>,
    keep: usize,
) -> Result<Output, ExecError> {
    let request = ExecRequest {
        command,
        ..ExecRequest::default()
    };
    let session = spawn(dir, &request)?;
    collect(session, limit, keep).map_err(host("read the process' output"))
}

fn collect(mut session: Session, limit: Option<Duration>, keep: usize) -> io::Result<Output> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let streams = [session.streams.stdout.take(), session.streams.stderr.take()];
    session.streams.stdin = None;
    let mut streams = streams.map(|stream| stream.map(File::from));
    let mut kept = [Vec::new(), Vec::new()];
    while streams.iter().any(Option::is_some) {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            session.process.kill()?;
            let [stdout, stderr] = kept;
            return Ok(Output {
                code: None,
                stdout,
                stderr,
            });
        }
        for ready in readable(&streams, left)? {
            if !read_some(streams[ready].as_mut(), &mut kept[ready], keep) {
                streams[ready] = None;
            }
        }
    }
    let code = ended_in_time(&mut session.process, deadline)?;
    let [stdout, stderr] = kept;
    Ok(Output {
        code,
        stdout,
        stderr,
    })
}

/// The numbers of the streams that can be read.
fn readable(streams: &[Option<File>; 2], limit: Option<Duration>) -> io::Result<Vec<usize>> {
    let open = streams.iter().enumerate();
    let open: Vec<(usize, &File)> = open
        .filter_map(|(number, file)| Some((number, file.as_ref()?)))
        .collect();
    let mut fds: Vec<PollFd<'_>> = open
        .iter()
        .map(|(_, file)| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN))
        .collect();
    wait(&mut fds, limit)?;
    let ready = fds.iter().zip(open.iter());
    Ok(ready
        .filter(|(fd, _)| !fd.revents().is_empty())
        .map(|(_, (number, _))| *number)
        .collect())
}

/// Reads once; says whether there may be more.
fn read_some(file: Option<&mut File>, kept: &mut Vec<u8>, keep: usize) -> bool {
    let mut chunk = [0; 4096];
    match file.map(|file| file.read(&mut chunk)) {
        Some(Ok(count)) if count > 0 => {
            kept.extend_from_slice(&chunk[..count]);
            kept.drain(..kept.len().saturating_sub(keep));
            true
        }
        Some(Err(error)) => error.kind() == io::ErrorKind::Interrupted,
        _ => false,
    }
}

/// A process may close its streams and go on.
fn ended_in_time(process: &mut Process, deadline: Option<Instant>) -> io::Result<Option<i32>> {
    loop {
        if let Some(code) = process.try_wait()? {
            return Ok(Some(code));
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            process.kill()?;
            return Ok(None);
        }
        wait(&mut [PollFd::new(&process.ended, PollFlags::IN)], left)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{runtime::Fake, shim::init::Init};

    #[test]
    fn a_variable_of_the_request_replaces_the_programs() {
        let program = serde_json::json!(["PATH=/bin", "A=1", "AB=2"]);
        let more = BTreeMap::from([("A".to_owned(), "x=y".to_owned())]);
        let expected = serde_json::json!(["PATH=/bin", "AB=2", "A=x=y"]);
        assert_eq!(environment(&program, &more), expected);
    }

    #[test]
    fn an_empty_command_is_refused() {
        let root = runyard_common::testing::tempdir();
        let fake = Fake::new(root.path());
        let dir = TaskDir::at(root.path());
        let error = spawn_with(&fake, &dir, "x", &ExecRequest::default()).unwrap_err();
        assert_eq!(error.to_string(), "the command is empty");
    }

    struct Place {
        root: runyard_common::testing::TempDir,
        dir: TaskDir,
    }

    impl Place {
        fn new() -> Self {
            let root = runyard_common::testing::tempdir();
            let dir = TaskDir::at(root.path());
            fs::create_dir(dir.bundle()).unwrap();
            fs::write(
                dir.bundle().join("config.json"),
                r#"{"process":{"env":[]}}"#,
            )
            .unwrap();
            Self { root, dir }
        }

        fn spawn(&self, script: &str) -> Session {
            let request = ExecRequest {
                command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
                ..ExecRequest::default()
            };
            spawn_with(&Fake::new(self.root.path()), &self.dir, "x", &request).unwrap()
        }

        fn leftovers(&self) -> usize {
            fs::read_dir(self.root.path().join("exec")).unwrap().count()
        }
    }

    #[test]
    fn streams_are_apart_and_only_their_ends_are_kept() {
        let place = Place::new();
        let session = place.spawn("echo 0123456789; echo error >&2; exit 43");
        let output = collect(session, None, 6).unwrap();
        let expected = Output {
            code: Some(43),
            stdout: b"56789\n".into(),
            stderr: b"error\n".into(),
        };
        assert_eq!(output, expected);
        assert_eq!(place.leftovers(), 0);
    }

    #[test]
    fn a_process_that_takes_too_long_is_killed_and_keeps_its_output() {
        let place = Place::new();
        let session = place.spawn("echo begun; exec /bin/sleep 1000");
        let output = collect(session, Some(Duration::from_millis(300)), 100).unwrap();
        assert_eq!(output.code, None);
        assert_eq!(output.stdout, b"begun\n");
    }

    #[test]
    fn one_that_closes_its_output_is_still_waited_for() {
        let place = Place::new();
        let session = place.spawn("exec >&- 2>&-; /bin/sleep 0.1; exit 7");
        assert_eq!(collect(session, None, 100).unwrap().code, Some(7));
    }

    #[test]
    fn a_dropped_session_leaves_no_process() {
        let place = Place::new();
        let mut session = place.spawn("echo $$; exec /bin/sleep 1000");
        let mut pid = String::new();
        let stdout = session.streams.stdout.take().map(File::from).unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut pid).unwrap();
        let process = Init::of(pid.trim().parse().unwrap()).unwrap();
        drop(session);
        assert!(!process.is_alive());
        assert_eq!(place.leftovers(), 0);
    }
}
