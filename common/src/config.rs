//! The layers of a configuration: flags over environment over file over defaults. Every value
//! remembers which of them set it. What the keys mean, and whether their values go together, is the
//! tool's.
//!
//! ```
//! use runyard_common::config::{Layers, Origin};
//! # use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Config {
//!     listen: String,
//!     workers: u16,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let defaults = Config { listen: "127.0.0.1:8080".into(), workers: 2 };
//! let environment = |name: &str| (name == "HUB_WORKERS").then(|| "8".to_owned());
//! let resolved = Layers::defaults(&defaults)?
//!     .text("hub.yaml".as_ref(), "listen: 0.0.0.0:80", Default::default())?
//!     .env(&[("HUB_WORKERS", "workers")], &environment)
//!     .flag("--listen", "listen", None::<String>)
//!     .resolve::<Config>()?;
//! assert_eq!((resolved.value.listen.as_str(), resolved.value.workers), ("0.0.0.0:80", 8));
//! assert_eq!(resolved.origins["listen"], Origin::File { path: "hub.yaml".into(), line: 1 });
//! # Ok(())
//! # }
//! ```
//!
//! # How layers meet
//!
//! - Maps are merged key by key. Scalars and lists of an upper layer replace those below.
//! - A null (`listen:` with nothing behind it) says nothing: the value below stays.
//! - A variable that is not set or empty, and a flag that was not given, say nothing.
//! - Text of variables and flags is read as the wanted type reads it; where a list is wanted,
//!   commas part its items.
//! - A key that no struct asks for is an error, or a warning if the tool says so; it is named with
//!   its line and with the key that was probably meant.
//!
//! # Architecture
//!
//! `yaml` and `json` parse a file into a `node`, a tree whose values know their line and spelling;
//! [`Layers`] overlays such trees; `read` is a serde deserializer over the result; `show` prints
//! it.

mod error;
mod json;
mod key;
mod node;
mod origin;
mod read;
mod show;
mod suggest;
mod yaml;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use error::{ConfigError, UnknownKey};
pub use origin::Origin;
pub use show::Shown;

use self::key::{Key, Secrets};
use self::node::{Kind, Node};

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileFormat {
    /// JSON if the path ends in `.json`, else YAML.
    #[default]
    ByExtension,
    /// YAML, as Go's yaml.v3 reads it.
    Yaml,
    /// JSON.
    Json,
}

/// What a file that does not exist means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The layer says nothing.
    Ok,
    /// The configuration cannot be used: the user named the file.
    Error,
}

/// What a key that no struct asks for means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// The configuration cannot be used.
    #[default]
    Deny,
    /// It is listed in [`Resolved::unknown`], for the tool to warn.
    Warn,
}

/// A configuration being put together. Later layers win, so they are laid in this order: defaults,
/// file, environment, flags.
#[derive(Debug)]
pub struct Layers {
    tree: Node,
    secrets: Secrets,
    unknown_keys: UnknownKeys,
}

impl Layers {
    /// The lowest layer: the tool's own values, usually `&Config::default()`.
    ///
    /// A [`crate::secret::Secret`] in them is left out, as it serialises as its mark; serde's
    /// default fills it.
    pub fn defaults(values: &impl Serialize) -> Result<Self, ConfigError> {
        let values = serde_json::to_value(values).map_err(ConfigError::Defaults)?;
        let mut tree = Node::root();
        tree.overlay(Node::from_value(values, &Origin::Default).without_redacted());
        Ok(Self {
            tree,
            secrets: Secrets::default(),
            unknown_keys: UnknownKeys::default(),
        })
    }

    /// Says what unknown keys mean; without it they are errors.
    #[must_use]
    pub fn unknown_keys(mut self, policy: UnknownKeys) -> Self {
        self.unknown_keys = policy;
        self
    }

    /// Names values that are neither shown nor quoted in errors, as dotted keys in which `*` stands
    /// for any segment; what lies below them is hidden too.
    #[must_use]
    pub fn secrets(mut self, patterns: &[&str]) -> Self {
        self.secrets.add(patterns);
        self
    }

    /// Lays a file over what is there.
    pub fn file(
        self,
        path: &Path,
        format: FileFormat,
        missing: Missing,
    ) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &text, format),
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Ok => {
                Ok(self)
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Lays the text of a file over what is there; `path` is what messages call it.
    pub fn text(
        mut self,
        path: &Path,
        text: &str,
        format: FileFormat,
    ) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let tree = match format.of(path) {
            FileFormat::Json => json::parse(path, text)?,
            FileFormat::Yaml | FileFormat::ByExtension => yaml::parse(path, text)?,
        };
        if !matches!(tree.kind, Kind::Map(_) | Kind::Null) {
            let message = "expected a map of keys at the top".to_owned();
            return Err(ConfigError::Invalid {
                key: String::new(),
                origin: tree.origin,
                message,
            });
        }
        self.tree.overlay(tree);
        Ok(self)
    }

    /// Lays the environment over what is there: pairs of a variable and the dotted key that it
    /// sets, later pairs winning. Variables are looked up with `lookup`, so that tests need no
    /// environment of their own.
    #[must_use]
    pub fn env(mut self, table: &[(&str, &str)], lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        for (var, key) in table {
            if let Some(text) = lookup(var).filter(|text| !text.is_empty()) {
                self.set(
                    key,
                    Value::from(text),
                    &Origin::Env {
                        var: (*var).to_owned(),
                    },
                );
            }
        }
        self
    }

    /// Lays one flag over what is there, if it was given; `name` is what messages call it
    /// (`--listen`).
    #[must_use]
    pub fn flag(mut self, name: &str, key: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.set(
                key,
                value.into(),
                &Origin::Flag {
                    name: name.to_owned(),
                },
            );
        }
        self
    }

    fn set(&mut self, key: &str, value: Value, origin: &Origin) {
        self.tree
            .overlay(Node::at(&Key::parse(key), Node::from_value(value, origin)));
    }

    /// Reads the layers into the type that the tool works with.
    pub fn resolve<T: DeserializeOwned>(self) -> Result<Resolved<T>, ConfigError> {
        let (value, unknown) = read::read(&self.tree, &self.secrets)?;
        if self.unknown_keys == UnknownKeys::Deny && !unknown.is_empty() {
            return Err(ConfigError::Unknown(unknown));
        }
        let mut origins = BTreeMap::new();
        self.tree.leaves(&Key::default(), &mut |key, node| {
            origins.insert(key.to_string(), node.origin.clone());
        });
        Ok(Resolved {
            value,
            origins,
            unknown,
            shown: Shown::new(&self.tree, &self.secrets),
        })
    }
}

impl FileFormat {
    fn of(self, path: &Path) -> Self {
        let json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        match self {
            Self::ByExtension if json => Self::Json,
            Self::ByExtension => Self::Yaml,
            format => format,
        }
    }
}

/// A configuration with the story of its values.
#[derive(Clone, Debug)]
pub struct Resolved<T> {
    /// The configuration.
    pub value: T,
    /// Where each value came from, by dotted key; a list is one value.
    pub origins: BTreeMap<String, Origin>,
    /// Keys that mean nothing; always empty under [`UnknownKeys::Deny`].
    pub unknown: Vec<UnknownKey>,
    shown: Shown,
}

impl<T> Resolved<T> {
    /// The effective values with their origins, secrets redacted: the answer of `config show`.
    pub fn show(&self) -> &Shown {
        &self.shown
    }
}

#[cfg(test)]
mod tests;
