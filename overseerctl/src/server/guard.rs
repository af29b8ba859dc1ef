//! Who may talk to the hub: peers by network or user, browsers by origin, anybody by token. Pure decisions.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};
use ipnet::IpNet;
use runyard_common::{http::server::Peer, secret::Secret};

/// Networks that are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Networks {
    /// Loopback and the networks of the local interfaces, as found at startup.
    Local,
    /// Just these.
    Listed(Vec<IpNet>),
}

/// Origins that browsers may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// No `Origin` at all, the same host, or a loopback page.
    #[default]
    SameHostOrLoopback,
    /// Any.
    Any,
    /// No `Origin` at all, or one of these, written as `scheme://host[:port]`.
    Listed(Vec<String>),
}

/// Who may.
#[derive(Clone, Debug)]
pub struct Guard {
    networks: Vec<IpNet>,
    origins: Origins,
    token: Option<Secret>,
    users: Vec<u32>,
}

impl Guard {
    /// A guard with these rules; `users` are ids that may use Unix sockets besides root and the daemon's own.
    pub fn new(
        networks: &Networks,
        origins: Origins,
        token: Option<Secret>,
        mut users: Vec<u32>,
    ) -> Self {
        let networks = match networks {
            Networks::Local => local_networks(),
            Networks::Listed(listed) => listed.clone(),
        };
        users.extend([0, rustix::process::geteuid().as_raw()]);
        Self {
            networks,
            origins,
            token,
            users,
        }
    }

    /// Whether a peer may connect at all. A peer that is not known is not trusted.
    pub fn trusts(&self, peer: Option<&Peer>) -> bool {
        match peer {
            Some(Peer::Tcp(address)) => {
                let ip = address.ip().to_canonical();
                self.networks.iter().any(|network| network.contains(&ip))
            }
            Some(Peer::Unix { uid, .. }) => self.users.contains(uid),
            None => false,
        }
    }

    /// Whether a token is good enough; without a configured one, anything is.
    pub fn accepts_token(&self, presented: Option<&str>) -> bool {
        self.token
            .as_ref()
            .is_none_or(|token| presented.is_some_and(|presented| token.matches(presented)))
    }

    /// Whether a browser on a page of this origin may connect (CVE-class: cross-site WebSocket hijacking).
    pub fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match &self.origins {
            Origins::Any => true,
            Origins::Listed(listed) => listed
                .iter()
                .any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin)),
            Origins::SameHostOrLoopback => {
                let host = headers
                    .get(header::HOST)
                    .and_then(|host| host.to_str().ok());
                is_same_host_or_loopback(origin, host)
            }
        }
    }
}

fn is_same_host_or_loopback(origin: &str, host: Option<&str>) -> bool {
    let Some(authority) = origin
        .parse::<Uri>()
        .ok()
        .and_then(|uri| uri.into_parts().authority)
    else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str()))
}

/// Loopback, and every network that a local interface is on.
fn local_networks() -> Vec<IpNet> {
    let loopback = [
        IpNet::from(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
        "::1"
            .parse::<IpAddr>()
            .map_or_else(|_| unreachable!("a literal"), IpNet::from),
    ];
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list network interfaces; only loopback is trusted");
        Vec::new()
    });
    let networks = interfaces
        .into_iter()
        .filter_map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => IpNet::with_netmask(v4.ip.into(), v4.netmask.into()).ok(),
            if_addrs::IfAddr::V6(v6) => IpNet::with_netmask(v6.ip.into(), v6.netmask.into()).ok(),
        });
    loopback.into_iter().chain(networks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(networks: &str, origins: Origins, token: Option<&str>) -> Guard {
        let networks = Networks::Listed(vec![networks.parse().unwrap()]);
        Guard::new(&networks, origins, token.map(Secret::new), Vec::new())
    }

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn peers_are_trusted_by_network() {
        let guard = guard("10.0.0.0/8", Origins::default(), None);
        let tcp = |address: &str| Peer::Tcp(address.parse().unwrap());
        assert!(guard.trusts(Some(&tcp("10.1.2.3:5"))));
        assert!(
            guard.trusts(Some(&tcp("[::ffff:10.1.2.3]:5"))),
            "an IPv4 peer on an IPv6 socket"
        );
        assert!(
            !guard.trusts(Some(&tcp("127.0.0.1:5"))),
            "a list replaces the default"
        );
        assert!(!guard.trusts(None));
    }

    #[test]
    fn strangers_on_a_unix_socket_are_refused() {
        let guard = guard("10.0.0.0/8", Origins::default(), None);
        let unix = |uid| Peer::Unix {
            uid,
            gid: 0,
            pid: None,
        };
        assert!(guard.trusts(Some(&unix(rustix::process::geteuid().as_raw()))));
        assert!(!guard.trusts(Some(&unix(54_321))));
    }

    #[test]
    fn local_networks_hold_loopback() {
        let guard = Guard::new(&Networks::Local, Origins::default(), None, Vec::new());
        assert!(guard.trusts(Some(&Peer::Tcp("127.0.0.1:1".parse().unwrap()))));
        assert!(guard.trusts(Some(&Peer::Tcp("[::1]:1".parse().unwrap()))));
        assert!(!guard.trusts(Some(&Peer::Tcp("198.51.100.7:1".parse().unwrap()))));
    }

    #[test]
    fn foreign_origins_are_refused_by_default() {
        let guard = guard("127.0.0.0/8", Origins::default(), None);
        assert!(
            guard.allows_origin(&headers(None, "h:8080")),
            "not a browser"
        );
        assert!(
            guard.allows_origin(&headers(Some("http://h:8080"), "h:8080")),
            "its own page"
        );
        assert!(
            guard.allows_origin(&headers(Some("http://localhost:3000"), "h:8080")),
            "a local page"
        );
        assert!(guard.allows_origin(&headers(Some("http://[::1]:3000"), "h:8080")));
        for origin in [
            "http://evil.example",
            "http://h:9999",
            "null",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(
                !guard.allows_origin(&headers(Some(origin), "h:8080")),
                "{origin}"
            );
        }
    }

    #[test]
    fn a_list_of_origins_replaces_the_default() {
        let listed = guard(
            "127.0.0.0/8",
            Origins::Listed(vec!["https://ops.example".into()]),
            None,
        );
        assert!(listed.allows_origin(&headers(Some("https://ops.example"), "h")));
        assert!(!listed.allows_origin(&headers(Some("http://localhost"), "h")));
        let any = guard("127.0.0.0/8", Origins::Any, None);
        assert!(any.allows_origin(&headers(Some("http://evil.example"), "h")));
    }

    #[test]
    fn a_configured_token_must_be_presented() {
        let open = guard("127.0.0.0/8", Origins::default(), None);
        assert!(open.accepts_token(None));
        let closed = guard("127.0.0.0/8", Origins::default(), Some("s3cret"));
        assert!(closed.accepts_token(Some("s3cret")));
        assert!(!closed.accepts_token(Some("wrong")) && !closed.accepts_token(None));
    }
}
