//! Cases about many tasks under an agent, which `milo-driver conformance --measure` plays. The tasks are small JVMs that
//! wait.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Reading;
use super::super::plan::Side;
use super::super::plan::Target;
use super::super::stats;
use super::Lab;
use super::startup;
use super::text;

/// What makes a JVM small and its start short.
const JVM_OPTIONS: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// The heap of a task, in MiB.
const HEAP: u64 = 16;

/// Time for all but the tasks.
const BASE_LIMIT: Duration = Duration::from_secs(30);

/// Time for each task, from its start to its destruction.
const TASK_LIMIT: Duration = Duration::from_secs(4);

/// Arguments of `milo-driver run` behind its options, for a JVM like that of a task under an agent.
pub(super) fn as_under_an_agent() -> Vec<&'static str> {
    vec![
        "--memory",
        "256m",
        "--heap-mb",
        "16",
        "--jvm-opt",
        JVM_OPTIONS[0],
        "--jvm-opt",
        JVM_OPTIONS[1],
        "--",
        "wait",
        "/app/load.jar",
    ]
}

/// Milliseconds between two starts of tasks one after another: a program's first byte, and a moment.
const PACE: u64 = 200;

/// 50 tasks: what an agent waits for.
pub(super) fn fifty() -> Case<Lab> {
    let metrics = vec![
        Metric::new("StartTask p50", "ms", Better::Less).target(Target::Over(5.0)),
        Metric::new("StartTask p90", "ms", Better::Less),
        Metric::new("first byte p50", "ms", Better::Less),
        Metric::new("exit seen p50", "ms", Better::Less).target(Target::Below(20.0)),
        Metric::new("exit seen max", "ms", Better::Less),
        Metric::new("StopTask p50", "ms", Better::Less),
        Metric::new("plugin RSS", "MB", Better::Less).target(Target::Below(10.0)),
        Metric::new("plugin PSS", "MB", Better::Less),
        Metric::new("largest shim RSS", "MB", Better::Less).target(Target::Below(2.0)),
        Metric::new("PSS per shim", "MB", Better::Less),
    ];
    let case = Case::new("plugin", "50 tasks", metrics, |lab: &Lab, side, size| {
        if side == Side::Peer {
            let times = startup::create_and_start(lab, size.pick(1, 10, 30), PACE)?;
            return Ok(floor(stats::median(&times), 10));
        }
        let measured = conformance(lab, 50)?;
        let all = &measured["memory"][2];
        Ok(vec![
            milliseconds(&measured, "start", "p50_ms"),
            milliseconds(&measured, "start", "p90_ms"),
            milliseconds(&measured, "first_byte", "p50_ms"),
            milliseconds(&measured, "exit_seen", "p50_ms"),
            milliseconds(&measured, "exit_seen", "max_ms"),
            milliseconds(&measured, "stop", "p50_ms"),
            megabytes(&all["plugin"]["rss_kb"]),
            megabytes(&all["plugin"]["pss_kb"]),
            megabytes(&all["shims"]["most_rss_kb"]),
            pss_per_shim(all),
        ]
        .into())
    });
    case.cold().once().at_most(2)
}

/// As many tasks as a large node has: what grows with them.
pub(super) fn many() -> Case<Lab> {
    let metrics = vec![
        Metric::new("StartTask p50", "ms", Better::Less),
        Metric::new("plugin RSS, 1 task", "MB", Better::Less),
        Metric::new("plugin RSS, a quarter", "MB", Better::Less),
        Metric::new("plugin RSS, all", "MB", Better::Less),
        Metric::new("plugin PSS, all", "MB", Better::Less),
        Metric::new("largest shim RSS, 1 task", "MB", Better::Less).target(Target::Below(2.0)),
        Metric::new("largest shim RSS, all", "MB", Better::Less).target(Target::Below(2.0)),
        Metric::new("PSS per shim, all", "MB", Better::Less),
        Metric::new("launch after kill -9", "ms", Better::Less),
        Metric::new("recovery of all", "ms", Better::Less),
        Metric::new("exit seen p50", "ms", Better::Less).target(Target::Below(20.0)),
        Metric::new("DestroyTask p50", "ms", Better::Less),
    ];
    let case = Case::new("scale", "many tasks", metrics, |lab: &Lab, side, size| {
        if side == Side::Peer {
            return Ok(floor(None, 12));
        }
        let tasks = size.pick(10, 100, 200);
        let measured = conformance(lab, tasks)?;
        let [first, quarter, all] = [0, 1, 2].map(|mark: usize| &measured["memory"][mark]);
        let values = vec![
            milliseconds(&measured, "start", "p50_ms"),
            megabytes(&first["plugin"]["rss_kb"]),
            megabytes(&quarter["plugin"]["rss_kb"]),
            megabytes(&all["plugin"]["rss_kb"]),
            megabytes(&all["plugin"]["pss_kb"]),
            megabytes(&first["shims"]["most_rss_kb"]),
            megabytes(&all["shims"]["most_rss_kb"]),
            pss_per_shim(all),
            milliseconds(&measured, "relaunch", "max_ms"),
            milliseconds(&measured, "recover", "sum_ms"),
            milliseconds(&measured, "exit_seen", "p50_ms"),
            milliseconds(&measured, "destroy", "p50_ms"),
        ];
        let note = Some(format!("{tasks} tasks at once"));
        Ok(Reading { values, note })
    });
    case.cold().once().at_most(1)
}

/// Has the tool play an agent with so many tasks.
fn conformance(lab: &Lab, tasks: u64) -> Result<Value> {
    let jobs = lab.sandbox.dir().join("jobs");
    fs::create_dir_all(&jobs)?;
    let jars = lab.jar.parent().unwrap_or(&lab.jar);
    let config = json!({ "state_dir": lab.place("state"), "allow_host_mounts": true });
    let task = json!({
        "jar_path": "/jars/load.jar",
        "volumes": [format!("{}:/jars:ro", jars.display())],
        "jvm_options": JVM_OPTIONS,
        "heap_mb": HEAP,
        "args": ["wait", "/jars/load.jar"],
    });
    let mut command = lab.sandbox.command(&lab.binary);
    command
        .args(["--output", "json", "conformance", &text(&lab.binary)])
        .args(["--measure", &tasks.to_string()])
        .args(["--plugin-config", &config.to_string()])
        .args(["--task", &task.to_string()])
        .arg("--dir")
        .arg(&jobs);
    let limit = BASE_LIMIT + TASK_LIMIT * u32::try_from(tasks).unwrap_or(u32::MAX);
    let said = lab.said(command, "conformance", limit)?;
    serde_json::from_str(&said).with_context(|| format!("numbers were expected, got `{said}`"))
}

/// What the floor yields of so many values: the first one, if any.
fn floor(first: Option<f64>, values: usize) -> Reading {
    let mut reading = vec![None; values];
    reading[0] = first;
    reading.into()
}

fn milliseconds(measured: &Value, what: &str, which: &str) -> Option<f64> {
    measured[what][which].as_f64()
}

fn megabytes(kilobytes: &Value) -> Option<f64> {
    Some(kilobytes.as_f64()? / 1024.0)
}

fn pss_per_shim(memory: &Value) -> Option<f64> {
    let count = memory["shims"]["count"]
        .as_f64()
        .filter(|count| *count > 0.0)?;
    Some(megabytes(&memory["shims"]["pss_kb"])? / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_asks_for_the_heap_that_the_job_asks_for() {
        let args = as_under_an_agent();
        let heap = args.iter().position(|word| *word == "--heap-mb").unwrap();
        assert_eq!(args[heap + 1], HEAP.to_string());
    }

    #[test]
    fn what_was_not_measured_is_no_number() {
        let measured = json!({ "stop": { "p50_ms": null }, "shims": { "count": 0, "pss_kb": 0 } });
        assert_eq!(milliseconds(&measured, "stop", "p50_ms"), None);
        assert_eq!(milliseconds(&measured, "start", "p50_ms"), None);
        assert_eq!(pss_per_shim(&measured), None);
    }

    #[test]
    fn memory_is_in_megabytes() {
        let memory = json!({ "shims": { "count": 4, "pss_kb": 2048 } });
        assert_eq!(pss_per_shim(&memory), Some(0.5));
        assert_eq!(megabytes(&json!(512)), Some(0.5));
    }

    #[test]
    fn the_floor_has_a_value_for_every_metric() {
        assert_eq!(
            floor(Some(1.0), fifty().metrics.len()).values[..2],
            [Some(1.0), None]
        );
        assert_eq!(fifty().metrics.len(), 10);
        assert_eq!(many().metrics.len(), 12);
    }
}
