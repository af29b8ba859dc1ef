//! The files of a control group: small texts of one number, or of a key and a number a line. Both versions share their
//! manners; which files there are is known only to `v1` and `v2`.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::process::Stat;

/// How long a group may take to become empty once everything in it was killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before looking again. Emptying has an event on version 2 only, and ends within a round or two.
const ROUND: Duration = Duration::from_millis(2);

/// A file's text; an error names the file.
pub(super) fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| named(path, &error))
}

/// Writes a value to a file that exists; an error names the file.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|error| named(path, &error))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(|error| named(path, &error))
}

/// The number in a file, if there is one: a missing file and `max` are none.
pub(super) fn number(path: &Path) -> Option<u64> {
    text(path).ok()?.trim().parse().ok()
}

/// The number after `key` in a text of a key and a number a line.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
}

/// What stands for "there is no such group": `instead`, not an error. A group removed while it is read gives `ENODEV`.
pub(super) fn absent_is<T>(answer: io::Result<T>, instead: T) -> io::Result<T> {
    match answer {
        Err(error) if is_absent(&error) => Ok(instead),
        answer => answer,
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) {
        return io::Error::new(io::ErrorKind::NotFound, format!("{}: gone", path.display()));
    }
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A group and all groups below it, the deepest first.
pub(super) fn groups(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(group).map_err(|error| named(group, &error))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A group below that vanishes meanwhile is no loss.
            found.extend(groups(&entry.path()).unwrap_or_default());
        }
    }
    found.push(group.to_owned());
    Ok(found)
}

/// The processes of a group and of all groups below it.
pub(super) fn pids(group: &Path) -> io::Result<Vec<i32>> {
    let mut pids = BTreeSet::new();
    for folder in groups(group)? {
        let procs = absent_is(text(&folder.join("cgroup.procs")), String::new())?;
        pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    // A process of another pid namespace shows as 0, and 0 would be ourselves.
    Ok(pids.into_iter().filter(|pid| *pid > 0).collect())
}

/// Removes a group and those below it.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    for folder in absent_is(groups(group), Vec::new())? {
        let removed = remove_one(&folder).map_err(|error| named(&folder, &error));
        absent_is(removed, ())?;
    }
    Ok(())
}

/// Removes a group without groups below it. One whose processes have ended is in use for a moment more: Linux takes a process
/// out of its group after everybody can see that it has ended.
fn remove_one(folder: &Path) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let removed = fs::remove_dir(folder);
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
        if !removed.as_ref().is_err_and(is_busy)
            || begun.elapsed() > PATIENCE
            || pids(folder)?.into_iter().any(lives)
        {
            return removed;
        }
        thread::sleep(ROUND);
    }
}

/// Kills every process of the group that is there now. A pid is never trusted alone: it is held by a pidfd, and looked
/// for in the group once more, before anything is sent.
pub(super) fn kill_each(group: &Path) -> io::Result<()> {
    let held: Vec<_> = pids(group)?
        .into_iter()
        .filter_map(|pid| {
            Some((
                pid,
                pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?,
            ))
        })
        .collect();
    let still = pids(group)?;
    for (pid, process) in held {
        if still.binary_search(&pid).is_ok() {
            // It can only have ended meanwhile.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
    Ok(())
}

/// Whether a process has not ended. One that has, and that nobody has collected yet, stays in its group's list where version 1
/// keeps it, and no signal changes that.
fn lives(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|stat| !stat.is_over)
}

/// Does `round` again and again until nobody is left who lives.
pub(super) fn until_empty(
    group: &Path,
    mut round: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let mut left = pids(group)?;
        left.retain(|pid| lives(*pid));
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let message = format!("{}: {left:?} cannot be killed", group.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        round()?;
        thread::sleep(ROUND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_and_was_not_collected_is_not_waited_for() {
        let group = runyard_common::testing::tempdir();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        fs::write(group.path().join("cgroup.procs"), format!("{pid}\n")).unwrap();
        runyard_common::testing::eventually(runyard_common::testing::patience(), || {
            (!lives(pid)).then_some(())
        });
        until_empty(group.path(), || panic!("nobody is there to be killed")).unwrap();
        assert!(lives(std::process::id().cast_signed()));
        child.wait().unwrap();
    }

    #[test]
    fn a_key_is_matched_as_a_whole() {
        let text = "oom 3\noom_kill 2\noom_kill_disable 0\n";
        assert_eq!(value(text, "oom"), Some(3));
        assert_eq!(value(text, "oom_kill"), Some(2));
        assert_eq!(value(text, "oom_k"), None);
    }
}
