//! What a Nomad job with its evaluations and allocations says about a run: a table, nothing else. Nothing here asks or waits; how
//! a task's own result comes in is [`super::result`]'s.
//!
//! | observed | means |
//! |---|---|
//! | no allocation; the job is stopped | cancelled before it began |
//! | no allocation; newest evaluation blocked, or complete with failed placements | waiting, with the reason |
//! | no allocation; newest evaluation failed | failed: scheduling |
//! | no allocation; the job is dead | failed: collected |
//! | allocation pending | waiting, with what its task does last |
//! | allocation running | running |
//! | allocation complete, "exceeded `max_run_duration`" | failed: timeout |
//! | allocation complete or failed, told to stop before its task ended; the job is stopped | cancelled |
//! | the same, and the job is neither stopped nor dead (a drained node, an operator's `alloc stop`) | waiting: Nomad places it again |
//! | the same, and the job is dead, though nobody stopped it | evicted: failed, as if its node were lost |
//! | allocation complete or failed, its task ended by itself | the task's own matter |
//! | allocation failed, and its task never ran or was not allowed to | failed: infrastructure |
//! | allocation lost or unknown | failed: node lost |
//!
//! A job that is `dead` and an allocation that is `complete` are no success: a killed task and one that ran too long are `complete`
//! too. The newest allocation counts; there is one only, as jobs forbid Nomad to reschedule, unless an operator drains a node or stops
//! the allocation by hand: then it may place another one, in the same transaction or as soon as there is a node, and its client
//! begins only when the first has ended (newer Nomads do not place a drained batch allocation again). No job can forbid that.
//! So such an end is none while Nomad goes on with the job, and the run ends once: as the last allocation did.

use jiff::Timestamp;

use super::wire::{Allocation, Evaluation, NomadJob, Placement, TaskEvent, time};
use crate::phase::{FailureKind, RunFailure};

/// What Nomad's client writes of an allocation that ran too long (since 2.0.3).
const TOO_LONG: &str = "max_run_duration";

/// How far a run is, by what Nomad says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) verdict: Verdict,
    pub(super) place: Option<String>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    /// The allocation that counts.
    pub(super) allocation: Option<String>,
}

/// The table's right column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Waiting {
        reason: Option<String>,
        since: Timestamp,
    },
    Running,
    /// Somebody stopped it, before it was through as far as Nomad knows.
    Cancelled,
    /// Nomad ended it of its own accord, or an operator's, and will not place it again: where and why.
    Evicted(String),
    Failed(RunFailure),
    /// The task's process ended by itself.
    Exited(Exit),
}

/// How a task's process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) signal: i32,
    pub(super) out_of_memory: bool,
}

impl Verdict {
    pub(super) fn is_over(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Running)
    }
}

/// Reads the table.
pub(super) fn sight(
    job: &NomadJob,
    evaluations: &[Evaluation],
    allocations: &[Allocation],
) -> Sight {
    match newest(allocations) {
        Some(allocation) => of_allocation(job, allocation),
        None => unplaced(job, evaluations),
    }
}

/// The allocation that counts.
pub(super) fn newest(allocations: &[Allocation]) -> Option<&Allocation> {
    allocations
        .iter()
        .max_by_key(|allocation| allocation.create_index)
}

fn unplaced(job: &NomadJob, evaluations: &[Evaluation]) -> Sight {
    let newest = evaluations
        .iter()
        .filter(|evaluation| evaluation.status != "canceled")
        .max_by_key(|evaluation| evaluation.create_index);
    let waiting = |reason| Verdict::Waiting {
        reason,
        since: job.submitted(),
    };
    let verdict = match newest {
        _ if job.stop => Verdict::Cancelled,
        Some(newest) if newest.status == "failed" => failed(
            FailureKind::Infrastructure,
            format!(
                "Nomad could not schedule it: {}",
                or(&newest.status_description, "no reason given")
            ),
        ),
        Some(newest) if !newest.failed.is_empty() => waiting(Some(placement(newest))),
        _ if job.status == "dead" => failed(
            FailureKind::Collected,
            "Nomad no longer knows what became of it".to_owned(),
        ),
        _ => waiting(None),
    };
    let stopped = evaluations
        .iter()
        .filter(|evaluation| evaluation.triggered_by == "job-deregister")
        .find_map(|evaluation| time(evaluation.create_time));
    let of_newest = newest.and_then(|newest| time(newest.create_time));
    let ended = stopped.or(of_newest).unwrap_or_else(|| job.submitted());
    Sight {
        ended_at: verdict.is_over().then_some(ended),
        verdict,
        place: None,
        started_at: None,
        allocation: None,
    }
}

/// Why there is no place for a job, for people.
fn placement(evaluation: &Evaluation) -> String {
    let mut parts: Vec<String> = evaluation.failed.values().flat_map(reasons_of).collect();
    parts.dedup();
    if parts.is_empty() {
        return "no node has a place for it".to_owned();
    }
    format!("no node has a place for it: {}", parts.join("; "))
}

fn reasons_of(placement: &Placement) -> Vec<String> {
    if placement.nodes_evaluated == 0 {
        let none = placement.nodes_available.values().all(|count| *count == 0);
        let why = if none {
            "no node of its datacenters is ready"
        } else {
            "no node was considered"
        };
        return vec![why.to_owned()];
    }
    let nodes = |count: &u64| match count {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let filtered = placement
        .constraint_filtered
        .iter()
        .map(|(what, count)| format!("{} filtered by {what}", nodes(count)));
    let exhausted = placement
        .dimension_exhausted
        .iter()
        .map(|(what, count)| format!("{} without enough {what}", nodes(count)));
    let quota = placement
        .quota_exhausted
        .iter()
        .map(|quota| format!("quota {quota} is exhausted"));
    filtered.chain(exhausted).chain(quota).collect()
}

fn of_allocation(job: &NomadJob, allocation: &Allocation) -> Sight {
    let task = allocation.task();
    let verdict = match allocation.client_status.as_str() {
        "running" => Verdict::Running,
        "complete" | "failed" => ended(job, allocation),
        "lost" | "unknown" if job.stop => Verdict::Cancelled,
        "lost" | "unknown" => failed(FailureKind::NodeLost, node_lost(allocation)),
        _ => Verdict::Waiting {
            reason: doing(allocation),
            since: job.submitted(),
        },
    };
    let finished = task.and_then(|task| task.finished_at);
    let ended = finished.or_else(|| time(allocation.modify_time));
    Sight {
        ended_at: verdict.is_over().then_some(ended).flatten(),
        verdict,
        place: (!allocation.node_name.is_empty()).then(|| allocation.node_name.clone()),
        started_at: task.and_then(|task| task.started_at),
        allocation: Some(allocation.id.clone()),
    }
}

/// What a task that is being made ready does: `Downloading image`, `Missing: vault.read(…)`.
fn doing(allocation: &Allocation) -> Option<String> {
    let last = allocation.task()?.events.last()?;
    (!last.display_message.is_empty()).then(|| last.display_message.clone())
}

fn node_lost(allocation: &Allocation) -> String {
    let node = or(&allocation.node_name, "its node");
    let why = or(
        &allocation.client_description,
        &allocation.desired_description,
    );
    match why {
        "" => format!("{node} is lost"),
        why => format!("{node} is lost ({why})"),
    }
}

/// Events that say that a task never ran, for want of something around it.
const NOT_BEGUN: [&str; 6] = [
    "Driver Failure",
    "Failed Validation",
    "Setup Failure",
    "Failed Artifact Download",
    "Failed Restoring Task",
    "Sibling Task Failed",
];

fn ended(job: &NomadJob, allocation: &Allocation) -> Verdict {
    let events = allocation.task().map_or(&[][..], |task| &task.events);
    let killing = events.iter().position(|event| event.kind == "Killing");
    let terminated = events.iter().position(|event| event.kind == "Terminated");
    let told = |at: usize| terminated.is_none_or(|terminated| at < terminated);
    let killed = killing.is_some_and(told);
    let too_long = allocation.client_description.contains(TOO_LONG)
        || killing.is_some_and(|at| events[at].display_message.contains(TOO_LONG));
    if killed && too_long || allocation.client_description.contains(TOO_LONG) {
        return failed(FailureKind::Timeout, "it ran longer than it may".to_owned());
    }
    if comes_again(job, allocation) && (killed || terminated.is_none()) {
        return Verdict::Waiting {
            reason: Some(format!(
                "{}, and places it again when another node has room",
                ended_by_nomad(allocation)
            )),
            since: job.submitted(),
        };
    }
    if !job.stop && allocation.desired_status == "stop" && killed {
        return Verdict::Evicted(ended_by_nomad(allocation));
    }
    let unwanted = job.stop || allocation.desired_status == "stop";
    let has_failed = allocation.task().is_some_and(|task| task.failed);
    match terminated {
        _ if killed && (unwanted || !has_failed) => Verdict::Cancelled,
        None if unwanted => Verdict::Cancelled,
        _ if killed => failed(FailureKind::Infrastructure, said(events, "Killing")),
        Some(at) => Verdict::Exited(exit(&events[at])),
        None => failed(FailureKind::Infrastructure, not_begun(allocation, events)),
    }
}

/// Whether Nomad ended an allocation of a job that nobody stopped, and will place it again.
pub(super) fn comes_again(job: &NomadJob, allocation: &Allocation) -> bool {
    !job.stop && job.status != "dead" && allocation.desired_status == "stop"
}

fn ended_by_nomad(allocation: &Allocation) -> String {
    let node = or(&allocation.node_name, "its node");
    let why = or(&allocation.desired_description, "no reason given");
    format!("Nomad ended it on {node} ({why})")
}

fn not_begun(allocation: &Allocation, events: &[TaskEvent]) -> String {
    let cause = events
        .iter()
        .rev()
        .find(|event| NOT_BEGUN.contains(&event.kind.as_str()))
        .or_else(|| {
            events
                .iter()
                .rev()
                .find(|event| event.kind != "Not Restarting")
        });
    match cause {
        Some(event) => format!(
            "{}: {}",
            event.kind,
            or(&event.display_message, "no reason given")
        ),
        None => or(&allocation.client_description, "its task never ran").to_owned(),
    }
}

fn said(events: &[TaskEvent], kind: &str) -> String {
    let event = events.iter().find(|event| event.kind == kind);
    let words = event.map_or("", |event| event.display_message.as_str());
    format!("Nomad ended it: {}", or(words, "no reason given"))
}

fn exit(event: &TaskEvent) -> Exit {
    let number = |name: &str| {
        let text = event.details.get(name)?;
        text.parse().ok()
    };
    Exit {
        code: number("exit_code").unwrap_or(-1),
        signal: number("signal").unwrap_or(0),
        out_of_memory: event
            .details
            .get("oom_killed")
            .is_some_and(|word| word == "true"),
    }
}

pub(super) fn failed(kind: FailureKind, message: String) -> Verdict {
    Verdict::Failed(RunFailure {
        kind,
        message,
        moved: Vec::new(),
        built: None,
    })
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

#[cfg(test)]
mod tests;
