//! Buildah's stores, one for each owner, because whoever can write a shared cache can poison what others build. Every run
//! holds a share of the lock of the store that it uses; a store is pruned only while nobody does.

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use sha2::{Digest, Sha256};

use super::LocalConfig;
use crate::{
    hex::hex,
    runner::driver_options,
    state::{StateRoot, file, lock::Lock},
};

/// How long Buildah may take to remove images: meanwhile no run gets into the store.
const RMI_LIMIT: Duration = Duration::from_mins(10);

/// The name of an owner's folder: what can be read of the owner, and a part of its hash.
pub(crate) fn owner_key(owner: &str) -> String {
    let readable: String = owner
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(32)
        .collect();
    let hash = Sha256::digest(owner);
    format!("{readable}-{}", hex(&hash[..4]))
}

/// What became of a store that is larger than it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Its folder.
    pub store: PathBuf,
    /// How many bytes of the disk it took.
    pub before: u64,
    /// How many it takes now.
    pub after: u64,
    /// Why it takes no less.
    pub problem: Option<String>,
}

pub(super) fn prune(root: &StateRoot, config: &LocalConfig) -> io::Result<Vec<Pruned>> {
    let Some(limit) = config.cache_limit else {
        return Ok(Vec::new());
    };
    let folder = root.storage();
    let stores = fs::read_dir(&folder).map_err(|error| file::explained("list", &folder, error))?;
    let mut pruned = Vec::new();
    for store in stores.flatten().map(|entry| entry.path()) {
        let before = size(&store);
        if before > limit {
            let problem = prune_store(&store, config, limit).err();
            pruned.push(Pruned {
                after: size(&store),
                problem: problem.map(|error| error.to_string()),
                before,
                store,
            });
        }
    }
    Ok(pruned)
}

/// Removes images that nothing refers to; if that is not enough, all of the store's.
fn prune_store(store: &Path, config: &LocalConfig, limit: u64) -> io::Result<()> {
    let Some(_alone) = Lock::try_exclusive(&store.join("lock"))? else {
        return Err(io::Error::other("a run uses it"));
    };
    rmi(store, config, &["--prune", "--force"])?;
    if size(store) > limit {
        rmi(store, config, &["--all", "--force"])?;
    }
    Ok(())
}

fn rmi(store: &Path, config: &LocalConfig, what: &[&str]) -> io::Result<()> {
    let mut command = Command::new("buildah");
    command
        .arg("--root")
        .arg(store.join("root"))
        .arg("--runroot")
        .arg(store.join("run"))
        .args(driver(store, config.storage_driver.as_deref()));
    command.arg("rmi").args(what).current_dir("/");
    let output = within(RMI_LIMIT, &mut command)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

/// The end of a command that says little; one that takes longer is killed, which is an error.
fn within(limit: Duration, command: &mut Command) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + limit;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|process| readable_before(deadline, &process));
    if !matches!(ended, Ok(true)) {
        // It has not been collected; it can only have ended.
        let _ = child.kill();
    }
    let output = child.wait_with_output()?;
    if ended? {
        return Ok(output);
    }
    let what = command.get_program().display();
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no end of {what} within {limit:?}; it was killed"),
    ))
}

fn readable_before(deadline: Instant, file: &impl AsFd) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// How Buildah is told the driver of a store: the one that is configured, else the one that runs use there, which may need more
/// than its name, else the one that it was made with.
fn driver(store: &Path, configured: Option<&str>) -> Vec<OsString> {
    let named = |driver: &str| vec!["--storage-driver".into(), driver.into()];
    configured
        .map(named)
        .or_else(|| driver_options(&store.join("root")))
        .or_else(|| driver_of(store).as_deref().map(named))
        .unwrap_or_default()
}

/// The driver that a store was made with: containers/storage has a folder `<driver>-images` in each.
fn driver_of(store: &Path) -> Option<String> {
    let entries = fs::read_dir(store.join("root")).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix("-images").map(str::to_owned)
    })
}

/// How much of the disk a folder takes; what is mounted in it is not its own.
fn size(folder: &Path) -> u64 {
    let device = fs::metadata(folder).map_or(0, |metadata| metadata.dev());
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        // What vanishes meanwhile takes nothing.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != device {
                continue;
            }
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_and_one_that_does_is_heard() {
        let mut endless = Command::new("sleep");
        let error = within(Duration::from_millis(10), endless.arg("1000")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut quick = Command::new("sh");
        let output = within(RMI_LIMIT, quick.args(["-c", "echo no >&2; exit 3"])).unwrap();
        assert_eq!(
            (output.status.code(), &*output.stderr),
            (Some(3), &b"no\n"[..])
        );
    }

    #[test]
    fn owners_that_look_alike_have_stores_of_their_own() {
        let keys = ["team/a", "team-a", "Team-A", "../../etc", ""].map(owner_key);
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key}");
            assert!(
                key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
                "{key}"
            );
        }
    }

    #[test]
    fn a_store_is_pruned_with_the_driver_that_runs_use_there() {
        let store = tempdir();
        let given = |configured| driver(store.path(), configured);
        assert!(given(None).is_empty());
        fs::create_dir_all(store.path().join("root/overlay-images")).unwrap();
        assert_eq!(given(None), ["--storage-driver", "overlay"]);
        fs::create_dir_all(store.path().join("root/buildctl")).unwrap();
        fs::write(store.path().join("root/buildctl/driver"), "fuse-overlayfs").unwrap();
        let options = given(None);
        assert!(
            options
                .iter()
                .any(|it| it == "overlay.mount_program=/usr/bin/fuse-overlayfs"),
            "{options:?}"
        );
        assert_eq!(given(Some("vfs")), ["--storage-driver", "vfs"]);
    }

    #[test]
    fn a_size_is_that_of_all_files_below() {
        let folder = tempdir();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let empty = size(folder.path());
        fs::write(folder.path().join("a/b/c"), vec![1; 1 << 20]).unwrap();
        let grown = size(folder.path()) - empty;
        assert!((1 << 20..(1 << 20) + 65536).contains(&grown), "{grown}");
    }
}
