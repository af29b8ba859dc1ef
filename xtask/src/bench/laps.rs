//! Laps: the same commands again and again, timed from before the first spawn until the last exit is known. They are run by
//! a helper process, which can be put where the commands belong (a private mount namespace, say) without adding to their
//! times.

use std::io::Write;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;

/// Name of the helper role: `--role laps COUNT JSON`.
pub(super) const ROLE: &str = "laps";

/// Commands, each as program and arguments.
type Line = Vec<String>;

/// What one lap is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lap {
    /// What is timed, as one.
    timed: Vec<Line>,
    /// What clears up; not timed.
    after: Vec<Line>,
    /// Milliseconds of rest before each lap. The kernel moves a process into a control group much faster when it has just
    /// done so (its grace periods overlap), which what runs now and then has nothing of.
    rest: u64,
}

impl Lap {
    /// The same lap with one more command that is timed.
    pub(super) fn timed<S: Into<String>>(mut self, line: impl IntoIterator<Item = S>) -> Self {
        self.timed.push(line.into_iter().map(Into::into).collect());
        self
    }

    /// The same lap with one more command behind it.
    pub(super) fn after<S: Into<String>>(mut self, line: impl IntoIterator<Item = S>) -> Self {
        self.after.push(line.into_iter().map(Into::into).collect());
        self
    }

    /// The same lap with so many milliseconds of rest before it.
    pub(super) fn rested(self, rest: u64) -> Self {
        Self { rest, ..self }
    }

    /// Arguments for the helper program, which then prints the milliseconds of each lap in a line.
    pub(super) fn arguments(&self, count: u64) -> Vec<String> {
        let lap =
            json!({ "timed": self.timed, "after": self.after, "rest": self.rest }).to_string();
        let mut arguments = ["bench", "--role", ROLE].map(str::to_owned).to_vec();
        arguments.extend([count.to_string(), lap]);
        arguments
    }

    fn read(text: &str) -> Result<Self> {
        let lap: Value = serde_json::from_str(text)?;
        Ok(Self {
            timed: lines(&lap["timed"])?,
            after: lines(&lap["after"])?,
            rest: lap["rest"].as_u64().context("a lap without `rest`")?,
        })
    }

    /// Milliseconds of one lap.
    fn run(&self) -> Result<f64> {
        thread::sleep(Duration::from_millis(self.rest));
        let begin = Instant::now();
        let timed = self.timed.iter().try_for_each(|line| run(line));
        let elapsed = begin.elapsed();
        // Behind a failure too: what has been begun is to go.
        let after = self.after.iter().try_for_each(|line| run(line));
        timed.and(after)?;
        Ok(elapsed.as_secs_f64() * 1e3)
    }
}

/// Runs the laps described by `COUNT JSON`.
///
/// # Errors
///
/// Arguments of another form, and a command that fails.
pub(super) fn play(args: &[String]) -> Result<()> {
    let [count, lap] = args else {
        bail!("role `{ROLE}` takes COUNT JSON, got {args:?}");
    };
    let lap = Lap::read(lap).with_context(|| format!("`{lap}` is no lap"))?;
    for _ in 0..count.parse::<u64>()? {
        writeln!(std::io::stdout().lock(), "{}", lap.run()?)?;
    }
    Ok(())
}

fn lines(list: &Value) -> Result<Vec<Line>> {
    Ok(serde_json::from_value(list.clone())?)
}

fn run(line: &[String]) -> Result<()> {
    let (program, arguments) = line.split_first().context("an empty command")?;
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lap_survives_the_way_to_the_helper() {
        let lap = Lap::default()
            .timed(["a", "-b c"])
            .timed(["d"])
            .after(["e"])
            .rested(3);
        let arguments = lap.arguments(7);
        assert_eq!(arguments[..4], ["bench", "--role", "laps", "7"]);
        assert_eq!(Lap::read(&arguments[4]).unwrap(), lap);
    }

    #[test]
    fn only_what_is_timed_takes_time() {
        let lap = Lap::default().timed(["true"]).after(["sleep", "0.3"]);
        assert!(lap.run().unwrap() < 300.0);
    }

    #[test]
    fn a_failed_lap_has_no_time_and_is_cleared_up() {
        let lap = Lap::default().timed(["false"]).after(["rmdir", "/no/such"]);
        let error = lap.run().unwrap_err().to_string();
        assert!(
            error.starts_with("`false` ended with exit status"),
            "{error}"
        );
        assert!(
            Lap::default()
                .timed(["true"])
                .after(["false"])
                .run()
                .is_err()
        );
    }
}
