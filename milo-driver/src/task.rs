//! What is to be run: a [`Task`], complete and checked, whoever asked for it. A Nomad job and a command line both end
//! here; a bundle, a shim and a record on disk all start here. No protocol, no OCI and no I/O in this module.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A task's identity: in Nomad `<allocation>/<task>/<8 hex digits>`, new for every restart; on the command line a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub String);

impl TaskId {
    /// 16 hex digits that stand for this id in paths, container names and socket names, where its own characters may be
    /// illegal and its length too much.
    pub fn key(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        let [first, ..] = digest.as_chunks::<8>().0 else {
            unreachable!("a SHA-256 digest has 32 bytes")
        };
        format!("{:016x}", u64::from_be_bytes(*first))
    }

    /// The container's name as crun knows it.
    pub fn container(&self) -> String {
        format!("milo-{}", self.key())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Who asked for a task, and so who gives it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A Nomad agent, which destroys it.
    Nomad,
    /// `milo-driver run`.
    Cli,
}

/// Everything that a container is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// Its name: the task's in its group, or the JAR's.
    pub name: String,
    /// Who asked.
    pub origin: Origin,
    /// The allocation it belongs to; empty on the command line.
    pub alloc_id: String,
    /// What the container runs.
    pub program: Program,
    /// The environment, complete but for what a container always has (`PATH`, `JAVA_HOME`, `HOME`, `TMPDIR`).
    pub env: BTreeMap<String, String>,
    /// Who it runs as: empty for the default, a name, a uid, `uid:gid`, or Nomad's `nomad-<uid>`.
    pub user: String,
    /// The host's folders behind `/alloc`, `/local` and `/secrets`.
    pub dirs: Dirs,
    /// The working folder inside the container; `/` by default.
    pub work_dir: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
    /// Where its cgroup is.
    pub cgroup: CgroupPlace,
    /// Folders and files of the host, in the order in which they were asked for.
    pub mounts: Vec<Mount>,
    /// Memory-backed folders.
    pub tmpfs: Vec<Tmpfs>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Its network.
    pub network: Network,
    /// How names are resolved; the host's way by default.
    pub dns: Option<Dns>,
    /// More lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostEntry>,
    /// What it is kept from.
    pub security: Security,
    /// Run a small init as PID 1 that reaps orphans and forwards signals.
    pub init: bool,
    /// A prepared root file system on the host to use instead of the generated one.
    pub rootfs: Option<PathBuf>,
    /// Where its output goes and its input comes from.
    pub stdio: Stdio,
    /// Remove all traces as soon as it has ended, without waiting for a `dismiss`; and end it when the one who attached
    /// goes away.
    pub ephemeral: bool,
}

impl Task {
    /// A task of the command line that runs `program` under the name `id`, with the defaults of everything else.
    pub fn new(id: &str, program: Program) -> Self {
        let id = TaskId(id.to_owned());
        Self {
            name: id.0.clone(),
            origin: Origin::Cli,
            alloc_id: String::new(),
            program,
            env: BTreeMap::new(),
            user: String::new(),
            dirs: Dirs::default(),
            work_dir: None,
            limits: Limits::default(),
            cgroup: CgroupPlace {
                path: format!("/milo/{}", id.key()),
                ..CgroupPlace::default()
            },
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            devices: Vec::new(),
            network: Network::default(),
            dns: None,
            extra_hosts: Vec::new(),
            security: Security::default(),
            init: false,
            rootfs: None,
            stdio: Stdio::default(),
            ephemeral: false,
            id,
        }
    }
}

/// What runs in the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A JVM.
    Java(Java),
    /// A greeting through a shell: the smoke test that needs no Java.
    Greeting {
        /// `bash` or `fish`.
        shell: String,
        /// What is echoed.
        text: String,
    },
}

/// What a JVM is asked to run, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Java {
    /// The JAR of `-jar`, as the container sees it. `None` with `class`.
    pub jar: Option<PathBuf>,
    /// The main class, instead of `-jar`.
    pub class: Option<String>,
    /// The class path, as the container sees it.
    pub class_path: Option<String>,
    /// The user's JVM options; they come after the generated ones, so that they win.
    pub jvm_options: Vec<String>,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Which JVM.
    pub select: JreSelect,
    /// How the heap is sized.
    pub heap: Heap,
    /// End the JVM at its first `OutOfMemoryError`.
    pub exit_on_oom: bool,
    /// Write a heap dump at an `OutOfMemoryError`.
    pub heap_dump: bool,
}

/// Which of the host's JVMs a task wants. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JreSelect {
    /// A version or its beginning: `17`, `17.0`, `21.0.4`, `1.8`.
    pub version: Option<String>,
    /// Part of the vendor's name, in any case: `temurin`, `debian`.
    pub vendor: Option<String>,
    /// An exact home.
    pub home: Option<PathBuf>,
}

/// How the maximum heap is chosen. Nothing is chosen where the user's own options say it (`-Xmx`, `-XX:MaxRAMPercentage`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heap {
    /// A share of the task's memory, in percent (not of `memory_max`).
    Percent(f64),
    /// A fixed size in MiB.
    Mebibytes(u64),
    /// The JVM's own way.
    Jvm,
}

impl Default for Heap {
    fn default() -> Self {
        Self::Percent(75.0)
    }
}

/// The folders of the host that a task sees as its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirs {
    /// Behind `/alloc`.
    pub alloc: Option<PathBuf>,
    /// Behind `/local`.
    pub local: Option<PathBuf>,
    /// Behind `/secrets`.
    pub secrets: Option<PathBuf>,
}

impl Dirs {
    /// The folder that the agent has made around a path, and the rest of it: the allocation's, which holds the folders of all
    /// its tasks, or one of this task's own. Only the agent can rename such a folder, but tasks can rename what is below.
    pub fn around<'a>(&'a self, path: &'a Path) -> Option<(&'a Path, &'a Path)> {
        let allocation = self.alloc.as_deref().and_then(Path::parent);
        let own = [&self.alloc, &self.local, &self.secrets].map(Option::as_deref);
        std::iter::once(allocation)
            .chain(own)
            .flatten()
            .find_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)))
    }
}

/// What a task may use. `None` means no limit of that kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The hard limit of its memory in bytes.
    pub memory: Option<u64>,
    /// The memory in bytes that it should be left with under pressure (`memory.low`).
    pub memory_reservation: Option<u64>,
    /// The memory in bytes that the heap is sized from.
    pub heap_basis: Option<u64>,
    /// Swap in bytes on top of the memory; 0 by default.
    pub swap: u64,
    /// CPU shares, in Nomad's MHz or crun's 1024ths: a weight.
    pub cpu_shares: Option<u64>,
    /// The CPUs' time it may use at most, in cores: 1.5.
    pub cpu_quota: Option<f64>,
    /// The CPUs it is bound to: `0,2-3`.
    pub cpuset: Option<String>,
    /// Processes and threads together.
    pub pids: Option<i64>,
    /// Resource limits by their names without `RLIMIT_`, in lower case: soft and hard.
    pub ulimits: BTreeMap<String, (u64, u64)>,
    /// The size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The OOM killer's adjustment; 0 unless asked, whatever the parent has.
    pub oom_score_adj: i32,
}

/// Where a task's cgroup is, below the mount of its hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlace {
    /// The path, as of the hierarchy's root: `/nomad.slice/share.slice/….scope`, `/nomad/<alloc>.<task>`, `/milo/<key>`.
    pub path: String,
    /// Folders (of version 1 hierarchies) whose `cgroup.procs` also gets the container's first process.
    #[serde(default)]
    pub join: Vec<PathBuf>,
    /// Whether cgroups are left alone entirely, because they are not ours to write.
    #[serde(default)]
    pub disabled: bool,
}

/// A folder or file of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: Propagation,
}

/// How mounts made later pass between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Not at all.
    #[default]
    Rprivate,
    /// From the host to the container.
    Rslave,
    /// Both ways.
    Rshared,
}

/// A memory-backed folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// In the container.
    pub target: PathBuf,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its mode.
    pub mode: Option<u32>,
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// A container's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A network namespace that somebody else made.
    Join {
        /// The namespace's file.
        path: PathBuf,
        /// The name that the container has in it.
        hostname: Option<String>,
        /// The address that belongs to the name.
        address: Option<String>,
    },
    /// A namespace of its own with a loopback device only.
    None,
}

/// How names are resolved. What is empty is taken from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Domains that are tried.
    pub searches: Vec<String>,
    /// The resolver's options.
    pub options: Vec<String>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// What a container is kept from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// The capabilities it has (`CAP_NET_BIND_SERVICE`), already checked against what the operator allows.
    pub capabilities: Vec<String>,
    /// Its system-call filter.
    pub seccomp: Seccomp,
    /// Whether its root is read-only.
    pub readonly_rootfs: bool,
    /// Whether `execve` never grants privileges.
    pub no_new_privileges: bool,
    /// Whether the host's programs (`/usr/bin`) are there, read-only: what script checks and `exec` need.
    pub host_tools: bool,
    /// Kernel parameters of its namespaces.
    pub sysctl: BTreeMap<String, String>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            seccomp: Seccomp::Default,
            readonly_rootfs: true,
            no_new_privileges: true,
            host_tools: true,
            sysctl: BTreeMap::new(),
        }
    }
}

/// A system-call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The built-in one.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A file in the runtime specification's JSON (`linux.seccomp`).
    Profile(PathBuf),
}

/// Where output goes and input comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Stream,
    /// Standard output.
    pub stdout: Stream,
    /// Standard error.
    pub stderr: Stream,
    /// What happens when a FIFO's reader does not keep up.
    pub on_full: OnFull,
}

/// One end of a container's input or output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// `/dev/null`.
    #[default]
    Null,
    /// The descriptor that the shim was given at its own start (3, 4 and 5 for stdin, stdout and stderr).
    Inherited,
    /// A FIFO that somebody else reads. It is opened without waiting for the reader, and kept open both ways.
    Fifo(PathBuf),
    /// A file of the shim's own that is rotated.
    File {
        /// Where.
        path: PathBuf,
        /// Bytes after which a new one is begun; one old one is kept.
        max_bytes: u64,
    },
}

/// What happens when the reader of a FIFO does not keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// The program waits: nothing is lost.
    #[default]
    Block,
    /// What does not fit is dropped and counted.
    Drop,
}

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The program's exit code; 128 + n after signal n; -1 when nobody could learn it (see `error`).
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether the kernel killed a process of it for lack of memory under its own limit.
    pub oom_killed: bool,
    /// When it ended, in nanoseconds since 1970.
    pub ended_at: i64,
    /// Why the true code is not known.
    pub error: Option<String>,
}

impl Exit {
    /// Whether it did its work.
    pub fn is_success(&self) -> bool {
        self.code == 0 && self.signal == 0 && self.error.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_legal_in_paths_whatever_the_id_holds() {
        let key = TaskId("8f1d/../we b/äö/01234567".into()).key();
        assert_eq!(key.len(), 16);
        assert!(key.chars().all(|digit| digit.is_ascii_hexdigit()));
    }

    #[test]
    fn different_ids_have_different_keys() {
        assert_ne!(TaskId("a/b".into()).key(), TaskId("a/c".into()).key());
    }

    #[test]
    fn what_is_below_the_allocation_is_known_by_its_path() {
        let dirs = Dirs {
            alloc: Some("/a/alloc".into()),
            local: Some("/a/web/local".into()),
            secrets: None,
        };
        for (path, expected) in [
            ("/a/alloc/logs/x", Some("alloc/logs/x")),
            ("/a/other/local/x", Some("other/local/x")),
            ("/ab/x", None),
            ("/srv", None),
        ] {
            let rest = dirs.around(Path::new(path)).map(|(_, rest)| rest);
            assert_eq!(rest, expected.map(Path::new), "{path}");
        }
        assert_eq!(Dirs::default().around(Path::new("/srv")), None);
    }

    #[test]
    fn a_signal_is_no_success() {
        assert!(Exit::default().is_success());
        assert!(
            !Exit {
                code: 143,
                signal: 15,
                ..Exit::default()
            }
            .is_success()
        );
    }
}
