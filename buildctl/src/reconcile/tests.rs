//! The steps of a job, one by one and in random histories.

mod histories;

use jiff::Timestamp;

use super::*;
use crate::{
    api::JobConfig,
    names::Digest,
    phase::{Built, RunFailure},
};

pub(super) const T0: Timestamp = Timestamp::constant(1_763_000_000, 0);

pub(super) fn at(seconds: u64) -> Timestamp {
    later(T0, Duration::from_secs(seconds))
}

pub(super) fn rules() -> Rules {
    Rules {
        tests: vec![Run::TestCommand(0), Run::TestEntry],
        conflict: Conflict::Queue,
        build: Duration::from_mins(30),
        test: Duration::from_mins(15),
        publish: Duration::from_mins(10),
        queue: Duration::from_hours(1),
        drain: Duration::from_mins(3),
        invalid: None,
        events: Some(Events::of(false, false)),
    }
}

pub(super) fn new_job() -> Job {
    Job::new(JobId::of_key("a job"), JobConfig::default(), T0)
}

pub(super) fn digest() -> Digest {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

pub(super) fn built() -> Built {
    Built {
        commit: None,
        image_id: "id".to_owned(),
        temporary: "registry.test/temp-a:b".parse().unwrap(),
        digest: digest(),
    }
}

/// The outcome that a run has if all is well.
pub(super) fn success(run: Run) -> Ending {
    let outcome = match run {
        Run::Build => Outcome::Built(built()),
        Run::TestCommand(_) | Run::TestEntry => Outcome::Tested,
        Run::Publish => Outcome::Published {
            tags: vec![MovedTag {
                tag: "v1".parse().unwrap(),
                digest: digest(),
                previous: None,
            }],
            left: None,
        },
        Run::Cleanup => Outcome::Cleaned,
    };
    Ending::Succeeded { outcome }
}

pub(super) fn failure(kind: FailureKind, message: &str) -> Ending {
    Ending::Failed(RunFailure {
        kind,
        message: message.to_owned(),
        moved: Vec::new(),
        built: None,
    })
}

pub(super) fn observed(run: Run, progress: Progress) -> Observed {
    let began = !matches!(progress, Progress::Waiting { .. });
    let ended = matches!(progress, Progress::Ended { .. });
    Observed {
        run,
        progress,
        place: began.then(|| "node-1".to_owned()),
        started_at: began.then(|| at(1)),
        ended_at: ended.then(|| at(2)),
        unaccounted: false,
        usage: None,
    }
}

fn ended(run: Run, ending: Ending) -> Observed {
    observed(run, Progress::Ended { ending })
}

/// Steps a job with what is observed, and reports of what it asked for.
fn go(job: &Job, observed: &[Observed], reports: Vec<Report>, now: Timestamp) -> Step {
    let seen = Seen {
        runs: Some(observed.to_vec()),
        reports,
    };
    step(job, &seen, now, &rules())
}

fn claimed() -> Step {
    go(&new_job(), &[], vec![Report::Claim(Claim::Held)], at(0))
}

fn events(job: &Job) -> Vec<&str> {
    job.notices
        .iter()
        .map(|notice| notice.event.as_str())
        .collect()
}

/// A job whose build has succeeded.
fn tested_next() -> Step {
    go(
        &claimed().job,
        &[ended(Run::Build, success(Run::Build))],
        vec![],
        at(3),
    )
}

fn published_next() -> Step {
    let job = tested_next().job;
    let tests = rules()
        .tests
        .into_iter()
        .map(|run| ended(run, success(run)));
    go(&job, &tests.collect::<Vec<_>>(), vec![], at(4))
}

fn error(job: &Job) -> &str {
    &job.failure.as_ref().expect("a failure").error
}

#[test]
fn a_job_goes_from_claim_to_success() {
    let first = go(&new_job(), &[], vec![], at(0));
    assert_eq!(first.actions, [Action::Claim]);
    let claimed = claimed();
    assert_eq!(
        (claimed.job.state, &*claimed.actions),
        (State::Pending, &[Action::Start(Run::Build)][..])
    );
    let running = go(
        &claimed.job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        at(2),
    );
    assert_eq!(running.job.state, State::Building);
    let testing = go(
        &running.job,
        &[ended(Run::Build, success(Run::Build))],
        vec![],
        at(3),
    );
    assert_eq!(testing.job.state, State::Testing);
    assert!(
        testing
            .actions
            .contains(&Action::Start(Run::TestCommand(0)))
    );
    assert!(testing.actions.contains(&Action::Start(Run::TestEntry)));
    let publishing = published_next();
    assert_eq!(publishing.job.state, State::Publishing);
    let done = go(
        &publishing.job,
        &[ended(Run::Publish, success(Run::Publish))],
        vec![],
        at(5),
    );
    assert_eq!(
        (done.job.state, done.job.temporary),
        (State::Succeeded, Temporary::Removed)
    );
    assert!(done.actions.contains(&Action::Release));
    let released = go(&done.job, &[], vec![Report::Released], at(6));
    assert!(!released.job.claimed);
    assert_eq!(
        events(&released.job),
        [
            "build.started",
            "build.completed",
            "test.started",
            "test.completed",
            "publish.started",
            "publish.completed",
            "job.completed"
        ]
    );
}

#[test]
fn without_tests_the_build_is_published() {
    let rules = Rules {
        tests: Vec::new(),
        ..rules()
    };
    let seen = Seen {
        runs: Some(vec![ended(Run::Build, success(Run::Build))]),
        reports: vec![],
    };
    let next = step(&claimed().job, &seen, at(3), &rules);
    assert_eq!(next.job.state, State::Publishing);
    assert!(next.actions.contains(&Action::Start(Run::Publish)));
}

#[test]
fn one_test_that_is_missing_keeps_everything_from_being_published() {
    let job = tested_next().job;
    let one = ended(Run::TestCommand(0), success(Run::TestCommand(0)));
    let next = go(
        &job,
        &[one, observed(Run::TestEntry, Progress::Running)],
        vec![],
        at(4),
    );
    assert_eq!(next.job.state, State::Testing);
    assert!(!next.job.runs.contains_key(&Run::Publish));
}

#[test]
fn a_failed_test_stops_the_others_and_names_itself() {
    let job = tested_next().job;
    let bad = ended(
        Run::TestCommand(0),
        failure(FailureKind::Exit { code: 3 }, "exit code 3"),
    );
    let other = observed(Run::TestEntry, Progress::Running);
    let next = go(&job, &[bad.clone(), other], vec![], at(4));
    assert_eq!(next.job.state, State::Testing);
    assert_eq!(
        error(&next.job),
        "Test phase failed: test-cmd-0: exit code 3"
    );
    assert!(next.actions.contains(&Action::Stop(Run::TestEntry)));
    let stopped = ended(Run::TestEntry, Ending::Cancelled);
    let next = go(&next.job, &[bad, stopped], vec![], at(5));
    assert_eq!(next.job.state, State::Failed);
    assert!(next.actions.contains(&Action::Start(Run::Cleanup)));
    assert_eq!(events(&next.job)[3..], ["test.failed", "job.failed"]);
}

#[test]
fn a_build_that_is_lost_with_its_node_fails_and_is_not_started_again() {
    let running = go(
        &claimed().job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        at(2),
    );
    let lost = ended(
        Run::Build,
        failure(FailureKind::NodeLost, "node n1 was lost"),
    );
    let next = go(&running.job, &[lost], vec![], at(3));
    assert_eq!(
        error(&next.job),
        "Build phase failed: node n1 was lost; it is not run again by itself, submit the job again"
    );
    assert_eq!(
        (next.job.state, next.job.temporary),
        (State::Failed, Temporary::Left)
    );
    assert!(!next.actions.contains(&Action::Start(Run::Build)));
}

#[test]
fn a_run_that_was_seen_and_is_gone_is_not_started_again() {
    let running = go(
        &claimed().job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        at(2),
    );
    let next = go(&running.job, &[], vec![], at(3));
    assert!(error(&next.job).contains("no longer knows what became of build"));
    let late = go(&claimed().job, &[], vec![], later(T0, START_WINDOW));
    assert!(
        !late.actions.contains(&Action::Start(Run::Build)),
        "{late:?}"
    );
}

#[test]
fn a_killed_job_ends_only_when_nothing_of_it_can_begin_any_more() {
    let mut job = claimed().job;
    job.kill = Some(crate::job::Kill {
        at: at(1),
        reason: None,
    });
    let ending = go(&job, &[], vec![], at(1));
    assert_eq!(
        (ending.job.state, &*ending.actions),
        (State::Pending, &[Action::Stop(Run::Build)][..])
    );
    let ended = go(&ending.job, &[], vec![Report::Stopped(Run::Build)], at(2));
    assert_eq!(
        (ended.job.state, error(&ended.job)),
        (State::Failed, "Job killed by user")
    );
    assert!(ended.job.phases.is_empty());
}

#[test]
fn a_publication_that_beats_a_kill_is_reported_and_the_job_killed() {
    let mut job = published_next().job;
    job.kill = Some(crate::job::Kill {
        at: at(5),
        reason: None,
    });
    let next = go(
        &job,
        &[ended(Run::Publish, success(Run::Publish))],
        vec![],
        at(6),
    );
    assert_eq!(
        (next.job.state, error(&next.job)),
        (State::Failed, Failure::KILLED)
    );
    assert_eq!(next.job.published.len(), 1);
}

#[test]
fn a_run_that_somebody_else_stopped_kills_the_job() {
    let running = go(
        &claimed().job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        at(2),
    );
    let next = go(
        &running.job,
        &[ended(Run::Build, Ending::Cancelled)],
        vec![],
        at(3),
    );
    assert_eq!(
        (next.job.state, error(&next.job)),
        (State::Failed, Failure::KILLED)
    );
}

#[test]
fn what_waits_too_long_fails_and_says_for_what() {
    let waiting = observed(
        Run::Build,
        Progress::Waiting {
            reason: Some("no node has 4096 MB of memory free".to_owned()),
            since: at(0),
        },
    );
    let next = go(
        &claimed().job,
        std::slice::from_ref(&waiting),
        vec![],
        at(3599),
    );
    assert_eq!((next.job.failure, next.wake), (None, Some(at(3600))));
    let next = go(&claimed().job, &[waiting], vec![], at(3600));
    assert_eq!(
        error(&next.job),
        "Build phase failed: build waited 1h for a place to run: no node has 4096 MB of memory free"
    );
}

#[test]
fn a_run_that_does_not_keep_its_limit_is_stopped() {
    let running = go(
        &claimed().job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        at(2),
    );
    let late = later(at(1), rules().build + SLACK);
    let next = go(
        &running.job,
        &[observed(Run::Build, Progress::Running)],
        vec![],
        late,
    );
    assert_eq!(
        error(&next.job),
        "Build phase failed: build did not end within its limit of 30m"
    );
    assert!(next.actions.contains(&Action::Stop(Run::Build)));
    let after = later(late, rules().drain);
    let going = [observed(Run::Build, Progress::Running)];
    let unheard = go(&next.job, &going, vec![], after);
    assert_eq!(unheard.job.state, State::Building, "it may go on unheard");
    let told = vec![Report::Stopped(Run::Build)];
    let given_up = go(&next.job, &going, told, after);
    assert_eq!(given_up.job.state, State::Failed);
}

#[test]
fn a_taken_image_makes_a_job_wait_give_way_or_end() {
    let holder = JobId::of_key("another job");
    let seen = Seen {
        runs: None,
        reports: vec![Report::Claim(Claim::HeldBy(holder))],
    };
    let with = |conflict, now| {
        step(
            &new_job(),
            &seen,
            now,
            &Rules {
                conflict,
                ..rules()
            },
        )
    };
    let queued = with(Conflict::Queue, at(1));
    assert_eq!((queued.behind, queued.actions.len()), (Some(holder), 0));
    assert_eq!(
        with(Conflict::CancelPrevious, at(1)).actions,
        [Action::Cancel(holder)]
    );
    let refused = with(Conflict::Reject, at(1)).job;
    assert_eq!(
        error(&refused),
        "cannot start build: lock is already held by another process"
    );
    assert_eq!(
        (refused.state, events(&refused)),
        (State::Failed, vec!["job.failed"])
    );
    assert_eq!(with(Conflict::Queue, at(3600)).job.state, State::Failed);
}

#[test]
fn a_tag_on_another_image_than_the_tested_one_is_no_success() {
    let job = published_next().job;
    let other: Digest = format!("sha256:{}", "b".repeat(64)).parse().unwrap();
    let tags = vec![MovedTag {
        tag: "v1".parse().unwrap(),
        digest: other,
        previous: None,
    }];
    let ending = Ending::Succeeded {
        outcome: Outcome::Published { tags, left: None },
    };
    let next = go(&job, &[ended(Run::Publish, ending)], vec![], at(6));
    assert!(error(&next.job).starts_with("Publish phase failed: tag v1 points to sha256:bbbb"));
}

#[test]
fn a_configuration_that_is_no_longer_accepted_ends_the_job() {
    let rules = Rules {
        invalid: Some("no such role".to_owned()),
        ..rules()
    };
    let next = step(&new_job(), &Seen::default(), at(1), &rules);
    assert_eq!(
        (next.job.state, error(&next.job)),
        (State::Failed, "no such role")
    );
}

#[test]
fn an_attempt_is_counted_and_its_body_written_before_it_is_made() {
    let mut job = new_job();
    job.kill = Some(crate::job::Kill {
        at: at(0),
        reason: None,
    });
    let first = go(&job, &[], vec![], at(0));
    let notice = &first.job.notices[0];
    let delivery = notice.delivery;
    assert_eq!(notice.attempts, 1);
    let body = notice.body.clone().expect("what is posted");
    assert!(body.contains("Job killed by user"), "{body}");
    assert!(first.actions.contains(&Action::Deliver(delivery)));
    let meanwhile = go(&first.job, &[], vec![], at(1));
    assert_eq!(
        (meanwhile.actions.as_slice(), meanwhile.wake),
        (&[][..], Some(at(60))),
        "nobody else posts it before it counts as lost"
    );
    let result = Delivery::Failed {
        why: "no".to_owned(),
        pause: Some(Duration::from_secs(30)),
    };
    let report = Report::Delivered { delivery, result };
    let failed = go(&first.job, &[], vec![report], at(2));
    assert_eq!(failed.wake, Some(at(32)));
    let mut later = failed.job.clone();
    later.finished_at = Some(at(20));
    let again = go(&later, &[], vec![], at(32));
    assert!(again.actions.contains(&Action::Deliver(delivery)));
    assert_eq!(
        (again.job.notices[0].attempts, &again.job.notices[0].body),
        (2, &Some(body))
    );
}

#[test]
fn only_wanted_events_are_planned() {
    let failed = |success, failure| {
        let mut job = new_job();
        job.kill = Some(crate::job::Kill {
            at: at(0),
            reason: None,
        });
        let rules = Rules {
            events: Some(Events::of(success, failure)),
            ..rules()
        };
        step(&job, &Seen::default(), at(0), &rules)
            .job
            .notices
            .len()
    };
    assert_eq!(
        (failed(true, false), failed(false, true), failed(true, true)),
        (0, 1, 1)
    );
}

#[test]
fn looking_decides_nothing() {
    let job = claimed().job;
    let seen = project(&job, &[observed(Run::Build, Progress::Running)], at(2));
    assert_eq!(
        (seen.state, seen.runs[&Run::Build].place.as_deref()),
        (State::Building, Some("node-1"))
    );
    let seen = project(&job, &[ended(Run::Build, Ending::Cancelled)], at(2));
    assert_eq!((seen.state, seen.failure), (State::Building, None));
}
