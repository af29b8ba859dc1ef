//! What a service decides for all of its jobs, and what that comes to for one of them.

use std::time::Duration;

use crate::{
    job::Job,
    phase::Run,
    reconcile::{Events, Rules, SLACK},
    spec::{Defaults, Spec},
};

/// What a service decides for all of its jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What jobs get that do not say.
    pub defaults: Defaults,
    /// How long a publication may take.
    pub publish_timeout: Duration,
    /// How long a job may wait for its image, and a run for a place.
    pub queue_timeout: Duration,
    /// How long programs have between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Most bytes of text in one answer with logs.
    pub log_bytes: usize,
    /// How long ended jobs are kept.
    pub retention: Retention,
    /// How often is looked after what nobody asks about.
    pub rounds: Rounds,
}

/// How often a service looks after what nobody asks about; each round comes a little earlier or later than this says, so that
/// services that began together do not go on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// After jobs that nobody moves along.
    pub attend: Duration,
    /// After what is old: ended jobs, folders without a record, caches that have grown too large.
    pub tidy: Duration,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            attend: Duration::from_secs(30),
            tidy: Duration::from_hours(1),
        }
    }
}

/// A span, or up to a fifth more or less.
pub(crate) fn about(span: Duration) -> Duration {
    let factor = 0.8 + 0.4 * runyard_common::backoff::random();
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).unwrap_or(span)
}

/// How long ended jobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Their records.
    pub records: Duration,
    /// Their logs, and whatever else the engine has of them; never longer than the records.
    pub logs: Duration,
}

/// The runs of a specification's test phase.
pub fn tests(spec: &Spec) -> Vec<Run> {
    let Some(test) = &spec.test else {
        return Vec::new();
    };
    let commands = (0..).zip(&test.commands);
    let commands = commands.map(|(index, _)| Run::TestCommand(index));
    commands
        .chain(test.entry_point.then_some(Run::TestEntry))
        .collect()
}

impl Policy {
    /// What this comes to for a job; a configuration that is no longer accepted is a rule too.
    pub fn rules(&self, job: &Job) -> Rules {
        let spec = Spec::of(&job.config, &self.defaults);
        let invalid = spec.as_ref().err().map(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("Job configuration validation failed: {}", errors.join("; "))
        });
        let spec = spec.ok();
        let config = &job.config;
        let events = (!config.webhook_url.is_empty())
            .then(|| Events::of(config.webhook_on_success, config.webhook_on_failure));
        let of = |pick: fn(&Spec) -> Duration, default| spec.as_ref().map_or(default, pick);
        Rules {
            tests: spec.as_ref().map(tests).unwrap_or_default(),
            conflict: spec
                .as_ref()
                .map_or(self.defaults.conflict, |spec| spec.conflict),
            build: of(|spec| spec.build_timeout, self.defaults.build_timeout),
            test: of(|spec| spec.test_timeout, self.defaults.test_timeout),
            publish: self.publish_timeout,
            queue: self.queue_timeout,
            drain: self.kill_grace + SLACK,
            invalid,
            events,
        }
    }
}
