//! What can be wrong with a configuration, told with the file, the line, the key and what was
//! expected.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::origin::Origin;
use crate::exit::Exit;
use crate::report::Failure;

/// Why a configuration cannot be used. As a [`Failure`] it exits with [`Exit::Config`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A file is no YAML or JSON, or gives a key twice.
    #[error("{} line {line} column {column}: {message}", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// Column number, from 1.
        column: u64,
        /// What the parser did not like.
        message: String,
    },
    /// A value is not what its key wants.
    #[error("{}", invalid(key, origin, message))]
    Invalid {
        /// Dotted key of the value; empty for the configuration as a whole.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// What was expected and what was found.
        message: String,
    },
    /// Keys that mean nothing, under [`super::UnknownKeys::Deny`].
    #[error("{}", unknown(.0))]
    Unknown(Vec<UnknownKey>),
    /// The defaults cannot be serialised, which is a bug in the tool.
    #[error("the default configuration cannot be serialised")]
    Defaults(#[source] serde_json::Error),
}

fn invalid(key: &str, origin: &Origin, message: &str) -> String {
    let place = match origin {
        Origin::Default => "default value".to_owned(),
        place => place.to_string(),
    };
    if key.is_empty() {
        format!("{place}: {message}")
    } else {
        format!("{place}: `{key}`: {message}")
    }
}

fn unknown(keys: &[UnknownKey]) -> String {
    match keys {
        [key] => key.to_string(),
        keys => {
            let lines: Vec<String> = keys.iter().map(|key| format!("\n{key}")).collect();
            format!(
                "the configuration has {} unknown keys:{}",
                keys.len(),
                lines.concat()
            )
        }
    }
}

/// A key that means nothing to the tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownKey {
    /// The dotted key.
    pub key: String,
    /// Where it is written.
    pub origin: Origin,
    /// The key that was probably meant.
    pub suggestion: Option<String>,
    /// The keys that mean something in this place.
    pub known: Vec<String>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: unknown key `{}`", self.origin, self.key)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, " (did you mean `{suggestion}`?)"),
            None => Ok(()),
        }
    }
}

impl UnknownKey {
    /// The way out, for a `hint:` line; nothing where the suggestion says it or nothing is known.
    fn hint(&self) -> Option<String> {
        if self.suggestion.is_some() || self.known.is_empty() {
            return None;
        }
        let place = self.key.rsplit_once('.').map_or_else(
            || "at the top".to_owned(),
            |(above, _)| format!("in `{above}`"),
        );
        Some(format!("known keys {place}: {}", self.known.join(", ")))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::new(Exit::Config, error.to_string());
        match error {
            ConfigError::Read { source, .. } => failure.caused_by(source),
            ConfigError::Defaults(source) => {
                Self::new(Exit::Internal, failure.message()).caused_by(source)
            }
            ConfigError::Unknown(keys) => keys
                .iter()
                .filter_map(UnknownKey::hint)
                .fold(failure, Self::hint),
            ConfigError::Syntax { .. } | ConfigError::Invalid { .. } => failure,
        }
    }
}
