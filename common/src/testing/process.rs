//! Processes as the system sees them: whether they live, and waiting for their end.

use std::process::{Child, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Whether a process exists and runs; one that ended and was not collected yet does not.
#[cfg(target_os = "linux")]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The processes that have `pid` as their parent now.
#[cfg(target_os = "linux")]
pub fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|stat| stat.parent == pid))
        .collect()
}

#[cfg(target_os = "linux")]
struct Stat {
    state: char,
    parent: u32,
}

/// The state and parent in `/proc/<pid>/stat`. The name before them is in parentheses and may hold
/// any character.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
    })
}

/// Waits for the end of a child, at most until the deadline.
///
/// The waiting thread does not collect the child: as long as this value's owner has not, its pid
/// means no other process.
#[cfg(unix)]
pub(super) fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_child(child);
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(pid), options).err() == Some(rustix::io::Errno::INTR) {}
        // Nobody waits any more after the deadline.
        let _ = ended.send(());
    });
    match end.recv_timeout(deadline) {
        Ok(()) => child.wait().ok(),
        Err(_) => child.try_wait().ok().flatten(),
    }
}

/// Waits for the end of a child, at most until the deadline, by asking.
#[cfg(not(unix))]
pub(super) fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let started = std::time::Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if started.elapsed() < deadline => thread::sleep(Duration::from_millis(5)),
            status => return status.ok().flatten(),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_is_alive_until_it_ends_and_not_while_it_is_uncollected() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(is_alive(child.id()));
        assert!(children(std::process::id()).contains(&child.id()));
        drop(child.stdin.take());
        let pid = child.id();
        super::super::eventually(super::super::patience(), || (!is_alive(pid)).then_some(()));
        assert!(wait(&mut child, Duration::from_secs(30)).unwrap().success());
        assert!(!is_alive(pid));
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(wait(&mut child, Duration::from_millis(10)).is_none());
        drop(child.stdin.take());
        assert!(wait(&mut child, Duration::from_secs(30)).unwrap().success());
    }
}
