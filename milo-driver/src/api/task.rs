//! From what an agent sends to a [`Task`]: Nomad's task, the job's options and the operator's decisions in, one complete
//! description out. Only values are looked at; whether a JAR, a user or a JVM exists is found out when the task starts.

use std::path::{Path, PathBuf};

use super::{
    options::TaskOptions,
    policy::{self, Refusal, wrong},
    volume,
};
use crate::{
    cgroup,
    config::{Compute, Config},
    proto::drivers::{self as wire, network_isolation_spec::NetworkIsolationMode as Mode},
    task::{
        CgroupPlace, Device, Dirs, Dns, Heap, HostEntry, Java, JreSelect, Limits, Mount, Network,
        Origin, Program, Security, Stdio, Stream, Task, TaskId,
    },
};

/// The largest number of CPU shares that the kernel takes.
const MAX_SHARES: u64 = 262_144;

/// The smallest.
const MIN_SHARES: u64 = 2;

/// Where Nomad has cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The task that an agent asks for.
pub fn task(
    wire: &wire::TaskConfig,
    options: &TaskOptions,
    config: &Config,
    compute: Compute,
) -> Result<Task, Refusal> {
    private_namespaces(options)?;
    policy::user(&wire.user, config)?;
    let id = task_id(wire)?;
    let dirs = dirs(wire)?;
    let (own_mounts, tmpfs) = volume::folders(options, &dirs, config)?;
    let network = network(wire.network_isolation_spec.as_ref())?;
    Ok(Task {
        program: program(options, config)?,
        env: wire.env.clone().into_iter().collect(),
        user: wire.user.clone(),
        work_dir: path_option("work_dir", options.work_dir.as_deref())?,
        limits: limits(wire.resources.as_ref(), options, config, compute)?,
        cgroup: cgroup(wire, config, &id)?,
        mounts: volumes(&wire.mounts)?
            .into_iter()
            .chain(own_mounts)
            .collect(),
        tmpfs,
        devices: wire.devices.iter().map(device).collect(),
        dns: dns(wire.dns.as_ref()),
        extra_hosts: extra_hosts(&options.extra_hosts)?,
        security: security(options, config, &network)?,
        network,
        init: options.init.unwrap_or(false),
        rootfs: policy::rootfs(options.rootfs.as_deref(), config)?,
        stdio: stdio(wire, options, config)?,
        ephemeral: false,
        origin: Origin::Nomad,
        alloc_id: wire.alloc_id.clone(),
        name: wire.name.clone(),
        dirs,
        id,
    })
}

fn task_id(wire: &wire::TaskConfig) -> Result<TaskId, Refusal> {
    if wire.id.is_empty() {
        return Err(wrong("id", "", "the agent sent a task without one"));
    }
    Ok(TaskId(wire.id.clone()))
}

/// Nomad's `java` driver can share the host's; a container here never does.
fn private_namespaces(options: &TaskOptions) -> Result<(), Refusal> {
    let modes = [
        ("pid_mode", &options.pid_mode),
        ("ipc_mode", &options.ipc_mode),
    ];
    for (option, mode) in modes {
        if let Some(mode) = mode.as_deref().filter(|mode| *mode != "private") {
            return Err(wrong(option, mode, "only `private` is offered"));
        }
    }
    Ok(())
}

fn dirs(wire: &wire::TaskConfig) -> Result<Dirs, Refusal> {
    if wire.alloc_dir.is_empty() {
        return Ok(Dirs::default());
    }
    if wire.name.is_empty() || wire.name == "." || wire.name == ".." || wire.name.contains('/') {
        return Err(wrong(
            "name",
            &wire.name,
            "a task's name is the name of a folder",
        ));
    }
    let alloc = policy::absolute("alloc_dir", &wire.alloc_dir)?;
    let task = alloc.join(&wire.name);
    Ok(Dirs {
        alloc: Some(alloc.join("alloc")),
        local: Some(task.join("local")),
        secrets: Some(task.join("secrets")),
    })
}

fn path_option(option: &'static str, path: Option<&str>) -> Result<Option<PathBuf>, Refusal> {
    path.map(|path| policy::absolute(option, path)).transpose()
}

fn program(options: &TaskOptions, config: &Config) -> Result<Program, Refusal> {
    let Some(text) = &options.greeting else {
        return Ok(Program::Java(java(options, config)?));
    };
    if options.jar_path.is_some() {
        return Err(Refusal::Conflict("greeting", "jar_path"));
    }
    if options.class.is_some() {
        return Err(Refusal::Conflict("greeting", "class"));
    }
    Ok(Program::Greeting {
        shell: config.shell.to_string(),
        text: text.clone(),
    })
}

/// With a class, a JAR is one more part of the class path, and the first. With neither, the only JAR of the task is found
/// when it starts.
fn java(options: &TaskOptions, config: &Config) -> Result<Java, Refusal> {
    let jar = options.jar_path.clone();
    let parts = [
        jar.clone().filter(|_| options.class.is_some()),
        options.class_path.clone(),
    ];
    let class_path: Vec<String> = parts.into_iter().flatten().collect();
    Ok(Java {
        jar: jar.filter(|_| options.class.is_none()).map(PathBuf::from),
        class: options.class.clone(),
        class_path: (!class_path.is_empty()).then(|| class_path.join(":")),
        jvm_options: options.jvm_options.clone(),
        args: options.args.clone(),
        select: JreSelect {
            version: options.java_version.clone(),
            vendor: options.java_vendor.clone(),
            home: policy::java_home(options.java_home.as_deref(), config)?,
        },
        heap: heap(options, config)?,
        exit_on_oom: options.exit_on_oom.unwrap_or(true),
        heap_dump: options.heap_dump.unwrap_or(false),
    })
}

fn heap(options: &TaskOptions, config: &Config) -> Result<Heap, Refusal> {
    match (options.heap_percent, options.heap_mb) {
        (Some(_), Some(_)) => Err(Refusal::Conflict("heap_percent", "heap_mb")),
        (Some(percent), None) if percent > 0.0 && percent <= 100.0 => Ok(Heap::Percent(percent)),
        (Some(percent), None) => Err(wrong(
            "heap_percent",
            percent.to_string(),
            "use more than 0 and at most 100",
        )),
        (None, Some(size)) => match u64::try_from(size) {
            Ok(size) if size > 0 => Ok(Heap::Mebibytes(size)),
            _ => Err(wrong("heap_mb", size.to_string(), "use at least 1")),
        },
        (None, None) => Ok(Heap::Percent(config.heap_percent)),
    }
}

fn limits(
    resources: Option<&wire::Resources>,
    options: &TaskOptions,
    config: &Config,
    compute: Compute,
) -> Result<Limits, Refusal> {
    let linux = resources.and_then(|resources| resources.linux_resources.as_ref());
    let memory = memory(resources);
    let shares = linux.map(|linux| shares(linux.cpu_shares, compute));
    let cpuset = linux.map(|linux| linux.cpuset_cpus.clone());
    Ok(Limits {
        memory: memory.hard,
        memory_reservation: memory.reservation,
        heap_basis: memory.basis,
        swap: 0,
        cpu_shares: shares,
        cpu_quota: quota(linux, options, compute)?,
        cpuset: cpuset.filter(|cpus| !cpus.is_empty()),
        pids: policy::pids(options.pids_limit, config)?,
        ulimits: policy::ulimits(&options.ulimit, config, policy::own_ulimit)?,
        shm_size: options
            .shm_size
            .as_deref()
            .map(|size| policy::bytes("shm_size", size))
            .transpose()?,
        // The agent never sets it; what the agent itself was given must not be inherited (nomad #10663).
        oom_score_adj: 0,
    })
}

#[derive(Default)]
struct Memory {
    hard: Option<u64>,
    reservation: Option<u64>,
    basis: Option<u64>,
}

/// `memory_max` is the hard limit if there is one, -1 is none at all, and the heap is sized from what was reserved.
fn memory(resources: Option<&wire::Resources>) -> Memory {
    let allocated = resources.and_then(|resources| resources.allocated_resources.as_ref());
    let Some(memory) = allocated.and_then(|allocated| allocated.memory.as_ref()) else {
        let linux = resources.and_then(|resources| resources.linux_resources.as_ref());
        let limit = linux.and_then(|linux| positive(linux.memory_limit_bytes));
        return Memory {
            hard: limit,
            reservation: None,
            basis: limit,
        };
    };
    let reserved = mebibytes(memory.memory_mb);
    Memory {
        hard: match memory.memory_max_mb {
            0 => reserved,
            max if max < 0 => None,
            max => mebibytes(max),
        },
        reservation: reserved.filter(|_| memory.memory_max_mb != 0),
        basis: reserved,
    }
}

fn mebibytes(size: i64) -> Option<u64> {
    positive(size).map(|size| size.saturating_mul(1 << 20))
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

/// A share of the node's MHz. On nodes with more of them than the kernel has shares, the largest share is the whole node.
fn shares(megahertz: i64, compute: Compute) -> u64 {
    let asked = u64::try_from(megahertz).unwrap_or(0);
    let scaled = if compute.megahertz >= MAX_SHARES {
        let part = u128::from(asked) * u128::from(MAX_SHARES) / u128::from(compute.megahertz);
        u64::try_from(part).unwrap_or(MAX_SHARES)
    } else {
        asked
    };
    scaled.clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(
    linux: Option<&wire::LinuxResources>,
    options: &TaskOptions,
    compute: Compute,
) -> Result<Option<f64>, Refusal> {
    if options.cpu_hard_limit != Some(true) {
        return Ok(None);
    }
    let part = linux.map_or(0.0, |linux| linux.percent_ticks);
    if part > 0.0 {
        return Ok(Some(part * f64::from(compute.cpus)));
    }
    Err(wrong(
        "cpu_hard_limit",
        "true",
        "the agent did not say how much of the CPUs the task has",
    ))
}

/// On version 2 the agent has made the task's cgroup. On version 1 it made those of most controllers, by one name, and the
/// cpuset's has another, which must be joined by hand.
fn cgroup(wire: &wire::TaskConfig, config: &Config, id: &TaskId) -> Result<CgroupPlace, Refusal> {
    let linux = wire
        .resources
        .as_ref()
        .and_then(|resources| resources.linux_resources.as_ref());
    let given = linux
        .map(|linux| linux.cpuset_cgroup.as_str())
        .unwrap_or_default();
    if given.is_empty() {
        return Ok(cgroup::own(&config.state_dir, id));
    }
    let Ok(below) = policy::absolute("cpuset_cgroup", given)?
        .strip_prefix(CGROUPS)
        .map(Path::to_path_buf)
    else {
        return Err(wrong(
            "cpuset_cgroup",
            given,
            format!("expected a path below {CGROUPS}"),
        ));
    };
    let Ok(of_cpuset) = below.strip_prefix("cpuset") else {
        return Ok(CgroupPlace {
            path: format!("/{}", below.display()),
            ..CgroupPlace::default()
        });
    };
    let parent = of_cpuset
        .components()
        .next()
        .map_or(Path::new("nomad"), |first| Path::new(first.as_os_str()));
    Ok(CgroupPlace {
        path: format!("/{}/{}.{}", parent.display(), wire.alloc_id, wire.name),
        join: vec![PathBuf::from(given)],
        disabled: false,
    })
}

/// The agent's own volumes: its policy has been applied already.
fn volumes(mounts: &[wire::Mount]) -> Result<Vec<Mount>, Refusal> {
    let one = |mount: &wire::Mount| {
        Ok(Mount {
            source: policy::absolute("volume", &mount.host_path)?,
            target: Path::new("/").join(&mount.task_path),
            readonly: mount.readonly,
            propagation: volume::propagation("propagation_mode", Some(&mount.propagation_mode))?,
        })
    };
    mounts.iter().map(one).collect()
}

fn device(device: &wire::Device) -> Device {
    let permissions = device.cgroup_permissions.as_str();
    Device {
        source: PathBuf::from(&device.host_path),
        target: PathBuf::from(if device.task_path.is_empty() {
            &device.host_path
        } else {
            &device.task_path
        }),
        permissions: if permissions.is_empty() {
            "rwm"
        } else {
            permissions
        }
        .to_owned(),
    }
}

fn network(spec: Option<&wire::NetworkIsolationSpec>) -> Result<Network, Refusal> {
    let Some(spec) = spec else {
        return Ok(Network::Host);
    };
    let hosts = spec.hosts_config.as_ref();
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    match spec.mode() {
        Mode::Host => Ok(Network::Host),
        Mode::None => Ok(Network::None),
        Mode::Group => Ok(Network::Join {
            path: policy::absolute("network.path", &spec.path)?,
            hostname: hosts.and_then(|hosts| known(&hosts.hostname)),
            address: hosts.and_then(|hosts| known(&hosts.address)),
        }),
        Mode::Task => Err(wrong(
            "network",
            "task",
            "a network of the task's own is not offered: use one of its group",
        )),
    }
}

fn dns(dns: Option<&wire::DnsConfig>) -> Option<Dns> {
    let dns = dns?;
    let says_nothing = dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty();
    (!says_nothing).then(|| Dns {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    })
}

fn extra_hosts(given: &[String]) -> Result<Vec<HostEntry>, Refusal> {
    let one = |text: &String| {
        let entry = text.split_once(':').filter(|(name, _)| is_host_name(name));
        let address = entry.and_then(|(_, address)| {
            let plain = address.trim_start_matches('[').trim_end_matches(']');
            plain.parse::<std::net::IpAddr>().ok()
        });
        match (entry, address) {
            (Some((name, _)), Some(address)) => Ok(HostEntry {
                name: name.to_owned(),
                address: address.to_string(),
            }),
            _ => Err(wrong("extra_hosts", text, "use `name:address`")),
        }
    };
    given.iter().map(one).collect()
}

/// What becomes a line of a file must stay one word.
fn is_host_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.bytes().all(legal)
}

fn security(
    options: &TaskOptions,
    config: &Config,
    network: &Network,
) -> Result<Security, Refusal> {
    Ok(Security {
        capabilities: policy::capabilities(&options.cap_add, &options.cap_drop, config)?,
        seccomp: policy::task_seccomp(options.seccomp_profile.as_deref(), config)?,
        readonly_rootfs: options.readonly_rootfs.unwrap_or(true),
        no_new_privileges: true,
        host_tools: config.host_tools,
        sysctl: policy::sysctls(&options.sysctl, *network != Network::Host)?,
    })
}

fn stdio(
    wire: &wire::TaskConfig,
    options: &TaskOptions,
    config: &Config,
) -> Result<Stdio, Refusal> {
    let mode = match options.log_mode.as_deref() {
        None => config.log_mode,
        Some(mode) => {
            policy::on_full(mode).ok_or_else(|| wrong("log_mode", mode, "use `block` or `drop`"))?
        }
    };
    Ok(Stdio {
        stdin: Stream::Null,
        stdout: log(&wire.stdout_path),
        stderr: log(&wire.stderr_path),
        on_full: mode,
    })
}

/// The agent's FIFO; or nothing, where the job's logs are disabled.
fn log(path: &str) -> Stream {
    match path {
        "" | "/dev/null" => Stream::Null,
        path => Stream::Fifo(PathBuf::from(path)),
    }
}

#[cfg(test)]
mod tests;
