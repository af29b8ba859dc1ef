//! The address that a daemon is told to listen on, as text. Binding it is [`mod@super::bind`]'s
//! work.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::http::is_loopback;

/// Where to listen.
///
/// | text | meaning |
/// |---|---|
/// | `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080` | this host's address only |
/// | `:8080`, `8080`, `*:8080` | every interface, IPv6 and IPv4 |
/// | `127.0.0.1:0` | a free port, which the daemon announces |
/// | `unix:/run/hub.sock`, `/run/hub.sock`, `./hub.sock` | a Unix socket |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP port.
    Tcp {
        /// Name or address of the interface; empty for all of them.
        host: String,
        /// The port; 0 for any free one.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
}

/// A text that is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address to listen on: {reason} (use host:port, :port or unix:/path)")]
pub struct ListenError {
    text: String,
    reason: &'static str,
}

impl Listen {
    /// Whether only this machine can connect: a loopback address or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => is_loopback(host),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let refuse = |reason| ListenError {
            text: text.to_owned(),
            reason,
        };
        let trimmed = text.trim();
        if let Some(path) = unix_path(trimmed) {
            return match path {
                "" => Err(refuse("the path is missing")),
                path => Ok(Self::Unix { path: path.into() }),
            };
        }
        let (host, port) = match trimmed.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("", trimmed),
        };
        let port = port
            .parse()
            .map_err(|_| refuse("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(Some(inner)) => inner,
            Some(None) => return Err(refuse("the bracket is not closed")),
            None if host.contains(':') => return Err(refuse("an IPv6 address needs brackets")),
            None => host,
        };
        let host = if host == "*" { "" } else { host };
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

fn unix_path(text: &str) -> Option<&str> {
    let bare = text.starts_with('/') || text.starts_with("./") || text.starts_with("../");
    text.strip_prefix("unix:").or(bare.then_some(text))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Listen {
        Listen::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    fn unix(path: &str) -> Listen {
        Listen::Unix { path: path.into() }
    }

    #[test]
    fn every_documented_form_is_read() {
        let table = [
            ("127.0.0.1:8080", tcp("127.0.0.1", 8080)),
            ("localhost:80", tcp("localhost", 80)),
            ("[::1]:8080", tcp("::1", 8080)),
            (":8080", tcp("", 8080)),
            ("8080", tcp("", 8080)),
            ("*:8080", tcp("", 8080)),
            (" 127.0.0.1:0 ", tcp("127.0.0.1", 0)),
            ("unix:/run/hub.sock", unix("/run/hub.sock")),
            ("unix:hub.sock", unix("hub.sock")),
            ("/run/hub.sock", unix("/run/hub.sock")),
            ("./hub.sock", unix("./hub.sock")),
        ];
        for (text, listen) in table {
            assert_eq!(text.parse(), Ok(listen), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for listen in [
            tcp("", 1),
            tcp("::1", 2),
            tcp("localhost", 3),
            unix("/x"),
            unix("y"),
        ] {
            assert_eq!(listen.to_string().parse(), Ok(listen));
        }
    }

    #[test]
    fn errors_quote_the_text_and_say_why() {
        let message = |text: &str| text.parse::<Listen>().unwrap_err().to_string();
        assert_eq!(
            message("localhost"),
            "`localhost` is no address to listen on: the port is not a number from 0 to 65535 \
             (use host:port, :port or unix:/path)"
        );
        assert!(message(":70000").contains("the port is not a number"));
        assert!(message("::1:80").contains("an IPv6 address needs brackets"));
        assert!(message("[::1:80").contains("the bracket is not closed"));
        assert!(message("unix:").contains("the path is missing"));
    }

    #[test]
    fn loopback_and_sockets_are_local() {
        for text in [
            "127.0.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "localhost:1",
            "unix:/x",
        ] {
            assert!(text.parse::<Listen>().unwrap().is_local(), "{text}");
        }
        for text in [":1", "0.0.0.0:1", "example.org:1", "[::]:1"] {
            assert!(!text.parse::<Listen>().unwrap().is_local(), "{text}");
        }
    }
}
