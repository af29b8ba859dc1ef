//! Lines of logs as clients of the original's REST and WebSocket get them: texts under their phase, and single messages.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    job::JobId,
    logs::{Cursor, Line, Stream},
    phase::{Phase, Run},
};

/// Lines by phase. Null is a phase that was not asked for, or has not begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobLogs {
    /// The build's.
    pub build: Option<Vec<String>>,
    /// The tests', each begun by `=== Test Job 0 (test-cmd-ID-0) ===`.
    pub test: Option<Vec<String>>,
    /// The publication's.
    pub publish: Option<Vec<String>>,
}

impl JobLogs {
    /// The lines of a phase.
    pub fn of(&mut self, phase: Phase) -> &mut Option<Vec<String>> {
        match phase {
            Phase::Build => &mut self.build,
            Phase::Test => &mut self.test,
            Phase::Publish => &mut self.publish,
        }
    }

    /// Puts a line before the first one.
    pub(super) fn begin_with(&mut self, line: &str) {
        let first = self.present().next().unwrap_or(Phase::Build);
        self.of(first)
            .get_or_insert_default()
            .insert(0, line.to_owned());
    }

    /// Puts a line behind the last one.
    pub(super) fn end_with(&mut self, line: &str) {
        let last = self.present().last().unwrap_or(Phase::Build);
        self.of(last).get_or_insert_default().push(line.to_owned());
    }

    fn present(&self) -> impl Iterator<Item = Phase> + use<> {
        let there = [
            self.build.is_some(),
            self.test.is_some(),
            self.publish.is_some(),
        ];
        Phase::ALL
            .into_iter()
            .zip(there)
            .filter_map(|(phase, there)| there.then_some(phase))
    }
}

/// Lines with their parts joined, in the order in which they ended.
pub fn whole_lines(lines: &[Line]) -> Vec<Line> {
    let mut begun: Vec<Line> = Vec::new();
    let mut whole = Vec::with_capacity(lines.len());
    for line in lines {
        let same = |other: &Line| (other.run, other.stream) == (line.run, line.stream);
        let mut joined = match begun.iter().position(same) {
            Some(index) => {
                let mut first = begun.swap_remove(index);
                first.text.push_str(&line.text);
                first
            }
            None => line.clone(),
        };
        joined.partial = line.partial;
        if joined.partial {
            begun.push(joined);
        } else {
            whole.push(joined);
        }
    }
    // What goes on behind this page is shown as far as it goes.
    whole.append(&mut begun);
    whole
}

/// A line as the original shows it: `[main/stdout] …`; what buildctl itself says is `[buildctl] …`.
pub fn labelled(line: &Line) -> String {
    let label = match line.stream {
        Stream::Stdout => "main/stdout",
        Stream::Stderr => "main/stderr",
        Stream::System => "buildctl",
    };
    format!("[{label}] {}", line.text)
}

/// Lines of a job, grouped for an answer.
pub(super) struct LogText {
    job: JobId,
    lines: Vec<Line>,
}

impl LogText {
    pub(super) fn of(job: JobId, lines: &[Line]) -> Self {
        Self {
            job,
            lines: whole_lines(lines),
        }
    }

    /// The lines by phase; with `only` the other phases are null, whatever there is of them.
    pub(super) fn into_logs(self, only: Option<Phase>) -> JobLogs {
        let mut logs = JobLogs::default();
        if let Some(phase) = only {
            *logs.of(phase) = Some(Vec::new());
        }
        for (index, run) in self.runs().into_iter().enumerate() {
            // A cleanup is of no phase; whoever streams the log sees it.
            let Some(phase) = run
                .phase()
                .filter(|phase| only.is_none_or(|only| only == *phase))
            else {
                continue;
            };
            let lines = logs.of(phase).get_or_insert_default();
            if phase == Phase::Test {
                lines.push(self.heading(run, index));
            }
            let of_run = self.lines.iter().filter(|line| line.run == run);
            lines.extend(of_run.map(labelled));
        }
        logs
    }

    /// The runs that said something, in order.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.lines.iter().map(|line| line.run).collect();
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    /// What parts tests, as the original has it: with the test's number and the name of its Nomad job.
    fn heading(&self, run: Run, index: usize) -> String {
        let number = match run {
            Run::TestCommand(number) => usize::from(number),
            _ => index - usize::from(self.runs().contains(&Run::Build)),
        };
        format!("=== Test Job {number} ({}) ===", run.of_job(&self.job))
    }
}

/// A line of a log as it grows, over WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamMessage {
    /// Of which job.
    pub job_id: JobId,
    /// Of which phase; empty for a cleanup.
    pub phase: String,
    /// When it was said (or read, where that is not known).
    pub timestamp: String,
    /// Always `INFO`, as in the original: nobody knows more.
    pub level: String,
    /// The line.
    pub message: String,
    /// Of which run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Who said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// Where to go on after this line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cursor: String,
}

impl StreamMessage {
    /// The message of a line that was read at `now`.
    pub fn of(id: JobId, line: &Line, cursor: &Cursor, now: Timestamp) -> Self {
        Self {
            job_id: id,
            phase: line
                .run
                .phase()
                .map(Phase::name)
                .unwrap_or_default()
                .to_owned(),
            timestamp: line.time.unwrap_or(now).to_string(),
            level: "INFO".to_owned(),
            message: line.text.clone(),
            run: line.run.to_string(),
            stream: Some(line.stream),
            cursor: cursor.to_string(),
        }
    }
}
