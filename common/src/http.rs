//! HTTP as the tools speak it: a blocking client for verbs, a server for daemons, and the body of
//! an error between them.

pub mod client;
pub mod problem;
pub mod server;

use std::net::IpAddr;

/// Whether a host, as a URL has it without its port, is this very machine: `localhost` or a loopback address, with or without
/// brackets. Names that may be anywhere, such as `x.localhost` where resolvers do not know RFC 6761, are not.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_very_machine_is_its_loopback() {
        for host in [
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "localhost:80",
            "x.localhost",
            "localhost.test",
            "127.0.0.1.test",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
