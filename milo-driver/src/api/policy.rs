//! What a job may ask for: each option that an operator or the kernel limits, read and checked by itself. Refusals name the
//! agent's option that would lift them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};

use crate::{
    config::Config,
    task::{OnFull, Seccomp},
};

/// The forms of a seccomp option.
pub const SECCOMP_FORMS: &str = "use `default`, `unconfined`, or the absolute path of a profile";

/// Linux' capabilities, by their names without `CAP_` (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "audit_control",
    "audit_read",
    "audit_write",
    "block_suspend",
    "bpf",
    "checkpoint_restore",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_lock",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "perfmon",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_nice",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "syslog",
    "wake_alarm",
];

/// Resource limits, by their names without `RLIMIT_` (getrlimit(2)).
const ULIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Kernel parameters that belong to a namespace of the container (OCI runtime spec, `linux.sysctl`).
const SYSCTLS: [&str; 6] = [
    "fs.mqueue.",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm",
];

/// Why a task's options are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An option has a value that it cannot have.
    #[error("option `{option}` is `{value}`: {expected}")]
    Value {
        /// Its name.
        option: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// Two options contradict each other.
    #[error("options `{0}` and `{1}` exclude each other: drop one of them")]
    Conflict(&'static str, &'static str),
    /// The operator does not allow it.
    #[error(
        "{what} is not allowed on this node: set `{lift}` in the config of the agent's plugin block to allow it"
    )]
    NotAllowed {
        /// What was asked for.
        what: String,
        /// The option that allows it, with its value.
        lift: String,
    },
}

/// An option with a value that it cannot have.
pub fn wrong(
    option: &'static str,
    value: impl Into<String>,
    expected: impl Into<String>,
) -> Refusal {
    Refusal::Value {
        option,
        value: value.into(),
        expected: expected.into(),
    }
}

fn not_allowed(what: impl Into<String>, lift: impl Into<String>) -> Refusal {
    Refusal::NotAllowed {
        what: what.into(),
        lift: lift.into(),
    }
}

/// A capability's name in lower case without `cap_`, or `all`; `None` if there is none of that name.
pub fn plain_capability(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let plain = lower.strip_prefix("cap_").unwrap_or(&lower);
    (plain == "all" || CAPABILITIES.contains(&plain)).then(|| plain.to_owned())
}

/// The capabilities that a task gets: those that it adds and the operator allows, without those that it drops. It has none
/// to begin with, so `cap_drop = ["all"]` takes nothing of what is added.
pub fn capabilities(
    add: &[String],
    drop: &[String],
    config: &Config,
) -> Result<Vec<String>, Refusal> {
    let allowed = &config.policy.allow_caps;
    let all_allowed = allowed.iter().any(|one| one == "all");
    let mut granted = BTreeSet::new();
    for name in add {
        let plain = known_capability("cap_add", name)?;
        match plain.as_str() {
            "all" if all_allowed => granted.extend(CAPABILITIES.map(str::to_owned)),
            "all" => granted.extend(allowed.iter().cloned()),
            _ if all_allowed || allowed.contains(&plain) => {
                granted.insert(plain);
            }
            _ => {
                return Err(not_allowed(
                    format!("capability `{name}` of `cap_add`"),
                    format!("allow_caps = [.., \"{plain}\"]"),
                ));
            }
        }
    }
    for name in drop {
        granted.remove(&known_capability("cap_drop", name)?);
    }
    Ok(granted
        .iter()
        .map(|name| format!("CAP_{}", name.to_ascii_uppercase()))
        .collect())
}

fn known_capability(option: &'static str, name: &str) -> Result<String, Refusal> {
    plain_capability(name)
        .ok_or_else(|| wrong(option, name, "no such capability (see capabilities(7))"))
}

/// What `block` and `drop` mean.
pub fn on_full(mode: &str) -> Option<OnFull> {
    match mode {
        "block" => Some(OnFull::Block),
        "drop" => Some(OnFull::Drop),
        _ => None,
    }
}

/// The filter that an option names, allowed or not.
pub fn seccomp(profile: &str) -> Option<Seccomp> {
    match profile {
        "default" => Some(Seccomp::Default),
        "unconfined" => Some(Seccomp::Unconfined),
        path if path.starts_with('/') => Some(Seccomp::Profile(path.into())),
        _ => None,
    }
}

/// The filter that a task gets.
pub fn task_seccomp(profile: Option<&str>, config: &Config) -> Result<Seccomp, Refusal> {
    let Some(profile) = profile else {
        return Ok(config.default_seccomp.clone());
    };
    let wanted =
        seccomp(profile).ok_or_else(|| wrong("seccomp_profile", profile, SECCOMP_FORMS))?;
    let is_stricter = wanted == Seccomp::Default && config.default_seccomp == Seccomp::Unconfined;
    let no_weaker = is_stricter || wanted == config.default_seccomp;
    if no_weaker || config.policy.allow_unconfined_seccomp {
        return Ok(wanted);
    }
    Err(not_allowed(
        format!("`seccomp_profile = \"{profile}\"`"),
        "allow_unconfined_seccomp = true",
    ))
}

/// Refuses root by name and by number. Other names that stand for uid 0 are found where names are looked up.
pub fn user(user: &str, config: &Config) -> Result<(), Refusal> {
    let name = user.split(':').next().unwrap_or_default();
    let is_root = name == "root" || (!name.is_empty() && name.bytes().all(|digit| digit == b'0'));
    if !is_root || config.policy.allow_privileged_user {
        return Ok(());
    }
    Err(not_allowed(
        format!("user `{user}`"),
        "allow_privileged_user = true",
    ))
}

/// The JVM's home that a task names.
pub fn java_home(home: Option<&str>, config: &Config) -> Result<Option<PathBuf>, Refusal> {
    let Some(home) = home else {
        return Ok(None);
    };
    let path = absolute("java_home", home)?;
    if config.policy.allow_java_home || config.java_homes.contains(&path) {
        return Ok(Some(path));
    }
    Err(not_allowed(
        format!("`java_home = \"{home}\"`"),
        format!("allow_java_home = true` or `java_homes = [.., \"{home}\"]"),
    ))
}

/// The root that a task names.
pub fn rootfs(rootfs: Option<&str>, config: &Config) -> Result<Option<PathBuf>, Refusal> {
    let Some(rootfs) = rootfs else {
        return Ok(None);
    };
    let path = absolute("rootfs", rootfs)?;
    if config.policy.allow_rootfs {
        return Ok(Some(path));
    }
    Err(not_allowed(
        format!("`rootfs = \"{rootfs}\"`"),
        "allow_rootfs = true",
    ))
}

/// A folder of the host in a mount.
pub fn host_mount(source: &Path, config: &Config) -> Result<(), Refusal> {
    if config.policy.allow_host_mounts {
        return Ok(());
    }
    let what = format!("mounting `{}` of the host", source.display());
    Err(not_allowed(what, "allow_host_mounts = true"))
}

/// The most processes and threads of a task: as many as it asks for, but no more than the operator's.
pub fn pids(limit: Option<i64>, config: &Config) -> Result<Option<i64>, Refusal> {
    let Some(asked) = limit else {
        return Ok(config.pids_limit);
    };
    let asked = Some(asked).filter(|asked| *asked > 0);
    match (asked, config.pids_limit) {
        (_, None) => Ok(asked),
        (Some(asked), Some(most)) if asked <= most => Ok(Some(asked)),
        (asked, Some(most)) => {
            let asked = asked.unwrap_or(0);
            let none = if asked == 0 { "no limit; " } else { "" };
            Err(not_allowed(
                format!("`pids_limit = {asked}` ({none}the most is {most})"),
                format!("pids_limit = {asked}"),
            ))
        }
    }
}

/// Resource limits: soft and hard. None is higher than the agent's `own`, which tasks have that ask for nothing, or what the
/// operator allows beyond that. Root makes the container, for whom the kernel knows no such bound.
pub fn ulimits(
    given: &BTreeMap<String, String>,
    config: &Config,
    own: impl Fn(&str) -> u64,
) -> Result<BTreeMap<String, (u64, u64)>, Refusal> {
    let one = |(name, value): (&String, &String)| {
        let (plain, limit) = read_ulimit(name, value)?;
        let allowed = config.policy.allow_ulimits.get(plain).copied();
        let most = own(plain).max(allowed.unwrap_or(0));
        if limit.1 > most {
            let wanted = ulimit_text(limit.1);
            return Err(not_allowed(
                format!(
                    "`ulimit {{ {plain} = \"{value}\" }}` (the most is {})",
                    ulimit_text(most)
                ),
                format!("allow_ulimits {{ {plain} = \"{wanted}\" }}"),
            ));
        }
        Ok((plain.to_owned(), limit))
    };
    given.iter().map(one).collect()
}

/// A resource limit's name, and its soft and hard value.
fn read_ulimit(name: &str, value: &str) -> Result<(&'static str, (u64, u64)), Refusal> {
    let Some(plain) = plain_ulimit(name) else {
        return Err(wrong("ulimit", name, ulimit_names()));
    };
    let refused = |expected| wrong("ulimit", format!("{name} = {value}"), expected);
    let form = "use `soft` or `soft:hard`, each a number or `unlimited`";
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (Some(soft), Some(hard)) = (ulimit(soft), ulimit(hard)) else {
        return Err(refused(form));
    };
    if soft > hard {
        return Err(refused("the soft limit is above the hard one"));
    }
    Ok((plain, (soft, hard)))
}

/// A resource limit's name as it is meant, in any case; `None` if there is none of that name.
pub fn plain_ulimit(name: &str) -> Option<&'static str> {
    let mut known = ULIMITS.iter().map(|(known, _)| *known);
    known.find(|known| known.eq_ignore_ascii_case(name))
}

/// What a resource limit can be called.
pub fn ulimit_names() -> String {
    format!("use one of {}", ULIMITS.map(|(name, _)| name).join(", "))
}

/// This process' own hard limit: without another, tasks inherit it from the agent.
pub fn own_ulimit(name: &str) -> u64 {
    let known = ULIMITS.iter().find(|(known, _)| *known == name);
    known.map_or(0, |(_, resource)| {
        getrlimit(*resource).maximum.unwrap_or(u64::MAX)
    })
}

/// Every resource limit without a bound.
pub fn unlimited() -> BTreeMap<String, u64> {
    ULIMITS.map(|(name, _)| (name.to_owned(), u64::MAX)).into()
}

/// A number, or `unlimited`.
pub fn ulimit(text: &str) -> Option<u64> {
    match text.trim() {
        "unlimited" | "-1" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn ulimit_text(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}

/// Kernel parameters that belong to the container. Those of the network do only if its network is its own.
pub fn sysctls(
    given: &BTreeMap<String, String>,
    own_network: bool,
) -> Result<BTreeMap<String, String>, Refusal> {
    for name in given.keys() {
        let namespaced = SYSCTLS.iter().any(|known| name.starts_with(known));
        let of_network = name.starts_with("net.");
        if of_network && !own_network {
            return Err(wrong(
                "sysctl",
                name,
                "the task has the host's network, whose parameters are the host's: use a group network",
            ));
        }
        if !namespaced && !of_network {
            return Err(wrong(
                "sysctl",
                name,
                "it belongs to the host; those of a container begin with net., fs.mqueue., kernel.shm, kernel.msg or are kernel.sem",
            ));
        }
    }
    Ok(given.clone())
}

/// A size in bytes: a number, with `k`, `m` or `g` for powers of 1024.
pub fn bytes(option: &'static str, text: &str) -> Result<u64, Refusal> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (digits, shift) = match lower.chars().next_back() {
        Some('k') => (&lower[..lower.len() - 1], 10),
        Some('m') => (&lower[..lower.len() - 1], 20),
        Some('g') => (&lower[..lower.len() - 1], 30),
        _ => (lower, 0),
    };
    let number: Option<u64> = digits.trim().parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|size| *size > 0)
        .ok_or_else(|| wrong(option, text, "use a size such as 64m or 1g"))
}

/// A path that begins at the root and does not go up.
pub fn absolute(option: &'static str, path: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(path);
    let goes_up = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !goes_up {
        return Ok(path.to_path_buf());
    }
    Err(wrong(
        option,
        path.to_string_lossy(),
        "use an absolute path without `..`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn caps(add: &[&str], drop: &[&str]) -> Result<Vec<String>, Refusal> {
        capabilities(&texts(add), &texts(drop), &Config::default())
    }

    #[test]
    fn a_task_has_no_capability_that_it_did_not_ask_for() {
        assert_eq!(caps(&[], &[]), Ok(Vec::new()));
        assert_eq!(
            caps(&["net_bind_service"], &["all"]).unwrap(),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(
            caps(&["CAP_AUDIT_WRITE", "kill"], &["KILL"]).unwrap(),
            ["CAP_AUDIT_WRITE"]
        );
        assert_eq!(
            caps(&["all"], &[]).unwrap().len(),
            Config::default().policy.allow_caps.len()
        );
    }

    #[test]
    fn a_refused_capability_names_the_option_that_allows_it() {
        let text = caps(&["sys_admin"], &[]).unwrap_err().to_string();
        assert!(
            text.contains("`sys_admin`") && text.contains(r#"allow_caps = [.., "sys_admin"]"#),
            "{text}"
        );
        assert!(
            caps(&["fly"], &[])
                .unwrap_err()
                .to_string()
                .contains("no such capability")
        );
    }

    #[test]
    fn root_is_refused_by_any_literal_name() {
        let config = Config::default();
        for name in ["root", "0", "0:0", "00", "root:games"] {
            assert!(
                user(name, &config)
                    .unwrap_err()
                    .to_string()
                    .contains("allow_privileged_user"),
                "{name}"
            );
        }
        for name in ["", "nobody", "1000", "nomad-80000", "1000:0"] {
            assert_eq!(user(name, &config), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_weaker_filter_needs_the_operator() {
        let mut config = Config::default();
        assert!(task_seccomp(Some("unconfined"), &config).is_err());
        assert!(task_seccomp(Some("/p.json"), &config).is_err());
        assert_eq!(task_seccomp(Some("default"), &config), Ok(Seccomp::Default));
        config.default_seccomp = Seccomp::Profile("/p.json".into());
        assert_eq!(
            task_seccomp(Some("/p.json"), &config),
            Ok(config.default_seccomp.clone())
        );
        config.policy.allow_unconfined_seccomp = true;
        assert_eq!(
            task_seccomp(Some("unconfined"), &config),
            Ok(Seccomp::Unconfined)
        );
    }

    #[test]
    fn a_listed_java_home_needs_no_permission() {
        let mut config = Config::default();
        assert!(
            java_home(Some("/opt/jdk"), &config)
                .unwrap_err()
                .to_string()
                .contains("allow_java_home")
        );
        config.java_homes.push("/opt/jdk".into());
        assert_eq!(
            java_home(Some("/opt/jdk"), &config),
            Ok(Some("/opt/jdk".into()))
        );
        assert!(java_home(Some("/opt/jdk/../../etc"), &config).is_err());
    }

    #[test]
    fn only_the_containers_own_kernel_parameters_are_set() {
        let one = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        assert!(sysctls(&one("net.core.somaxconn"), true).is_ok());
        assert!(sysctls(&one("net.core.somaxconn"), false).is_err());
        assert!(sysctls(&one("kernel.shmmax"), false).is_ok());
        assert!(sysctls(&one("kernel.panic"), true).is_err());
        assert!(sysctls(&one("vm.swappiness"), true).is_err());
    }

    fn one_ulimit(
        name: &str,
        value: &str,
        config: &Config,
    ) -> Result<BTreeMap<String, (u64, u64)>, Refusal> {
        let given = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        ulimits(
            &given,
            config,
            |name| if name == "nofile" { 4096 } else { 0 },
        )
    }

    #[test]
    fn limits_are_soft_and_hard() {
        let given = |value: &str| one_ulimit("NOFILE", value, &Config::default());
        assert_eq!(given("1024").unwrap()["nofile"], (1024, 1024));
        assert_eq!(given("1024:4096").unwrap()["nofile"], (1024, 4096));
        assert!(given("9:8").is_err() && given("many").is_err());
        assert!(one_ulimit("wings", "2", &Config::default()).is_err());
    }

    #[test]
    fn a_limit_above_the_agents_own_needs_the_operator() {
        let mut config = Config::default();
        for (name, value) in [
            ("nofile", "1024:4097"),
            ("nofile", "unlimited"),
            ("rtprio", "1"),
            ("memlock", "-1"),
        ] {
            let text = one_ulimit(name, value, &config).unwrap_err().to_string();
            assert!(
                text.contains(&format!("allow_ulimits {{ {name} = ")),
                "{text}"
            );
        }
        assert_eq!(
            one_ulimit("rtprio", "0", &config).unwrap()["rtprio"],
            (0, 0)
        );
        config.policy.allow_ulimits =
            [("rtprio".to_owned(), 5), ("nofile".to_owned(), 1024)].into();
        assert_eq!(
            one_ulimit("rtprio", "5", &config).unwrap()["rtprio"],
            (5, 5)
        );
        // What a task has that asks for nothing, it may ask for.
        assert!(one_ulimit("nofile", "4096", &config).is_ok());
        let text = one_ulimit("rtprio", "6", &config).unwrap_err().to_string();
        assert!(text.contains("the most is 5"), "{text}");
        config.policy.allow_ulimits = unlimited();
        for (name, _) in ULIMITS {
            assert!(one_ulimit(name, "unlimited", &config).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_agents_own_limits_are_those_of_this_process() {
        let files = getrlimit(Resource::Nofile).maximum;
        assert_eq!(own_ulimit("nofile"), files.unwrap_or(u64::MAX));
        assert_eq!(own_ulimit("wings"), 0);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("512", 512),
            ("64m", 64 << 20),
            ("1GiB", 1 << 30),
            ("8 kb", 8 << 10),
        ] {
            assert_eq!(bytes("shm_size", text), Ok(size), "{text}");
        }
        for text in ["", "0", "-1", "1.5g", "99999999999g"] {
            assert!(bytes("shm_size", text).is_err(), "{text}");
        }
    }

    #[test]
    fn more_processes_than_the_agents_limit_are_the_operators_choice() {
        let mut config = Config::default();
        assert_eq!(pids(None, &config), Ok(Some(4096)));
        assert_eq!(pids(Some(7), &config), Ok(Some(7)));
        for refused in [-1, 0, 4097] {
            let text = pids(Some(refused), &config).unwrap_err().to_string();
            assert!(text.contains("the most is 4096"), "{text}");
        }
        assert_eq!(pids(Some(4096), &config), Ok(Some(4096)));
        config.pids_limit = None;
        assert_eq!(pids(Some(-1), &config), Ok(None));
    }
}
