//! What an operator decides: one [`Config`], the same for the plugin and for the command line, with its defaults. Where the
//! values come from (the agent's `config {}` block, a file, the environment, flags) is somebody else's to know.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use crate::task::{OnFull, Seccomp};

/// The operator's decisions. [`Config::default`] is what holds without any.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `crun_path`: the crun to use; without one, the first `crun` in `PATH`.
    pub crun_path: Option<PathBuf>,
    /// `java_homes`: homes of JVMs, before and besides those that are found.
    pub java_homes: Vec<PathBuf>,
    /// `default_java`: the JVM of tasks that ask for none: a version, a vendor or a home.
    pub default_java: Option<String>,
    /// `state_dir`: where records of running tasks are. Two agents on one host need two.
    pub state_dir: PathBuf,
    /// `shell`: what echoes a `greeting`.
    pub shell: Shell,
    /// `heap_percent`: the share of a task's memory that its heap may take.
    pub heap_percent: f64,
    /// `pids_limit`: processes and threads of a task together; 0 in the block is no limit.
    pub pids_limit: Option<i64>,
    /// `stop_signal`: what ends a task whose job names no `kill_signal`.
    pub stop_signal: String,
    /// `log_mode`: what happens to a task whose log is not read: `block` or `drop`.
    pub log_mode: OnFull,
    /// `host_tools`: whether tasks see the host's programs, read-only: script checks and `alloc exec` need a shell.
    pub host_tools: bool,
    /// `default_seccomp`: the system-call filter of tasks that name none.
    pub default_seccomp: Seccomp,
    /// What jobs may ask for.
    pub policy: Policy,
    /// `gc {}`: what becomes of containers that no agent asks for any more.
    pub gc: Gc,
    /// `fingerprint_period`: how often the host is looked at.
    pub fingerprint_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            crun_path: None,
            java_homes: Vec::new(),
            default_java: None,
            state_dir: PathBuf::from("/run/milo"),
            shell: Shell::Bash,
            heap_percent: 75.0,
            pids_limit: Some(4096),
            stop_signal: "SIGTERM".to_owned(),
            log_mode: OnFull::Block,
            host_tools: true,
            default_seccomp: Seccomp::Default,
            policy: Policy::default(),
            gc: Gc::default(),
            fingerprint_period: Duration::from_secs(30),
        }
    }
}

/// What jobs may ask for. Each refusal names the option that would lift it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct Policy {
    /// `allow_caps`: capabilities that `cap_add` may name, in lower case without `cap_`; `all` is every one.
    pub allow_caps: Vec<String>,
    /// `allow_ulimits`: the highest resource limits that `ulimit` may ask for, by their names, where they are above the
    /// agent's own.
    pub allow_ulimits: BTreeMap<String, u64>,
    /// `allow_host_mounts`: folders of the host in `mount {}` and `volumes`.
    pub allow_host_mounts: bool,
    /// `allow_privileged_user`: tasks that run as root.
    pub allow_privileged_user: bool,
    /// `allow_java_home`: a `java_home` that is not among `java_homes`.
    pub allow_java_home: bool,
    /// `allow_unconfined_seccomp`: `seccomp_profile = "unconfined"`, or a file of the job's choice.
    pub allow_unconfined_seccomp: bool,
    /// `allow_rootfs`: a `rootfs` of the job's choice.
    pub allow_rootfs: bool,
}

impl Default for Policy {
    /// The capabilities are those that make nobody root: with Nomad's own list for `exec`, which has `setuid` and
    /// `dac_override`, a job could become root in its container, and that is root on the host's files that it can write.
    fn default() -> Self {
        let caps = ["audit_write", "kill", "net_bind_service"];
        Self {
            allow_caps: caps.map(str::to_owned).to_vec(),
            allow_ulimits: BTreeMap::new(),
            allow_host_mounts: false,
            allow_privileged_user: false,
            allow_java_home: false,
            allow_unconfined_seccomp: false,
            allow_rootfs: false,
        }
    }
}

/// What becomes of containers that no agent asks for any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// `enabled`: whether they are looked for.
    pub enabled: bool,
    /// `grace`: how long after its start the plugin waits for the agent to ask for them.
    pub grace: Duration,
    /// `dry_run`: say what would be removed, and leave it.
    pub dry_run: bool,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            enabled: true,
            grace: Duration::from_mins(5),
            dry_run: false,
        }
    }
}

/// A shell that echoes a greeting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    /// GNU Bash.
    #[default]
    Bash,
    /// fish.
    Fish,
}

impl fmt::Display for Shell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bash => "bash",
            Self::Fish => "fish",
        })
    }
}

impl FromStr for Shell {
    type Err = UnknownShell;

    fn from_str(text: &str) -> Result<Self, UnknownShell> {
        match text {
            "bash" => Ok(Self::Bash),
            "fish" => Ok(Self::Fish),
            _ => Err(UnknownShell(text.to_owned())),
        }
    }
}

/// A shell that is not offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shell `{0}` is not known: use `bash` or `fish`")]
pub struct UnknownShell(String);

/// The CPUs of this machine as the agent counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    /// The sum of all CPUs' speed; 0 if the agent did not tell.
    pub megahertz: u64,
    /// How many there are.
    pub cpus: u32,
}

impl Compute {
    /// This machine's, without an agent.
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            megahertz: 0,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        }
    }
}
