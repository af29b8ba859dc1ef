//! What is mounted, in order: the kernel's file systems and memory first, then the host's, the JVM's, and at last the
//! task's own, which may cover what came before.

use std::path::{Path, PathBuf};

use super::{
    BundleError, elf, sources,
    view::{self, View},
};
use crate::{
    cgroup::Mode,
    host::{Host, Kind, Purpose},
    jre::Jre,
    task::{Mount, Propagation, Task, Tmpfs},
};

/// The size of `/dev/shm` unless asked: the customary 64 MiB.
const SHM_SIZE: u64 = 64 * 1024 * 1024;
/// Where the JVM is found whatever its own path is.
const JAVA: &str = "/opt/java";
/// Places that are the kernel's or crun's to fill.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The kernel's file systems and memory.
pub(super) fn base(view: &mut View<'_>, task: &Task, host: &Host) {
    let shm = format!("size={}", task.limits.shm_size.unwrap_or(SHM_SIZE));
    view.mount("proc", "/proc", &["nosuid", "noexec", "nodev"]);
    view.mount(
        "tmpfs",
        "/dev",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    );
    view.mount(
        "devpts",
        "/dev/pts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    );
    view.mount(
        "tmpfs",
        "/dev/shm",
        &["nosuid", "noexec", "nodev", "mode=1777", &shm],
    );
    view.mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]);
    view.mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]);
    if host.cgroup != Mode::None && !task.cgroup.disabled {
        // A JVM that cannot read its limits sizes its heap by the machine's memory.
        view.mount(
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        );
    }
    // Libraries are unpacked to /tmp and loaded from there, so it cannot be noexec.
    view.mount("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]);
    view.mount("tmpfs", "/run", &["nosuid", "nodev", "noexec", "mode=755"]);
}

/// What is shown of the host in a generated root: libraries and trust, and programs if the task may have them.
pub(super) fn of_host(view: &mut View<'_>, task: &Task, host: &Host) {
    if view.rootfs().is_some() {
        return;
    }
    for place in &host.places {
        if place.purpose == Purpose::Tools && !task.security.host_tools {
            continue;
        }
        match &place.kind {
            Kind::Link(target) => view.show_link(&place.path, target),
            Kind::Folder | Kind::File => view.show(&place.path),
        }
    }
    view.link(Path::new("/var/tmp"), Path::new("/tmp"));
    view.link(Path::new("/var/run"), Path::new("/run"));
}

/// The JVM at its own path, all that its links lead to, and [`JAVA`]. A root file system that has it already keeps its own.
pub(super) fn of_jre(view: &mut View<'_>, jre: &Jre) -> Result<(), BundleError> {
    if view.rootfs_has(&jre.home.join("bin/java")) {
        return Ok(());
    }
    elf::runs_in(view, &view::real(&jre.java))?;
    view.show(&jre.home);
    for link in &jre.links {
        if link.exists() && !view.rootfs_has(link) {
            view.show(link);
        }
    }
    let java = Path::new(JAVA);
    // A home at or below /opt/java leaves no room for the link.
    if !jre.home.starts_with(java) && !view.link(java, &jre.home) {
        let options = view::READ_ONLY.map(str::to_owned).to_vec();
        view.bind(&jre.home, java, options);
    }
    Ok(())
}

/// The task's own folders, then its mounts and memory, the outer ones first.
pub(super) fn of_task(view: &mut View<'_>, task: &Task, bundle: &Path) -> Result<(), BundleError> {
    let folders = [
        (&task.dirs.alloc, "/alloc", false),
        (&task.dirs.local, "/local", false),
        (&task.dirs.secrets, "/secrets", true),
    ];
    for (source, target, noexec) in folders {
        if let Some(source) = source {
            let mut options = vec!["rbind", "rw", "nosuid", "nodev", "rprivate"];
            options.extend(noexec.then_some("noexec"));
            exists(source, Path::new(target))?;
            let options = options.into_iter().map(str::to_owned).collect();
            view.bind(source, Path::new(target), options);
        }
    }
    let mounts = task.mounts.iter().enumerate();
    let mut asked: Vec<_> = mounts
        .map(|(number, mount)| Asked::Mount(mount, sources::of_mount(task, number, mount, bundle)))
        .collect();
    asked.extend(task.tmpfs.iter().map(Asked::Tmpfs));
    asked.sort_by_key(|asked| asked.target().components().count());
    asked.iter().try_for_each(|asked| asked.mount(view))
}

enum Asked<'a> {
    /// And where crun finds its source.
    Mount(&'a Mount, PathBuf),
    Tmpfs(&'a Tmpfs),
}

impl Asked<'_> {
    fn target(&self) -> &Path {
        match self {
            Self::Mount(mount, _) => &mount.target,
            Self::Tmpfs(tmpfs) => &tmpfs.target,
        }
    }

    fn mount(&self, view: &mut View<'_>) -> Result<(), BundleError> {
        let target = allowed(view, self.target())?;
        match self {
            Self::Mount(mount, source) => {
                exists(&mount.source, &mount.target)?;
                view.bind_as(&mount.source, source, &target, bind_options(mount));
            }
            Self::Tmpfs(tmpfs) => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
                options.push(format!("mode={:o}", tmpfs.mode.unwrap_or(0o1777)));
                options.extend(tmpfs.size.map(|size| format!("size={size}")));
                let options: Vec<_> = options.iter().map(String::as_str).collect();
                view.mount("tmpfs", &target.to_string_lossy(), &options);
            }
        }
        Ok(())
    }
}

fn bind_options(mount: &Mount) -> Vec<String> {
    let access = if mount.readonly { "ro" } else { "rw" };
    let propagation = match mount.propagation {
        Propagation::Rprivate => "rprivate",
        Propagation::Rslave => "rslave",
        Propagation::Rshared => "rshared",
    };
    ["rbind", access, "nosuid", "nodev", propagation]
        .map(str::to_owned)
        .to_vec()
}

/// Where something may be mounted, as an absolute path.
fn allowed(view: &View<'_>, asked: &Path) -> Result<PathBuf, BundleError> {
    let refused = |reason: String| BundleError::Mount {
        target: asked.to_owned(),
        reason,
    };
    let target = view::target(asked).map_err(|reason| refused(reason.to_owned()))?;
    // Single devices and /dev/shm may be replaced, /dev as a whole may not.
    let is_kernels = |place: &str| match place {
        "/dev" => target == Path::new(place),
        place => target.starts_with(place),
    };
    if let Some(place) = KERNEL.into_iter().find(|place| is_kernels(place)) {
        return Err(refused(format!(
            "{place} is the kernel's: choose another place"
        )));
    }
    if let Some(shown) = view.shown_above(&target)
        && !target.exists()
    {
        let shown = shown.display();
        return Err(refused(format!(
            "{shown} is the host's and read-only, and has no such entry to mount on: choose another place"
        )));
    }
    Ok(target)
}

fn exists(source: &Path, target: &Path) -> Result<(), BundleError> {
    source
        .metadata()
        .map(drop)
        .map_err(|error| BundleError::Mount {
            target: target.to_owned(),
            reason: format!("source `{}` on the host: {error}", source.display()),
        })
}
