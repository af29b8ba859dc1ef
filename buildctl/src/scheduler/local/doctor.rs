//! What of this machine local builds need, whether it is there, and how to mend it. Everything is tried rather than guessed
//! where that is quick: a store is made with each driver, a file is written to the state.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use runyard_common::doctor::Finding;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::statvfs,
    process::{Pid, PidfdFlags, geteuid, pidfd_open},
};

use super::{LocalConfig, process::find};
use crate::{
    scheduler::SchedulerError,
    state::{StateRoot, file},
};

/// How long one program may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// With less of the disk free, builds fail before long.
const LITTLE: u64 = 5 << 30;
/// With less, they fail.
const TOO_LITTLE: u64 = 512 << 20;

/// Whether runs can be started now; quick enough to be asked every second.
pub(super) fn healthy(root: &StateRoot) -> Result<(), SchedulerError> {
    if find("buildah", std::env::var_os("PATH")).is_none() {
        return Err(SchedulerError::Unreachable {
            place: "buildah".to_owned(),
            why: "it is not in PATH; install the package `buildah`".to_owned(),
        });
    }
    writable(root.path()).map_err(SchedulerError::of_file)
}

/// Everything that was looked at.
pub(super) fn findings(config: &LocalConfig) -> Vec<Finding> {
    let mut findings = vec![
        state(config),
        disk(&config.root),
        program("git", "install the package `git`"),
        program("buildah", "install the package `buildah`"),
    ];
    if find("buildah", std::env::var_os("PATH")).is_some() {
        findings.push(storage(config));
    }
    if config.isolation.as_deref() == Some("oci") {
        findings.push(runtime());
    }
    if !geteuid().is_root() {
        findings.extend([mappings(), mapping_programs(), namespaces()]);
    }
    findings.extend([cgroups(Path::new("/sys/fs/cgroup")), inotify()]);
    findings
}

fn writable(root: &Path) -> io::Result<()> {
    let probe = file::beside(&root.join("probe"));
    file::create_unsynced(&probe, b"?")?;
    file::remove(&probe)
}

fn state(config: &LocalConfig) -> Finding {
    const CHECK: &str = "state";
    match StateRoot::open(&config.root).and_then(|root| writable(root.path())) {
        Ok(()) => Finding::ok(CHECK, config.root.display().to_string()),
        Err(error) => Finding::fail(
            CHECK,
            error.to_string(),
            "name another folder in `local.root`",
        ),
    }
}

fn disk(root: &Path) -> Finding {
    const CHECK: &str = "disk";
    const MEND: &str =
        "free some (`buildctl cleanup`, `local.cache_limit`), or have `local.root` elsewhere";
    let free = match statvfs(root) {
        Ok(disk) => disk.f_bavail * disk.f_frsize,
        Err(error) => return Finding::warn(CHECK, error.to_string(), MEND),
    };
    let says = format!("{} MB free at {}", free >> 20, root.display());
    match free {
        _ if free < TOO_LITTLE => Finding::fail(CHECK, says, MEND),
        _ if free < LITTLE => Finding::warn(CHECK, says, MEND),
        _ => Finding::ok(CHECK, says),
    }
}

fn program(name: &'static str, mend: &str) -> Finding {
    let Some(path) = find(name, std::env::var_os("PATH")) else {
        return Finding::fail(name, "it is not in PATH", mend);
    };
    match run(Command::new(&path).arg("--version")) {
        Ok(said) => {
            let version = said.lines().next().unwrap_or_default();
            Finding::ok(name, format!("{version} ({})", path.display()))
        }
        Err(why) => Finding::fail(name, format!("{}: {why}", path.display()), mend),
    }
}

fn runtime() -> Finding {
    const CHECK: &str = "runtime";
    let path = std::env::var_os("PATH");
    match ["crun", "runc"]
        .iter()
        .find_map(|name| find(name, path.clone()))
    {
        Some(path) => Finding::ok(CHECK, path.display().to_string()),
        None => Finding::fail(
            CHECK,
            "`local.isolation` is `oci`, and neither crun nor runc is in PATH",
            "install the package `crun`, or use the isolation `chroot`",
        ),
    }
}

/// Makes a store with each driver until one works.
fn storage(config: &LocalConfig) -> Finding {
    const CHECK: &str = "storage";
    let drivers = match &config.storage_driver {
        Some(driver) => vec![driver.as_str()],
        None => vec!["overlay", "vfs"],
    };
    let mut refusals = Vec::new();
    for driver in drivers {
        match store_with(driver, &config.root) {
            Ok(()) if driver == "vfs" && config.storage_driver.is_none() => {
                return Finding::warn(
                    CHECK,
                    format!(
                        "only vfs works, which copies every layer ({})",
                        refusals.join("; ")
                    ),
                    "have `local.root` on ext4 or xfs, or install `fuse-overlayfs`",
                );
            }
            Ok(()) => return Finding::ok(CHECK, format!("{driver} works")),
            Err(why) => refusals.push(format!("{driver}: {why}")),
        }
    }
    Finding::fail(
        CHECK,
        refusals.join("; "),
        "see `buildah info`; as an ordinary user, ranges in /etc/subuid and /etc/subgid are needed",
    )
}

fn store_with(driver: &str, root: &Path) -> Result<(), String> {
    let probe = Probe::new(root).map_err(|error| error.to_string())?;
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(probe.0.join("root"))
            .arg("--runroot")
            .arg(probe.0.join("run"))
            .args(["--storage-driver", driver])
            .args(args);
        run(&mut command)
    };
    let container = buildah(&["from", "scratch"])?;
    let file = probe.0.join("file");
    fs::write(&file, "").map_err(|error| error.to_string())?;
    // Mounts it, which is what does not work where a driver does not.
    let copied = buildah(&["copy", container.trim(), &file.to_string_lossy(), "/file"]);
    buildah(&["rm", container.trim()])?;
    copied.map(drop)
}

/// A folder for a store that is tried.
struct Probe(PathBuf);

impl Probe {
    fn new(root: &Path) -> io::Result<Self> {
        let path = file::beside(&root.join("doctor"));
        crate::state::make_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Overlay's storage has a bind mount of itself.
        let _ = rustix::mount::unmount(
            self.0.join("root/overlay"),
            rustix::mount::UnmountFlags::DETACH,
        );
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether the account has ranges of subordinate ids; rootless containers consist of them, `user_namespaces(7)`.
fn mappings() -> Finding {
    const CHECK: &str = "subids";
    const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let uid = geteuid().as_raw().to_string();
    let name = account(&uid).unwrap_or_else(|| uid.clone());
    let missing: Vec<_> = FILES
        .into_iter()
        .filter(|path| !has_range(&text(path), &name, &uid))
        .collect();
    match missing[..] {
        [] => Finding::ok(
            CHECK,
            format!("{name} has ranges in /etc/subuid and /etc/subgid"),
        ),
        _ => Finding::fail(
            CHECK,
            format!("{name} has no range of 65536 in {}", missing.join(" and ")),
            add_ranges(first_free(&FILES.map(&text).concat()), &name),
        ),
    }
}

fn account(uid: &str) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

fn add_ranges(first: u64, name: &str) -> String {
    let range = format!("{first}-{}", first + 65535);
    format!("usermod --add-subuids {range} --add-subgids {range} {name}")
}

/// Where a range can begin that nobody has.
fn first_free(file: &str) -> u64 {
    let ends = file.lines().filter_map(|line| {
        let mut numbers = line.split(':').skip(1).map(str::parse::<u64>);
        numbers.next()?.ok()?.checked_add(numbers.next()?.ok()?)
    });
    ends.max().unwrap_or_default().max(100_000)
}

fn has_range(file: &str, name: &str, uid: &str) -> bool {
    let ranges = file.lines().filter_map(|line| {
        let (who, range) = line.split_once(':')?;
        let count = range.split_once(':')?.1.trim().parse::<u64>().ok()?;
        (who == name || who == uid).then_some(count)
    });
    ranges.sum::<u64>() >= 65536
}

fn mapping_programs() -> Finding {
    const CHECK: &str = "newuidmap";
    let path = std::env::var_os("PATH");
    let missing: Vec<_> = ["newuidmap", "newgidmap"]
        .into_iter()
        .filter(|name| find(name, path.clone()).is_none())
        .collect();
    match missing[..] {
        [] => Finding::ok(CHECK, "newuidmap and newgidmap are there"),
        _ => Finding::fail(
            CHECK,
            format!("{} not in PATH", missing.join(", ")),
            "install the package `uidmap`",
        ),
    }
}

/// Whether the kernel lets ordinary users make user namespaces.
fn namespaces() -> Finding {
    const CHECK: &str = "userns";
    let number = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // The second is Debian's, the third is of Ubuntu since 23.10.
    let knobs = [
        (
            "user.max_user_namespaces",
            "/proc/sys/user/max_user_namespaces",
            0,
            "65536",
        ),
        (
            "kernel.unprivileged_userns_clone",
            "/proc/sys/kernel/unprivileged_userns_clone",
            0,
            "1",
        ),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            1,
            "0",
        ),
    ];
    for (knob, path, bad, good) in knobs {
        if number(path) == Some(bad) {
            return Finding::fail(
                CHECK,
                format!("{knob} is {bad}"),
                format!("sysctl -w {knob}={good}"),
            );
        }
    }
    Finding::ok(CHECK, "ordinary users may make user namespaces")
}

/// Whether runs can be held to their memory.
fn cgroups(mount: &Path) -> Finding {
    const CHECK: &str = "cgroups";
    const MEND: &str = "delegate the memory controller to the service (systemd: `Delegate=yes`)";
    if let Ok(controllers) = fs::read_to_string(mount.join("cgroup.controllers")) {
        return if controllers.split_whitespace().any(|name| name == "memory") {
            Finding::ok(CHECK, "version 2, with the memory controller")
        } else {
            Finding::warn(CHECK, "version 2, without the memory controller", MEND)
        };
    }
    if mount.join("memory").is_dir() {
        return Finding::ok(CHECK, "version 1, with the memory controller");
    }
    Finding::warn(
        CHECK,
        "there is no memory controller, so limits of memory are not kept to",
        MEND,
    )
}

/// Every process of ours has one instance, with a watch or two.
fn inotify() -> Finding {
    const CHECK: &str = "inotify";
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim().parse::<u64>() {
        Ok(count) if count >= 128 => Finding::ok(CHECK, format!("{count} instances for each user")),
        Ok(count) => Finding::warn(
            CHECK,
            format!("only {count} instances for each user; what finds none looks 5 times a second"),
            "sysctl -w fs.inotify.max_user_instances=512",
        ),
        Err(_) => Finding::warn(
            CHECK,
            format!(
                "{path} cannot be read; where inotify is missing, changes are seen 5 times a second"
            ),
            "use a kernel with inotify",
        ),
    }
}

/// What a program says, or why it failed: the end of what it said.
fn run(command: &mut Command) -> Result<String, String> {
    let (mut said, speaks) = io::pipe().map_err(|error| error.to_string())?;
    let also = speaks.try_clone().map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(speaks).stderr(also);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // Our copies of the pipe's end, or it would not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if !has_ended(&child) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("no answer within {LIMIT:?}"));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    // What it said fits into the pipe, or it would not have ended; something that it left running may hold the other end.
    let mut bytes = vec![0; 64 << 10];
    let length = if has_something(&said) {
        said.read(&mut bytes).unwrap_or_default()
    } else {
        0
    };
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    if status.success() {
        return Ok(text);
    }
    Err(text.trim().lines().last().unwrap_or("it failed").to_owned())
}

fn has_ended(child: &std::process::Child) -> bool {
    let Ok(handle) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else {
        return true;
    };
    let limit = Timespec {
        tv_sec: i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut ended = [PollFd::new(&handle, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut ended, Some(&limit))).is_ok_and(|count| count > 0)
}

fn has_something(pipe: &io::PipeReader) -> bool {
    let mut ready = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use runyard_common::{doctor::Verdict, testing::tempdir};

    use super::*;

    #[test]
    fn a_range_counts_for_its_account_only_and_has_to_be_large_enough() {
        let file = "build:100000:65536\n1001:200000:65536\nsmall:1:1000\n";
        assert!(has_range(file, "build", "1000"));
        assert!(has_range(file, "other", "1001"));
        assert!(!has_range(file, "small", "1002"));
        assert!(!has_range(file, "buil", "100"));
    }

    #[test]
    fn a_new_range_is_nobody_elses() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:300000:65536\n# c\n"), 365_536);
        assert_eq!(
            add_ranges(100_000, "me"),
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me"
        );
    }

    #[test]
    fn a_controller_is_looked_for_where_each_version_has_it() {
        let (v2, v1, none) = (tempdir(), tempdir(), tempdir());
        fs::write(v2.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
        fs::create_dir(v1.path().join("memory")).unwrap();
        let verdicts = [&v2, &v1, &none].map(|folder| cgroups(folder.path()).verdict);
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Warn]);
    }

    #[test]
    fn a_program_that_fails_is_quoted_and_one_that_is_missing_named() {
        let said = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]));
        assert_eq!(said, Err("b".to_owned()));
        let said = run(Command::new("sh").args(["-c", "echo fine"]));
        assert_eq!(said, Ok("fine\n".to_owned()));
        let finding = program("no-such-program", "install it");
        assert_eq!(finding.verdict, Verdict::Fail);
    }

    #[test]
    fn everything_is_looked_at_and_the_state_is_made() {
        let folder = tempdir();
        let resources = crate::spec::Resources {
            cpu: 1,
            memory: 1,
            disk: 1,
        };
        let defaults = crate::spec::Defaults {
            build_timeout: LIMIT,
            test_timeout: LIMIT,
            limits: crate::spec::Limits {
                build: resources,
                test: resources,
                publish: resources,
            },
            conflict: crate::spec::Conflict::Queue,
            allow_file_urls: false,
            allow_directories: false,
            vault_roles: Vec::new(),
        };
        let root = folder.path().join("state");
        let config = LocalConfig::new(root.clone(), "/bin/true".into(), defaults);
        let findings = findings(&config);
        println!("{findings:#?}");
        let of = |check| findings.iter().find(|it| it.check == check).unwrap();
        assert_eq!(of("state").verdict, Verdict::Ok);
        for check in ["disk", "git", "buildah", "cgroups", "inotify"] {
            assert!(!of(check).says.is_empty());
        }
        fs::remove_dir_all(&root).unwrap();
        fs::write(&root, "").unwrap();
        let finding = state(&config);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(
            finding.says.contains(&root.display().to_string()),
            "{finding:?}"
        );
    }

    #[test]
    fn a_store_is_made_and_leaves_nothing() {
        if find("buildah", std::env::var_os("PATH")).is_none() {
            println!("skipped: buildah is missing");
            return;
        }
        let folder = tempdir();
        assert_eq!(store_with("vfs", folder.path()), Ok(()));
        assert!(store_with("no-such-driver", folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
