//! A group of version 2: one folder with everything in it. Kernel documentation: `admin-guide/cgroup-v2.rst`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::files;
use crate::stats::{Cpu, Memory, Usage};

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    folder: PathBuf,
}

impl Group {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn pids(&self) -> io::Result<Vec<i32>> {
        files::pids(&self.folder)
    }

    pub(super) fn oom_kills(&self) -> io::Result<u64> {
        let path = self.file("memory.events");
        let text = files::text(&path)?;
        files::value(&text, "oom_kill").ok_or_else(|| {
            let message = format!("{}: no oom_kill in it", path.display());
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }

    /// One write to `cgroup.kill` (since Linux 5.14) kills all, forks included. Before that it is frozen, killed one by
    /// one and thawed.
    pub(super) fn kill(&self) -> io::Result<()> {
        let at_once = self.file("cgroup.kill").exists();
        files::until_empty(&self.folder, || {
            if at_once {
                return files::write(&self.file("cgroup.kill"), "1");
            }
            let freeze = self.file("cgroup.freeze");
            let frozen = files::write(&freeze, "1").is_ok();
            let killed = files::kill_each(&self.folder);
            if frozen {
                files::absent_is(files::write(&freeze, "0"), ())?;
            }
            killed
        })
    }

    pub(super) fn usage(&self) -> io::Result<Usage> {
        // Of every group but the root, whatever its controllers are.
        let cpu = files::text(&self.file("cpu.stat"))?;
        Ok(Usage {
            cpu: cpu_of(&cpu),
            memory: memory_of(&self.folder),
        })
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        files::remove(&self.folder)
    }
}

fn cpu_of(stat: &str) -> Cpu {
    let time = |key| files::value(stat, key).map(Duration::from_micros);
    Cpu {
        total: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        throttled_periods: files::value(stat, "nr_throttled"),
        throttled: time("throttled_usec"),
    }
}

fn memory_of(folder: &Path) -> Memory {
    let stat = files::text(&folder.join("memory.stat")).unwrap_or_default();
    Memory {
        rss: files::value(&stat, "anon"),
        cache: files::value(&stat, "file"),
        usage: files::number(&folder.join("memory.current")),
        // Since Linux 5.19.
        max: files::number(&folder.join("memory.peak")),
        // Since Linux 5.18; before, its parts.
        kernel: files::value(&stat, "kernel").or_else(|| {
            Some(files::value(&stat, "kernel_stack")? + files::value(&stat, "slab").unwrap_or(0))
        }),
        kernel_max: None,
        swap: files::number(&folder.join("memory.swap.current")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_group_of_version_2_is_read_from_its_folder() {
        let root = tempdir();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        write("cgroup.procs", "12\n3\n");
        write(
            "cpu.stat",
            "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 0\nnr_throttled 2\nthrottled_usec 7\n",
        );
        write("memory.current", "4096\n");
        write("memory.peak", "8192\n");
        write(
            "memory.stat",
            "anon 1000\nfile 2000\nkernel 300\nfile_mapped 5\n",
        );
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 9\noom 3\noom_kill 1\noom_group_kill 0\n",
        );
        let group = Group::new(root.path().to_owned());
        let usage = group.usage().unwrap();
        assert_eq!(usage.cpu.total, Some(Duration::from_millis(1500)));
        assert_eq!(usage.cpu.throttled, Some(Duration::from_micros(7)));
        assert_eq!(
            (usage.memory.rss, usage.memory.cache),
            (Some(1000), Some(2000))
        );
        assert_eq!(
            (usage.memory.usage, usage.memory.max),
            (Some(4096), Some(8192))
        );
        assert_eq!((usage.memory.kernel, usage.memory.swap), (Some(300), None));
        assert_eq!(group.oom_kills().unwrap(), 1);
        assert_eq!(group.pids().unwrap(), [3, 12]);
    }

    #[test]
    fn a_group_without_a_memory_controller_measures_no_memory() {
        let root = tempdir();
        fs::write(root.path().join("cpu.stat"), "usage_usec 1\n").unwrap();
        let usage = Group::new(root.path().to_owned()).usage().unwrap();
        assert_eq!(usage.memory, Memory::default());
        assert_eq!((usage.cpu.user, usage.cpu.throttled), (None, None));
    }

    #[test]
    fn old_kernels_tell_their_memory_in_parts() {
        let root = tempdir();
        fs::write(
            root.path().join("memory.stat"),
            "anon 1\nkernel_stack 10\nslab 20\n",
        )
        .unwrap();
        assert_eq!(memory_of(root.path()).kernel, Some(30));
    }
}
