//! Names of images: repositories, tags, digests and references, by the grammar of the OCI distribution specification
//! ("Pulling manifests"), and the names that are made from them for temporary images. Parsed once, so that whatever holds
//! one of these types can be an argument of a program or a part of a URL.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer, de};

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no {what}: {why}")]
pub struct NameError {
    /// The text.
    pub value: String,
    /// What it should be.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

fn wrong<T>(value: &str, what: &'static str, why: &'static str) -> Result<T, NameError> {
    Err(NameError {
        value: value.to_owned(),
        what,
        why,
    })
}

/// A repository in a registry: `registry.example:5000/team/app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: String,
    path: String,
}

impl Repository {
    /// The repository `name` of the registry `registry`, which may bring a path of its own: `registry.example/team`, `app`.
    pub fn of(registry: &str, name: &str) -> Result<Self, NameError> {
        format!("{}/{name}", registry.trim_end_matches('/')).parse()
    }

    /// Host and port of the registry, as credentials are filed under: `registry.example:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What follows the host: `team/app`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "image repository";
        let bare = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let Some((host, path)) = bare.split_once('/') else {
            return wrong(text, WHAT, "it has no registry, as in registry.example/app");
        };
        if !is_host(host) {
            return wrong(
                text,
                WHAT,
                "the registry must be a host name with or without a port",
            );
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return wrong(
                text,
                WHAT,
                "each part is lower-case letters and digits, joined by single `.`, `_`, `__` or dashes",
            );
        }
        if bare.len() > 255 {
            return wrong(text, WHAT, "it is longer than 255 characters");
        }
        Ok(Self {
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let ipv6 = name
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let named = !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    port_ok && (ipv6 || named)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && bytes
        .split(alphanumeric)
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

/// A tag: `v1.2.3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "image tag";
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        match text.as_bytes() {
            [] => wrong(text, WHAT, "it is empty"),
            bytes if bytes.len() > 128 => wrong(text, WHAT, "it is longer than 128 characters"),
            [first, rest @ ..]
                if word(*first) && rest.iter().all(|b| word(*b) || matches!(b, b'.' | b'-')) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => wrong(
                text,
                WHAT,
                "it may hold letters, digits, `_`, `.` and `-`, and begins with none of the last two",
            ),
        }
    }
}

/// A digest of a manifest: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(lower_hex) => Ok(Self(text.to_owned())),
            _ => wrong(
                text,
                "image digest",
                "it is not sha256: and 64 lower-case hexadecimal digits",
            ),
        }
    }
}

/// An image in a registry, by tag or by digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Where.
    pub repository: Repository,
    /// Which.
    pub version: Version,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one that a tag points to.
    Tag(Tag),
    /// The one with this digest.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some((repository, digest)) = text.split_once('@') {
            return Ok(Self {
                repository: repository.parse()?,
                version: Version::Digest(digest.parse()?),
            });
        }
        match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => Ok(Self {
                repository: repository.parse()?,
                version: Version::Tag(tag.parse()?),
            }),
            _ => wrong(text, "image reference", "it has neither a tag nor a digest"),
        }
    }
}

/// All of them travel as their text.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
as_text!(Repository, Tag, Digest, Reference);
