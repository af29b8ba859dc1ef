//! Values that must not be shown: tokens and passwords, and where they are read from. Nothing here
//! logs.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

use crate::exit::Exit;
use crate::report::Failure;

/// What a secret looks like wherever it is printed.
pub const REDACTED: &str = "[redacted]";

/// A token or password. It prints and serialises as `[redacted]`; only [`Secret::expose`] gives it
/// away.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the secret has no characters, which no check should ever accept as a password.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a presented value is this secret, in a time that depends on the lengths only. An
    /// empty secret matches nothing, so that an unset password never opens a door.
    pub fn matches(&self, presented: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), presented.as_bytes());
        if ours.is_empty() || ours.len() != theirs.len() {
            return false;
        }
        // `black_box` keeps the compiler from ending the comparison at the first difference.
        let difference = ours
            .iter()
            .zip(theirs)
            .fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0
    }
}

/// Compares like [`Secret::matches`], in a time that depends on the lengths only; two empty secrets are equal.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.expose()) || (self.is_empty() && other.is_empty())
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// Where a secret comes from, as a configuration file says it: `token: abc`, `token: {file:
/// /run/token}` or `token: {env: API_TOKEN}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SecretSource {
    /// A file whose content, without trailing line breaks, is the secret.
    File {
        /// Path of the file.
        file: PathBuf,
    },
    /// A variable of the environment.
    Env {
        /// Name of the variable.
        env: String,
    },
    /// The secret itself.
    Literal(Secret),
}

impl SecretSource {
    /// Reads the secret; variables are looked up with `env`.
    ///
    /// Fails with [`Exit::Config`] when the file cannot be read, the variable is not set, or the
    /// secret is empty.
    pub fn load(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Secret, Failure> {
        let secret = match self {
            Self::Literal(secret) => secret.clone(),
            Self::Env { env: name } => Secret::new(env(name).ok_or_else(|| {
                Failure::new(
                    Exit::Config,
                    format!("variable `{name}`, which should hold a secret, is not set"),
                )
            })?),
            Self::File { file } => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    Failure::new(
                        Exit::Config,
                        format!("cannot read the secret in `{}`", file.display()),
                    )
                    .caused_by(error)
                })?;
                Secret::new(text.trim_end_matches(['\r', '\n']))
            }
        };
        if secret.is_empty() {
            return Err(Failure::new(
                Exit::Config,
                format!("the secret {self} is empty"),
            ));
        }
        Ok(secret)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(f, "in file `{}`", file.display()),
            Self::Env { env } => write!(f, "in variable `{env}`"),
            Self::Literal(_) => f.write_str("in the configuration"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_secret_shows_itself_nowhere() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn only_the_secret_itself_matches_and_an_empty_one_matches_nothing() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        for wrong in ["hunter3", "Hunter2", "hunter", "hunter22", ""] {
            assert!(!secret.matches(wrong), "{wrong}");
        }
        assert!(Secret::default().is_empty());
        assert!(!Secret::default().matches(""));
    }

    #[test]
    fn secrets_are_equal_if_their_texts_are() {
        assert_eq!(Secret::new("hunter2"), Secret::from("hunter2"));
        assert_eq!(Secret::default(), Secret::new(""));
        for other in ["hunter3", "hunter22", ""] {
            assert_ne!(Secret::new("hunter2"), Secret::new(other));
        }
    }

    fn source(json: &str) -> SecretSource {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_secret_comes_from_the_text_a_file_or_a_variable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "from file\r\n").unwrap();
        let environment = |name: &str| (name == "TOKEN").then(|| "from env".to_owned());
        let load = |json: &str| source(json).load(&environment).unwrap().expose().to_owned();
        assert_eq!(load("\"literal\""), "literal");
        assert_eq!(load("{\"env\": \"TOKEN\"}"), "from env");
        assert_eq!(
            load(&serde_json::json!({"file": path}).to_string()),
            "from file"
        );
    }

    #[test]
    fn a_source_without_a_secret_is_a_configuration_error_that_names_it() {
        let failure = source("{\"env\": \"TOKEN\"}").load(&nothing).unwrap_err();
        assert_eq!(
            (failure.exit(), failure.message()),
            (
                Exit::Config,
                "variable `TOKEN`, which should hold a secret, is not set"
            )
        );
        let failure = source("{\"file\": \"/nonexistent/token\"}")
            .load(&nothing)
            .unwrap_err();
        assert_eq!(
            failure.message(),
            "cannot read the secret in `/nonexistent/token`"
        );
        let failure = source("{\"env\": \"TOKEN\"}")
            .load(&|_| Some(String::new()))
            .unwrap_err();
        assert_eq!(failure.message(), "the secret in variable `TOKEN` is empty");
    }

    #[test]
    fn a_source_that_is_written_down_says_where_and_not_what() {
        assert_eq!(
            serde_json::to_string(&source("\"literal\"")).unwrap(),
            "\"[redacted]\""
        );
        assert_eq!(
            serde_json::to_string(&source("{\"env\":\"TOKEN\"}")).unwrap(),
            "{\"env\":\"TOKEN\"}"
        );
    }
}
