//! The folder of a run: what it needs while it works (source, temporary files, credentials), readable by its owner only and
//! removed at its end. It stands in the store that Buildah uses, so that whoever finds a dead run's folder there knows which
//! containers of that store were its.
//!
//! ```text
//!  ROOT/buildctl/lock         held shared by every run that uses the store, exclusively by one that is alone in it
//!               /driver       which storage driver works here
//!               /mounts       what `RUN --mount=type=cache` keeps
//!               /known_hosts  keys of SSH hosts that were met
//!               /runs/JOB.RUN/{mark,programs,cgroup,shortcut,source,git,home,tmp,…}
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;

use super::{halt::Halt, session::Session, work::Work};
use crate::state::lock::try_flock;

/// Where a run writes down its short way to its temporary files.
const SHORTCUT: &str = "shortcut";

/// The folder of a store's own things.
#[derive(Clone, Debug)]
pub(super) struct Ground(PathBuf);

impl Ground {
    /// That of the store at `root`.
    pub(super) fn of(root: &Path) -> Self {
        Self(root.join("buildctl"))
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where runs have their folders.
    pub(super) fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    /// The folder of a run.
    pub(super) fn run(&self, work: &Work) -> PathBuf {
        self.runs().join(name(work))
    }

    /// Takes part in the store: alone, if nobody else does. Says so.
    pub(super) fn enter(&self, session: &Session<'_>) -> Result<(File, bool), Halt> {
        let failed = |error: &io::Error| Halt::io(self.0.display(), error);
        folder(&self.runs()).map_err(|error| failed(&error))?;
        let lock = self.lock().map_err(|error| failed(&error))?;
        let attempt = |operation| try_flock(&lock, operation).map_err(|error| failed(&error));
        if attempt(FlockOperation::NonBlockingLockExclusive)? {
            return Ok((lock, true));
        }
        while !attempt(FlockOperation::NonBlockingLockShared)? {
            // Somebody prunes; that takes a moment.
            if !session.stop.pause(Duration::from_millis(20)) {
                return Err(Halt::Stopped);
            }
        }
        Ok((lock, false))
    }

    /// The lock file, open.
    pub(super) fn lock(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.file("lock"))
    }
}

/// What a run's folder and its own container are called.
pub(super) fn name(work: &Work) -> String {
    format!("{}.{}", work.job, work.run)
}

/// Makes a folder that only its owner can look into, with those above it.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A run's folder.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    /// Held as long as the run uses the store.
    _lock: File,
}

impl Place {
    /// Makes the folder; `lock` is what [`Ground::enter`] gave.
    pub(super) fn make(ground: &Ground, work: &Work, lock: File) -> Result<Self, Halt> {
        let place = Self {
            folder: ground.run(work),
            _lock: lock,
        };
        let made = || {
            folder(&place.folder)?;
            folder(&place.file("tmp"))?;
            folder(&ground.file("mounts"))?;
            place.write("mark", b"")?;
            let uid = rustix::process::getuid().as_raw();
            // Buildah keeps what `RUN --mount=type=cache` leaves in its temporary folder.
            let cache = place.file("tmp").join(format!("buildah-cache-{uid}"));
            std::os::unix::fs::symlink(ground.file("mounts"), cache)
        };
        made().map_err(|error| Halt::io(place.folder.display(), &error))?;
        Ok(place)
    }

    /// A path in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.file(name);
        if let Some(above) = path.parent() {
            folder(above)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(content)?;
        Ok(path)
    }

    /// Writes a file, or says why the run cannot go on.
    pub(super) fn keep(&self, name: &str, content: &[u8]) -> Result<PathBuf, Halt> {
        self.write(name, content)
            .map_err(|error| Halt::io(self.file(name).display(), &error))
    }
}

impl Place {
    /// A short way to the folder of temporary files, for a program that makes sockets there: the path of one has 107 bytes at
    /// most, unix(7), and that of the folder alone may have as many.
    pub(super) fn shortcut(&self) -> Result<PathBuf, Halt> {
        let mut names = (0..16).map(|number| {
            let pid = std::process::id();
            PathBuf::from(format!("/tmp/buildctl.{pid}.{number}"))
        });
        // Whoever else has made one, it is not used: only what this makes is this one's.
        let made = names.find_map(|way| {
            let made = DirBuilder::new().mode(0o700).create(&way);
            let is_taken =
                matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
            (!is_taken).then(|| made.map(|()| way))
        });
        let made = made.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
        let way = made.map_err(|error| Halt::io("/tmp/buildctl.*", &error))?;
        let link = way.join("t");
        self.keep(SHORTCUT, way.as_os_str().as_encoded_bytes())?;
        std::os::unix::fs::symlink(self.file("tmp"), &link)
            .map_err(|error| Halt::io(link.display(), &error))?;
        Ok(link)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is found by the next run that is alone in the store.
        let _ = discard(&self.folder);
    }
}

/// Removes a run's folder, and the short way to it if there is one.
pub(super) fn discard(folder: &Path) -> io::Result<()> {
    if let Ok(way) = fs::read_to_string(folder.join(SHORTCUT)) {
        let link = Path::new(&way).join("t");
        // By now it may be that of another run.
        if fs::read_link(&link).is_ok_and(|to| to.starts_with(folder)) {
            let _ = fs::remove_file(link);
            let _ = fs::remove_dir(way);
        }
    }
    fs::remove_dir_all(folder)
}

/// Follows `below` from `root`; what is not inside of it is refused, symbolic links included.
pub(super) fn inside(root: &Path, below: &str, what: &str) -> Result<PathBuf, Halt> {
    let wish = Path::new(below);
    let climbs = |part| {
        !matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    };
    if wish.components().any(climbs) {
        return Err(Halt::input(format!(
            "{what} `{below}` is not inside of the source: it must be a relative path without `..`"
        )));
    }
    let io = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Halt::input(format!("{what} `{below}` is not in the source"))
        }
        _ => Halt::io(format_args!("{what} `{below}`"), error),
    };
    let root = root.canonicalize().map_err(|error| io(&error))?;
    let path = root.join(wish).canonicalize().map_err(|error| io(&error))?;
    if path.starts_with(&root) {
        Ok(path)
    } else {
        Err(Halt::input(format!(
            "{what} `{below}` leads out of the source, through a symbolic link"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_short_way_goes_with_the_run_and_that_of_another_stays() {
        let above = tempfile::tempdir().unwrap();
        let run = above.path().join("run");
        folder(&run.join("tmp")).unwrap();
        let place = Place {
            folder: run.clone(),
            _lock: File::open("/dev/null").unwrap(),
        };
        let link = place.shortcut().unwrap();
        assert!(link.as_os_str().len() < 40, "{}", link.display());
        fs::write(link.join("x"), "").unwrap();
        assert!(run.join("tmp/x").exists());
        // As whoever finds it dead does.
        discard(&run).unwrap();
        assert!(!run.exists() && !link.parent().unwrap().exists());

        let other = above.path().join("other");
        folder(&other).unwrap();
        symlink(above.path().join("elsewhere"), other.join("t")).unwrap();
        folder(&run).unwrap();
        fs::write(run.join(SHORTCUT), other.to_str().unwrap()).unwrap();
        drop(place);
        assert!(!run.exists() && fs::symlink_metadata(other.join("t")).is_ok());
    }

    #[test]
    fn nothing_outside_of_the_source_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("source");
        fs::create_dir_all(root.join("deep")).unwrap();
        fs::write(folder.path().join("secret"), "").unwrap();
        fs::write(root.join("Dockerfile"), "").unwrap();
        symlink("../../secret", root.join("deep/out")).unwrap();
        symlink("../Dockerfile", root.join("deep/in")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        let refused = |below: &str| match inside(&root, below, "the Dockerfile") {
            Err(Halt::Failed(failure)) => failure.message,
            other => panic!("{below}: {other:?}"),
        };
        for below in ["../secret", "/etc/passwd", "deep/../../secret"] {
            assert!(refused(below).contains("without `..`"), "{below}");
        }
        for below in ["deep/out", "absolute"] {
            assert!(refused(below).contains("symbolic link"), "{below}");
        }
        assert_eq!(
            refused("nope"),
            "the Dockerfile `nope` is not in the source"
        );
        let real = root.canonicalize().unwrap().join("Dockerfile");
        for below in ["Dockerfile", "./Dockerfile", "deep/in"] {
            assert_eq!(inside(&root, below, "the Dockerfile").unwrap(), real);
        }
        assert_eq!(inside(&root, "", "").unwrap(), root.canonicalize().unwrap());
    }
}
