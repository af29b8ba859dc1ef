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

/// Builds a tool for release and returns its binary, which `<TOOL>_BIN` replaces.
pub(crate) fn release_binary(tool: &str) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(binary_variable(tool)) {
        return Ok(named.into());
    }
    step::cargo(&["build", "--release", "--locked", "--package", tool])?;
    let binary = target_directory()?.join("release").join(tool);
    if binary.exists() {
        Ok(binary)
    } else {
        bail!("{} was not built", binary.display())
    }
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
