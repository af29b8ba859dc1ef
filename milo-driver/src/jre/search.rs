//! Where Java homes are looked for, in which order, and how it is noticed that something has changed there. What makes a
//! folder a Java home is decided next door.

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

/// Folders of Java homes, below `/`: packages of distributions and vendors, images, and hands.
const SYSTEM: [&str; 8] = [
    "usr/lib/jvm",
    "usr/lib64/jvm",
    "usr/java",
    "opt",
    "opt/java",
    "opt/jvm",
    "usr/local",
    "usr/local/sdkman/candidates/java",
];

/// Folders of Java homes, below a user's home: SDKMAN, IDEs, asdf and mise.
const USERS: [&str; 4] = [
    ".sdkman/candidates/java",
    ".jdks",
    ".asdf/installs/java",
    ".local/share/mise/installs/java",
];

/// Where to look, in the order of precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Homes that the operator named.
    pub homes: Vec<PathBuf>,
    /// The environment's `JAVA_HOME`.
    pub java_home: Option<PathBuf>,
    /// The environment's `PATH`.
    pub path: Option<OsString>,
    /// Folders whose entries may be homes.
    pub standard: Vec<PathBuf>,
}

impl Search {
    /// The usual places of a Linux machine, after the ones that are named.
    pub fn standard(
        homes: Vec<PathBuf>,
        java_home: Option<OsString>,
        path: Option<OsString>,
    ) -> Self {
        Self {
            homes,
            java_home: java_home.filter(|home| !home.is_empty()).map(PathBuf::from),
            path,
            standard: SYSTEM
                .iter()
                .map(|folder| Path::new("/").join(folder))
                .collect(),
        }
    }

    /// The usual places in a user's own folder too, as for the command line.
    #[must_use]
    pub fn and_of_user(mut self, home: &Path) -> Self {
        self.standard
            .extend(USERS.iter().map(|folder| home.join(folder)));
        self
    }

    /// Every place that may be a home, in the order of precedence.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let homes = self
            .homes
            .iter()
            .map(|home| Candidate::named(home, Source::Configured));
        let java_home = self
            .java_home
            .iter()
            .map(|home| Candidate::named(home, Source::JavaHome));
        let mut candidates: Vec<_> = homes.chain(java_home).collect();
        candidates.extend(self.programs().into_iter().filter_map(of_program));
        for folder in &self.standard {
            candidates.extend(entries(folder).into_iter().map(|home| Candidate {
                home,
                source: Source::Standard(folder.clone()),
                is_named: false,
            }));
        }
        candidates
    }

    /// Every place whose change may change the answer.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let mut watched = self.programs();
        watched.extend(self.standard.iter().cloned());
        for candidate in self.candidates() {
            let home = candidate.home;
            watched.extend([home.join("bin/java"), home.join("release"), home]);
        }
        watched.sort();
        watched.dedup();
        watched
    }

    /// Where a shell would look for `java`.
    fn programs(&self) -> Vec<PathBuf> {
        self.path
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("java"))
            .collect()
    }
}

/// A place that may be a Java home.
pub(super) struct Candidate {
    pub(super) home: PathBuf,
    pub(super) source: Source,
    /// Whether somebody said that it is one, so that it matters when it is not.
    pub(super) is_named: bool,
}

impl Candidate {
    fn named(home: &Path, source: Source) -> Self {
        Self {
            home: home.to_owned(),
            source,
            is_named: true,
        }
    }
}

/// The home of a `java` in `PATH`, behind all of a distribution's alternatives.
fn of_program(program: PathBuf) -> Option<Candidate> {
    let real = fs::canonicalize(program).ok()?;
    let home = real.parent()?.parent()?;
    Some(Candidate {
        home: home.to_owned(),
        source: Source::Path,
        is_named: true,
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_file()))
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
}

/// Why a JVM was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator named it.
    Configured,
    /// `JAVA_HOME` names it.
    JavaHome,
    /// It is the first `java` in one of `PATH`'s folders.
    Path,
    /// It is in a folder in which homes are usual.
    Standard(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => formatter.write_str("java_homes"),
            Self::JavaHome => formatter.write_str("JAVA_HOME"),
            Self::Path => formatter.write_str("PATH"),
            Self::Standard(folder) => write!(formatter, "{}", folder.display()),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a place looked. Its change time moves with every write, rename and change of mode, also where the modification
/// time is set back, as package managers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    looks: Option<[i64; 6]>,
}

impl Stamp {
    pub(super) fn of(path: PathBuf) -> Self {
        Self {
            looks: looks(&path),
            path,
        }
    }

    pub(super) fn still_holds(&self) -> bool {
        looks(&self.path) == self.looks
    }
}

fn looks(path: &Path) -> Option<[i64; 6]> {
    let metadata = fs::metadata(path).ok()?;
    Some([
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ])
}
