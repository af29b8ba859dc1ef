//! `cargo xtask bench`: which tools can be measured, how much effort goes into it, and what decides the exit code.
//! What is measured lives in the module of each tool; how runs are ordered, summarised and printed lives in the
//! modules that all tools share.
//!
//! ```text
//! bench ──> overseerctl, milo_driver, buildctl ──> plan (A B B A rounds) ──> report (table, JSON)
//!                 │                                  └─> stats
//!                 ├─> sandbox (processes that cannot outlive the run)
//!                 ├─> machine (cores, /proc, facts for the header)
//!                 ├─> laps (commands timed one after another)
//!                 └─> load (WebSocket client that must not be the bottleneck)
//! ```

mod build;
mod buildctl;
mod emit;
mod laps;
mod load;
mod machine;
mod milo_driver;
mod overseerctl;
mod plan;
mod report;
mod sandbox;
mod stats;

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use plan::Effort;
use report::Report;

/// What `cargo xtask bench` accepts.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Tool to measure (default: every tool that has a benchmark)
    #[arg(value_name = "TOOL")]
    tool: Option<String>,

    /// Run only these scenarios
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    scenario: Vec<String>,

    /// Small loads and one round: under two minutes, and noisier
    #[arg(long)]
    quick: bool,

    /// Rounds of ours-peer-peer-ours (default: 1 with --quick, else up to 5 within the time budget)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,

    /// Also write every sample to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Internal: what this process does as a child of a benchmark
    #[arg(long, value_name = "ROLE", hide = true, num_args = 1..)]
    role: Vec<String>,
}

/// A tool that has a benchmark.
struct Tool {
    name: &'static str,
    measure: fn(&Effort) -> Result<Report>,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "overseerctl",
        measure: overseerctl::measure,
    },
    Tool {
        name: "milo-driver",
        measure: milo_driver::measure,
    },
    Tool {
        name: "buildctl",
        measure: buildctl::measure,
    },
];

/// Measures the tools asked for and prints one table for each.
///
/// # Errors
///
/// An unknown tool or scenario, a binary that cannot be built or started, and, after the tables are printed, any
/// number of ours that failed its correctness gate.
#[expect(
    clippy::needless_pass_by_value,
    reason = "takes over what clap parsed, as every task does"
)]
pub(crate) fn run(args: BenchArgs) -> Result<()> {
    if let Some((role, rest)) = args.role.split_first() {
        return play(role, rest);
    }
    let tools = chosen(args.tool.as_deref())?;
    if !cfg!(target_os = "linux") {
        bail!("the benchmarks read CPU time and memory from /proc and run on Linux only");
    }
    if build::needs_optimised_rerun() {
        return build::rerun_optimised();
    }
    let effort = Effort::new(&args.scenario, args.quick, args.rounds);
    let mut reports = Vec::new();
    for tool in tools {
        let report =
            (tool.measure)(&effort).with_context(|| format!("benchmark of {}", tool.name))?;
        write!(std::io::stdout().lock(), "{}", report.to_text())?;
        reports.push(report);
    }
    if let Some(path) = &args.json {
        write_json(path, &reports)?;
    }
    refuse_void(&reports)
}

/// Acts as the helper process `role` of a benchmark that runs elsewhere.
fn play(role: &str, rest: &[String]) -> Result<()> {
    match role {
        emit::ROLE => emit::play(rest),
        laps::ROLE => laps::play(rest),
        sandbox::ROLE => sandbox::play(rest),
        _ => bail!(
            "unknown role `{role}` (known roles: {}, {}, {})",
            emit::ROLE,
            laps::ROLE,
            sandbox::ROLE
        ),
    }
}

fn chosen(name: Option<&str>) -> Result<Vec<&'static Tool>> {
    let Some(name) = name else {
        return Ok(TOOLS.iter().collect());
    };
    let found: Vec<_> = TOOLS.iter().filter(|tool| tool.name == name).collect();
    if found.is_empty() {
        let known: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
        bail!(
            "no benchmark for `{name}` (tools that have one: {})",
            known.join(", ")
        );
    }
    Ok(found)
}

fn write_json(path: &Path, reports: &[Report]) -> Result<()> {
    let all: Vec<_> = reports.iter().map(Report::to_json).collect();
    let text = serde_json::to_string_pretty(&serde_json::json!({ "reports": all }))?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// A number that failed its gate is no number: the command must not look like a success.
fn refuse_void(reports: &[Report]) -> Result<()> {
    let void: Vec<_> = reports.iter().flat_map(Report::void_of_ours).collect();
    if void.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of our measurements are void: {}",
        void.len(),
        void.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> BenchArgs {
        Line::try_parse_from(line.split(' ')).unwrap().bench
    }

    #[test]
    fn an_unknown_tool_is_refused_with_the_known_ones() {
        let error = run(parse("bench nosuch --quick")).unwrap_err().to_string();
        assert_eq!(
            error,
            "no benchmark for `nosuch` (tools that have one: overseerctl, milo-driver, buildctl)"
        );
    }

    #[test]
    fn without_a_tool_every_tool_is_chosen() {
        assert_eq!(chosen(None).unwrap().len(), TOOLS.len());
    }

    #[test]
    fn scenarios_are_split_at_commas() {
        assert_eq!(
            parse("bench overseerctl --scenario S1,S4").scenario,
            ["S1", "S4"]
        );
    }

    #[test]
    fn zero_rounds_are_refused() {
        assert!(Line::try_parse_from(["bench", "--rounds", "0"]).is_err());
    }

    #[test]
    fn an_unknown_role_is_refused_with_the_known_ones() {
        let error = run(parse("bench --role x")).unwrap_err().to_string();
        assert_eq!(error, "unknown role `x` (known roles: emit, laps, guard)");
    }
}
