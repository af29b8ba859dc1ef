#![expect(
    clippy::needless_pass_by_value,
    reason = "values are written where they are used"
)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn job(stop: bool, status: &str) -> NomadJob {
    read(
        json!({"ID": "build-x", "Stop": stop, "Status": status, "SubmitTime": 1_000_000_000_000_i64}),
    )
}

/// An event as Nomad 2.0 writes it.
fn event(kind: &str, says: &str, details: Value) -> Value {
    json!({"Type": kind, "DisplayMessage": says, "Details": details, "Time": 1})
}

fn terminated(code: i32, signal: i32, oom: bool) -> Value {
    let details = json!({"exit_code": code.to_string(), "signal": signal.to_string(), "oom_killed": oom.to_string()});
    event("Terminated", &format!("Exit Code: {code}"), details)
}

fn killing() -> Value {
    event(
        "Killing",
        "Sent interrupt. Waiting 30s before force killing",
        json!({}),
    )
}

struct Case {
    status: &'static str,
    description: &'static str,
    desired: &'static str,
    failed: bool,
    events: Vec<Value>,
}

impl Case {
    fn of(status: &'static str, events: Vec<Value>) -> Self {
        Self {
            status,
            description: "",
            desired: "run",
            failed: status == "failed",
            events,
        }
    }

    fn allocation(self) -> Allocation {
        read(json!({
            "ID": "a", "NodeName": "n1", "ClientStatus": self.status, "ClientDescription": self.description,
            "DesiredStatus": self.desired, "CreateIndex": 7, "ModifyTime": 5_000_000_000_i64,
            "TaskStates": {"main": {"State": "dead", "Failed": self.failed, "StartedAt": "2026-11-21T10:00:00Z",
                "FinishedAt": "2026-11-21T10:00:01Z", "Events": self.events}},
        }))
    }

    fn verdict(self, stop: bool) -> Verdict {
        sight(&job(stop, "dead"), &[], &[self.allocation()]).verdict
    }
}

fn kind(verdict: &Verdict) -> Option<FailureKind> {
    match verdict {
        Verdict::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

fn evaluation(status: &str, index: u64, failed: Value) -> Evaluation {
    read(
        json!({"Status": status, "CreateIndex": index, "FailedTGAllocs": failed, "CreateTime": 2_000_000_000_000_i64,
        "StatusDescription": "maximum attempts reached (5)", "TriggeredBy": "job-register"}),
    )
}

#[test]
fn a_job_without_a_place_waits_and_says_why() {
    let why = json!({"g": {"NodesEvaluated": 3, "ConstraintFiltered": {"missing drivers": 2},
        "DimensionExhausted": {"memory": 1}}});
    let blocked = [
        evaluation("complete", 60, why.clone()),
        evaluation("blocked", 61, why),
    ];
    let sight = sight(&job(false, "pending"), &blocked, &[]);
    let Verdict::Waiting { reason, since } = sight.verdict else {
        panic!("{sight:?}");
    };
    let words = "no node has a place for it: 2 nodes filtered by missing drivers; 1 node without enough memory";
    assert_eq!(reason.as_deref(), Some(words));
    assert_eq!(since, Timestamp::from_second(1000).unwrap());
    assert_eq!(
        (sight.started_at, sight.ended_at, sight.place),
        (None, None, None)
    );
}

#[test]
fn a_job_with_failed_placements_and_nothing_blocked_waits_too() {
    let why = json!({"g": {"NodesEvaluated": 0, "NodesAvailable": {"dc1": 0}}});
    let sight = sight(
        &job(false, "pending"),
        &[evaluation("complete", 60, why)],
        &[],
    );
    let Verdict::Waiting {
        reason: Some(reason),
        ..
    } = sight.verdict
    else {
        panic!("{sight:?}");
    };
    assert!(
        reason.contains("no node of its datacenters is ready"),
        "{reason}"
    );
}

#[test]
fn a_job_that_was_just_registered_waits_without_a_reason() {
    for evaluations in [vec![], vec![evaluation("pending", 5, Value::Null)]] {
        let sight = sight(&job(false, "pending"), &evaluations, &[]);
        assert!(
            matches!(sight.verdict, Verdict::Waiting { reason: None, .. }),
            "{sight:?}"
        );
    }
}

#[test]
fn an_evaluation_that_failed_fails_the_run_unless_a_newer_one_goes_on() {
    let failed = evaluation("failed", 5, Value::Null);
    let over = sight(&job(false, "pending"), std::slice::from_ref(&failed), &[]);
    assert_eq!(kind(&over.verdict), Some(FailureKind::Infrastructure));
    assert!(over.ended_at.is_some());
    let newer = [failed, evaluation("pending", 6, Value::Null)];
    assert!(!sight(&job(false, "pending"), &newer, &[]).verdict.is_over());
}

#[test]
fn an_evaluation_that_a_newer_one_replaced_says_nothing() {
    let why = json!({"g": {"NodesEvaluated": 1, "DimensionExhausted": {"cpu": 1}}});
    let both = [
        evaluation("blocked", 5, why),
        evaluation("canceled", 6, Value::Null),
    ];
    let sight = sight(&job(false, "pending"), &both, &[]);
    assert!(
        matches!(
            sight.verdict,
            Verdict::Waiting {
                reason: Some(_),
                ..
            }
        ),
        "{sight:?}"
    );
}

#[test]
fn a_job_that_was_stopped_before_it_had_a_place_is_cancelled() {
    let sight = sight(&job(true, "dead"), &[], &[]);
    assert_eq!(
        (sight.verdict, sight.started_at),
        (Verdict::Cancelled, None)
    );
    assert_eq!(sight.ended_at, Some(Timestamp::from_second(1000).unwrap()));
}

#[test]
fn a_dead_job_without_allocations_is_collected_not_successful() {
    let sight = sight(&job(false, "dead"), &[], &[]);
    assert_eq!(kind(&sight.verdict), Some(FailureKind::Collected));
}

#[test]
fn a_pending_allocation_waits_and_says_what_for() {
    let events = vec![
        event("Received", "Task received by client", json!({})),
        event("Driver", "Downloading image", json!({})),
    ];
    let verdict = Case::of("pending", events).verdict(false);
    assert!(
        matches!(&verdict, Verdict::Waiting { reason: Some(reason), .. } if reason == "Downloading image"),
        "{verdict:?}"
    );
}

#[test]
fn a_running_allocation_runs_even_while_it_is_told_to_stop() {
    assert_eq!(Case::of("running", vec![]).verdict(false), Verdict::Running);
    assert_eq!(
        Case::of("running", vec![killing()]).verdict(true),
        Verdict::Running
    );
}

#[test]
fn a_task_that_ended_by_itself_says_how() {
    let exit = |code, signal, out_of_memory| {
        Verdict::Exited(Exit {
            code,
            signal,
            out_of_memory,
        })
    };
    let restart = || event("Not Restarting", "Policy allows no restarts", json!({}));
    let ok = Case::of("complete", vec![terminated(0, 0, false)]);
    assert_eq!(ok.verdict(false), exit(0, 0, false));
    let three = Case::of("failed", vec![terminated(3, 0, false), restart()]);
    assert_eq!(three.verdict(false), exit(3, 0, false));
    let killed = Case::of("failed", vec![terminated(137, 9, true), restart()]);
    assert_eq!(killed.verdict(false), exit(137, 9, true));
}

#[test]
fn a_complete_allocation_that_was_killed_is_cancelled_whatever_its_exit_code() {
    for code in [0, 130, 143] {
        let events = vec![
            killing(),
            terminated(code, 0, false),
            event("Killed", "", json!({})),
        ];
        let case = Case {
            desired: "stop",
            ..Case::of("complete", events)
        };
        assert_eq!(case.verdict(true), Verdict::Cancelled, "{code}");
    }
    let by_hand = vec![killing(), terminated(0, 0, false)];
    assert_eq!(
        Case::of("complete", by_hand).verdict(false),
        Verdict::Cancelled
    );
    let failed = Case::of("failed", vec![killing(), terminated(1, 0, false)]);
    assert_eq!(failed.verdict(true), Verdict::Cancelled);
}

#[test]
fn a_task_that_was_stopped_before_it_ran_is_cancelled() {
    let events = vec![
        event("Template", "Missing: vault.read(x)", json!({})),
        killing(),
    ];
    let case = Case {
        desired: "stop",
        ..Case::of("complete", events)
    };
    assert_eq!(case.verdict(true), Verdict::Cancelled);
    let case = Case {
        desired: "stop",
        ..Case::of("complete", vec![])
    };
    assert_eq!(case.verdict(true), Verdict::Cancelled);
}

#[test]
fn what_a_drained_node_ended_waits_for_another_node_unless_somebody_wanted_its_end() {
    let drained = || Case {
        desired: "stop",
        ..Case::of("complete", vec![killing(), terminated(143, 0, false)])
    };
    let again = |job: NomadJob| sight(&job, &[], &[drained().allocation()]).verdict;
    let Verdict::Waiting { reason, .. } = again(job(false, "pending")) else {
        panic!("it is placed again");
    };
    assert!(reason.unwrap().contains("ended it on n1"));
    assert_eq!(again(job(true, "dead")), Verdict::Cancelled);
    let evicted = again(job(false, "dead"));
    assert!(
        matches!(&evicted, Verdict::Evicted(why) if why.contains("on n1")),
        "{evicted:?}"
    );
    // It was through before.
    let done = Case {
        desired: "stop",
        ..Case::of("complete", vec![terminated(0, 0, false), killing()])
    };
    let verdict = sight(&job(false, "running"), &[], &[done.allocation()]).verdict;
    assert_eq!(verdict, Verdict::Exited(Exit::default()));
}

#[test]
fn a_job_that_is_stopped_after_its_task_ended_keeps_its_end() {
    let case = Case::of("complete", vec![terminated(0, 0, false)]);
    assert_eq!(case.verdict(true), Verdict::Exited(Exit::default()));
}

#[test]
fn an_allocation_that_ran_too_long_is_no_success() {
    let event = event("Killing", "allocation exceeded max_run_duration", json!({}));
    let case = Case {
        description: "allocation exceeded max_run_duration",
        ..Case::of("complete", vec![event, terminated(0, 0, false)])
    };
    assert_eq!(kind(&case.verdict(false)), Some(FailureKind::Timeout));
}

#[test]
fn what_keeps_a_task_from_running_is_no_matter_of_the_users() {
    let rows = [
        ("Driver Failure", "failed to pull image"),
        ("Failed Validation", "bad config"),
        ("Setup Failure", "cgroup"),
        ("Failed Artifact Download", "connection refused"),
    ];
    for (name, says) in rows {
        let restart = event("Not Restarting", "Policy allows no restarts", json!({}));
        let verdict =
            Case::of("failed", vec![event(name, says, json!({})), restart]).verdict(false);
        assert_eq!(kind(&verdict), Some(FailureKind::Infrastructure), "{name}");
        let Verdict::Failed(failure) = verdict else {
            unreachable!()
        };
        assert_eq!(failure.message, format!("{name}: {says}"));
    }
}

#[test]
fn a_template_that_fails_is_no_cancellation() {
    let failed = event(
        "Killing",
        "Template failed: vault.read(secret/x): 403",
        json!({}),
    );
    let verdict = Case::of("failed", vec![failed]).verdict(false);
    let Verdict::Failed(failure) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    assert!(failure.message.contains("Template failed"), "{failure:?}");
}

#[test]
fn a_lost_node_loses_the_run() {
    for status in ["lost", "unknown"] {
        let case = Case {
            description: "alloc is lost",
            ..Case::of(status, vec![])
        };
        let verdict = case.verdict(false);
        let Verdict::Failed(failure) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(failure.kind, FailureKind::NodeLost);
        assert_eq!(failure.message, "n1 is lost (alloc is lost)");
        assert_eq!(Case::of(status, vec![]).verdict(true), Verdict::Cancelled);
    }
}

#[test]
fn the_newest_allocation_counts() {
    let old = Case {
        desired: "stop",
        ..Case::of("complete", vec![killing(), terminated(0, 0, false)])
    };
    let old = old.allocation();
    let new = Allocation {
        id: "b".to_owned(),
        create_index: 9,
        task_states: BTreeMap::new(),
        ..Case::of("running", vec![]).allocation()
    };
    let sight = sight(&job(false, "running"), &[], &[new, old]);
    assert_eq!(
        (sight.verdict, sight.allocation.as_deref()),
        (Verdict::Running, Some("b"))
    );
}

#[test]
fn times_and_place_are_the_tasks() {
    let sight = sight(
        &job(false, "dead"),
        &[],
        &[Case::of("complete", vec![terminated(0, 0, false)]).allocation()],
    );
    assert_eq!(sight.place.as_deref(), Some("n1"));
    assert_eq!(
        sight.started_at.unwrap().to_string(),
        "2026-11-21T10:00:00Z"
    );
    assert_eq!(sight.ended_at.unwrap().to_string(), "2026-11-21T10:00:01Z");
}
