//! The container's file system while it is put together: the mounts in the order in which crun makes them, and what lies
//! in the bundle beneath them. It knows what is covered by what; what ought to be there is decided elsewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{BundleError, Content, GeneratedFile};

/// A bind mount that nobody can write to, and where no set-user-ID bit and no device node has any effect.
pub(super) const READ_ONLY: [&str; 4] = ["bind", "ro", "nosuid", "nodev"];

/// A container's file system in the making.
pub(super) struct View<'a> {
    /// The task's own root file system, instead of a generated one.
    rootfs: Option<&'a Path>,
    bundle: &'a Path,
    mounts: Vec<Mount>,
    files: Vec<GeneratedFile>,
    /// The paths in `files`, and whether they are folders.
    made: BTreeMap<PathBuf, bool>,
    /// Folders of the host that are there as they are.
    shown: Vec<PathBuf>,
    /// Links of the host's top level that are there as they are.
    links: Vec<(PathBuf, PathBuf)>,
}

impl<'a> View<'a> {
    pub(super) fn new(rootfs: Option<&'a Path>, bundle: &'a Path) -> Result<Self, BundleError> {
        if let Some(path) = rootfs
            && !path.is_dir()
        {
            return Err(BundleError::Rootfs {
                path: path.to_owned(),
                reason: "there is no such folder".to_owned(),
            });
        }
        let mut view = Self {
            rootfs,
            bundle,
            mounts: Vec::new(),
            files: Vec::new(),
            made: BTreeMap::new(),
            shown: Vec::new(),
            links: Vec::new(),
        };
        if rootfs.is_none() {
            view.add(PathBuf::from("rootfs"), Content::Folder);
        }
        Ok(view)
    }

    /// The task's own root file system, if it has one.
    pub(super) fn rootfs(&self) -> Option<&'a Path> {
        self.rootfs
    }

    /// Whether a path is in the task's own root file system, its links followed as the container will follow them.
    pub(super) fn rootfs_has(&self, path: &Path) -> bool {
        self.rootfs.is_some_and(|rootfs| is_within(rootfs, path))
    }

    /// A mount that is no bind.
    pub(super) fn mount(&mut self, kind: &str, target: &str, options: &[&str]) {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        self.push(kind, Path::new(kind), Path::new(target), options);
        self.point(Path::new(target), true);
    }

    /// A bind mount of something that exists on the host.
    pub(super) fn bind(&mut self, source: &Path, target: &Path, options: Vec<String>) {
        self.bind_as(source, source, target, options);
    }

    /// The same where crun finds it by another path.
    pub(super) fn bind_as(
        &mut self,
        source: &Path,
        found: &Path,
        target: &Path,
        options: Vec<String>,
    ) {
        self.push("bind", found, target, options);
        self.point(target, source.is_dir());
    }

    /// Shows something of the host at its own path, read-only, unless it is there already.
    pub(super) fn show(&mut self, path: &Path) {
        if !self.is_shown(path) {
            self.bind(path, path, READ_ONLY.map(str::to_owned).to_vec());
            self.shown.push(path.to_owned());
        }
    }

    /// Shows a link of the host as a link. Nothing can be written to a root file system of the task's own.
    pub(super) fn show_link(&mut self, path: &Path, target: &Path) {
        if self.is_shown(path) {
            return;
        }
        if self.link(path, target) {
            self.links.push((path.to_owned(), target.to_owned()));
        }
    }

    /// A link in the generated root. Answers whether there is one.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> bool {
        if self.rootfs.is_some() {
            return false;
        }
        self.place(path, Content::Link(target.to_owned()));
        true
    }

    /// A file with this text; over the one of the task's own root file system, if it has one.
    pub(super) fn text(&mut self, path: &str, text: String) {
        let path = Path::new(path);
        if self.rootfs.is_none() {
            self.place(path, Content::Text(text));
            return;
        }
        let within = PathBuf::from("etc").join(path.file_name().unwrap_or_default());
        self.add(PathBuf::from("etc"), Content::Folder);
        self.add(within.clone(), Content::Text(text));
        let options = READ_ONLY.map(str::to_owned).to_vec();
        self.push("bind", &self.bundle.join(within), path, options);
    }

    /// Whether something of the host is there at its own path already.
    pub(super) fn is_shown(&self, path: &Path) -> bool {
        let path = self.follow(path);
        self.shown.iter().any(|shown| path.starts_with(shown))
    }

    /// The folder of the host, if any, that a path lies in and that cannot be written.
    pub(super) fn shown_above(&self, path: &Path) -> Option<&Path> {
        let path = self.follow(path);
        self.shown
            .iter()
            .find(|shown| path.starts_with(shown) && path != **shown)
            .map(PathBuf::as_path)
    }

    /// A path with a link at its beginning followed: `/lib/x` is `/usr/lib/x` where `/usr` is merged.
    fn follow(&self, path: &Path) -> PathBuf {
        let followed = self.links.iter().find_map(|(link, target)| {
            let rest = path.strip_prefix(link).ok()?;
            Some(link.parent()?.join(target).join(rest))
        });
        followed.map_or_else(|| path.to_owned(), |path| plain(&path))
    }

    fn push(&mut self, kind: &str, source: &Path, target: &Path, options: Vec<String>) {
        let mut mount = Mount::default();
        mount.set_destination(target.to_owned());
        mount.set_typ(Some(kind.to_owned()));
        mount.set_source(Some(source.to_owned()));
        mount.set_options(Some(options));
        self.mounts.push(mount);
    }

    /// Something to mount on, where it would be in the generated root: below another mount it is crun that makes it.
    fn point(&mut self, target: &Path, folder: bool) {
        let mut others = self.mounts.iter().rev().skip(1).map(Mount::destination);
        if self.rootfs.is_some() || others.any(|other| target.starts_with(other)) {
            return;
        }
        let content = if folder {
            Content::Folder
        } else {
            Content::Text(String::new())
        };
        self.place(target, content);
    }

    /// Something in the generated root, with the folders above it. Nothing is ever written through a link, which in the
    /// bundle would lead to the host: what is beyond one is left to crun, for whom it leads to the container.
    fn place(&mut self, path: &Path, content: Content) {
        let within = PathBuf::from("rootfs").join(path.strip_prefix("/").unwrap_or(path));
        let mut above: Vec<_> = within.ancestors().skip(1).map(Path::to_owned).collect();
        above.pop();
        if above
            .iter()
            .any(|folder| self.made.get(folder) == Some(&false))
        {
            return;
        }
        for folder in above.into_iter().rev() {
            self.add(folder, Content::Folder);
        }
        self.add(within, content);
    }

    fn add(&mut self, path: PathBuf, content: Content) {
        if !self.made.contains_key(&path) {
            self.made.insert(path.clone(), content == Content::Folder);
            self.files.push(GeneratedFile { path, content });
        }
    }

    pub(super) fn finish(self) -> (Vec<Mount>, Vec<GeneratedFile>) {
        (self.mounts, self.files)
    }
}

/// Whether `path` exists below `root`, absolute links and `..` staying within it.
pub(super) fn is_within(root: &Path, path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = openat2(CWD, root, flags, Mode::empty(), ResolveFlags::empty()) else {
        return false;
    };
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

/// An absolute path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// A path in a container as it was asked for: absolute, without `..`, and not the root itself. A relative one is meant
/// from the root.
pub(super) fn target(asked: &Path) -> Result<PathBuf, &'static str> {
    if asked
        .components()
        .any(|part| matches!(part, Component::ParentDir))
    {
        return Err("`..` is not allowed in it");
    }
    let plain = plain(asked);
    if plain == Path::new("/") {
        return Err("the root itself cannot be replaced by it: give a folder below");
    }
    Ok(plain)
}

/// The real path of something on the host, its links followed.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use runyard_common::testing::tempdir;

    use super::*;

    fn view() -> View<'static> {
        View::new(None, Path::new("/bundle")).unwrap()
    }

    #[test]
    fn below_what_is_shown_nothing_is_mounted_again() {
        let mut view = view();
        view.show(Path::new("/usr/lib"));
        view.show_link(Path::new("/lib"), Path::new("usr/lib"));
        view.show(Path::new("/usr/lib/jvm/java-17"));
        view.show(Path::new("/lib/jvm/java-17"));
        view.show(Path::new("/usr/libexec"));
        let (mounts, files) = view.finish();
        let targets: Vec<_> = mounts.iter().map(Mount::destination).collect();
        assert_eq!(targets, [Path::new("/usr/lib"), Path::new("/usr/libexec")]);
        let lib = files
            .iter()
            .find(|file| file.path == Path::new("rootfs/lib"));
        assert_eq!(lib.unwrap().content, Content::Link("usr/lib".into()));
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut view = view();
        view.text("/etc/a/b", String::new());
        view.text("/etc/a/c", String::new());
        let (_, files) = view.finish();
        let paths: Vec<_> = files
            .iter()
            .map(|file| file.path.to_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "rootfs",
                "rootfs/etc",
                "rootfs/etc/a",
                "rootfs/etc/a/b",
                "rootfs/etc/a/c"
            ]
        );
    }

    #[test]
    fn what_is_below_a_mount_is_not_made_in_the_bundle() {
        let mut view = view();
        view.mount("tmpfs", "/dev", &[]);
        view.mount("devpts", "/dev/pts", &[]);
        let (_, files) = view.finish();
        assert_eq!(files.last().unwrap().path, Path::new("rootfs/dev"));
    }

    #[test]
    fn nothing_is_made_beyond_a_link() {
        let mut view = view();
        view.link(Path::new("/var/run"), Path::new("/run"));
        view.bind(
            Path::new("/etc/passwd"),
            Path::new("/var/run/file"),
            Vec::new(),
        );
        view.bind(
            Path::new("/usr"),
            Path::new("/var/run/a/folder"),
            Vec::new(),
        );
        let (mounts, files) = view.finish();
        assert_eq!(mounts.len(), 2);
        assert_eq!(files.last().unwrap().path, Path::new("rootfs/var/run"));
    }

    #[test]
    fn a_link_in_a_root_file_system_stays_in_it() {
        let root = tempdir();
        fs::create_dir(root.path().join("lib")).unwrap();
        fs::write(root.path().join("lib/ld.so"), "").unwrap();
        symlink("/lib", root.path().join("lib64")).unwrap();
        symlink("/etc/passwd", root.path().join("escape")).unwrap();
        assert!(is_within(root.path(), Path::new("/lib64/ld.so")));
        assert!(!is_within(root.path(), Path::new("/escape")));
        assert!(!is_within(root.path(), Path::new("/../etc/passwd")));
    }

    #[test]
    fn a_target_is_absolute_and_leads_nowhere_else() {
        assert_eq!(target(Path::new("data/x")).unwrap(), Path::new("/data/x"));
        assert_eq!(
            target(Path::new("//data/./x/")).unwrap(),
            Path::new("/data/x")
        );
        assert!(target(Path::new("/data/../etc")).is_err());
        assert!(target(Path::new("/")).is_err());
        assert!(target(Path::new("")).is_err());
    }
}
