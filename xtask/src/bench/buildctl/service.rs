//! Cases about the daemon itself: how soon it has taken a job, and what it needs while nothing happens.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;

use super::super::machine::Usage;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Side;
use super::super::plan::Target;
use super::super::stats;
use super::Lab;
use super::daemon::Daemon;

/// When the daemon has given back what only starting needed.
const SETTLED: Duration = Duration::from_secs(3);

/// Jobs that are handed in one after the other, behind one that goes on.
pub(super) fn submissions() -> Case<Lab> {
    let metrics = vec![
        Metric::new("p50", "ms", Better::Less).target(Target::Below(20.0)),
        Metric::new("p99", "ms", Better::Less).target(Target::Below(100.0)),
    ];
    Case::new("submit", "submission", metrics, |lab: &Lab, side, size| {
        let count = size.pick(3, 20, 60);
        let times = match side {
            Side::Ours => submit(lab, count)?,
            Side::Peer => (0..count).map(|_| least(lab)).collect::<Result<_>>()?,
        };
        let of = |percent| stats::percentile(&times, percent);
        Ok(vec![of(50), of(99)].into())
    })
}

fn submit(lab: &Lab, count: u64) -> Result<Vec<f64>> {
    let dockerfile =
        "FROM scratch\nCOPY worker unique /\nRUN [\"/worker\", \"sleep\", \"60000\"]\n";
    let source = lab.source("waiting", dockerfile)?;
    let repository = source.commit(&lab.sandbox)?;
    let daemon = Daemon::start(lab, 1)?;
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for number in 0..=count {
        let image = lab.image(&format!("waiting-{number}"));
        let begin = Instant::now();
        ids.push(daemon.submit(&repository, &image)?);
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        // What a job does by itself behind its submission is not what is measured.
        thread::sleep(Duration::from_millis(20));
    }
    // Those that wait first, so that none of them begins.
    for id in ids.iter().rev() {
        daemon.kill(id)?;
    }
    for id in &ids {
        let status = daemon.ended(id)?;
        ensure!(
            status == "FAILED",
            "job {id}, which was killed, is {status}"
        );
    }
    // The first one made the connection.
    Ok(times.split_off(1))
}

/// The least that accepting a job takes: writing it down, and starting who looks after it.
fn least(lab: &Lab) -> Result<f64> {
    let (draft, file) = (
        lab.sandbox.dir().join("draft"),
        lab.sandbox.dir().join("file"),
    );
    let begin = Instant::now();
    let mut written = File::create(&draft)?;
    written.write_all(&[b'x'; 2000])?;
    written.sync_all()?;
    std::fs::rename(&draft, &file)?;
    File::open(lab.sandbox.dir())?.sync_all()?;
    let mut child = Command::new("true").stdin(Stdio::null()).spawn()?;
    let elapsed = begin.elapsed();
    child.wait()?;
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// A daemon that nobody asks for anything.
pub(super) fn idle() -> Case<Lab> {
    let metrics = vec![
        Metric::new("RSS", "MB", Better::Less).target(Target::Below(15.0)),
        Metric::new("PSS", "MB", Better::Less),
    ];
    let case = Case::new("idle", "idle daemon", metrics, |lab: &Lab, side, _| {
        if side == Side::Peer {
            return Ok(vec![None, None].into());
        }
        let daemon = Daemon::start(lab, 1)?;
        thread::sleep(SETTLED);
        let usage = Usage::of(daemon.id())?;
        Ok(vec![
            Some(usage.rss_kb / 1024.0),
            usage.pss_kb.map(|kb| kb / 1024.0),
        ]
        .into())
    });
    case.cold().once().at_most(2)
}
