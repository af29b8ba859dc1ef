//! What changes of records count for.

use super::*;
use crate::{
    api::JobConfig,
    clock::later,
    job::{Failure, Span},
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
