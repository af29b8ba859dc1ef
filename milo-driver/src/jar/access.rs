//! May a task's user read its JAR? Answered from modes, because whoever asks is root and may read everything. Only
//! folders from the container's own root downwards count: the host's folders above are hidden from it by bind mounts.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::error::{JarError, shown};

/// Who wants to read.
pub(super) struct Ids<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: &'a [u32],
}

const READ: u32 = 0o4;
const ENTER: u32 = 0o1;

/// Checks the file at `path` and each folder from `root` to it. Links inside are followed.
pub(super) fn readable(root: &Path, path: &Path, ids: &Ids<'_>) -> Result<(), JarError> {
    let unreadable = |error: std::io::Error| JarError::Unreadable {
        name: shown(path),
        reason: error.to_string(),
    };
    let root = if root.as_os_str().is_empty() {
        Path::new(".")
    } else {
        root
    };
    let top = fs::canonicalize(root).map_err(unreadable)?;
    let file = fs::canonicalize(path).map_err(unreadable)?;
    allow(&file, READ, ids)?;
    for folder in file.ancestors().skip(1) {
        if !folder.starts_with(&top) {
            break;
        }
        allow(folder, ENTER, ids)?;
    }
    Ok(())
}

fn allow(path: &Path, wanted: u32, ids: &Ids<'_>) -> Result<(), JarError> {
    let refused = |reason: &std::io::Error| JarError::Unreadable {
        name: shown(path),
        reason: reason.to_string(),
    };
    let metadata = fs::metadata(path).map_err(|error| refused(&error))?;
    if bits(&metadata, ids) & wanted == wanted || has_acl(path) {
        return Ok(());
    }
    Err(JarError::Denied {
        name: shown(path),
        whom: Some(format!("uid {}", ids.uid)),
    })
}

/// The three bits of a mode that apply. The kernel takes the first class that fits, also when a later one allows more.
fn bits(metadata: &Metadata, ids: &Ids<'_>) -> u32 {
    let mode = metadata.mode();
    if metadata.uid() == ids.uid {
        mode >> 6
    } else if metadata.gid() == ids.gid || ids.groups.contains(&metadata.gid()) {
        mode >> 3
    } else {
        mode
    }
}

/// An access control list may allow what the mode does not say. The JVM will find out.
fn has_acl(path: &Path) -> bool {
    let mut nothing: [u8; 0] = [];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut nothing[..])
        .is_ok_and(|length| length > 0)
}
