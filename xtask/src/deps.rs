//! System packages: which ones demos and tests need, which are missing, and how to get them.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};
use clap::Args;

use crate::step::{self, say};

/// What `deps` takes.
#[derive(Debug, Args)]
pub(crate) struct DepsArgs {
    /// Install what is missing (Debian and Ubuntu, as root or through sudo)
    #[arg(long)]
    install: bool,
}

/// A package, how to tell that it is there, and who needs it.
struct Package {
    name: &'static str,
    program: &'static str,
    needed_for: &'static str,
}

const PACKAGES: [Package; 10] = [
    Package {
        name: "gcc",
        program: "cc",
        needed_for: "building (SQLite and TLS are compiled from C)",
    },
    Package {
        name: "g++",
        program: "c++",
        needed_for: "fuzzing (libFuzzer is compiled from C++)",
    },
    Package {
        name: "chromium",
        program: "chromium",
        needed_for: "overseerctl, buildctl: the tests of the built-in pages",
    },
    Package {
        name: "crun",
        program: "crun",
        needed_for: "milo-driver: every container",
    },
    Package {
        name: "openjdk-17-jdk-headless",
        program: "javac",
        needed_for: "milo-driver: the JVM of its tasks, and the JARs of demo and tests",
    },
    Package {
        name: "buildah",
        program: "buildah",
        needed_for: "buildctl: every build",
    },
    Package {
        name: "git",
        program: "git",
        needed_for: "buildctl: sources",
    },
    Package {
        name: "docker-registry",
        program: "docker-registry",
        needed_for: "buildctl: the registry of demo and tests",
    },
    Package {
        name: "busybox-static",
        program: "busybox",
        needed_for: "buildctl: the images of the tests",
    },
    Package {
        name: "fuse-overlayfs",
        program: "fuse-overlayfs",
        needed_for: "buildctl: layers where the kernel's overlay cannot be used",
    },
];

/// Shows what is needed; with `--install` installs what is missing.
pub(crate) fn run(args: &DepsArgs) -> Result<()> {
    for package in &PACKAGES {
        let state = if find(package.program).is_some() {
            "present"
        } else {
            "missing"
        };
        say(&format!(
            "{state:8} {:24} {}",
            package.name, package.needed_for
        ));
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if args.install {
        return install(&missing);
    }
    bail!(
        "{} missing; `cargo xtask deps --install` installs: {}",
        missing.len(),
        missing.join(" ")
    )
}

/// Installs whatever is missing; says so and goes on where that is impossible, because most checks work without.
pub(crate) fn ensure() {
    let missing = missing();
    if missing.is_empty() {
        return;
    }
    if let Err(error) = install(&missing) {
        say(&format!(
            "warning: could not install {}: {error:#}; what needs them is skipped",
            missing.join(" ")
        ));
    }
}

/// Those of some programs that are not in `PATH`.
pub(crate) fn absent<'p>(programs: &[&'p str]) -> Vec<&'p str> {
    let is_missing = |program: &&&str| find(program).is_none();
    programs.iter().filter(is_missing).copied().collect()
}

/// Where a program is, if it is anywhere in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

fn missing() -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|package| find(package.program).is_none())
        .map(|package| package.name)
        .collect()
}

fn install(packages: &[&str]) -> Result<()> {
    if find("apt-get").is_none() {
        bail!(
            "no apt-get on this system; install these by its own means: {}",
            packages.join(" ")
        );
    }
    step::run(apt_get().args(["update", "-q"]))?;
    step::run(
        apt_get()
            .args(["install", "-qy", "--no-install-recommends"])
            .args(packages),
    )
}

fn apt_get() -> Command {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let mut command = if root {
        Command::new("apt-get")
    } else {
        Command::new("sudo")
    };
    if !root {
        command.arg("apt-get");
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
