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
    /// What the program is called in its archive, where its own name is taken
    #[arg(long, value_name = "NAME", requires = "tool")]
    name: Option<String>,
}

/// Builds the archives below `dist/`.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    for tool in known_tools(args.tool.as_deref())? {
        let called = args.name.as_deref().unwrap_or(tool);
        archive(tool, called).with_context(|| format!("archive of {tool}"))?;
    }
    Ok(())
}

/// The archive of a tool. What the program prints about itself it prints by the name that it is called by.
fn archive(tool: &str, called: &str) -> Result<()> {
    let name = format!(
        "{called}-{}-{}-{}",
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
    let binary = directory.join(called);
    fs::copy(release_binary(tool)?, &binary)?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        fs::copy(root().join(file), directory.join(file))?;
    }
    fs::copy(
        root().join(tool).join("README.md"),
        directory.join("README.md"),
    )?;
    examples(
        &root().join(tool).join("examples"),
        &directory.join("examples"),
    )?;
    fs::write(
        directory.join(format!("{called}.1")),
        output(&binary, &["man"])?,
    )?;
    for (shell, file) in [
        ("bash", format!("{called}.bash")),
        ("zsh", format!("_{called}")),
        ("fish", format!("{called}.fish")),
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

/// Copies the examples that are configuration or sources of images; those that are programs of the tool stay with its source.
fn examples(source: &Path, target: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(source) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        let to = target.join(path.file_name().unwrap_or_default());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            examples(&path, &to)?;
        } else if matches!(extension, Some("hcl" | "yaml" | "c")) || path.ends_with("Dockerfile") {
            fs::create_dir_all(target)?;
            fs::copy(&path, to)?;
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
