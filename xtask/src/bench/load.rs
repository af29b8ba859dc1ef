//! The load client's side of a connection: opens a WebSocket, sends small requests, hands out the server's messages
//! one after another. Built to cost a fraction of what a daemon spends on the same message: blocking sockets, large
//! reads, no copy and no JSON parser between the read buffer and the caller.

mod event;
mod inbox;

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

pub(super) use event::Event;
pub(super) use event::Kind;
use inbox::Inbox;
use inbox::Opcode;

/// How often a blocked read looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// A daemon that sends nothing for this long will send nothing any more. Longer than the 5 s that a daemon may wait
/// for a stalled client before it gives that client up.
const PATIENCE: Duration = Duration::from_secs(8);

/// Time for connecting and for the upgrade request.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// An answer to the upgrade request is some hundred bytes long.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Mask of all frames sent. Servers do not care which it is; a fixed one keeps the client simple.
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

/// A WebSocket connection to the daemon under load.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    inbox: Inbox,
    deadline: Instant,
    read_at: Instant,
    read_wall: SystemTime,
    longest_silence: Duration,
}

impl Connection {
    /// Connects to `/ws`. All later calls fail once `deadline` has passed.
    ///
    /// # Errors
    ///
    /// A daemon that does not accept or does not upgrade.
    pub(super) fn open(addr: SocketAddr, deadline: Instant) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&addr, HANDSHAKE_LIMIT)
            .with_context(|| format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_LIMIT))?;
        stream.set_write_timeout(Some(HANDSHAKE_LIMIT))?;
        let mut inbox = Inbox::new();
        upgrade(&mut stream, addr, &mut inbox)
            .with_context(|| format!("no WebSocket at {addr}"))?;
        stream.set_read_timeout(Some(TICK))?;
        let (read_at, read_wall) = (Instant::now(), SystemTime::now());
        Ok(Self {
            stream,
            inbox,
            deadline,
            read_at,
            read_wall,
            longest_silence: Duration::ZERO,
        })
    }

    /// Sends one text message.
    ///
    /// # Errors
    ///
    /// A connection that is closed, or a daemon that does not read.
    pub(super) fn send(&mut self, text: &str) -> Result<()> {
        self.send_all(std::iter::once(text))
    }

    /// Sends several text messages with one write.
    ///
    /// # Errors
    ///
    /// As for [`Self::send`].
    pub(super) fn send_all<'a>(&mut self, texts: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut bytes = Vec::new();
        texts.for_each(|text| push_frame(&mut bytes, Opcode::Text, text.as_bytes()));
        self.stream
            .write_all(&bytes)
            .context("cannot send a request")
    }

    /// The next message, waiting for it if need be. Pings are answered on the way.
    ///
    /// # Errors
    ///
    /// A passed deadline, a silent daemon, a closed connection, or bytes that are no WebSocket frames.
    pub(super) fn next(&mut self) -> Result<Event<'_>> {
        loop {
            let Some(frame) = self.inbox.pop()? else {
                self.fill()?;
                continue;
            };
            match frame.opcode {
                Opcode::Text | Opcode::Continuation => {
                    if let Some(message) = self.inbox.assemble(&frame) {
                        return Ok(Event::new(self.inbox.bytes(&message)));
                    }
                }
                Opcode::Ping => self.pong(frame.payload)?,
                Opcode::Close => bail!(
                    "the daemon closed the connection{}",
                    close_reason(self.inbox.raw(frame.payload))
                ),
                Opcode::Pong => {}
            }
        }
    }

    /// When the bytes of the latest message were read.
    pub(super) fn read_at(&self) -> Instant {
        self.read_at
    }

    /// The wall clock at that moment, for comparison with stamps of another process.
    pub(super) fn read_wall(&self) -> SystemTime {
        self.read_wall
    }

    /// The longest time between two reads since the last [`Self::forget_silence`].
    pub(super) fn longest_silence(&self) -> Duration {
        self.longest_silence
    }

    /// Starts the search for the longest silence anew.
    pub(super) fn forget_silence(&mut self) {
        self.longest_silence = Duration::ZERO;
    }

    fn fill(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.stream.read(self.inbox.room()?) {
                Ok(0) => bail!("the daemon dropped the connection"),
                Ok(count) => {
                    self.inbox.arrived(count);
                    break;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    self.check_patience(begin)?;
                }
                Err(error) => return Err(error).context("cannot read from the daemon"),
            }
        }
        let now = Instant::now();
        self.longest_silence = self.longest_silence.max(now - self.read_at);
        self.read_at = now;
        self.read_wall = SystemTime::now();
        if now > self.deadline {
            Err(late())
        } else {
            Ok(())
        }
    }

    fn check_patience(&self, begin: Instant) -> Result<()> {
        if Instant::now() > self.deadline {
            return Err(late());
        }
        if begin.elapsed() > PATIENCE {
            bail!("the daemon sent nothing for {} s", PATIENCE.as_secs());
        }
        Ok(())
    }

    fn pong(&mut self, ping: std::ops::Range<usize>) -> Result<()> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Opcode::Pong, self.inbox.raw(ping));
        self.stream
            .write_all(&bytes)
            .context("cannot answer a ping")
    }
}

/// Asks for the upgrade to a WebSocket. Frames that arrive together with the answer go to the inbox.
fn upgrade(stream: &mut TcpStream, addr: SocketAddr, inbox: &mut Inbox) -> Result<()> {
    let key = generate_key();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece)? {
            0 => bail!("the answer ended early"),
            _ if answer.len() > LONGEST_ANSWER => bail!("the answer has no end"),
            count => answer.extend_from_slice(&piece[..count]),
        }
    };
    let (head, frames) = answer.split_at(end);
    check_answer(
        &String::from_utf8_lossy(head),
        &derive_accept_key(key.as_bytes()),
    )?;
    inbox.feed(frames)
}

/// Whether the server speaks WebSocket: status 101 and the proof that it read the key.
fn check_answer(head: &str, proof: &str) -> Result<()> {
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        bail!("the answer was `{status}`");
    }
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let proven = headers.any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == proof
    });
    if proven {
        Ok(())
    } else {
        Err(anyhow!("the answer lacks `Sec-WebSocket-Accept: {proof}`"))
    }
}

fn late() -> anyhow::Error {
    anyhow!("the time limit of the run has passed")
}

/// Appends one unfragmented, masked frame. Requests are far shorter than the 64 KiB at which a longer header begins.
fn push_frame(bytes: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    bytes.push(0x80 | opcode as u8);
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 0x7e);
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    let sent = payload.iter().take(usize::from(u16::MAX));
    bytes.extend(
        sent.zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// Code and text of a close frame, for an error message.
fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, text @ ..] => {
            format!(
                " with code {} {}",
                u16::from_be_bytes([*high, *low]),
                String::from_utf8_lossy(text)
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// A server that upgrades one connection, then writes `bytes`, then returns what it read.
    fn server(bytes: Vec<u8>) -> (SocketAddr, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let socket = tungstenite::accept(stream).unwrap();
            let mut stream = socket.get_ref().try_clone().unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut read = Vec::new();
            stream.read_to_end(&mut read).unwrap();
            read
        });
        (addr, thread)
    }

    fn connect(addr: SocketAddr) -> Connection {
        Connection::open(addr, Instant::now() + Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn messages_come_in_order_and_pings_are_answered_between_them() {
        let mut bytes = b"\x81\x02{}".to_vec();
        bytes.extend(b"\x89\x02hi");
        bytes.extend(b"\x81\x03[1]");
        let (addr, server) = server(bytes);
        let mut connection = connect(addr);
        assert_eq!(connection.next().unwrap().bytes(), b"{}");
        assert_eq!(connection.next().unwrap().bytes(), b"[1]");
        let error = connection.next().unwrap_err();
        assert_eq!(error.to_string(), "the daemon dropped the connection");
        drop(connection);
        let mut pong = Vec::new();
        push_frame(&mut pong, Opcode::Pong, b"hi");
        assert_eq!(server.join().unwrap(), pong);
    }

    #[test]
    fn a_close_frame_ends_with_its_reason() {
        let (addr, server) = server(b"\x88\x06\x03\xf0slow".to_vec());
        let error = connect(addr).next().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the daemon closed the connection with code 1008 slow"
        );
        server.join().unwrap();
    }

    #[test]
    fn requests_are_masked_and_can_be_read_by_a_strict_server() {
        let long = "x".repeat(300);
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Opcode::Text, b"abc");
        push_frame(&mut bytes, Opcode::Text, long.as_bytes());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            [socket.read().unwrap(), socket.read().unwrap()]
                .map(|message| message.into_text().unwrap().to_string())
        });
        let mut connection = connect(addr);
        connection.send_all(["abc", &long].into_iter()).unwrap();
        assert_eq!(server.join().unwrap(), ["abc".to_owned(), long]);
    }

    #[test]
    fn an_answer_without_upgrade_or_proof_is_refused() {
        let refusal = check_answer("HTTP/1.1 403 Forbidden\r\n\r\n", "p=").unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the answer was `HTTP/1.1 403 Forbidden`"
        );
        assert!(
            check_answer(
                "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: q=\r\n\r\n",
                "p="
            )
            .is_err()
        );
        assert!(
            check_answer(
                "HTTP/1.1 101 Switching Protocols\r\nSEC-WebSocket-Accept: p=\r\n\r\n",
                "p="
            )
            .is_ok()
        );
    }

    #[test]
    fn a_passed_deadline_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server =
            std::thread::spawn(move || tungstenite::accept(listener.accept().unwrap().0).unwrap());
        let mut connection = Connection::open(addr, Instant::now()).unwrap();
        let _open = server.join().unwrap();
        assert_eq!(
            connection.next().unwrap_err().to_string(),
            "the time limit of the run has passed"
        );
    }
}
