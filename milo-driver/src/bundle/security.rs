//! What a container is kept from besides system calls: paths, capabilities, resource limits and kernel parameters.

use std::collections::HashMap;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
};

use super::BundleError;
use crate::task::{Limits, Network, Security, Task};

/// What is hidden: it tells of the host or works on it. Docker's list.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What can be read but not written. Docker's list.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Resource limits as getrlimit(2) names them, in lower case.
const ULIMITS: [(&str, PosixRlimitType); 16] = [
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

pub(super) fn masked_paths() -> Vec<String> {
    MASKED.map(str::to_owned).to_vec()
}

pub(super) fn readonly_paths() -> Vec<String> {
    READ_ONLY.map(str::to_owned).to_vec()
}

/// The capabilities that were asked for, in every set: an unprivileged user keeps them over `execve` only if they are
/// ambient. None asked for is none at all.
pub(super) fn capabilities(security: &Security) -> Result<LinuxCapabilities, BundleError> {
    let wanted = wanted(security)?;
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(wanted.clone()))
        .set_effective(Some(wanted.clone()))
        .set_inheritable(Some(wanted.clone()))
        .set_permitted(Some(wanted.clone()))
        .set_ambient(Some(wanted));
    Ok(capabilities)
}

/// The capabilities by their names, with or without `CAP_`, in any case.
pub(super) fn wanted(security: &Security) -> Result<Capabilities, BundleError> {
    let parse = |name: &String| {
        let json = serde_json::Value::String(name.clone());
        serde_json::from_value::<Capability>(json)
            .map_err(|_| BundleError::Capability(name.clone()))
    };
    security.capabilities.iter().map(parse).collect()
}

pub(super) fn ulimits(limits: &Limits) -> Result<Vec<PosixRlimit>, BundleError> {
    let convert = |(name, (soft, hard)): (&String, &(u64, u64))| {
        let (name, soft, hard) = (name.clone(), *soft, *hard);
        let Some((_, kind)) = ULIMITS.iter().find(|(known, _)| *known == name) else {
            let known = ULIMITS.map(|(known, _)| known).join(", ");
            return Err(BundleError::Ulimit { name, known });
        };
        if soft > hard {
            return Err(BundleError::UlimitOrder { name, soft, hard });
        }
        let limit = PosixRlimitBuilder::default()
            .typ(*kind)
            .soft(soft)
            .hard(hard);
        // No field is required, so it cannot fail.
        Ok(limit.build().unwrap_or_default())
    };
    limits.ulimits.iter().map(convert).collect()
}

/// Kernel parameters, which must be the container's own: those of its IPC namespace, and those of its network if that
/// is not the host's.
pub(super) fn sysctl(task: &Task) -> Result<Option<HashMap<String, String>>, BundleError> {
    let asked = &task.security.sysctl;
    for name in asked.keys() {
        if let Some(reason) = foreign(name, &task.network) {
            return Err(BundleError::Sysctl {
                name: name.clone(),
                reason: reason.to_owned(),
            });
        }
    }
    let all: HashMap<_, _> = asked
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok((!all.is_empty()).then_some(all))
}

fn foreign(name: &str, network: &Network) -> Option<&'static str> {
    let name = name.replace('/', ".");
    // crun makes a path of it, and `..` would lead out of what the name begins with.
    if name.split('.').any(str::is_empty) {
        return Some("it is no name of a kernel parameter: one is like net.core.somaxconn");
    }
    match name.as_str() {
        "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni"
        | "kernel.sem"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced" => None,
        name if name.starts_with("fs.mqueue.") => None,
        name if name.starts_with("net.") && *network == Network::Host => {
            Some("it would change the host's network: use a network of the task's own")
        }
        name if name.starts_with("net.") => None,
        _ => Some("it belongs to the whole machine: set it on the host"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bundle::tests::task;

    fn with_sysctl(name: &str, network: Network) -> Task {
        let mut task = Task { network, ..task() };
        task.security.sysctl = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        task
    }

    #[test]
    fn no_capability_is_there_unless_asked_for() {
        let none = capabilities(&Security::default()).unwrap();
        for set in [
            none.bounding(),
            none.effective(),
            none.ambient(),
            none.permitted(),
        ] {
            assert!(set.as_ref().unwrap().is_empty());
        }
    }

    #[test]
    fn a_capability_is_known_with_and_without_its_prefix() {
        let security = |name: &str| Security {
            capabilities: vec![name.to_owned()],
            ..Security::default()
        };
        for name in ["CAP_NET_BIND_SERVICE", "net_bind_service"] {
            let set = capabilities(&security(name)).unwrap();
            let ambient = set.ambient().clone().unwrap();
            assert!(ambient.contains(&Capability::NetBindService));
        }
        let error = capabilities(&security("CAP_FLY")).unwrap_err().to_string();
        assert!(
            error.starts_with("capability `CAP_FLY` is not known"),
            "{error}"
        );
    }

    #[test]
    fn limits_are_checked_by_name_and_order() {
        let limits = |name: &str, soft, hard| Limits {
            ulimits: BTreeMap::from([(name.to_owned(), (soft, hard))]),
            ..Limits::default()
        };
        let nofile = ulimits(&limits("nofile", 10, 20)).unwrap()[0];
        assert_eq!((nofile.soft(), nofile.hard()), (10, 20));
        assert!(
            ulimits(&limits("nofiles", 1, 1))
                .unwrap_err()
                .to_string()
                .contains("nofile, nproc")
        );
        assert!(ulimits(&limits("nofile", 2, 1)).is_err());
    }

    #[test]
    fn the_hosts_kernel_parameters_stay_the_hosts() {
        let foreign = |name, network| sysctl(&with_sysctl(name, network)).is_err();
        assert!(foreign("net.core.somaxconn", Network::Host));
        assert!(!foreign("net.core.somaxconn", Network::None));
        assert!(!foreign("net/core/somaxconn", Network::None));
        assert!(!foreign("kernel.shmmax", Network::Host));
        assert!(foreign("vm.max_map_count", Network::None));
        for name in [
            "net./../kernel/core_pattern",
            "net/../kernel/panic",
            "fs.mqueue.",
        ] {
            assert!(foreign(name, Network::None), "{name}");
        }
        assert_eq!(sysctl(&task()).unwrap(), None);
    }
}
