//! Who may talk to the service: under which names it may be addressed (against DNS rebinding), from which web pages, and with
//! which tokens. Pure decisions, but for the tokens' file, which is read again when it changes.
//!
//! A service that listens on this machine only answers to names of this machine, to IP addresses and to `allowed_hosts`. One
//! that others reach answers to every name while `allowed_hosts` is empty, as the original does; but to web pages only under
//! a name that it knows, so that a page whose name was made to point here can change nothing.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use runyard_common::{http::is_loopback, secret::Secret};

use crate::config::{self, Config};

/// How often the tokens' file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Who may. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    tokens: Option<Tokens>,
    /// Names under which the service is reached, in lower case.
    hosts: Vec<String>,
    /// This machine's name.
    own: String,
    /// Whether to answer to known names only.
    strict: bool,
    origins: Vec<String>,
}

/// What to make of where a request says that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From no web page, or from our own.
    Own,
    /// From a page that may, being listed or of this machine: what to answer in `Access-Control-Allow-Origin`.
    Allowed(String),
    /// From another page.
    Foreign,
}

impl Guard {
    /// The guard that a configuration asks for.
    pub fn of(config: &Config) -> Self {
        Self(Arc::new(Rules {
            tokens: (!config.tokens.is_empty()).then(|| Tokens::of(config)),
            hosts: config.allowed_hosts.clone(),
            own: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .to_ascii_lowercase(),
            strict: config.listen.is_local() || !config.allowed_hosts.is_empty(),
            origins: config.cors_origins.clone(),
        }))
    }

    /// Whether a request under this `Host` is answered. Programs may leave it out; browsers cannot.
    pub fn answers_to(&self, host: Option<&str>) -> bool {
        !self.0.strict || host.is_none_or(|host| self.0.knows(host))
    }

    /// What to make of a request's `Origin`.
    pub fn origin(&self, headers: &HeaderMap) -> Origin {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Origin::Own;
        };
        let Ok(origin) = origin.to_str() else {
            return Origin::Foreign;
        };
        let listed = |listed: &String| listed.trim_end_matches('/').eq_ignore_ascii_case(origin);
        if self.0.origins.iter().any(|listed| listed == "*") {
            return Origin::Allowed("*".to_owned());
        }
        if self.0.origins.iter().any(listed) {
            return Origin::Allowed(origin.to_owned());
        }
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        self.0.page(origin, host)
    }

    /// Whether clients have to present a token.
    pub fn wants_token(&self) -> bool {
        self.0.tokens.is_some()
    }

    /// Whether a token is good enough; where none are configured, anything is.
    pub fn admits(&self, presented: Option<&str>) -> bool {
        let Some(tokens) = &self.0.tokens else {
            return true;
        };
        presented.is_some_and(|presented| tokens.hold(presented))
    }
}

impl Rules {
    /// Whether a name is one of ours, whoever made it point here.
    fn knows(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        let name = bare(&authority);
        let matches = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(above) => name
                .strip_suffix(above)
                .is_some_and(|below| below.ends_with('.')),
            None => pattern == "*" || *pattern == name || pattern.eq_ignore_ascii_case(host),
        };
        is_local(&name)
            || name.parse::<IpAddr>().is_ok()
            || (name == self.own && !name.is_empty())
            || self.hosts.iter().any(matches)
    }

    /// Whether a page is this service's own, or another one of this machine (a tool that somebody runs here), which may call
    /// what is on this machine, too.
    fn page(&self, origin: &str, host: Option<&str>) -> Origin {
        let authority = origin
            .parse::<Uri>()
            .ok()
            .and_then(|uri| uri.into_parts().authority);
        let (Some(page), Some(host)) = (authority, host) else {
            return Origin::Foreign;
        };
        let local = |authority: &Authority| is_local(&bare(authority));
        if page.as_str().eq_ignore_ascii_case(host) && self.knows(host) {
            Origin::Own
        } else if local(&page) && host.parse().is_ok_and(|host| local(&host)) {
            Origin::Allowed(origin.to_owned())
        } else {
            Origin::Foreign
        }
    }
}

/// The host without port and brackets.
fn bare(authority: &Authority) -> String {
    let host = authority.host();
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

/// Whether browsers take a name for this machine's, whatever name servers say.
fn is_local(name: &str) -> bool {
    is_loopback(name) || name.ends_with(".localhost")
}

/// The tokens of clients, as their file has them. A file that is gone or holds none leaves the old ones in force: nobody gets
/// in, and nobody is kept out, by an accident of writing it.
#[derive(Debug)]
struct Tokens {
    file: Option<PathBuf>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    tokens: Arc<[Secret]>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// What tells one state of a file from another.
type Stamp = (u64, i64, i64, u64);

impl Tokens {
    fn of(config: &Config) -> Self {
        let file = config.token_file.clone();
        let held = Held {
            tokens: config.tokens.clone().into(),
            stamp: file.as_deref().and_then(|file| stamp(file).ok()),
            looked: Instant::now(),
        };
        Self {
            file,
            held: Mutex::new(held),
        }
    }

    /// Compares with all of them, so that the time says nothing about which one it was.
    fn hold(&self, presented: &str) -> bool {
        let tokens = self.now();
        let count = tokens
            .iter()
            .filter(|token| token.matches(presented))
            .count();
        count > 0
    }

    fn now(&self) -> Arc<[Secret]> {
        let mut held = self.lock();
        if let Some(file) = &self.file
            && held.looked.elapsed() >= LOOK
        {
            held.looked = Instant::now();
            held.look(file);
        }
        Arc::clone(&held.tokens)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn look(&mut self, file: &Path) {
        let stamp = stamp(file).ok();
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match config::tokens(&file.to_string_lossy()) {
            Ok(tokens) => {
                tracing::info!(count = tokens.len(), "tokens were read again");
                self.tokens = tokens.into();
            }
            Err(error) => tracing::error!(%error, "the tokens of before stay in force"),
        }
    }
}

fn stamp(file: &Path) -> io::Result<Stamp> {
    let of = fs::metadata(file)?;
    Ok((of.ino(), of.mtime(), of.mtime_nsec(), of.size()))
}
