//! The life of a running process: its output read to the end, its stop made to happen, its status reaped.
//!
//! ```text
//!   running ──── stop ───▶ SIGTERM to the group ──── grace over, or kill ───▶ SIGKILL to the group
//!      │                          │                                                  │
//!      └────── leader ended ──────┴──────────────────────────────────────────────────┘
//!                   │
//!                   ▼      wait: until the output ends · kill: the group is killed · detach: at once
//!               draining ── after a stop: until the output ends or the grace is over, then the group is killed,
//!                   │        then carriers of the cookie, and after `drain_timeout` nobody waits any more
//!                   ▼
//!                reaped
//! ```

use std::{
    ffi::OsString,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{io::unix::AsyncFd, net::unix::pipe, time::Instant};

use super::{Process, escape, lines::LineReader};
use crate::{
    api::OutputStream,
    cgroup::Cgroup,
    driver::{Orphans, StopLevel, StopSignal, WorkerExit},
    topic::{Line, Pressure},
};

/// How a process is treated.
#[derive(Clone, Debug)]
pub struct Conduct {
    /// First signal of a stop.
    pub stop_signal: i32,
    /// Between the first signal and SIGKILL.
    pub stop_grace: Duration,
    /// What becomes of processes that outlive the leader.
    pub orphans: Orphans,
    /// How long output is still read once everything has been killed.
    pub drain_timeout: Duration,
    /// Bytes of one line kept.
    pub max_line: usize,
    /// See [`escape`].
    pub cookie: OsString,
}

/// Sees a process to its end. `publish` takes its lines.
pub async fn supervise<P>(
    process: Process,
    conduct: Conduct,
    mut stop: StopSignal,
    publish: P,
) -> WorkerExit
where
    P: Fn(OutputStream, &[Line<'_>]) -> Pressure + Clone + Send + 'static,
{
    let Process {
        pid,
        pidfd,
        stdout,
        stderr,
        stdin,
        cgroup,
    } = process;
    if let Some((pipe, text)) = stdin {
        tokio::spawn(feed(pipe, text));
    }
    let mut life = Life::new(pid, pidfd, conduct, cgroup);
    let out = pump(
        stdout,
        OutputStream::Stdout,
        life.conduct.max_line,
        publish.clone(),
    );
    let err = pump(stderr, OutputStream::Stderr, life.conduct.max_line, publish);
    let mut output = std::pin::pin!(async { tokio::join!(out, err) });
    let mut drained = false;
    while !life.is_over(drained) {
        let deadline = life.deadline;
        tokio::select! {
            biased;
            level = stop.raised(life.level) => life.stop(level),
            () = ended(life.pidfd.as_ref(), life.pid), if !life.leader_ended => life.leader_has_ended(drained),
            _ = &mut output, if !drained => drained = true,
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => life.time_is_up(),
        }
    }
    life.reap().await
}

/// Where a process is in its life.
struct Life {
    pid: Pid,
    /// `None` once the runtime refused to watch it; then it is polled.
    pidfd: Option<AsyncFd<OwnedFd>>,
    conduct: Conduct,
    cgroup: Option<Cgroup>,
    level: StopLevel,
    leader_ended: bool,
    killed: bool,
    /// Nobody waits for output any more.
    abandoned: bool,
    /// When the next step of the ladder is due.
    deadline: Option<Instant>,
}

impl Life {
    fn new(pid: u32, pidfd: OwnedFd, conduct: Conduct, cgroup: Option<Cgroup>) -> Self {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .unwrap_or_else(|| unreachable!("a child's pid"));
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let watched =
            unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) };
        Self {
            pid,
            pidfd: watched.ok(),
            conduct,
            cgroup,
            level: StopLevel::Run,
            leader_ended: false,
            killed: false,
            abandoned: false,
            deadline: None,
        }
    }

    fn is_over(&self, drained: bool) -> bool {
        self.leader_ended && (drained || self.abandoned)
    }

    /// Somebody wants it to end.
    fn stop(&mut self, level: StopLevel) {
        self.level = level;
        match level {
            StopLevel::Run => {}
            StopLevel::Stop { grace } => {
                self.signal(self.conduct.stop_signal);
                self.deadline = Some(Instant::now() + grace.unwrap_or(self.conduct.stop_grace));
            }
            StopLevel::Kill => self.kill(),
        }
    }

    /// The process that was started is a zombie now; others of its group may live and hold the output open.
    fn leader_has_ended(&mut self, drained: bool) {
        self.leader_ended = true;
        if self.killed {
            self.hunt();
        }
        let stopping = self.level != StopLevel::Run;
        match self.conduct.orphans {
            Orphans::Kill if !drained => self.kill(),
            Orphans::Detach if !stopping => self.abandon_soon(),
            // After a stop the grace that runs already is theirs too.
            Orphans::Wait | Orphans::Kill | Orphans::Detach => {}
        }
    }

    fn time_is_up(&mut self) {
        if self.killed || (self.conduct.orphans == Orphans::Detach && self.level == StopLevel::Run)
        {
            self.abandoned = true;
            self.deadline = None;
        } else {
            self.kill();
        }
    }

    /// What was written before the end is read; nothing after it is waited for.
    fn abandon_soon(&mut self) {
        self.deadline = Some(Instant::now() + Duration::from_millis(50));
    }

    fn kill(&mut self) {
        self.killed = true;
        self.signal(Signal::KILL.as_raw());
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if self.leader_ended {
            self.hunt();
        }
        self.deadline = Some(Instant::now() + self.conduct.drain_timeout);
    }

    /// Kills whoever left the group; what they hold of the output ends with them.
    fn hunt(&self) {
        tokio::spawn(escape::hunt(self.conduct.cookie.clone()));
    }

    fn signal(&self, signal: i32) {
        // SAFETY: any number the system knows as a signal may be sent; others are refused with EINVAL.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        // The group may have ended by itself meanwhile: that is what was wanted.
        let _ = kill_process_group(self.pid, signal);
    }

    /// Leaves nothing behind, and takes the exit status.
    async fn reap(mut self) -> WorkerExit {
        if self.level != StopLevel::Run || self.conduct.orphans == Orphans::Kill {
            // Survivors that hold no output. The zombie still pins the group's id.
            self.signal(Signal::KILL.as_raw());
            escape::hunt(self.conduct.cookie.clone()).await;
        }
        let mut exit = status(
            self.pidfd.as_ref(),
            self.pid,
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        if let Some(cgroup) = self.cgroup.take() {
            exit = exit.map(|exit| WorkerExit {
                out_of_memory: cgroup.out_of_memory(),
                ..exit
            });
            cgroup
                .remove(self.level != StopLevel::Run || self.conduct.orphans == Orphans::Kill)
                .await;
        }
        exit.unwrap_or(WorkerExit::signal(None))
    }
}

/// Resolves when the process has ended; leaves the zombie.
async fn ended(pidfd: Option<&AsyncFd<OwnedFd>>, pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(pidfd) = pidfd else {
        // The runtime could not watch the descriptor (out of memory or of epoll watches): fall back to looking.
        while matches!(waitid(WaitId::Pid(pid), options), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        return;
    };
    loop {
        let Ok(mut guard) = pidfd.readable().await else {
            return;
        };
        match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(None) => guard.clear_ready(),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

fn status(
    pidfd: Option<&AsyncFd<OwnedFd>>,
    pid: Pid,
    options: WaitIdOptions,
) -> Option<WorkerExit> {
    let id = pidfd.map_or(WaitId::Pid(pid), |pidfd| WaitId::PidFd(pidfd.as_fd()));
    let status = waitid(id, options).ok().flatten()?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(WorkerExit::code(code)),
        (None, signal) => Some(WorkerExit::signal(signal)),
    }
}

/// Reads one stream to its end.
async fn pump<P>(fd: OwnedFd, stream: OutputStream, max_line: usize, publish: P)
where
    P: Fn(OutputStream, &[Line<'_>]) -> Pressure,
{
    let Ok(mut reader) = LineReader::new(fd, max_line) else {
        return;
    };
    while let Some(pressure) = reader.next(|lines| publish(stream, lines)).await {
        pressure.relieved().await;
        // A pipe that always has more would keep this thread from whoever writes the lines to clients.
        tokio::task::yield_now().await;
    }
}

/// Writes a text to a process that may or may not read it.
async fn feed(pipe: OwnedFd, text: String) {
    use tokio::io::AsyncWriteExt;
    let Ok(mut pipe) = pipe::Sender::from_owned_fd(pipe) else {
        return;
    };
    // A process that does not read its input has its reasons.
    let _ = pipe.write_all(text.as_bytes()).await;
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Write};

    use super::*;

    /// A pipe that holds `count` short lines and has no more writers.
    fn full_pipe(count: usize) -> OwnedFd {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20).unwrap();
        std::fs::File::from(writer)
            .write_all(&b"a line\n".repeat(count))
            .unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        reader
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stream_that_always_has_more_lets_others_have_their_turn() {
        let reads = Cell::new(0);
        let seen = Cell::new(0);
        let publish = |_: OutputStream, _: &[Line<'_>]| {
            reads.set(reads.get() + 1);
            Pressure::default()
        };
        let pump = pump(full_pipe(100_000), OutputStream::Stdout, 1 << 20, publish);
        let other = async {
            loop {
                if reads.get() > seen.get() {
                    assert_eq!(reads.get(), seen.get() + 1, "a turn was missed");
                    seen.set(reads.get());
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; () = pump => {} () = other => {} }
        assert!(seen.get() > 5, "only {} reads were seen", seen.get());
    }
}
