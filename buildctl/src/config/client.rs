//! How the command line finds a service: a URL and what to present there.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use runyard_common::{
    config::{FileFormat, Layers, Missing},
    exit::Exit,
    http::client::{ClientIdentity, ClientOptions},
    report::Failure,
    secret::{Secret, SecretSource},
};
use serde::{Deserialize, Serialize};

use crate::settings::Environment;

/// Where a service is if nothing is said.
pub const DEFAULT_URL: &str = "http://localhost:8080";

/// The variable that names the clients' file.
const FILE_VARIABLE: &str = "BUILDCTL_CLIENT_CONFIG";

/// Variables and the keys that they set; the first one is the original's.
const VARIABLES: [(&str, &str); 6] = [
    ("JOB_SERVICE_URL", "url"),
    ("BUILDCTL_URL", "url"),
    ("BUILDCTL_TOKEN_FILE", "token_file"),
    ("BUILDCTL_CA_FILE", "ca_file"),
    ("BUILDCTL_CERT_FILE", "cert_file"),
    ("BUILDCTL_KEY_FILE", "key_file"),
];

/// The variable that holds a token itself.
const TOKEN_VARIABLE: &str = "BUILDCTL_TOKEN";

/// Flags of every verb that may speak to a service.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// URL of the service, else `BUILDCTL_URL`, else `JOB_SERVICE_URL` [default: `http://localhost:8080`]
    #[arg(short, long, global = true, value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// File with the token for the service, else `BUILDCTL_TOKEN_FILE`, else `BUILDCTL_TOKEN` holds it
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    url: String,
    token_file: String,
    ca_file: String,
    cert_file: String,
    key_file: String,
}

/// How to reach a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    /// The URL that somebody named; none if nobody did, and [`DEFAULT_URL`] is a guess.
    pub named: Option<String>,
    /// What to present.
    pub token: Option<Secret>,
    /// Authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Certificate to present, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientConfig {
    /// Finds it out: flags over environment over the file of `BUILDCTL_CLIENT_CONFIG` or `~/.config/buildctl/client.yaml`.
    pub fn load(args: &ClientArgs, env: &Environment<'_>) -> Result<Self, Failure> {
        let layers = Layers::defaults(&Written::default())?;
        let layers = match file(env) {
            Some((path, missing)) => layers.file(&path, FileFormat::ByExtension, missing)?,
            None => layers,
        };
        let Written {
            url,
            token_file,
            ca_file,
            cert_file,
            key_file,
        } = layers
            .env(&VARIABLES, env)
            .flag("--url", "url", args.url.clone())
            .flag("--token-file", "token_file", args.token_file.clone())
            .resolve()?
            .value;
        let said = |text: String| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        let flag = args.token_file.is_some();
        Ok(Self {
            named: said(url).map(|url| checked(&url)).transpose()?,
            token: token(said(token_file), flag, env)?,
            ca: said(ca_file).map(Into::into),
            identity: match (said(cert_file), said(key_file)) {
                (Some(cert), Some(key)) => Some((cert.into(), key.into())),
                (None, None) => None,
                _ => {
                    return Err(Failure::new(
                        Exit::Config,
                        "`cert_file` and `key_file` need each other",
                    ));
                }
            },
        })
    }

    /// The URL to speak to.
    pub fn url(&self) -> &str {
        self.named.as_deref().unwrap_or(DEFAULT_URL)
    }

    /// The options of a client.
    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            token: self.token.clone(),
            ca: self.ca.clone(),
            identity: self
                .identity
                .clone()
                .map(|(cert, key)| ClientIdentity { cert, key }),
            ..ClientOptions::default()
        }
    }
}

fn file(env: &Environment<'_>) -> Option<(PathBuf, Missing)> {
    let named = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    if let Some(path) = named(FILE_VARIABLE) {
        return Some((path, Missing::Error));
    }
    let config =
        named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")))?;
    Some((config.join("buildctl/client.yaml"), Missing::Ok))
}

/// A named file wins over the variable with a token only if a flag names it: variables are nearer than files.
fn token(
    file: Option<String>,
    flag: bool,
    env: &Environment<'_>,
) -> Result<Option<Secret>, Failure> {
    let held = env(TOKEN_VARIABLE).filter(|token| !token.trim().is_empty());
    match (file, held) {
        (_, Some(token)) if !flag => Ok(Some(Secret::new(token.trim()))),
        (Some(file), _) => {
            let source = SecretSource::File { file: file.into() };
            source.load(env).map(|token| Some(first_line(&token)))
        }
        (None, _) => Ok(None),
    }
}

/// The service's own file may hold several tokens; the first one is as good as any.
fn first_line(secret: &Secret) -> Secret {
    let mut lines = secret.expose().lines().map(str::trim);
    Secret::new(
        lines
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .unwrap_or_default(),
    )
}

fn checked(url: &str) -> Result<String, Failure> {
    let url = url.trim_end_matches('/');
    let socket = url
        .strip_prefix("unix:")
        .map(|path| path.trim_start_matches("//"));
    let ok = match socket {
        Some(path) => Path::new(path).is_absolute(),
        None => url::Url::parse(url)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()),
    };
    if ok {
        Ok(url.to_owned())
    } else {
        Err(
            Failure::new(Exit::Config, format!("`{url}` is no URL of a service"))
                .hint("write it as in http://builds.example.com:8080"),
        )
    }
}
