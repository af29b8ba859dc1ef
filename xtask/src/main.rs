//! The workspace's task runner: what a developer types, a newcomer tries, and CI runs.
//!
//! | command | what it does |
//! |---|---|
//! | `cargo xtask demo` | sets up what is missing, builds, runs each tool's main job for real, prints one table |
//! | `cargo xtask test` | sets up what is missing, then formats, lints, unit, integration, fuzz and end-to-end tests |
//! | `cargo xtask e2e [tool]` | end-to-end tests against real components; what was skipped is counted and explained |
//! | `cargo xtask bench [tool]` | benchmarks beside the peer or the physical floor |
//! | `cargo xtask dev <tool>` | a tool inside of its host, to try by hand: milo-driver in a Nomad agent |
//! | `cargo xtask deps [--install]` | the system packages all this needs |
//! | `cargo xtask dist [tool]` | release archives with manual page, completions and checksums |
//!
//! It drives built binaries and never links the tools.

mod bench;
mod demo;
mod deps;
mod dev;
mod dist;
mod e2e;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Task runner of the runyard workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run each tool's main job for real and print what came of it
    Demo(demo::DemoArgs),
    /// Run every check: what CI runs
    Test(test::TestArgs),
    /// Run end-to-end tests against real components
    E2e(e2e::E2eArgs),
    /// Measure beside the peer or the physical floor
    Bench(bench::BenchArgs),
    /// Run a tool inside of its host, to try it by hand
    Dev(dev::DevArgs),
    /// Show, or install, the system packages that demos and tests need
    Deps(deps::DepsArgs),
    /// Build release archives
    Dist(dist::DistArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::E2e(args) => e2e::run(&args),
        Task::Bench(args) => bench::run(args),
        Task::Dev(args) => dev::run(&args),
        Task::Deps(args) => deps::run(&args),
        Task::Dist(args) => dist::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
