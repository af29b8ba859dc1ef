//! What a killed run left: its programs, its containers, its folder. For whoever finds that a run has died without a result; a
//! run that lives is left alone by nobody calling this for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    descendants::{self, Process},
    enclosure::Enclosure,
    halt::Halt,
    log::Log,
    place,
    session::Session,
    stop::Stop,
    store::Buildah,
    work::{Task, Work},
};

/// What was found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many programs still ran.
    pub programs: usize,
    /// Buildah's ids of the containers that were there.
    pub containers: Vec<String>,
}

/// Ends and removes what a run that is dead has left: programs, working containers with their mounts, files. Nothing of any
/// other run is touched. Must not be called for a run whose `run-phase` lives. Blocks; fails if the store cannot be used, or
/// Buildah is missing.
pub fn sweep(work: &Work) -> io::Result<Swept> {
    if !matches!(work.task, Task::Build { .. } | Task::Test { .. }) {
        // Others start no programs.
        return Ok(Swept::default());
    }
    let swept = || {
        super::keep_mounts_to_ourselves();
        let mut session = Session {
            work,
            stop: Stop::default(),
            log: Log::new(io::sink()),
            environment: std::env::vars_os().collect(),
            enclosure: None,
            programs: None,
            variables: Vec::new(),
            step: None,
        };
        swept(&mut session).map_err(|halt| match halt {
            Halt::Failed(failure) => io::Error::other(failure.message),
            Halt::Stopped => io::Error::from(io::ErrorKind::Interrupted),
        })
    };
    // A thread of its own can have mounts of its own, whatever else goes on in this process.
    let ended = std::thread::scope(|scope| scope.spawn(swept).join());
    ended.unwrap_or_else(|_| Err(io::Error::other("sweeping panicked")))
}

fn swept(session: &mut Session<'_>) -> Result<Swept, Halt> {
    let work = session.work;
    if work
        .storage
        .root
        .as_ref()
        .is_some_and(|root| !root.exists())
    {
        return Ok(Swept::default());
    }
    let buildah = Buildah::open(session, &work.storage)?;
    let ground = buildah.ground();
    let folder = ground.run(work);
    let ended = programs(&folder);
    let mut containers = buildah.containers(&folder, &place::name(work));
    let lock = ground.lock();
    let alone = lock.is_ok_and(|lock| {
        let alone = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if alone {
            // Whoever made these died before it could say whose they are, and nobody else is here.
            containers.extend(buildah.undescribed());
            let removed = buildah.remove(session, &containers);
            return removed.is_ok();
        }
        false
    });
    if !alone {
        buildah.remove(session, &containers)?;
    }
    match place::discard(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Halt::io(folder.display(), &error));
        }
        _ => {}
    }
    Ok(Swept {
        programs: ended,
        containers,
    })
}

/// Kills the programs of the run with this folder. They are known by what the run wrote down, by the control group, and by
/// the folder itself, if they work in it.
pub(super) fn programs(folder: &Path) -> usize {
    let sessions = sessions(folder);
    let mut killed = 0;
    // Ones that are forked meanwhile are found in the next round.
    for _ in 0..64 {
        let found: Vec<Process> = descendants::all()
            .filter(|process| process.state != 'Z' && is_of(process, folder, &sessions))
            .collect();
        if found.is_empty() {
            break;
        }
        killed += found
            .iter()
            .filter(|process| descendants::end(process))
            .count();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    if let Ok(group) = fs::read_to_string(folder.join("cgroup")) {
        Enclosure::at(Path::new(&group)).remove();
    }
    killed
}

/// The sessions that a run's programs led: numbers, and when their leaders began.
fn sessions(folder: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(folder.join("programs")).unwrap_or_default();
    let pair = |line: &str| {
        let (pid, began) = line.split_once(' ')?;
        Some((pid.parse().ok()?, began.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A session's number is free for others only when nobody is left in it. So members of a session whose leader is gone or is the
/// one written down are the run's; if another process has the number, they are not.
fn is_of(process: &Process, folder: &Path, sessions: &[(i32, u64)]) -> bool {
    let led = sessions.iter().any(|(pid, began)| {
        process.session == *pid
            && process.began >= *began
            && descendants::process(*pid).is_none_or(|leader| leader.began == *began)
    });
    led || works_in(process.pid, folder)
}

/// Whether a process has the run's folder as its root or working folder: steps do, below Buildah's temporary folder, which is
/// the run's.
fn works_in(pid: i32, folder: &Path) -> bool {
    let link =
        |name: &str| -> Option<PathBuf> { fs::read_link(format!("/proc/{pid}/{name}")).ok() };
    ["root", "cwd"]
        .iter()
        .filter_map(|name| link(name))
        .any(|path| path.starts_with(folder))
}
