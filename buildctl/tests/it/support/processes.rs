//! What runs on this machine, by what it was told.

use std::fs;

use runyard_common::testing::is_alive;

/// All processes whose arguments or environment say this.
pub(crate) fn processes(says: impl Fn(&[u8], &[u8]) -> bool) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            says(&read("cmdline"), &read("environ")) && is_alive(*pid)
        })
        .collect()
}

/// The supervisors of a job.
pub(crate) fn supervisors(job: &str) -> Vec<u32> {
    processes(|cmdline, _| contains(cmdline, "\0supervise\0") && contains(cmdline, job))
}

/// Ends a process without asking it.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Whether this part is somewhere in the bytes.
pub(crate) fn contains(bytes: &[u8], part: &str) -> bool {
    memchr::memmem::find(bytes, part.as_bytes()).is_some()
}
