//! What containers need of this host: rights, crun, cgroups, JVMs, a place for records; and whether one really runs.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use runyard_common::doctor::Finding;
use rustix::{
    fs::{CWD, Mode as FileMode, OFlags, ResolveFlags, openat2, statfs},
    process::{PidfdFlags, geteuid, getpid, pidfd_open},
};

use crate::{
    cgroup::{self, Mode},
    cli::{
        Context,
        known::{self, Standing},
    },
    engine,
    host::Host,
    jre::{self, Jres, Search},
    launch::Recovered,
    prepare::{Means, prepare},
    shim::{
        client::Connection,
        protocol::{Answer, Request},
    },
    task::{Program, Task},
};

/// `f_type` of tmpfs and the file systems that a socket and a lock can be trusted on (statfs(2)); others are remote or odd.
const REMOTE: [i64; 4] = [0x6969, 0x517B, 0xFF53_4D42, 0x6573_5546];

/// A folder that is this full is as good as full.
const LEAST_FREE: u64 = 64 << 20;

pub(super) fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = vec![
        rights(),
        crun(context),
        cgroups(),
        kernel(),
        records(context),
    ];
    findings.extend(jvms(context));
    findings.push(resolver());
    findings.push(leftovers(context));
    findings.push(trial(context));
    findings
}

fn rights() -> Finding {
    if geteuid().is_root() {
        Finding::ok("user", "root, who may make containers")
    } else {
        Finding::fail(
            "user",
            "not root, and containers can be made by root only",
            "sudo milo-driver doctor",
        )
    }
}

fn crun(context: &Context) -> Finding {
    let path = std::env::var_os("PATH");
    let Some(crun) = engine::crun(context.config.crun_path.as_deref(), path.as_deref()) else {
        return Finding::fail(
            "crun",
            "it is not in PATH",
            "apt-get install crun, or set crun_path in the configuration",
        );
    };
    match engine::version(&crun) {
        Err(problem) => Finding::fail("crun", problem, "install crun 1.0 or newer"),
        Ok(found) if !found.features.contains("+SECCOMP") => Finding::warn(
            "crun",
            format!("{} at {} has no seccomp", found.version, crun.display()),
            "install one that was built with libseccomp, or use `--seccomp unconfined`",
        ),
        Ok(found) => Finding::ok(
            "crun",
            format!(
                "{} at {} ({})",
                found.version,
                crun.display(),
                found.features
            ),
        ),
    }
}

fn cgroups() -> Finding {
    match cgroup::detect(Path::new(cgroup::ROOT)) {
        Mode::V2 => Finding::ok("cgroups", "version 2; memory, cpu and pids can be limited"),
        Mode::V1 { .. } => Finding::ok("cgroups", "version 1; memory, cpu and pids can be limited"),
        Mode::Hybrid if geteuid().is_root() => Finding::ok(
            "cgroups",
            "hybrid: version 1 beside a version 2 that has controllers, which crun by itself refuses; each crun is \
             given a private view without version 2, so limits hold",
        ),
        Mode::Hybrid => Finding::fail(
            "cgroups",
            "hybrid: version 1 beside a version 2 that has controllers, which crun refuses",
            "run as root, which gets around it, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Mode::None => Finding::fail(
            "cgroups",
            "none are mounted, so nothing can be limited",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn kernel() -> Finding {
    let beneath = openat2(
        CWD,
        ".",
        OFlags::PATH | OFlags::CLOEXEC,
        FileMode::empty(),
        ResolveFlags::BENEATH,
    );
    let mut missing = Vec::new();
    if pidfd_open(getpid(), PidfdFlags::empty()).is_err() {
        missing.push("pidfd (Linux 5.3)");
    }
    if beneath.is_err() {
        missing.push("openat2 (Linux 5.6)");
    }
    if missing.is_empty() {
        Finding::ok("kernel", "has pidfd and openat2")
    } else {
        Finding::fail(
            "kernel",
            format!("has no {}", missing.join(" and no ")),
            "use Linux 5.6 or newer",
        )
    }
}

/// The folder of records, or the nearest one above it that exists.
fn records(context: &Context) -> Finding {
    let state = &context.config.state_dir;
    let existing = state
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let place = state.display();
    let mend = "set state_dir (or MILO_STATE_DIR) to a local folder, such as /run/milo";
    let Ok(system) = statfs(existing) else {
        return Finding::fail("records", format!("{place} cannot be looked at"), mend);
    };
    if REMOTE.contains(&system.f_type) {
        return Finding::fail(
            "records",
            format!("{place} is on a network file system"),
            mend,
        );
    }
    let block = u64::try_from(system.f_bsize).unwrap_or_default();
    if system.f_bavail * block < LEAST_FREE {
        return Finding::warn(
            "records",
            format!("{place} has less than 64 MiB left"),
            "make room there",
        );
    }
    let metadata = fs::metadata(state);
    if let Ok(metadata) = metadata
        && (metadata.permissions().mode() & 0o077 != 0 || metadata.uid() != geteuid().as_raw())
    {
        return Finding::warn(
            "records",
            format!("others can look into {place}, where environments are kept"),
            format!("chmod 700 {place}"),
        );
    }
    Finding::ok("records", format!("{place}, on a local file system"))
}

fn jvms(context: &Context) -> Vec<Finding> {
    let mut jres = Jres::discover(&context.search());
    jre::prove_all(&mut jres);
    let wanted = context.config.default_java.as_deref();
    let mut findings = Vec::new();
    match jres.default(wanted) {
        None if jres.all().is_empty() => findings.push(Finding::fail(
            "java",
            "there is no JVM that works on this host",
            "apt-get install openjdk-17-jre-headless, or name a home in java_homes",
        )),
        None => findings.push(Finding::fail(
            "java",
            format!(
                "default_java `{}` is none of the {} JVMs here",
                wanted.unwrap_or_default(),
                jres.all().len()
            ),
            "`milo-driver jres` lists them",
        )),
        Some(default) => findings.push(Finding::ok(
            "java",
            format!(
                "{} JVMs; the default is {} at {}",
                jres.all().len(),
                default.version,
                default.home.display()
            ),
        )),
    }
    for jre in jres.all() {
        for broken in &jre.broken {
            let text = format!(
                "broken link {} -> {}",
                broken.link.display(),
                broken.target.display()
            );
            findings.push(Finding::warn(
                "java",
                text,
                "install what it leads to, or reinstall the JVM",
            ));
        }
    }
    for rejected in jres.rejected() {
        let text = format!(
            "{} is rejected: {}",
            rejected.home.display(),
            rejected.reason
        );
        findings.push(Finding::warn(
            "java",
            text,
            "mend or remove it, or take it out of java_homes",
        ));
    }
    findings
}

fn resolver() -> Finding {
    match Host::detect() {
        Ok(host)
            if host
                .resolv_conf
                .lines()
                .any(|line| line.starts_with("nameserver 127.")) =>
        {
            Finding::warn(
                "resolver",
                "the name server is a local stub, which containers with a network of their own cannot reach",
                "set `dns {}` in jobs, or name a real server in /etc/resolv.conf",
            )
        }
        Ok(_) => Finding::ok(
            "resolver",
            "containers with a network of their own can reach the name servers",
        ),
        Err(error) => Finding::warn("resolver", error.to_string(), "look at /etc/resolv.conf"),
    }
}

fn leftovers(context: &Context) -> Finding {
    let Ok(all) = known::all(&context.state()) else {
        return Finding::warn("leftovers", "the records cannot be read", "run as root");
    };
    let lost = all
        .iter()
        .filter(|known| known.standing() == Standing::Lost)
        .count();
    if lost == 0 {
        Finding::ok(
            "leftovers",
            format!("none; {} tasks are on record", all.len()),
        )
    } else {
        Finding::warn(
            "leftovers",
            format!("{lost} tasks have lost their shim"),
            "`milo-driver ps` names them; `milo-driver rm --force` removes one",
        )
    }
}

/// Makes a container, runs it, and removes it: a greeting, which needs no Java.
fn trial(context: &Context) -> Finding {
    match greet(context) {
        Ok(0) => Finding::ok("container", "one was made, has run and was removed"),
        Ok(code) => Finding::fail(
            "container",
            format!("one has run and failed with {code}"),
            "see the findings above",
        ),
        Err(error) => Finding::fail("container", format!("{error:#}"), "see the findings above"),
    }
}

fn greet(context: &Context) -> anyhow::Result<i32> {
    let program = Program::Greeting {
        shell: context.config.shell.to_string(),
        text: "works".to_owned(),
    };
    let name = format!("doctor-{}", std::process::id());
    let launcher = context.launcher()?;
    let host = Host::detect()?;
    let means = Means {
        host: &host,
        jres: &Jres::discover(&Search::default()),
        default_java: None,
        allow_privileged_user: false,
        any_java_home: false,
    };
    let task = Task::new(&name, program);
    let task = Task {
        cgroup: cgroup::own(launcher.state.path(), &task.id),
        ..task
    };
    let dir = launcher.state.task(&task.id);
    let prepared = prepare(task, means, &dir.bundle())?;
    let launched = launcher.launch(&prepared.task, |bundle| prepared.plan.write(bundle));
    let ended = launched
        .map_err(anyhow::Error::from)
        .and_then(|launched| match launched {
            Recovered::Exited(exit) => Ok(exit.code),
            Recovered::Running(_) => match Connection::open(&dir)?.request(&Request::Wait)? {
                Answer::Exited(exit) => Ok(exit.code),
                other => anyhow::bail!("the shim's answer makes no sense: {other:?}"),
            },
        });
    launcher.dismiss(&dir)?;
    ended
}
