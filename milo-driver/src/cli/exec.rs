//! `milo-driver exec`: a command inside a running task, with its streams and its exit code, and a terminal if wished.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use runyard_common::{exit::Exit, report::Failure};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};

use super::{
    Context,
    interrupt::Signals,
    known::{self, Standing},
};
use crate::exec::{self, ExecRequest, Process, Session, Size, Terminal};

/// Bytes that are passed on at once.
const CHUNK: usize = 32 << 10;

/// Run a command inside a running task
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Its name, its id, or the beginning of its key
    #[arg(value_name = "TASK")]
    task: String,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// A variable for the command; can be given more than once
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = super::run::pair)]
    env: Vec<(String, String)>,
    /// The command
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let known = known::one(&context.state(), &args.task)?;
    if !matches!(known.standing(), Standing::Running(_)) {
        return Err(
            Failure::new(Exit::Failed, format!("`{}` does not run", args.task))
                .hint("`milo-driver ps --all` shows how it stands")
                .into(),
        );
    }
    let request = ExecRequest {
        command: args.command.clone(),
        tty: args.tty,
        size: args.tty.then(size).flatten(),
        env: args.env.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let signals = if args.tty {
        Some(Signals::block()?)
    } else {
        None
    };
    let Session {
        streams,
        terminal,
        mut process,
    } = exec::spawn(&known.dir, &request)?;
    let _raw = args.tty.then(Raw::enter).flatten();
    if let (Some(signals), Some(terminal)) = (signals, terminal) {
        thread::spawn(move || follow_size(signals, &terminal));
    }
    if let (true, Some(stdin)) = (args.interactive, streams.stdin) {
        thread::spawn(move || feed(stdin));
    }
    let code = converse(&mut process, streams.stdout, streams.stderr, args.tty)?;
    Ok(match u8::try_from(code) {
        Ok(0) => Exit::Done,
        Ok(code) => Exit::Child(code),
        Err(_) => Exit::Failed,
    })
}

/// Passes output on until the command has ended and, without a terminal, its output too.
fn converse(
    process: &mut Process,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    tty: bool,
) -> io::Result<i32> {
    let mut streams: Vec<(File, Box<dyn Write>)> = Vec::new();
    for (stream, to) in [
        (stdout, Box::new(io::stdout()) as Box<dyn Write>),
        (stderr, Box::new(io::stderr())),
    ] {
        if let Some(stream) = stream {
            rustix::io::ioctl_fionbio(&stream, true)?;
            streams.push((stream.into(), to));
        }
    }
    let mut ended = None;
    while ended.is_none() || (!tty && !streams.is_empty()) {
        wait(process, &streams, ended.is_some())?;
        if ended.is_none() {
            ended = process.try_wait()?;
        }
        // Read after the end was seen: what a terminal holds then is the last of it.
        let mut open = Vec::new();
        for (mut stream, mut to) in streams {
            if pass_on(&mut stream, &mut to)? {
                open.push((stream, to));
            }
        }
        streams = open;
    }
    Ok(ended.unwrap_or(-1))
}

fn wait(process: &Process, streams: &[(File, Box<dyn Write>)], has_ended: bool) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = streams
        .iter()
        .map(|(stream, _)| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN))
        .collect();
    if !has_ended {
        fds.push(PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN));
    }
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Passes on what is there; says whether there may be more.
fn pass_on(from: &mut File, to: &mut dyn Write) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                to.write_all(&chunk[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal whose last user has gone.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Passes the input on until either side has enough.
fn feed(to: OwnedFd) {
    let (mut to, mut chunk) = (File::from(to), vec![0; CHUNK]);
    let mut from = io::stdin();
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 || to.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

fn follow_size(mut signals: Signals, terminal: &Terminal) {
    while let Ok(signal) = signals.next() {
        if signal == libc::SIGWINCH
            && let Some(size) = size()
        {
            let _ = terminal.resize(size);
        }
    }
}

/// The size of our own terminal, if we have one.
fn size() -> Option<Size> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Our own terminal passes every key on; until dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
