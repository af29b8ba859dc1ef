//! The container's own `/etc`: who it is, what it is called, and how it finds others. In a root file system of the task's
//! only what the network decides is replaced: its users and its time zone are its own affair.

use std::{fmt::Write, path::Path};

use super::view::View;
use crate::{
    host::{Host, Purpose},
    task::{Dns, HostEntry, Network, Task},
    user::Account,
};

/// The user and group that stand for nobody (`nobody(5)` of systemd's "Users, Groups, UIDs and GIDs").
const NOBODY: u32 = 65_534;
/// Where names are looked up: in files and with the resolver, as no daemon of the host can be asked.
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n";

pub(super) fn write(view: &mut View<'_>, task: &Task, account: &Account, host: &Host) {
    let name = hostname(task, host);
    view.text("/etc/hostname", format!("{name}\n"));
    view.text("/etc/hosts", hosts(task, host, &name));
    view.text("/etc/resolv.conf", resolv_conf(task, host));
    if view.rootfs().is_some() {
        return;
    }
    view.text("/etc/passwd", passwd(task, account));
    view.text("/etc/group", group(account));
    view.text("/etc/nsswitch.conf", NSSWITCH.to_owned());
    time_zone(view, host);
}

/// The container's name: what its network calls it, or the host's.
pub(super) fn hostname(task: &Task, host: &Host) -> String {
    match &task.network {
        Network::Join {
            hostname: Some(name),
            ..
        } if !name.is_empty() => name.clone(),
        _ if host.hostname.is_empty() => "localhost".to_owned(),
        _ => host.hostname.clone(),
    }
}

/// The home of whoever runs in a container: the one folder that is certainly there and writable.
pub(super) fn home(task: &Task) -> &'static str {
    if task.dirs.local.is_some() {
        "/local"
    } else {
        "/tmp"
    }
}

/// With the host's network its names hold as well; in every network the container's own name resolves, or
/// `InetAddress.getLocalHost()` fails.
fn hosts(task: &Task, host: &Host, name: &str) -> String {
    let mut text = match task.network {
        Network::Host => host.hosts.clone(),
        Network::Join { .. } | Network::None => String::new(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let mut add = |address: &str, name: &str| {
        let _ = writeln!(text, "{address}\t{name}");
    };
    for HostEntry { name, address } in &task.extra_hosts {
        add(address, name);
    }
    let own = match &task.network {
        Network::Join {
            address: Some(address),
            ..
        } if !address.is_empty() => address,
        _ => "127.0.1.1",
    };
    if !knows(&text, "localhost") {
        text.insert_str(
            0,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        );
    }
    if !knows(&text, name) {
        let _ = writeln!(text, "{own}\t{name}");
    }
    text
}

fn knows(hosts: &str, name: &str) -> bool {
    hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|known| known == name)
    })
}

/// The host's resolver, each part of which the task may replace. The stub of the host answers only in its own network.
fn resolv_conf(task: &Task, host: &Host) -> String {
    let stub = host.resolv_stub.as_ref();
    let base = match task.network {
        Network::Host => stub.unwrap_or(&host.resolv_conf),
        Network::Join { .. } | Network::None => &host.resolv_conf,
    };
    let Some(dns) = &task.dns else {
        return base.clone();
    };
    let mut text = replaced(base, dns);
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// The host's lines but those that are replaced.
fn replaced(base: &str, dns: &Dns) -> String {
    let kept =
        base.lines().filter(
            |line| match line.split_whitespace().next().unwrap_or_default() {
                "nameserver" => dns.servers.is_empty(),
                "search" | "domain" => dns.searches.is_empty(),
                "options" => dns.options.is_empty(),
                _ => true,
            },
        );
    kept.fold(String::new(), |text, line| text + line + "\n")
}

fn passwd(task: &Task, account: &Account) -> String {
    let shell = if task.security.host_tools {
        "/bin/sh"
    } else {
        "/sbin/nologin"
    };
    let (uid, gid, home) = (account.uid, account.gid, home(task));
    let mut text = format!("{}:x:{uid}:{gid}::{home}:{shell}\n", name(account));
    for (name, id) in [("root", 0), ("nobody", NOBODY)] {
        if id != uid {
            let _ = writeln!(text, "{name}:x:{id}:{id}::/:/sbin/nologin");
        }
    }
    text
}

fn group(account: &Account) -> String {
    let own = match account.gid {
        0 => "root",
        NOBODY => "nogroup",
        _ => name(account),
    };
    let mut text = format!("{own}:x:{}:\n", account.gid);
    let mut known = vec![account.gid];
    for (name, id) in [("root", 0), ("tty", 5), ("nogroup", NOBODY)] {
        if !known.contains(&id) {
            known.push(id);
            let _ = writeln!(text, "{name}:x:{id}:");
        }
    }
    for id in &account.groups {
        if !known.contains(id) {
            known.push(*id);
            let _ = writeln!(text, "group{id}:x:{id}:{}", name(account));
        }
    }
    text
}

/// A name that fits into a line of `passwd`.
fn name(account: &Account) -> &str {
    let fits = |name: &str| {
        !name.is_empty()
            && !name.contains(|letter: char| letter == ':' || letter == ',' || letter.is_control())
    };
    match account.name.as_str() {
        name if fits(name) => name,
        _ if account.uid == 0 => "root",
        _ => "task",
    }
}

/// A link into the host's zones, by whose end a JVM learns the zone's name; else the host's file.
fn time_zone(view: &mut View<'_>, host: &Host) {
    let zones = Path::new("/usr/share/zoneinfo");
    let shown = host
        .places(Purpose::Runtime)
        .any(|place| place.path == zones);
    match (&host.timezone, &host.localtime) {
        (Some(zone), None) if shown => {
            view.link(Path::new("/etc/localtime"), &zones.join(zone));
        }
        (_, Some(file)) => view.show(file),
        _ => {}
    }
    if let Some(zone) = &host.timezone {
        view.text("/etc/timezone", format!("{zone}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{account, host, task};

    fn joined() -> Task {
        Task {
            network: Network::Join {
                path: "/run/netns/x".into(),
                hostname: Some("web".into()),
                address: Some("172.26.64.2".into()),
            },
            ..task()
        }
    }

    #[test]
    fn the_containers_own_name_resolves_in_every_network() {
        let host = Host {
            hosts: "127.0.0.1 localhost # machine\n192.0.2.7 db".into(),
            ..host()
        };
        let text = hosts(&task(), &host, "machine");
        assert!(text.starts_with("127.0.0.1 localhost"), "{text}");
        assert!(
            text.ends_with("192.0.2.7 db\n127.0.1.1\tmachine\n"),
            "{text}"
        );
        let text = hosts(&joined(), &host, "web");
        assert!(text.ends_with("172.26.64.2\tweb\n"), "{text}");
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(!text.contains("db"), "{text}");
        assert_eq!(hostname(&joined(), &host), "web");
        assert_eq!(hostname(&task(), &host), "machine");
    }

    #[test]
    fn asked_for_hosts_are_there_once() {
        let task = Task {
            extra_hosts: vec![HostEntry {
                name: "machine".into(),
                address: "192.0.2.9".into(),
            }],
            ..task()
        };
        let text = hosts(&task, &host(), "machine");
        assert_eq!(text.matches("machine").count(), 1, "{text}");
    }

    #[test]
    fn what_is_asked_of_the_resolver_replaces_only_its_part() {
        let host = Host {
            resolv_conf: "nameserver 192.0.2.1\nsearch example.org\noptions edns0\n".into(),
            ..host()
        };
        let task = Task {
            dns: Some(Dns {
                servers: vec!["192.0.2.2".into(), "192.0.2.3".into()],
                searches: Vec::new(),
                options: vec!["ndots:2".into()],
            }),
            ..joined()
        };
        assert_eq!(
            resolv_conf(&task, &host),
            "search example.org\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions ndots:2\n"
        );
    }

    #[test]
    fn the_stub_is_for_those_on_the_hosts_network_only() {
        let host = Host {
            resolv_conf: "nameserver 192.0.2.1\n".into(),
            resolv_stub: Some("nameserver 127.0.0.53\n".into()),
            ..host()
        };
        assert_eq!(resolv_conf(&task(), &host), "nameserver 127.0.0.53\n");
        assert_eq!(resolv_conf(&joined(), &host), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn every_id_has_one_name() {
        let task = task();
        assert!(passwd(&task, &account()).starts_with("nobody:x:65534:65534::/tmp:/bin/sh\nroot:"));
        let dynamic = Account {
            uid: 80_001,
            gid: 80_001,
            groups: vec![5, 44],
            name: "bad:name".into(),
            home: "/".into(),
        };
        assert!(passwd(&task, &dynamic).contains("task:x:80001:80001:"));
        assert_eq!(
            group(&dynamic),
            "task:x:80001:\nroot:x:0:\ntty:x:5:\nnogroup:x:65534:\ngroup44:x:44:task\n"
        );
    }
}
