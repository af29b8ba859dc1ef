//! Runs that do not come to their end: stopped, too slow, killed, and what is left of them then.

use std::{fs, time::Duration};

use buildctl::{
    phase::{Ending, FailureKind},
    runner::sweep,
};
use runyard_common::testing::{eventually, patience};
use rustix::process::Signal;

use super::{DOCKERFILE, failing};
use crate::cli::{Gate, go_on};
use crate::support::{Registry, Repository, Yard, ready};

/// A build that says `waiting` and then does nothing for ten minutes, with a program in the background.
fn slow() -> Repository {
    let lines: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let step = "RUN setsid sleep 601 & echo waiting; sleep 600";
    Repository::with(&format!("{}\n{step}\n", lines.join("\n")))
}

/// Processes that sleep as those of [`slow`] do, with their root below this yard's store.
fn sleepers(yard: &Yard) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let root = fs::read_link(entry.path().join("root")).unwrap_or_default();
            command.starts_with(b"sleep\x0060") && root.starts_with(yard.path())
        })
        .count()
}

#[test]
fn a_stopped_build_is_cancelled_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = slow();
    let running = yard.start(yard.build(&repository.url(), "main"));
    running.until(" O waiting");
    // The one in the background may still be about to become one.
    eventually(patience(), || (sleepers(&yard) == 2).then_some(()));
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(
        (&ended.report.ending, ended.code),
        (&Ending::Cancelled, Some(143)),
        "{}",
        ended.log
    );
    assert_eq!(sleepers(&yard), 0);
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn a_build_that_takes_too_long_is_ended() {
    let Some(failure) = failing("RUN sleep 600", |work| {
        work.deadline = Duration::from_secs(4);
    }) else {
        return;
    };
    assert_eq!(failure.kind, FailureKind::Timeout);
    let message = &failure.message;
    assert!(
        message.starts_with("not done within 4s; it was at STEP"),
        "{message}"
    );
}

#[test]
fn of_two_builds_in_one_store_the_killed_one_is_swept_and_the_other_is_not_touched() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let lines: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let doomed = slow();
    let gate = Gate::open();
    let step = format!(
        "RUN wget -q -O - http://127.0.0.1:{}/; echo went on",
        gate.port()
    );
    let other = Repository::with(&format!("{}\n{step}\n", lines.join("\n")));
    let survivor = yard.start(yard.build(&other.url(), "main"));
    let waiting = gate.reached();
    let mut killed = yard.start(yard.build(&doomed.url(), "main"));
    killed.until(" O waiting");
    killed.signal(Signal::KILL);
    killed.process.wait().unwrap();

    let swept = sweep(&killed.work).unwrap();
    assert!(swept.containers.len() >= 2, "{swept:?}");
    assert_eq!(sleepers(&yard), 0, "{swept:?}");
    go_on(waiting);
    let built = survivor.end();
    assert!(built.log.contains(" O went on"), "{}", built.log);
    built.built();
    assert_eq!(yard.remains(), Vec::<String>::new());
    // There is nothing left to do, and no harm in it.
    assert_eq!(
        sweep(&killed.work).unwrap().containers,
        Vec::<String>::new()
    );
}

#[test]
fn what_nobody_swept_is_removed_by_the_next_one_that_is_alone() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = slow();
    let mut killed = yard.start(yard.build(&repository.url(), "main"));
    killed.until(" O waiting");
    killed.signal(Signal::KILL);
    killed.process.wait().unwrap();
    assert!(!yard.remains().is_empty());
    // As if it had been killed a moment earlier, between a container's making and its description.
    let containers = fs::read_dir(yard.path().join("root/overlay-containers")).unwrap();
    let described = containers
        .flatten()
        .map(|entry| entry.path().join("userdata/buildah.json"))
        .find(|path| path.exists());
    fs::remove_file(described.unwrap()).unwrap();
    let quick = Repository::with(DOCKERFILE);
    yard.built(yard.build(&quick.url(), "main"));
    assert_eq!(sleepers(&yard), 0);
    assert_eq!(yard.remains(), Vec::<String>::new());
}
