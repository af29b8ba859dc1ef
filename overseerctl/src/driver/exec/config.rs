//! The `config` block of an exec action: its file form, and what the driver makes of it at load.
//!
//! Scalars are accepted where the original wants strings (`command: [8080]`), a parameter may be written as its default
//! alone, and unknown keys are reported by name instead of being ignored.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::{api::ParamSpec, cgroup, driver::Orphans, duration::GoDuration, process::Rlimit, size};

/// File form of an exec action.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    /// The program; a template.
    pub entrypoint: Scalar,
    /// Its arguments; templates. A scalar is one argument.
    #[serde(deserialize_with = "one_or_many")]
    pub command: Vec<Scalar>,
    /// Declared parameters.
    #[serde(deserialize_with = "parameters")]
    pub parameters: BTreeMap<String, Option<ParamSpec>>,
    /// Filters per stream.
    pub output: OutputConfig,
    /// What the original's documents call `output.stdout.condition`, and its code ignores.
    pub stdout_condition: Option<String>,
    /// The same for standard error.
    pub stderr_condition: Option<String>,
    /// Environment variables; values are templates.
    #[serde(deserialize_with = "nullable")]
    pub env: BTreeMap<String, Scalar>,
    /// Files of `KEY=VALUE` lines, read at each start.
    #[serde(deserialize_with = "one_or_many")]
    pub env_file: Vec<Scalar>,
    /// Starts from an empty environment instead of the daemon's.
    pub clear_env: bool,
    /// Working directory; a template.
    pub cwd: Option<Scalar>,
    /// Name or number of a user, optionally `:group`.
    pub user: Option<Scalar>,
    /// Octal, as a string.
    pub umask: Option<Scalar>,
    /// What the process reads.
    pub stdin: Option<StdinConfig>,
    /// Resource limits by name.
    #[serde(deserialize_with = "nullable")]
    pub rlimits: BTreeMap<String, LimitConfig>,
    /// Control-group limits.
    pub cgroup: CgroupConfig,
    /// First signal of a stop: a name or a number.
    pub stop_signal: Option<Scalar>,
    /// Between that signal and SIGKILL.
    pub stop_grace: Option<GoDuration>,
    /// See [`Orphans`].
    pub orphans: Option<Orphans>,
    /// How long output is still read once everything has been killed.
    pub drain_timeout: Option<GoDuration>,
    /// Keys nobody knows.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Filters per stream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OutputConfig {
    /// Of standard output.
    pub stdout: RuleConfig,
    /// Of standard error.
    pub stderr: RuleConfig,
}

/// One filter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuleConfig {
    /// CEL expression over `output`; empty passes everything.
    pub condition: String,
}

/// What a process reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum StdinConfig {
    /// `null`, written as a word.
    Word(String),
    /// A text; a template.
    Text {
        /// The text.
        text: String,
    },
    /// A file.
    File {
        /// Its path.
        file: PathBuf,
    },
}

/// Control-group limits in file form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupConfig {
    /// A size.
    pub memory: Option<Scalar>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// CPUs.
    pub cpu: Option<f64>,
}

/// A resource limit in file form.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum LimitConfig {
    /// Soft and hard alike.
    Both(Scalar),
    /// Each by itself.
    Each {
        /// What applies.
        soft: Scalar,
        /// What the process may raise it to.
        hard: Scalar,
    },
}

/// A YAML scalar as its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self::default()),
            Value::String(text) => Ok(Self(text)),
            scalar @ (Value::Bool(_) | Value::Number(_)) => Ok(Self(scalar.to_string())),
            Value::Array(_) => Err(de::Error::custom("expected a string, found a list")),
            Value::Object(_) => Err(de::Error::custom("expected a string, found a mapping")),
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Scalar>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        list @ Value::Array(_) => Vec::<Scalar>::deserialize(list).map_err(de::Error::custom),
        single => Scalar::deserialize(single)
            .map(|scalar| vec![scalar])
            .map_err(de::Error::custom),
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn parameters<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Option<ParamSpec>>, D::Error> {
    let raw: BTreeMap<String, Value> = nullable(deserializer)?;
    let spec = |(name, value): (String, Value)| {
        let spec = parameter(value)
            .map_err(|reason| de::Error::custom(format!("parameter {name:?}: {reason}")))?;
        Ok((name, spec))
    };
    raw.into_iter().map(spec).collect()
}

/// One parameter: `null`, `{default, validate}`, or its default alone.
fn parameter(value: Value) -> Result<Option<ParamSpec>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        default: Option<Scalar>,
        validate: Option<String>,
    }
    match value {
        Value::Null => Ok(None),
        Value::Object(_) => {
            let raw = Raw::deserialize(value).map_err(|error| error.to_string())?;
            let default = raw.default.map(|scalar| scalar.0);
            Ok(Some(ParamSpec {
                default,
                validate: raw.validate.unwrap_or_default(),
            }))
        }
        Value::Array(_) => {
            Err("expected null, a default, or {default, validate}; found a list".to_owned())
        }
        scalar => {
            let Scalar(default) = Scalar::deserialize(scalar).map_err(|error| error.to_string())?;
            Ok(Some(ParamSpec {
                default: Some(default),
                validate: String::new(),
            }))
        }
    }
}

impl CgroupConfig {
    /// As the kernel wants them.
    ///
    /// # Errors
    /// A text that names the key.
    pub fn limits(&self) -> Result<cgroup::Limits, String> {
        let memory = self
            .memory
            .as_ref()
            .map(|Scalar(text)| size::parse(text))
            .transpose();
        if self.cpu.is_some_and(|cpu| !(cpu.is_finite() && cpu > 0.0)) {
            return Err("cgroup.cpu: expected a number of CPUs above 0, such as 0.5".to_owned());
        }
        Ok(cgroup::Limits {
            memory: memory.map_err(|error| format!("cgroup.memory: {error}"))?,
            pids: self.pids,
            cpu: self.cpu,
        })
    }
}

/// Resource limits as the kernel wants them.
///
/// # Errors
/// A text that names the limit, and the ones there are.
pub fn rlimits(config: &BTreeMap<String, LimitConfig>) -> Result<Vec<Rlimit>, String> {
    config
        .iter()
        .map(|(name, limit)| {
            rlimit(name, limit).map_err(|error| format!("rlimits.{name}: {error}"))
        })
        .collect()
}

const RESOURCES: [(&str, libc::__rlimit_resource_t); 9] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("stack", libc::RLIMIT_STACK),
];

fn rlimit(name: &str, limit: &LimitConfig) -> Result<Rlimit, String> {
    let known = || RESOURCES.map(|(name, _)| name).join(", ");
    let (_, resource) = RESOURCES
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .ok_or_else(|| format!("unknown limit (known limits: {})", known()))?;
    let value = |Scalar(text): &Scalar| {
        if text.eq_ignore_ascii_case("unlimited") {
            Ok(libc::RLIM_INFINITY)
        } else {
            size::parse(text)
        }
    };
    let (soft, hard) = match limit {
        LimitConfig::Both(both) => (value(both)?, value(both)?),
        LimitConfig::Each { soft, hard } => (value(soft)?, value(hard)?),
    };
    if soft > hard {
        return Err("the soft limit is above the hard one".to_owned());
    }
    Ok(Rlimit {
        resource,
        soft,
        hard,
    })
}

/// Number of a signal written as `TERM`, `SIGTERM` or `15`.
///
/// # Errors
/// A text that quotes it.
pub fn signal(text: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 9] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("TERM", libc::SIGTERM),
        ("CONT", libc::SIGCONT),
        ("WINCH", libc::SIGWINCH),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.into_iter().find(|(known, _)| *known == name) {
        return Ok(number);
    }
    let number = text
        .trim()
        .parse::<i32>()
        .ok()
        .filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| {
        let known = NAMES.map(|(name, _)| name).join(", ");
        format!("unknown signal {text:?} (known signals: {known}, or a number from 1 to 64)")
    })
}

/// File mode creation mask written in octal.
///
/// # Errors
/// A text that quotes it.
pub fn umask(text: &str) -> Result<u32, String> {
    let digits = text.trim().trim_start_matches("0o");
    let mask = u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mask| *mask <= 0o777);
    mask.ok_or_else(|| format!("invalid umask {text:?}: expected octal digits such as \"027\""))
}

/// A duration of ours out of a Go one; negative ones are zero.
pub fn duration(config: Option<GoDuration>, default: Duration) -> Duration {
    config.map_or(default, GoDuration::as_std)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<ExecConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_stand_for_strings() {
        let config =
            parse(json!({"entrypoint": "echo", "command": ["-n", 8080, true], "env": {"N": 1}}))
                .unwrap();
        assert_eq!(
            config.command.iter().map(|arg| &*arg.0).collect::<Vec<_>>(),
            ["-n", "8080", "true"]
        );
        assert_eq!(config.env["N"].0, "1");
        assert_eq!(
            parse(json!({"command": 5})).unwrap().command,
            [Scalar("5".into())]
        );
    }

    #[test]
    fn a_parameter_may_be_null_a_default_or_a_mapping() {
        let parameters = parse(json!({"parameters": {
            "required": null, "short": "s", "number": 5, "full": {"default": 7, "validate": "value != ''"},
        }}));
        let parameters = parameters.unwrap().parameters;
        assert_eq!(parameters["required"], None);
        assert_eq!(
            parameters["short"].as_ref().unwrap().default.as_deref(),
            Some("s")
        );
        assert_eq!(
            parameters["number"].as_ref().unwrap().default.as_deref(),
            Some("5")
        );
        assert_eq!(
            parameters["full"].as_ref().unwrap().default.as_deref(),
            Some("7")
        );
        assert!(
            parse(json!({"parameters": {"p": []}}))
                .unwrap_err()
                .contains("parameter \"p\"")
        );
    }

    #[test]
    fn limits_name_what_is_wrong() {
        let limits = |value| rlimits(&parse(json!({"rlimits": value})).unwrap().rlimits);
        let nofile = limits(json!({"nofile": {"soft": 10, "hard": "unlimited"}})).unwrap();
        assert_eq!((nofile[0].soft, nofile[0].hard), (10, libc::RLIM_INFINITY));
        assert_eq!(limits(json!({"as": "1MiB"})).unwrap()[0].hard, 1 << 20);
        assert!(
            limits(json!({"files": 1}))
                .unwrap_err()
                .starts_with("rlimits.files: unknown limit (known limits: as,")
        );
        assert!(
            limits(json!({"cpu": {"soft": 2, "hard": 1}}))
                .unwrap_err()
                .contains("above the hard")
        );
    }

    #[test]
    fn signals_and_masks_are_read_as_people_write_them() {
        assert_eq!(signal("SIGINT"), Ok(libc::SIGINT));
        assert_eq!(signal("term"), Ok(libc::SIGTERM));
        assert_eq!(signal("9"), Ok(9));
        assert!(signal("SIGFOO").unwrap_err().contains("known signals"));
        assert_eq!(umask("027"), Ok(0o27));
        assert!(umask("999").is_err());
    }
}
