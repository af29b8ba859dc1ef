//! The control group that holds a run's programs to their memory, where one can be made: version 1 below the group that this
//! process is in, version 2 beside it (a group of version 2 with processes in it has no limits for groups below it). Where
//! none can be made, programs are not held to anything here.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A group of one run. Dropping it leaves it; see [`Enclosure::remove`].
#[derive(Debug)]
pub(super) struct Enclosure {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Enclosure {
    /// Makes the group `name` with a limit in bytes.
    pub(super) fn make(name: &str, memory: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (parent, version) = parent(Path::new(ROOT), &own)
            .ok_or_else(|| io::Error::other("there is no memory controller to use"))?;
        let folder = parent.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(undelegated("make", &folder, &error));
            }
            _ => {}
        }
        let made = Self { folder, version };
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let limit = made.folder.join(limit);
        if let Err(error) = fs::write(&limit, memory.to_string()) {
            made.remove();
            return Err(undelegated("write", &limit, &error));
        }
        if version == Version::Two {
            // Not every kernel counts swap.
            let _ = fs::write(made.folder.join("memory.swap.max"), "0");
        }
        Ok(made)
    }

    /// A group that was made at this place earlier.
    pub(super) fn at(folder: &Path) -> Self {
        let version = if folder.join("memory.limit_in_bytes").exists() {
            Version::One
        } else {
            Version::Two
        };
        Self {
            folder: folder.to_owned(),
            version,
        }
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file in which a process writes `0` to enter.
    pub(super) fn door(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .open(self.folder.join("cgroup.procs"))
    }

    /// Whether the kernel has killed something in it because its memory was used up.
    pub(super) fn was_exceeded(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim() != "0")
    }

    /// The most memory that was used in it at once, in bytes; of version 2 since Linux 5.19.
    pub(super) fn peak(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// Kills what is still in it, and removes it.
    pub(super) fn remove(&self) {
        for _ in 0..200 {
            let procs = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
                // A process of another namespace shows as 0, which would be this group.
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                _ => return,
            }
        }
    }
}

/// Whether a program can be held to its memory here, found out by doing it; by which version of control groups.
pub(crate) fn memory_is_held() -> io::Result<&'static str> {
    let group = Enclosure::make(
        &format!("buildctl-doctor.{}", std::process::id()),
        256 << 20,
    )?;
    // A program has to come in, too, which is a right of its own in version 2.
    let entered = Command::new("sh")
        .args(["-c", "echo 0 >\"$1\"", "sh"])
        .arg(group.folder.join("cgroup.procs"))
        .stderr(Stdio::null())
        .status();
    group.remove();
    match entered {
        Ok(status) if status.success() => Ok(match group.version {
            Version::One => "version 1",
            Version::Two => "version 2",
        }),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("no program may enter {}", group.folder.display()),
        )),
        Err(error) => Err(error),
    }
}

fn undelegated(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    let text = format!("cannot {verb} {}: {error}", path.display());
    io::Error::new(error.kind(), text)
}

/// In which folder a group with a limit for memory can be made, by what `/proc/self/cgroup` says (cgroups(7)).
fn parent(root: &Path, own: &str) -> Option<(PathBuf, Version)> {
    let mut fields = own.lines().map(|line| line.splitn(3, ':'));
    let memory = fields.find_map(|mut line| {
        let (_, controllers, path) = (line.next()?, line.next()?, line.next()?);
        controllers
            .split(',')
            .any(|name| name == "memory")
            .then_some(path)
    });
    if let Some(path) = memory {
        let hierarchy = root.join("memory");
        let below = hierarchy.join(path.trim_start_matches('/'));
        // In a container, the path may be that of the host.
        let there = [below, hierarchy].into_iter().find(|path| path.is_dir())?;
        return Some((there, Version::One));
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = root.join(path.trim_start_matches('/'));
    let beside = if own == root.join("") {
        root
    } else {
        own.parent()?
    };
    let enabled = fs::read_to_string(beside.join("cgroup.subtree_control")).ok()?;
    enabled
        .split_whitespace()
        .any(|name| name == "memory")
        .then(|| (beside.to_owned(), Version::Two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_below_the_own_group_and_version_2_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("memory/jobs/x")).unwrap();
        let own = "4:memory:/jobs/x\n0::/elsewhere\n";
        let below = root.join("memory/jobs/x");
        assert_eq!(parent(root, own), Some((below, Version::One)));
        let foreign = "4:cpu,memory:/host/path\n";
        assert_eq!(
            parent(root, foreign),
            Some((root.join("memory"), Version::One))
        );
        fs::create_dir_all(root.join("system.slice/x.service")).unwrap();
        let own = "0::/system.slice/x.service\n";
        assert_eq!(parent(root, own), None);
        let control = root.join("system.slice/cgroup.subtree_control");
        fs::write(control, "cpu memory\n").unwrap();
        let beside = root.join("system.slice");
        assert_eq!(parent(root, own), Some((beside, Version::Two)));
    }
}
