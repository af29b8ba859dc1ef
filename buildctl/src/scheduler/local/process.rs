//! Processes that are told from others by more than a number: a pid, when it began, and in which boot of the machine. Numbers
//! are used again; nothing is signalled that is not the very process that was started.

use std::{fs, io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What is known of a process that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Its number, which is the number of its session too.
    pub(super) pid: i32,
    /// When it began, in clock ticks since the boot: field 22 of `/proc/<pid>/stat`, proc(5).
    pub(super) start: u64,
    /// The boot's id.
    pub(super) boot: String,
}

impl Evidence {
    /// From the text form `PID START BOOT`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok().filter(|pid| *pid > 0)?,
            start: words.next()?.parse().ok()?,
            boot: words.next()?.to_owned(),
        })
    }

    /// Of a process that is long gone.
    pub(super) fn of_nobody() -> Self {
        Self {
            pid: i32::MAX,
            start: 0,
            boot: "none".to_owned(),
        }
    }

    /// A handle on the process, if it still runs. A zombie does not.
    pub(super) fn open(&self) -> Option<OwnedFd> {
        if self.boot != boot_id() {
            return None;
        }
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after it is held: the number cannot pass to another one any more.
        let stat = Stat::of(self.pid)?;
        (stat.start == self.start && stat.is_alive()).then_some(handle)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.open().is_some()
    }

    /// Sends a signal, if the process still runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(handle) = self.open() {
            // It may end at this moment.
            let _ = pidfd_send_signal(handle, signal);
        }
    }

    /// Kills what a runner that is dead has left running: its session, and whatever carries its mark in the environment.
    pub(super) fn kill_what_is_left(&self, mark: &str) {
        // A process that has the number now would have a session of the same number.
        let is_reused = Stat::of(self.pid).is_some_and(|stat| stat.start != self.start);
        let session = (!is_reused && self.boot == boot_id()).then_some(self.pid);
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        for pid in pids().filter(|pid| *pid != own) {
            let Some(handle) =
                Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            else {
                continue;
            };
            let is_in_session = Stat::of(pid)
                .is_some_and(|stat| Some(stat.session) == session && stat.start >= self.start);
            if is_in_session || has_mark(pid, mark) {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }
}

/// Some fields of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    session: i32,
    start: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Allocates nothing, so that a child may use it between fork and exec.
    fn parse(stat: &[u8]) -> Option<Self> {
        // The name, field 2, may hold anything, parentheses too.
        let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
        let mut fields = rest.split(|byte| *byte == b' ').skip(1);
        let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse::<u64>().ok();
        let state = *fields.next()?.first()?;
        // From field 3 on: ppid, pgrp, session.
        let session = number(fields.nth(2))?;
        let start = number(fields.nth(15))?;
        Some(Self {
            state,
            session: i32::try_from(session).ok()?,
            start,
        })
    }

    fn is_alive(self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_mark(pid: i32, mark: &str) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

/// The id of this boot of the machine; the same for all processes, empty if the kernel does not tell.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Writes `PID START BOOT` of the calling process into `file`. Allocates nothing: for a child between fork and exec.
pub(super) fn write_own_evidence(file: &fs::File, boot: &str) -> io::Result<()> {
    let mut stat = [0_u8; 1024];
    let length = {
        let proc = rustix::fs::open(
            c"/proc/self/stat",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        rustix::io::read(&proc, &mut stat)?
    };
    let start = Stat::parse(&stat[..length])
        .map(|stat| stat.start)
        .ok_or(rustix::io::Errno::INVAL)?;
    let mut text = Line::default();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    io::Write::write_fmt(&mut text, format_args!("{pid} {start} {boot}\n"))?;
    rustix::io::write(file, text.as_bytes())?;
    Ok(())
}

/// A line in the making, without an allocation.
struct Line {
    bytes: [u8; 128],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            length: 0,
        }
    }
}

impl Line {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl io::Write for Line {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let mut rest = &mut self.bytes[self.length..];
        let written = rest.write(part)?;
        self.length += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Marks every descriptor from 3 on as not to be inherited. A `run-phase` process calls this first: what it was given (its
/// slot, its share of a store) is to be given up with it, not with a stray program of a build.
pub fn keep_descriptors_from_children() {
    // SAFETY: the call only sets flags of this process' descriptors. Kernels before 5.11 refuse it, which changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn of(pid: u32) -> Evidence {
        let pid = i32::try_from(pid).unwrap();
        Evidence {
            pid,
            start: Stat::of(pid).unwrap().start,
            boot: boot_id(),
        }
    }

    #[test]
    fn a_process_writes_down_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        write_own_evidence(&fs::File::create(&path).unwrap(), &boot_id()).unwrap();
        let written = Evidence::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(written, of(std::process::id()));
        assert!(written.is_alive());
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let own = of(std::process::id());
        let earlier = Evidence {
            start: own.start - 1,
            ..own.clone()
        };
        let boot = Evidence {
            boot: "another".into(),
            ..own
        };
        assert!(!earlier.is_alive());
        assert!(!boot.is_alive());
    }

    #[test]
    fn names_with_spaces_and_parentheses_do_not_confuse() {
        let stat = b"42 (a) b (c)) S 1 42 7 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n";
        let expected = Stat {
            state: b'S',
            session: 7,
            start: 12345,
        };
        assert_eq!(Stat::parse(stat), Some(expected));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let evidence = of(child.id());
        runyard_common::testing::eventually(runyard_common::testing::patience(), || {
            (!evidence.is_alive()).then_some(())
        });
        child.wait().unwrap();
    }

    #[test]
    fn what_carries_the_mark_is_killed_and_nothing_else() {
        let mark = format!("BUILDCTL_RUN=test/{}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut marked = Command::new("sleep")
            .arg("60")
            .env(name, value)
            .spawn()
            .unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let nobody = Evidence {
            boot: "another".into(),
            ..of(std::process::id())
        };
        nobody.kill_what_is_left(&mark);
        assert!(!marked.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
