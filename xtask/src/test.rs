//! Every check, in the order in which failures are cheapest to find. CI runs just this.

use std::process::Command;

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
        cargo(&["test", "--locked", "--workspace"])
    });
    report.step("documentation", || {
        step::run(
            Command::new(env!("CARGO"))
                .args([
                    "doc",
                    "--locked",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    for tool in TOOLS {
        fuzz(&mut report, tool);
    }
    if args.quick {
        report.skip("end-to-end tests", "--quick");
    } else {
        for tool in TOOLS {
            e2e::run_tool(&mut report, tool);
        }
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
        let targets = std::fs::read_dir(directory.join("fuzz_targets"))?;
        for target in targets {
            let path = target?.path();
            let target = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            step::run(&mut fuzz_command(&directory, &target))?;
        }
        Ok(())
    });
}

fn fuzz_command(directory: &std::path::Path, target: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(directory.join("Cargo.toml"))
        .args(["--bin", target, "--", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-max_total_time={FUZZ_SECONDS}"))
        // Coverage feedback without a nightly toolchain; see the crate's own notes.
        .env("RUSTFLAGS", "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1");
    command
}
