//! Where posts may go. A submitter chooses the URL and the service makes the request, so that without this anybody who may
//! submit could reach what only the service's machine can: itself, its cloud's metadata, its network. Names are resolved once,
//! what is resolved is checked, and the connection goes to an address that was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use url::Host;

/// Where posts may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Whether to addresses of this machine and of private networks too.
    pub allow_private: bool,
    /// If there are any, only to these hosts (`hooks.example`, `*.hooks.example`), which may then have private addresses.
    pub hosts: Vec<String>,
}

/// Why a post may not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the webhook's URL is none: {0}")]
    NoUrl(String),
    #[error("webhooks are posted by http or https, and not by `{0}`")]
    Scheme(String),
    #[error("webhooks may not be posted to `{0}` (see webhooks.hosts)")]
    Host(String),
    #[error(
        "webhooks may not be posted to `{host}`, which is at {address} (see webhooks.allow_private)"
    )]
    Address { host: String, address: IpAddr },
}

/// Services that give credentials to whoever asks from a machine of a cloud: never a receiver.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl Egress {
    /// The URL, if posts may go there as far as it shows; names are checked again when they are resolved.
    pub(super) fn allowed(&self, url: &str) -> Result<Url, Refused> {
        let url = Url::parse(url).map_err(|error| Refused::NoUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        let (name, address) = match url.host() {
            Some(Host::Domain(name)) => (name.to_owned(), None),
            Some(Host::Ipv4(address)) => (address.to_string(), Some(IpAddr::V4(address))),
            Some(Host::Ipv6(address)) => (address.to_string(), Some(IpAddr::V6(address))),
            None => return Err(Refused::NoUrl("it has no host".to_owned())),
        };
        if !self.hosts.is_empty() && !self.names(&name) {
            return Err(Refused::Host(name));
        }
        match address.filter(|address| !self.reaches(&name, *address)) {
            Some(address) => Err(Refused::Address {
                host: name,
                address,
            }),
            None => Ok(url),
        }
    }

    /// Whether the operator named this host.
    fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts
            .iter()
            .map(|named| named.to_ascii_lowercase())
            .any(|named| match named.strip_prefix("*.") {
                Some(domain) => host
                    .strip_suffix(domain)
                    .is_some_and(|rest| rest.ends_with('.')),
                None => host == named,
            })
    }

    /// Whether posts to this host may go to this address.
    fn reaches(&self, host: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let inner = match address {
            IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        if METADATA.contains(&address) || inner.is_some_and(|inner| METADATA.contains(&inner)) {
            return false;
        }
        is_public(address) || self.allow_private || self.names(host)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let this_network = a == 0;
            let reserved = a >= 240;
            let odd = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast();
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || shared
                || this_network
                || reserved
                || odd)
        }
        IpAddr::V6(v6) => {
            let odd = v6.is_unspecified() || v6.is_multicast();
            let public =
                !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || odd);
            public && embedded(v6).is_none_or(|inner| is_public(IpAddr::V4(inner)))
        }
    }
}

/// The IPv4 address to which NAT64, 6to4 and IPv4-compatible addresses lead.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        | [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One address that is not allowed is one too many: which of them is taken is left to chance.
            let refused = found
                .iter()
                .find(|found| !egress.reaches(&host, found.ip()));
            if let Some(refused) = refused {
                let address = refused.ip();
                return Err(Refused::Address { host, address }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(egress: &Egress, url: &str) -> Option<String> {
        egress.allowed(url).err().map(|refused| refused.to_string())
    }

    #[test]
    fn addresses_that_only_this_machine_reaches_are_refused() {
        let egress = Egress::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "[fe80::1]",
            "[fd12::1]",
            "100.64.0.1",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "2130706433",
            "0x7f.1",
            "169.254.169.254",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[::127.0.0.1]",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
        ] {
            assert!(
                refusal(&egress, &format!("http://{host}/hook")).is_some(),
                "{host}"
            );
        }
        for host in ["93.184.215.14", "[2606:2800:21f:cb07::1]", "hooks.example"] {
            assert_eq!(refusal(&egress, &format!("https://{host}:8443/hook")), None);
        }
    }

    #[test]
    fn metadata_services_are_refused_whatever_is_allowed() {
        let egress = Egress {
            allow_private: true,
            hosts: vec!["169.254.169.254".to_owned()],
        };
        assert!(refusal(&egress, "http://169.254.169.254/latest").is_some());
        for address in [
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
        ] {
            let egress = Egress {
                allow_private: true,
                hosts: Vec::new(),
            };
            assert!(
                refusal(&egress, &format!("http://[{address}]/latest")).is_some(),
                "{address}"
            );
        }
    }

    #[test]
    fn named_hosts_are_the_only_ones_and_may_be_private() {
        let egress = Egress {
            allow_private: false,
            hosts: vec!["10.1.2.3".to_owned(), "*.hooks.example".to_owned()],
        };
        for url in [
            "http://10.1.2.3/x",
            "https://a.hooks.example/",
            "https://A.Hooks.Example./",
        ] {
            assert_eq!(refusal(&egress, url), None, "{url}");
        }
        for url in [
            "http://10.1.2.4/x",
            "https://hooks.example/",
            "https://evilhooks.example/",
        ] {
            assert!(refusal(&egress, url).is_some(), "{url}");
        }
    }

    #[test]
    fn only_http_is_posted_by() {
        assert_eq!(
            refusal(&Egress::default(), "ftp://hooks.example/x").unwrap(),
            "webhooks are posted by http or https, and not by `ftp`"
        );
        assert!(
            refusal(&Egress::default(), "hooks")
                .unwrap()
                .starts_with("the webhook's URL is none")
        );
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused() {
        let name = || "localhost".parse::<Name>().unwrap();
        let refused = Egress::default().resolve(name()).await.err().unwrap();
        assert!(refused.downcast_ref::<Refused>().is_some(), "{refused}");
        let allowed = Egress {
            allow_private: true,
            hosts: Vec::new(),
        };
        assert!(
            allowed
                .resolve(name())
                .await
                .unwrap()
                .all(|found| found.ip().is_loopback())
        );
    }
}
