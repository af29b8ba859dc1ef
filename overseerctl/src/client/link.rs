//! The connection itself: TCP, Unix socket or TLS, made within a deadline and then never blocking by itself. Whoever
//! reads waits with [`Link::wait`]. What is said over it is [`super::Client`]'s business.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use runyard_common::{crypto, exit::Exit, report::Failure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::target::{Place, Target};

/// Where systems keep the certificates of the authorities they trust, as OpenSSL, Go and curl look for them.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];

/// A byte stream to a hub.
#[derive(Debug)]
pub(super) enum Link {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The connection can go on.
    Link,
    /// The other descriptor is readable.
    Other,
    /// The deadline is over.
    Deadline,
}

impl Link {
    /// Connects; reads and writes give up after the target's timeout until [`Link::unblock`].
    pub(super) fn open(target: &Target) -> Result<Self, Failure> {
        match &target.place {
            Place::Unix { path } => {
                let socket =
                    UnixStream::connect(path).map_err(|error| unreachable(target, error))?;
                limit(
                    target,
                    socket.set_read_timeout(Some(target.timeout)),
                    socket.set_write_timeout(Some(target.timeout)),
                )?;
                Ok(Self::Unix(socket))
            }
            Place::Tcp {
                host, port, tls, ..
            } => {
                let socket = dial(host, *port, target.timeout)
                    .map_err(|error| unreachable(target, error))?;
                limit(
                    target,
                    socket.set_read_timeout(Some(target.timeout)),
                    socket.set_write_timeout(Some(target.timeout)),
                )?;
                // Only speed is lost without it.
                let _ = socket.set_nodelay(true);
                if *tls {
                    secure(socket, host, target)
                } else {
                    Ok(Self::Tcp(socket))
                }
            }
        }
    }

    /// From now on reads and writes never block.
    pub(super) fn unblock(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
            Self::Tls(stream) => stream.sock.set_nonblocking(true),
        }
    }

    /// Waits until the link is readable (or `writable`), `other` is readable, or the deadline is over.
    pub(super) fn wait(
        &self,
        writable: bool,
        other: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<Ready> {
        let wanted = if writable {
            PollFlags::OUT
        } else {
            PollFlags::IN
        };
        loop {
            let mut all = vec![PollFd::from_borrowed_fd(self.as_fd(), wanted)];
            all.extend(other.map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left
                .map(Timespec::try_from)
                .transpose()
                .map_err(io::Error::other)?;
            match poll(&mut all, left.as_ref()) {
                Ok(0) => return Ok(Ready::Deadline),
                Ok(_) if !all[0].revents().is_empty() => return Ok(Ready::Link),
                Ok(_) => return Ok(Ready::Other),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn limit(target: &Target, read: io::Result<()>, write: io::Result<()>) -> Result<(), Failure> {
    read.and(write).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("{:?} cannot be used as a timeout", target.timeout),
        )
        .caused_by(error)
    })
}

/// Tries all addresses of a name, one after the other, within one deadline.
fn dial(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn secure(socket: TcpStream, host: &str, target: &Target) -> Result<Link, Failure> {
    let internal =
        |error: rustls::Error| Failure::new(Exit::Internal, "cannot set up TLS").caused_by(error);
    let roots = authorities(target.ca.as_deref())?;
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions();
    let config = config
        .map_err(internal)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("`{host}` is no name that a certificate can hold"),
        )
        .caused_by(error)
    })?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(internal)?;
    Ok(Link::Tls(Box::new(StreamOwned::new(connection, socket))))
}

/// The authorities to trust: those in `ca`, or the system's.
fn authorities(ca: Option<&Path>) -> Result<RootCertStore, Failure> {
    let path = ca
        .map(Path::to_owned)
        .or_else(system_bundle)
        .ok_or_else(|| {
            Failure::new(
                Exit::Config,
                "this system has no file of trusted authorities",
            )
            .hint("name one with --ca FILE")
        })?;
    let unusable = || {
        Failure::new(
            Exit::Config,
            format!("cannot use the certificates in `{}`", path.display()),
        )
    };
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(&path).map_err(|error| unusable().caused_by(error))?
    {
        let added = roots.add(certificate.map_err(|error| unusable().caused_by(error))?);
        // A system's bundle may hold what this library does not understand; a file that was named must be right.
        if ca.is_some() {
            added.map_err(|error| unusable().caused_by(error))?;
        }
    }
    if roots.is_empty() {
        return Err(unusable().hint("the file holds no `BEGIN CERTIFICATE` block"));
    }
    Ok(roots)
}

fn system_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named
        .into_iter()
        .chain(SYSTEM_BUNDLES.map(PathBuf::from))
        .find(|path| path.is_file())
}

/// No hub could be reached.
pub(super) fn unreachable(
    target: &Target,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Failure {
    Failure::new(Exit::Unreachable, format!("cannot reach the hub at {}", target.place))
        .caused_by(error)
        .hint("start one with `overseerctl serve`, or name another with --url; `overseerctl doctor` looks closer")
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.flush(),
            Self::Unix(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
