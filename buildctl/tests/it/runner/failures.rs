//! Why a run failed, in the words and by whose matter it is.

use std::fs;

use buildctl::{
    phase::{FailureKind, Run, RunFailure},
    runner::work::Work,
    spec::Source,
};

use super::{DOCKERFILE, failing, options, site};
use crate::support::{NOBODY, Registry, Repository, Yard, ready};

#[test]
fn a_failing_step_is_told_with_its_line_and_code() {
    let Some(failure) = failing("RUN echo out && \\\n    exit 3", |_| {}) else {
        return;
    };
    assert_eq!(failure.kind, FailureKind::Exit { code: 3 });
    assert!(
        failure.message.starts_with("Dockerfile:4: RUN echo out"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.ends_with("exit code 3"),
        "{}",
        failure.message
    );
}

#[test]
fn a_step_ended_by_a_signal_is_told_so() {
    let Some(failure) = failing("RUN kill -9 $$", |_| {}) else {
        return;
    };
    assert_eq!(
        failure.kind,
        FailureKind::Signal { signal: 9 },
        "{}",
        failure.message
    );
}

#[test]
fn what_is_not_in_the_source_is_the_users_matter() {
    let Some(failure) = failing("COPY nothing /", |_| {}) else {
        return;
    };
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(
        failure.message.starts_with("Dockerfile:4: COPY nothing /"),
        "{}",
        failure.message
    );
    let outside = failing("", |work| {
        options(work).dockerfile = "../../etc/passwd".to_owned();
    });
    let outside = outside.unwrap();
    assert_eq!(outside.kind, FailureKind::Input);
    assert!(
        outside.message.contains("without `..`"),
        "{}",
        outside.message
    );
}

#[test]
fn a_failing_test_tells_code_and_signal() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
    let built = yard.built(yard.build(&repository.url(), "main"));
    let kind = |command: &str| {
        let ended = yard.run(yard.test(&built, Some(command)));
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        ended.failure().kind
    };
    assert_eq!(kind("exit 7"), FailureKind::Exit { code: 7 });
    assert_eq!(kind("exit 125"), FailureKind::Exit { code: 125 });
    assert_eq!(kind("kill -11 $$"), FailureKind::Signal { signal: 11 });
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn a_registry_that_refuses_a_login_is_the_users_matter() {
    if !ready() {
        return;
    }
    let registry = Registry::private();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let refused = yard.run(yard.build(&repository.url(), "main")).failure();
    assert_eq!(refused.kind, FailureKind::Input, "{}", refused.message);
    assert!(
        refused.message.contains("credentials"),
        "{}",
        refused.message
    );

    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let cleaned = yard
        .run(yard.clean_up(&yard.reference("temp-app:x"), &digest))
        .failure();
    assert_eq!(cleaned.kind, FailureKind::Input, "{}", cleaned.message);
}

#[test]
fn a_registry_that_is_down_is_nobodys_fault() {
    let Some((mut registry, yard, repository)) = site() else {
        return;
    };
    let built = yard.built(yard.build(&repository.url(), "main"));
    registry.stop();
    let failure = yard.run(yard.publish(&built, &["job-1"])).failure();
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    assert!(
        failure.message.contains("cannot be reached"),
        "{}",
        failure.message
    );
    assert!(failure.moved.is_empty());
}

#[test]
fn a_step_that_needs_too_much_memory_is_told_so() {
    if !ready() || !rustix::process::geteuid().is_root() {
        return;
    }
    let limit = |work: &mut Work| work.memory = Some(96 << 20);
    let step = "RUN dd if=/dev/zero of=/dev/null bs=300M count=1";
    let failure = failing(step, limit).unwrap();
    if matches!(
        failure.kind,
        FailureKind::Exit { .. } | FailureKind::Signal { .. }
    ) {
        eprintln!("skipped: memory cannot be limited here");
        return;
    }
    assert_eq!(
        failure.kind,
        FailureKind::OutOfMemory,
        "{}",
        failure.message
    );
    assert!(failure.message.contains("96 MB"), "{}", failure.message);
}

#[test]
fn a_full_disk_is_told_so() {
    if !ready() || !rustix::process::geteuid().is_root() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let small = yard.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = |args: &[&str]| {
        let status = std::process::Command::new(args[0])
            .args(&args[1..])
            .arg(&small)
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs"]) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let mut work = yard.build(&repository.url(), "main");
    work.storage.root = Some(small.join("root"));
    let ended = yard.run(work);
    // Whatever was mounted in it is gone with the run.
    assert!(mount(&["umount"]));
    let failure = ended.failure();
    assert_eq!(
        failure.kind,
        FailureKind::Infrastructure,
        "{}",
        failure.message
    );
    assert!(
        failure.message.starts_with("disk full: "),
        "{}",
        failure.message
    );
}

/// The failure of a build by an account without subordinate ids, which finds these programs.
fn failing_as_nobody(dockerfile: &str, programs: &[&str]) -> Option<RunFailure> {
    if !ready() {
        return None;
    }
    let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let has_some =
        |line: &str| line.starts_with("nobody:") || line.starts_with(&format!("{NOBODY}:"));
    if !rustix::process::geteuid().is_root() || ranges.lines().any(has_some) {
        eprintln!("skipped: this cannot be done as an account without subordinate ids");
        return None;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let source = yard.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::copy("/bin/busybox", source.join("busybox")).unwrap();
    fs::write(source.join("Dockerfile"), dockerfile).unwrap();
    let work = yard.work(Run::Build, yard.task(Source::Directory { path: source }));
    let failure = yard.start_as_nobody(work, programs).end().failure();
    assert_eq!(failure.kind, FailureKind::Infrastructure, "{failure:?}");
    Some(failure)
}

#[test]
fn an_account_without_ids_is_told_so_and_no_step_is_blamed() {
    let busybox = "FROM scratch\nCOPY busybox /bin/sh\n";
    for step in [
        "RUN [\"/bin/sh\", \"-c\", \"true\"]",
        "COPY --chown=7:7 busybox /x",
    ] {
        let dockerfile = format!("{busybox}{step}\n");
        let programs = ["buildah", "newuidmap", "newgidmap"];
        let Some(failure) = failing_as_nobody(&dockerfile, &programs) else {
            return;
        };
        let said = failure.message;
        assert!(
            said.contains("nobody has no range of 65536 in /etc/subuid"),
            "{said}"
        );
        assert!(said.contains("usermod --add-subuids "), "{said}");
        assert!(said.contains("noticed at Dockerfile:3: "), "{said}");
    }
}

#[test]
fn an_account_without_the_programs_that_map_ids_is_told_so() {
    let Some(failure) = failing_as_nobody("FROM scratch\nCOPY busybox /x\n", &["buildah"]) else {
        return;
    };
    let said = failure.message;
    assert!(said.contains("newuidmap, newgidmap not in PATH"), "{said}");
    assert!(said.contains("the package `uidmap`"), "{said}");
}
