//! A group of version 1: the same path in one hierarchy a controller, any of which may be missing. Kernel documentation:
//! `admin-guide/cgroup-v1/{memory,cpuacct,freezer-subsystem}.rst`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::files;
use crate::stats::{Cpu, Memory, Usage, from_ticks};

/// The controllers that a container may be limited by or watched through.
const CONTROLLERS: [&str; 10] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "perf_event",
    "pids",
];

/// Those of [`CONTROLLERS`] that are mounted below `root`.
pub(super) fn controllers(root: &Path) -> Vec<String> {
    CONTROLLERS
        .into_iter()
        .filter(|name| root.join(name).join("cgroup.procs").exists())
        .map(str::to_owned)
        .collect()
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    root: PathBuf,
    path: PathBuf,
}

impl Group {
    pub(super) fn new(root: &Path, path: &Path) -> Self {
        Self {
            root: root.to_owned(),
            path: path.to_owned(),
        }
    }

    fn folder(&self, controller: &str) -> PathBuf {
        self.root.join(controller).join(&self.path)
    }

    /// The group in a hierarchy that holds its processes: the freezer's if it can be had.
    fn members(&self) -> PathBuf {
        [
            "freezer", "pids", "memory", "cpu", "cpuacct", "devices", "cpuset",
        ]
        .into_iter()
        .map(|controller| self.folder(controller))
        .find(|folder| folder.exists())
        .unwrap_or_else(|| self.folder("freezer"))
    }

    pub(super) fn pids(&self) -> io::Result<Vec<i32>> {
        files::pids(&self.members())
    }

    pub(super) fn oom_kills(&self) -> io::Result<u64> {
        let path = self.folder("memory").join("memory.oom_control");
        let text = files::text(&path)?;
        // Kernels before 4.13 do not count.
        files::value(&text, "oom_kill").ok_or_else(|| {
            let message = format!("{}: no oom_kill in it", path.display());
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }

    /// Kills in every hierarchy: what was being made when its maker was killed may be in some of them only.
    pub(super) fn kill(&self) -> io::Result<()> {
        let folders = self.folders()?;
        if folders.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        files::absent_is(self.kill_members(&self.members()), ())?;
        folders
            .iter()
            .try_for_each(|folder| files::absent_is(self.kill_members(folder), ()))
    }

    /// Freezes, kills and thaws until nobody is left: what is frozen cannot fork. Without a freezer forks are chased.
    fn kill_members(&self, members: &Path) -> io::Result<()> {
        let freezer = self.folder("freezer").join("freezer.state");
        files::until_empty(members, || {
            let frozen = files::write(&freezer, "FROZEN").is_ok();
            let killed = files::kill_each(members);
            if frozen {
                files::absent_is(files::write(&freezer, "THAWED"), ())?;
            }
            killed
        })
    }

    pub(super) fn usage(&self) -> io::Result<Usage> {
        let (memory, cpuacct) = (self.folder("memory"), self.folder("cpuacct"));
        if !memory.exists() && !cpuacct.exists() {
            let message = format!("{}: no such control group", self.path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Usage {
            cpu: self.cpu(&cpuacct),
            memory: memory_of(&memory),
        })
    }

    fn cpu(&self, cpuacct: &Path) -> Cpu {
        let times = files::text(&cpuacct.join("cpuacct.stat")).unwrap_or_default();
        let throttling = files::text(&self.folder("cpu").join("cpu.stat")).unwrap_or_default();
        Cpu {
            total: files::number(&cpuacct.join("cpuacct.usage")).map(Duration::from_nanos),
            user: files::value(&times, "user").map(from_ticks),
            system: files::value(&times, "system").map(from_ticks),
            throttled_periods: files::value(&throttling, "nr_throttled"),
            throttled: files::value(&throttling, "throttled_time").map(Duration::from_nanos),
        }
    }

    pub(super) fn yield_to(&self, other: &Path) -> io::Result<()> {
        let mut parts = match other.strip_prefix(&self.root) {
            Ok(below) => below.components(),
            Err(_) => return Ok(()),
        };
        let Some(hierarchy) = parts.next() else {
            return Ok(());
        };
        let own = self.root.join(hierarchy).join(&self.path);
        if own == other {
            return Ok(());
        }
        files::remove(&own)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        // One that cannot be removed is no reason to leave the others.
        let removed: Vec<_> = self.folders()?.iter().map(|it| files::remove(it)).collect();
        removed.into_iter().collect()
    }

    /// The group in every hierarchy that has it, those without a controller too: crun makes it in `systemd` and `net_cls` as
    /// well. Where it finds a folder `unified` without a hierarchy it makes plain folders and files, whose pids are nobody's.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        let hierarchies = files::absent_is(fs::read_dir(&self.root).map(Some), None)?;
        for hierarchy in hierarchies.into_iter().flatten() {
            let hierarchy = hierarchy?.path();
            let folder = hierarchy.join(&self.path);
            if folder.is_dir() && hierarchy.join("cgroup.procs").exists() {
                folders.push(folder);
            }
        }
        Ok(folders)
    }
}

/// The `total_` values count the groups below as well.
fn memory_of(folder: &Path) -> Memory {
    let stat = files::text(&folder.join("memory.stat")).unwrap_or_default();
    Memory {
        rss: files::value(&stat, "total_rss"),
        cache: files::value(&stat, "total_cache"),
        usage: files::number(&folder.join("memory.usage_in_bytes")),
        max: files::number(&folder.join("memory.max_usage_in_bytes")),
        kernel: files::number(&folder.join("memory.kmem.usage_in_bytes")),
        kernel_max: files::number(&folder.join("memory.kmem.max_usage_in_bytes")),
        swap: files::value(&stat, "total_swap"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        process::{Command, Stdio},
    };

    use runyard_common::testing::tempdir;

    use super::*;
    use crate::{
        cgroup::{Cgroup, ROOT, detect},
        task::CgroupPlace,
    };

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_group_of_version_1_is_read_from_its_hierarchies() {
        let root = tempdir();
        let root = root.path();
        write(
            root,
            "memory/milo/x/memory.stat",
            "rss 1\ntotal_cache 20\ntotal_rss 10\ntotal_swap 3\n",
        );
        write(root, "memory/milo/x/memory.usage_in_bytes", "99\n");
        write(root, "memory/milo/x/memory.max_usage_in_bytes", "120\n");
        write(
            root,
            "memory/milo/x/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        write(root, "cpuacct/milo/x/cpuacct.usage", "1500000000\n");
        write(root, "cpuacct/milo/x/cpuacct.stat", "user 100\nsystem 50\n");
        write(
            root,
            "cpu/milo/x/cpu.stat",
            "nr_periods 9\nnr_throttled 4\nthrottled_time 7000\n",
        );
        let group = Group::new(root, Path::new("milo/x"));
        let usage = group.usage().unwrap();
        assert_eq!(usage.memory.rss, Some(10));
        assert_eq!(usage.memory.cache, Some(20));
        assert_eq!(usage.memory.swap, Some(3));
        assert_eq!(
            (usage.memory.usage, usage.memory.max),
            (Some(99), Some(120))
        );
        assert_eq!(usage.memory.kernel, None);
        assert_eq!(usage.cpu.total, Some(Duration::from_millis(1500)));
        assert_eq!(usage.cpu.user, Some(from_ticks(100)));
        assert_eq!(usage.cpu.throttled_periods, Some(4));
        assert_eq!(usage.cpu.throttled, Some(Duration::from_micros(7)));
        assert_eq!(group.oom_kills().unwrap(), 2);
    }

    #[test]
    fn processes_of_groups_below_count_and_no_pid_is_nought() {
        let root = tempdir();
        write(root.path(), "freezer/milo/x/cgroup.procs", "0\n12\n3\n");
        write(root.path(), "freezer/milo/x/below/cgroup.procs", "7\n");
        let group = Group::new(root.path(), Path::new("milo/x"));
        assert_eq!(group.pids().unwrap(), [3, 7, 12]);
    }

    /// Lives in real hierarchies: `sh` with children of its own that ignore signals.
    #[test]
    fn everything_in_a_real_group_is_killed_and_the_group_removed() {
        let root = Path::new(ROOT);
        let mode = detect(root);
        let path = format!("milo-unit-{}", std::process::id());
        let folders = ["freezer", "memory", "cpuacct"].map(|name| root.join(name).join(&path));
        if !mode.is_v1() || folders.iter().any(|folder| fs::create_dir(folder).is_err()) {
            println!("skipped: no version 1 control groups that can be written");
            return;
        }
        let place = CgroupPlace {
            path: format!("/{path}"),
            ..CgroupPlace::default()
        };
        let group = Cgroup::of(&mode, root, &place);
        assert!(group.is_empty().unwrap());
        let script = "read -r go; trap '' TERM INT; (while :; do :; done) & \
                      for i in 1 2 3; do (trap '' TERM; tail -f /dev/null) & done; echo; wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for folder in &folders {
            files::write(&folder.join("cgroup.procs"), &shell.id().to_string()).unwrap();
        }
        io::Write::write_all(&mut shell.stdin.take().unwrap(), b"go\n").unwrap();
        io::Read::read(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(group.pids().unwrap().len() > 3);
        let usage = group.usage().unwrap();
        assert!(usage.memory.rss.unwrap() > 0, "{usage:?}");
        assert_eq!(group.oom_kills().unwrap(), 0);
        group.kill().unwrap();
        assert!(group.is_empty().unwrap());
        assert!(!shell.wait().unwrap().success());
        group.remove().unwrap();
        assert!(folders.iter().all(|folder| !folder.exists()));
    }

    #[test]
    fn a_group_is_removed_from_every_hierarchy_with_and_without_a_controller() {
        let root = tempdir();
        let folders = ["memory", "systemd", "net_cls,net_prio"].map(|hierarchy| {
            write(root.path(), &format!("{hierarchy}/cgroup.procs"), "");
            let folder = root.path().join(hierarchy).join("milo/x");
            fs::create_dir_all(folder.join("below")).unwrap();
            folder
        });
        // As if it were in use.
        let stuck = folders[1].join("below/file");
        fs::write(&stuck, "").unwrap();
        let group = Group::new(root.path(), Path::new("milo/x"));
        group.remove().unwrap_err();
        let left = folders.each_ref().map(|folder| folder.exists());
        assert_eq!(left, [false, true, false]);
        fs::remove_file(stuck).unwrap();
        group.remove().unwrap();
        for folder in folders {
            assert!(!folder.exists() && folder.parent().unwrap().exists());
        }
    }

    #[test]
    fn a_folder_that_is_no_hierarchy_has_no_groups_whatever_lies_in_it() {
        let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        let root = tempdir();
        let pid = sleeper.id().to_string();
        write(root.path(), "unified/milo/x/cgroup.procs", &pid);
        write(root.path(), "memory/cgroup.procs", "");
        write(root.path(), "memory/milo/x/cgroup.procs", "");
        let group = Group::new(root.path(), Path::new("milo/x"));
        group.kill().unwrap();
        assert!(sleeper.try_wait().unwrap().is_none());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
