//! Cases about logs: how soon a line is there, and how many a second.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use super::super::plan::Better;
use super::super::plan::Case;
use super::super::plan::Metric;
use super::super::plan::Side;
use super::super::plan::Target;
use super::super::sandbox;
use super::super::stats;
use super::Lab;
use super::daemon::Daemon;
use super::source::Source;

/// How many lines of a flood are a megabyte.
const LINES: u64 = 10_000;

/// What the image of a log consists of; the step that speaks is behind it.
const SILENT: &str = "FROM scratch\nCOPY worker unique /\n";

/// Lines as they are printed, one after the other.
pub(super) fn latency() -> Case<Lab> {
    let metrics = vec![
        Metric::new("p50", "ms", Better::Less),
        Metric::new("p95", "ms", Better::Less).target(Target::Below(150.0)),
    ];
    Case::new(
        "lines",
        "line to client",
        metrics,
        |lab: &Lab, side, size| {
            let count = size.pick(5, 60, 200);
            let source = speaking(lab, &format!("\"tick\", \"{count}\", \"20\""))?;
            let mut late = Vec::new();
            let mut hear = |text: &str| -> Result<()> {
                let Some((number, printed)) = tick(text) else {
                    return Ok(());
                };
                ensure!(
                    number == late.len() as u64,
                    "tick {number} after {}",
                    late.len()
                );
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                late.push(now.saturating_sub(printed).as_secs_f64() * 1e3);
                Ok(())
            };
            match side {
                Side::Ours => {
                    let daemon = Daemon::start(lab, 1)?;
                    let id = daemon.submit(&source.commit(&lab.sandbox)?, &lab.image("ticks"))?;
                    events(daemon.follow(&id)?, &mut hear)?;
                    succeeded(&daemon, &id)?;
                }
                Side::Peer => by_hand(lab, &source, &mut hear)?,
            }
            ensure!(
                late.len() as u64 == count,
                "{} of {count} lines",
                late.len()
            );
            let of = |percent| stats::percentile(&late, percent);
            Ok(vec![of(50), of(95)].into())
        },
    )
}

/// As many lines as there can be.
pub(super) fn flood() -> Case<Lab> {
    let metrics = vec![
        Metric::new("while it is built", "MB/s", Better::More),
        Metric::new("from its beginning", "MB/s", Better::More).target(Target::AtLeast(50.0)),
        Metric::new("daemon's most memory", "MB", Better::Less).target(Target::Below(64.0)),
    ];
    let case = Case::new("flood", "long log", metrics, |lab: &Lab, side, size| {
        let megabytes = size.pick(1, 20, 100);
        let source = speaking(lab, &format!("\"flood\", \"{megabytes}\""))?;
        let mut flood = Flood::default();
        if side == Side::Peer {
            by_hand(lab, &source, &mut |text| flood.hear(text))?;
            return Ok(vec![Some(flood.speed(megabytes)?), None, None].into());
        }
        let daemon = Daemon::start(lab, 1)?;
        let id = daemon.submit(&source.commit(&lab.sandbox)?, &lab.image("flood"))?;
        events(daemon.follow(&id)?, &mut |text| flood.hear(text))?;
        let live = flood.speed(megabytes)?;
        succeeded(&daemon, &id)?;
        let mut again = Flood::default();
        events(daemon.follow(&id)?, &mut |text| again.hear(text))?;
        Ok(vec![
            Some(live),
            Some(again.speed(megabytes)?),
            Some(daemon.most_memory()?),
        ]
        .into())
    });
    case.at_most(2)
}

/// The source of an image with a step that says something, and was never made before.
fn speaking(lab: &Lab, words: &str) -> Result<Source> {
    let folder = lab.sandbox.dir().join("speaking");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    lab.source("speaking", &format!("{SILENT}RUN [\"/worker\", {words}]\n"))
}

fn succeeded(daemon: &Daemon, id: &str) -> Result<()> {
    let status = daemon.ended(id)?;
    ensure!(status == "SUCCEEDED", "job {id} is {status}");
    Ok(())
}

/// Hears the lines of a stream of events to its end.
fn events(mut stream: impl BufRead, hear: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            bail!("the stream broke off");
        }
        if line == "event: end\n" {
            return Ok(());
        }
        if let Some(text) = line.strip_prefix("data: ").and_then(text) {
            hear(text)?;
        }
    }
}

/// The text of a line in an event; the lines here have nothing in them that JSON would write otherwise.
fn text(data: &str) -> Option<&str> {
    let (_, rest) = data.split_once("\"text\":\"")?;
    Some(rest.split_once('"')?.0)
}

/// Hears the lines of `buildah bud` as they come out of it.
fn by_hand(lab: &Lab, source: &Source, hear: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let [bud, _] = lab.by_hand(source, &lab.image("speaking"));
    let log = lab.sandbox.dir().join("speaking.log");
    let mut command = lab.command("timeout");
    let mut child = command
        .arg("120")
        .args(&bud)
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()?;
    let out = BufReader::with_capacity(256 << 10, child.stdout.take().context("no pipe")?);
    let heard = out.lines().try_for_each(|line| hear(&line?));
    let status = child.wait()?;
    heard?;
    ensure!(status.success(), "{status}: {}", sandbox::last_lines(&log));
    Ok(())
}

/// The number of a tick, and when it was printed.
fn tick(text: &str) -> Option<(u64, Duration)> {
    let (number, printed) = text.strip_prefix("tick ")?.split_once(' ')?;
    Some((
        number.parse().ok()?,
        Duration::from_nanos(printed.parse().ok()?),
    ))
}

/// What was heard of a flood.
#[derive(Default)]
struct Flood {
    count: u64,
    begin: Option<Instant>,
    end: Option<Instant>,
}

impl Flood {
    fn hear(&mut self, text: &str) -> Result<()> {
        let number = text.strip_prefix("flood ").and_then(|rest| rest.get(..12));
        let Some(number) = number else { return Ok(()) };
        let number: u64 = number.parse()?;
        ensure!(number == self.count, "line {number} after {}", self.count);
        self.count += 1;
        let now = Instant::now();
        self.begin.get_or_insert(now);
        self.end = Some(now);
        Ok(())
    }

    /// Megabytes a second, of which so many must have come.
    fn speed(&self, megabytes: u64) -> Result<f64> {
        let (begin, end) = self.begin.zip(self.end).context("nothing came")?;
        ensure!(
            self.count == megabytes * LINES,
            "{} of {} lines",
            self.count,
            megabytes * LINES
        );
        Ok(stats::per_second(megabytes, end - begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_stream_are_heard_to_its_end() {
        let stream = "retry: 1000\n\nid: build.1.0\nevent: line\ndata: {\"run\":\"build\",\"text\":\"tick 0 5\"}\n\n\
                      event: status\ndata: {\"status\":\"BUILDING\"}\n\nevent: end\ndata: {}\n\n";
        let mut heard = Vec::new();
        let mut hear = |text: &str| {
            heard.push(text.to_owned());
            Ok(())
        };
        events(stream.as_bytes(), &mut hear).unwrap();
        assert_eq!(heard, ["tick 0 5"]);
        assert_eq!(tick(&heard[0]), Some((0, Duration::from_nanos(5))));
        assert!(events("event: line\n".as_bytes(), &mut |_| Ok(())).is_err());
    }

    #[test]
    fn a_flood_with_a_gap_has_no_speed() {
        let mut flood = Flood::default();
        flood.hear("STEP 1/3: FROM scratch").unwrap();
        flood.hear("flood 000000000000 x").unwrap();
        assert!(flood.hear("flood 000000000002 x").is_err());
        assert!(flood.speed(1).is_err());
    }
}
