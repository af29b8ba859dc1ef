//! The life of the plugin, top to bottom: called, bound, announced, served, ended.
//!
//! It ends when the agent says so, or at SIGTERM, at once and whatever is still open: the agent waits two seconds before it
//! kills. It does not end when the agent goes away, since the next one finds it by its pid and its socket. Tasks are not
//! stopped in either case.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use runyard_common::{exit::Exit, memory, report::Failure};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    handshake::{self, Call, LONGEST_SOCKET, Refusal},
    registry::Engine,
    server::{Ending, Plugin},
};

/// How long the last reply may take to leave this process.
const FAREWELL: Duration = Duration::from_millis(20);

/// A variable of the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Serves until the agent wishes an end. `output` is the standard output, on which nothing else is ever written; the log
/// on standard error must have been started already, in hclog's form.
pub fn run<E: Engine>(
    engine: E,
    lookup: Lookup<'_>,
    output: &mut impl Write,
) -> Result<Exit, Failure> {
    let call = handshake::call(lookup).map_err(refuse)?;
    log_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, "cannot start the runtime").caused_by(error))?;
    let result = runtime.block_on(serve(engine, &call, lookup, output));
    // What still runs, a probe of a JVM perhaps, must not keep the process.
    runtime.shutdown_background();
    result.map(|()| Exit::Done)
}

fn refuse(refusal: Refusal) -> Failure {
    let failure = Failure::new(Exit::Failed, refusal.to_string());
    match refusal {
        Refusal::NotCalled => failure
            .hint("to run a JAR without Nomad: milo-driver run app.jar")
            .hint("to see whether this machine is ready: milo-driver doctor"),
        Refusal::Tls => failure,
    }
}

async fn serve<E: Engine>(
    engine: E,
    call: &Call,
    lookup: Lookup<'_>,
    output: &mut impl Write,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Failed, "cannot listen for the agent").caused_by(error)
    };
    let socket = Socket::new(&places(call, lookup)).map_err(failed)?;
    let listener = socket.bind().map_err(failed)?;
    let plugin = Plugin::new(engine);
    let ending = plugin.ending().clone();
    heed_signals(&ending).map_err(failed)?;
    call.answer(output, &socket.path).map_err(|error| {
        Failure::new(Exit::Failed, "cannot tell the agent where to connect").caused_by(error)
    })?;
    // What could not be given back is kept.
    let _ = memory::release_startup_pages();
    tracing::debug!(socket = %socket.path.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    tokio::select! {
        served = plugin.serve(listener) => {
            served.map_err(|error| Failure::new(Exit::Failed, "the server failed").caused_by(error))
        }
        () = ending.wished() => {
            tokio::time::sleep(FAREWELL).await;
            Ok(())
        }
    }
}

/// Where the socket may be, the best first.
fn places(call: &Call, lookup: Lookup<'_>) -> Vec<PathBuf> {
    let temporary = lookup("TMPDIR")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let named = [call.socket_dir.clone(), temporary];
    named
        .into_iter()
        .flatten()
        .chain([PathBuf::from("/tmp")])
        .collect()
}

/// The socket, in a folder of its own that only this user may enter. Both go with the value.
struct Socket {
    path: PathBuf,
    _dir: TempDir,
}

impl Socket {
    fn new(places: &[PathBuf]) -> io::Result<Self> {
        let mut problem = io::Error::new(io::ErrorKind::NotFound, "there is no place for a socket");
        for place in places {
            match Self::in_place(place) {
                Ok(socket) => return Ok(socket),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn in_place(place: &Path) -> io::Result<Self> {
        let private = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new()
            .prefix("milo-")
            .permissions(private)
            .tempdir_in(place)?;
        let path = dir.path().join("plugin.sock");
        let length = path.as_os_str().as_bytes().len();
        if length > LONGEST_SOCKET || !path.is_absolute() {
            let text = format!(
                "`{}` is no path for a socket: it must be absolute and have {LONGEST_SOCKET} bytes at most",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { path, _dir: dir })
    }

    fn bind(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&self.path)?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

/// SIGTERM ends. SIGINT does nothing: it reaches the whole process group when somebody stops an agent at a terminal, and
/// the agent will say by itself what it wants. It is handled, not ignored, so that no container inherits that.
fn heed_signals(ending: &Ending) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ending = ending.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => ending.wish(),
                _ = interrupt.recv() => tracing::debug!("an interrupt was ignored: the agent decides"),
            }
        }
    });
    Ok(())
}

/// An agent takes a panic's own words for debug messages, so it is told in the log's form, too.
fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "a bug of this driver");
        usual(panic);
    }));
}

#[cfg(test)]
mod tests;
