//! Cases about the first milliseconds: of the daemon until it can be used, and of the command-line tool until it is
//! over.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Side;
use super::super::plan::Target;
use super::super::sandbox;
use super::super::stats;
use super::Lab;

/// Runs of each command; their median is one sample.
const RUNS: usize = 30;

/// Limit for all runs of one command together.
const BATCH_LIMIT: Duration = Duration::from_secs(20);

/// What our command-line tool reads the daemon's address from.
const URL_VARIABLE: &str = "OVERSEER_URL";

/// Start of the daemon.
pub(super) fn ready() -> Case<Lab> {
    let metrics = vec![Metric::new("until a WebSocket is open", "ms", Better::Less)];
    Case::new("ready", "daemon start", metrics, |lab: &Lab, side, _| {
        let start = |_| Ok(lab.start(side)?.ready_after().as_secs_f64() * 1e3);
        let times = (0..5).map(start).collect::<Result<Vec<_>>>()?;
        Ok(vec![stats::median(&times)].into())
    })
}

/// Start of the command-line tool.
pub(super) fn command_line() -> Case<Lab> {
    let metrics = vec![
        Metric::new("--version p50", "ms", Better::Less).target(Target::Below(5.0)),
        Metric::new("list p50", "ms", Better::Less).target(Target::Below(5.0)),
        Metric::new("floor: /bin/true p50", "ms", Better::Less),
    ];
    Case::new("cli", "command line", metrics, |lab: &Lab, side, _| {
        let floor = p50(lab, Path::new("/bin/true"), &[], None)?;
        let (version, list) = match (side, &lab.peer) {
            // The original has no client verbs.
            (Side::Peer, Some(peer)) => (p50(lab, peer, &["-version"], None)?, None),
            _ => (
                p50(lab, &lab.ours, &["--version"], None)?,
                Some(time_list(lab, side)?),
            ),
        };
        Ok(vec![Some(version), list, Some(floor)].into())
    })
}

fn time_list(lab: &Lab, side: Side) -> Result<f64> {
    let daemon = lab.start(side)?;
    let url = format!("ws://{}/ws", daemon.addr());
    p50(lab, &lab.ours, &["list"], Some(&url))
}

/// Median of several runs in milliseconds, from before the spawn until the exit is known.
fn p50(lab: &Lab, program: &Path, arguments: &[&str], url: Option<&str>) -> Result<f64> {
    let log = lab.sandbox.dir().join("command.log");
    let times = sandbox::supervised(BATCH_LIMIT, |current| {
        let run = |_| {
            let mut command = lab.sandbox.command(program);
            command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(File::create(&log)?);
            command.envs(url.map(|url| (URL_VARIABLE, url)));
            time(&mut command, current)
        };
        (0..RUNS).map(run).collect::<Result<Vec<_>>>()
    });
    let command_text = || format!("`{} {}`", program.display(), arguments.join(" "));
    let times = times
        .with_context(|| sandbox::last_lines(&log))
        .with_context(command_text)?;
    Ok(stats::median(&times).unwrap_or_default())
}

fn time(command: &mut Command, current: &AtomicU32) -> Result<f64> {
    let begin = Instant::now();
    let mut child = command.spawn()?;
    current.store(child.id(), Ordering::Relaxed);
    let status = child.wait()?;
    let elapsed = begin.elapsed();
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(elapsed.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_gives_no_time() {
        let error = sandbox::supervised(BATCH_LIMIT, |current| {
            time(&mut Command::new("false"), current)
        })
        .unwrap_err();
        assert!(
            error.to_string().starts_with("ended with exit status"),
            "{error}"
        );
    }

    #[test]
    fn a_command_that_succeeds_takes_some_time() {
        assert!(
            sandbox::supervised(BATCH_LIMIT, |current| time(
                &mut Command::new("true"),
                current
            ))
            .unwrap()
                > 0.0
        );
    }
}
