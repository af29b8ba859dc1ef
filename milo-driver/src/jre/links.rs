//! What a Java home needs from outside of itself. Distributions keep a JVM's configuration in `/etc` and its trust store
//! with the system's, and leave symbolic links in the home. In a container that has only the home these lead nowhere: a
//! JVM still greets the world, and fails as soon as it needs a random number or a certificate.
//!
//! Each link that leads out is answered with a path to mount at its own place. A mount of a linked path shows what the
//! link finally leads to, so that chains of links need no mount for each; a mounted folder brings links of its own, which
//! are followed in turn.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

/// What no program needs in order to run, and what links abound in: at the top of a home.
const NOT_NEEDED: [&str; 6] = ["demo", "docs", "include", "legal", "man", "sample"];

/// The JDK's sources: at the top of an old home, in `lib` of a new one.
const SOURCES: &str = "src.zip";

/// So many entries are looked at: a home has about a thousand.
const MOST_ENTRIES: usize = 100_000;

/// A link that leads nowhere, or where nothing should be mounted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenLink {
    /// The link.
    pub link: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// What the links of a home lead to.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Files and folders outside the home, none inside another.
    pub(super) outside: BTreeSet<PathBuf>,
    /// Links that are of no use.
    pub(super) broken: Vec<BrokenLink>,
}

impl Links {
    /// Follows every link in `home`, whose own path has no links.
    pub(super) fn of(home: &Path) -> Self {
        let mut links = Self::default();
        let mut folders = vec![home.to_owned()];
        let mut seen = BTreeSet::new();
        let mut entries = 0;
        while let Some(folder) = folders.pop() {
            // A folder that is mounted twice under two names has the same links.
            if !seen.insert(folder.clone()) || entries > MOST_ENTRIES {
                continue;
            }
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                entries += 1;
                let name = entry.file_name();
                let is_top = folder == home && NOT_NEEDED.iter().any(|known| name == *known);
                let is_needed = !is_top && name != SOURCES;
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && is_needed => folders.push(entry.path()),
                    Ok(kind) if kind.is_symlink() && is_needed => {
                        folders.extend(links.follow(home, &entry.path()));
                    }
                    _ => {}
                }
            }
        }
        links.drop_nested();
        links
    }

    /// Notes where one link leads, and gives the folder that has to be looked at because of it.
    fn follow(&mut self, home: &Path, link: &Path) -> Option<PathBuf> {
        let target = fs::read_link(link).ok()?;
        let place = normal(&link.parent()?.join(&target));
        if place.starts_with(home) || self.has(&place) {
            return None;
        }
        if !place.exists() || is_too_much(&place, home) {
            self.broken.push(BrokenLink {
                link: link.to_owned(),
                target,
            });
            return None;
        }
        let root = mounted_as(&place);
        self.outside.insert(root.clone());
        root.is_dir().then_some(root)
    }

    fn has(&self, place: &Path) -> bool {
        place.ancestors().any(|above| self.outside.contains(above))
    }

    fn drop_nested(&mut self) {
        let all = self.outside.clone();
        self.outside
            .retain(|path| !path.ancestors().skip(1).any(|above| all.contains(above)));
    }
}

/// The path that is mounted for the sake of `place`: one folder for all of a distribution's configuration files, where
/// the folder's name says that it is Java's own, else the file itself.
fn mounted_as(place: &Path) -> PathBuf {
    let is_system = place.starts_with("/etc") || place.starts_with("/usr");
    let mut above: Vec<&Path> = place.ancestors().skip(1).collect();
    above.reverse();
    let javas = above
        .into_iter()
        .find(|folder| is_system && folder.file_name().is_some_and(is_java));
    javas.unwrap_or(place).to_owned()
}

fn is_java(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    ["java", "jdk", "jre"]
        .iter()
        .any(|word| name.contains(word))
}

/// Nobody means to give a task all of `/etc` or the folder that the home itself is in, nor the kernel's own folders.
fn is_too_much(place: &Path, home: &Path) -> bool {
    let depth = place.components().count();
    let is_kernels = ["/dev", "/proc", "/sys"]
        .iter()
        .any(|folder| place.starts_with(folder));
    depth <= 2 || home.starts_with(place) || is_kernels
}

/// Without `.` and `..`, as the container will see it, where the folders on the way are no links.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use runyard_common::testing::{TempDir, tempdir};

    use super::*;

    /// A folder with `home` in it, whose path has no links.
    fn ground() -> (TempDir, PathBuf) {
        let ground = tempdir();
        let path = ground.path().canonicalize().unwrap();
        for folder in ["home/bin", "home/lib/security", "home/conf", "etc/conf.d"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        (ground, path)
    }

    fn file(path: &Path) -> PathBuf {
        fs::write(path, "x").unwrap();
        path.to_owned()
    }

    #[test]
    fn links_that_stay_in_the_home_need_nothing() {
        let (_ground, path) = ground();
        let home = path.join("home");
        file(&home.join("lib/a"));
        symlink("../lib/a", home.join("bin/b")).unwrap();
        symlink(home.join("lib"), home.join("lib64")).unwrap();
        let links = Links::of(&home);
        assert!(
            links.outside.is_empty() && links.broken.is_empty(),
            "{links:?}"
        );
    }

    #[test]
    fn a_link_out_of_the_home_is_mounted_and_links_behind_it_are_followed() {
        let (_ground, path) = ground();
        let home = path.join("home");
        let store = file(&path.join("etc/store"));
        let deep = file(&path.join("deep"));
        symlink(&store, home.join("lib/security/cacerts")).unwrap();
        symlink("../../etc/conf.d", home.join("conf/more")).unwrap();
        symlink("../../deep", path.join("etc/conf.d/deep.conf")).unwrap();
        let links = Links::of(&home);
        assert_eq!(
            links.outside.into_iter().collect::<Vec<_>>(),
            [deep, path.join("etc/conf.d"), store]
        );
    }

    #[test]
    fn a_chain_of_links_is_one_mount_at_its_first_place() {
        let (_ground, path) = ground();
        let home = path.join("home");
        file(&path.join("etc/real"));
        symlink("real", path.join("etc/cacerts")).unwrap();
        symlink("../../etc/cacerts", home.join("lib/cacerts")).unwrap();
        assert_eq!(
            Links::of(&home).outside.into_iter().collect::<Vec<_>>(),
            [path.join("etc/cacerts")]
        );
    }

    #[test]
    fn broken_and_boundless_links_are_reported_and_not_mounted() {
        let (_ground, path) = ground();
        let home = path.join("home");
        for (name, target) in [
            ("a", "/no/such/file"),
            ("b", "/"),
            ("c", "/etc"),
            ("d", "../.."),
            ("e", "/proc/self"),
        ] {
            symlink(target, home.join("lib").join(name)).unwrap();
        }
        let links = Links::of(&home);
        assert!(links.outside.is_empty(), "{links:?}");
        assert_eq!(links.broken.len(), 5);
    }

    #[test]
    fn folders_that_link_to_each_other_end() {
        let (_ground, path) = ground();
        let home = path.join("home");
        symlink("../../etc", home.join("lib/etc")).unwrap();
        symlink("../../etc", path.join("etc/conf.d/again")).unwrap();
        symlink("../home", path.join("etc/home")).unwrap();
        assert_eq!(Links::of(&home).outside.len(), 1);
    }

    #[test]
    fn documentation_is_not_needed() {
        let (_ground, path) = ground();
        let home = path.join("home");
        file(&path.join("etc/doc"));
        symlink("../etc/doc", home.join("docs")).unwrap();
        fs::create_dir(home.join("legal")).unwrap();
        symlink("../../etc/doc", home.join("legal/a")).unwrap();
        symlink("../../etc/doc", home.join("lib/src.zip")).unwrap();
        assert!(Links::of(&home).outside.is_empty());
    }

    #[test]
    fn a_distributions_own_folder_is_mounted_as_a_whole() {
        for (place, root) in [
            (
                "/etc/java-17-openjdk/security/java.policy",
                "/etc/java-17-openjdk",
            ),
            ("/etc/ssl/certs/java/cacerts", "/etc/ssl/certs/java"),
            ("/etc/pki/java/cacerts", "/etc/pki/java"),
            ("/usr/lib/jvm/openjdk-17/lib/x", "/usr/lib/jvm/openjdk-17"),
            (
                "/usr/lib/x86_64-linux-gnu/jni/a.so",
                "/usr/lib/x86_64-linux-gnu/jni/a.so",
            ),
            (
                "/var/lib/ca-certificates/java-cacerts",
                "/var/lib/ca-certificates/java-cacerts",
            ),
            ("/home/java/secret", "/home/java/secret"),
        ] {
            assert_eq!(mounted_as(Path::new(place)), Path::new(root));
        }
    }
}
