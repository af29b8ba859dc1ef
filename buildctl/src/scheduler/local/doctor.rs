//! What of this machine local builds need, whether it is there, and how to mend it. Everything is tried rather than guessed
//! where that is quick: a store is made with each driver, a file is written to the state.

mod advisories;

use std::{
    ffi::OsString,
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

use super::LocalConfig;
use crate::{
    account::{self, Lack},
    runner,
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
    if find("buildah").is_none() {
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
        program("git", "install the package `git`").1,
    ];
    let (version, buildah) = program("buildah", "install the package `buildah`");
    findings.push(buildah);
    if let Some(version) = version {
        findings.extend([advisories::of_buildah(&version), storage(config)]);
    }
    if config.isolation.as_deref() == Some("oci") {
        findings.push(runtime());
    }
    if !geteuid().is_root() {
        findings.extend([mappings(), mapping_programs(), namespaces()]);
    }
    findings.extend([cgroups(&runner::memory_is_held()), inotify()]);
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

fn find(name: &str) -> Option<PathBuf> {
    account::program(name, std::env::var_os("PATH").as_deref())
}

/// Whether a program is there, and what it says of its version.
fn program(name: &'static str, mend: &str) -> (Option<String>, Finding) {
    let Some(path) = find(name) else {
        return (None, Finding::fail(name, "it is not in PATH", mend));
    };
    match run(Command::new(&path).arg("--version")) {
        Ok(said) => {
            let version = said.lines().next().unwrap_or_default();
            let finding = Finding::ok(name, format!("{version} ({})", path.display()));
            (Some(said), finding)
        }
        Err(why) => {
            let finding = Finding::fail(name, format!("{}: {why}", path.display()), mend);
            (None, finding)
        }
    }
}

fn runtime() -> Finding {
    const CHECK: &str = "runtime";
    match ["crun", "runc"].into_iter().find_map(find) {
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
    refusals.dedup_by(|one, other| cause_of(one) == cause_of(other));
    let says = refusals.join("; ");
    Finding::fail(CHECK, says, mend_storage())
}

/// A refusal without the driver whose it is.
fn cause_of(refusal: &str) -> &str {
    refusal.split_once(": ").map_or(refusal, |(_, why)| why)
}

/// What an ordinary user may lack comes first, because no driver works without it.
fn mend_storage() -> String {
    let lacks = || {
        let path: Option<OsString> = std::env::var_os("PATH");
        account::mappers(path.as_deref()).or_else(|| account::ranges().err())
    };
    let lack = (!geteuid().is_root()).then(lacks).flatten();
    lack.map_or_else(
        || "see `buildah info`, and name a driver in `local.storage_driver`".to_owned(),
        |lack| format!("{}: {}", lack.what, lack.mend),
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
    match account::ranges() {
        Ok(name) => Finding::ok(
            CHECK,
            format!("{name} has ranges in /etc/subuid and /etc/subgid"),
        ),
        Err(Lack { what, mend }) => Finding::fail(CHECK, what, mend),
    }
}

fn mapping_programs() -> Finding {
    const CHECK: &str = "newuidmap";
    match account::mappers(std::env::var_os("PATH").as_deref()) {
        None => Finding::ok(CHECK, "newuidmap and newgidmap are there"),
        Some(Lack { what, mend }) => Finding::fail(CHECK, what, mend),
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

/// Which limits hold, by what came of an attempt to hold a program to its memory.
fn cgroups(attempt: &io::Result<&'static str>) -> Finding {
    const CHECK: &str = "cgroups";
    const NEVER: &str = "those of processor and disk hold on Nomad only";
    match attempt {
        Ok(version) => Finding::ok(
            CHECK,
            format!("limits of memory hold (control groups of {version}); {NEVER}"),
        ),
        Err(error) => Finding::warn(
            CHECK,
            format!("limits of memory do not hold: {error}; {NEVER}"),
            match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "run it as root, or, with control groups of version 2, in a systemd service or scope with `Delegate=yes`"
                }
                _ => {
                    "have the kernel offer the memory controller (`cgroup_enable=memory`), and systemd delegate it (`Delegate=yes`)"
                }
            },
        ),
    }
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

/// What a program says on its standard output, or why it failed, by what it says elsewhere.
fn run(command: &mut Command) -> Result<String, String> {
    let piped = || io::pipe().map_err(|error| error.to_string());
    let ((answer, answers), (words, speaks)) = (piped()?, piped()?);
    command.stdin(Stdio::null()).stdout(answers).stderr(speaks);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // Our copies of the pipes' ends, or they would not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if !has_ended(&child) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("no answer within {LIMIT:?}"));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let (answer, words) = (text_in(answer), text_in(words));
    if status.success() {
        return Ok(answer);
    }
    match runner::cause(words.lines()) {
        cause if cause.is_empty() => Err(format!("it ended with {status} and said nothing")),
        cause => Err(cause),
    }
}

/// What a program that has ended left in a pipe. It fits, or the program would not have ended; something that it left running
/// may hold the other end, so that there is no waiting for more.
fn text_in(mut pipe: io::PipeReader) -> String {
    let mut bytes = vec![0; 64 << 10];
    let length = if has_something(&pipe) {
        pipe.read(&mut bytes).unwrap_or_default()
    } else {
        0
    };
    String::from_utf8_lossy(&bytes[..length]).into_owned()
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
    fn limits_are_said_to_hold_only_where_they_do() {
        let held = cgroups(&Ok("version 2"));
        assert_eq!(held.verdict, Verdict::Ok);
        assert!(held.says.contains("processor and disk hold on Nomad only"));
        let denied = io::Error::new(io::ErrorKind::PermissionDenied, "cannot make /x: denied");
        let denied = cgroups(&Err(denied));
        assert_eq!(denied.verdict, Verdict::Warn);
        assert!(
            denied
                .says
                .starts_with("limits of memory do not hold: cannot make /x: denied")
        );
        assert!(denied.mend.unwrap().contains("Delegate=yes"));
        let absent = cgroups(&Err(io::Error::other(
            "there is no memory controller to use",
        )));
        assert!(absent.mend.unwrap().contains("cgroup_enable=memory"));
    }

    #[test]
    fn a_program_that_fails_is_quoted_and_one_that_is_missing_named() {
        let shell = |script: &str| run(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo a; echo b >&2; exit 3"), Err("b".to_owned()));
        let warned = "echo 'time=\"t\" level=warning msg=\"w\"' >&2";
        let said = shell(&format!("echo 'Error: cause' >&2; {warned}; exit 3"));
        assert_eq!(said, Err("cause".to_owned()));
        let said = shell(&format!("{warned}; echo fine"));
        assert_eq!(said, Ok("fine\n".to_owned()), "a warning is no answer");
        let said = shell("exit 3").unwrap_err();
        assert!(said.contains("said nothing"), "{said}");
        let (_, finding) = program("no-such-program", "install it");
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
        if find("buildah").is_none() {
            println!("skipped: buildah is missing");
            return;
        }
        let folder = tempdir();
        assert_eq!(store_with("vfs", folder.path()), Ok(()));
        assert!(store_with("no-such-driver", folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
