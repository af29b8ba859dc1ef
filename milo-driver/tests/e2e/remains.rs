//! What a killed agent leaves behind, found by the test's own folder and allocations: processes, mounts, networks, cgroups.
//! Nothing of another agent on the same host is touched.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use milo_driver::{shim, state::StateRoot};
use runyard_common::testing;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

/// In the environment of an agent and of what it starts: the test's folder.
pub(crate) const MARK: &str = "MILO_E2E";

/// The plugin that works from `dir`; shims are the same program, but no plugins.
pub(crate) fn plugin(dir: &Path) -> Option<u32> {
    processes().find(|pid| is_driver(*pid, dir) && !is_shim(*pid))
}

/// The shims of its tasks; one that stands by has none yet.
pub(crate) fn shims(dir: &Path) -> Vec<u32> {
    let tasks = StateRoot::new(dir.join("state")).tasks().unwrap();
    let shims = tasks.iter().filter_map(|task| shim::process(task).ok()?);
    shims
        .filter_map(|shim| u32::try_from(shim.started(0).pid).ok())
        .filter(|pid| is_driver(*pid, dir))
        .collect()
}

fn is_shim(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).nth(1) == Some(b"shim")
}

pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // An error means that it has ended.
    let _ = kill_process(pid.unwrap(), Signal::KILL);
}

/// Removes everything but the folder itself.
pub(crate) fn remove(dir: &Path, allocations: &[String]) {
    // Children first: a shim that was killed would leave its container to init.
    let own: Vec<u32> = processes()
        .filter(|pid| is_driver(*pid, dir) || is_marked(*pid, dir))
        .collect();
    let below: Vec<u32> = own.iter().flat_map(|pid| testing::children(*pid)).collect();
    for pid in below.into_iter().chain(own) {
        kill(pid);
    }
    for point in mounts(dir) {
        // Busy ones go when the last of these processes does.
        let _ = unmount(&point, UnmountFlags::DETACH);
    }
    for allocation in allocations {
        // Mostly the agent has done it, and few have one.
        let network = Path::new("/run/netns").join(allocation);
        let _ = unmount(&network, UnmountFlags::DETACH);
        let _ = fs::remove_file(&network);
    }
    prune(Path::new("/sys/fs/cgroup"), 5, allocations);
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process runs the copy of the driver that is below `dir`.
fn is_driver(pid: u32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(dir))
        && testing::is_alive(pid)
}

fn is_marked(pid: u32, dir: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark)
}

/// The mount points below `dir`, the last made first.
fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    points
}

/// The allocations that an agent in `dir` has.
pub(crate) fn allocations(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("data/alloc")).into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Removes cgroups of allocations, on either version: `…/nomad…/<allocation>.<task>…`.
fn prune(cgroup: &Path, depth: u32, allocations: &[String]) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if allocations.iter().any(|id| name.starts_with(id.as_str())) {
            // Not empty as long as a killed process is there; then it stays, which harms nobody.
            let _ = fs::remove_dir(entry.path());
        } else if depth > 0 {
            prune(&entry.path(), depth - 1, allocations);
        }
    }
}
