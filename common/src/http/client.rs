//! The blocking HTTP client of the command-line verbs: timeouts, retries of what may be repeated,
//! and errors that a user can act on. Paths and bodies are the tool's.
//!
//! ```no_run
//! use runyard_common::http::client::{Client, ClientOptions, path};
//!
//! # #[derive(serde::Deserialize)] struct Task;
//! # fn show(id: &str) -> Result<(), runyard_common::report::Failure> {
//! let hub = Client::new("overseerctl/0.1.0", "http://127.0.0.1:8080", ClientOptions::default())?;
//! let task: Task = hub.get(&path(&["tasks", id])).query("output", "json").send()?.json()?;
//! # Ok(())
//! # }
//! ```

mod call;
mod failure;
mod retry;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Identity, Method, Url};

pub use call::{Call, Response};
pub use retry::{Retry, asked_wait};

use crate::crypto;
use crate::exit::Exit;
use crate::http::is_loopback;
use crate::report::{Failure, OrExit};
use crate::secret::Secret;

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long the server may be silent: before its answer begins, and between parts of a body.
    pub read_timeout: Duration,
    /// How long a call may take with all its retries until its answer begins; without it only the
    /// single waits count.
    pub total_timeout: Option<Duration>,
    /// What to do when a call fails in a way that may pass.
    pub retry: Retry,
    /// Sent as `Authorization: Bearer …`, to the base URL only.
    pub token: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate.
    pub identity: Option<ClientIdentity>,
}

/// A client certificate for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM file with the certificate, followed by those between it and the root.
    pub cert: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            total_timeout: None,
            retry: Retry::default(),
            token: None,
            ca: None,
            identity: None,
        }
    }
}

/// A client of one server.
///
/// It must not be made, used or dropped within an async task: the blocking client has a runtime of
/// its own.
#[derive(Debug)]
pub struct Client {
    http: reqwest::blocking::Client,
    base: Base,
    options: ClientOptions,
}

impl Client {
    /// A client for the server at `base`: `http://host:port/prefix`, `https://…`, or `unix:/path`
    /// for HTTP over a Unix socket. `agent` is the tool's name and version (`hvpool/0.1.0`).
    ///
    /// Fails with [`Exit::Config`] when the URL or a certificate's file cannot be used.
    pub fn new(agent: &str, base: &str, options: ClientOptions) -> Result<Self, Failure> {
        let base = Base::parse(base)?;
        let mut builder = reqwest::blocking::Client::builder()
            .user_agent(agent)
            .connect_timeout(options.connect_timeout)
            .timeout(options.read_timeout);
        if base.is_local() {
            // A proxy cannot reach what only this machine can.
            builder = builder.no_proxy();
        }
        if let Some(path) = &base.socket {
            builder = over_socket(builder, path);
        }
        let http = trust(builder, &base, &options)?.build().map_err(|error| {
            let message = format!("cannot make a client for `{}`", base.shown);
            Failure::new(Exit::Config, message).caused_by(error.without_url())
        })?;
        Ok(Self {
            http,
            base,
            options,
        })
    }

    /// The base URL as the user gave it, without a password.
    pub fn base(&self) -> &str {
        &self.base.shown
    }

    /// Begins a GET of a path below the base URL.
    pub fn get(&self, path: &str) -> Call<'_> {
        self.call(Method::GET, path)
    }

    /// Begins a HEAD.
    pub fn head(&self, path: &str) -> Call<'_> {
        self.call(Method::HEAD, path)
    }

    /// Begins a POST, which is never repeated.
    pub fn post(&self, path: &str) -> Call<'_> {
        self.call(Method::POST, path)
    }

    /// Begins a PUT.
    pub fn put(&self, path: &str) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    /// Begins a PATCH, which is never repeated.
    pub fn patch(&self, path: &str) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    /// Begins a DELETE.
    pub fn delete(&self, path: &str) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// Begins a call of any method.
    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        Call::new(self, method, path)
    }
}

/// A path of segments that may hold any character: `path(&["tasks", "a/b"])` is `/tasks/a%2Fb`.
pub fn path(segments: &[&str]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.extend(["%", &format!("{byte:02X}")]);
            }
        }
    }
    path
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    url: Url,
    shown: String,
    socket: Option<PathBuf>,
}

impl Base {
    fn parse(text: &str) -> Result<Self, Failure> {
        let refuse = || Failure::new(Exit::Config, format!("`{text}` is no URL of a server"));
        if let Some(path) = text.strip_prefix("unix:") {
            if cfg!(not(unix)) {
                return Err(refuse().hint("this system has no Unix sockets"));
            }
            let path = path.strip_prefix("//").unwrap_or(path);
            // The host is sent along and means nothing on a socket.
            let url = Url::parse("http://localhost").or_exit(Exit::Internal)?;
            return Ok(Self {
                url,
                shown: text.to_owned(),
                socket: Some(path.into()),
            });
        }
        let url = Url::parse(text).map_err(|error| {
            refuse()
                .caused_by(error)
                .hint("write it as http://host:port")
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse().hint("it begins with http://, https:// or unix:"));
        }
        let mut shown = url.clone();
        if shown.password().is_some() {
            // Cannot fail: the URL has a host.
            let _ = shown.set_password(Some("***"));
        }
        Ok(Self {
            url,
            shown: shown.as_str().trim_end_matches('/').to_owned(),
            socket: None,
        })
    }

    fn is_local(&self) -> bool {
        self.socket.is_some() || self.url.host_str().is_some_and(is_loopback)
    }
}

#[cfg(unix)]
fn over_socket(builder: ClientBuilder, path: &Path) -> ClientBuilder {
    builder.unix_socket(path)
}

#[cfg(not(unix))]
fn over_socket(builder: ClientBuilder, _: &Path) -> ClientBuilder {
    builder
}

/// Sets whom to trust. The system's authorities are only read where they are needed, as that can be
/// slow or fail.
fn trust(
    builder: ClientBuilder,
    base: &Base,
    options: &ClientOptions,
) -> Result<ClientBuilder, Failure> {
    crypto::install();
    let builder = match &options.ca {
        Some(path) => {
            let certificates = Certificate::from_pem_bundle(&read(path)?);
            let certificates = certificates.map_err(|error| unusable(path).caused_by(error))?;
            if certificates.is_empty() {
                return Err(unusable(path).hint("the file holds no `BEGIN CERTIFICATE` block"));
            }
            builder.tls_certs_only(certificates)
        }
        None if base.url.scheme() == "http" => builder.tls_certs_only([]),
        None => builder,
    };
    let Some(ClientIdentity { cert, key }) = &options.identity else {
        return Ok(builder);
    };
    let pem = [read(key)?, b"\n".to_vec(), read(cert)?].concat();
    let identity = Identity::from_pem(&pem).map_err(|error| unusable(cert).caused_by(error))?;
    Ok(builder.identity(identity))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| unusable(path).caused_by(error))
}

fn unusable(path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        format!("cannot use the certificates in `{}`", path.display()),
    )
}

#[cfg(test)]
mod tests;
