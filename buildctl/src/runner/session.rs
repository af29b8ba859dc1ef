//! One run while it is carried out: what it may look at (its work, the environment), where it speaks (its log), and the programs
//! that it starts and waits for, one at a time. Which programs those are is decided by the tasks.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::OpenOptions,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{descendants, enclosure::Enclosure, halt::Halt, log::Log, stop::Stop, work::Work};
use crate::logs::Stream;

/// How much of what a captured program prints is kept, in bytes.
const CAPTURED: usize = 64 << 20;
/// How long to wait for the last words of a program that has ended and left its pipes to somebody.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Where a program with direct words finds its stdout and stderr again. One digit, because no other can be redirected to in
/// every shell.
pub(super) const DIRECT: [i32; 2] = [8, 9];
/// How many of a program's last lines of errors are kept to explain its end.
const LAST_ERRORS: usize = 30;
/// How much of such a line is kept, in characters.
const LONGEST: usize = 2000;

/// Variables that programs get, if there are such; all others of this process (tokens, the work itself) they do not.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSH_AUTH_SOCK",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "REGISTRY_AUTH_FILE",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
];
const PASSED_PREFIXES: &[&str] = &["LC_", "XDG_", "_CONTAINERS_", "BUILDAH_"];

/// One run while it is carried out.
pub(super) struct Session<'w> {
    /// What to do.
    pub(super) work: &'w Work,
    /// Whether to stop.
    pub(super) stop: Stop,
    /// Where to speak.
    pub(super) log: Log,
    /// The environment of this process.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// What programs are held to.
    pub(super) enclosure: Option<Enclosure>,
    /// Where started programs are written down.
    pub(super) programs: Option<PathBuf>,
    /// Variables of all programs.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// The last step that a build has begun, to say where it was when it was stopped.
    pub(super) step: Option<String>,
}

/// A program to start.
#[derive(Debug, Default)]
pub(super) struct Call {
    program: &'static str,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    capture: bool,
    quiet: bool,
    direct: bool,
    cleanup: Option<Duration>,
}

impl Call {
    /// This program, looked for in `PATH`.
    pub(super) fn of(program: &'static str) -> Self {
        Self {
            program,
            ..Self::default()
        }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an option and its value.
    pub(super) fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// Sets a variable.
    pub(super) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Keeps what it prints on stdout instead of logging it.
    pub(super) fn captured(mut self) -> Self {
        self.capture = true;
        self
    }

    /// Logs nothing of it; its errors are still heard.
    pub(super) fn quiet(mut self) -> Self {
        self.quiet = true;
        self.captured()
    }

    /// It finds its stdout and stderr a second time, as descriptors [`DIRECT`], and so does what it starts.
    pub(super) fn with_direct_words(mut self) -> Self {
        self.direct = true;
        self
    }

    /// What is typed to do the same.
    pub(super) fn words(&self) -> Vec<String> {
        let args = self
            .args
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(self.program.to_owned())
            .chain(args)
            .collect()
    }

    /// It cleans up: it runs even in a run that was told to stop, but no longer than this.
    pub(super) fn cleaning_up(mut self, limit: Duration) -> Self {
        self.cleanup = Some(limit);
        self
    }
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its status.
    pub(super) status: ExitStatus,
    /// What it printed on stdout, if that was captured.
    pub(super) output: Vec<u8>,
    /// What it said that may explain its end.
    pub(super) heard: Heard,
}

impl Ended {
    /// What it printed, as one trimmed text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }
}

/// What a program said that may explain its end; masked as the log is.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Buildah's last `STEP`.
    pub(super) step: Option<String>,
    /// The last lines of its stderr.
    pub(super) errors: VecDeque<String>,
}

impl Heard {
    fn line(&mut self, stream: Stream, text: &str) {
        if stream == Stream::Stdout {
            if text.starts_with("STEP ") || text.starts_with('[') && text.contains("] STEP ") {
                self.step = Some(text.to_owned());
            }
            return;
        }
        if self.errors.len() == LAST_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(shortened(text));
    }

    /// All of its last errors, for looking something up in them.
    pub(super) fn text(&self) -> String {
        self.errors.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// A line without what nobody reads of it: Buildah prints all of a request that its copier could not fulfil before it says why.
fn shortened(text: &str) -> String {
    const REQUEST: &str = " for copier.request{";
    let begin = text.find(REQUEST);
    match begin.zip(text.rfind("}: copier: ")) {
        Some((begin, end)) if begin < end => {
            let (before, why) = (&text[..begin], &text[end + 1..]);
            before.chars().chain(why.chars()).take(LONGEST).collect()
        }
        _ => text.chars().take(LONGEST).collect(),
    }
}

impl Session<'_> {
    /// Says something in the log.
    pub(super) fn say(&mut self, text: impl AsRef<str>) {
        self.log.say(text.as_ref());
    }

    /// Starts a program and waits for its end.
    pub(super) fn program(&mut self, call: &Call) -> Result<Ended, Halt> {
        let child = match call.cleanup {
            Some(_) => Some(self.spawn(call)).transpose(),
            None => self.stop.clone().begin(|| {
                let child = self.spawn(call)?;
                let pid = Pid::from_child(&child);
                Ok((child, pid))
            }),
        };
        let Some(child) = child.map_err(|error| not_started(call.program, &error))? else {
            return Err(Halt::Stopped);
        };
        self.write_down(&child);
        let ended = self
            .attend(child, call)
            .map_err(|error| Halt::io(format_args!("waiting for `{}`", call.program), &error))?;
        if call.cleanup.is_none() && self.stop.cause().is_some() {
            self.step = ended.heard.step;
            return Err(Halt::Stopped);
        }
        Ok(ended)
    }

    fn spawn(&self, call: &Call) -> io::Result<Child> {
        let mut command = Command::new(call.program);
        command
            .args(&call.args)
            .env_clear()
            .envs(
                self.environment
                    .iter()
                    .filter(|(name, _)| is_passed(name))
                    .cloned(),
            )
            .envs(self.variables.iter().cloned())
            .envs(call.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let group = self.enclosure.as_ref().map(Enclosure::door).transpose()?;
        let direct = call.direct;
        // SAFETY: between fork and exec only system calls are made, nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                if let Some(group) = &group {
                    rustix::io::write(group, b"0")?;
                }
                // Last: what is at these numbers now (the group's file, say) is of no use any more.
                if direct {
                    for (own, copy) in [libc::STDOUT_FILENO, libc::STDERR_FILENO]
                        .into_iter()
                        .zip(DIRECT)
                    {
                        if libc::dup2(own, copy) == -1 {
                            return Err(io::Error::last_os_error());
                        }
                    }
                }
                Ok(())
            });
        }
        command.spawn()
    }

    /// Leaves evidence for whoever finds this run dead: the session of each program and when it began.
    fn write_down(&self, child: &Child) {
        let Some(path) = &self.programs else { return };
        let pid = child.id().cast_signed();
        let began = descendants::process(pid).map_or(0, |process| process.began);
        let file = OpenOptions::new().append(true).create(true).open(path);
        // Without it, a program that outlives a killed run is found by its other marks.
        let _ = file.and_then(|mut file| writeln!(file, "{pid} {began}"));
    }

    /// Logs what a program says until it has ended. One that cannot be watched is ended.
    fn attend(&mut self, mut child: Child, call: &Call) -> io::Result<Ended> {
        let watched = self.watch(&mut child, call);
        if watched.is_err() {
            kill_group(Pid::from_child(&child));
        }
        // Before it is collected, and its number may be another's.
        if call.cleanup.is_none() {
            self.stop.ended();
        }
        let status = child.wait();
        let (mut said, status) = (watched?, status?);
        said.finish(&mut self.log);
        Ok(Ended {
            status,
            output: said.output,
            heard: said.heard,
        })
    }

    fn watch(&mut self, child: &mut Child, call: &Call) -> io::Result<Said> {
        let pid = Pid::from_child(child);
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let mut pipes = [
            (Stream::Stdout, child.stdout.take().map(Into::into)),
            (Stream::Stderr, child.stderr.take().map(Into::into)),
        ];
        let mut said = Said::new(call);
        let limit = call.cleanup.map(|limit| Instant::now() + limit);
        let mut alive = true;
        while alive || pipes.iter().any(|(_, pipe)| pipe.is_some()) {
            let wait = match (alive, limit) {
                (false, _) => Some(LAST_WORDS),
                (true, Some(end)) => Some(end.saturating_duration_since(Instant::now())),
                (true, None) => None,
            };
            let ready = ready(&pipes, alive.then(|| process.as_fd()), wait)?;
            if ready == [false; 3] {
                if !alive {
                    break;
                }
                kill_group(pid);
            }
            for ((stream, pipe), _) in pipes.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                said.read(&mut self.log, *stream, pipe)?;
            }
            alive = alive && !ready[2];
        }
        Ok(said)
    }
}

fn kill_group(pid: Pid) {
    // It has not been collected; it can only have ended.
    let _ = kill_process_group(pid, Signal::KILL);
    descendants::kill(pid);
}

fn not_started(program: &str, error: &io::Error) -> Halt {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Halt::infrastructure(format!("`{program}` is not installed here, or not in PATH"))
        }
        _ => Halt::io(format_args!("`{program}` cannot be started"), error),
    }
}

fn is_passed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    PASSED.contains(&name)
        || PASSED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

type Pipe = Option<std::os::fd::OwnedFd>;

/// Waits until there is something to read from a pipe or the process has ended; none of it after `wait`.
fn ready(
    pipes: &[(Stream, Pipe); 2],
    process: Option<BorrowedFd<'_>>,
    wait: Option<Duration>,
) -> io::Result<[bool; 3]> {
    let sources = [
        pipes[0].1.as_ref().map(AsFd::as_fd),
        pipes[1].1.as_ref().map(AsFd::as_fd),
        process,
    ];
    let mut polled: Vec<(usize, PollFd<'_>)> = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| {
            let source = (*source)?;
            Some((index, PollFd::from_borrowed_fd(source, PollFlags::IN)))
        })
        .collect();
    let timeout = wait.map(|wait| Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    let mut fds: Vec<PollFd<'_>> = polled.iter().map(|(_, fd)| fd.clone()).collect();
    loop {
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let mut ready = [false; 3];
    for ((index, _), fd) in polled.drain(..).zip(fds) {
        ready[index] = !fd.revents().is_empty();
    }
    Ok(ready)
}

/// What a program has said so far.
struct Said {
    capture: bool,
    quiet: bool,
    output: Vec<u8>,
    /// What a quiet program said to stderr.
    silent: Log,
    heard: Heard,
    buffer: Vec<u8>,
}

impl Said {
    fn new(call: &Call) -> Self {
        Self {
            capture: call.capture,
            quiet: call.quiet,
            output: Vec::new(),
            silent: Log::new(io::sink()),
            heard: Heard::default(),
            buffer: vec![0; 64 << 10],
        }
    }

    fn read(&mut self, log: &mut Log, stream: Stream, pipe: &mut Pipe) -> io::Result<()> {
        let Some(open) = pipe else { return Ok(()) };
        let length = match rustix::io::read(open, &mut self.buffer[..]) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            *pipe = None;
            return Ok(());
        }
        let piece = &self.buffer[..length];
        if self.capture && stream == Stream::Stdout {
            let room = CAPTURED.saturating_sub(self.output.len());
            self.output.extend_from_slice(&piece[..length.min(room)]);
            return Ok(());
        }
        let heard = &mut self.heard;
        let log = if self.quiet { &mut self.silent } else { log };
        log.feed(stream, piece, &mut |text| heard.line(stream, text));
        Ok(())
    }

    fn finish(&mut self, log: &mut Log) {
        let heard = &mut self.heard;
        let log = if self.quiet { &mut self.silent } else { log };
        log.finish(&mut |stream, text| heard.line(stream, text));
    }
}
