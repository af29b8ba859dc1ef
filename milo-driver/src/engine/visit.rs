//! A command that runs inside a task, as the plugin's channels: bytes in, bytes out, its end. One async task a command; it
//! ends the command when nobody listens any more.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::{Errno, ioctl_fionbio, read, write};
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::{
    exec::{self, Process, Size, Terminal},
    registry::{Input, Output, Session},
};

/// Messages that may wait on either side.
const WAITING: usize = 16;

/// Bytes of one message.
const CHUNK: usize = 32 << 10;

/// Connects a command's descriptors with channels.
pub(super) fn begin(session: exec::Session) -> io::Result<Session> {
    let (input, inputs) = channel(WAITING);
    let (outputs, output) = channel(WAITING);
    let visit = Visit {
        ended: registered(session.process.as_fd().try_clone_to_owned()?)?,
        stdin: session.streams.stdin.map(watched).transpose()?,
        stdout: session.streams.stdout.map(watched).transpose()?,
        stderr: session.streams.stderr.map(watched).transpose()?,
        terminal: session.terminal,
        process: Some(session.process),
        unwritten: Vec::new(),
    };
    tokio::spawn(visit.run(inputs, outputs));
    Ok(Session { input, output })
}

fn watched(stream: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    ioctl_fionbio(&stream, true)?;
    registered(stream)
}

fn registered(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor and always gives the same one.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

struct Visit {
    ended: AsyncFd<OwnedFd>,
    stdin: Option<AsyncFd<OwnedFd>>,
    stdout: Option<AsyncFd<OwnedFd>>,
    stderr: Option<AsyncFd<OwnedFd>>,
    terminal: Option<Terminal>,
    /// None once its end was told.
    process: Option<Process>,
    /// Input that the command has not taken yet.
    unwritten: Vec<u8>,
}

impl Visit {
    async fn run(mut self, mut inputs: Receiver<Input>, outputs: Sender<Output>) {
        let mut has_input = true;
        while self.process.is_some() || self.stdout.is_some() || self.stderr.is_some() {
            let goes_on = tokio::select! {
                () = outputs.closed() => false,
                data = chunk(self.stdout.as_ref()) => self.say(data, &outputs, Output::Stdout).await,
                data = chunk(self.stderr.as_ref()) => self.say(data, &outputs, Output::Stderr).await,
                written = flush(self.stdin.as_ref(), &self.unwritten) => {
                    self.written(written);
                    true
                }
                input = inputs.recv(), if has_input && self.unwritten.is_empty() => {
                    match input {
                        Some(input) => self.take(input),
                        None => has_input = false,
                    }
                    true
                }
                _ = self.ended.readable(), if self.process.is_some() => self.end(&outputs).await,
            };
            if !goes_on {
                break;
            }
        }
        if let Some(process) = self.process.take() {
            // Its drop kills it, and waits for that.
            let _ = tokio::task::spawn_blocking(move || drop(process)).await;
        }
    }

    /// Passes on what was read; nothing means that the stream has ended.
    async fn say(
        &mut self,
        data: Vec<u8>,
        outputs: &Sender<Output>,
        as_output: fn(Vec<u8>) -> Output,
    ) -> bool {
        if !data.is_empty() {
            return outputs.send(as_output(data)).await.is_ok();
        }
        match as_output(data) {
            Output::Stderr(_) => self.stderr = None,
            _ => self.stdout = None,
        }
        true
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Data(data) if self.stdin.is_some() => self.unwritten = data,
            Input::Data(_) => {}
            // On a terminal the end of the input is a character, as at a keyboard.
            Input::Close if self.terminal.is_some() => self.unwritten = vec![0x04],
            Input::Close => self.stdin = None,
            Input::Resize { rows, columns } => {
                if let Some(terminal) = &self.terminal
                    && let Err(error) = terminal.resize(Size { rows, columns })
                {
                    tracing::debug!(%error, "cannot resize a terminal");
                }
            }
        }
    }

    fn written(&mut self, written: Result<usize, Errno>) {
        if let Ok(count) = written {
            self.unwritten.drain(..count);
        } else {
            // The command does not read any more; what else it does is its own business.
            self.stdin = None;
            self.unwritten.clear();
        }
    }

    /// The command has ended. What a terminal still holds comes first, and is the last.
    async fn end(&mut self, outputs: &Sender<Output>) -> bool {
        if self.terminal.is_some()
            && let Some(stdout) = self.stdout.take()
        {
            while let Some(data) = at_once(&stdout) {
                if outputs.send(Output::Stdout(data)).await.is_err() {
                    return false;
                }
            }
        }
        let code = match self.process.take().map(|mut process| process.wait()) {
            Some(Ok(code)) => code,
            _ => -1,
        };
        self.stdin = None;
        outputs.send(Output::Exited(code)).await.is_ok()
    }
}

/// The next bytes of a stream; none at its end; never, where there is no stream.
async fn chunk(stream: Option<&AsyncFd<OwnedFd>>) -> Vec<u8> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    loop {
        let Ok(mut ready) = stream.readable().await else {
            return Vec::new();
        };
        let mut data = vec![0; CHUNK];
        match read(stream, &mut data) {
            Ok(count) => {
                data.truncate(count);
                return data;
            }
            Err(Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            // A terminal whose last user has gone says EIO.
            Err(_) => return Vec::new(),
        }
    }
}

/// What can be read without waiting.
fn at_once(stream: &AsyncFd<OwnedFd>) -> Option<Vec<u8>> {
    let mut data = vec![0; CHUNK];
    let count = read(stream, &mut data).ok().filter(|count| *count > 0)?;
    data.truncate(count);
    Some(data)
}

/// Writes some of `data`; never returns where there is nothing to write.
async fn flush(stream: Option<&AsyncFd<OwnedFd>>, data: &[u8]) -> Result<usize, Errno> {
    let (Some(stream), false) = (stream, data.is_empty()) else {
        return std::future::pending().await;
    };
    loop {
        let Ok(mut ready) = stream.writable().await else {
            return Err(Errno::BADF);
        };
        match write(stream, data) {
            Err(Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
