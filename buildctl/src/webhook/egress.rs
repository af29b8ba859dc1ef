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
const METADATA: [IpAddr; 7] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// What the Internet does not reach (IANA, "IPv4 Special-Purpose Address Registry" and "IPv4 Multicast Address Space Registry"):
/// the first address of each block, and how many bits name it.
const APART_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    // Relays to 6to4, of which none should be left (RFC 7526).
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

/// All that is given out to be reached by one receiver (IANA, "IPv6 Address Space"): what lies outside is local, multicast,
/// deprecated or nobody's.
const UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What of it the Internet does not reach (IANA, "IPv6 Special-Purpose Address Registry").
const APART_V6: [(Ipv6Addr, u32); 4] = [
    // Protocols' own, Teredo and benchmarks among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4, which leads to an IPv4 address by relays that are gone.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
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
            IpAddr::V6(v6) => embedded(v6),
            IpAddr::V4(_) => Vec::new(),
        };
        let mut meant = inner.iter().map(|inner| IpAddr::V4(*inner));
        if METADATA.contains(&address) || meant.any(|inner| METADATA.contains(&inner)) {
            return false;
        }
        is_public(address) || self.allow_private || self.names(host)
    }
}

/// Whether the Internet reaches it.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !APART_V4.iter().any(|block| is_in_v4(v4, *block)),
        // The well-known prefix of NAT64 (RFC 6052): as far as what it leads to.
        IpAddr::V6(v6) if matches!(v6.segments(), [0x64, 0xff9b, 0, 0, 0, 0, ..]) => {
            embedded(v6).iter().all(|v4| is_public(IpAddr::V4(*v4)))
        }
        IpAddr::V6(v6) => {
            is_in_v6(v6, UNICAST) && !APART_V6.iter().any(|block| is_in_v6(v6, *block))
        }
    }
}

fn is_in_v4(address: Ipv4Addr, (first, bits): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= bits
}

fn is_in_v6(address: Ipv6Addr, (first, bits): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ first.to_bits()).leading_zeros() >= bits
}

/// The IPv4 addresses to which one may lead that is made for translation or a tunnel.
fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = v6.to_bits();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the last 32 bits are meant"
    )]
    let v4 = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    match v6.segments() {
        // NAT64 and IPv4-compatible.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0, ..] => vec![v4(0)],
        // NAT64 of a network (RFC 8215): 96 bits before it, or 48, and then an octet of nothing within (RFC 6052, section 2.2).
        [0x64, 0xff9b, 1, high, ..] => {
            let low = v4(40).to_bits() & 0xffff;
            let split = Ipv4Addr::from_bits((u32::from(high) << 16) | low);
            vec![v4(0), split]
        }
        // 6to4.
        [0x2002, ..] => vec![v4(80)],
        // Teredo: its server, and its client, inverted (RFC 4380).
        [0x2001, 0, ..] => vec![v4(64), Ipv4Addr::from_bits(!v4(0).to_bits())],
        _ => Vec::new(),
    }
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
    fn only_addresses_that_the_internet_reaches_are_posted_to() {
        let apart = [
            // Spellings.
            "127.1 2130706433 0x7f.1 [::ffff:127.0.0.1] [::ffff:10.0.0.1]",
            // The first and the last of each block.
            "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255",
            "169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.255 192.0.2.0 192.0.2.255",
            "192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255",
            "203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255",
            "[::] [::1] [::127.0.0.1] [::8.8.8.8] [100::1] [100:0:0:1::1] [1fff:ffff::1] [2001::1] [2001:0:4136:e378::1]",
            "[2001:2::1] [2001:10::1] [2001:1ff:ffff::1] [2001:db8::1] [2001:db8:ffff::1] [2002::1] [2002:7f00:1::] [2002:808:808::1]",
            "[3fff::1] [3fff:fff:ffff::1] [4000::1] [5f00::1] [fc00::1] [fd12::1] [fdff:ffff::1] [fe80::1] [febf::1] [fec0::1]",
            "[feff::1] [ff02::1] [ff0e::1]",
            // IPv4 within: NAT64 to private addresses, and that of a network to whatever.
            "[64:ff9b::127.0.0.1] [64:ff9b::10.1.2.3] [64:ff9b::198.18.0.1] [64:ff9b::a9fe:1] [64:ff9b:1::8.8.8.8] [64:ff9b:1:ffff::1]",
        ];
        for host in apart.iter().flat_map(|hosts| hosts.split(' ')) {
            let refused = refusal(&Egress::default(), &format!("http://{host}/hook"));
            assert!(refused.is_some(), "{host}");
        }
        let reached = [
            "1.0.0.0 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0",
            "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.31.196.1",
            "192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0",
            "203.0.112.255 203.0.114.0 223.255.255.255 hooks.example",
            "[2001:200::1] [2001:db7:ffff::1] [2001:db9::1] [2003::1] [2606:2800:21f:cb07::1] [2620:4f:8000::1] [3ffe:ffff::1]",
            "[3fff:1000::1] [64:ff9b::8.8.8.8] [::ffff:8.8.8.8]",
        ];
        for host in reached.iter().flat_map(|hosts| hosts.split(' ')) {
            let url = format!("https://{host}:8443/hook");
            assert_eq!(refusal(&Egress::default(), &url), None, "{host}");
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
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::",
            "2001:0:a9fe:a9fe::1",
            "2001:0:4136:e378::5601:5601",
            "fd00:ec2::254",
            "fd20:ce::254",
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
