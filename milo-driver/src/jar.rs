//! Which JAR a task runs, and whether it is one: chosen, opened without being led astray, and looked into. What is
//! wrong is said in four lines for the one who wrote the job ([`JarError`]).
//!
//! Whoever looks is root, and the folder belongs to the task: every name in it may be a trap. So nothing here follows a
//! symbolic link out of the folder, and nothing opens a path twice and hopes that it still means the same.

mod access;
mod archive;
mod error;
mod folder;
mod manifest;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use self::error::{JarError, Report};
use self::{error::shown, folder::Folder};
use crate::beneath::reopen;

/// What `java -jar` runs. Spring Boot's executable archives are `.war` files.
const EXTENSIONS: [&str; 2] = ["jar", "war"];

/// A JAR that was looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jar {
    /// Where it is on the host.
    pub path: PathBuf,
    /// What a container sees of the host: the folder below which it was looked for, or the file alone. The host's folders
    /// above do not matter to it.
    pub root: PathBuf,
    /// The class that `java -jar` runs, as its manifest says.
    pub main_class: Option<String>,
    /// What its manifest adds to the class path, relative to the JAR or as URLs.
    pub class_path: Vec<String>,
}

/// The JAR of a task that names none: exactly one `*.jar`, in any case, anywhere below `task_local`. It must have a main
/// class, as nothing else says what to run.
pub fn choose(task_local: &Path) -> Result<Jar, JarError> {
    let folder = Folder::open(task_local)?;
    let (mut jars, others): (Vec<_>, Vec<_>) = folder
        .files()?
        .into_iter()
        .partition(|path| has_extension(path, &EXTENSIONS[..1]));
    jars.sort();
    match jars.as_slice() {
        [only] => examine(&folder, only, true),
        [] => Err(none_among(others)),
        several => Err(JarError::Several {
            names: several.iter().map(|path| shown(path)).collect(),
        }),
    }
}

/// One file that is not a JAR is what the artifact brought; several are no hint at all.
fn none_among(mut others: Vec<PathBuf>) -> JarError {
    match (others.pop(), others.is_empty()) {
        (Some(only), true) => JarError::WrongExtension { got: shown(&only) },
        _ => JarError::NoneDownloaded {
            got: "No JAR files found in local/".to_owned(),
        },
    }
}

/// The JAR at `relative` below `root`, which is a task's folder. `need_main` says that `java -jar` will be told to run it.
///
/// # Errors
///
/// Also when a symbolic link or `..` leads out of `root`.
pub fn inspect(root: &Path, relative: &Path, need_main: bool) -> Result<Jar, JarError> {
    if !has_extension(relative, &EXTENSIONS) {
        return Err(JarError::WrongExtension {
            got: shown(relative),
        });
    }
    examine(&Folder::open(root)?, relative, need_main)
}

/// The JAR at any path, wherever links lead: for the one who sits at the command line.
pub fn inspect_file(path: &Path, need_main: bool) -> Result<Jar, JarError> {
    if !has_extension(path, &EXTENSIONS) {
        return Err(JarError::WrongExtension { got: shown(path) });
    }
    let file = folder::open_anywhere(path)?;
    look_into(file, path, path.to_owned(), path, need_main)
}

/// The same as [`inspect`], in a folder that was opened already: `root` only says where that was.
pub fn inspect_held(
    folder: io::Result<OwnedFd>,
    root: &Path,
    relative: &Path,
    need_main: bool,
) -> Result<Jar, JarError> {
    if !has_extension(relative, &EXTENSIONS) {
        return Err(JarError::WrongExtension {
            got: shown(relative),
        });
    }
    let folder = folder.map_err(|error| unopened(root, &error))?;
    examine(&Folder::held(folder, root), relative, need_main)
}

/// The same as [`inspect_file`], of a file that was named already: `path` only says where that was.
pub fn inspect_held_file(
    named: io::Result<OwnedFd>,
    path: &Path,
    need_main: bool,
) -> Result<Jar, JarError> {
    if !has_extension(path, &EXTENSIONS) {
        return Err(JarError::WrongExtension { got: shown(path) });
    }
    let named = named.map_err(|error| unopened(path, &error))?;
    let named = folder::regular(named, path)?;
    let file = reopen(named, File::options().read(true));
    let file = file.map_err(|error| unopened(path, &error))?;
    look_into(file.into(), path, path.to_owned(), path, need_main)
}

fn unopened(path: &Path, error: &io::Error) -> JarError {
    let name = shown(path);
    if error.kind() == io::ErrorKind::NotFound {
        return JarError::Missing { name };
    }
    JarError::Unreadable {
        name,
        reason: error.to_string(),
    }
}

impl Jar {
    /// Whether a process of a container with these ids can read it. It has no capabilities, so that root is no
    /// exception.
    pub fn readable_by(&self, uid: u32, gid: u32, groups: &[u32]) -> Result<(), JarError> {
        access::readable(&self.root, &self.path, &access::Ids { uid, gid, groups })
    }
}

fn examine(folder: &Folder, relative: &Path, need_main: bool) -> Result<Jar, JarError> {
    let file = folder.file(relative)?;
    let path = folder.path().join(relative);
    look_into(file, &path, folder.path().to_owned(), relative, need_main)
}

fn look_into(
    file: OwnedFd,
    path: &Path,
    root: PathBuf,
    called: &Path,
    need_main: bool,
) -> Result<Jar, JarError> {
    let manifest = archive::manifest(File::from(file), called)?;
    if need_main && manifest.main_class.is_none() {
        return Err(JarError::NoMainClass {
            name: shown(called),
        });
    }
    Ok(Jar {
        path: path.to_owned(),
        root,
        main_class: manifest.main_class,
        class_path: manifest.class_path,
    })
}

fn has_extension(path: &Path, allowed: &[&str]) -> bool {
    path.extension().is_some_and(|extension| {
        allowed
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests;
