//! The end of a run whose process has died without saying how it ended: what it left is removed, and then the end is written
//! down, once, so that everybody sees the same from then on. Whoever notices does it; a lock keeps two from doing it at once.

use std::{fmt, io, io::Write, process::ExitStatus, sync::Arc};

use jiff::Timestamp;
use rustix::process::Signal;

use super::{
    folder::{Begun, RunFolder, RunResult, broken},
    launch,
};
use crate::{
    logs::{Stream, record},
    phase::{Ending, Usage},
    runner::work::Work,
    state::{
        StateRoot, file,
        lock::{self, Lock},
    },
};

/// Removes what a run that died left behind: its working containers, mounts and temporary files. Says what it could not.
pub type Sweep = Arc<dyn Fn(&Work) -> Result<(), String> + Send + Sync>;

/// Writes down the end of a run whose process is dead. Blocks, for as long as sweeping takes.
pub(super) fn settle(
    root: &StateRoot,
    folder: &RunFolder,
    sweep: &Sweep,
    death: &Death,
) -> io::Result<()> {
    let _lock = Lock::exclusive(&folder.settle_file())?;
    let Begun::As { process, at } = folder.begun()? else {
        return Ok(());
    };
    if folder.result_file().exists() || process.is_alive() {
        return Ok(());
    }
    process.kill_what_is_left(&mark(folder));
    // A work that cannot be read, after a power failure say, has left nothing that is mounted.
    let work = folder.work().map_err(|error| error.to_string());
    if let Err(error) = work.and_then(|work| work.map_or(Ok(()), |work| sweep(&work))) {
        tracing::warn!(job = %folder.job, run = %folder.run, error, "not everything of a run was removed");
        note(folder, &format!("left behind: {error}"))?;
    }
    let ending = if folder.is_stopped() {
        Ending::Cancelled
    } else {
        note(folder, &death.to_string())?;
        broken(death.to_string())
    };
    let result = RunResult {
        ending,
        started_at: Some(at),
        ended_at: Some(Timestamp::now()),
        unaccounted: true,
        usage: Usage::default(),
    };
    let bytes = serde_json::to_vec(&result)?;
    file::create(&folder.result_file(), &bytes)?;
    root.ring(folder.job);
    Ok(())
}

/// How a run's process ended that left no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Nobody who is alive has seen it.
    Unseen,
    /// Its parent has.
    Seen(ExitStatus),
    /// The program could not be executed.
    Unborn(String),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::process::ExitStatusExt;
        match self {
            Self::Unseen => f.write_str("the run's process died without a result"),
            Self::Unborn(why) => write!(f, "the run's process could not be started: {why}"),
            Self::Seen(status) => match (status.code(), status.signal()) {
                (_, Some(signal)) if signal == Signal::KILL.as_raw() => f.write_str(
                    "the run's process was killed (signal 9: by somebody, or because memory ran out)",
                ),
                (_, Some(signal)) => write!(f, "the run's process was ended by signal {signal}"),
                (code, None) => write!(
                    f,
                    "the run's process ended with exit code {} and left no result",
                    code.unwrap_or_default()
                ),
            },
        }
    }
}

/// `NAME=value`, as it stands in the environment of each process of the run.
fn mark(folder: &RunFolder) -> String {
    let (name, value) = folder.mark();
    format!("{name}={value}")
}

/// Adds a line to the log of a run that does not write any more.
fn note(folder: &RunFolder, text: &str) -> io::Result<()> {
    let path = folder.log_file();
    let mut bytes = Vec::new();
    // The last words of the dead may have no end.
    if !ends_a_line(&path)? {
        bytes.push(b'\n');
    }
    let text = text.replace('\n', "; ");
    record::write(
        &mut bytes,
        Timestamp::now(),
        Stream::System,
        false,
        text.as_bytes(),
    );
    launch::append(&path)?
        .write_all(&bytes)
        .map_err(|error| file::explained("write", &path, error))
}

fn ends_a_line(path: &std::path::Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let log = lock::open(path)?;
    let length = log.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(before) = length.checked_sub(1) {
        log.read_exact_at(&mut last, before)?;
    }
    Ok(last == [b'\n'])
}
