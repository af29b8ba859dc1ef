//! Where things are: the workspace's root, its tools, the binaries that were built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step;

/// The tools that work so far, in the order in which everything is done.
pub(crate) const TOOLS: [&str; 3] = ["overseerctl", "milo-driver", "buildctl"];

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Refuses a tool that does not exist, naming those that do.
pub(crate) fn known_tools(asked: Option<&str>) -> Result<Vec<&'static str>> {
    match asked {
        None => Ok(TOOLS.to_vec()),
        Some(asked) => match TOOLS.into_iter().find(|tool| *tool == asked) {
            Some(tool) => Ok(vec![tool]),
            None => bail!("unknown tool `{asked}` (known tools: {})", TOOLS.join(", ")),
        },
    }
}

/// Builds tools for release, all at once, and returns their binaries in the same order, each of which `<TOOL>_BIN` replaces.
pub(crate) fn release_binaries(tools: &[&str]) -> Result<Vec<PathBuf>> {
    let named = |tool: &str| std::env::var_os(binary_variable(tool)).map(PathBuf::from);
    let unnamed: Vec<&str> = tools
        .iter()
        .copied()
        .filter(|tool| named(tool).is_none())
        .collect();
    if !unnamed.is_empty() {
        let mut args = vec!["build", "--release", "--locked"];
        args.extend(unnamed.iter().flat_map(|tool| ["--package", tool]));
        step::cargo(&args)?;
    }
    let built = target_directory()?.join("release");
    let binaries = tools.iter().map(|tool| {
        let binary = named(tool).unwrap_or_else(|| built.join(tool));
        if binary.exists() {
            Ok(binary)
        } else {
            bail!("{} does not exist", binary.display())
        }
    });
    binaries.collect()
}

/// That of one tool.
pub(crate) fn release_binary(tool: &str) -> Result<PathBuf> {
    Ok(release_binaries(&[tool])?.remove(0))
}

/// The environment variable that names a tool's binary: `OVERSEERCTL_BIN`.
pub(crate) fn binary_variable(tool: &str) -> String {
    format!("{}_BIN", tool.to_uppercase().replace('-', "_"))
}

fn target_directory() -> Result<PathBuf> {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(directory.into())
}
