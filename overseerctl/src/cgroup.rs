//! Control groups for tasks that ask for limits on memory, processes or CPU: made, entered, killed, removed.
//!
//! Both hierarchies are served: version 2, where one directory carries all controllers and the daemon's own cgroup must
//! be delegated to it, and version 1, where each controller has a tree of its own. Which one is found once, from
//! `/proc/self/mountinfo` and `/proc/self/cgroup`.
//!
//! ```text
//!   v2   <own cgroup>/overseer-<pid>/<worker>        v1   <memory>/<own>/overseer-<pid>/<worker>
//!        <own cgroup>/overseer-hub   (the daemon)         <pids>/<own>/overseer-<pid>/<worker>   <cpu>/…
//! ```
//!
//! Version 2 forbids processes in a group that has controllers switched on for its children, so the daemon moves itself
//! into `overseer-hub` the first time a limit is asked for.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use crate::driver::CgroupParent;

/// What a task may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory, page cache included.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// CPUs, such as 0.5.
    pub cpu: Option<f64>,
}

impl Limits {
    /// Whether nothing is limited, so that no group is needed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn controllers(&self) -> Vec<&'static str> {
        let wanted = [
            ("memory", self.memory.is_some()),
            ("pids", self.pids.is_some()),
            ("cpu", self.cpu.is_some()),
        ];
        wanted
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
            .collect()
    }
}

/// Control groups cannot be had, or not these.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The configuration says so.
    #[error("cgroup limits are configured, but cgroup_parent is off")]
    Off,
    /// No hierarchy has the controller.
    #[error("no cgroup controller {0:?} on this machine")]
    NoController(&'static str),
    /// The kernel, or whoever owns the hierarchy, said no.
    #[error("cgroup {}: {error}", path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// The control group of one worker: a directory in each hierarchy involved.
#[derive(Debug)]
pub struct Cgroup {
    directories: Vec<PathBuf>,
}

/// A mounted hierarchy, and where this process is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// The unified one.
    V2(PathBuf),
    /// One directory per controller.
    V1(BTreeMap<String, PathBuf>),
}

impl Cgroup {
    /// Makes a group named `worker` with `limits` below `parent`.
    pub fn create(
        parent: &CgroupParent,
        worker: &str,
        limits: &Limits,
    ) -> Result<Self, CgroupError> {
        let daemon = format!("overseer-{}", std::process::id());
        let bases = match parent {
            CgroupParent::Off => return Err(CgroupError::Off),
            CgroupParent::Path(path) => Bases::unified(path.clone(), limits)?,
            CgroupParent::Auto => Bases::beside_the_daemon(limits)?,
        };
        let mut group = Self {
            directories: Vec::new(),
        };
        for (controllers, base) in bases.0 {
            let directory = base.join(&daemon).join(worker);
            fs::create_dir_all(&directory).map_err(|error| refused(&directory, error))?;
            if bases.1 {
                enable(&base.join(&daemon), &limits.controllers())?;
            }
            group.directories.push(directory.clone());
            for controller in controllers {
                apply(&directory, controller, limits, bases.1)?;
            }
        }
        Ok(group)
    }

    /// Files that a process writes `0` to in order to enter.
    pub(crate) fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |directory: &PathBuf| {
            fs::OpenOptions::new()
                .write(true)
                .open(directory.join("cgroup.procs"))
                .map(OwnedFd::from)
        };
        self.directories.iter().map(open).collect()
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        for directory in &self.directories {
            if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for pid in self.members() {
                // It may have ended meanwhile: that is what was wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// Whether the kernel killed something in it for want of memory.
    pub fn out_of_memory(&self) -> bool {
        self.directories.iter().any(|directory| {
            let events = fs::read_to_string(directory.join("memory.events"))
                .or_else(|_| fs::read_to_string(directory.join("memory.oom_control")))
                .unwrap_or_default();
            events.lines().any(|line| {
                line.strip_prefix("oom_kill ")
                    .is_some_and(|count| count.trim() != "0")
            })
        })
    }

    /// Removes it, once it is empty; with `kill` whatever is left is killed first. A group that others keep alive stays.
    pub async fn remove(self, kill: bool) {
        for _ in 0..50 {
            if kill && !self.members().is_empty() {
                self.kill();
            }
            if self.directories.iter().all(|directory| is_gone(directory)) {
                return;
            }
            if !kill {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracing::debug!(directories = ?self.directories, "cgroup is still in use and stays");
    }

    fn members(&self) -> Vec<rustix::process::Pid> {
        let read = |directory: &PathBuf| {
            fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default()
        };
        let text: String = self.directories.iter().map(read).collect();
        text.lines()
            .filter_map(|line| line.parse().ok().and_then(rustix::process::Pid::from_raw))
            .collect()
    }
}

fn is_gone(directory: &Path) -> bool {
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Directories to make groups in, with the controllers each serves, and whether they are version 2.
struct Bases(Vec<(Vec<&'static str>, PathBuf)>, bool);

impl Bases {
    fn unified(base: PathBuf, limits: &Limits) -> Result<Self, CgroupError> {
        enable(&base, &limits.controllers())?;
        Ok(Self(vec![(limits.controllers(), base)], true))
    }

    fn beside_the_daemon(limits: &Limits) -> Result<Self, CgroupError> {
        static FOUND: OnceLock<Hierarchy> = OnceLock::new();
        match FOUND.get_or_init(Hierarchy::find) {
            Hierarchy::V2(own) => {
                leave_for_a_leaf(own, limits)?;
                Self::unified(own.clone(), limits)
            }
            Hierarchy::V1(controllers) => {
                let mut bases = BTreeMap::<PathBuf, Vec<&'static str>>::new();
                for controller in limits.controllers() {
                    let base = controllers
                        .get(controller)
                        .ok_or(CgroupError::NoController(controller))?;
                    bases.entry(base.clone()).or_default().push(controller);
                }
                Ok(Self(
                    bases
                        .into_iter()
                        .map(|(base, controllers)| (controllers, base))
                        .collect(),
                    false,
                ))
            }
        }
    }
}

/// Version 2: switches controllers on for the children of `base`.
fn enable(base: &Path, controllers: &[&'static str]) -> Result<(), CgroupError> {
    let path = base.join("cgroup.subtree_control");
    let missing = |controller: &&&str| {
        !fs::read_to_string(&path)
            .unwrap_or_default()
            .split_whitespace()
            .any(|enabled| enabled == **controller)
    };
    for controller in controllers.iter().filter(missing) {
        fs::write(&path, format!("+{controller}")).map_err(|error| refused(&path, error))?;
    }
    Ok(())
}

/// Version 2: a group with processes of its own cannot have controllers for its children.
fn leave_for_a_leaf(own: &Path, limits: &Limits) -> Result<(), CgroupError> {
    if enable(own, &limits.controllers()).is_ok() {
        return Ok(());
    }
    let leaf = own.join("overseer-hub");
    fs::create_dir_all(&leaf).map_err(|error| refused(&leaf, error))?;
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).map_err(|error| refused(&procs, error))
}

fn apply(
    directory: &Path,
    controller: &str,
    limits: &Limits,
    unified: bool,
) -> Result<(), CgroupError> {
    const PERIOD: f64 = 100_000.0;
    let write = |file: &str, value: String| {
        let path = directory.join(file);
        fs::write(&path, value).map_err(|error| refused(&path, error))
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "microseconds of a sane CPU count"
    )]
    let quota = limits
        .cpu
        .map_or(0, |cpus| (cpus * PERIOD) as u64)
        .max(1000);
    match (controller, unified) {
        ("memory", true) => write("memory.max", limits.memory.unwrap_or(u64::MAX).to_string()),
        ("memory", false) => write(
            "memory.limit_in_bytes",
            limits.memory.unwrap_or(u64::MAX).to_string(),
        ),
        ("pids", _) => write("pids.max", limits.pids.unwrap_or(u64::MAX).to_string()),
        ("cpu", true) => write("cpu.max", format!("{quota} {PERIOD}")),
        ("cpu", false) => write("cpu.cfs_period_us", PERIOD.to_string())
            .and_then(|()| write("cpu.cfs_quota_us", quota.to_string())),
        (other, _) => unreachable!("no limit uses the controller {other}"),
    }
}

fn refused(path: &Path, error: io::Error) -> CgroupError {
    CgroupError::Refused {
        path: path.to_owned(),
        error,
    }
}

impl Hierarchy {
    /// Looks at where this process is, and at what is mounted.
    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::parse(&mounts, &own)
    }

    /// `mounts` is `/proc/self/mountinfo`, `own` is `/proc/self/cgroup`; see `cgroups(7)`.
    fn parse(mounts: &str, own: &str) -> Self {
        let own = |controller: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                controllers
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            })
        };
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let Some((front, back)) = line.split_once(" - ") else {
                continue;
            };
            let mut back = back.split_whitespace();
            let (kind, options) = (back.next(), back.nth(1).unwrap_or_default());
            let mut front = front.split_whitespace().skip(3);
            let (Some(root), Some(mount)) = (front.next(), front.next()) else {
                continue;
            };
            let place = |path: &str| {
                Path::new(mount).join(
                    path.strip_prefix(root)
                        .unwrap_or(path)
                        .trim_start_matches('/'),
                )
            };
            match kind {
                Some("cgroup2") => v2 = own("").map(place),
                Some("cgroup") => v1.extend(
                    options
                        .split(',')
                        .filter_map(|name| Some((name.to_owned(), place(own(name)?)))),
                ),
                _ => {}
            }
        }
        match v2 {
            Some(unified) if v1.is_empty() => Self::V2(unified),
            _ => Self::V1(v1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found() {
        let mounts =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchy::parse(mounts, "0::/system.slice/overseer.service\n");
        assert_eq!(
            found,
            Hierarchy::V2("/sys/fs/cgroup/system.slice/overseer.service".into())
        );
    }

    #[test]
    fn a_hybrid_machine_counts_as_version_1() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Hierarchy::V1(found) =
            Hierarchy::parse(mounts, "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n")
        else {
            panic!("version 1 wins")
        };
        assert_eq!(found["memory"], Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(found["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct/"));
        assert!(!found.contains_key("pids"));
    }

    #[test]
    fn off_means_off() {
        let limits = Limits {
            pids: Some(5),
            ..Limits::default()
        };
        assert!(matches!(
            Cgroup::create(&CgroupParent::Off, "x", &limits),
            Err(CgroupError::Off)
        ));
    }
}
