//! Whom to be at which registry: Docker's `auth.json`, and the challenges that registries answer with (RFC 7235; Docker's "Token
//! Authentication Specification"). Tokens are got and kept by [`super::connection`].

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use runyard_common::secret::Secret;
use serde_json::{Map, Value, json};

use crate::names::Repository;

/// Logins by registry, as the `auths` of Docker's `auth.json`.
#[derive(Clone, Default)]
pub struct Auths(Map<String, Value>);

impl std::fmt::Debug for Auths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password or token.
        password: Secret,
    },
    /// A token that is exchanged for others.
    Identity(Secret),
}

impl Auths {
    /// Reads a whole `auth.json`; one that is none has no logins.
    pub fn of_file(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(mut object)) => match object.remove("auths") {
                Some(Value::Object(auths)) => Self(auths),
                _ => Self::default(),
            },
            _ => Self::default(),
        }
    }

    /// Reads the `auths` of such a file alone.
    pub fn of_auths(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(auths)) => Self(auths),
            _ => Self::default(),
        }
    }

    /// The logins of whoever runs this, from the first file there is, in the order in which Buildah looks
    /// (containers-auth.json(5)).
    pub fn of_environment(environment: &[(OsString, OsString)]) -> Self {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_os_str())
        };
        let below = |folder: Option<&OsStr>, file: &str| Some(PathBuf::from(folder?).join(file));
        let places = [
            variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
            below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"),
            Some(
                format!(
                    "/run/containers/{}/auth.json",
                    rustix::process::getuid().as_raw()
                )
                .into(),
            ),
            below(variable("HOME"), ".config/containers/auth.json"),
            below(variable("HOME"), ".docker/config.json"),
        ];
        let texts = places.into_iter().flatten().map(fs::read_to_string);
        let first = texts.flatten().map(|text| Self::of_file(&text));
        first
            .into_iter()
            .find(|auths| !auths.0.is_empty())
            .unwrap_or_default()
    }

    /// Adds a login for a registry.
    pub fn add(&mut self, host: &str, username: &str, password: &Secret) {
        let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
        self.0.insert(host.to_owned(), json!({ "auth": auth }));
    }

    /// Adds all logins of another; they replace ones for the same registries.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of an `auth.json` for other programs.
    pub fn to_file(&self) -> Secret {
        Secret::new(json!({ "auths": self.0 }).to_string())
    }

    /// All logins, for masking them.
    pub fn logins(&self) -> impl Iterator<Item = Login> {
        self.0.values().filter_map(login)
    }

    /// The login for a repository: of the longest part of its name that has one, down to the host alone.
    pub fn login(&self, at: &Repository) -> Option<Login> {
        let full = at.to_string();
        let mut name = full.as_str();
        loop {
            if let Some(login) = self.entry(name).and_then(login) {
                return Some(login);
            }
            name = name.rsplit_once('/')?.0;
        }
    }

    fn entry(&self, name: &str) -> Option<&Value> {
        let wanted = if name == "docker.io" {
            "index.docker.io"
        } else {
            name
        };
        let bare = |key: &str| {
            let key = key
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            let key = key.trim_end_matches('/');
            key.trim_end_matches("/v1")
                .trim_end_matches("/v2")
                .to_owned()
        };
        self.0.get(name).or_else(|| {
            let found = self.0.iter().find(|(key, _)| bare(key) == wanted);
            found.map(|(_, value)| value)
        })
    }
}

fn login(entry: &Value) -> Option<Login> {
    let text = |name: &str| entry.get(name)?.as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Login::Identity(Secret::new(token)));
    }
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Login::Password {
            username: username.to_owned(),
            password: Secret::new(password),
        });
    }
    let decoded = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Login::Password {
        username: username.to_owned(),
        password: Secret::new(password.trim_end_matches('\0')),
    })
}

/// What a registry wants to see first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let value = |name: &str| {
            let found = parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        Some(Self::Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        })
    }
}

/// `a="x, y",b=z`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, behind)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_owned();
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str) -> Repository {
        text.parse().unwrap()
    }

    #[test]
    fn challenges_of_real_registries_are_understood() {
        let ghcr = r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:me/app:pull,push""#;
        assert_eq!(
            Challenge::parse(ghcr),
            Some(Challenge::Bearer {
                realm: "https://ghcr.io/token".to_owned(),
                service: Some("ghcr.io".to_owned()),
                scope: Some("repository:me/app:pull,push".to_owned()),
            })
        );
        let ecr = r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#;
        assert_eq!(Challenge::parse(ecr), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
    }

    #[test]
    fn the_most_particular_login_counts() {
        let auths = Auths::of_file(
            r#"{"auths":{"r:5000":{"auth":"YTpi"},"r:5000/team":{"auth":"YzpkOmU="},
                "https://index.docker.io/v1/":{"username":"hub","password":"pw"},"id.example":{"identitytoken":"t"}}}"#,
        );
        let name = |at: &str| match auths.login(&repository(at)) {
            Some(Login::Password { username, password }) => {
                format!("{username}:{}", password.expose())
            }
            Some(Login::Identity(token)) => token.expose().to_owned(),
            None => "nobody".to_owned(),
        };
        assert_eq!(name("r:5000/other/app"), "a:b");
        assert_eq!(name("r:5000/team/app"), "c:d:e");
        assert_eq!(name("docker.io/library/x"), "hub:pw");
        assert_eq!(name("id.example/x"), "t");
        assert_eq!(name("else.example/x"), "nobody");
        assert!(!format!("{auths:?}").contains("YTpi"));
    }

    #[test]
    fn what_is_written_for_other_programs_is_read_back() {
        let mut auths = Auths::default();
        auths.add("r:1", "me", &Secret::new("p:w"));
        let again = Auths::of_file(auths.to_file().expose());
        assert_eq!(
            again.login(&repository("r:1/x")),
            auths.login(&repository("r:1/x"))
        );
        assert_eq!(again.logins().count(), 1);
    }
}
