//! Job files of the command line: YAML (or JSON) with the fields of [`JobConfig`], a global file merged under the one of the
//! build. Unlike on the wire, an unknown key is an error, told with its line; whether the values make a job is
//! [`crate::spec`]'s matter.
//!
//! # How files meet
//!
//! As in the original: what the file of the build says wins over the global file, field by field at the top. Lists, maps and
//! blocks (`test`, `resource_limits`) are replaced as a whole. An empty text, an empty list and `false` say nothing, so that
//! they cannot take back what the global file says.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use runyard_common::{
    config::{ConfigError, FileFormat, Layers, Missing},
    exit::Exit,
    report::Failure,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::JobConfig;

/// Where the description of a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// In a file.
    File(PathBuf),
    /// On the command line, as YAML.
    Inline(String),
    /// On standard input.
    Stdin,
}

impl Input {
    /// What an argument means: a file if there is one of that name, `-` and no argument standard input, else YAML. What could
    /// only be the name of a file is an error, and not YAML without keys.
    pub fn of(argument: Option<&str>) -> Result<Self, Failure> {
        match argument {
            None | Some("-") => Ok(Self::Stdin),
            Some(path) if Path::new(path).is_file() => Ok(Self::File(path.into())),
            Some(text) if text.contains(['\n', '{']) || text.contains(": ") => {
                Ok(Self::Inline(text.to_owned()))
            }
            Some(path) => Err(Failure::new(
                Exit::NotFound,
                format!("there is no job file `{path}`"),
            )
            .hint("write one (owner, repo_url, image_name and registry_url are needed), or pipe YAML in")),
        }
    }
}

/// Reads the description of a job: the global file, if there is one, under what `input` says, and over both the tags of
/// `image_tags`, if there are any. Standard input is read from `stdin`.
pub fn load(
    input: &Input,
    global: Option<&Path>,
    image_tags: &[String],
    stdin: &mut dyn Read,
) -> Result<JobConfig, Failure> {
    let global = match global {
        Some(path) => file(path)?,
        None => JobConfig::default(),
    };
    let build = match input {
        Input::File(path) => file(path)?,
        Input::Inline(text) => inline("command line", text)?,
        Input::Stdin => {
            let mut text = String::new();
            stdin.read_to_string(&mut text).map_err(|error| {
                Failure::new(Exit::Failed, "cannot read standard input").caused_by(error)
            })?;
            inline("standard input", &text)?
        }
    };
    let mut config = merged(&global, &build);
    let tags = tags_of(image_tags);
    if !tags.is_empty() {
        config.image_tags = tags;
    }
    Ok(config)
}

/// Tags as a flag gives them, which may be repeated and may hold several with commas between them.
pub fn tags_of(flags: &[String]) -> Vec<String> {
    let tags = flags.iter().flat_map(|flag| flag.split(','));
    tags.map(str::trim)
        .filter(|tag| !tag.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

fn inline(name: &str, text: &str) -> Result<JobConfig, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, "no job configuration provided")
            .hint("name a job file, or pipe YAML in"));
    }
    Ok(parse(name.as_ref(), text)?)
}

fn file(path: &Path) -> Result<JobConfig, Failure> {
    Ok(base()?
        .file(path, FileFormat::ByExtension, Missing::Error)?
        .resolve::<Strict>()?
        .value
        .0)
}

/// Reads the text of a job file; `path` is what messages call it.
pub fn parse(path: &Path, text: &str) -> Result<JobConfig, ConfigError> {
    let layers = base()?.text(path, text, FileFormat::ByExtension)?;
    Ok(layers.resolve::<Strict>()?.value.0)
}

/// No key has a default here: an absent one is a question to the global file and to the service.
fn base() -> Result<Layers, ConfigError> {
    let secrets = ["webhook_secret", "webhook_headers"];
    Ok(Layers::defaults(&Map::new())?.secrets(&secrets))
}

/// A configuration whose reader notices unknown keys.
struct Strict(JobConfig);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JobConfig::strictly(deserializer).map(Self)
    }
}

/// The configuration of a build over the global one.
pub fn merged(global: &JobConfig, build: &JobConfig) -> JobConfig {
    let (Some(mut fields), Some(over)) = (fields(global), fields(build)) else {
        return build.clone();
    };
    fields.extend(over.into_iter().filter(|(_, value)| says_something(value)));
    serde_json::from_value(Value::Object(fields)).unwrap_or_else(|_| build.clone())
}

fn fields(config: &JobConfig) -> Option<Map<String, Value>> {
    match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

/// Whether it is not Go's zero value of its type.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        // A block that is there, even an empty one, is a pointer that is not nil in the original.
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runyard_common::testing::tempdir;

    use super::*;
    use crate::api::{Nanoseconds, TestConfig};

    fn read(text: &str) -> JobConfig {
        parse("build.yaml".as_ref(), text).unwrap()
    }

    fn refused(text: &str) -> String {
        parse("build.yaml".as_ref(), text).unwrap_err().to_string()
    }

    #[test]
    fn values_are_read_as_they_are_spelled() {
        let config = read(
            "owner: red\nimage_tags: [1.10, 2, latest]\ngit_ref: 1.20\nbuild_timeout: 30m\n\
             resource_limits: {cpu: 1000, build: {memory: \"4096\"}}\ntest:\n  commands: [\"true\"]\n  timeout: 5000000000\n  \
             env: {LEVEL: 3, ON: yes, NONE: }\n",
        );
        assert_eq!(config.image_tags, ["1.10", "2", "latest"]);
        assert_eq!(config.git_ref, "1.20");
        assert_eq!(config.build_timeout, Some(Nanoseconds(1_800_000_000_000)));
        let limits = config.resource_limits.unwrap();
        assert_eq!(limits.all.cpu, "1000");
        assert_eq!(limits.build.unwrap().memory, "4096");
        let test = config.test.unwrap();
        assert_eq!(test.timeout, Some(Nanoseconds(5_000_000_000)));
        let env: Vec<_> = test.env.into_iter().collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            env,
            [pair("LEVEL", "3"), pair("NONE", ""), pair("ON", "yes")]
        );
    }

    #[test]
    fn the_tests_of_old_files_are_tests() {
        let config = read("test_commands: [./t]\ntest_entry_point: true\ntest_timeout: 1m\n");
        assert_eq!(
            config.test,
            Some(TestConfig {
                commands: vec!["./t".to_owned()],
                entry_point: true,
                timeout: Some(Nanoseconds(60_000_000_000)),
                ..TestConfig::default()
            })
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_wherever_it_is() {
        for (text, key, line) in [
            ("owner: red\nrepo_ulr: x\n", "repo_ulr", 2),
            ("test:\n  comands: []\n", "test.comands", 2),
            (
                "resource_limits:\n  build:\n    ram: 1\n",
                "resource_limits.build.ram",
                3,
            ),
            (
                "test:\n  constraints:\n  - attr: x\n",
                "test.constraints.0.attr",
                3,
            ),
        ] {
            let said = refused(text);
            assert!(
                said.contains(key) && said.contains(&format!("line {line}")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_secret_is_not_quoted_in_an_error() {
        let said = refused("webhook_secret: [hunter2]\n");
        assert!(
            said.contains("webhook_secret") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn what_the_build_says_wins_and_what_it_does_not_say_stays() {
        let global = read(
            "owner: red\ngit_ref: main\nimage_tags: [latest]\nclear_cache: true\nwebhook_headers: {A: a, B: b}\n\
             test: {commands: [one, two], entry_point: true}\n",
        );
        let build = read(
            "git_ref: feature/x\nimage_tags: [v2, beta]\nclear_cache: false\nowner: \"\"\nwebhook_headers: {B: c}\n\
             test: {commands: [three]}\n",
        );
        let config = merged(&global, &build);
        assert_eq!(
            (config.owner.as_str(), config.git_ref.as_str()),
            ("red", "feature/x")
        );
        assert_eq!(config.image_tags, ["v2", "beta"]);
        assert!(config.clear_cache);
        assert_eq!(config.webhook_headers.len(), 1);
        let test = config.test.unwrap();
        assert_eq!(
            (test.commands, test.entry_point),
            (vec!["three".to_owned()], false)
        );
        assert_eq!(merged(&global, &read("{}")), global);
    }

    #[test]
    fn an_argument_is_a_file_or_yaml_and_a_missing_file_is_no_yaml() {
        let dir = tempdir();
        let path = dir.path().join("build.yaml");
        std::fs::write(&path, "owner: red\n").unwrap();
        let name = path.to_str().unwrap();
        assert_eq!(Input::of(Some(name)).unwrap(), Input::File(path.clone()));
        assert_eq!(Input::of(None).unwrap(), Input::Stdin);
        let text = "owner: red";
        assert_eq!(Input::of(Some(text)).unwrap(), Input::Inline(text.into()));
        let failure = Input::of(Some("nowhere.yaml")).unwrap_err();
        assert_eq!(failure.message(), "there is no job file `nowhere.yaml`");
    }

    #[test]
    fn tags_of_the_command_line_replace_all_others() {
        let flags = ["a, b".to_owned(), "c,".to_owned()];
        let mut stdin: &[u8] = b"owner: red\nimage_tags: [x]\n";
        let config = load(&Input::Stdin, None, &flags, &mut stdin).unwrap();
        assert_eq!(config.image_tags, ["a", "b", "c"]);
        let mut stdin: &[u8] = b" \n";
        let failure = load(&Input::Stdin, None, &flags, &mut stdin).unwrap_err();
        assert_eq!(failure.message(), "no job configuration provided");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = parse("x.yaml".as_ref(), &text);
        }
    }
}
