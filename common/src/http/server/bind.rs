//! From an address to a bound socket. Nothing is accepted here; that is [`super::accept`].

#[cfg(unix)]
mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket};

use super::listen::Listen;
use crate::exit::Exit;
use crate::report::Failure;

/// How to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindOptions {
    /// Permissions of a Unix socket.
    pub unix_mode: u32,
    /// How many connections may wait to be accepted.
    pub backlog: u32,
    /// Bytes the kernel holds for a TCP peer that does not read, instead of growing with the connection. A writer that
    /// watches for progress sees it in steps of a third of this.
    pub send_buffer: Option<u32>,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            unix_mode: 0o600,
            backlog: 1024,
            send_buffer: None,
        }
    }
}

/// A socket that is bound and takes connections into its backlog. Dropping it closes it and removes
/// a Unix socket's file.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: Listener,
    address: Address,
}

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::UnixSocketFile),
}

/// The address that a daemon listens on, with the port that it really got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the Unix socket, if it is one.
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    /// Where it listens, for the announcement: `127.0.0.1:41234` or `unix:/run/hub.sock`.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Binds with the default options. See [`bind_with`].
pub async fn bind(listen: &Listen) -> Result<Bound, Failure> {
    bind_with(listen, &BindOptions::default()).await
}

/// Binds a socket.
///
/// A Unix socket is guarded by a lock file beside it (`hub.sock.lock`): a socket that a dead daemon
/// left behind is replaced, one that is in use is not, and a file that is no socket is never
/// touched. Its permissions hold from the moment it exists.
///
/// Fails with [`Exit::Failed`], naming the address and who may hold it.
pub async fn bind_with(listen: &Listen, options: &BindOptions) -> Result<Bound, Failure> {
    let bound = match listen {
        Listen::Tcp { host, port } => bind_tcp(host, *port, *options).await,
        Listen::Unix { path } => bind_unix(path, *options),
    };
    bound.map_err(|error| refuse(listen, error))
}

fn refuse(listen: &Listen, error: io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it, or choose another address with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 on, or a directory that you may write to"
        }
        io::ErrorKind::AddrNotAvailable => "the host is not an address of this machine",
        _ => "choose another address with --listen",
    };
    Failure::new(Exit::Failed, format!("cannot listen on {listen}"))
        .caused_by(error)
        .hint(hint)
}

async fn bind_tcp(host: &str, port: u16, options: BindOptions) -> io::Result<Bound> {
    if host.is_empty() {
        // `[::]` takes IPv4 too; a machine without IPv6 has only the second.
        return bind_everywhere(port, options)
            .or_else(|_| listen_on(([0, 0, 0, 0], port).into(), options).and_then(Bound::tcp));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match listen_on(address, options) {
            Ok(listener) => return Bound::tcp(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_everywhere(port: u16, options: BindOptions) -> io::Result<Bound> {
    let socket = TcpSocket::new_v6()?;
    #[cfg(unix)]
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    bind_socket(
        socket,
        (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
        options,
    )
    .and_then(Bound::tcp)
}

fn listen_on(address: SocketAddr, options: BindOptions) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    bind_socket(socket, address, options)
}

fn bind_socket(
    socket: TcpSocket,
    address: SocketAddr,
    options: BindOptions,
) -> io::Result<TcpListener> {
    // On Unix this lets a daemon restart while its old connections linger; on Windows it would let
    // others take the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = options.send_buffer {
        // Connections inherit it from the socket that accepts them.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(options.backlog)
}

impl Bound {
    fn tcp(listener: TcpListener) -> io::Result<Self> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self {
            listener: Listener::Tcp(listener),
            address,
        })
    }
}

#[cfg(unix)]
fn bind_unix(path: &Path, options: BindOptions) -> io::Result<Bound> {
    let socket = unix::UnixSocketFile::bind(path, options)?;
    Ok(Bound {
        listener: Listener::Unix(socket),
        address: Address::Unix(path.to_owned()),
    })
}

#[cfg(not(unix))]
fn bind_unix(_: &Path, _: BindOptions) -> io::Result<Bound> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system has no Unix sockets",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    #[tokio::test]
    async fn port_0_gives_a_free_port_that_is_named() {
        let bound = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.address().tcp().unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(
            bound.address().to_string(),
            format!("127.0.0.1:{}", address.port())
        );
    }

    #[tokio::test]
    async fn every_interface_takes_ipv4() {
        let bound = bind(&":0".parse().unwrap()).await.unwrap();
        let port = bound.address().tcp().unwrap().port();
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_a_way_out() {
        let bound = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let taken = bound.address().to_string();
        let failure = bind(&taken.parse().unwrap()).await.unwrap_err();
        let text = report::render(&failure.into(), false);
        assert!(
            text.starts_with(&format!("error: cannot listen on {taken}\n  caused by: ")),
            "{text}"
        );
        assert!(text.ends_with("hint: another process listens there: stop it, or choose another address with --listen\n"));
    }
}
