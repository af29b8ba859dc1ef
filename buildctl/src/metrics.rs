//! What a service counts, and its Prometheus form: the names of the original, and more under `buildctl_`. What happens to jobs is
//! read off their records: [`observe_transition`] says what one change means, [`Metrics`] adds that up. Each replica counts all
//! jobs that it sees change, also those that another one moves along.
//!
//! No label has values without end: owners beyond the first [`OWNERS`] are `other`, and there is none for jobs.

mod metered;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use runyard_common::metrics::{Counter, Exposition, Histogram};

use crate::{
    clock::since,
    job::{Job, JobId, State},
    phase::{Phase, Run},
    service::Health,
};

pub use metered::Metered;
pub use watch::watch;

/// How many owners have numbers of their own.
pub const OWNERS: usize = 100;

/// Over which spans success is told.
const WINDOWS: [(&str, Duration); 3] = [
    ("1h", Duration::from_hours(1)),
    ("24h", Duration::from_hours(24)),
    ("7d", Duration::from_hours(168)),
];

/// How many ends of jobs the success is reckoned from at most.
const ENDS: usize = 10_000;

/// What one change of a record means.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A job is new.
    Accepted,
    /// A job has its place to build, after having waited that long.
    Began {
        /// Since it was submitted.
        waited: Duration,
    },
    /// A phase ended.
    Phase {
        /// Which.
        phase: Phase,
        /// Whether it did what it was for.
        success: bool,
        /// How long it took.
        took: Duration,
    },
    /// A job ended.
    Ended {
        /// When.
        at: Timestamp,
        /// Whether it succeeded.
        success: bool,
        /// In which phase it failed.
        phase: Option<Phase>,
    },
    /// The end of a run was noted that long after it ended.
    Noted {
        /// Since its end.
        lag: Duration,
    },
    /// A run of a phase ended, and says what it used.
    Used {
        /// Of which phase.
        phase: Phase,
        /// Percent of a core, on average.
        cpu: f64,
        /// Most memory at once, in MB.
        memory: f64,
    },
    /// A webhook's receiver has a notice, or will never have it.
    Told {
        /// Whether it has.
        delivered: bool,
    },
}

/// What it means that a record was `before` and is `after`; nothing before for a new one.
pub fn observe_transition(before: Option<&Job>, after: &Job) -> Vec<Observation> {
    let mut seen = Vec::new();
    if before.is_none() {
        seen.push(Observation::Accepted);
    }
    let start = |job: &Job, phase| job.phases.get(&phase).and_then(|span| span.start);
    let was = |phase| before.and_then(|job| start(job, phase));
    if let (None, Some(began)) = (was(Phase::Build), start(after, Phase::Build)) {
        let waited = since(began, after.created_at);
        seen.push(Observation::Began { waited });
    }
    let phases = Phase::ALL.into_iter();
    seen.extend(phases.filter_map(|phase| phase_end(before, after, phase)));
    seen.extend(lags(before, after));
    seen.extend(used(before, after));
    seen.extend(told(before, after));
    let ended_before = before.is_some_and(|job| job.state.is_terminal());
    if after.state.is_terminal() && !ended_before {
        seen.push(Observation::Ended {
            at: after.finished_at.unwrap_or(after.updated_at),
            success: after.state == State::Succeeded,
            phase: after.failure.as_ref().and_then(|failure| failure.phase),
        });
    }
    seen
}

fn phase_end(before: Option<&Job>, after: &Job, phase: Phase) -> Option<Observation> {
    let span = |job: &Job| job.phases.get(&phase).copied();
    let known = before.and_then(span).is_some_and(|span| span.end.is_some());
    let span = span(after).filter(|_| !known)?;
    let failed = after.failure.as_ref().and_then(|failure| failure.phase);
    Some(Observation::Phase {
        phase,
        success: failed != Some(phase),
        took: since(span.end?, span.start?),
    })
}

/// How long after the runs' ends the record knew of them.
fn lags(before: Option<&Job>, after: &Job) -> impl Iterator<Item = Observation> {
    let known = move |run: &Run| {
        before
            .and_then(|job| job.runs.get(run))
            .is_some_and(|run| run.ended_at.is_some())
    };
    let ended = after.runs.iter().filter(move |(run, _)| !known(run));
    let ends = ended.filter_map(|(_, run)| run.ended_at);
    ends.map(|end| Observation::Noted {
        lag: since(after.updated_at, end),
    })
}

/// What runs used that ended.
fn used(before: Option<&Job>, after: &Job) -> impl Iterator<Item = Observation> {
    let known = move |run: &Run| {
        let run = before.and_then(|job| job.runs.get(run));
        run.is_some_and(|run| run.usage.is_some())
    };
    let new = after.runs.iter().filter(move |(run, _)| !known(run));
    new.filter_map(|(run, observed)| {
        Some(Observation::Used {
            phase: run.phase()?,
            cpu: observed.cpu_percent()?,
            memory: observed.memory_mb()?,
        })
    })
}

/// Notices for which nothing is left to do.
fn told(before: Option<&Job>, after: &Job) -> impl Iterator<Item = Observation> {
    let known = move |delivery| {
        let notices = before.map(|job| job.notices.as_slice()).unwrap_or_default();
        let mut ended = notices.iter().filter(|notice| notice.due.is_none());
        ended.any(|notice| notice.delivery == delivery)
    };
    let ended = after.notices.iter().filter(|notice| notice.due.is_none());
    let new = ended.filter(move |notice| !known(notice.delivery));
    new.map(|notice| Observation::Told {
        delivered: !notice.given_up,
    })
}

/// What a service counts.
#[derive(Debug)]
pub struct Metrics {
    books: Mutex<Books>,
    queue: Histogram,
    lag: Histogram,
    delivered: Counter,
    given_up: Counter,
    requests: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    log_bytes: Counter,
}

#[derive(Debug, Default)]
struct Books {
    owners: BTreeSet<String>,
    /// Phase, status, owner.
    spans: BTreeMap<(Phase, &'static str, String), Histogram>,
    phases: BTreeMap<Phase, Histogram>,
    /// Percent of a core and MB, of the last run that ended.
    used: BTreeMap<Phase, (f64, f64)>,
    /// Status, phase, owner.
    jobs: BTreeMap<(&'static str, &'static str, String), u64>,
    ends: VecDeque<(Timestamp, String, bool)>,
    active: BTreeMap<JobId, State>,
    health: BTreeMap<String, bool>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            books: Mutex::default(),
            queue: Histogram::new(&[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0]),
            lag: Histogram::new(&[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0]),
            delivered: Counter::default(),
            given_up: Counter::default(),
            requests: Mutex::default(),
            log_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts what a change of a job's record means.
    pub fn record(&self, before: Option<&Job>, after: &Job) {
        let mut books = self.books();
        books.follow(after);
        let owner = books.owner(&after.config.owner);
        for seen in observe_transition(before, after) {
            match seen {
                Observation::Accepted => {}
                Observation::Began { waited } => self.queue.observe(waited.as_secs_f64()),
                Observation::Noted { lag } => self.lag.observe(lag.as_secs_f64()),
                Observation::Phase {
                    phase,
                    success,
                    took,
                } => books.phase(phase, success, took, &owner),
                Observation::Ended { at, success, phase } => books.end(at, success, phase, &owner),
                Observation::Used { phase, cpu, memory } => {
                    books.used.insert(phase, (cpu, memory));
                }
                Observation::Told { delivered: true } => self.delivered.add(1),
                Observation::Told { delivered: false } => self.given_up.add(1),
            }
        }
    }

    /// A job that was known is gone.
    pub fn forget(&self, id: JobId) {
        self.books().active.remove(&id);
    }

    /// Notes what [`crate::service::Builds::health`] said.
    pub fn health(&self, health: &Health) {
        let mut books = self.books();
        for (name, well) in &health.services {
            books.health.insert(name.clone(), well.is_ok());
        }
    }

    /// Counts a request to the engine.
    pub fn request(&self, operation: &'static str, code: &'static str) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((operation, code)).or_default() += 1;
    }

    /// Counts bytes of logs that were read.
    pub fn log_bytes(&self, bytes: u64) {
        self.log_bytes.add(bytes);
    }

    /// All of it, in Prometheus' text format.
    pub fn exposition(&self, now: Timestamp) -> String {
        let mut text = Exposition::new();
        let books = self.books();
        books.write_spans(&mut text);
        books.write_jobs(&mut text, now);
        books.write_usage(&mut text);
        let mut family = text.gauge(
            "health_check",
            "Whether what is needed answers (1) or not (0).",
        );
        for (service, well) in &books.health {
            family.sample(&[("service", service)], *well);
        }
        text.histogram(
            "buildctl_queue_seconds",
            "Time from a job's submission to its build's begin.",
        )
        .observed(&[], &self.queue);
        let mut family = text.histogram("buildctl_phase_seconds", "Time that phases took.");
        for (phase, spans) in &books.phases {
            family.observed(&[("phase", phase.name())], spans);
        }
        let mut family = text.gauge(
            "buildctl_active_jobs",
            "Jobs that have not ended, by phase.",
        );
        for (phase, count) in books.active_by_phase() {
            family.sample(&[("phase", phase)], count);
        }
        drop(books);
        text.histogram(
            "buildctl_reconcile_lag_seconds",
            "Time from a run's end to its note in the record.",
        )
        .observed(&[], &self.lag);
        let mut family = text.counter(
            "buildctl_webhooks_total",
            "Notices that their receivers have, or that were given up.",
        );
        family.sample(&[("result", "delivered")], self.delivered.get());
        family.sample(&[("result", "given_up")], self.given_up.get());
        text.counter(
            "buildctl_log_bytes_total",
            "Bytes of log text that were read.",
        )
        .sample(&[], self.log_bytes.get());
        let mut family = text.counter("buildctl_backend_requests_total", "Requests to the engine.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((operation, code), count) in requests.iter() {
            family.sample(&[("op", operation), ("code", code)], *count);
        }
        text.finish()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// The label of an owner.
    fn owner(&mut self, name: &str) -> String {
        if self.owners.contains(name) || self.owners.len() < OWNERS {
            self.owners.insert(name.to_owned());
            return name.to_owned();
        }
        "other".to_owned()
    }

    fn follow(&mut self, job: &Job) {
        if job.state.is_terminal() {
            self.active.remove(&job.id);
        } else {
            self.active.insert(job.id, job.state);
        }
    }

    fn phase(&mut self, phase: Phase, success: bool, took: Duration, owner: &str) {
        let status = if success { "success" } else { "failed" };
        let bounds: &[f64] = match phase {
            Phase::Build => &[30., 60., 120., 300., 600., 1200., 1800., 3600.],
            Phase::Test => &[10., 30., 60., 120., 300., 600., 900., 1800.],
            Phase::Publish => &[5., 15., 30., 60., 120., 300.],
        };
        let seconds = took.as_secs_f64();
        let key = (phase, status, owner.to_owned());
        self.spans
            .entry(key)
            .or_insert_with(|| Histogram::new(bounds))
            .observe(seconds);
        let fine = || Histogram::new(&[0.5, 1., 2.5, 5., 10., 30., 60., 300., 900., 1800., 3600.]);
        self.phases
            .entry(phase)
            .or_insert_with(fine)
            .observe(seconds);
    }

    fn end(&mut self, at: Timestamp, success: bool, phase: Option<Phase>, owner: &str) {
        let status = if success { "success" } else { "failed" };
        let phase = phase.map_or("", Phase::name);
        *self
            .jobs
            .entry((status, phase, owner.to_owned()))
            .or_default() += 1;
        self.ends.push_back((at, owner.to_owned(), success));
        if self.ends.len() > ENDS {
            self.ends.pop_front();
        }
    }

    fn active_by_phase(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::from([("queued", 0), ("build", 0), ("test", 0), ("publish", 0)]);
        for state in self.active.values() {
            *counts
                .entry(state.phase().map_or("queued", Phase::name))
                .or_default() += 1;
        }
        counts
    }

    fn write_spans(&self, text: &mut Exposition) {
        let families = [
            (
                Phase::Build,
                "build_duration_seconds",
                "Duration of builds.",
            ),
            (
                Phase::Test,
                "test_duration_seconds",
                "Duration of test phases.",
            ),
            (
                Phase::Publish,
                "publish_duration_seconds",
                "Duration of publications.",
            ),
        ];
        for (wanted, name, help) in families {
            let mut family = text.histogram(name, help);
            for ((phase, status, owner), spans) in &self.spans {
                if *phase == wanted {
                    family.observed(&[("status", status), ("owner", owner)], spans);
                }
            }
        }
    }

    fn write_usage(&self, text: &mut Exposition) {
        let help = "What the last run of a phase that ended used: percent of a core on average, and most MB at once.";
        let mut family = text.gauge("resource_usage", help);
        for (phase, (cpu, memory)) in &self.used {
            for (kind, value) in [("cpu", *cpu), ("memory", *memory)] {
                family.sample(&[("resource_type", kind), ("phase", phase.name())], value);
            }
        }
    }

    fn write_jobs(&self, text: &mut Exposition, now: Timestamp) {
        let mut family = text.gauge("job_success_rate", "Part of the ended jobs that succeeded.");
        for (window, span) in WINDOWS {
            let mut owners: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
            for (at, owner, success) in &self.ends {
                if since(now, *at) <= span {
                    let (good, all) = owners.entry(owner).or_default();
                    *good += u32::from(*success);
                    *all += 1;
                }
            }
            for (owner, (good, all)) in owners {
                let rate = f64::from(good) / f64::from(all);
                family.sample(&[("window", window), ("owner", owner)], rate);
            }
        }
        text.gauge("concurrent_jobs_total", "Jobs that have not ended.")
            .sample(&[], self.active.len());
        let mut family = text.counter("total_jobs", "Jobs that ended.");
        for ((status, phase, owner), count) in &self.jobs {
            family.sample(
                &[("status", status), ("phase", phase), ("owner", owner)],
                *count,
            );
        }
    }
}

#[cfg(test)]
mod tests;
