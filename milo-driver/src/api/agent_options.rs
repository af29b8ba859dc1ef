//! The agent's `plugin "milo-driver" { config { } }` block: what it may hold, and the [`Config`] that it stands for. What
//! the options mean is told in [`crate::config`], and their defaults come from there.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use runyard_common::duration;

use super::{
    hclspec::{attr, attr_or, attrs, block, object, text, texts},
    msgpack::{Options, OptionsError},
    policy,
};
use crate::{
    config::{Config, Gc, Policy},
    proto::hclspec::Spec,
    task::{OnFull, Seccomp},
};

/// Why a block cannot be used. Any of these keeps the agent from starting.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AgentOptionsError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] OptionsError),
    /// One option has a value that it cannot have.
    #[error("option `{option}` is `{value}`: {expected}")]
    Value {
        /// Its name.
        option: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
}

/// What the block may hold.
pub fn schema() -> Spec {
    let Config {
        state_dir,
        shell,
        heap_percent,
        pids_limit,
        stop_signal,
        host_tools,
        policy,
        ..
    } = Config::default();
    let plain = |name, kind| (name, attr(name, kind));
    let word = |name, default: &str| (name, attr_or(name, "string", &text(default)));
    let number = |name, default: String| (name, attr_or(name, "number", &default));
    let flag = |name, default: bool| (name, attr_or(name, "bool", &default.to_string()));
    let caps = attr_or("allow_caps", "list(string)", &texts(&policy.allow_caps));
    object([
        plain("crun_path", "string"),
        plain("java_homes", "list(string)"),
        plain("default_java", "string"),
        word("state_dir", &state_dir.to_string_lossy()),
        word("shell", &shell.to_string()),
        number("heap_percent", heap_percent.to_string()),
        number("pids_limit", pids_limit.unwrap_or(0).to_string()),
        word("stop_signal", &stop_signal),
        word("log_mode", "block"),
        flag("host_tools", host_tools),
        word("default_seccomp", "default"),
        ("allow_caps", caps),
        ("allow_ulimits", attrs("allow_ulimits", "string")),
        flag("allow_host_mounts", policy.allow_host_mounts),
        flag("allow_privileged_user", policy.allow_privileged_user),
        flag("allow_java_home", policy.allow_java_home),
        flag("allow_unconfined_seccomp", policy.allow_unconfined_seccomp),
        flag("allow_rootfs", policy.allow_rootfs),
        word("fingerprint_period", "30s"),
        ("gc", block("gc", gc_schema())),
    ])
}

fn gc_schema() -> Spec {
    object([
        ("enabled", attr("enabled", "bool")),
        ("grace", attr("grace", "string")),
        ("dry_run", attr("dry_run", "bool")),
    ])
}

/// The configuration that a block in msgpack stands for. An empty one is the default.
pub fn decode(bytes: &[u8]) -> Result<Config, AgentOptionsError> {
    let options = Options::decode(bytes)?;
    let default = Config::default();
    Ok(Config {
        crun_path: options.text("crun_path")?.map(PathBuf::from),
        java_homes: java_homes(&options)?,
        default_java: options.text("default_java")?,
        state_dir: state_dir(&options)?.unwrap_or(default.state_dir),
        shell: match options.text("shell")? {
            Some(name) => name
                .parse()
                .map_err(|_| wrong("shell", &name, "use `bash` or `fish`"))?,
            None => default.shell,
        },
        heap_percent: heap_percent(&options)?.unwrap_or(default.heap_percent),
        pids_limit: match options.whole("pids_limit")? {
            None => default.pids_limit,
            Some(limit) => (limit > 0).then_some(limit),
        },
        stop_signal: options.text("stop_signal")?.unwrap_or(default.stop_signal),
        log_mode: log_mode(&options)?.unwrap_or(default.log_mode),
        host_tools: options.flag("host_tools")?.unwrap_or(default.host_tools),
        default_seccomp: seccomp(&options)?,
        policy: read_policy(&options, default.policy)?,
        gc: gc(&options.block("gc")?)?,
        fingerprint_period: time(&options, "fingerprint_period")?
            .unwrap_or(default.fingerprint_period)
            .max(Duration::from_millis(100)),
    })
}

fn read_policy(options: &Options, default: Policy) -> Result<Policy, AgentOptionsError> {
    let flag = |name| options.flag(name).map(Option::unwrap_or_default);
    Ok(Policy {
        // An empty list is a decision, too: that nothing is allowed.
        allow_caps: if options.has("allow_caps") {
            allowed(options.texts("allow_caps")?)?
        } else {
            default.allow_caps
        },
        allow_ulimits: allow_ulimits(options)?,
        allow_host_mounts: flag("allow_host_mounts")?,
        allow_privileged_user: flag("allow_privileged_user")?,
        allow_java_home: flag("allow_java_home")?,
        allow_unconfined_seccomp: flag("allow_unconfined_seccomp")?,
        allow_rootfs: flag("allow_rootfs")?,
    })
}

fn allowed(named: Vec<String>) -> Result<Vec<String>, AgentOptionsError> {
    let plain = |name: String| match policy::plain_capability(&name) {
        Some(plain) => Ok(plain),
        None => Err(wrong("allow_caps", &name, "no such capability")),
    };
    named.into_iter().map(plain).collect()
}

fn allow_ulimits(options: &Options) -> Result<BTreeMap<String, u64>, AgentOptionsError> {
    let one = |(name, value): (String, String)| {
        let Some(plain) = policy::plain_ulimit(&name) else {
            return Err(wrong("allow_ulimits", &name, &policy::ulimit_names()));
        };
        let Some(most) = policy::ulimit(&value) else {
            let given = format!("{name} = {value}");
            return Err(wrong(
                "allow_ulimits",
                &given,
                "use a number or `unlimited`",
            ));
        };
        Ok((plain.to_owned(), most))
    };
    options.map("allow_ulimits")?.into_iter().map(one).collect()
}

fn java_homes(options: &Options) -> Result<Vec<PathBuf>, AgentOptionsError> {
    let homes = options.texts("java_homes")?.into_iter().map(PathBuf::from);
    homes.map(|home| absolute("java_homes", home)).collect()
}

fn state_dir(options: &Options) -> Result<Option<PathBuf>, AgentOptionsError> {
    let path = options.text("state_dir")?.map(PathBuf::from);
    path.map(|path| absolute("state_dir", path)).transpose()
}

fn absolute(option: &'static str, path: PathBuf) -> Result<PathBuf, AgentOptionsError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(wrong(
        option,
        &path.to_string_lossy(),
        "use an absolute path",
    ))
}

fn heap_percent(options: &Options) -> Result<Option<f64>, AgentOptionsError> {
    let Some(percent) = options.number("heap_percent")? else {
        return Ok(None);
    };
    if percent > 0.0 && percent <= 100.0 {
        return Ok(Some(percent));
    }
    Err(wrong(
        "heap_percent",
        &percent.to_string(),
        "use more than 0 and at most 100",
    ))
}

fn log_mode(options: &Options) -> Result<Option<OnFull>, AgentOptionsError> {
    let Some(mode) = options.text("log_mode")? else {
        return Ok(None);
    };
    let known = policy::on_full(&mode);
    known
        .map(Some)
        .ok_or_else(|| wrong("log_mode", &mode, "use `block` or `drop`"))
}

fn seccomp(options: &Options) -> Result<Seccomp, AgentOptionsError> {
    let Some(profile) = options.text("default_seccomp")? else {
        return Ok(Seccomp::Default);
    };
    policy::seccomp(&profile)
        .ok_or_else(|| wrong("default_seccomp", &profile, policy::SECCOMP_FORMS))
}

fn gc(options: &Options) -> Result<Gc, AgentOptionsError> {
    let default = Gc::default();
    Ok(Gc {
        enabled: options.flag("enabled")?.unwrap_or(default.enabled),
        grace: time(options, "grace")?.unwrap_or(default.grace),
        dry_run: options.flag("dry_run")?.unwrap_or(default.dry_run),
    })
}

fn time(options: &Options, option: &'static str) -> Result<Option<Duration>, AgentOptionsError> {
    let Some(text) = options.text(option)? else {
        return Ok(None);
    };
    duration::parse(&text)
        .map(Some)
        .map_err(|error| AgentOptionsError::Value {
            option,
            value: text.clone(),
            expected: error.to_string(),
        })
}

fn wrong(option: &'static str, value: &str, expected: &str) -> AgentOptionsError {
    AgentOptionsError::Value {
        option,
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;
    use crate::{config::Shell, proto::hclspec::spec};

    fn block(members: Vec<(&str, Value)>) -> Vec<u8> {
        let map = members
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect();
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &Value::Map(map)).unwrap();
        bytes
    }

    fn names() -> Vec<String> {
        let Some(spec::Block::Object(object)) = schema().block else {
            panic!("not an object");
        };
        object.attributes.into_keys().collect()
    }

    #[test]
    fn a_block_of_nils_is_the_default() {
        let names = names();
        let nils = names
            .iter()
            .map(|name| (name.as_str(), Value::Nil))
            .collect();
        assert_eq!(decode(&block(nils)), Ok(Config::default()));
        assert_eq!(decode(&[]), Ok(Config::default()));
    }

    #[test]
    fn every_option_is_taken() {
        let gc = Value::Map(vec![
            ("enabled".into(), false.into()),
            ("grace".into(), "1m".into()),
            ("dry_run".into(), true.into()),
        ]);
        let bytes = block(vec![
            ("crun_path", "/opt/crun".into()),
            ("java_homes", Value::Array(vec!["/opt/jdk".into()])),
            ("default_java", "21".into()),
            ("state_dir", "/run/other".into()),
            ("shell", "fish".into()),
            ("heap_percent", 60.into()),
            ("pids_limit", 0.into()),
            ("stop_signal", "SIGINT".into()),
            ("log_mode", "drop".into()),
            ("host_tools", false.into()),
            ("default_seccomp", "unconfined".into()),
            ("allow_caps", Value::Array(vec!["CAP_NET_RAW".into()])),
            (
                "allow_ulimits",
                Value::Map(vec![
                    ("MEMLOCK".into(), "unlimited".into()),
                    ("rtprio".into(), "5".into()),
                ]),
            ),
            ("allow_host_mounts", true.into()),
            ("allow_privileged_user", true.into()),
            ("allow_java_home", true.into()),
            ("allow_unconfined_seccomp", true.into()),
            ("allow_rootfs", true.into()),
            ("fingerprint_period", "5s".into()),
            ("gc", gc),
            ("of_a_later_version", 1.into()),
        ]);
        let config = decode(&bytes).unwrap();
        assert_eq!(config.shell, Shell::Fish);
        assert_eq!(config.pids_limit, None);
        assert_eq!(config.policy.allow_caps, ["net_raw"]);
        let ulimits = [("memlock".to_owned(), u64::MAX), ("rtprio".to_owned(), 5)];
        assert_eq!(config.policy.allow_ulimits, ulimits.into());
        assert_eq!(config.fingerprint_period, Duration::from_secs(5));
        assert_eq!(config.default_seccomp, Seccomp::Unconfined);
        assert_eq!(
            config.gc,
            Gc {
                enabled: false,
                grace: Duration::from_mins(1),
                dry_run: true
            }
        );
        let default = Config::default();
        assert_ne!(
            (config.heap_percent, config.log_mode, config.host_tools),
            (default.heap_percent, default.log_mode, default.host_tools)
        );
        assert_ne!(
            (config.state_dir, config.stop_signal),
            (default.state_dir, default.stop_signal)
        );
    }

    #[test]
    fn an_empty_list_of_capabilities_allows_none() {
        let config = decode(&block(vec![("allow_caps", Value::Array(Vec::new()))])).unwrap();
        assert!(config.policy.allow_caps.is_empty());
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error =
            |name, value: Value| decode(&block(vec![(name, value)])).unwrap_err().to_string();
        assert_eq!(
            error("shell", "zsh".into()),
            "option `shell` is `zsh`: use `bash` or `fish`"
        );
        assert_eq!(
            error("heap_percent", 101.into()),
            "option `heap_percent` is `101`: use more than 0 and at most 100"
        );
        assert!(
            error("fingerprint_period", "soon".into())
                .starts_with("option `fingerprint_period` is `soon`")
        );
        assert!(error("state_dir", "run".into()).contains("absolute"));
        assert!(error("allow_caps", Value::Array(vec!["fly".into()])).contains("`fly`"));
        let ulimit = |name: &str, value: &str| {
            let map = Value::Map(vec![(name.into(), value.into())]);
            error("allow_ulimits", map)
        };
        assert!(ulimit("wings", "2").contains("nofile, nproc"));
        assert!(ulimit("nofile", "1:2").contains("`nofile = 1:2`"));
    }
}
