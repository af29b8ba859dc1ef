//! Builds what a benchmark measures, and this program itself with optimisation; nothing here is timed.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde_json::Value;

/// Set for the optimised child, so that it does not build itself for ever.
const OPTIMISED: &str = "RUNYARD_BENCH_OPTIMISED";

/// Makes cargo optimise this package and leave its dependencies, which no hot path enters, as they were built before:
/// that takes seconds where a release build takes minutes.
const OPTIMISE: [&str; 4] = [
    "--config",
    concat!(
        "profile.dev.package.",
        env!("CARGO_PKG_NAME"),
        ".opt-level=3"
    ),
    "--config",
    concat!(
        "profile.dev.package.",
        env!("CARGO_PKG_NAME"),
        ".debug-assertions=false"
    ),
];

/// The binary that an environment variable names, if it is set.
///
/// # Errors
///
/// A variable that leads to no file.
pub(super) fn ready_made(variable: &str) -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(variable) else {
        return Ok(None);
    };
    let path = Path::new(&path);
    let found = path.canonicalize();
    found
        .map(Some)
        .with_context(|| format!("{variable} names {}, which cannot be read", path.display()))
}

/// The binary that an environment variable names, or else a package's release binary.
///
/// # Errors
///
/// Those of [`ready_made`] and [`release_binary`].
pub(super) fn ready_made_or_release(variable: &str, package: &str) -> Result<PathBuf> {
    match ready_made(variable)? {
        Some(path) => Ok(path),
        None => release_binary(package),
    }
}

/// Builds a package's release binary and returns the path cargo put it at.
///
/// # Errors
///
/// A failed build, or a package without a binary of its name.
fn release_binary(package: &str) -> Result<PathBuf> {
    binary(package, &["--release"])
}

fn binary(package: &str, profile: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--package",
            package,
            "--message-format=json-render-diagnostics",
        ])
        .args(profile)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "`cargo build --package {package} {}` failed ({})",
            profile.join(" "),
            output.status
        );
    }
    executable_in(&String::from_utf8_lossy(&output.stdout), package)
        .ok_or_else(|| anyhow!("package `{package}` has no binary named `{package}`"))
}

/// Finds the binary in cargo's stream of JSON messages.
fn executable_in(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == name
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Whether this build is too slow to be a load client: without optimisation it would be the bottleneck of the fan-out.
/// Debug assertions stand for the missing optimisation, which a program cannot see in itself.
pub(super) fn needs_optimised_rerun() -> bool {
    cfg!(debug_assertions) && std::env::var_os(OPTIMISED).is_none()
}

/// Builds this program with optimisation and runs it in place of this process, with the same arguments.
///
/// # Errors
///
/// A failed build, or a binary that does not start.
pub(super) fn rerun_optimised() -> Result<()> {
    let program = binary(env!("CARGO_PKG_NAME"), &OPTIMISE)?;
    let mut command = Command::new(&program);
    command
        .args(std::env::args_os().skip(1))
        .env(OPTIMISED, "1");
    replace_process(&mut command, &program)
}

#[cfg(unix)]
fn replace_process(command: &mut Command, program: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}

#[cfg(not(unix))]
fn replace_process(command: &mut Command, program: &Path) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if status.success() {
        Ok(())
    } else {
        bail!("{} ended with {status}", program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_among_the_messages_of_cargo() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            "\n",
            "not json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tool"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tool"},"executable":"/t/release/tool"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable_in(messages, "tool"),
            Some(PathBuf::from("/t/release/tool"))
        );
        assert_eq!(executable_in(messages, "other"), None);
    }
}
