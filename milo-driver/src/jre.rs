//! The host's JVMs: found by their `release` files without starting one, told apart, and chosen from by version, vendor
//! or home. What a container needs besides the home is found out here too; how it gets there is not.
//!
//! ```text
//!  Search ──candidates──▶ examine ──▶ Jre, or Rejected with a reason
//!     │                                 │
//!     └──── stamps of all places ◀──────┘   refresh: a few dozen stat calls as long as nothing changes
//! ```
//!
//! Whoever starts one and sees it fail has it [rejected](Jres::reject), too.

mod elf;
mod error;
mod links;
mod prove;
mod release;
mod search;
mod version;

use std::{
    cmp::Reverse,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use self::{
    elf::Needs,
    links::Links,
    release::Release,
    search::{Candidate, Stamp},
};
pub use self::{
    error::JreError,
    links::BrokenLink,
    prove::{Proof, ProveError, prove, prove_all},
    search::{Search, Source},
};
use crate::task::JreSelect;

/// A JVM that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jre {
    /// Its home, in whose path no symbolic link is.
    pub home: PathBuf,
    /// Its program.
    pub java: PathBuf,
    /// As `JAVA_VERSION` says: `17.0.15`, `1.8.0_402`.
    pub version: String,
    /// 8, 11, 17, 21, 25.
    pub major: u32,
    /// Who made it: `Debian`, `Eclipse Adoptium (Temurin)`.
    pub vendor: String,
    /// `HotSpot`, `OpenJ9` or `GraalVM`.
    pub vm: String,
    /// The machine it is built for, as `uname -m` calls it.
    pub arch: String,
    /// The C library it is built for: `glibc` or `musl`.
    pub libc: Option<String>,
    /// The loader that starts it (`/lib64/ld-linux-x86-64.so.2`), which a container needs too.
    pub loader: Option<PathBuf>,
    /// Why it was found.
    pub source: Source,
    /// Files and folders outside the home that links in it lead to: a container needs each at its own place, or the
    /// JVM's configuration and its trust store are missing.
    pub links: Vec<PathBuf>,
    /// Links in it that lead nowhere. Most do no harm; a distribution leaves one for each package that is not there.
    pub broken: Vec<BrokenLink>,
}

impl Jre {
    /// The update of a Java 8: 402 for `1.8.0_402`; 0 for all others.
    pub fn update(&self) -> u32 {
        match version::numbers(&self.version).as_slice() {
            [1, 8, 0, update, ..] => *update,
            _ => 0,
        }
    }

    fn is_wanted(&self, select: &JreSelect) -> bool {
        let has_version = |asked: &String| version::matches(&self.version, asked);
        let has_vendor = |asked: &String| self.is_by(asked);
        let has_home = |asked: &PathBuf| self.is_at(asked);
        select.version.as_ref().is_none_or(has_version)
            && select.vendor.as_ref().is_none_or(has_vendor)
            && select.home.as_ref().is_none_or(has_home)
    }

    fn is_by(&self, vendor: &str) -> bool {
        self.vendor
            .to_lowercase()
            .contains(&vendor.trim().to_lowercase())
    }

    fn is_at(&self, home: &Path) -> bool {
        fs::canonicalize(home).is_ok_and(|home| home == self.home)
    }
}

/// A place that should hold a JVM and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// The place.
    pub home: PathBuf,
    /// Why it was looked at.
    pub source: Source,
    /// What is wrong with it.
    pub reason: String,
    /// The program that is not there, if that is what is wrong.
    pub missing: Option<PathBuf>,
}

/// All JVMs that were found, the best first: those that somebody named, in their order, then the newest.
#[derive(Clone, Debug)]
pub struct Jres {
    search: Search,
    found: Vec<Jre>,
    rejected: Vec<Rejected>,
    /// Those that were found and do not work, and why; they are among the rejected, too.
    broken: Vec<(Jre, String)>,
    stamps: Vec<Stamp>,
}

impl Jres {
    /// Looks everywhere.
    pub fn discover(search: &Search) -> Self {
        // Stamped before looking: what changes meanwhile is seen next time.
        let stamps = search.watched().into_iter().map(Stamp::of).collect();
        let mut jres = Self {
            search: search.clone(),
            found: Vec::new(),
            rejected: Vec::new(),
            broken: Vec::new(),
            stamps,
        };
        for candidate in search.candidates() {
            jres.add(candidate);
        }
        jres.found.sort_by_key(|jre| {
            let newest = Reverse(version::numbers(&jre.version));
            let is_usual = matches!(jre.source, Source::Standard(_));
            (is_usual, is_usual.then_some(newest))
        });
        let links = jres.found.iter().flat_map(|jre| &jre.links);
        jres.stamps.extend(links.cloned().map(Stamp::of));
        jres
    }

    /// Those that can be used.
    pub fn all(&self) -> &[Jre] {
        &self.found
    }

    /// Those of the rejected that look well and do not work, and why.
    pub fn broken(&self) -> impl Iterator<Item = &(Jre, String)> {
        self.broken.iter()
    }

    /// Those that cannot, and why.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// The JVM of tasks that ask for none: what the operator wants (a version or its beginning, a home, or a vendor), or
    /// else the best. `None` too when what is wanted is not there: another one would be a surprise.
    pub fn default(&self, wanted: Option<&str>) -> Option<&Jre> {
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
            return self.found.first();
        };
        let is_home = Path::new(wanted).is_absolute();
        let is_version = wanted.starts_with(|first: char| first.is_ascii_digit());
        self.found.iter().find(|jre| match (is_home, is_version) {
            (true, _) => jre.is_at(Path::new(wanted)),
            (_, true) => version::matches(&jre.version, wanted),
            _ => jre.is_by(wanted),
        })
    }

    /// The JVM that a task wants: the default if it is one of those, else the best.
    ///
    /// # Errors
    ///
    /// When there is none of that kind, or none at all; the text says where it was looked for.
    pub fn select(&self, select: &JreSelect, default: Option<&str>) -> Result<&Jre, JreError> {
        if self.found.is_empty() {
            return Err(match self.broken.as_slice() {
                [] => JreError::nothing(&self.search, &self.rejected),
                broken => JreError::broken(broken),
            });
        }
        let usual = self.default(default);
        let chosen = if *select == JreSelect::default() {
            usual
        } else {
            usual
                .into_iter()
                .chain(&self.found)
                .find(|jre| jre.is_wanted(select))
        };
        chosen.ok_or_else(|| self.unmatched(select, default))
    }

    /// Takes a JVM out of those that can be used, because a start of it has failed.
    pub fn reject(&mut self, home: &Path, reason: &str) {
        let broken = self.found.extract_if(.., |jre| jre.home == home);
        for jre in broken {
            self.rejected.push(Rejected {
                home: jre.home.clone(),
                source: jre.source.clone(),
                reason: reason.to_owned(),
                missing: None,
            });
            self.broken.push((jre, reason.to_owned()));
        }
    }

    /// Looks again if one of the places has changed, and forgets what was rejected because it did not start; `true` when there is something else than before.
    pub fn refresh(&mut self) -> bool {
        if self.stamps.iter().all(Stamp::still_holds) {
            return false;
        }
        let fresh = Self::discover(&self.search);
        let is_other = fresh.found != self.found || fresh.rejected != self.rejected;
        *self = fresh;
        is_other
    }

    fn unmatched(&self, select: &JreSelect, default: Option<&str>) -> JreError {
        let half = self.rejected.iter().find_map(|rejected| {
            let is_asked = select.home.as_ref() == Some(&rejected.home);
            rejected.missing.clone().filter(|_| is_asked)
        });
        if let (Some(missing), Some(home)) = (half, &select.home) {
            return JreError::Invalid {
                home: home.clone(),
                missing,
            };
        }
        let broken = self.broken.iter().filter(|(jre, _)| jre.is_wanted(select));
        JreError::no_match(select, default, &self.found, broken)
    }

    fn add(&mut self, candidate: Candidate) {
        let home = real_home(&candidate.home);
        let is_known = self.found.iter().any(|jre| jre.home == home)
            || self.rejected.iter().any(|other| other.home == home);
        // A folder in /opt is not expected to be one.
        let is_expected = candidate.is_named || home.join("release").exists();
        if is_known || !(is_expected || home.join("bin/java").exists()) {
            return;
        }
        match examine(&home, candidate.source.clone()) {
            Ok(jre) => self.found.push(jre),
            Err(fault) => self.rejected.push(Rejected {
                missing: matches!(fault, Fault::NoProgram).then(|| candidate.home.join("bin/java")),
                home: candidate.home,
                source: candidate.source,
                reason: fault.to_string(),
            }),
        }
    }
}

/// Why a place is no JVM that can be used.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("there is no such folder")]
    NoFolder,
    #[error("bin/java is missing or not executable")]
    NoProgram,
    #[error("there is no release file beside bin")]
    NoRelease,
    #[error("its release file does not say a JAVA_VERSION")]
    NoVersion,
    #[error("bin/java: {0}")]
    NotAProgram(std::io::Error),
    #[error("it is built for {built}, and this machine is {}", std::env::consts::ARCH, built = .0)]
    OtherMachine(String),
    #[error("it needs the loader {}, which is not on this host", .0.display())]
    NoLoader(PathBuf),
}

fn examine(home: &Path, source: Source) -> Result<Jre, Fault> {
    if !home.is_dir() {
        return Err(Fault::NoFolder);
    }
    let java = home.join("bin/java");
    if !is_executable(&java) {
        return Err(Fault::NoProgram);
    }
    let text = fs::read(home.join("release")).map_err(|_missing| Fault::NoRelease)?;
    let release = Release::parse(&String::from_utf8_lossy(&text));
    let version = release.version().ok_or(Fault::NoVersion)?.to_owned();
    let major = version::major(&version).ok_or(Fault::NoVersion)?;
    let needs = runnable(&java)?;
    let links = Links::of(home);
    Ok(Jre {
        libc: needs.libc().map(str::to_owned),
        vendor: release.vendor(),
        vm: release.vm(home).to_owned(),
        home: home.to_owned(),
        java,
        version,
        major,
        arch: needs.arch,
        loader: needs.loader,
        source,
        links: links.outside.into_iter().collect(),
        broken: links.broken,
    })
}

/// What the program needs, if this host has it.
fn runnable(java: &Path) -> Result<Needs, Fault> {
    let needs = Needs::of(java).map_err(Fault::NotAProgram)?;
    let host = std::env::consts::ARCH;
    // A 64-bit host runs 32-bit programs, if it has their loader.
    let can_run = matches!(
        (needs.arch.as_str(), host),
        ("x86", "x86_64") | ("arm", "aarch64")
    );
    if needs.arch != host && !can_run {
        return Err(Fault::OtherMachine(needs.arch));
    }
    match &needs.loader {
        Some(loader) if !loader.exists() => Err(Fault::NoLoader(loader.clone())),
        _ => Ok(needs),
    }
}

/// A home without links in its path. The `jre` folder within a JDK 8 stands for the whole, which has the `release` file.
fn real_home(place: &Path) -> PathBuf {
    let home = fs::canonicalize(place).unwrap_or_else(|_missing| place.to_owned());
    let is_inner = home.ends_with("jre") && !home.join("release").exists();
    match home.parent() {
        Some(outer) if is_inner && outer.join("release").exists() => outer.to_owned(),
        _ => home,
    }
}

fn is_executable(program: &Path) -> bool {
    fs::metadata(program)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
