//! How a pretended run goes, told in advance.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    clock::later,
    job::Job,
    logs::Stream,
    names::{Digest, Reference, Tag},
    phase::{Built, Ending, FailureKind, MovedTag, Outcome, Run, RunFailure},
};

/// How a run goes. The default begins at once and succeeds at once.
#[derive(Clone, Debug)]
pub struct Play {
    /// How long it waits for a place; `Duration::MAX` for ever.
    pub waits: Duration,
    /// What it waits for.
    pub reason: Option<String>,
    /// How long it takes then; `Duration::MAX` until it is stopped.
    pub takes: Duration,
    /// What it says, and how long after its begin.
    pub says: Vec<(Duration, Stream, String)>,
    /// How it ends, if nobody stops it.
    pub ends: End,
    /// How long it takes to end once it is stopped; `Duration::MAX` if it never does.
    pub obeys: Duration,
    /// Whether it ends without an account of its own, as a runner does that is killed.
    pub silent: bool,
    /// Why the engine will not even start it.
    pub refused: Option<String>,
}

/// How a run ends by itself.
#[derive(Clone, Debug)]
pub enum End {
    /// With the outcome that fits the job.
    Succeeds,
    /// With this one, which may not fit.
    As(Box<Ending>),
}

impl Default for Play {
    fn default() -> Self {
        Self {
            waits: Duration::ZERO,
            reason: None,
            takes: Duration::ZERO,
            says: Vec::new(),
            ends: End::Succeeds,
            obeys: Duration::ZERO,
            silent: false,
            refused: None,
        }
    }
}

impl Play {
    /// It ends with this code.
    pub fn fails(code: i32, message: &str) -> Self {
        let failure = RunFailure {
            kind: FailureKind::Exit { code },
            message: message.to_owned(),
            moved: Vec::new(),
            built: None,
        };
        Self {
            ends: End::As(Box::new(Ending::Failed(failure))),
            ..Self::default()
        }
    }

    /// It goes on until it is stopped.
    pub fn endless() -> Self {
        Self {
            takes: Duration::MAX,
            ..Self::default()
        }
    }

    /// It waits for a place and never gets one.
    pub fn blocked(reason: &str) -> Self {
        Self {
            waits: Duration::MAX,
            reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    /// It takes that long.
    #[must_use]
    pub fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    /// It says these lines at its begin.
    #[must_use]
    pub fn saying<T: Into<String>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        let lines = lines.into_iter().map(Into::into);
        let said = lines.map(|line| (Duration::ZERO, Stream::Stdout, line));
        self.says.extend(said);
        self
    }

    /// When something changes, if it starts `now`.
    pub(super) fn moments(&self, now: Timestamp) -> Vec<Timestamp> {
        let begin = later(now, self.waits);
        let lines = self.says.iter().map(|(after, ..)| later(begin, *after));
        let mut moments: Vec<Timestamp> = lines.chain([begin, later(begin, self.takes)]).collect();
        moments.retain(|moment| *moment < Timestamp::MAX);
        moments.sort_unstable();
        moments.dedup();
        moments
    }
}

/// The temporary name that pretended builds push to.
pub fn temporary(job: &Job) -> Reference {
    parse(&format!(
        "registry.test/temp-{}:{}",
        job.config.image_name, job.id
    ))
}

/// What a successful run of a job comes to.
pub(super) fn outcome(job: &Job, run: Run) -> Outcome {
    let digest: Digest = parse(&format!(
        "sha256:{:0>64}",
        job.id.to_string().replace('-', "")
    ));
    match run {
        Run::Build => Outcome::Built(Built {
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            image_id: format!("image of {}", job.id),
            temporary: temporary(job),
            digest,
        }),
        Run::TestCommand(_) | Run::TestEntry => Outcome::Tested,
        Run::Publish => Outcome::Published {
            tags: tags(job, &digest),
            left: None,
        },
        Run::Cleanup => Outcome::Cleaned,
    }
}

fn tags(job: &Job, digest: &Digest) -> Vec<MovedTag> {
    let own = job.id.to_string();
    let names = std::iter::once(&own).chain(&job.config.image_tags);
    let moved = |tag: &String| MovedTag {
        tag: parse::<Tag>(tag),
        digest: digest.clone(),
        previous: None,
    };
    names.map(moved).collect()
}

/// # Panics
///
/// If it is no name, which a fake's jobs do not have.
fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|error| panic!("`{text}` is no name: {error:?}"))
}
