//! Processes that left the group: found by a cookie in their environment, killed one by one, best effort.
//!
//! A child that calls `setsid` is out of reach of a signal to the group. Where a control group holds the task this file
//! is not needed; elsewhere every process carries [`COOKIE`] in its environment, which children inherit. A program that
//! rewrites its environment escapes for good.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

/// Name of the environment variable that every process of a task carries.
pub const COOKIE: &str = "OVERSEER_WORKER";

/// A value no other worker has: of this daemon, this boot and this spawn.
pub fn cookie() -> OsString {
    uuid::Uuid::new_v4().to_string().into()
}

/// Kills every process that carries `cookie`. Whoever asks meanwhile is served by the same look at all processes, so that
/// the end of hundreds of tasks at once does not cost hundreds of looks.
pub async fn hunt(cookie: OsString) {
    static WANTED: Mutex<Vec<(OsString, oneshot::Sender<()>)>> = Mutex::new(Vec::new());
    let (done, told) = oneshot::channel();
    let first = {
        let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.push((cookie, done));
        wanted.len() == 1
    };
    if first {
        tokio::task::spawn_blocking(|| {
            let wanted =
                std::mem::take(&mut *WANTED.lock().unwrap_or_else(PoisonError::into_inner));
            let (cookies, waiting): (Vec<OsString>, Vec<_>) = wanted.into_iter().unzip();
            kill_carriers(&cookies);
            for done in waiting {
                // Whoever no longer waits has been ended himself.
                let _ = done.send(());
            }
        });
    }
    // An error means that the runtime ends, and with it everything.
    let _ = told.await;
}

/// Kills every process that carries one of `cookies`. Returns how many.
pub fn kill_carriers(cookies: &[OsString]) -> usize {
    let entries: Vec<Vec<u8>> = cookies
        .iter()
        .map(|cookie| [COOKIE.as_bytes(), b"=", cookie.as_bytes()].concat())
        .collect();
    let carries = |pid: i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|variable| entries.iter().any(|entry| entry == variable))
        })
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| carries(*pid))
        .filter_map(Pid::from_raw)
        .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn only_carriers_are_killed_and_one_look_serves_all() {
        let (mine, yours, other) = (cookie(), cookie(), cookie());
        let spawn = |cookie: &OsString| {
            Command::new("sleep")
                .arg("3600")
                .env(COOKIE, cookie)
                .spawn()
                .unwrap()
        };
        let (mut first, mut second, mut third) = (spawn(&mine), spawn(&yours), spawn(&other));
        tokio::join!(hunt(mine), hunt(yours));
        assert!(!first.wait().unwrap().success() && !second.wait().unwrap().success());
        assert!(
            third.try_wait().unwrap().is_none(),
            "it carries another cookie"
        );
        third.kill().unwrap();
        third.wait().unwrap();
    }
}
