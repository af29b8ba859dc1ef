//! Release archives: binary, manual page, completions, README, examples, licences, and a checksum.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    step::{self, say},
    workspace::{known_tools, release_binary, root},
};

/// What `dist` takes.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Just this tool
    tool: Option<String>,
}

/// Builds the archives below `dist/`.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    for tool in known_tools(args.tool.as_deref())? {
        archive(tool).with_context(|| format!("archive of {tool}"))?;
    }
    Ok(())
}

fn archive(tool: &str) -> Result<()> {
    let binary = release_binary(tool)?;
    let name = format!(
        "{tool}-{}-{}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    );
    let dist = root().join("dist");
    let directory = dist.join(&name);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(directory.join("completions"))?;
    fs::copy(&binary, directory.join(tool))?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        fs::copy(root().join(file), directory.join(file))?;
    }
    fs::copy(
        root().join(tool).join("README.md"),
        directory.join("README.md"),
    )?;
    examples(&root().join(tool).join("examples"), &directory)?;
    fs::write(
        directory.join(format!("{tool}.1")),
        output(&binary, &["man"])?,
    )?;
    for (shell, file) in [
        ("bash", format!("{tool}.bash")),
        ("zsh", format!("_{tool}")),
        ("fish", format!("{tool}.fish")),
    ] {
        fs::write(
            directory.join("completions").join(file),
            output(&binary, &["completions", shell])?,
        )?;
    }
    let archive = format!("{name}.tar.gz");
    step::run(
        Command::new("tar")
            .arg("-C")
            .arg(&dist)
            .arg("-czf")
            .arg(dist.join(&archive))
            .arg(&name),
    )?;
    let sum = Command::new("sha256sum")
        .current_dir(&dist)
        .arg(&archive)
        .output()
        .context("sha256sum")?;
    fs::write(dist.join(format!("{archive}.sha256")), sum.stdout)?;
    say(&format!("dist/{archive}"));
    Ok(())
}

/// Copies the examples that are configuration; those that are programs stay with the source.
fn examples(source: &Path, directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(source) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "hcl") {
            let target = directory.join("examples");
            fs::create_dir_all(&target)?;
            fs::copy(&path, target.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn output(binary: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(binary)
        .args(args)
        .output()
        .with_context(|| format!("{} {args:?}", binary.display()))?;
    if !output.status.success() {
        bail!(
            "{} {args:?} failed: {}",
            binary.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
