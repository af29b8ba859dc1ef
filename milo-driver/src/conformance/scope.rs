//! A task's control group as an agent makes it before the task starts. Version 1 has one for each controller, of which the
//! driver is told the cpuset's; version 2 has one for all.
//!
//! ```text
//!  version 1   <root>/cpuset/nomad/reserve/<alloc>.<task>    told, as of a task with CPUs of its own
//!              <root>/{cpu,freezer,memory}/nomad/<alloc>.<task>
//!  version 2   <root>/nomad.slice/share.slice/<alloc>.<task>.scope
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cgroup::Mode;

/// The control group. What was made for it goes with it.
#[derive(Debug)]
pub(super) struct Scope {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Drop for Scope {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // The driver has removed it, or another task of this agent's is still there.
            let _ = fs::remove_dir(path);
        }
    }
}

impl Scope {
    /// Makes it; `name` is `<alloc>.<task>`. There is none without control groups.
    pub(super) fn make(root: &Path, mode: &Mode, name: &str) -> io::Result<Option<Self>> {
        let mut scope = Self {
            path: root.to_owned(),
            made: Vec::new(),
        };
        if *mode == Mode::None {
            return Ok(None);
        }
        if *mode == Mode::V2 {
            scope.path = scope.v2(root, name)?;
            return Ok(Some(scope));
        }
        for controller in ["cpu", "freezer", "memory"] {
            let hierarchy = root.join(controller);
            if hierarchy.is_dir() {
                scope.below(&hierarchy, &["nomad", name], |_| Ok(()))?;
            }
        }
        let cpuset = root.join("cpuset");
        scope.path = scope.below(&cpuset, &["nomad", "reserve", name], inherit)?;
        Ok(Some(scope))
    }

    fn v2(&mut self, root: &Path, name: &str) -> io::Result<PathBuf> {
        let scope = format!("{name}.scope");
        self.below(root, &["nomad.slice", "share.slice", &scope], |path| {
            // What is not there to be handed down cannot limit the task either.
            if let Some(parent) = path.parent() {
                for controller in ["+cpuset", "+cpu", "+io", "+memory", "+pids"] {
                    let _ = enable(parent, controller);
                }
            }
            Ok(())
        })
    }

    fn below(
        &mut self,
        hierarchy: &Path,
        names: &[&str],
        prepare: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let mut path = hierarchy.to_owned();
        for name in names {
            path.push(name);
            match fs::create_dir(&path) {
                Ok(()) => self.made.push(path.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            prepare(&path)?;
        }
        Ok(path)
    }

    /// Where it is, as the driver is told.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the task is in it, or in a group below.
    pub(super) fn is_inhabited(&self) -> Result<(), String> {
        match has_processes(&self.path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "`{}` has no process while the task runs",
                self.path.display()
            )),
            Err(error) => Err(format!("`{}`: {error}", self.path.display())),
        }
    }
}

fn enable(group: &Path, controller: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.subtree_control"))?;
    io::Write::write_all(&mut file, controller.as_bytes())
}

/// A cpuset takes nobody before it has CPUs and memory.
fn inherit(path: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(name);
        if fs::read_to_string(&own)?.trim().is_empty() {
            let above = path.parent().unwrap_or(path).join(name);
            fs::write(own, fs::read_to_string(above)?.trim())?;
        }
    }
    Ok(())
}

fn has_processes(path: &Path) -> io::Result<bool> {
    if !fs::read_to_string(path.join("cgroup.procs"))?.is_empty() {
        return Ok(true);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && has_processes(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_group_without_a_process_is_found_and_one_with_a_process_below_is_good() {
        let root = tempdir();
        let scope = Scope::make(root.path(), &Mode::V2, "a.t").unwrap().unwrap();
        assert!(scope.path().ends_with("nomad.slice/share.slice/a.t.scope"));
        let below = scope.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(scope.path().join("cgroup.procs"), "").unwrap();
        fs::write(below.join("cgroup.procs"), "").unwrap();
        let empty = scope.is_inhabited().unwrap_err();
        assert!(empty.contains("has no process"), "{empty}");
        fs::write(below.join("cgroup.procs"), "4711\n").unwrap();
        assert_eq!(scope.is_inhabited(), Ok(()));
    }

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let root = tempdir();
        fs::create_dir(root.path().join("nomad.slice")).unwrap();
        let make = || Scope::make(root.path(), &Mode::V2, "a.t").unwrap();
        drop(make());
        assert!(root.path().join("nomad.slice").is_dir());
        assert!(!root.path().join("nomad.slice/share.slice").exists());
        assert!(
            Scope::make(root.path(), &Mode::None, "a.t")
                .unwrap()
                .is_none()
        );
    }
}
