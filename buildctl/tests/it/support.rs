//! What the tests with real tools share: a registry, repositories, a store with runs in it. What is asserted is the tests' own.

#[path = "support/fake_runner.rs"]
mod fake_runner;
#[path = "support/processes.rs"]
mod processes;
#[path = "support/registry.rs"]
mod registry;
#[path = "support/repository.rs"]
mod repository;
#[path = "support/toll.rs"]
mod toll;
#[path = "support/yard.rs"]
mod yard;

use std::process::{Command, Stdio};

pub(crate) use fake_runner::{FakeRunner, GATE, asked};
pub(crate) use processes::{contains, kill, processes, supervisors};
pub(crate) use registry::Registry;
pub(crate) use repository::Repository;
pub(crate) use toll::{Held, Toll};
pub(crate) use yard::{NOBODY, Yard};

/// Whether everything is here that images are built and kept with; what is not is said.
pub(crate) fn ready() -> bool {
    let needed = ["buildah", "docker-registry", "git", "/bin/busybox"];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|program| !is_there(program))
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped: {} is missing", missing.join(", "));
    }
    missing.is_empty()
}

fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}
