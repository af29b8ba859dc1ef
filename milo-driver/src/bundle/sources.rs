//! What is mounted from folders in which others may write: the task itself, from an earlier attempt or through `exec`, and
//! every other task of its allocation. crun takes paths, and whoever can rename a folder decides what a path means. So each
//! such source is opened once, without following links, and crun gets a path of the bundle at which only root can change
//! anything:
//!
//! ```text
//!  <alloc>/alloc/data ──open, no links──▶ descriptor ──open_tree──▶ a mount that is nowhere yet
//!                                                                        │ move_mount, between fork and exec of crun,
//!                                                                        ▼ in a mount namespace of crun's own
//!  config.json: "source": "<bundle>/sources/0" ◀──────────────── <bundle>/sources/0
//! ```
//!
//! The mounts are gone with that namespace: nobody else ever sees them, and nobody has to remove them. A plain path is all
//! that crun knows of it, so that every version of it will do.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat},
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

use super::BundleError;
use crate::{
    beneath,
    task::{Mount, Propagation, Task},
};

/// Where in the bundle held sources are.
const FOLDER: &str = "sources";
/// What the root file system is called there; mounts have numbers.
const ROOTFS: &str = "rootfs";

/// A source that was opened, and will be mounted whatever becomes of its path.
#[derive(Debug)]
pub struct Held {
    /// A detached copy of the mount, with all that is mounted in it.
    tree: OwnedFd,
    /// Where crun expects it.
    place: PathBuf,
    is_folder: bool,
}

/// Where crun finds the source of the mount of this number.
pub(super) fn of_mount(task: &Task, number: usize, mount: &Mount, bundle: &Path) -> PathBuf {
    if is_held(task, mount) {
        at(bundle, &number.to_string())
    } else {
        mount.source.clone()
    }
}

/// Where crun finds the task's own root file system, if it has one.
pub(super) fn of_rootfs(task: &Task, bundle: &Path) -> Option<PathBuf> {
    let rootfs = task.rootfs.as_ref()?;
    let is_held = task.dirs.around(rootfs).is_some();
    Some(if is_held {
        at(bundle, ROOTFS)
    } else {
        rootfs.clone()
    })
}

fn at(bundle: &Path, name: &str) -> PathBuf {
    bundle.join(FOLDER).join(name)
}

/// Beside a held source those are held, too, whose mounts are to reach the host: from crun's namespace they would not.
fn is_held(task: &Task, mount: &Mount) -> bool {
    let is_shared = mount.propagation == Propagation::Rshared;
    task.dirs.around(&mount.source).is_some() || (is_shared && has_others_folders(task))
}

fn has_others_folders(task: &Task) -> bool {
    let sources = task.mounts.iter().map(|mount| &mount.source);
    sources
        .chain(&task.rootfs)
        .any(|source| task.dirs.around(source).is_some())
}

/// All that is held: its name, its path on the host, and what an error calls it.
fn wanted(task: &Task) -> Vec<(String, &Path, &Path)> {
    let mounts = task.mounts.iter().enumerate();
    let held = mounts.filter(|(_, mount)| is_held(task, mount));
    let mounts = held.map(|(number, mount)| {
        let (source, target) = (mount.source.as_path(), mount.target.as_path());
        (number.to_string(), source, target)
    });
    let rootfs = task.rootfs.iter().map(PathBuf::as_path);
    let rootfs = rootfs.filter(|rootfs| task.dirs.around(rootfs).is_some());
    mounts
        .chain(rootfs.map(|rootfs| (ROOTFS.to_owned(), rootfs, Path::new("/"))))
        .collect()
}

/// Refuses what [`hold`] would refuse, as early as can be.
pub fn check(task: &Task) -> Result<(), BundleError> {
    for (_, source, target) in wanted(task) {
        opened(task, source, target)?;
    }
    Ok(())
}

/// Opens every source that others could swap. To be called in the mount namespace of the host, or in one that follows it.
pub fn hold(task: &Task, bundle: &Path) -> Result<Vec<Held>, BundleError> {
    let one = |(name, source, target): (String, &Path, &Path)| {
        let refused = |error: rustix::io::Errno| BundleError::Mount {
            target: target.to_owned(),
            reason: format!("its source `{}` cannot be held: {error}", source.display()),
        };
        let opened = opened(task, source, target)?;
        let kind = FileType::from_raw_mode(fstat(&opened).map_err(refused)?.st_mode);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        Ok(Held {
            tree: open_tree(&opened, c"", flags).map_err(refused)?,
            place: at(bundle, &name),
            is_folder: kind == FileType::Directory,
        })
    };
    wanted(task).into_iter().map(one).collect()
}

fn opened(task: &Task, source: &Path, target: &Path) -> Result<OwnedFd, BundleError> {
    let refused = |reason: String| BundleError::Mount {
        target: target.to_owned(),
        reason,
    };
    let Some((top, relative)) = task.dirs.around(source) else {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        return rustix::fs::open(source, flags, Mode::empty())
            .map_err(|error| refused(format!("source `{}`: {error}", source.display())));
    };
    beneath::named(top, relative).map_err(|error| {
        refused(format!(
            "its source `{}` cannot be opened below the task's folder without following links: {error}",
            relative.display()
        ))
    })
}

/// Has a command find the held sources at their places. Nobody else does, and nothing of it is left when the command and all
/// that it has started have ended.
pub(crate) fn attach(command: &mut Command, held: Vec<Held>) -> io::Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let places = held.iter().map(place).collect::<io::Result<Vec<_>>>()?;
    let attach = move || {
        // SAFETY: the child that the caller forked has one thread, and shares neither memory nor descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
        // What the host mounts later still arrives; what is mounted here stays here.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", slave)?;
        for (held, place) in held.iter().zip(&places) {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&held.tree, c"", CWD, place.as_c_str(), flags)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, on what was made before the fork.
    unsafe { command.pre_exec(attach) };
    Ok(())
}

/// Makes something to mount on.
fn place(held: &Held) -> io::Result<CString> {
    if let Some(folder) = held.place.parent() {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(folder)?;
    }
    if held.is_folder {
        fs::create_dir_all(&held.place)?;
    } else {
        File::create(&held.place)?;
    }
    CString::new(held.place.as_os_str().as_bytes()).map_err(io::Error::other)
}
