//! The one place that starts a JVM in order to look at it: `java -version`, once for each JVM that is offered. Nothing of
//! ours reaches that process, neither a descriptor nor the environment, and it may not take long.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::Serialize;

use super::{Jre, Jres};

/// A JVM says its version within a tenth of a second; a machine under load may need longer.
const DEADLINE: Duration = Duration::from_secs(15);

/// Three lines are about 200 bytes.
const MOST_BYTES: usize = 16 << 10;

/// What a JVM says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// `openjdk version "17.0.15" 2025-04-15`.
    pub version: String,
    /// `OpenJDK Runtime Environment (build …)`.
    pub runtime: String,
    /// `OpenJDK 64-Bit Server VM (build …, mixed mode, sharing)`.
    pub vm: String,
}

/// Why a JVM does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It cannot be started or watched.
    #[error("cannot run `{java} -version`")]
    Io {
        /// The program.
        java: String,
        /// Why.
        source: io::Error,
    },
    /// It takes too long.
    #[error("`{java} -version` did not end within {} s", DEADLINE.as_secs())]
    TooSlow {
        /// The program.
        java: String,
    },
    /// It fails.
    #[error("`{java} -version` failed ({status}): {said}")]
    Failed {
        /// The program.
        java: String,
        /// How it ended.
        status: ExitStatus,
        /// Its own words.
        said: String,
    },
}

/// Runs `java -version` and waits for its end, at most 15 s; blocking. What it starts is ended in any case.
pub fn prove(jre: &Jre) -> Result<Proof, ProveError> {
    prove_within(jre, DEADLINE)
}

/// Runs them all, one after the other, and rejects those that fail; answers what the others say, by their homes.
pub fn prove_all(jres: &mut Jres) -> HashMap<PathBuf, Proof> {
    let mut proofs = HashMap::new();
    for jre in jres.all().to_vec() {
        match prove(&jre) {
            Ok(proof) => drop(proofs.insert(jre.home, proof)),
            Err(error) => jres.reject(&jre.home, &error.to_string()),
        }
    }
    proofs
}

fn prove_within(jre: &Jre, deadline: Duration) -> Result<Proof, ProveError> {
    let java = jre.java.display().to_string();
    let io = |source| ProveError::Io {
        java: java.clone(),
        source,
    };
    let mut child = Command::new(&jre.java)
        .arg("-version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    let watched = watch(&mut child, Instant::now() + deadline);
    // Nothing to lose: it has ended, or took too long.
    let _ = child.kill();
    let status = child.wait().map_err(io)?;
    let said = match watched {
        Ok(said) => said,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(ProveError::TooSlow { java });
        }
        Err(error) => return Err(io(error)),
    };
    if !status.success() {
        return Err(ProveError::Failed { java, status, said });
    }
    let mut lines = said.lines().map(|line| line.trim().to_owned());
    let mut line = || lines.next().unwrap_or_default();
    Ok(Proof {
        version: line(),
        runtime: line(),
        vm: line(),
    })
}

/// Reads what it says until it has ended. Its end is what counts, not that of the pipe, which something that it left
/// behind may hold open.
fn watch(child: &mut Child, deadline: Instant) -> io::Result<String> {
    let mut pipe = File::from(OwnedFd::from(
        child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?,
    ));
    let pid = Pid::from_child(child);
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    let mut said = Vec::new();
    let mut is_open = true;
    loop {
        let (has_words, has_ended) = ready(is_open.then(|| pipe.as_fd()), end.as_fd(), deadline)?;
        if has_words {
            is_open = take(&mut pipe, &mut said)?;
        } else if has_ended {
            return Ok(String::from_utf8_lossy(&said).trim().to_owned());
        }
    }
}

/// Waits until the pipe has something, or its end, or the process has ended.
fn ready(
    pipe: Option<BorrowedFd<'_>>,
    end: BorrowedFd<'_>,
    deadline: Instant,
) -> io::Result<(bool, bool)> {
    let mut fds = vec![PollFd::from_borrowed_fd(end, PollFlags::IN)];
    fds.extend(pipe.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let is_ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
    Ok((is_ready(fds.get(1)), is_ready(fds.first())))
}

/// One read; `false` at the pipe's end. What is too much is read and forgotten, so that it does not block.
fn take(pipe: &mut File, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 4096];
    let length = pipe.read(&mut bytes)?;
    let room = MOST_BYTES.saturating_sub(said.len());
    said.extend_from_slice(&bytes[..length.min(room)]);
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runyard_common::testing::{TempDir, is_alive, patience, tempdir};

    use super::*;
    use crate::jre::{Jres, Search, tests::bare};

    /// A shell script in place of a JVM.
    fn script(text: &str) -> (TempDir, Jre) {
        let folder = tempdir();
        let (source, java) = (folder.path().join("source"), folder.path().join("java"));
        fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        // By another process: a program that this one writes cannot be started while a fork of another test has it open.
        let copied = Command::new("install")
            .args(["-m", "755"])
            .args([&source, &java])
            .status();
        assert!(copied.unwrap().success());
        let jre = Jre {
            java,
            ..bare(folder.path())
        };
        (folder, jre)
    }

    #[test]
    fn the_jvms_of_this_machine_say_who_they_are() {
        let path = std::env::var_os("PATH");
        let found = Jres::discover(&Search::standard(Vec::new(), None, path));
        if found.all().is_empty() {
            println!("skipped: there is no Java here");
        }
        for jre in found.all() {
            let proof = prove(jre).unwrap();
            assert!(proof.version.contains(&jre.version), "{proof:?}");
            assert!(proof.vm.contains("VM"), "{proof:?}");
        }
    }

    #[test]
    fn a_jvm_that_fails_is_quoted() {
        let (_folder, jre) = script("echo 'Error: could not find libjava.so' >&2; exit 6");
        let error = prove(&jre).unwrap_err().to_string();
        assert!(
            error.contains("could not find libjava.so") && error.contains('6'),
            "{error}"
        );
    }

    #[test]
    fn a_jvm_that_hangs_is_killed() {
        let (folder, jre) = script("echo $$ > \"${0%java}pid\"; exec sleep 1000");
        let error = prove_within(&jre, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ProveError::TooSlow { .. }), "{error}");
        if let Ok(pid) = fs::read_to_string(folder.path().join("pid")) {
            assert!(!is_alive(pid.trim().parse().unwrap()));
        }
    }

    #[test]
    fn what_it_leaves_behind_does_not_hold_us() {
        let (folder, jre) = script("sleep 1000 & echo $! > \"${0%java}pid\"; echo 'v 1' >&2");
        let begun = Instant::now();
        assert_eq!(prove(&jre).unwrap().version, "v 1");
        assert!(begun.elapsed() < patience());
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn our_environment_stays_ours() {
        let (_folder, jre) = script("[ -z \"$CARGO_MANIFEST_DIR\" ] && echo empty >&2");
        assert_eq!(prove(&jre).unwrap().version, "empty");
    }
}
