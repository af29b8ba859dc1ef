//! Control groups of either version: which one this machine has, and one task's group as what can be read, emptied and
//! removed. Limits are written by crun from what [`crate::resources`] says, never here; what the readings mean is
//! [`crate::stats`]'.
//!
//! | machine | [`Mode`] |
//! |---|---|
//! | `cgroup2` at the root | `V2` |
//! | one folder a controller, and perhaps a `unified` beside them that has no controllers (systemd's hybrid) | `V1` |
//! | one folder a controller, and a `unified` that has controllers | `Hybrid`: crun refuses it unless `unified` is out of its sight, and then works as on `V1` |
//! | none of these | `None` |

mod files;
mod v1;
mod v2;

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    stats::Usage,
    task::{CgroupPlace, TaskId},
};

/// Where the hierarchies are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Which control groups this machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Version 1: a hierarchy for each controller.
    V1 {
        /// The controllers that are mounted, in the order of their names: `cpu`, `memory`.
        controllers: Vec<String>,
    },
    /// Version 2: one hierarchy.
    V2,
    /// Version 1 with controllers in version 2 as well, which crun refuses: "cgroups in hybrid mode not supported".
    Hybrid,
    /// None that is usable.
    #[default]
    None,
}

impl Mode {
    /// Whether tasks live in version 1 hierarchies.
    pub fn is_v1(&self) -> bool {
        matches!(self, Self::V1 { .. } | Self::Hybrid)
    }

    /// Its name for people and attributes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::V1 { .. } => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        }
    }
}

/// The group of a task that was given none. A task's id is its own among those with records in `state_dir`, and there may
/// be others elsewhere: a group that two tasks shared would be emptied when the first of them ends.
pub fn own(state_dir: &Path, id: &TaskId) -> CgroupPlace {
    let hash = Sha256::digest(state_dir.as_os_str().as_bytes());
    let state = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    CgroupPlace {
        path: format!("/milo/{}-{state:08x}", id.key()),
        ..CgroupPlace::default()
    }
}

/// Looks what is mounted at `root`, which is [`ROOT`] but in tests.
pub fn detect(root: &Path) -> Mode {
    if files::text(&root.join("cgroup.controllers")).is_ok() {
        return Mode::V2;
    }
    let controllers = v1::controllers(root);
    if controllers.is_empty() {
        return Mode::None;
    }
    match files::text(&root.join("unified/cgroup.controllers")) {
        Ok(unified) if !unified.trim().is_empty() => Mode::Hybrid,
        _ => Mode::V1 { controllers },
    }
}

/// One task's control group. It may exist or not; what is read of one that does not is an error of kind `NotFound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    V1(v1::Group),
    V2(v2::Group),
    Absent,
}

impl Cgroup {
    /// The group at `place` below `root` ([`ROOT`] but in tests).
    ///
    /// Where control groups are disabled or missing, and for a place that is not strictly below the hierarchy's root
    /// (see [`relative`]), the group is an absent one: it holds nobody, counts nothing, and killing or removing it does
    /// nothing.
    pub fn of(mode: &Mode, root: &Path, place: &CgroupPlace) -> Self {
        let hierarchy = match (mode, relative(&place.path)) {
            _ if place.disabled => Hierarchy::Absent,
            (Mode::V2, Some(path)) => Hierarchy::V2(v2::Group::new(root.join(path))),
            (Mode::V1 { .. } | Mode::Hybrid, Some(path)) => {
                Hierarchy::V1(v1::Group::new(root, &path))
            }
            _ => Hierarchy::Absent,
        };
        Self { hierarchy }
    }

    /// Whether there is anything to ask.
    pub fn is_absent(&self) -> bool {
        self.hierarchy == Hierarchy::Absent
    }

    /// How many processes in it the kernel has killed because its memory was used up: `oom_kill` of `memory.events` or
    /// of `memory.oom_control`. It is gone with the group, so ask before anything deletes that.
    pub fn oom_kills(&self) -> io::Result<u64> {
        match &self.hierarchy {
            Hierarchy::V1(group) => group.oom_kills(),
            Hierarchy::V2(group) => group.oom_kills(),
            Hierarchy::Absent => Ok(0),
        }
    }

    /// Kills everything in it and in the groups below, forks that happen meanwhile included. Blocks until nobody is left,
    /// for two seconds at most; what is stuck in the kernel then is an error of kind `TimedOut`. A group that does not
    /// exist has nobody in it.
    pub fn kill(&self) -> io::Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(group) => files::absent_is(group.kill(), ()),
            Hierarchy::V2(group) => files::absent_is(group.kill(), ()),
            Hierarchy::Absent => Ok(()),
        }
    }

    /// The processes in it and in the groups below, in ascending order.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        match &self.hierarchy {
            Hierarchy::V1(group) => group.pids(),
            Hierarchy::V2(group) => group.pids(),
            Hierarchy::Absent => Ok(Vec::new()),
        }
    }

    /// Whether nobody is in it. A group that does not exist is empty.
    pub fn is_empty(&self) -> io::Result<bool> {
        files::absent_is(self.pids().map(|pids| pids.is_empty()), true)
    }

    /// What it uses. A controller that is missing leaves its values unmeasured.
    pub fn usage(&self) -> io::Result<Usage> {
        match &self.hierarchy {
            Hierarchy::V1(group) => group.usage(),
            Hierarchy::V2(group) => group.usage(),
            Hierarchy::Absent => Ok(Usage::default()),
        }
    }

    /// Removes it from those hierarchies of version 1 in which one of these folders is, whose members are elsewhere by now.
    /// A folder that is no part of a hierarchy says nothing.
    pub fn yield_to(&self, others: &[PathBuf]) -> io::Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(group) => others.iter().try_for_each(|other| group.yield_to(other)),
            Hierarchy::V2(_) | Hierarchy::Absent => Ok(()),
        }
    }

    /// Removes it, with the groups below, from every hierarchy. One that is gone already is no error; one that somebody
    /// is in is.
    pub fn remove(&self) -> io::Result<()> {
        match &self.hierarchy {
            Hierarchy::V1(group) => group.remove(),
            Hierarchy::V2(group) => group.remove(),
            Hierarchy::Absent => Ok(()),
        }
    }
}

/// A cgroup's path without its leading slash, if it leads strictly below the root. To kill what is in the root would end
/// the machine, so `/`, the empty path and any `..` are refused.
pub fn relative(path: &str) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!below.as_os_str().is_empty()).then_some(below)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runyard_common::testing::{TempDir, tempdir};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempdir();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn place(path: &str) -> CgroupPlace {
        CgroupPlace {
            path: path.into(),
            ..CgroupPlace::default()
        }
    }

    #[test]
    fn two_tasks_of_one_name_have_a_group_each_if_their_records_are_apart() {
        let id = TaskId("one".to_owned());
        let [one, other] = ["/run/milo", "/run/other"].map(|state| own(Path::new(state), &id));
        assert_ne!(one, other);
        assert_eq!(one, own(Path::new("/run/milo"), &id));
        assert!(
            one.path.starts_with(&format!("/milo/{}-", id.key())),
            "{one:?}"
        );
    }

    #[test]
    fn version_2_is_known_by_its_root() {
        let root = tree(&[("cgroup.controllers", "cpu memory pids\n")]);
        assert_eq!(detect(root.path()), Mode::V2);
    }

    #[test]
    fn systemds_hybrid_is_version_1() {
        let root = tree(&[
            ("memory/cgroup.procs", ""),
            ("cpu,cpuacct/cgroup.procs", ""),
            ("unified/cgroup.controllers", "\n"),
        ]);
        std::os::unix::fs::symlink("cpu,cpuacct", root.path().join("cpu")).unwrap();
        let controllers = vec!["cpu".to_owned(), "memory".to_owned()];
        assert_eq!(detect(root.path()), Mode::V1 { controllers });
    }

    #[test]
    fn controllers_in_both_versions_are_what_crun_refuses() {
        let root = tree(&[
            ("memory/cgroup.procs", ""),
            ("unified/cgroup.controllers", "hugetlb\n"),
        ]);
        assert_eq!(detect(root.path()), Mode::Hybrid);
        assert!(detect(root.path()).is_v1());
    }

    #[test]
    fn a_machine_without_control_groups_says_so() {
        assert_eq!(detect(tempdir().path()), Mode::None);
        assert_eq!(detect(Path::new("/nowhere")), Mode::None);
    }

    #[test]
    fn the_root_of_a_hierarchy_is_nobodys_group() {
        for path in ["", "/", "//", "/./", "/a/..", "../a"] {
            let group = Cgroup::of(&Mode::V2, Path::new("/nowhere"), &place(path));
            assert!(group.is_absent(), "{path}");
            group.kill().unwrap();
            group.remove().unwrap();
        }
        assert_eq!(relative("/milo/x"), Some("milo/x".into()));
    }

    #[test]
    fn where_control_groups_are_left_alone_nothing_is_counted() {
        let disabled = CgroupPlace {
            disabled: true,
            ..place("/milo/x")
        };
        let group = Cgroup::of(&Mode::V2, Path::new("/nowhere"), &disabled);
        assert_eq!(group.usage().unwrap(), Usage::default());
        assert!(group.is_empty().unwrap());
        assert_eq!(group.oom_kills().unwrap(), 0);
    }

    #[test]
    fn a_group_that_is_gone_is_empty_and_cannot_be_killed_or_removed_twice() {
        for mode in [Mode::V2, Mode::Hybrid] {
            let group = Cgroup::of(&mode, Path::new("/nowhere"), &place("/milo/x"));
            assert!(group.is_empty().unwrap());
            group.kill().unwrap();
            group.remove().unwrap();
            assert_eq!(
                group.oom_kills().unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        }
    }
}
