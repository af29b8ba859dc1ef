//! The benchmark of buildctl. The peer's column is the floor: `buildah bud` and `buildah push` by hand, with nobody who queues,
//! tests, promotes or keeps logs. Gathers binary, registry and images, and the list of cases.
//!
//! | scenario | what happens |
//! |---|---|
//! | `build` | `buildctl build` of a folder, to its published tag: from the cache, and with a step of some seconds; floor: bud, push |
//! | `parallel` | 16 of those at once (4 with `--quick`), nothing cached; floor: as many bud and push at once |
//! | `lines` | what a step prints, until a client of the daemon has it; floor: until it comes out of bud |
//! | `flood` | a step that prints 100 MB (20 with `--quick`), followed, and followed again when it is over; floor: out of bud |
//! | `submit` | jobs handed in over REST; floor: a file written durably, and a process that ends at once |
//! | `idle` | the daemon's memory |
//!
//! Every number has a gate: each command ends with success, each line of a log arrives once and in order, each job is there.
//! Otherwise it is void.

mod builds;
mod daemon;
mod lines;
mod service;
mod source;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use self::daemon::Server;
use self::source::Source;
use super::build;
use super::machine;
use super::machine::Cores;
use super::plan;
use super::plan::Case;
use super::plan::Effort;
use super::report::Report;
use super::sandbox::Sandbox;
use crate::deps;

/// Names a ready-made binary; without it, one is built.
const BINARY: &str = "BUILDCTL_BIN";

/// Everything the cases share.
#[derive(Debug)]
struct Lab {
    cores: Cores,
    binary: PathBuf,
    /// What every image consists of.
    worker: PathBuf,
    registry: Server,
    sandbox: Sandbox,
}

/// Measures the scenarios that `effort` asks for.
///
/// # Errors
///
/// An unknown scenario, a failed build, or a machine on which images cannot be built. A failed run is no error: it voids its
/// number in the report.
pub(super) fn measure(effort: &Effort) -> Result<Report> {
    let cases = effort.select(cases())?;
    refuse_without_means()?;
    let lab = Lab::set_up()?;
    let mut facts = lab.facts(effort);
    let outcomes = plan::execute(&cases, &lab, true, effort);
    facts.push(("runs".into(), plan::describe_runs(&outcomes)));
    Ok(Report {
        tool: "buildctl",
        facts,
        outcomes,
    })
}

/// All cases, in the order of the table above.
fn cases() -> Vec<Case<Lab>> {
    vec![
        builds::cached(),
        builds::long(),
        builds::parallel(),
        lines::latency(),
        lines::flood(),
        service::submissions(),
        service::idle(),
    ]
}

fn refuse_without_means() -> Result<()> {
    let needed = ["buildah", "git", "docker-registry", "cc", "timeout"];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|program| deps::find(program).is_none())
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} not found: `cargo xtask deps --install` installs what is missing",
            missing.join(", ")
        );
    }
    Ok(())
}

impl Lab {
    fn set_up() -> Result<Self> {
        let binary = build::ready_made_or_release(BINARY, "buildctl")?;
        let sandbox = Sandbox::new()?;
        Ok(Self {
            worker: source::worker(&sandbox)?,
            registry: daemon::registry(&sandbox)?,
            cores: Cores::undivided(),
            binary,
            sandbox,
        })
    }

    /// A new folder with an image's source.
    fn source(&self, name: &str, dockerfile: &str) -> Result<Source> {
        Source::new(&self.sandbox.dir().join(name), &self.worker, dockerfile)
    }

    /// An image in the registry.
    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address)
    }

    /// The state of all our builds that need no daemon.
    fn state(&self) -> PathBuf {
        self.sandbox.dir().join("state")
    }

    /// What builds a folder and publishes it.
    fn ours(&self, source: &Source, image: &str) -> Vec<String> {
        let folder = source.folder();
        let words = [
            "build",
            &folder,
            "--image",
            image,
            "--owner",
            "bench",
            "--progress",
            "quiet",
        ];
        std::iter::once(self.binary.to_string_lossy().into_owned())
            .chain(words.map(str::to_owned))
            .collect()
    }

    /// What Buildah needs for the same: a build, and a push.
    fn by_hand(&self, source: &Source, image: &str) -> [Vec<String>; 2] {
        let (folder, file) = (source.folder(), source.file("Dockerfile"));
        let bud = [
            "bud",
            "--layers",
            "--force-rm",
            "--isolation",
            "chroot",
            "--tag",
            image,
            "--file",
            &file,
            &folder,
        ];
        let push = ["push", "--tls-verify=false", image];
        [self.buildah(&bud), self.buildah(&push)]
    }

    /// Buildah with a store of its own.
    fn buildah(&self, words: &[&str]) -> Vec<String> {
        let place = |name: &str| {
            let folder = self.sandbox.dir().join("by-hand").join(name);
            folder.to_string_lossy().into_owned()
        };
        let store = [
            "buildah",
            "--root",
            &place("root"),
            "--runroot",
            &place("run"),
        ];
        let all = store.into_iter().chain(words.iter().copied());
        all.map(str::to_owned).collect()
    }

    /// A process of the sandbox with the variables that our program needs.
    fn command(&self, program: &str) -> Command {
        let mut command = self.sandbox.command(program);
        command.env("BUILDCTL_LOCAL_ROOT", self.state());
        command
    }

    fn facts(&self, effort: &Effort) -> Vec<(String, String)> {
        let unknown = || "version unknown".to_owned();
        let buildah = machine::first_line("buildah", ["--version"]).unwrap_or_else(unknown);
        let mut facts = machine::facts(&self.cores);
        facts.extend([
            (
                "ours".into(),
                machine::binary_fact(&self.binary, "--version"),
            ),
            ("peer".into(), format!("the floor: {buildah}")),
            ("storage".into(), self.storage()),
            ("method".into(), effort.describe()),
        ]);
        facts
    }

    /// The driver that Buildah takes here.
    fn storage(&self) -> String {
        let line = self.buildah(&["info", "--format", "{{.store.GraphDriverName}}"]);
        machine::first_line(&line[0], &line[1..]).unwrap_or_else(|| "unknown".to_owned())
    }
}

/// What a file holds, or why it cannot be read.
fn read(path: &std::path::Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_above_names_the_scenarios_that_can_be_run() {
        let mut names: Vec<_> = cases().iter().map(|case| case.scenario).collect();
        names.dedup();
        assert_eq!(
            names,
            ["build", "parallel", "lines", "flood", "submit", "idle"]
        );
    }
}
