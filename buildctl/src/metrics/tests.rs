//! What changes of records count for.

use super::*;
use crate::{
    api::JobConfig,
    clock::later,
    job::{Failure, Span},
    phase::{Ending, Observed, Progress, Usage},
};

const T0: Timestamp = Timestamp::constant(1_763_000_000, 0);

fn at(seconds: u64) -> Timestamp {
    later(T0, Duration::from_secs(seconds))
}

fn job(owner: &str, key: &str) -> Job {
    let config = JobConfig {
        owner: owner.to_owned(),
        ..JobConfig::default()
    };
    Job::new(JobId::of_key(key), config, T0)
}

fn building(job: &Job) -> Job {
    let mut job = job.clone();
    job.state = State::Building;
    job.phases.insert(
        Phase::Build,
        Span {
            start: Some(at(5)),
            end: None,
        },
    );
    job
}

fn failed(job: &Job) -> Job {
    let mut job = building(job);
    job.state = State::Failed;
    job.phases.insert(
        Phase::Build,
        Span {
            start: Some(at(5)),
            end: Some(at(45)),
        },
    );
    job.finished_at = Some(at(45));
    job.failure = Some(Failure {
        phase: Some(Phase::Build),
        error: "no".to_owned(),
    });
    job
}

#[test]
fn a_change_means_what_is_new_in_it() {
    let new = job("o", "a");
    assert_eq!(observe_transition(None, &new), [Observation::Accepted]);
    let began = Observation::Began {
        waited: Duration::from_secs(5),
    };
    assert_eq!(
        observe_transition(Some(&new), &building(&new)),
        std::slice::from_ref(&began)
    );
    let phase = Observation::Phase {
        phase: Phase::Build,
        success: false,
        took: Duration::from_secs(40),
    };
    let ended = Observation::Ended {
        at: at(45),
        success: false,
        phase: Some(Phase::Build),
    };
    assert_eq!(
        observe_transition(Some(&building(&new)), &failed(&new)),
        [phase.clone(), ended.clone()]
    );
    assert_eq!(
        observe_transition(None, &failed(&new)),
        [Observation::Accepted, began, phase, ended]
    );
    assert_eq!(observe_transition(Some(&failed(&new)), &failed(&new)), []);
}

/// A job with a run that ended after ten seconds, having used that.
fn having_used(before: &Job, run: Run, usage: Option<Usage>) -> Job {
    let mut job = before.clone();
    let ending = Ending::Cancelled;
    job.runs.insert(
        run,
        Observed {
            run,
            progress: Progress::Ended { ending },
            place: None,
            started_at: Some(at(5)),
            ended_at: Some(at(15)),
            unaccounted: false,
            usage,
        },
    );
    job
}

#[test]
fn what_the_last_run_of_a_phase_used_is_told_once_it_is_known() {
    let used = |cpu_ms, mb: u64| {
        Some(Usage {
            cpu_ms,
            peak_memory: mb << 20,
        })
    };
    let metrics = Metrics::default();
    let new = job("o", "a");
    let nothing = having_used(&new, Run::TestEntry, None);
    metrics.record(None, &nothing);
    assert!(!metrics.exposition(at(60)).contains("resource_usage{"));
    let first = having_used(&new, Run::TestCommand(0), used(15_000, 300));
    metrics.record(Some(&new), &first);
    let second = having_used(&first, Run::TestCommand(1), used(2_500, 40));
    let lags = observe_transition(Some(&first), &second);
    let seen: Vec<_> = lags
        .iter()
        .filter(|seen| !matches!(seen, Observation::Noted { .. }))
        .collect();
    assert_eq!(
        seen,
        [&Observation::Used {
            phase: Phase::Test,
            cpu: 25.0,
            memory: 40.0
        }]
    );
    let cleaned = having_used(&second, Run::Cleanup, used(1, 1));
    for (before, after) in [(&first, &second), (&second, &cleaned)] {
        metrics.record(Some(before), after);
    }
    let text = metrics.exposition(at(60));
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("resource_usage{"))
        .collect();
    assert_eq!(
        lines,
        [
            "resource_usage{resource_type=\"cpu\",phase=\"test\"} 25",
            "resource_usage{resource_type=\"memory\",phase=\"test\"} 40"
        ]
    );
}

#[test]
fn the_original_s_names_are_there_and_labels_have_an_end() {
    let metrics = Metrics::default();
    for owner in 0..150 {
        let new = job(&format!("owner-{owner}"), &owner.to_string());
        metrics.record(None, &building(&new));
        metrics.record(Some(&building(&new)), &failed(&new));
    }
    metrics.record(None, &job("o", "waits"));
    let text = metrics.exposition(at(60));
    for line in [
        "build_duration_seconds_bucket{status=\"failed\",owner=\"owner-0\",le=\"60\"} 1",
        "build_duration_seconds_count{status=\"failed\",owner=\"other\"} 50",
        "job_success_rate{window=\"1h\",owner=\"owner-1\"} 0",
        "concurrent_jobs_total 1",
        "total_jobs{status=\"failed\",phase=\"build\",owner=\"other\"} 50",
        "buildctl_active_jobs{phase=\"queued\"} 1",
        "buildctl_queue_seconds_count 150",
        "buildctl_phase_seconds_count{phase=\"build\"} 150",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(!text.contains("job_id") && !text.contains("owner-149"));
    for name in [
        "test_duration_seconds",
        "publish_duration_seconds",
        "resource_usage",
        "health_check",
        "buildctl_log_bytes_total",
        "buildctl_backend_requests_total",
        "buildctl_reconcile_lag_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}
