//! What crun is given for one task: a [`Plan`], made from the task and from facts about the machine, and the folder that
//! it is written to. Planning looks at the host and changes nothing; [`Plan::write`] changes nothing but that folder.
//!
//! ```text
//! <bundle>/
//!   config.json     0600: it holds the environment
//!   rootfs/         what the container's root is at first: folders to mount on, links, and an /etc of its own
//!   sources/        where crun finds what others could swap; empty but in crun's own namespace
//!   etc/            instead, with a root file system of the task's: the files that are mounted over its own
//! ```
//!
//! # What a container sees
//!
//! Its root is read-only and almost empty. The host's libraries, fonts, time zones and certificates are there read-only
//! at their own paths, and so is the JVM with all that its links lead to; `/bin` and the like only where the task may
//! have them. `/tmp`, `/run` and `/dev/shm` are memory; `/alloc`, `/local` and `/secrets` are the task's folders. The
//! host's `/etc` is never there: users, names and resolver are written for each task.

mod devices;
mod elf;
mod etc;
mod mounts;
mod program;
mod seccomp;
mod security;
pub mod sources;
mod view;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Root, Spec};

use self::view::View;
use crate::{
    cgroup::{self, Mode},
    host::Host,
    jre::Jre,
    resources::resources,
    task::{Network, Propagation, Task},
    user::Account,
};

/// The version of the OCI runtime specification that is spoken.
const SPECIFICATION: &str = "1.0.2";

/// Everything that crun is given, not yet written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `config.json`.
    pub spec: Spec,
    /// What else is in the bundle, parents first.
    pub files: Vec<GeneratedFile>,
}

/// Something in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where, below the bundle.
    pub path: PathBuf,
    /// What.
    pub content: Content,
}

/// What a [`GeneratedFile`] is. Folders are 0755 and files 0644, whatever the umask: the container's user reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A folder.
    Folder,
    /// A file.
    Text(String),
    /// A symbolic link, and where it points in the container.
    Link(PathBuf),
}

/// Why a task cannot be turned into a container.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A JVM is needed, and none was chosen.
    #[error(
        "no Java runtime was chosen for `{task}`: install one on this host, or name one in java_homes"
    )]
    NoJvm {
        /// The task's name.
        task: String,
    },
    /// A shell that greetings are not made with.
    #[error("shell `{0}` is not known: use bash or fish")]
    UnknownShell(String),
    /// A shell that is not installed.
    #[error("shell `{shell}` is not in {places}: install it, or use another one")]
    NoShell {
        /// Its name.
        shell: String,
        /// Where it was looked for.
        places: String,
    },
    /// A mount that cannot be made.
    #[error("mount `{}`: {reason}", target.display())]
    Mount {
        /// Where it was wanted.
        target: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A device that cannot be given.
    #[error("device `{}`: {reason}", path.display())]
    Device {
        /// Its path on the host or in the container.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A resource limit that there is not.
    #[error("ulimit `{name}` is not known (known: {known})")]
    Ulimit {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: String,
    },
    /// A resource limit whose soft value is above its hard one.
    #[error("ulimit `{name}`: the soft limit {soft} is above the hard limit {hard}")]
    UlimitOrder {
        /// Its name.
        name: String,
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
    },
    /// A capability that there is not.
    #[error(
        "capability `{0}` is not known: capabilities(7) lists them, as in CAP_NET_BIND_SERVICE"
    )]
    Capability(String),
    /// A kernel parameter that is not the container's own.
    #[error("sysctl `{name}`: {reason}")]
    Sysctl {
        /// Its name.
        name: String,
        /// Why it would be somebody else's.
        reason: String,
    },
    /// A system-call filter that cannot be used.
    #[error("seccomp profile `{}`: {reason}", path.display())]
    Seccomp {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program of the host that does not run in the task's own root file system.
    #[error(
        "`{}` of this host needs `{}`, which is not in the root file system `{}`: \
         use one with the same C library, or one with a program of its own",
        program.display(), loader.display(), rootfs.display()
    )]
    Loader {
        /// The program.
        program: PathBuf,
        /// Its loader.
        loader: PathBuf,
        /// Where that is missing.
        rootfs: PathBuf,
    },
    /// A root file system that is none.
    #[error("root file system `{}`: {reason}", path.display())]
    Rootfs {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A control group that is not strictly below the root of its hierarchy.
    #[error("control group `{0}` is not below the root: give a path such as /milo/name")]
    Cgroup(String),
}

/// Plans the container of a task that runs as `account`, with `jre` if it needs a JVM, to be written to `bundle`.
pub fn plan(
    task: &Task,
    account: &Account,
    jre: Option<&Jre>,
    host: &Host,
    bundle: &Path,
) -> Result<Plan, BundleError> {
    let mut view = View::new(task.rootfs.as_deref(), bundle)?;
    mounts::base(&mut view, task, host);
    mounts::of_host(&mut view, task, host);
    if let Some(jre) = jre {
        mounts::of_jre(&mut view, jre)?;
    }
    etc::write(&mut view, task, account, host);
    mounts::of_task(&mut view, task, bundle)?;
    let process = program::process(&mut view, task, account, jre, host)?;

    let mut spec = Spec::default();
    spec.set_version(SPECIFICATION.to_owned());
    spec.set_root(Some(root(task, bundle)));
    spec.set_hostname(Some(etc::hostname(task, host)));
    spec.set_process(Some(process));
    spec.set_linux(Some(linux(task, jre, host)?));
    spec.set_annotations(Some(annotations(task)));
    let (mounts, files) = view.finish();
    spec.set_mounts(Some(mounts));
    Ok(Plan { spec, files })
}

fn root(task: &Task, bundle: &Path) -> Root {
    let mut root = Root::default();
    root.set_path(sources::of_rootfs(task, bundle).unwrap_or_else(|| "rootfs".into()));
    root.set_readonly(Some(task.security.readonly_rootfs));
    root
}

fn linux(task: &Task, jre: Option<&Jre>, host: &Host) -> Result<Linux, BundleError> {
    let devices = devices::of(&task.devices)?;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(task, host)));
    linux.set_masked_paths(Some(security::masked_paths()));
    linux.set_readonly_paths(Some(security::readonly_paths()));
    linux.set_sysctl(security::sysctl(task)?);
    let narrow = jre.is_some_and(|jre| elf::is_narrow(&jre.java));
    linux.set_seccomp(seccomp::filter(&task.security, host.arch, narrow)?);
    linux.set_rootfs_propagation(propagation(task));
    linux.set_devices((!devices.nodes.is_empty()).then_some(devices.nodes));
    linux.set_resources(None);
    if !task.cgroup.disabled && host.cgroup != Mode::None {
        let path = cgroup::relative(&task.cgroup.path)
            .ok_or_else(|| BundleError::Cgroup(task.cgroup.path.clone()))?;
        linux.set_cgroups_path(Some(Path::new("/").join(path)));
        let mut resources = resources(&task.limits, &host.cgroup);
        resources.set_devices(Some(devices.rules));
        linux.set_resources(Some(resources));
    }
    Ok(linux)
}

fn namespaces(task: &Task, host: &Host) -> Vec<LinuxNamespace> {
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
    ];
    if host.cgroup == Mode::V2 {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let new = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut namespaces: Vec<_> = kinds.into_iter().map(new).collect();
    match &task.network {
        Network::Host => {}
        Network::None => namespaces.push(new(LinuxNamespaceType::Network)),
        Network::Join { path, .. } => {
            let mut joined = new(LinuxNamespaceType::Network);
            joined.set_path(Some(path.clone()));
            namespaces.push(joined);
        }
    }
    namespaces
}

/// Mounts can pass between host and container only if they pass through the container's root: it is as open as the most
/// open mount, and private otherwise.
fn propagation(task: &Task) -> Option<String> {
    let any = |wanted| task.mounts.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Rshared) {
        Some("rshared".to_owned())
    } else {
        any(Propagation::Rslave).then(|| "rslave".to_owned())
    }
}

fn annotations(task: &Task) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        ("milo.task.id".to_owned(), task.id.0.clone()),
        ("milo.task.name".to_owned(), task.name.clone()),
    ]);
    if !task.alloc_id.is_empty() {
        annotations.insert("milo.alloc.id".to_owned(), task.alloc_id.clone());
    }
    annotations
}

impl Plan {
    /// Writes the bundle. What was there under the same names is written anew, so a second time does no harm.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(bundle)?;
        for generated in &self.files {
            let path = bundle.join(&generated.path);
            match &generated.content {
                Content::Folder => folder(&path)?,
                Content::Text(text) => file(&path, text)?,
                Content::Link(target) => link(target, &path)?,
            }
        }
        self.write_config(&bundle.join("config.json"))
    }

    /// Secrets may be in it, so it is never readable by others, not even for a moment.
    fn write_config(&self, path: &Path) -> io::Result<()> {
        absent(fs::remove_file(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&serde_json::to_vec(&self.spec)?)
    }
}

/// A folder. A link that an earlier plan left in its place would lead what is written below to the host.
fn folder(path: &Path) -> io::Result<()> {
    let new = || DirBuilder::new().mode(0o755).create(path);
    match new() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.symlink_metadata()?.is_dir() {
                return Ok(());
            }
            instead(path, new)?;
        }
        made => made?,
    }
    allow(path, 0o755)
}

fn file(path: &Path, text: &str) -> io::Result<()> {
    let new = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644).open(path)
    };
    instead(path, new)?.write_all(text.as_bytes())?;
    allow(path, 0o644)
}

fn link(target: &Path, path: &Path) -> io::Result<()> {
    instead(path, || symlink(target, path))
}

/// Makes something in place of what is there. Mostly nothing is, and looking first would be half of the work.
fn instead<T>(path: &Path, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            make()
        }
        made => made,
    }
}

/// Gives something the permissions that a umask may have kept from it. To look is cheaper than to change.
fn allow(path: &Path, mode: u32) -> io::Result<()> {
    let has = path.symlink_metadata()?.permissions().mode() & 0o7777;
    if has == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn absent(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
