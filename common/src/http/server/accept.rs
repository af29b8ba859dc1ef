//! From a bound socket to connections: accept, then (in the connection's own task) the TLS
//! handshake. What is spoken on a connection is the caller's; [`super::serve`] speaks HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::bind::{Address, Bound, Listener};
use super::tls::Tls;

/// A connection as bytes, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An established connection.
pub type Io = Box<dyn Stream>;

/// Who is at the other end. Under [`super::serve`] every request carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP connection; an IPv4 address is never written as IPv6.
    Tcp(SocketAddr),
    /// A Unix socket: the process that connected, as the kernel knows it.
    Unix {
        /// User of the process.
        uid: u32,
        /// Group of the process.
        gid: u32,
        /// The process, where the system tells.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The address of a TCP peer.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix { .. } => None,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix {
                uid,
                pid: Some(pid),
                ..
            } => write!(f, "unix(uid {uid}, pid {pid})"),
            Self::Unix { uid, .. } => write!(f, "unix(uid {uid})"),
        }
    }
}

/// Accepts connections from one bound socket.
#[derive(Debug)]
pub struct Acceptor {
    bound: Bound,
    tls: Option<Tls>,
    handshake_timeout: Duration,
}

impl Acceptor {
    /// How long accepting rests when the process has no file or memory left for a connection.
    const PAUSE: Duration = Duration::from_millis(100);

    /// An acceptor; with `tls`, connections are encrypted.
    pub fn new(bound: Bound, tls: Option<Tls>) -> Self {
        Self {
            bound,
            tls,
            handshake_timeout: Duration::from_secs(10),
        }
    }

    /// Sets how long a TLS handshake may take; 10 s without it.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake_timeout = limit;
        self
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.bound.address()
    }

    /// Waits for the next connection.
    ///
    /// Outlives what happens to single connections and a lack of files or memory, which it logs; an
    /// error means that the socket itself is broken. Cancelling it loses no connection.
    pub async fn accept(&self) -> io::Result<Connecting> {
        loop {
            let error = match self.accept_once().await {
                Ok((io, peer)) => {
                    let tls = self.tls.clone();
                    return Ok(Connecting {
                        io,
                        peer,
                        tls,
                        handshake_timeout: self.handshake_timeout,
                    });
                }
                Err(error) => error,
            };
            match Verdict::on(&error) {
                Verdict::NextPlease => {
                    tracing::debug!(%error, "connection lost before it was accepted");
                }
                Verdict::Rest => {
                    tracing::warn!(%error, pause = ?Self::PAUSE, "cannot accept connections, trying again");
                    tokio::time::sleep(Self::PAUSE).await;
                }
                Verdict::Broken => return Err(error),
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Io, Peer)> {
        match &self.bound.listener {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are small and a person or program waits for them.
                stream.set_nodelay(true)?;
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                Ok((Box::new(stream), Peer::Tcp(address)))
            }
            #[cfg(unix)]
            Listener::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let peer = stream.peer_cred()?;
                let peer = Peer::Unix {
                    uid: peer.uid(),
                    gid: peer.gid(),
                    pid: peer.pid(),
                };
                Ok((Box::new(stream), peer))
            }
        }
    }
}

/// What an error of `accept` means for the next one.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// This connection only.
    NextPlease,
    /// Nothing can be accepted until files or memory are free again.
    Rest,
    /// Nothing will ever be accepted again.
    Broken,
}

impl Verdict {
    fn on(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::PermissionDenied
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::Interrupted => Self::NextPlease,
            Kind::OutOfMemory => Self::Rest,
            _ if out_of_files(error) => Self::Rest,
            _ => Self::Broken,
        }
    }
}

#[cfg(unix)]
fn out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS)
    )
}

#[cfg(not(unix))]
fn out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(10_024 | 10_055)) // WSAEMFILE, WSAENOBUFS
}

/// A connection that was accepted and is not established yet.
pub struct Connecting {
    io: Io,
    peer: Peer,
    tls: Option<Tls>,
    handshake_timeout: Duration,
}

impl Connecting {
    /// Who connects.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Carries out the TLS handshake, if there is one. To be awaited in the connection's own task:
    /// a slow client must not hold up the others.
    pub async fn establish(self) -> io::Result<Io> {
        let Some(tls) = self.tls else {
            return Ok(self.io);
        };
        match timeout(self.handshake_timeout, tls.acceptor.accept(self.io)).await {
            Ok(stream) => Ok(Box::new(stream?)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the TLS handshake took too long",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::bind;

    #[cfg(unix)]
    #[test]
    fn a_lack_of_files_is_waited_out_and_a_broken_socket_is_not() {
        use rustix::io::Errno;
        let verdict =
            |errno: Errno| Verdict::on(&io::Error::from_raw_os_error(errno.raw_os_error()));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(verdict(errno), Verdict::Rest, "{errno:?}");
        }
        for errno in [Errno::CONNABORTED, Errno::PERM, Errno::NETDOWN, Errno::INTR] {
            assert_eq!(verdict(errno), Verdict::NextPlease, "{errno:?}");
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            assert_eq!(verdict(errno), Verdict::Broken, "{errno:?}");
        }
    }

    #[tokio::test]
    async fn an_ipv4_peer_is_not_written_as_ipv6() {
        let acceptor = Acceptor::new(bind(&":0".parse().unwrap()).await.unwrap(), None);
        let port = acceptor.address().tcp().unwrap().port();
        let client = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let connecting = acceptor.accept().await.unwrap();
        assert_eq!(connecting.peer(), Peer::Tcp(client.local_addr().unwrap()));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_peer_is_the_process_that_connected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let listen = crate::http::server::Listen::Unix { path: path.clone() };
        let acceptor = Acceptor::new(bind(&listen).await.unwrap(), None);
        let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let Peer::Unix { uid, pid, .. } = acceptor.accept().await.unwrap().peer() else {
            panic!("no unix peer")
        };
        assert_eq!(uid, rustix::process::getuid().as_raw());
        assert_eq!(pid, i32::try_from(std::process::id()).ok());
    }
}
