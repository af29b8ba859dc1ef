//! S5: resident memory of an idle daemon, and what each connection, each running task and each finished task adds to
//! it. Every case starts a fresh daemon, because freed memory does not all go back to the system.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::super::machine::Usage;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Reading;
use super::super::plan::Size;
use super::super::plan::Target;
use super::Lab;
use super::daemon::Daemon;
use super::starts::Pace;
use super::starts::Starts;
use super::starts::Until;

/// Time for both daemons to finish what they do behind the last event, before memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// An idle daemon, then the same with idle connections.
pub(super) fn idle_and_connections() -> Case<Lab> {
    let metrics = vec![
        Metric::new("idle RSS", "MB", Better::Less).target(Target::Below(10.0)),
        Metric::new("idle PSS", "MB", Better::Less),
        Metric::new("RSS per connection", "kB", Better::Less),
    ];
    let case = Case::new(
        "S5",
        "S5 idle, then 500 connections",
        metrics,
        |lab: &Lab, side, _: Size| {
            let daemon = lab.start(side)?;
            let idle = settled(&daemon)?;
            let connections = (0..500)
                .map(|_| daemon.connect())
                .collect::<Result<Vec<_>>>()?;
            let crowded = settled(&daemon)?;
            let per_connection = added(idle, crowded, connections.len() as u64);
            Ok(vec![
                Some(idle.rss_kb / 1024.0),
                idle.pss_kb.map(|kb| kb / 1024.0),
                Some(per_connection),
            ]
            .into())
        },
    );
    case.cold()
}

/// Tasks that run and print nothing.
pub(super) fn running() -> Case<Lab> {
    let metrics = vec![
        Metric::new("RSS per running task", "kB", Better::Less).target(Target::Below(25.0)),
        Metric::new("PSS after", "MB", Better::Less),
    ];
    let case = Case::new(
        "S5",
        "S5 500 running",
        metrics,
        |lab: &Lab, side, _: Size| filled(&lab.start(side)?, "sleep", 500, Until::Started),
    );
    case.cold().at_most(3)
}

/// Tasks that are over.
pub(super) fn finished() -> Case<Lab> {
    let metrics = vec![
        Metric::new("RSS per finished task", "kB", Better::Less).target(Target::Below(5.0)),
        Metric::new("PSS after", "MB", Better::Less),
    ];
    let case = Case::new(
        "S5",
        "S5 2000 finished",
        metrics,
        |lab: &Lab, side, size| {
            filled(
                &lab.start(side)?,
                "true",
                size.pick(100, 2000, 2000),
                Until::Exited,
            )
        },
    );
    case.cold().at_most(3)
}

/// Starts tasks over connections that are closed again, and divides what they added.
fn filled(daemon: &Daemon<'_>, action: &'static str, count: u64, until: Until) -> Result<Reading> {
    let idle = settled(daemon)?;
    Starts {
        action,
        count,
        until,
        pace: Pace::InTurn,
    }
    .run(daemon)?;
    let full = settled(daemon)?;
    Ok(vec![
        Some(added(idle, full, count)),
        full.pss_kb.map(|kb| kb / 1024.0),
    ]
    .into())
}

fn settled(daemon: &Daemon<'_>) -> Result<Usage> {
    thread::sleep(SETTLE);
    daemon.usage()
}

/// Resident kB that each of `count` things added.
#[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn added(before: Usage, after: Usage, count: u64) -> f64 {
    (after.rss_kb - before.rss_kb) / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_divided_by_what_caused_it() {
        let usage = |rss_kb| Usage {
            rss_kb,
            ..Usage::default()
        };
        assert!((added(usage(3000.0), usage(8000.0), 500) - 10.0).abs() < 1e-9);
    }
}
