//! Which hub a client talks to, as its user writes it. Connecting is [`super::link`]'s work.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use runyard_common::{exit::Exit, report::Failure, secret::Secret};

/// Where a hub is looked for when nobody says where.
pub const DEFAULT_URL: &str = "ws://127.0.0.1:8080/ws";

/// Path of the WebSocket on every hub.
const ENDPOINT: &str = "/ws";

/// A hub, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is.
    pub place: Place,
    /// What to present as `Authorization: Bearer …`.
    pub token: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long a connection or a reply may take.
    pub timeout: Duration,
}

/// Where a hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP port.
    Tcp {
        /// Name or address; an IPv6 address stands without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether to speak TLS.
        tls: bool,
        /// Path of the WebSocket, query included.
        path: String,
    },
    /// A Unix socket.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
}

impl Place {
    /// Reads a place: a `ws`, `wss`, `http` or `https` URL, `host:port`, `:port`, `port`, or the path of a Unix socket
    /// as `unix:/path`, `/path` or `./path`. A URL without a path means `/ws`.
    ///
    /// Fails with [`Exit::Usage`].
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let refuse = |reason: &str| {
            Failure::new(
                Exit::Usage,
                format!("`{text}` is no address of a hub: {reason}"),
            )
            .hint("write it as ws://host:port/ws, host:port or unix:/path/of/socket")
        };
        let trimmed = text.trim();
        if let Some(path) = socket_path(trimmed) {
            let path = PathBuf::from(path);
            return if path.as_os_str().is_empty() {
                Err(refuse("the path is missing"))
            } else {
                Ok(Self::Unix { path })
            };
        }
        let (tls, default_port, rest) = match trimmed.split_once("://") {
            Some(("ws" | "http", rest)) => (false, Some(80), rest),
            Some(("wss" | "https", rest)) => (true, Some(443), rest),
            Some((scheme, _)) => {
                return Err(refuse(&format!(
                    "`{scheme}` is none of ws, wss, http, https"
                )));
            }
            None => (false, None, trimmed),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(refuse("it holds a user or password")
                .hint("hubs take tokens: use --token or --token-file"));
        }
        let (host, port) = host_and_port(authority, default_port).map_err(refuse)?;
        Ok(Self::Tcp {
            host,
            port,
            tls,
            path: endpoint(path),
        })
    }

    /// The same hub's HTTP routes: `http://host:port` or `unix:/path`.
    pub fn http_base(&self) -> String {
        match self {
            Self::Unix { path } => format!("unix:{}", path.display()),
            Self::Tcp {
                host,
                port,
                tls,
                path,
            } => {
                let scheme = if *tls { "https" } else { "http" };
                let prefix = path
                    .split('?')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches('/');
                let prefix = prefix.strip_suffix(ENDPOINT).unwrap_or_default();
                format!("{scheme}://{}{prefix}", authority(host, *port))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
            Self::Tcp {
                host,
                port,
                tls,
                path,
            } => {
                let scheme = if *tls { "wss" } else { "ws" };
                // A query may hold a token.
                let path = path.split('?').next().unwrap_or_default();
                write!(f, "{scheme}://{}{path}", authority(host, *port))
            }
        }
    }
}

/// Host and port as URLs join them.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn socket_path(text: &str) -> Option<&str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Some(path.strip_prefix("//").unwrap_or(path));
    }
    (Path::new(text).is_absolute() || text.starts_with("./") || text.starts_with("../"))
        .then_some(text)
}

fn endpoint(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let path = if path.trim_matches('/').is_empty() {
        ENDPOINT
    } else {
        path
    };
    format!("{path}{query}")
}

fn host_and_port(
    authority: &str,
    default_port: Option<u16>,
) -> Result<(String, u16), &'static str> {
    let bracketed = authority.starts_with('[');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, Some(port)),
        _ if default_port.is_none() && authority.bytes().all(|byte| byte.is_ascii_digit()) => {
            ("", Some(authority))
        }
        _ => (authority, None),
    };
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("the bracket is not closed")?,
        None if host.contains(':') => return Err("an IPv6 address needs brackets"),
        None => host,
    };
    let port = match port {
        Some(port) => port
            .parse()
            .map_err(|_| "the port is not a number from 0 to 65535")?,
        None => default_port.ok_or("the port is missing")?,
    };
    // What a hub calls "every interface" is, for its clients, this machine.
    let host = if matches!(host, "" | "*" | "0.0.0.0") {
        "127.0.0.1"
    } else {
        host
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Place::parse(text).map_or_else(
            |failure| failure.message().to_owned(),
            |place| place.to_string(),
        )
    }

    #[test]
    fn every_spelling_of_an_address_is_understood() {
        let spellings = [
            (DEFAULT_URL, "ws://127.0.0.1:8080/ws"),
            ("ws://hub:9000", "ws://hub:9000/ws"),
            ("wss://hub/", "wss://hub:443/ws"),
            ("http://hub:1", "ws://hub:1/ws"),
            ("https://hub/tasks/ws", "wss://hub:443/tasks/ws"),
            ("ws://[::1]:8080/ws", "ws://[::1]:8080/ws"),
            ("[::1]:8080", "ws://[::1]:8080/ws"),
            ("hub:8080", "ws://hub:8080/ws"),
            (":8080", "ws://127.0.0.1:8080/ws"),
            ("8080", "ws://127.0.0.1:8080/ws"),
            ("0.0.0.0:8080", "ws://127.0.0.1:8080/ws"),
            ("unix:/run/hub.sock", "unix:/run/hub.sock"),
            ("unix:///run/hub.sock", "unix:/run/hub.sock"),
            ("unix:hub.sock", "unix:hub.sock"),
            ("/run/hub.sock", "unix:/run/hub.sock"),
            ("./hub.sock", "unix:./hub.sock"),
        ];
        for (text, expected) in spellings {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        let reasons = [
            ("ftp://hub", "`ftp` is none of"),
            ("hub", "the port is missing"),
            ("hub:", "the port is not a number"),
            ("hub:70000", "the port is not a number"),
            ("[::1", "the bracket is not closed"),
            ("::1:80", "needs brackets"),
            ("ws://me:secret@hub", "user or password"),
            ("unix:", "the path is missing"),
        ];
        for (text, reason) in reasons {
            assert!(shown(text).contains(reason), "{text}: {}", shown(text));
            assert_eq!(Place::parse(text).unwrap_err().exit(), Exit::Usage);
        }
    }

    #[test]
    fn the_http_routes_are_beside_the_websocket() {
        let base = |text| Place::parse(text).unwrap().http_base();
        assert_eq!(base("ws://hub:9000/ws"), "http://hub:9000");
        assert_eq!(base("wss://hub/tasks/ws?token=x"), "https://hub:443/tasks");
        assert_eq!(base("/run/hub.sock"), "unix:/run/hub.sock");
    }

    #[test]
    fn a_query_is_sent_but_not_shown() {
        let place = Place::parse("ws://hub:1/ws?token=secret").unwrap();
        assert!(matches!(&place, Place::Tcp { path, .. } if path == "/ws?token=secret"));
        assert_eq!(place.to_string(), "ws://hub:1/ws");
    }
}
