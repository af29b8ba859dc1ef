//! How fast a program's output comes out of a pipe.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::process::Stdio;
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
use super::text;

/// Limit for one flood.
const FLOOD_LIMIT: Duration = Duration::from_mins(1);

/// A flood through `milo-driver run`, against one without a container.
pub(super) fn throughput() -> Case<Lab> {
    let metrics = vec![
        Metric::new("after the first byte", "MB/s", Better::More),
        Metric::new("every byte arrives", "MB", Better::More).target(Target::Complete),
    ];
    Case::new("logs", "log to a pipe", metrics, |lab: &Lab, side, size| {
        let megabytes = size.pick(1, 50, 200);
        let (jar, wanted) = (text(&lab.jar), megabytes.to_string());
        let line = match side {
            Side::Ours => lab.driver(&["run", &jar, "--", "flood", &wanted]),
            Side::Peer => ["java", "-jar", &jar, "flood", &wanted]
                .map(Into::into)
                .into(),
        };
        let mut command = lab.sandbox.command(&line[0]);
        command.args(&line[1..]);
        let elapsed = flood(lab, command, megabytes << 20)?;
        let speed = stats::per_second(megabytes, elapsed);
        let arrived = u32::try_from(megabytes)?;
        Ok(vec![Some(speed), Some(f64::from(arrived))].into())
    })
}

/// Time from the first byte to the end of the output, in which exactly so many must come.
fn flood(lab: &Lab, mut command: Command, wanted: u64) -> Result<Duration> {
    let log = lab.sandbox.dir().join("flood.log");
    command.stdout(Stdio::piped()).stderr(File::create(&log)?);
    let flooded = sandbox::supervised(FLOOD_LIMIT, |current| {
        let mut child = command.spawn()?;
        current.store(child.id(), Ordering::Relaxed);
        let taken = take(child.stdout.take().context("no pipe")?);
        let status = child.wait()?;
        let (count, elapsed) = taken?;
        if !status.success() || count != wanted {
            bail!("{count} of {wanted} bytes, then {status}");
        }
        Ok(elapsed)
    });
    flooded.with_context(|| sandbox::last_lines(&log))
}

/// How many bytes come, and how long after the first of them the last one.
fn take(mut pipe: impl Read) -> Result<(u64, Duration)> {
    let mut piece = vec![0; 1 << 18];
    let mut count = pipe.read(&mut piece)?;
    let (mut total, begin) = (count as u64, Instant::now());
    while count > 0 {
        count = pipe.read(&mut piece)?;
        total += count as u64;
    }
    Ok((total, begin.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted() {
        let bytes = vec![7; (1 << 18) * 2 + 5];
        assert_eq!(take(bytes.as_slice()).unwrap().0, bytes.len() as u64);
        assert_eq!(take([].as_slice()).unwrap().0, 0);
    }
}
