//! The result of a run: one file of JSON that is there whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::phase::{Ending, FailureKind, Usage};

/// How a run ended, as its result file has it: an [`Ending`] and when it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How.
    #[serde(flatten)]
    pub ending: Ending,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// What its programs used.
    #[serde(default)]
    pub usage: Usage,
}

impl Report {
    /// Reads a result file.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes it beside its place, makes sure that it is on the disk, and moves it there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let draft = Path::new(&name);
        let mut file = File::create(draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(draft, path)?;
        File::open(folder)?.sync_all()
    }

    /// The exit code of `run-phase`: 0, 1 for what is the user's matter, 70 for what is not, 124 after the deadline, 143 if it
    /// was stopped.
    pub fn exit_code(&self) -> u8 {
        match &self.ending {
            Ending::Succeeded { .. } => 0,
            Ending::Cancelled => 143,
            Ending::Failed(failure) => match failure.kind {
                FailureKind::Exit { .. }
                | FailureKind::Signal { .. }
                | FailureKind::OutOfMemory
                | FailureKind::Input => 1,
                FailureKind::Timeout | FailureKind::QueueTimeout => 124,
                FailureKind::Infrastructure | FailureKind::NodeLost | FailureKind::Collected => 70,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{Outcome, RunFailure};

    fn report(ending: Ending) -> Report {
        Report {
            ending,
            started_at: "2026-11-21T10:00:00Z".parse().unwrap(),
            ended_at: "2026-11-21T10:00:01Z".parse().unwrap(),
            usage: Usage::default(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let failure = RunFailure {
            kind: FailureKind::Exit { code: 2 },
            message: "Dockerfile:3: RUN make: exit code 2".to_owned(),
            moved: Vec::new(),
            built: None,
        };
        for ending in [
            Ending::Cancelled,
            Ending::Failed(failure),
            Ending::Succeeded {
                outcome: Outcome::Tested,
            },
        ] {
            let report = report(ending);
            report.write(&path).unwrap();
            assert_eq!(Report::read(&path).unwrap(), report);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
