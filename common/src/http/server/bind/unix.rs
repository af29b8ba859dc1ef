//! A Unix socket as a file: who may create it, who may replace it, and who removes it.
//!
//! ```text
//! lock hub.sock.lock ──held──▶ refuse: a daemon lives
//!        │ got it
//! look at hub.sock ──no socket──▶ refuse: never touch what is not ours
//!        │ nothing there, or a socket that nobody answers (removed)
//! bind hub.sock, permissions first ──▶ listen ──▶ drop: remove socket, then lock
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use tokio::net::{UnixListener, UnixSocket};

use super::BindOptions;

/// A listening Unix socket with its file, which goes when this is dropped.
#[derive(Debug)]
pub(in super::super) struct UnixSocketFile {
    pub(in super::super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, to remove no other one.
    identity: (u64, u64),
    // Dropped last: whoever gets the lock finds the socket gone.
    _lock: Lock,
}

impl UnixSocketFile {
    pub(super) fn bind(path: &Path, options: BindOptions) -> io::Result<Self> {
        let lock = Lock::take(path)?;
        clear_the_way(path)?;
        let socket = UnixSocket::new_stream()?;
        // Linux creates the file with the mode of the socket itself: there is no moment with wider
        // permissions.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(options.unix_mode))?;
        socket.bind(path)?;
        // The umask may have taken permissions away that were wished.
        fs::set_permissions(path, fs::Permissions::from_mode(options.unix_mode))?;
        let listener = socket.listen(options.backlog)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(&fs::symlink_metadata(path)?),
            _lock: lock,
        })
    }
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            // If it cannot be removed now, the next daemon finds it dead and removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Makes sure that nothing lives at `path`, removing a socket whose daemon is dead.
fn clear_the_way(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file there is no socket and is left alone",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a process answers at this socket",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The right to create and remove one socket, held against other daemons by a locked file beside
/// it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(socket: &Path) -> io::Result<Self> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let mut options = File::options();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "a running daemon holds its lock",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
            // A daemon that ended between our open and our lock has removed the file: then the lock
            // guards nothing.
            let current = fs::symlink_metadata(&path).ok();
            if current.is_some_and(|current| {
                file.metadata()
                    .is_ok_and(|ours| identity(&ours) == identity(&current))
            }) {
                return Ok(Self { path, file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody else can hold a lock on the file that goes.
        let _ = fs::remove_file(&self.path);
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    fn bind(path: &Path) -> io::Result<UnixSocketFile> {
        UnixSocketFile::bind(path, BindOptions::default())
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        let socket = bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(directory.path()), ["hub.sock", "hub.sock.lock"]);
        drop(socket);
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn wider_permissions_hold_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        let _socket = UnixSocketFile::bind(
            &path,
            BindOptions {
                unix_mode: 0o666,
                ..BindOptions::default()
            },
        )
        .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o666
        );
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        let _first = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_socket_that_somebody_serves_without_a_lock_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        let _other = StdListener::bind(&path).unwrap();
        assert_eq!(
            bind(&path).unwrap_err().to_string(),
            "a process answers at this socket"
        );
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            bind(&path).unwrap_err().to_string(),
            "the file there is no socket and is left alone"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(names(directory.path()), ["notes.txt"]);
    }

    #[tokio::test]
    async fn a_socket_that_replaced_ours_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        let ours = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = StdListener::bind(&path).unwrap();
        drop(ours);
        assert!(UnixStream::connect(&path).is_ok());
    }
}
