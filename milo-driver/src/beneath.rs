//! Opening what lies below a folder in which others may write: never through a symbolic link, and once only. A path that was
//! looked at says nothing about what it leads to a moment later; a descriptor does not change its mind.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Component, Path},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};

use crate::task::Dirs;

/// How often a name is tried again that somebody was renaming meanwhile.
const TRIES: usize = 8;

/// Names something below `top`, which is trusted itself, without opening it (`O_PATH`): neither a FIFO nor a device notices.
/// See [`reopen`].
///
/// # Errors
///
/// `ELOOP` where a symbolic link is on the way or at its end, `EXDEV` for a path that could lead out by itself.
pub fn named(top: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !relative.components().all(plain) {
        return Err(Errno::XDEV.into());
    }
    let top = rustix::fs::open(top, naming() | OFlags::DIRECTORY, Mode::empty())?;
    match at_once(&top, relative) {
        // Before Linux 5.6, or hidden by a filter of system calls.
        Err(Errno::NOSYS | Errno::PERM) => Ok(step_by_step(top, relative)?),
        answer => Ok(answer?),
    }
}

fn naming() -> OFlags {
    OFlags::PATH | OFlags::CLOEXEC
}

fn at_once(top: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for _ in 0..TRIES {
        match openat2(top, relative, naming(), Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
    Err(Errno::AGAIN)
}

/// The same in several steps, each from the folder that the one before has opened.
fn step_by_step(top: OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let mut reached = top;
    for part in relative.components() {
        if let Component::Normal(name) = part {
            reached = openat(&reached, name, naming() | OFlags::NOFOLLOW, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&reached)?.st_mode) == FileType::Symlink {
                return Err(Errno::LOOP);
            }
        }
    }
    Ok(reached)
}

/// Names what a path of the host leads to: below the folders around a task as [`named`] does, and elsewhere, where only the
/// agent or the operator could have put a link, through any but a last one.
pub fn of_task(dirs: &Dirs, path: &Path) -> io::Result<File> {
    match dirs.around(path) {
        Some((top, relative)) => Ok(named(top, relative)?.into()),
        None => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path),
    }
}

/// Opens what a descriptor already names, whatever its path means by now.
pub fn reopen(named: impl AsFd, options: &OpenOptions) -> io::Result<File> {
    options.open(format!("/proc/self/fd/{}", named.as_fd().as_raw_fd()))
}

/// Opens a regular file below `top` for reading.
///
/// # Errors
///
/// Also for anything else that has this name: a FIFO would make its reader wait, and a device may do worse.
pub fn regular(top: &Path, relative: &Path) -> io::Result<File> {
    let named = named(top, relative)?;
    if FileType::from_raw_mode(fstat(&named)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("is no regular file"));
    }
    reopen(named, OpenOptions::new().read(true))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use runyard_common::testing::tempdir;

    use super::*;

    type Opener = fn(&Path, &Path) -> io::Result<OwnedFd>;

    fn by_steps(top: &Path, relative: &Path) -> io::Result<OwnedFd> {
        let top = rustix::fs::open(top, naming(), Mode::empty())?;
        Ok(step_by_step(top, relative)?)
    }

    const BOTH: [Opener; 2] = [named, by_steps];

    #[test]
    fn a_link_is_followed_neither_on_the_way_nor_at_its_end() {
        let top = tempdir();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        fs::write(top.path().join("a/b/file"), "").unwrap();
        symlink("b", top.path().join("a/inside")).unwrap();
        symlink("/etc", top.path().join("out")).unwrap();
        for open in BOTH {
            for plain in ["", "a", "./a/b", "a/b/file"] {
                open(top.path(), Path::new(plain)).unwrap();
            }
            for led in ["out", "out/passwd", "a/inside", "a/inside/file"] {
                open(top.path(), Path::new(led)).unwrap_err();
            }
            let missing = open(top.path(), Path::new("a/none")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_path_that_goes_up_or_begins_at_the_root_is_refused() {
        let top = tempdir();
        fs::create_dir(top.path().join("a")).unwrap();
        for path in ["..", "a/../..", "a/..", "/etc"] {
            let error = named(top.path(), Path::new(path)).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::XDEV), "{path}");
        }
    }

    #[test]
    fn what_was_named_stays_the_same_when_its_path_is_given_to_another() {
        let top = tempdir();
        let file = top.path().join("file");
        fs::write(&file, "one").unwrap();
        let held = named(top.path(), Path::new("file")).unwrap();
        fs::remove_file(&file).unwrap();
        symlink("/etc/passwd", &file).unwrap();
        let mut text = String::new();
        let mut opened = reopen(held, OpenOptions::new().read(true)).unwrap();
        // Gone from its folder, and still readable.
        opened.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
    }

    #[test]
    fn only_a_regular_file_is_read_and_a_fifo_is_not_waited_for() {
        let top = tempdir();
        let fifo = top.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from(0o600)).unwrap();
        // Both ends are open, so that nobody who opens it waits.
        let mut both = OpenOptions::new();
        let _both = both.read(true).write(true).open(&fifo).unwrap();
        fs::write(top.path().join("file"), "one").unwrap();
        regular(top.path(), Path::new("file")).unwrap();
        for name in ["fifo", ""] {
            let error = regular(top.path(), Path::new(name)).unwrap_err();
            assert_eq!(error.to_string(), "is no regular file");
        }
    }
}
