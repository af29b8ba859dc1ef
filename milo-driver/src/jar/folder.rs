//! A folder that belongs to somebody else, and files in it that are opened as it were by name but never outside of it:
//! `openat2(2)` resolves each name in the kernel, at once, below the folder (`RESOLVE_BENEATH`).

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, readlinkat},
    io::Errno,
};

use super::error::{JarError, shown};

/// How often a name is tried again that somebody was renaming meanwhile.
const TRIES: usize = 8;

/// An open folder.
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder at `path`, which is trusted.
    pub(super) fn open(path: &Path) -> Result<Self, JarError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: path.to_owned(),
            }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(JarError::NoneDownloaded {
                got: format!("No folder {}", shown(path)),
            }),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// The folder that a descriptor stands for, which was at `path`.
    pub(super) fn held(fd: OwnedFd, path: &Path) -> Self {
        Self {
            fd,
            path: path.to_owned(),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file in it for reading.
    pub(super) fn file(&self, relative: &Path) -> Result<OwnedFd, JarError> {
        let opened = self.open_beneath(relative, OFlags::empty(), ResolveFlags::empty());
        let fd = opened.map_err(|error| self.refused(relative, error))?;
        regular(fd, relative)
    }

    /// Every file in it and its folders, and every symbolic link, which may stand for one; links to folders are not
    /// entered.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, JarError> {
        let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from(".")]);
        // One open folder at a time: neither descriptors nor the stack are used up by a deep tree.
        while let Some(folder) = folders.pop() {
            let listed = self.list(&folder, &mut files, &mut folders);
            match listed {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.refused(&folder, error)),
            }
        }
        Ok(files)
    }

    fn list(
        &self,
        folder: &Path,
        files: &mut Vec<PathBuf>,
        folders: &mut Vec<PathBuf>,
    ) -> Result<(), Errno> {
        let fd = self.open_beneath(folder, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = folder.join(OsStr::from_bytes(name));
            let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
            match self.kind(&path, entry.file_type())? {
                FileType::Directory => folders.push(path),
                FileType::RegularFile | FileType::Symlink => files.push(path),
                _ => {}
            }
        }
        Ok(())
    }

    /// Some file systems do not say what an entry is.
    fn kind(&self, path: &Path, told: FileType) -> Result<FileType, Errno> {
        if told != FileType::Unknown {
            return Ok(told);
        }
        let fd = self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::empty())?;
        Ok(FileType::from_raw_mode(fstat(&fd)?.st_mode))
    }

    fn open_beneath(
        &self,
        relative: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // A FIFO must not make us wait for its writer, nor a terminal become ours.
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | quiet(flags);
        for _ in 0..TRIES {
            match openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }

    fn refused(&self, relative: &Path, error: Errno) -> JarError {
        let name = shown(relative);
        match error {
            Errno::XDEV if leaves(relative) => JarError::Outside { name },
            Errno::XDEV | Errno::LOOP => JarError::Link {
                target: self.link(relative),
                name,
            },
            Errno::NOSYS | Errno::PERM => JarError::OldKernel { name },
            error => refused(relative, error),
        }
    }

    /// Where the last part of a name points, if it is a link.
    fn link(&self, relative: &Path) -> Option<String> {
        let parent = relative
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder = self
            .open_beneath(parent, OFlags::DIRECTORY, ResolveFlags::empty())
            .ok()?;
        let target = readlinkat(&folder, relative.file_name()?, Vec::new()).ok()?;
        Some(shown(Path::new(OsStr::from_bytes(target.to_bytes()))))
    }
}

/// Opens a regular file wherever it is and links lead.
pub(super) fn open_anywhere(path: &Path) -> Result<OwnedFd, JarError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | quiet(OFlags::empty());
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| refused(path, error))?;
    regular(fd, path)
}

/// With `O_PATH` nothing is opened that could block, and the kernel refuses other flags.
fn quiet(flags: OFlags) -> OFlags {
    if flags.contains(OFlags::PATH) {
        OFlags::empty()
    } else {
        OFlags::NONBLOCK | OFlags::NOCTTY
    }
}

pub(super) fn regular(fd: OwnedFd, called: &Path) -> Result<OwnedFd, JarError> {
    let status = fstat(&fd).map_err(|error| refused(called, error))?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => return Ok(fd),
        FileType::Directory => "Folder",
        FileType::Fifo => "FIFO",
        FileType::BlockDevice | FileType::CharacterDevice => "Device",
        _ => "Special file",
    };
    Err(JarError::NotAFile {
        name: shown(called),
        kind,
    })
}

fn refused(called: &Path, error: Errno) -> JarError {
    let name = shown(called);
    match error {
        Errno::NOENT | Errno::NOTDIR => JarError::Missing { name },
        Errno::ACCESS => JarError::Denied { name, whom: None },
        Errno::NXIO => JarError::NotAFile {
            name,
            kind: "Special file",
        },
        error => JarError::Unreadable {
            name,
            reason: io::Error::from(error).to_string(),
        },
    }
}

/// Whether a name leads out of its folder by itself, without any link.
fn leaves(relative: &Path) -> bool {
    let mut depth = 0_i32;
    relative.components().any(|component| {
        match component {
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::RootDir | Component::Prefix(_) => depth = i32::MIN / 2,
            Component::CurDir => {}
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use runyard_common::testing::tempdir;

    use super::*;

    #[test]
    fn a_kernel_that_cannot_look_below_a_folder_only_is_not_tricked_into_looking_anywhere() {
        let folder = tempdir();
        let opened = Folder::open(folder.path()).unwrap();
        for error in [Errno::NOSYS, Errno::PERM] {
            let text = opened.refused(Path::new("app.jar"), error).to_string();
            assert!(text.contains("Linux 5.6"), "{text}");
        }
    }

    #[test]
    fn a_name_leaves_its_folder_by_counting() {
        for name in ["..", "a/../..", "/a", "a/b/../../../c"] {
            assert!(leaves(Path::new(name)), "{name}");
        }
        for name in ["a", "a/..", "./a/../b", "a/b/../../c"] {
            assert!(!leaves(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn deep_and_wide_folders_are_walked_with_one_descriptor_at_a_time() {
        let folder = tempdir();
        let deep: PathBuf = std::iter::repeat_n("d", 1000).collect();
        std::fs::create_dir_all(folder.path().join(&deep)).unwrap();
        std::fs::write(folder.path().join(&deep).join("a.jar"), "x").unwrap();
        let files = Folder::open(folder.path()).unwrap().files().unwrap();
        assert_eq!(files, [deep.join("a.jar")]);
    }
}
