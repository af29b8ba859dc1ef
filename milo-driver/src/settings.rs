//! The command line's configuration: flags over environment over file over defaults, into the same [`Config`] that an agent's
//! block becomes. An agent's plugin reads none of this.

use std::path::{Path, PathBuf};

use runyard_common::{
    config::{FileFormat, Layers, Missing, Shown},
    exit::Exit,
    report::Failure,
};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "MILO_CONFIG";

/// Where the file is unless something else is said. It need not exist.
pub const FILE: &str = "/etc/milo-driver/config.yaml";

/// Variables and the keys that they set.
const VARIABLES: [(&str, &str); 8] = [
    ("MILO_CRUN_PATH", "crun_path"),
    ("MILO_JAVA_HOMES", "java_homes"),
    ("MILO_DEFAULT_JAVA", "default_java"),
    ("MILO_STATE_DIR", "state_dir"),
    ("MILO_HEAP_PERCENT", "heap_percent"),
    ("MILO_PIDS_LIMIT", "pids_limit"),
    ("MILO_STOP_SIGNAL", "stop_signal"),
    ("MILO_HOST_TOOLS", "host_tools"),
];

/// What a file can hold. The keys are those of the agent's block; its other keys are about what jobs may ask for, and at
/// the command line whoever asks is the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The crun to use; empty for the first one in `PATH`.
    pub crun_path: String,
    /// Homes of JVMs, before and besides those that are found.
    pub java_homes: Vec<String>,
    /// The JVM of tasks that ask for none; empty for the best.
    pub default_java: String,
    /// Where records of running tasks are.
    pub state_dir: String,
    /// The heap's share of a task's memory, in percent.
    pub heap_percent: f64,
    /// Processes and threads of a task together; 0 is no limit.
    pub pids_limit: i64,
    /// What ends a task.
    pub stop_signal: String,
    /// Whether tasks see the host's programs.
    pub host_tools: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let config = Config::default();
        Self {
            crun_path: String::new(),
            java_homes: Vec::new(),
            default_java: String::new(),
            state_dir: config.state_dir.display().to_string(),
            heap_percent: config.heap_percent,
            pids_limit: config.pids_limit.unwrap_or(0),
            stop_signal: config.stop_signal,
            host_tools: config.host_tools,
        }
    }
}

/// The configuration, and where it comes from.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Each value with its origin.
    pub shown: Shown,
}

/// Reads the configuration: `file` or the usual one, and the environment. `state_dir` is the flag.
pub fn load(file: Option<&Path>, state_dir: Option<&Path>) -> Result<Loaded, Failure> {
    load_with(file, state_dir, &|name| std::env::var(name).ok())
}

fn load_with(
    file: Option<&Path>,
    state_dir: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Failure> {
    let (path, missing) = match file {
        Some(path) => (path, Missing::Error),
        None => (Path::new(FILE), Missing::Ok),
    };
    let resolved = Layers::defaults(&Settings::default())
        .and_then(|layers| layers.file(path, FileFormat::Yaml, missing))
        .and_then(|layers| {
            let state_dir = state_dir.map(|path| path.display().to_string());
            layers
                .env(&VARIABLES, environment)
                .flag("--state-dir", "state_dir", state_dir)
                .resolve::<Settings>()
        })
        .map_err(Failure::from)?;
    let shown = resolved.show().clone();
    Ok(Loaded {
        config: checked(resolved.value)?,
        shown,
    })
}

fn checked(settings: Settings) -> Result<Config, Failure> {
    let wrong = |key: &str, value: &dyn std::fmt::Display, expected: &str| {
        Failure::new(Exit::Config, format!("{key} is `{value}`: {expected}"))
            .hint("`milo-driver config show` says where it comes from")
    };
    let percent = settings.heap_percent;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(wrong(
            "heap_percent",
            &percent,
            "it must be above 0 and at most 100",
        ));
    }
    if let Err(error) = crate::signal::parse(&settings.stop_signal) {
        return Err(wrong(
            "stop_signal",
            &settings.stop_signal,
            &error.to_string(),
        ));
    }
    if !Path::new(&settings.state_dir).is_absolute() {
        return Err(wrong(
            "state_dir",
            &settings.state_dir,
            "it must be an absolute path",
        ));
    }
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(Config {
        crun_path: given(settings.crun_path).map(PathBuf::from),
        java_homes: settings.java_homes.into_iter().map(PathBuf::from).collect(),
        default_java: given(settings.default_java),
        state_dir: settings.state_dir.into(),
        heap_percent: percent,
        pids_limit: (settings.pids_limit > 0).then_some(settings.pids_limit),
        stop_signal: settings.stop_signal,
        host_tools: settings.host_tools,
        ..Config::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(checked(Settings::default()).unwrap(), Config::default());
    }

    #[test]
    fn the_example_holds_the_defaults() {
        let text = include_str!("../config.example.yaml");
        let read = Layers::defaults(&Settings::default())
            .unwrap()
            .text("config.example.yaml".as_ref(), text, FileFormat::Yaml)
            .unwrap()
            .resolve::<Settings>()
            .unwrap();
        assert_eq!(read.value, Settings::default());
        for key in serde_json::to_value(Settings::default())
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
        {
            assert!(text.contains(&format!("{key}:")), "{key} is missing");
        }
    }

    #[test]
    fn a_variable_wins_over_the_file_and_a_flag_over_both() {
        let dir = runyard_common::testing::tempdir();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "state_dir: /a\nheap_percent: 50\n").unwrap();
        let environment = |name: &str| (name == "MILO_STATE_DIR").then(|| "/b".to_owned());
        let config = |flag| load_with(Some(&file), flag, &environment).unwrap().config;
        assert_eq!(config(None).state_dir, Path::new("/b"));
        assert_eq!(config(Some(Path::new("/c"))).state_dir, Path::new("/c"));
        assert!((config(None).heap_percent - 50.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let dir = runyard_common::testing::tempdir();
        let file = dir.path().join("c.yaml");
        for (text, word) in [
            ("heap_percent: 0", "heap_percent"),
            ("stop_signal: SIGNOPE", "stop_signal"),
            ("state_dir: here", "state_dir"),
            ("heap: 1", "heap"),
        ] {
            std::fs::write(&file, text).unwrap();
            let failure = load_with(Some(&file), None, &nothing).unwrap_err();
            assert!(failure.to_string().contains(word), "{failure}");
        }
    }
}
