//! Cases about one container: from the command line to the end of a short program, and to the start of a long one.

use anyhow::Result;

use super::super::laps::Lap;
use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Side;
use super::super::plan::Size;
use super::super::plan::Target;
use super::super::stats;
use super::Lab;
use super::text;

/// The name of the one detached task that there is at a time.
const NAME: &str = "bench";

/// A JAR that says a word, from the command to its end.
pub(super) fn run() -> Case<Lab> {
    let metrics = vec![
        // Within 10 % of the floor: 1 / 1.1.
        Metric::new("run p50", "ms", Better::Less).target(Target::Ratio(0.91)),
        Metric::new("floor: java -jar p50", "ms", Better::Less),
    ];
    Case::new("java", "hello.jar", metrics, |lab: &Lab, side, size| {
        let count = laps(size);
        let jar = text(&lab.jar);
        let plain = Lap::default().timed(["java", "-jar", &jar, "hello"]);
        let times = match side {
            Side::Ours => {
                let line = lab.driver(&["run", &jar, "--", "hello"]);
                lab.laps(&Lap::default().timed(line), count)?
            }
            Side::Peer => {
                let (folder, id) = (&lab.hello.folder, &lab.hello.container);
                let line = lab.crun(&["run", "--bundle", folder, id]);
                lab.laps(&Lap::default().timed(line), count)?
            }
        };
        let plain = lab.laps(&plain, count)?;
        Ok(vec![stats::median(&times), stats::median(&plain)].into())
    })
}

/// A JAR that waits, until its program has been started.
pub(super) fn detached() -> Case<Lab> {
    let metrics = vec![Metric::new("until it is started p50", "ms", Better::Less)];
    Case::new(
        "create",
        "detached start",
        metrics,
        |lab: &Lab, side, size| {
            let times = match side {
                Side::Ours => {
                    let jar = text(&lab.jar);
                    let mut args = vec!["run", "--detach", "--name", NAME, &jar];
                    args.extend(super::tasks::as_under_an_agent());
                    let lap = Lap::default()
                        .timed(lab.driver(&args))
                        .after(lab.driver(&["rm", "--force", NAME]));
                    lab.laps(&lap, laps(size))?
                }
                Side::Peer => create_and_start(lab, laps(size), 0)?,
            };
            Ok(vec![stats::median(&times)].into())
        },
    )
}

/// What crun alone needs until the program of a waiting task is started, after so many milliseconds of rest.
pub(super) fn create_and_start(lab: &Lab, count: u64, rest: u64) -> Result<Vec<f64>> {
    let (folder, id) = (&lab.waiting.folder, &lab.waiting.container);
    let lap = Lap::default()
        .timed(lab.crun(&["create", "--bundle", folder, id]))
        .timed(lab.crun(&["start", id]))
        .after(lab.crun(&["delete", "--force", id]))
        .rested(rest);
    lab.laps(&lap, count)
}

fn laps(size: Size) -> u64 {
    size.pick(1, 5, 15)
}
