//! What `milo-driver run` takes, and the task that it asks for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use runyard_common::{exit::Exit, report::Failure};
use uuid::Uuid;

use crate::{
    api::{
        options::TaskOptions,
        policy::{self, Refusal},
        volume,
    },
    cgroup,
    config::{Config, Policy},
    state::{StateRoot, TaskDir},
    task::{
        Dirs, Dns, Heap, HostEntry, Java, JreSelect, Limits, Mount, Network, OnFull, Program,
        Propagation, Security, Stdio, Stream, Task, TaskId,
    },
};

/// Where the container has the JAR.
const APP: &str = "/app";

/// The log of a detached task is rotated at this size; one old file is kept.
const LOG_BYTES: u64 = 16 << 20;

/// Run a JAR in a container
///
/// The container sees the JAR, the JVM with all that it needs, and what is mounted. The exit code is the program's, 128 + n
/// after signal n.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The JAR
    #[arg(value_name = "JAR")]
    jar: PathBuf,
    /// Arguments of the program
    #[arg(last = true, value_name = "ARGS")]
    handed_on: Vec<String>,
    /// Its name [default: the JAR's, with something random]
    #[arg(long)]
    name: Option<String>,
    /// Run it in the background, and print its name
    #[arg(short, long)]
    pub(super) detach: bool,
    /// The main class, instead of the one that the JAR names
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// More of the class path, as the container sees it; with --class
    #[arg(long, value_name = "PATH", requires = "class")]
    class_path: Option<String>,
    /// An option of the JVM; can be given more than once
    #[arg(long = "jvm-opt", value_name = "OPTION", allow_hyphen_values = true)]
    jvm_options: Vec<String>,
    #[command(flatten)]
    jre: JreArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    surroundings: SurroundingArgs,
    #[command(flatten)]
    security: SecurityArgs,
    /// Write what crun would be given to a folder, and say how to run it; nothing is started
    #[arg(long, value_name = "DIR", conflicts_with_all = ["detach", "dry_run"])]
    pub(super) print_bundle: Option<PathBuf>,
    /// Say what would be run; nothing is started
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Which JVM.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "JVM")]
struct JreArgs {
    /// A version of Java or its beginning: 17, 21.0.4
    #[arg(long, value_name = "VERSION")]
    java: Option<String>,
    /// A vendor of Java: temurin, debian
    #[arg(long, value_name = "VENDOR")]
    java_vendor: Option<String>,
    /// A JVM's home
    #[arg(long, value_name = "DIR")]
    java_home: Option<PathBuf>,
    /// The heap's share of the memory in percent [default: 75]
    #[arg(long, value_name = "PERCENT", conflicts_with = "heap_mb")]
    heap_percent: Option<f64>,
    /// The heap in MiB
    #[arg(long, value_name = "MIB")]
    heap_mb: Option<u64>,
    /// Do not end the JVM at its first `OutOfMemoryError`
    #[arg(long)]
    no_exit_on_oom: bool,
}

/// What it may use.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// The most memory: 512m, 2g
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// The most CPU time, in cores: 1.5
    #[arg(long, value_name = "CORES")]
    cpus: Option<f64>,
    /// The CPUs that it is bound to: 0,2-3
    #[arg(long, value_name = "CPUS")]
    cpuset: Option<String>,
    /// The most processes and threads together; 0 is no limit
    #[arg(long, value_name = "COUNT")]
    pids_limit: Option<i64>,
    /// A resource limit: nofile=1024:4096; can be given more than once
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = pair)]
    ulimits: Vec<(String, String)>,
    /// The size of /dev/shm: 64m
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
}

/// What it sees.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Surroundings")]
struct SurroundingArgs {
    /// A variable; NAME alone takes the value from here; can be given more than once
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file with a NAME=VALUE in each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A file or folder of the host; can be given more than once
    #[arg(short = 'v', long = "mount", value_name = "SOURCE:TARGET[:ro]")]
    mounts: Vec<String>,
    /// A folder in memory; can be given more than once
    #[arg(long, value_name = "TARGET[:size=64m,mode=1777]")]
    tmpfs: Vec<String>,
    /// Its network: the host's, none but a loopback device, or a network namespace
    #[arg(long, value_name = "host|none|FILE", default_value = "host", value_parser = network)]
    network: Network,
    /// A name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// A line of /etc/hosts; can be given more than once
    #[arg(long = "add-host", value_name = "NAME:ADDRESS", value_parser = host_entry)]
    hosts: Vec<HostEntry>,
    /// Where it begins
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
}

/// What it may do.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Security")]
struct SecurityArgs {
    /// Who it runs as: a name, a uid, or uid:gid [default: nobody]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// A capability; can be given more than once
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// The filter of system calls: default, unconfined, or a profile's absolute path
    #[arg(long, value_name = "PROFILE")]
    seccomp: Option<String>,
    /// A kernel parameter of its own namespaces; can be given more than once
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = pair)]
    sysctls: Vec<(String, String)>,
    /// Let it write into its root file system; what it writes is gone with it
    #[arg(long)]
    writable: bool,
    /// Hide the host's programs (/usr/bin) from it
    #[arg(long)]
    no_host_tools: bool,
    /// Run a small init as PID 1 that reaps orphans and forwards signals
    #[arg(long)]
    init: bool,
    /// A root file system on the host to use instead of the generated one
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
}

impl Args {
    /// What follows `--`.
    #[cfg(test)]
    pub(in crate::cli) fn program(&self) -> &[String] {
        &self.handed_on
    }

    /// The task that is asked for. `state` is only where its name comes from to be unique.
    pub(super) fn task(&self, config: &Config, state: &StateRoot) -> Result<Task, Failure> {
        // At the command line the user is the operator.
        let config = &Config {
            policy: all_allowed(),
            ..config.clone()
        };
        let jar = fs::canonicalize(&self.jar);
        let jar = jar.unwrap_or_else(|_| self.jar.clone());
        let id = self
            .name
            .clone()
            .unwrap_or_else(|| unused_name(&jar, state));
        let options = self.options();
        let (mut mounts, tmpfs) = volume::folders(&options, &Dirs::default(), config)
            .map_err(|refusal| refused(&refusal))?;
        let inside = Path::new(APP).join(jar.file_name().unwrap_or_default());
        mounts.insert(0, app(&jar, &inside));
        Ok(Task {
            env: self.env()?,
            user: self.security.user.clone().unwrap_or_default(),
            work_dir: self.surroundings.workdir.clone(),
            limits: self.limits(config)?,
            mounts,
            tmpfs,
            network: self.surroundings.network.clone(),
            dns: self.dns(),
            extra_hosts: self.surroundings.hosts.clone(),
            security: self.security(&options, config)?,
            init: self.security.init,
            rootfs: self.security.rootfs.clone(),
            ephemeral: !self.detach,
            cgroup: cgroup::own(state.path(), &TaskId(id.clone())),
            ..Task::new(&id, Program::Java(self.java(inside, config)))
        })
    }

    fn java(&self, jar: PathBuf, config: &Config) -> Java {
        let class_path = self.class.as_ref().map(|_| {
            let jar = jar.display().to_string();
            let more = self.class_path.iter().cloned();
            std::iter::once(jar)
                .chain(more)
                .collect::<Vec<_>>()
                .join(":")
        });
        Java {
            jar: self.class.is_none().then_some(jar),
            class: self.class.clone(),
            class_path,
            jvm_options: self.jvm_options.clone(),
            args: self.handed_on.clone(),
            select: JreSelect {
                version: self.jre.java.clone(),
                vendor: self.jre.java_vendor.clone(),
                home: self.jre.java_home.clone(),
            },
            heap: match (self.jre.heap_mb, self.jre.heap_percent) {
                (Some(mebibytes), _) => Heap::Mebibytes(mebibytes),
                (None, percent) => Heap::Percent(percent.unwrap_or(config.heap_percent)),
            },
            exit_on_oom: !self.jre.no_exit_on_oom,
            heap_dump: false,
        }
    }

    /// The part that jobs can say too, in their words.
    fn options(&self) -> TaskOptions {
        TaskOptions {
            volumes: self.surroundings.mounts.clone(),
            tmpfs: self.surroundings.tmpfs.clone(),
            cap_add: self.security.cap_add.clone(),
            seccomp_profile: self.security.seccomp.clone(),
            ..TaskOptions::default()
        }
    }

    fn limits(&self, config: &Config) -> Result<Limits, Failure> {
        let bytes = |option: &'static str, text: &Option<String>| {
            let read = text.as_ref().map(|text| policy::bytes(option, text));
            read.transpose().map_err(|refusal| refused(&refusal))
        };
        let limits = &self.limits;
        let memory = bytes("--memory", &limits.memory)?;
        let ulimits: BTreeMap<String, String> = limits.ulimits.iter().cloned().collect();
        if limits
            .cpus
            .is_some_and(|cpus| !(cpus.is_finite() && cpus > 0.0))
        {
            return Err(Failure::new(
                Exit::Usage,
                "--cpus must be more than 0, as in 1.5",
            ));
        }
        Ok(Limits {
            memory,
            heap_basis: memory,
            cpu_quota: limits.cpus,
            cpuset: limits.cpuset.clone(),
            pids: limits
                .pids_limit
                .map_or(config.pids_limit, |limit| (limit > 0).then_some(limit)),
            ulimits: policy::ulimits(&ulimits, config, policy::own_ulimit)
                .map_err(|refusal| refused(&refusal))?,
            shm_size: bytes("--shm-size", &limits.shm_size)?,
            ..Limits::default()
        })
    }

    fn security(&self, options: &TaskOptions, config: &Config) -> Result<Security, Failure> {
        let args = &self.security;
        let capabilities = policy::capabilities(&options.cap_add, &[], config)
            .map_err(|refusal| refused(&refusal))?;
        let seccomp = options.seccomp_profile.as_deref();
        let is_shared = self.surroundings.network == Network::Host;
        let sysctls: BTreeMap<String, String> = args.sysctls.iter().cloned().collect();
        Ok(Security {
            capabilities,
            seccomp: policy::task_seccomp(seccomp, config).map_err(|refusal| refused(&refusal))?,
            readonly_rootfs: !args.writable,
            no_new_privileges: true,
            host_tools: config.host_tools && !args.no_host_tools,
            sysctl: policy::sysctls(&sysctls, !is_shared).map_err(|refusal| refused(&refusal))?,
        })
    }

    fn dns(&self) -> Option<Dns> {
        let servers = &self.surroundings.dns;
        (!servers.is_empty()).then(|| Dns {
            servers: servers.clone(),
            ..Dns::default()
        })
    }

    fn env(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut env = BTreeMap::new();
        for path in &self.surroundings.env_file {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::new(Exit::Config, format!("cannot read {}", path.display()))
                    .caused_by(error)
            })?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim_start();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let (name, value) = line.split_once('=').ok_or_else(|| {
                    let place = format!("{} line {}", path.display(), number + 1);
                    Failure::new(Exit::Config, format!("{place}: `{line}` is not NAME=VALUE"))
                })?;
                env.insert(name.trim_end().to_owned(), value.to_owned());
            }
        }
        for variable in &self.surroundings.env {
            match variable.split_once('=') {
                Some((name, value)) => drop(env.insert(name.to_owned(), value.to_owned())),
                None => {
                    if let Ok(value) = std::env::var(variable) {
                        env.insert(variable.clone(), value);
                    }
                }
            }
        }
        Ok(env)
    }
}

/// The task with streams: its own log files where it is detached, else those of this process.
pub(super) fn with_streams(task: Task, detached: bool, dir: &TaskDir) -> Task {
    let file = |name: &str| Stream::File {
        path: dir.path().join(name),
        max_bytes: LOG_BYTES,
    };
    let stdio = if detached {
        Stdio {
            stdin: Stream::Null,
            stdout: file("stdout.log"),
            stderr: file("stderr.log"),
            on_full: OnFull::Block,
        }
    } else {
        Stdio {
            stdin: Stream::Inherited,
            stdout: Stream::Inherited,
            stderr: Stream::Inherited,
            on_full: OnFull::Block,
        }
    };
    Task { stdio, ..task }
}

/// The JAR by itself: what else is in its folder is nobody's business in there.
fn app(jar: &Path, inside: &Path) -> Mount {
    Mount {
        source: jar.to_owned(),
        target: inside.to_owned(),
        readonly: true,
        propagation: Propagation::Rprivate,
    }
}

fn unused_name(jar: &Path, state: &StateRoot) -> String {
    let stem = jar.file_stem().unwrap_or_default().to_string_lossy();
    loop {
        let random = Uuid::new_v4().simple().to_string();
        let name = format!("{stem}-{}", &random[..6]);
        let id = TaskId(name.clone());
        if !state.task(&id).path().exists() {
            return name;
        }
    }
}

fn all_allowed() -> Policy {
    Policy {
        allow_caps: vec!["all".to_owned()],
        allow_ulimits: policy::unlimited(),
        allow_host_mounts: true,
        allow_privileged_user: true,
        allow_java_home: true,
        allow_unconfined_seccomp: true,
        allow_rootfs: true,
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let said = match refusal {
        Refusal::Value {
            option,
            value,
            expected,
        } => format!("{} `{value}`: {expected}", flag(option)),
        other => other.to_string(),
    };
    Failure::new(Exit::Usage, said)
}

/// The flag that stands for a job's option.
fn flag(option: &'static str) -> &'static str {
    match option {
        "volumes" => "--mount",
        "tmpfs" => "--tmpfs",
        "cap_add" => "--cap-add",
        "seccomp_profile" => "--seccomp",
        "ulimit" => "--ulimit",
        "sysctl" => "--sysctl",
        flag => flag,
    }
}

pub(in crate::cli) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn host_entry(text: &str) -> Result<HostEntry, String> {
    let (name, address) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` is not NAME:ADDRESS"))?;
    let address = address.trim_matches(['[', ']']);
    address
        .parse::<std::net::IpAddr>()
        .map_err(|_| format!("`{address}` is no IP address"))?;
    Ok(HostEntry {
        name: name.to_owned(),
        address: address.to_owned(),
    })
}

fn network(text: &str) -> Result<Network, String> {
    match text {
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        path if path.starts_with('/') => Ok(Network::Join {
            path: path.into(),
            hostname: None,
            address: None,
        }),
        _ => Err("use host, none, or the file of a network namespace".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_wrong_is_named_as_it_was_typed() {
        let state = StateRoot::new("/nowhere");
        for (flag, value) in [
            ("--memory", "5x"),
            ("--mount", "/etc"),
            ("--tmpfs", "here"),
            ("--cap-add", "fly"),
            ("--seccomp", "loose"),
            ("--ulimit", "luck=1"),
        ] {
            let line = Line::parse_from(["run", flag, value, "app.jar"]);
            let failure = line.args.task(&Config::default(), &state).unwrap_err();
            let said = failure.to_string();
            assert!(said.starts_with(flag), "{flag} {value}: {said}");
        }
    }
}
