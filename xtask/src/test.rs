//! Every check, in the order in which failures are cheapest to find. CI runs just this.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{
    deps, e2e,
    step::{self, Report, cargo},
    workspace::{TOOLS, root},
};

/// What `test` takes.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Leave out the end-to-end tests
    #[arg(long)]
    quick: bool,
}

/// Seconds each fuzz target runs.
const FUZZ_SECONDS: u32 = 15;

/// Runs every check.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    deps::ensure();
    let mut report = Report::default();
    report.step("format", || cargo(&["fmt", "--all", "--check"]));
    report.step("lint", || {
        cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ])
    });
    report.step("unit and integration tests", || {
        cargo(&[
            "test",
            "--locked",
            "--workspace",
            "--features",
            "runyard-common/testing",
        ])
    });
    report.step("documentation", || {
        step::run(
            Command::new(env!("CARGO"))
                .args(["doc", "--locked", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    for tool in TOOLS {
        fuzz(&mut report, tool);
    }
    if args.quick {
        report.skip("end-to-end tests", "--quick");
    } else {
        e2e::run_tools(&mut report, &TOOLS);
    }
    report.close()
}

/// Runs each fuzz target of a tool for a short while, on stable Rust.
fn fuzz(report: &mut Report, tool: &str) {
    let directory = root().join(tool).join("fuzz");
    let name = format!("fuzz {tool}");
    if !directory.exists() {
        return report.skip(&name, "has no fuzz targets");
    }
    if deps::find("c++").is_none() {
        return report.skip(&name, "needs a C++ compiler (package g++)");
    }
    report.step(&name, || {
        for target in fs::read_dir(directory.join("fuzz_targets"))? {
            let path = target?.path();
            let target = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            step::run_there(&mut fuzz_command(tool, &directory, &target)?)?;
        }
        Ok(())
    });
}

fn fuzz_command(tool: &str, directory: &Path, target: &str) -> Result<Command> {
    // libFuzzer writes what it learns into the first folder it is given, and only reads the others.
    let learned = root().join("target/fuzz").join(tool).join(target);
    fs::create_dir_all(&learned)?;
    let mut command = Command::new(env!("CARGO"));
    // The folder's own cargo configuration holds the flags that libFuzzer needs.
    command
        .current_dir(directory)
        .args([
            "run",
            "--release",
            "--quiet",
            "--locked",
            "--bin",
            target,
            "--",
            "-rss_limit_mb=2048",
            "-verbosity=0",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_total_time={FUZZ_SECONDS}"))
        .arg(format!("-dict={target}.dict"))
        .arg(format!("-artifact_prefix={}/crash-", learned.display()))
        .arg(&learned)
        .arg(format!("seeds/{target}"))
        .env_remove("RUSTFLAGS");
    Ok(command)
}
