//! References to credentials: where a run finds them. Values are read by the run that needs them and by nobody before it.
//!
//! | text | means | usable on |
//! |---|---|---|
//! | `secret/nomad/jobs/registry` or `vault:…` | a path in Vault's KV engine, version 2; what a bare path always meant | Nomad (template), local with `VAULT_ADDR` and `VAULT_TOKEN` |
//! | `nomad:path/of/variable` | a Nomad variable | Nomad (template) |
//! | `file:/path` | a file on the machine of the run: `KEY=value` lines, a JSON object, or a Docker `auth.json` | local |
//! | `env:PREFIX` | variables `PREFIX_USERNAME` and so on, in the environment of the service or of whoever types `build` | local |
//!
//! Field names are those of the original: `username`, `password`, `ssh_key` for Git; `username`, `password` for registries.

mod file;
mod lookup;
mod nomad;
mod vault;

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize, Serializer, de};

pub use file::rendered;
pub use lookup::{Environment, Found, LookupError, look_up, look_up_one};

/// The field with a private key.
pub(crate) const SSH_KEY: &str = "ssh_key";

/// Where a credential is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// A path in Vault's KV engine, version 2, without `data/`.
    Vault(String),
    /// The path of a Nomad variable.
    NomadVariable(String),
    /// A file.
    File(PathBuf),
    /// The beginning of names of environment variables.
    Env(String),
}

/// A text that is no reference to a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no reference to a credential: {why}")]
pub struct BadSecretRef {
    /// The text.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for SecretRef {
    type Err = BadSecretRef;

    fn from_str(text: &str) -> Result<Self, BadSecretRef> {
        let bad = |why| BadSecretRef {
            value: text.to_owned(),
            why,
        };
        let path = |path: &str| {
            if is_path(path) {
                Ok(path.to_owned())
            } else {
                Err(bad(
                    "paths are letters, digits, `_`, `.`, `-` and `/`, without `..`",
                ))
            }
        };
        match text.split_once(':') {
            Some(("vault", rest)) => path(rest).map(Self::Vault),
            Some(("nomad", rest)) => path(rest).map(Self::NomadVariable),
            Some(("file", rest)) if rest.starts_with('/') => Ok(Self::File(PathBuf::from(rest))),
            Some(("file", _)) => Err(bad("the path of a file is absolute")),
            Some(("env", rest)) if is_variable(rest) => Ok(Self::Env(rest.to_owned())),
            Some(("env", _)) => Err(bad("names of variables are letters, digits and `_`")),
            Some(_) => Err(bad("known kinds are vault:, nomad:, file: and env:")),
            None => path(text).map(Self::Vault),
        }
    }
}

/// A path that can stand inside a template: it is data inside of code there.
fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/');
    !path.is_empty()
        && path.bytes().all(plain)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault(path) => write!(f, "vault:{path}"),
            Self::NomadVariable(path) => write!(f, "nomad:{path}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(prefix) => write!(f, "env:{prefix}"),
        }
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}
