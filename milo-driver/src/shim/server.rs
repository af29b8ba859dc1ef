//! A shim's socket: who is connected, lines in, lines out. What a request means is the [`life`](super::life)'s business;
//! here nothing waits, and no client can make the shim fail or grow.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags},
    net::sockopt::socket_peercred,
};

use super::protocol::{Answer, Request};
use crate::state::TaskDir;

/// The longest request, in bytes.
const LONGEST: usize = 64 * 1024;
/// How many bytes of answers may wait for a client that does not read them.
const UNREAD: usize = 256 * 1024;
/// How many clients are let in at the same time; more wait at the door.
const CLIENTS: usize = 256;

/// A connected client. A number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(u64);

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A request.
    Request(Client, Request),
    /// Something else, and what is wrong with it.
    Nonsense(Client, String),
    /// The client has closed its connection.
    Gone(Client),
}

/// The socket and its connections.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    connections: Vec<Connection>,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Nothing more is read; it is closed as soon as its answers are written.
    is_closing: bool,
}

impl Server {
    /// Listens at a task's socket, in place of a shim that is dead.
    ///
    /// It is bound under another name first: whoever finds the real one can connect.
    pub fn bind(dir: &TaskDir) -> io::Result<Self> {
        let short = Short::of(dir.path())?;
        let temporary = short.join("shim.sock.tmp");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temporary, short.join("shim.sock"))?;
        Ok(Self {
            listener,
            connections: Vec::new(),
            next: 0,
        })
    }

    /// Whether anybody is connected.
    pub fn has_clients(&self) -> bool {
        !self.connections.is_empty()
    }

    /// What is to be waited for.
    pub fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let door = (self.connections.len() < CLIENTS)
            .then(|| PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
        door.into_iter()
            .chain(self.connections.iter().map(Connection::interest))
    }

    /// Lets clients in, reads and writes; never waits.
    pub fn hear(&mut self) -> Vec<Heard> {
        self.admit();
        let mut heard = Vec::new();
        for connection in &mut self.connections {
            let is_open = connection.read(&mut heard) && connection.flush();
            if !is_open {
                heard.push(Heard::Gone(connection.client));
            }
        }
        self.connections
            .retain(|connection| !heard.contains(&Heard::Gone(connection.client)));
        heard
    }

    /// Answers a client; one that has gone gets nothing.
    pub fn answer(&mut self, client: Client, answer: &Answer) {
        let found = self.connections.iter_mut();
        for connection in found.filter(|connection| connection.client == client) {
            connection.put(answer);
            // One that cannot be written to is found gone at the next turn.
            connection.flush();
        }
    }

    fn admit(&mut self) {
        while self.connections.len() < CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            if is_trusted(&stream) && stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection {
                    client: Client(self.next),
                    stream,
                    inbox: Vec::new(),
                    outbox: Vec::new(),
                    is_closing: false,
                });
                self.next += 1;
            }
        }
    }
}

impl Connection {
    fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::IN;
        if !self.outbox.is_empty() {
            flags |= PollFlags::OUT;
        }
        PollFd::from_borrowed_fd(self.stream.as_fd(), flags)
    }

    /// Reads what there is, but lets others have their turn; says whether the connection lives on.
    fn read(&mut self, heard: &mut Vec<Heard>) -> bool {
        let mut chunk = [0; 2048];
        for _ in 0..=LONGEST / chunk.len() {
            if self.is_closing {
                return !self.outbox.is_empty();
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.take(&chunk[..count], heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        self.inbox.extend_from_slice(bytes);
        while let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            heard.push(match serde_json::from_slice(&line) {
                Ok(request) => Heard::Request(self.client, request),
                Err(error) => Heard::Nonsense(self.client, format!("this is no request: {error}")),
            });
        }
        if self.inbox.len() > LONGEST {
            let problem = format!("a request is longer than {LONGEST} bytes");
            self.put(&Answer::Failed { error: problem });
            self.is_closing = true;
        }
    }

    fn put(&mut self, answer: &Answer) {
        // An answer is strings and numbers: it always has a JSON form.
        self.outbox
            .extend(serde_json::to_vec(answer).unwrap_or_default());
        self.outbox.push(b'\n');
    }

    /// Writes what is written without waiting; says whether the connection lives on.
    fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return error.kind() == io::ErrorKind::WouldBlock
                        && self.outbox.len() <= UNREAD;
                }
            }
        }
        !self.is_closing
    }
}

/// Whether a peer is of our own user, or root. The socket's folder and mode say so already; they may be changed.
fn is_trusted(stream: &UnixStream) -> bool {
    socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// A folder under a name that is always short enough for a socket's address, which has room for 107 bytes.
#[derive(Debug)]
pub(crate) struct Short {
    folder: File,
}

impl Short {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let folder = options
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path)?;
        Ok(Self { folder })
    }

    /// The path of a file in the folder. It is good as long as this value lives.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()).into()
    }

    /// The same for another process of the same user, in the same pid namespace.
    pub(crate) fn join_for_others(&self, name: &str) -> PathBuf {
        let (us, folder) = (std::process::id(), self.folder.as_raw_fd());
        format!("/proc/{us}/fd/{folder}/{name}").into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use runyard_common::testing::{TempDir, eventually, patience, tempdir};

    use super::*;

    fn server() -> (TempDir, TaskDir, Server) {
        let root = tempdir();
        let dir = TaskDir::at(root.path());
        let server = Server::bind(&dir).unwrap();
        (root, dir, server)
    }

    fn heard(server: &mut Server) -> Vec<Heard> {
        eventually(patience(), || {
            Some(server.hear()).filter(|heard| !heard.is_empty())
        })
    }

    #[test]
    fn the_socket_is_its_owners_only() {
        let (_root, dir, _server) = server();
        let mode = fs::metadata(dir.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_path_too_long_for_an_address_is_no_hindrance() {
        let root = tempdir();
        let dir = TaskDir::at(root.path().join("a".repeat(120)));
        dir.create().unwrap();
        let mut server = Server::bind(&dir).unwrap();
        let short = Short::of(dir.path()).unwrap();
        let mut client = UnixStream::connect(short.join("shim.sock")).unwrap();
        client.write_all(b"{\"do\":\"state\"}\n").unwrap();
        assert_eq!(
            heard(&mut server),
            [Heard::Request(Client(0), Request::State)]
        );
    }

    #[test]
    fn a_request_in_pieces_is_one_and_two_in_one_piece_are_two() {
        let (_root, dir, mut server) = server();
        let mut client = UnixStream::connect(dir.socket()).unwrap();
        client.write_all(b"{\"do\":\"st").unwrap();
        assert_eq!(server.hear(), []);
        client.write_all(b"ate\"}\n{\"do\":\"wait\"}\n").unwrap();
        let requests =
            [Request::State, Request::Wait].map(|request| Heard::Request(Client(0), request));
        assert_eq!(heard(&mut server), requests);
    }

    #[test]
    fn nonsense_is_told_apart_and_the_client_may_go_on() {
        let (_root, dir, mut server) = server();
        let mut client = UnixStream::connect(dir.socket()).unwrap();
        client.write_all(b"\xff\xfe\n{\"do\":\"start\"}\n").unwrap();
        let all = heard(&mut server);
        assert!(matches!(&all[0], Heard::Nonsense(Client(0), _)), "{all:?}");
        assert_eq!(all[1], Heard::Request(Client(0), Request::Start));
        server.answer(Client(0), &Answer::Failed { error: "no".into() });
        let mut line = String::new();
        BufReader::new(client).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"is\":\"failed\",\"error\":\"no\"}\n");
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_connection_closed() {
        let (_root, dir, mut server) = server();
        let mut client = UnixStream::connect(dir.socket()).unwrap();
        client.write_all(&vec![b' '; LONGEST + 1]).unwrap();
        assert_eq!(heard(&mut server), [Heard::Gone(Client(0))]);
        let mut text = String::new();
        // What it had not read yet makes the kernel reset the connection after the answer.
        let _ = client.read_to_string(&mut text);
        assert!(text.contains("longer than 65536 bytes"), "{text}");
    }

    #[test]
    fn a_client_that_vanishes_is_noticed_once() {
        let (_root, dir, mut server) = server();
        drop(UnixStream::connect(dir.socket()).unwrap());
        assert_eq!(heard(&mut server), [Heard::Gone(Client(0))]);
        assert!(!server.has_clients());
        server.answer(Client(0), &Answer::Done);
        assert_eq!(server.hear(), []);
    }

    #[test]
    fn a_client_that_reads_no_answers_is_let_go() {
        let (_root, dir, mut server) = server();
        let _client = UnixStream::connect(dir.socket()).unwrap();
        server.hear();
        let answer = Answer::Failed {
            error: "x".repeat(10_000),
        };
        for _ in 0..100 {
            server.answer(Client(0), &answer);
        }
        assert_eq!(server.hear(), [Heard::Gone(Client(0))]);
    }
}
