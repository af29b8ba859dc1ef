//! What this machine and this user offer a hub. Nothing is changed by looking.

use std::{
    fs,
    path::{Path, PathBuf},
};

use runyard_common::doctor::Finding;
use rustix::{
    fs::{Access, access},
    process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open},
};

/// Descriptors that a running task takes: two pipes and one for its process.
const PER_TASK: u64 = 3;

/// Tasks that should fit.
const TASKS: u64 = 1_000;

/// Looks at all that a hub here would need.
pub(super) fn examine() -> Vec<Finding> {
    vec![
        open_files(),
        process_descriptors(),
        cgroups(),
        socket_directory(),
    ]
}

fn open_files() -> Finding {
    // No maximum is no limit. A hub raises its soft limit to the hard one by itself.
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let tasks = hard / PER_TASK;
    let says = if hard == u64::MAX {
        "unlimited".to_owned()
    } else {
        format!("up to {hard}, enough for some {tasks} running tasks")
    };
    if tasks >= TASKS {
        Finding::ok("open files", says)
    } else {
        Finding::warn(
            "open files",
            says,
            "raise the hard limit: `ulimit -Hn`, LimitNOFILE= in a systemd unit",
        )
    }
}

fn process_descriptors() -> Finding {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::ok("pidfd", "processes are watched by descriptor"),
        Err(error) => Finding::warn(
            "pidfd",
            format!("pidfd_open: {error}"),
            "use Linux 5.3 or newer, and let the sandbox allow it",
        ),
    }
}

/// Whether actions may have limits on memory, processes and CPU.
fn cgroups() -> Finding {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let (version, directory) = if root.join("cgroup.controllers").exists() {
        (2, below(root, path_of(&own, str::is_empty)))
    } else if root.join("memory").exists() {
        let is_memory = |controllers: &str| controllers.split(',').any(|name| name == "memory");
        (1, below(&root.join("memory"), path_of(&own, is_memory)))
    } else {
        return Finding::warn(
            "cgroups",
            "none are mounted",
            "without them actions cannot have limits; mount cgroup2 at /sys/fs/cgroup",
        );
    };
    match access(&directory, Access::WRITE_OK) {
        Ok(()) => Finding::ok(
            "cgroups",
            format!(
                "version {version}, limits can be set below {}",
                directory.display()
            ),
        ),
        Err(error) => Finding::warn(
            "cgroups",
            format!(
                "version {version}, but {} is not ours to write: {error}",
                directory.display()
            ),
            "actions cannot have limits; run the hub with Delegate=yes in a systemd unit, or name a group in `cgroup_parent`",
        ),
    }
}

/// The path in the line of `/proc/self/cgroup` whose controllers are wanted.
fn path_of(own: &str, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        is_wanted(controllers).then_some(path)
    })
}

/// A group's directory. In a container the path may be that of the host, and is not there.
fn below(root: &Path, path: Option<&str>) -> PathBuf {
    let directory = root.join(path.unwrap_or("/").trim_start_matches('/'));
    if directory.is_dir() {
        directory
    } else {
        root.to_owned()
    }
}

/// Where a socket for this user would go.
fn socket_directory() -> Finding {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = named.unwrap_or_else(|| PathBuf::from("/run"));
    match access(&directory, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(
            "socket directory",
            format!("a Unix socket can be made in {}", directory.display()),
        ),
        Err(error) => Finding::warn(
            "socket directory",
            format!("{}: {error}", directory.display()),
            "listen on a Unix socket in a directory of your own, or on 127.0.0.1",
        ),
    }
}

#[cfg(test)]
mod tests {
    use runyard_common::doctor::Verdict;

    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions() {
        assert_eq!(
            path_of("0::/user.slice/a", str::is_empty),
            Some("/user.slice/a")
        );
        let own = "5:cpu,cpuacct:/x\n4:memory:/y\n1:name=systemd:/z\n";
        assert_eq!(
            path_of(own, |controllers| controllers
                .split(',')
                .any(|name| name == "memory")),
            Some("/y")
        );
        assert_eq!(path_of("", str::is_empty), None);
    }

    #[test]
    fn everything_that_is_not_good_says_how_to_mend_it() {
        for finding in examine() {
            let is_good = finding.verdict == Verdict::Ok;
            assert_eq!(finding.mend.is_none(), is_good, "{finding:?}");
        }
    }
}
