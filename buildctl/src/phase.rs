//! Phases of a job and the runs that they consist of: their names, how far a run has come, and how it ended. Plain values;
//! who carries a run out is [`crate::scheduler`]'s, and what follows from its end is [`crate::reconcile`]'s.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    clock::since,
    job::JobId,
    names::{Digest, Reference, Tag},
};

/// A part of a job, in order.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The image is made and pushed under a temporary name.
    Build,
    /// The image that was pushed is tried.
    Test,
    /// Tags are moved to it.
    Publish,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Build, Self::Test, Self::Publish];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Test => "test",
            Self::Publish => "publish",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which run of a job. Its text form is `build`, `test-cmd-0`, `test-entry`, `publish`, `cleanup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// The build.
    Build,
    /// The test command with this index, from 0.
    TestCommand(u16),
    /// The image's own entry point.
    TestEntry,
    /// The publication.
    Publish,
    /// The removal of the temporary tag of a job that ended before its publication did that. Belongs to no phase.
    Cleanup,
}

impl Run {
    /// The phase it is part of.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Build => Some(Phase::Build),
            Self::TestCommand(_) | Self::TestEntry => Some(Phase::Test),
            Self::Publish => Some(Phase::Publish),
            Self::Cleanup => None,
        }
    }

    /// The Nomad job of this run, as the original service named it: `build-ID`, `test-cmd-ID-0`, `test-entry-ID`, `publish-ID`,
    /// `cleanup-ID`.
    pub fn of_job(self, id: &JobId) -> String {
        match self {
            Self::TestCommand(index) => format!("test-cmd-{id}-{index}"),
            other => format!("{other}-{id}"),
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build => f.write_str("build"),
            Self::TestCommand(index) => write!(f, "test-cmd-{index}"),
            Self::TestEntry => f.write_str("test-entry"),
            Self::Publish => f.write_str("publish"),
            Self::Cleanup => f.write_str("cleanup"),
        }
    }
}

/// A text that names no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no run (known: build, test-cmd-0, test-entry, publish, cleanup)")]
pub struct UnknownRun(String);

impl FromStr for Run {
    type Err = UnknownRun;

    fn from_str(text: &str) -> Result<Self, UnknownRun> {
        match text {
            "build" => Ok(Self::Build),
            "test-entry" => Ok(Self::TestEntry),
            "publish" => Ok(Self::Publish),
            "cleanup" => Ok(Self::Cleanup),
            _ => text
                .strip_prefix("test-cmd-")
                .and_then(|index| index.parse().ok())
                .map(Self::TestCommand)
                .ok_or_else(|| UnknownRun(text.to_owned())),
        }
    }
}

impl Serialize for Run {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a scheduler says about one run that it was told to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Which.
    pub run: Run,
    /// How far it is.
    pub progress: Progress,
    /// Where: a host's or node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// When its process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Whether it ended without an account of its own: its runner was killed, or what it said can no longer be read. A build may
    /// have pushed its temporary image then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unaccounted: bool,
    /// What its programs used, once it has ended and if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl Observed {
    /// How much of a core it used on average, in percent.
    pub fn cpu_percent(&self) -> Option<f64> {
        let span = since(self.ended_at?, self.started_at?).as_secs_f64();
        let used = Duration::from_millis(self.usage?.cpu_ms).as_secs_f64();
        (span > 0.0).then(|| 100.0 * used / span)
    }

    /// The most memory that it used at once, in MB.
    pub fn memory_mb(&self) -> Option<f64> {
        let mb = u32::try_from(self.usage?.peak_memory >> 20);
        Some(f64::from(mb.unwrap_or(u32::MAX)))
    }
}

/// What the programs of a run used. All 0 where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time, in milliseconds.
    pub cpu_ms: u64,
    /// Most memory at once, in bytes: of all together where they were in a control group, else of the largest one.
    pub peak_memory: u64,
}

impl Usage {
    /// The same, if it is known.
    pub fn known(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// How far a run is.
///
/// ```text
///  Waiting ──▶ Running ──▶ Ended
///     └───────────────────────▲
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Progress {
    /// It was accepted and does not run yet.
    Waiting {
        /// What it waits for, for people: `2 builds ahead`, `no node has 4096 MB of memory free`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Since when.
        since: Timestamp,
    },
    /// Its process runs.
    Running,
    /// It ended.
    Ended {
        /// How.
        ending: Ending,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "snake_case")]
pub enum Ending {
    /// It did what it was for.
    Succeeded {
        /// What came of it.
        outcome: Outcome,
    },
    /// It did not.
    Failed(RunFailure),
    /// Somebody stopped it.
    Cancelled,
}

/// What comes of a run that succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Of a build.
    Built(Built),
    /// Of a test: its exit code was 0.
    Tested,
    /// Of a publication: every tag, with the digest that the registry reports for it.
    Published {
        /// In the order in which they moved.
        tags: Vec<MovedTag>,
        /// Why the temporary tag is still there, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<String>,
    },
    /// Of a cleanup.
    Cleaned,
}

/// An image that was built and pushed under a temporary name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The commit that was built; none for a local directory that is no Git work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Buildah's id of the image in the local store. Not the digest that a registry knows.
    pub image_id: String,
    /// Where it was pushed to.
    pub temporary: Reference,
    /// The digest of its manifest, as the registry has it.
    pub digest: Digest,
}

/// A tag that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedTag {
    /// Its name.
    pub tag: Tag,
    /// Where it points to, as the registry reports it.
    pub digest: Digest,
    /// Where it pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// For people, one line: `Dockerfile:3: RUN make: exit code 2`.
    pub message: String,
    /// Tags that had been moved when a publication failed, and stayed moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedTag>,
    /// What was built, if the failure came after the push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Built>,
}

/// Kinds of failures, by whose matter they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FailureKind {
    /// A command of the user's ended with this code.
    Exit {
        /// Not 0.
        code: i32,
    },
    /// A command of the user's was ended by a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// It used more memory than it may.
    OutOfMemory,
    /// It took longer than it may.
    Timeout,
    /// It waited longer than it may for a place to run.
    QueueTimeout,
    /// What was asked for is not there or refused: a ref, a file, a credential, a base image.
    Input,
    /// Something around it failed: the registry, the disk, the driver, a template.
    Infrastructure,
    /// The node that it ran on is lost.
    NodeLost,
    /// The scheduler no longer knows what became of it.
    Collected,
}
