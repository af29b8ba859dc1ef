//! Processes that left the group: found by a cookie in their environment, killed one by one, best effort.
//!
//! A child that calls `setsid` is out of reach of a signal to the group. Where a control group holds the task this file
//! is not needed; elsewhere every process carries [`COOKIE`] in its environment, which children inherit. A program that
//! rewrites its environment escapes for good.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use rustix::process::{Pid, Signal, kill_process};

/// Name of the environment variable that every process of a task carries.
pub const COOKIE: &str = "OVERSEER_WORKER";

/// A value no other worker has: of this daemon, this boot and this spawn.
pub fn cookie() -> OsString {
    uuid::Uuid::new_v4().to_string().into()
}

/// Kills every process that carries `cookie`. Returns how many.
pub fn kill_carriers(cookie: &std::ffi::OsStr) -> usize {
    let entry = [COOKIE.as_bytes(), b"=", cookie.as_bytes()].concat();
    let carries = |pid: i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|variable| variable == entry)
        })
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| carries(*pid))
        .filter_map(Pid::from_raw)
        .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
}
