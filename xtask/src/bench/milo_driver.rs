//! The benchmark of milo-driver. The peer's column is the floor: the same JAR without a container, or the same bundle run by
//! crun alone, with nobody who supervises it. Gathers binary, JAR and bundles, and the list of cases.
//!
//! | scenario | what happens |
//! |---|---|
//! | `java` | `milo-driver run` of a JAR that says a word; floor: `crun run`, and beside it plain `java -jar` |
//! | `create` | `milo-driver run --detach`; floor: `crun create` and `crun start` |
//! | `logs` | a JAR that prints many lines to a pipe; floor: plain `java -jar` |
//! | `plugin` | 50 tasks under an agent: start, end seen, stop, memory; floor of a start: `crun create` and `crun start` at the same pace |
//! | `scale` | 200 tasks (100 with `--quick`): memory on the way there, recovery by another plugin |
//!
//! Every number has a gate: each command ends with success, each byte of a log arrives, each task of an agent is recovered,
//! ends as it was ended, and is gone afterwards. Otherwise it is void.
//!
//! Both sides keep their records where they do on a node, which is in memory, if there is any to be had, and see cgroups of
//! one version: crun works with no other, and the mount namespace that shows it those is made once, before the clock runs.

mod jar;
mod logs;
mod records;
mod startup;
mod tasks;

use std::ffi::CStr;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;

use self::records::Records;
use super::build;
use super::laps::Lap;
use super::machine;
use super::machine::Cores;
use super::plan;
use super::plan::Case;
use super::plan::Effort;
use super::report::Report;
use super::sandbox;
use super::sandbox::Sandbox;
use crate::deps;

/// Names a ready-made binary; without it, one is built.
const BINARY: &str = "MILO_DRIVER_BIN";

/// The version 2 hierarchy of a host that has both. crun refuses to work where it has controllers.
const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";

/// Limit for all laps of one run together.
const LAPS_LIMIT: Duration = Duration::from_mins(2);

/// Everything the cases share.
#[derive(Debug)]
struct Lab {
    sandbox: Sandbox,
    /// After the sandbox: what uses them is ended first.
    records: Records,
    cores: Cores,
    binary: PathBuf,
    jar: PathBuf,
    /// What crun is given for a JAR that says a word.
    hello: Bundle,
    /// The same for one that waits, with the memory of a task under an agent.
    waiting: Bundle,
    /// That the host has both versions of cgroups.
    is_hybrid: bool,
}

/// A bundle on the disk, and crun's name for what is made of it.
#[derive(Debug)]
struct Bundle {
    folder: String,
    container: String,
}

/// Measures the scenarios that `effort` asks for.
///
/// # Errors
///
/// An unknown scenario, a failed build, or a machine on which containers cannot be made. A failed run is no error: it
/// voids its number in the report.
pub(super) fn measure(effort: &Effort) -> Result<Report> {
    let cases = effort.select(cases())?;
    refuse_without_means()?;
    let is_hybrid = is_hybrid();
    if is_hybrid {
        leave_unified().context("cannot leave the cgroup version 2 hierarchy")?;
    }
    let lab = Lab::set_up(is_hybrid)?;
    let mut facts = lab.facts(effort);
    let outcomes = plan::execute(&cases, &lab, true, effort);
    facts.push(("runs".into(), plan::describe_runs(&outcomes)));
    Ok(Report {
        tool: "milo-driver",
        facts,
        outcomes,
    })
}

/// All cases, in the order of the table above.
fn cases() -> Vec<Case<Lab>> {
    vec![
        startup::run(),
        startup::detached(),
        logs::throughput(),
        tasks::fifty(),
        tasks::many(),
    ]
}

fn refuse_without_means() -> Result<()> {
    let missing = deps::absent(&["crun", "java", "javac", "jar"]);
    if !missing.is_empty() {
        bail!(
            "{} not found: `cargo xtask deps --install` installs what is missing",
            missing.join(", ")
        );
    }
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!(
            "containers with limits, and other users' memory, are root's: run it again as root (sudo -E cargo xtask bench milo-driver)"
        );
    }
    Ok(())
}

impl Lab {
    fn set_up(is_hybrid: bool) -> Result<Self> {
        let binary = build::ready_made_or_release(BINARY, "milo-driver")?;
        let sandbox = Sandbox::new()?;
        let jar = jar::build(&sandbox)?;
        let print = |name, args: &[&str]| Bundle::print(&sandbox, &binary, &jar, name, args);
        Ok(Self {
            hello: print("hello", &["--", "hello"])?,
            waiting: print("waiting", &tasks::as_under_an_agent())?,
            cores: Cores::undivided(),
            is_hybrid,
            records: Records::beside(sandbox.dir())?,
            binary,
            jar,
            sandbox,
        })
    }

    /// A folder for records as an argument.
    fn place(&self, name: &str) -> String {
        text(&self.records.folder().join(name))
    }

    /// The driver's command line, with records of its own.
    fn driver(&self, args: &[&str]) -> Vec<String> {
        let mut line = vec![
            text(&self.binary),
            "--state-dir".into(),
            self.place("state"),
        ];
        line.extend(args.iter().map(|word| (*word).to_owned()));
        line
    }

    /// crun's command line, with a state of its own.
    fn crun(&self, args: &[&str]) -> Vec<String> {
        let mut line = vec!["crun".into(), "--root".into(), self.place("crun")];
        line.push("--cgroup-manager=cgroupfs".into());
        line.extend(args.iter().map(|word| (*word).to_owned()));
        line
    }

    /// Times laps, in milliseconds.
    fn laps(&self, lap: &Lap, count: u64) -> Result<Vec<f64>> {
        let mut helper = self.sandbox.command(self.sandbox.helper());
        helper.args(lap.arguments(count));
        self.numbers(helper)
    }

    fn numbers(&self, helper: Command) -> Result<Vec<f64>> {
        let said = self.said(helper, "laps", LAPS_LIMIT)?;
        let numbers: Result<Vec<f64>, _> = said.lines().map(str::parse).collect();
        numbers.with_context(|| format!("laps are numbers, got `{said}`"))
    }

    /// What a command that must succeed within a limit prints.
    fn said(&self, command: Command, name: &str, limit: Duration) -> Result<String> {
        said(&self.sandbox, command, name, limit)
    }

    fn facts(&self, effort: &Effort) -> Vec<(String, String)> {
        let first = |program: &str, flag| machine::first_line(program, [flag]);
        let unknown = || "version unknown".to_owned();
        let mut facts = machine::facts(&self.cores);
        let crun = first("crun", "--version").unwrap_or_else(unknown);
        let java = first("java", "-version").unwrap_or_else(unknown);
        facts.extend([
            (
                "ours".into(),
                machine::binary_fact(&self.binary, "--version"),
            ),
            ("peer".into(), format!("the floor: {crun}; {java}")),
            ("cgroups".into(), self.cgroups()),
            ("records".into(), self.records.describe()),
            ("method".into(), effort.describe()),
        ]);
        facts
    }

    fn cgroups(&self) -> String {
        let hierarchies = if self.is_hybrid {
            "version 1 and 2; both sides see version 1 only, for which the driver alone takes a mount namespace per task"
        } else if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            "version 2"
        } else {
            "version 1"
        };
        hierarchies.to_owned()
    }
}

impl Bundle {
    /// Has the driver write down what it would give crun.
    fn print(
        sandbox: &Sandbox,
        binary: &Path,
        jar: &Path,
        name: &str,
        args: &[&str],
    ) -> Result<Self> {
        let folder = sandbox.dir().join(name);
        let mut command = sandbox.command(binary);
        command
            .args(["--output", "json", "--state-dir"])
            .arg(sandbox.dir().join("state"))
            .args(["run", "--print-bundle"])
            .arg(&folder)
            .arg(jar)
            .args(args);
        let answer = said(sandbox, command, "bundle", Duration::from_secs(20))?;
        let answer: Value = serde_json::from_str(&answer)?;
        let word = |key: &str| answer[key].as_str().map(str::to_owned);
        Ok(Self {
            folder: word("bundle").context("the answer has no `bundle`")?,
            container: word("container").context("the answer has no `container`")?,
        })
    }
}

/// Whether the version 2 hierarchy has controllers beside version 1.
fn is_hybrid() -> bool {
    let unified = Path::new(OsStr::from_bytes(UNIFIED.to_bytes()));
    let controllers = fs::read_to_string(unified.join("cgroup.controllers"));
    controllers.is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// Goes where that hierarchy is not mounted, with everything that is started from now on: crun needs that, and what it costs
/// is neither side's. To be called by the first thread, before there are others.
fn leave_unified() -> io::Result<()> {
    let checked = |answer: libc::c_int| match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the strings are constants; the other arguments are not looked at or may be null.
    unsafe {
        checked(libc::unshare(libc::CLONE_NEWNS))?;
        let (none, slave) = (std::ptr::null(), libc::MS_REC | libc::MS_SLAVE);
        checked(libc::mount(none, c"/".as_ptr(), none, slave, none.cast()))?;
        checked(libc::umount2(UNIFIED.as_ptr(), libc::MNT_DETACH))?;
        // crun makes folders there all the same; they end with the namespace.
        let (kind, size) = (c"tmpfs".as_ptr(), c"size=16m".as_ptr());
        checked(libc::mount(kind, UNIFIED.as_ptr(), kind, 0, size.cast()))
    }
}

/// What a command prints on stdout; what it prints on stderr explains a failure.
fn said(sandbox: &Sandbox, mut command: Command, name: &str, limit: Duration) -> Result<String> {
    let log = sandbox.dir().join(format!("{name}.log"));
    command.stdout(Stdio::piped()).stderr(File::create(&log)?);
    let output = sandbox::supervised(limit, |current| {
        let child = command.spawn()?;
        current.store(child.id(), Ordering::Relaxed);
        child.wait_with_output()
    });
    let output =
        output.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        // What it was about to wait for.
        sandbox.sweep();
        let reason = sandbox::last_lines(&log);
        bail!("{name} ended with {}: {reason}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_above_names_the_scenarios_that_can_be_run() {
        let names: Vec<_> = cases().iter().map(|case| case.scenario).collect();
        assert_eq!(names, ["java", "create", "logs", "plugin", "scale"]);
    }
}
