//! Facts about this machine that do not depend on any task, gathered once: what a container is shown of it, and what it is
//! run with. Only looking; what is made of it is [`crate::bundle`]'s.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use crate::cgroup::{self, Mode};

/// What this machine is and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its control groups.
    pub cgroup: Mode,
    /// Where they are mounted.
    pub cgroup_root: PathBuf,
    /// How many CPUs are online, whatever this process itself may use.
    pub cpus: usize,
    /// Its architecture as Rust names it: `x86_64`, `aarch64`.
    pub arch: &'static str,
    /// Its name.
    pub hostname: String,
    /// `/etc/hosts`.
    pub hosts: String,
    /// How names are resolved from any network namespace: `/etc/resolv.conf`, or what is behind it where that names only
    /// the stub of systemd-resolved, which answers on the host's loopback device alone.
    pub resolv_conf: String,
    /// `/etc/resolv.conf` as it is, where it names that stub: right for those who share the host's network.
    pub resolv_stub: Option<String>,
    /// The name of its time zone: `Europe/Berlin`.
    pub timezone: Option<String>,
    /// Its time zone's file, where that is no link into `/usr/share/zoneinfo`.
    pub localtime: Option<PathBuf>,
    /// Its folders that a container is shown, and those below that hold trusted certificates, fonts and the like.
    pub places: Vec<Place>,
    /// The random name of this boot.
    pub boot_id: String,
    /// Our own executable.
    pub executable: PathBuf,
}

/// Something in the host's file system that a container gets at the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// What it is there.
    pub kind: Kind,
    /// What it is good for.
    pub purpose: Purpose,
}

/// What a [`Place`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A symbolic link, and where it points: a merged `/usr` has `/lib` as a link to `usr/lib`.
    Link(PathBuf),
}

/// What a [`Place`] is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Libraries, fonts, locales, time zones: what every program may need.
    Runtime,
    /// Certificates that are trusted, and where the links among them lead.
    Trust,
    /// Programs for people and scripts.
    Tools,
}

/// What is shown of the host, folders before what is below them.
const PLACES: [(Purpose, &[&str]); 3] = [
    (
        Purpose::Runtime,
        &[
            "/usr/lib",
            "/usr/lib32",
            "/usr/lib64",
            "/usr/libexec",
            "/lib",
            "/lib32",
            "/lib64",
            "/usr/share/fonts",
            "/usr/share/fontconfig",
            "/usr/share/locale",
            "/usr/share/zoneinfo",
            "/etc/fonts",
            "/etc/ld.so.cache",
        ],
    ),
    (
        Purpose::Trust,
        &[
            "/etc/ssl/certs",
            "/etc/ssl/cert.pem",
            "/etc/pki/ca-trust/extracted",
            "/etc/pki/tls/certs",
            "/etc/pki/java",
            "/etc/ca-certificates/extracted",
            "/usr/share/ca-certificates",
            "/usr/local/share/ca-certificates",
        ],
    ),
    (
        Purpose::Tools,
        &[
            "/usr/bin",
            "/usr/sbin",
            "/bin",
            "/sbin",
            "/etc/alternatives",
        ],
    ),
];

impl Host {
    /// Looks at this machine.
    pub fn detect() -> io::Result<Self> {
        Ok(Self {
            executable: executable()?,
            ..Self::below(Path::new("/"))?
        })
    }

    /// Looks at the machine whose file system is at `root`; its paths are given as that machine sees them. The control
    /// groups, too, are those below `root`.
    pub fn below(root: &Path) -> io::Result<Self> {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let (resolv_conf, resolv_stub) = resolver(root);
        let (timezone, localtime) = timezone(root);
        let boot_id = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id"))?;
        Ok(Self {
            cgroup: cgroup::detect(&below(root, cgroup::ROOT)),
            cgroup_root: below(root, cgroup::ROOT),
            cpus: online(&text("sys/devices/system/cpu/online")),
            arch: std::env::consts::ARCH,
            hostname: text("proc/sys/kernel/hostname").trim().to_owned(),
            hosts: text("etc/hosts"),
            resolv_conf,
            resolv_stub,
            timezone,
            localtime,
            places: places(root),
            boot_id: boot_id.trim().to_owned(),
            executable: PathBuf::new(),
        })
    }

    /// The places of one purpose.
    pub fn places(&self, purpose: Purpose) -> impl Iterator<Item = &Place> {
        self.places
            .iter()
            .filter(move |place| place.purpose == purpose)
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Our own executable's path, also after an upgrade has put another file in its place.
fn executable() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced.map_or_else(|| path.clone(), PathBuf::from))
}

fn places(root: &Path) -> Vec<Place> {
    let all = PLACES
        .iter()
        .flat_map(|(purpose, paths)| paths.iter().map(move |path| (*purpose, *path)));
    all.filter_map(|(purpose, path)| {
        let kind = kind(&below(root, path))?;
        let path = PathBuf::from(path);
        Some(Place {
            path,
            kind,
            purpose,
        })
    })
    .collect()
}

fn kind(path: &Path) -> Option<Kind> {
    let kind = path.symlink_metadata().ok()?.file_type();
    if kind.is_symlink() {
        return fs::read_link(path).ok().map(Kind::Link);
    }
    Some(if kind.is_dir() {
        Kind::Folder
    } else {
        Kind::File
    })
}

/// `resolv.conf` for everybody, and the host's own if that is the stub's.
fn resolver(root: &Path) -> (String, Option<String>) {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let own = read("etc/resolv.conf").unwrap_or_default();
    if !is_stub(&own) {
        return (own, None);
    }
    match read("run/systemd/resolve/resolv.conf") {
        Some(behind) => (behind, Some(own)),
        None => (own, None),
    }
}

/// Whether every name server in a `resolv.conf` is systemd-resolved's stub.
fn is_stub(text: &str) -> bool {
    let mut servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
        .peekable();
    servers.peek().is_some() && servers.all(|server| matches!(server, "127.0.0.53" | "127.0.0.54"))
}

/// The zone's name, from where the link `/etc/localtime` points or from `/etc/timezone`; and the file, if it is no such
/// link.
fn timezone(root: &Path) -> (Option<String>, Option<PathBuf>) {
    let path = root.join("etc/localtime");
    let linked = fs::read_link(&path).ok().and_then(|target| {
        let (_, zone) = target.to_str()?.split_once("/zoneinfo/")?;
        Some(zone.to_owned())
    });
    if linked.is_some() {
        return (linked, None);
    }
    let named = fs::read_to_string(root.join("etc/timezone"))
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    (named, path.is_file().then(|| "/etc/localtime".into()))
}

/// How many CPUs a list as `0-3,8` names; what this process may use if it names none.
fn online(list: &str) -> usize {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last + 1).checked_sub(first)
    };
    let counted: usize = list.trim().split(',').filter_map(count).sum();
    if counted > 0 {
        return counted;
    }
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use runyard_common::testing::{TempDir, tempdir};

    use super::*;

    fn machine(files: &[(&str, &str)]) -> TempDir {
        let root = tempdir();
        let always = [("proc/sys/kernel/random/boot_id", "boot\n")];
        for (path, text) in always.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn behind_a_stub_the_real_name_servers_are_found() {
        let stub = "nameserver 127.0.0.53\noptions edns0\n";
        let root = machine(&[
            ("etc/resolv.conf", stub),
            ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n"),
        ]);
        let host = Host::below(root.path()).unwrap();
        assert_eq!(host.resolv_conf, "nameserver 192.0.2.1\n");
        assert_eq!(host.resolv_stub.as_deref(), Some(stub));
    }

    #[test]
    fn a_resolver_of_ones_own_is_no_stub() {
        let own = "nameserver 127.0.0.1\nnameserver 127.0.0.53\n";
        let host = Host::below(machine(&[("etc/resolv.conf", own)]).path()).unwrap();
        assert_eq!(host.resolv_conf, own);
        assert_eq!(host.resolv_stub, None);
        assert!(!is_stub(""));
    }

    #[test]
    fn a_time_zone_is_named_by_its_link_or_by_a_file() {
        let root = machine(&[]);
        fs::create_dir_all(root.path().join("etc")).unwrap();
        let link = root.path().join("etc/localtime");
        symlink("../usr/share/zoneinfo/Europe/Berlin", &link).unwrap();
        let host = Host::below(root.path()).unwrap();
        assert_eq!(host.timezone.as_deref(), Some("Europe/Berlin"));
        assert_eq!(host.localtime, None);

        let root = machine(&[("etc/localtime", "TZif"), ("etc/timezone", "Asia/Tokyo\n")]);
        let host = Host::below(root.path()).unwrap();
        assert_eq!(host.timezone.as_deref(), Some("Asia/Tokyo"));
        assert_eq!(host.localtime, Some("/etc/localtime".into()));
    }

    #[test]
    fn a_merged_usr_is_seen_as_links() {
        let root = machine(&[("usr/lib/libc.so", ""), ("usr/bin/sh", "")]);
        symlink("usr/lib", root.path().join("lib")).unwrap();
        let host = Host::below(root.path()).unwrap();
        let runtime: Vec<_> = host.places(Purpose::Runtime).collect();
        assert_eq!(runtime.len(), 2);
        assert_eq!(runtime[0].kind, Kind::Folder);
        assert_eq!(runtime[1].kind, Kind::Link("usr/lib".into()));
        assert_eq!(host.places(Purpose::Tools).count(), 1);
    }

    #[test]
    fn cpus_are_counted_in_ranges() {
        assert_eq!(online("0-3,8\n"), 5);
        assert_eq!(online("0"), 1);
        assert!(online("") >= 1);
    }

    #[test]
    fn this_machine_has_a_name_and_a_boot() {
        let host = Host::detect().unwrap();
        assert!(!host.hostname.is_empty());
        assert_eq!(host.boot_id.len(), 36);
        assert!(host.executable.is_file());
    }
}
