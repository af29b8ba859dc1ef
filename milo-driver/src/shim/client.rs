//! The other end of a shim's socket: requests, one at a time, for callers that block and for callers that must not. What
//! is to be done about a shim that does not answer is decided by whoever asks.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::{
    protocol::{Answer, Request},
    server::Short,
};
use crate::state::TaskDir;

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Nobody listens: the shim is dead, or was never started.
    #[error("no shim listens at `{path}`")]
    Dead {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It did not answer within the time that the caller has set.
    #[error("the shim at `{path}` does not answer")]
    Late {
        /// The socket.
        path: String,
    },
    /// The connection ended before the answer.
    #[error("the shim at `{path}` has died before it answered")]
    Lost {
        /// The socket.
        path: String,
    },
    /// Something else went wrong, or the answer is none.
    #[error("cannot talk to the shim at `{path}`")]
    Broken {
        /// The socket.
        path: String,
        /// How.
        source: io::Error,
    },
}

impl ShimError {
    fn of(dir: &TaskDir, error: io::Error) -> Self {
        let path = dir.socket().display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Dead {
                path,
                source: error,
            },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late { path },
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Lost { path },
            _ => Self::Broken {
                path,
                source: error,
            },
        }
    }

    /// Whether no shim is there to ask.
    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Dead { .. })
    }
}

/// A connection that blocks. An [`Request::Attach`] on it lasts as long as the value does.
#[derive(Debug)]
pub struct Connection {
    dir: TaskDir,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to a task's shim.
    pub fn open(dir: &TaskDir) -> Result<Self, ShimError> {
        let stream =
            Short::of(dir.path()).and_then(|short| UnixStream::connect(short.join("shim.sock")));
        let stream = stream.map_err(|error| ShimError::of(dir, error))?;
        Ok(Self {
            dir: dir.clone(),
            stream: BufReader::new(stream),
        })
    }

    /// How long [`Self::receive`] waits; for ever by default, and a shim that makes a container takes a while.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(patience)
    }

    /// Asks, and waits for the answer.
    pub fn request(&mut self, request: &Request) -> Result<Answer, ShimError> {
        self.send(request)?;
        self.receive()
    }

    /// Asks, and leaves the answer for later.
    pub fn send(&mut self, request: &Request) -> Result<(), ShimError> {
        let sent = line(request).and_then(|line| self.stream.get_ref().write_all(&line));
        sent.map_err(|error| ShimError::of(&self.dir, error))
    }

    /// Waits for the next answer.
    pub fn receive(&mut self) -> Result<Answer, ShimError> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line);
        read.and_then(|_| parsed(&line))
            .map_err(|error| ShimError::of(&self.dir, error))
    }
}

/// Asks a task's shim on a connection of its own. Dropping the future closes the connection, which matters to
/// [`Request::Attach`] only.
pub async fn ask(dir: &TaskDir, request: &Request) -> Result<Answer, ShimError> {
    exchange(dir, request)
        .await
        .map_err(|error| ShimError::of(dir, error))
}

async fn exchange(dir: &TaskDir, request: &Request) -> io::Result<Answer> {
    let short = Short::of(dir.path())?;
    let stream = tokio::net::UnixStream::connect(short.join("shim.sock")).await?;
    let mut stream = tokio::io::BufReader::new(stream);
    stream.write_all(&line(request)?).await?;
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    parsed(&line)
}

fn line(request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    Ok(line)
}

fn parsed(line: &[u8]) -> io::Result<Answer> {
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn no_socket_and_no_listener_both_mean_dead() {
        let root = tempdir();
        let dir = TaskDir::at(root.path().join("task"));
        assert!(Connection::open(&dir).unwrap_err().is_dead());
        dir.create().unwrap();
        assert!(Connection::open(&dir).unwrap_err().is_dead());
        drop(UnixListener::bind(dir.socket()).unwrap());
        assert!(Connection::open(&dir).unwrap_err().is_dead());
    }

    #[test]
    fn a_shim_that_dies_is_lost_and_one_that_is_silent_is_late() {
        let root = tempdir();
        let dir = TaskDir::at(root.path());
        let listener = UnixListener::bind(dir.socket()).unwrap();
        let mut connection = Connection::open(&dir).unwrap();
        connection
            .set_patience(Some(Duration::from_millis(10)))
            .unwrap();
        let late = connection.request(&Request::State).unwrap_err();
        assert!(matches!(late, ShimError::Late { .. }), "{late:?}");
        drop(listener.accept().unwrap());
        let lost = connection.receive().unwrap_err();
        assert!(matches!(lost, ShimError::Lost { .. }), "{lost:?}");
    }
}
