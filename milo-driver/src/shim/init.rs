//! A container's first process: its identity, the signals to it, and how it ended. Nothing here acts on a bare pid: a
//! process is its pid and its start time, and is held by a pidfd from then on.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

use crate::{init, process::Stat, state::Started};

/// The process.
#[derive(Debug)]
pub struct Init {
    pid: i32,
    start_time: u64,
    pidfd: OwnedFd,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// In a way that nobody can learn any more: it was somebody else's child.
    Unknown,
}

impl Init {
    /// The process that has this pid now, for one that is known to have it: a child that nobody has waited for.
    pub fn of(pid: i32) -> io::Result<Self> {
        let pidfd = open(pid)?;
        Ok(Self {
            pid,
            start_time: Stat::read(pid)?.start_time,
            pidfd,
        })
    }

    /// The process of a record, if it still exists; a process that has ended and was not collected does exist.
    pub fn find(started: &Started) -> io::Result<Option<Self>> {
        let found = match Self::of(started.pid) {
            Err(error) if is_gone(&error) => return Ok(None),
            found => found?,
        };
        // The pidfd came first: it holds the process whose start time was read, or one that is gone already.
        Ok((found.start_time == started.start_time).then_some(found))
    }

    /// Its record.
    pub fn started(&self, started_at: i64) -> Started {
        Started {
            pid: self.pid,
            start_time: self.start_time,
            started_at,
        }
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        !self.has_ended().unwrap_or(false)
    }

    /// Whether a signal would do anything: the first process of a namespace gets only those that it has a handler for or
    /// holds back, and those that nobody can handle (`pid_namespaces(7)`).
    pub(crate) fn heeds(&self, signal: i32) -> bool {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            // It has ended: no signal matters any more.
            return true;
        };
        heeds(&status, signal)
    }

    /// Sends it a signal. One that has ended gets none, without an error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // Not through rustix, which knows no real-time signals.
        // SAFETY: the pidfd is open, and the kernel takes a null `info` for none.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                info,
                0,
            )
        };
        let error = io::Error::last_os_error();
        if sent == 0 || is_gone(&error) {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// How it ended, if it has. Collects it when it is a child of this process.
    pub fn ending(&self) -> io::Result<Option<Ending>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => Ok(Some(match status.exit_status() {
                Some(code) => Ending::Code(code),
                None => Ending::Signal(status.terminating_signal().unwrap_or(0)),
            })),
            Err(Errno::CHILD) => Ok(self.has_ended()?.then(|| self.ending_of_a_stranger())),
            Err(error) => Err(error.into()),
        }
    }

    /// The same where the container has an [`init`] of ours as its first process: a signal that has ended the
    /// program counts as the init's own. It says which in its last name, which is gone when it has been collected.
    pub fn ending_behind(&self, has_init: bool) -> io::Result<Option<Ending>> {
        if !has_init || !self.has_ended()? {
            return self.ending();
        }
        let said = Stat::read(self.pid)
            .ok()
            .filter(|stat| stat.start_time == self.start_time)
            .and_then(|stat| init::said(&stat.name));
        Ok(self.ending()?.map(|ending| match (ending, said) {
            (Ending::Code(code), Some(signal)) if code == 128 + signal => Ending::Signal(signal),
            (ending, _) => ending,
        }))
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        crate::runtime::wait(&mut fds, Some(std::time::Duration::ZERO))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// How a process ended that is not our child: as long as nobody has collected it, its line in `/proc` says so; from
    /// then on its pidfd does, since Linux 6.15.
    fn ending_of_a_stranger(&self) -> Ending {
        let uncollected = Stat::read(self.pid)
            .ok()
            .filter(|stat| stat.start_time == self.start_time && stat.is_over)
            .and_then(|stat| stat.exit_code);
        uncollected
            .or_else(|| exit_code_of(self.pidfd.as_fd()))
            .map_or(Ending::Unknown, Ending::from_wait_status)
    }
}

impl AsFd for Init {
    /// Becomes readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Ending {
    fn from_wait_status(raw: i32) -> Self {
        let status = ExitStatus::from_raw(raw);
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound
}

/// `struct pidfd_info` of `linux/pidfd.h`, in its first version of 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`, where the structure's size is 0x40.
const GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// The wait status of a process that somebody else has collected.
fn exit_code_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request's number says the size of what it writes, and `info` has that size.
    let answered = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    (answered == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// By a process's `status` (`proc_pid_status(5)`).
fn heeds(status: &str, signal: i32) -> bool {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let is_first =
        field("NSpid:").is_some_and(|pids| pids.split_whitespace().next_back() == Some("1"));
    if !is_first || matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
        return true;
    }
    let place = u32::try_from(signal - 1).unwrap_or(0);
    let bit = 1_u64.checked_shl(place).unwrap_or(0);
    ["SigCgt:", "SigBlk:"].iter().any(|name| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & bit != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use runyard_common::testing::{eventually, patience};

    use super::*;

    fn cat() -> (Child, Init) {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let init = Init::of(i32::try_from(child.id()).unwrap()).unwrap();
        (child, init)
    }

    fn ending(init: &Init) -> Ending {
        eventually(patience(), || init.ending().unwrap())
    }

    #[test]
    fn a_namespaces_first_process_heeds_what_it_handles_or_holds_back() {
        let status = |nspid: &str| {
            format!(
                "Name:\tjava\nNSpid:\t{nspid}\nSigBlk:\t0000000000000001\nSigCgt:\t0000000000004000\n"
            )
        };
        let first = status("4711\t1");
        for (signal, expected) in [
            (libc::SIGTERM, true),
            (libc::SIGHUP, true),
            (libc::SIGINT, false),
            (libc::SIGKILL, true),
            (64, false),
        ] {
            assert_eq!(heeds(&first, signal), expected, "{signal}");
        }
        assert!(heeds(&status("4711\t7"), libc::SIGINT));
        assert!(heeds(&status("4711"), libc::SIGINT));
    }

    #[test]
    fn a_code_and_a_signal_are_told_apart() {
        let (mut child, init) = cat();
        assert_eq!(init.ending().unwrap(), None);
        drop(child.stdin.take());
        assert_eq!(ending(&init), Ending::Code(0));
        let (_child, init) = cat();
        init.signal(libc::SIGKILL).unwrap();
        assert_eq!(ending(&init), Ending::Signal(9));
    }

    #[test]
    fn the_last_name_of_an_init_tells_a_signal_from_a_code() {
        let endings = |script: &str| {
            let renamed = format!("printf %s \"$1\" >/proc/$$/comm; {script}");
            let of = |name: &str, has_init| {
                let mut shell = Command::new("sh");
                let mut child = shell.args(["-c", &renamed, "sh", name]).spawn().unwrap();
                let init = Init::of(child.id().cast_signed()).unwrap();
                let ending = eventually(patience(), || init.ending_behind(has_init).unwrap());
                assert!(child.wait().is_err(), "it has been collected");
                ending
            };
            [
                of("signal 15", true),
                of("signal 15", false),
                of("java", true),
            ]
        };
        let code = Ending::Code(143);
        assert_eq!(endings("exit 143"), [Ending::Signal(15), code, code]);
        assert_eq!(endings("exit 7"), [Ending::Code(7); 3]);
        assert_eq!(endings("kill -9 $$"), [Ending::Signal(9); 3]);
    }

    #[test]
    fn a_signal_to_what_has_ended_is_no_error() {
        let (_child, init) = cat();
        init.signal(libc::SIGKILL).unwrap();
        ending(&init);
        init.signal(libc::SIGTERM).unwrap();
    }

    #[test]
    fn a_process_with_the_same_pid_and_another_start_is_another_one() {
        let (_child, init) = cat();
        let mut record = init.started(0);
        assert!(Init::find(&record).unwrap().is_some());
        record.start_time += 1;
        assert!(Init::find(&record).unwrap().is_none());
        init.signal(libc::SIGKILL).unwrap();
        ending(&init);
        record.start_time -= 1;
        assert!(Init::find(&record).unwrap().is_none());
    }

    #[test]
    fn a_strangers_code_is_read_before_it_is_collected() {
        // The child ends when it is told; its parent has become something that collects nobody.
        let mut parent = Command::new("sh")
            .args([
                "-c",
                "exec 3<&0; (read x <&3; exit 42) & echo $!; exec sleep 1000",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = parent.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        let init = Init::of(line.trim().parse().unwrap()).unwrap();
        assert_eq!(init.ending().unwrap(), None);
        drop(parent.stdin.take());
        assert_eq!(ending(&init), Ending::Code(42));
        // From now on it belongs to those who collect everybody.
        parent.kill().unwrap();
        parent.wait().unwrap();
        eventually(patience(), || Stat::read(init.pid).is_err().then_some(()));
        if exit_code_of(init.as_fd()).is_none() {
            eprintln!("skipped: this kernel forgets how a process ended (before Linux 6.15)");
            return;
        }
        assert_eq!(ending(&init), Ending::Code(42));
    }
}
