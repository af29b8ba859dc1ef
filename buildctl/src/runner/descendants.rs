//! The processes below one process: who they are, and their end. What they are for is nobody's business here.

use std::{fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait};

/// Kills everything below `pid`, and what is forked meanwhile; not `pid` itself.
pub(super) fn kill(pid: Pid) {
    // Whoever is forked while this looks has a parent that the next round no longer finds.
    for _ in 0..64 {
        let below = below(pid);
        if below.is_empty() {
            return;
        }
        for process in &below {
            end(process);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills and collects everything that is below this process, which adopts its orphans. To be called by whoever started no
/// program that it still waits for.
pub(super) fn kill_own() {
    let own = rustix::process::getpid();
    for _ in 0..64 {
        let below = below(own);
        if below.is_empty() {
            return;
        }
        for process in &below {
            end(process);
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills a process that was seen, and no other that has its number by now: its parent may have collected it meanwhile. Says
/// whether it was there to be killed.
pub(super) fn end(seen: &Process) -> bool {
    let handle = Pid::from_raw(seen.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at once more after it is held: from then on the number is its own.
    handle
        .filter(|_| process(seen.pid).is_some_and(|now| now.began == seen.began))
        .is_some_and(|handle| pidfd_send_signal(handle, Signal::KILL).is_ok())
}

/// All processes below one, those that have ended and were not collected left out.
fn below(pid: Pid) -> Vec<Process> {
    let processes: Vec<Process> = all().collect();
    let below = |parent: i32| {
        let children = processes
            .iter()
            .filter(move |process| process.parent == parent && process.state != 'Z');
        children.cloned()
    };
    let mut found: Vec<Process> = below(pid.as_raw_nonzero().get()).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        found.extend(below(parent));
        next += 1;
    }
    found
}

/// A process, as `/proc/PID/stat` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: i32,
    /// `R`, `S`, `Z`.
    pub(super) state: char,
    /// Its parent's number.
    pub(super) parent: i32,
    /// Its session's.
    pub(super) session: i32,
    /// When it began, in ticks since the machine did: with the number it names a process for good.
    pub(super) began: u64,
}

/// Every process of this machine that can be seen.
pub(super) fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
}

/// One process.
pub(super) fn process(pid: i32) -> Option<Process> {
    read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may hold anything; the fields behind it count from 3 (proc(5)).
fn read(pid: i32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    Some(Process {
        pid,
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        began: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let stat = "7 (a) R 1 (b) S 3 7 5 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let process = read(7, stat).unwrap();
        assert_eq!(
            (
                process.state,
                process.parent,
                process.session,
                process.began
            ),
            ('S', 3, 5, 4242)
        );
    }

    #[test]
    fn who_has_the_number_of_one_that_was_seen_is_left_alone() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let seen = process(cat.id().cast_signed()).unwrap();
        let other = Process {
            began: seen.began - 1,
            ..seen.clone()
        };
        assert!(!end(&other));
        assert!(end(&seen));
        assert_eq!(cat.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn grandchildren_are_killed_too() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & echo $!; wait; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let grandchild: i32 = line.trim().parse().unwrap();
        kill(Pid::from_child(&shell));
        assert!(process(grandchild).is_none_or(|process| process.state == 'Z'));
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
