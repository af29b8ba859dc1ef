//! The benchmark of overseerctl, side by side with the Go original where a binary of it is at hand. Gathers binaries,
//! one configuration for both, and the list of cases; each case is in the module named after what it stresses.
//!
//! | scenario | what happens |
//! |---|---|
//! | `ready` | start of the daemon until a WebSocket is open |
//! | `cli` | start of the command-line tool, with `/bin/true` as the floor |
//! | `S1` | one task, 1 / 10 / 50 / 200 subscribers |
//! | `S2` | 50 tasks, one subscriber each, 1000 lines/s each: delivery latency |
//! | `S3` | starts one after another: latency from `start` to `started` |
//! | `S4` | starts over 8 connections at once, until the last `exited` |
//! | `S5` | memory: idle, per connection, per running task, per finished task |
//! | `S6` | a filter that lets 1 % of the lines pass |
//! | `S7` | `list` with thousands of finished tasks |
//! | `S8` | 200-byte lines and 1 MB lines |
//! | `S9` | a subscriber that reads beside one that does not |
//!
//! Every number has a gate: each subscriber sees the sequence numbers 1 to N without gap or repeat, each start gives
//! exactly one `started` and one `exited`, a list holds every task. Otherwise it is void.

mod daemon;
mod memory;
mod output;
mod starts;
mod startup;

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use serde_json::json;

use super::build;
use super::emit;
use super::machine;
use super::machine::Cores;
use super::plan;
use super::plan::Better;
use super::plan::Case;
use super::plan::Effort;
use super::plan::Metric;
use super::plan::Side;
use super::report::Report;
use super::sandbox::Sandbox;
use daemon::Daemon;

/// Names a ready-made binary of ours; without it, one is built.
const OUR_BINARY: &str = "OVERSEERCTL_BIN";

/// Names the binary of the Go original; without it, the peer's column stays empty.
const PEER_BINARY: &str = "STICKY_OVERSEER_BIN";

/// Everything the cases share.
#[derive(Debug)]
struct Lab {
    sandbox: Sandbox,
    cores: Cores,
    config: PathBuf,
    ours: PathBuf,
    peer: Option<PathBuf>,
}

/// Measures the scenarios that `effort` asks for.
///
/// # Errors
///
/// An unknown scenario, a failed build, or a machine on which nothing can be started. A failed run is no error: it
/// voids its number in the report.
pub(super) fn measure(effort: &Effort) -> Result<Report> {
    let cases = effort.select(cases())?;
    let lab = Lab::set_up()?;
    let mut facts = lab.facts(effort);
    let outcomes = plan::execute(&cases, &lab, lab.peer.is_some(), effort);
    facts.push(("runs".into(), plan::describe_runs(&outcomes)));
    Ok(Report {
        tool: "overseerctl",
        facts,
        outcomes,
    })
}

/// All cases, in the order of the table above.
fn cases() -> Vec<Case<Lab>> {
    let mut cases = vec![startup::ready(), startup::command_line()];
    cases.extend(output::fan_out());
    cases.extend([output::latency(), starts::sequential(), starts::storm()]);
    cases.extend([
        memory::idle_and_connections(),
        memory::running(),
        memory::finished(),
    ]);
    cases.extend([output::filter(), starts::list()]);
    cases.extend(output::long_lines());
    cases.push(output::stalled());
    cases
}

impl Lab {
    fn set_up() -> Result<Self> {
        let ours = build::ready_made_or_release(OUR_BINARY, "overseerctl")?;
        let peer = build::ready_made(PEER_BINARY)?;
        let cores = Cores::divide();
        let sandbox = Sandbox::new()?;
        cores.enter_client_half()?;
        let config = sandbox.dir().join("config.yaml");
        // Every JSON document is a YAML document, and needs no quoting of our own.
        let text =
            serde_json::to_string_pretty(&configuration(cores.client_prefix(), sandbox.helper()))?;
        std::fs::write(&config, text)
            .with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self {
            sandbox,
            cores,
            config,
            ours,
            peer,
        })
    }

    /// Starts a fresh daemon of one side.
    fn start(&self, side: Side) -> Result<Daemon<'_>> {
        Daemon::start(self, side)
    }

    fn facts(&self, effort: &Effort) -> Vec<(String, String)> {
        let mut facts = machine::facts(&self.cores);
        facts.push(("ours".into(), machine::binary_fact(&self.ours, "--version")));
        facts.push(("peer".into(), self.peer_fact()));
        facts.push(("method".into(), effort.describe()));
        facts
    }

    fn peer_fact(&self) -> String {
        let Some(peer) = &self.peer else {
            return format!("none ({PEER_BINARY} names no sticky-overseer binary)");
        };
        let go = machine::first_line("go", [OsStr::new("version"), peer.as_os_str()]);
        // `go version FILE` answers `FILE: go1.26.1`.
        let go = go
            .as_deref()
            .and_then(|line| line.rsplit_once(": "))
            .map_or("go version unknown", |(_, version)| version);
        format!(
            "{}, {go}, GOMAXPROCS={}",
            machine::binary_fact(peer, "-version"),
            self.cores.for_daemon()
        )
    }
}

/// The configuration for both daemons: keys that both know, children on the client's cores where output is measured.
fn configuration(prefix: Vec<String>, helper: &Path) -> serde_json::Value {
    let helper = helper.to_string_lossy();
    let mut line = prefix;
    line.extend(
        [
            &helper,
            "bench",
            "--role",
            emit::ROLE,
            "[[.count]]",
            "[[.bytes]]",
            "[[.rate]]",
        ]
        .map(str::to_owned),
    );
    let parameters =
        json!({ "count": null, "bytes": { "default": "0" }, "rate": { "default": "0" } });
    let emitting = json!({ "entrypoint": line[0], "command": line[1..], "parameters": parameters });
    let mut filtered = emitting.clone();
    filtered["output"] = json!({ "stdout": { "condition": output::FILTER } });
    json!({ "actions": {
        "emit": { "type": "exec", "config": emitting },
        "filtered": { "type": "exec", "config": filtered },
        "true": { "type": "exec", "config": { "entrypoint": "true", "command": [] } },
        "sleep": { "type": "exec", "config": { "entrypoint": "sleep", "command": ["120"] } },
    } })
}

/// Appends the metrics whose values [`daemon::Costs::values`] yields.
fn with_costs(mut metrics: Vec<Metric>, cpu_unit: &'static str) -> Vec<Metric> {
    metrics.push(Metric::new("daemon CPU", cpu_unit, Better::Less));
    metrics.push(Metric::new("RSS after", "MB", Better::Less));
    metrics.push(Metric::new("PSS after", "MB", Better::Less));
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_above_names_the_scenarios_that_can_be_run() {
        let mut names: Vec<_> = cases().iter().map(|case| case.scenario).collect();
        names.dedup();
        assert_eq!(
            names,
            [
                "ready", "cli", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9"
            ]
        );
    }

    #[test]
    fn emitting_tasks_run_the_helper_on_the_cores_given() {
        let words = |prefix: &[&str]| {
            let prefix = prefix.iter().map(|word| (*word).to_owned()).collect();
            let config = configuration(prefix, Path::new("/helper"));
            let emit = &config["actions"]["emit"]["config"];
            format!("{} {}", emit["entrypoint"], emit["command"])
        };
        let tail = r#""bench","--role","emit","[[.count]]","[[.bytes]]","[[.rate]]"]"#;
        assert_eq!(words(&[]), format!(r#""/helper" [{tail}"#));
        assert_eq!(
            words(&["taskset", "-c", "1"]),
            format!(r#""taskset" ["-c","1","/helper",{tail}"#)
        );
    }

    #[test]
    fn the_filter_stands_where_both_daemons_look_for_it() {
        let config = configuration(Vec::new(), Path::new("/helper"));
        let filter = &config["actions"]["filtered"]["config"]["output"]["stdout"]["condition"];
        assert_eq!(filter, output::FILTER);
    }
}
