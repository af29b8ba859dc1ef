//! Cases about whole builds, from the command to its end: one at a time, and many at once.

use std::thread;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use super::super::laps::Lap;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Side;
use super::super::plan::Target;
use super::super::sandbox;
use super::super::stats;
use super::Lab;
use super::source::FOUR_STEPS;
use super::source::Source;

/// How many at once.
const CROWD: u64 = 16;

/// Seconds for one build, with all that run beside it.
const LIMIT: &str = "120";

/// A build that changes nothing.
pub(super) fn cached() -> Case<Lab> {
    let metrics = vec![
        Metric::new("from command to tag p50", "ms", Better::Less).target(Target::Over(150.0)),
        Metric::new("floor: buildah bud p50", "ms", Better::Less),
    ];
    Case::new("build", "cached build", metrics, |lab: &Lab, side, size| {
        let source = lab.source("cached", FOUR_STEPS)?;
        let image = lab.image("cached");
        // Not timed: whatever fills the cache.
        let lap = lap(lab, side, &source, &image);
        laps(lab, &lap, 1)?;
        let times = laps(lab, &lap, size.pick(1, 3, 9))?;
        let [bud, _] = lab.by_hand(&source, &image);
        let plain = match side {
            Side::Ours => None,
            Side::Peer => stats::median(&laps(lab, &Lap::default().timed(bud), 3)?),
        };
        Ok(vec![stats::median(&times), plain].into())
    })
}

/// A build with a step of some seconds that is always run again.
pub(super) fn long() -> Case<Lab> {
    let metrics = vec![
        // Within 3 % of the floor: 1 / 1.03.
        Metric::new("from command to tag", "ms", Better::Less).target(Target::Ratio(0.97)),
    ];
    let case = Case::new("build", "long build", metrics, |lab: &Lab, side, _| {
        let dockerfile = format!("{FOUR_STEPS}RUN [\"/worker\", \"sleep\", \"6000\"]\n");
        let source = lab.source("long", &dockerfile)?;
        let image = lab.image("long");
        let times = laps(lab, &lap(lab, side, &source, &image), 1)?;
        Ok(vec![stats::median(&times)].into())
    });
    case.cold().once()
}

/// Many builds at once, none of which was made before.
pub(super) fn parallel() -> Case<Lab> {
    let metrics = vec![
        // Not slower than what they do by hand, but for noise.
        Metric::new("until all are published", "s", Better::Less).target(Target::Ratio(0.9)),
    ];
    Case::new(
        "parallel",
        "builds at once",
        metrics,
        |lab: &Lab, side, size| {
            let sources: Vec<(Source, String)> = (0..size.pick(2, 4, CROWD))
                .map(|number| {
                    let name = format!("crowd-{number}");
                    Ok((lab.source(&name, FOUR_STEPS)?, lab.image(&name)))
                })
                .collect::<Result<_>>()?;
            let begin = Instant::now();
            thread::scope(|scope| {
                let builds: Vec<_> = sources
                    .iter()
                    .map(|(source, image)| scope.spawn(|| build(lab, side, source, image)))
                    .collect();
                builds.into_iter().try_for_each(|build| match build.join() {
                    Ok(result) => result,
                    Err(_) => bail!("a build panicked"),
                })
            })?;
            Ok(vec![Some(begin.elapsed().as_secs_f64())].into())
        },
    )
}

/// One build of a crowd.
fn build(lab: &Lab, side: Side, source: &Source, image: &str) -> Result<()> {
    let lines = match side {
        Side::Ours => vec![lab.ours(source, image)],
        Side::Peer => lab.by_hand(source, image).into(),
    };
    for line in lines {
        let mut command = lab.command("timeout");
        let output = command.arg(LIMIT).args(&line).output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or_default();
            bail!("{} ended with {}: {last}", line[0], output.status);
        }
    }
    Ok(())
}

fn lap(lab: &Lab, side: Side, source: &Source, image: &str) -> Lap {
    match side {
        Side::Ours => Lap::default().timed(lab.ours(source, image)),
        Side::Peer => {
            let [bud, push] = lab.by_hand(source, image);
            Lap::default().timed(bud).timed(push)
        }
    }
}

/// Times laps, in milliseconds.
fn laps(lab: &Lab, lap: &Lap, count: u64) -> Result<Vec<f64>> {
    let mut command = lab.command("timeout");
    command
        .arg(LIMIT)
        .arg(lab.sandbox.helper())
        .args(lap.arguments(count));
    let log = lab.sandbox.dir().join("laps.log");
    let output = command.stderr(std::fs::File::create(&log)?).output()?;
    if !output.status.success() {
        bail!("laps: {}", sandbox::last_lines(&log));
    }
    let said = String::from_utf8(output.stdout)?;
    let numbers: Result<Vec<f64>, _> = said.lines().map(str::parse).collect();
    numbers.with_context(|| format!("laps are numbers, got `{said}`"))
}
