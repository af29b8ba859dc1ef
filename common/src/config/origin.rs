//! Where a configuration value came from.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// The place that set a value, for messages and for `config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    /// The tool's own default.
    Default,
    /// A line of a file.
    File {
        /// Path of the file, as it was given.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
    },
    /// A variable of the environment.
    Env {
        /// Name of the variable.
        var: String,
    },
    /// A flag of the command line.
    Flag {
        /// Name of the flag with its dashes.
        name: String,
    },
}

impl Origin {
    /// The line in the file, if it is a file.
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Default | Self::Env { .. } | Self::Flag { .. } => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Env { var } => write!(f, "${var}"),
            Self::Flag { name } => f.write_str(name),
        }
    }
}
