//! Runs with real Git, Buildah and a real registry: what they leave in the registry, in the result and in the log, and that
//! they leave nothing else.

use std::{collections::BTreeMap, fs, time::Duration};

use buildctl::{
    phase::{Built, Ending, FailureKind, Outcome, RunFailure},
    runner::{
        commands, sweep,
        work::{Credential, SecretEnv, Task, Work},
    },
    spec::Source,
};
use runyard_common::testing::{eventually, patience};
use rustix::process::Signal;

use crate::support::{Registry, Repository, Yard, ready};

/// Builds on nothing; everything that busybox can do is in it.
const DOCKERFILE: &str = "\
FROM scratch AS tools
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]

FROM tools
ARG WHO=nobody
RUN echo built for $WHO
ENV FROM_IMAGE=yes
WORKDIR /work
USER 1000
ENTRYPOINT [\"/bin/sh\", \"-c\", \"echo entry $0 $FROM_IMAGE $(pwd) $(id -u); test $0 = ok\"]
CMD [\"ok\"]
";

/// The failure of a build of this Dockerfile, whose first three lines install busybox.
fn failing(rest: &str, change: impl FnOnce(&mut Work)) -> Option<RunFailure> {
    if !ready() {
        return None;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let tools: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let repository = Repository::with(&format!("{}\n{rest}\n", tools.join("\n")));
    let mut work = yard.build(&repository.url(), "main");
    change(&mut work);
    let ended = yard.run(work);
    assert_eq!(yard.remains(), Vec::<String>::new());
    Some(ended.failure())
}

fn options(work: &mut Work) -> &mut buildctl::spec::BuildOptions {
    match &mut work.task {
        Task::Build { options, .. } => options,
        _ => panic!("no build"),
    }
}

fn temporary_tag(built: &Built) -> String {
    let name = built.temporary.to_string();
    name.rsplit_once(':').unwrap().1.to_owned()
}

#[test]
fn a_commit_is_built_tested_by_its_digest_and_published() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let daemon = repository.serve();
    let commit = repository.git(&["rev-parse", "HEAD"]);

    let mut work = yard.build(daemon.url(), "main");
    options(&mut work).args = BTreeMap::from([("WHO".to_owned(), "$(me) ${x}".to_owned())]);
    let ended = yard.run(work.clone());
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(
        ended.log.contains(" O built for $(me) ${x}"),
        "{}",
        ended.log
    );
    let built = ended.built();
    assert_eq!(built.commit.as_deref(), Some(commit.as_str()));
    let tag = temporary_tag(&built);
    assert_eq!(
        registry.digest("temp-app", &tag).as_deref(),
        Some(built.digest.as_str())
    );

    // Again, from another clone: nothing is built anew.
    work.job = buildctl::job::JobId::random();
    let again = yard.run(work);
    assert!(again.log.contains("Using cache"), "{}", again.log);
    assert!(!again.log.contains(" O built for"), "{}", again.log);
    assert_eq!(again.built().image_id, built.image_id);

    let entry = yard.run(yard.test(&built, None));
    assert!(
        entry.log.contains(" O entry ok yes /work 1000"),
        "{}",
        entry.log
    );
    assert_eq!(entry.outcome(), Outcome::Tested);
    let command = yard.run(yard.test(&built, Some("echo \"$FROM_IMAGE $GREETING\"")));
    assert!(
        command.log.contains(" O yes ${HOME} {{x}}\n"),
        "{}",
        command.log
    );
    assert_eq!(command.outcome(), Outcome::Tested);

    let published = yard.run(yard.publish(&built, &["job-1", "latest"]));
    let Outcome::Published { tags, left } = published.outcome() else {
        panic!("not published")
    };
    assert_eq!(left, None);
    let names: Vec<_> = tags
        .iter()
        .map(|moved| (moved.tag.as_str(), &moved.previous))
        .collect();
    assert_eq!(names, [("job-1", &None), ("latest", &None)]);
    for tag in ["job-1", "latest"] {
        assert_eq!(
            registry.digest("app", tag).as_deref(),
            Some(built.digest.as_str())
        );
    }
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn a_tag_remembers_what_it_was_and_the_temporary_one_goes() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let first = yard.built(yard.build(&repository.url(), "main"));
    yard.run(yard.publish(&first, &["latest"])).outcome();
    assert_eq!(registry.digest("temp-app", &temporary_tag(&first)), None);

    repository.commit(
        "Dockerfile",
        &DOCKERFILE.replace("FROM_IMAGE=yes", "FROM_IMAGE=other"),
    );
    let second = yard.built(yard.build(&repository.url(), "main"));
    let Outcome::Published { tags, .. } = yard
        .run(yard.publish(&second, &["job-2", "latest"]))
        .outcome()
    else {
        panic!("not published")
    };
    assert_eq!(tags[1].previous.as_ref(), Some(&first.digest));
    assert_eq!(tags[1].digest, second.digest);
}

#[test]
fn a_temporary_tag_that_shares_its_manifest_is_left_for_the_other_job() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let one = yard.built(yard.build(&repository.url(), "main"));
    let other = yard.built(yard.build(&repository.url(), "main"));
    assert_eq!(one.digest, other.digest);

    let left = yard
        .run(yard.clean_up(&one.temporary, &one.digest))
        .failure();
    assert!(
        left.message.contains("also that of the tag"),
        "{}",
        left.message
    );
    assert_eq!(
        yard.run(yard.test(&other, Some("true"))).outcome(),
        Outcome::Tested
    );
}

#[test]
fn a_temporary_image_is_removed_once() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let built = yard.built(yard.build(&repository.url(), "main"));
    for _ in 0..2 {
        let cleaned = yard.run(yard.clean_up(&built.temporary, &built.digest));
        assert_eq!(cleaned.outcome(), Outcome::Cleaned);
        assert_eq!(registry.digest("temp-app", &temporary_tag(&built)), None);
    }
}

#[test]
fn tags_that_moved_before_one_that_could_not_are_moved_back_except_the_jobs_own() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let first = yard.built(yard.build(&repository.url(), "main"));
    yard.run(yard.publish(&first, &["stable"])).outcome();
    repository.commit(
        "Dockerfile",
        &DOCKERFILE.replace("FROM_IMAGE=yes", "FROM_IMAGE=other"),
    );
    let second = yard.built(yard.build(&repository.url(), "main"));

    // A file where the registry wants to have a folder.
    fs::create_dir_all(registry.tag_folder("app", "latest")).unwrap();
    fs::write(registry.tag_folder("app", "latest").join("index"), "").unwrap();
    let failure = yard
        .run(yard.publish(&second, &["job-2", "stable", "latest"]))
        .failure();
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    let names: Vec<_> = failure
        .moved
        .iter()
        .map(|moved| moved.tag.as_str())
        .collect();
    assert_eq!(names, ["job-2"], "{}", failure.message);
    assert!(
        failure.message.contains("app:latest could not be moved"),
        "{}",
        failure.message
    );
    assert_eq!(
        registry.digest("app", "stable").as_deref(),
        Some(first.digest.as_str())
    );
    assert_eq!(
        registry.digest("app", "job-2").as_deref(),
        Some(second.digest.as_str())
    );
    // What was tested is still there for another try.
    assert!(
        registry
            .digest("temp-app", &temporary_tag(&second))
            .is_some()
    );
}

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
fn a_ref_that_is_not_there_is_named() {
    let reference = |name: &'static str| {
        move |work: &mut Work| {
            if let Task::Build {
                source: Source::Git { reference, .. },
                ..
            } = &mut work.task
            {
                name.clone_into(reference);
            }
        }
    };
    let Some(failure) = failing("", reference("nowhere")) else {
        return;
    };
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(failure.message.contains("`nowhere`"), "{}", failure.message);
    for injection in [
        "--upload-pack=touch /tmp/owned",
        "main; touch /tmp/owned",
        "$(touch x)",
    ] {
        let failure = failing("", reference(injection)).unwrap();
        assert_eq!(failure.kind, FailureKind::Input, "{}", failure.message);
    }
}

#[test]
fn a_commit_may_be_named_by_its_beginning_and_a_directory_is_a_commit_if_it_is_clean() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let old = repository.git(&["rev-parse", "HEAD"]);
    repository.commit("file", "newer");
    for name in [&old[..], &old[..9]] {
        let built = yard.built(yard.build(&repository.url(), name));
        assert_eq!(built.commit.as_deref(), Some(&old[..]));
    }
    let directory = || {
        let path = repository.path().to_owned();
        let work = yard.work(
            buildctl::phase::Run::Build,
            yard.task(Source::Directory { path }),
        );
        yard.built(work).commit
    };
    assert_eq!(directory(), Some(repository.git(&["rev-parse", "HEAD"])));
    fs::write(repository.path().join("file"), "changed").unwrap();
    assert_eq!(directory(), None);
}

#[test]
fn a_failing_test_tells_code_and_signal() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
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
fn secrets_reach_steps_and_tests_and_show_nowhere() {
    if !ready() {
        return;
    }
    let registry = Registry::private();
    let yard = Yard::of(&registry);
    let folder = runyard_common::testing::tempdir();
    let file = |name: &str, content: &str| {
        fs::write(folder.path().join(name), content).unwrap();
        Credential::Reference {
            at: format!("file:{}", folder.path().join(name).display())
                .parse()
                .unwrap(),
            optional: false,
        }
    };
    let login = file("registry", "username=me\npassword=opensesame\n");
    let lines: Vec<&str> = DOCKERFILE.lines().take(3).collect();
    let reveal = "RUN --mount=type=secret,id=token cat /run/secrets/token | sed s/^/got:/; wc -c < /run/secrets/token";
    let repository = Repository::with(&format!("{}\n{reveal}\n", lines.join("\n")));
    let mut work = yard.build(&repository.url(), "main");
    options(&mut work).secrets =
        BTreeMap::from([("token".to_owned(), "env:MARKED_TOKEN".parse().unwrap())]);
    work.registry_credentials = Some(login.clone());
    let ended = yard.run(work);
    assert!(ended.log.contains(" O got:[redacted]12\n"), "{}", ended.log);
    assert!(!ended.log.contains("s3cr3t"), "{}", ended.log);
    let built = ended.built();

    let mut work = yard.test(&built, Some("echo got:$TOKEN ${#TOKEN}; exit 1"));
    work.registry_credentials = Some(login);
    if let Task::Test { secret_env, .. } = &mut work.task {
        secret_env.push(SecretEnv {
            from: file("test", "{\"api\": \"an0ther-s3cret $x\"}"),
            fields: BTreeMap::from([("api".to_owned(), "TOKEN".to_owned())]),
        });
    }
    let ended = yard.run(work);
    assert!(
        ended.log.contains(" O got:[redacted] 17\n"),
        "{}",
        ended.log
    );
    assert!(!ended.log.contains("an0ther"), "{}", ended.log);
    assert!(
        !serde_json::to_string(&ended.report)
            .unwrap()
            .contains("an0ther")
    );
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
    if !ready() {
        return;
    }
    let mut registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
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
    let step = "RUN echo waiting; sleep 4; echo went on";
    let other = Repository::with(&format!("{}\n{step}\n", lines.join("\n")));
    let survivor = yard.start(yard.build(&other.url(), "main"));
    survivor.until(" O waiting");
    let mut killed = yard.start(yard.build(&doomed.url(), "main"));
    killed.until(" O waiting");
    killed.signal(Signal::KILL);
    killed.process.wait().unwrap();

    let swept = sweep(&killed.work).unwrap();
    assert!(swept.containers.len() >= 2, "{swept:?}");
    assert_eq!(sleepers(&yard), 0, "{swept:?}");
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

#[test]
fn a_cleared_cache_is_built_anew_and_an_empty_one_may_be_cleared() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let mut work = yard.build(&repository.url(), "main");
    if let Task::Build { clear_cache, .. } = &mut work.task {
        *clear_cache = true;
    }
    // Also where there is nothing to forget yet.
    yard.built(work.clone());
    work.job = buildctl::job::JobId::random();
    let ended = yard.run(work);
    assert!(!ended.log.contains("Using cache"), "{}", ended.log);
    ended.built();
    let mut work = yard.build(&repository.url(), "main");
    work.storage.limit = Some(1);
    let pruned = yard.run(work);
    assert!(pruned.log.contains("pruning the cache"), "{}", pruned.log);
    assert!(!pruned.log.contains("Using cache"), "{}", pruned.log);
}

#[test]
fn no_preprocessor_reads_a_dockerfile_whatever_links_to_it() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    repository.commit(
        "Dockerfile.in",
        "FROM scratch\n#include \"/etc/hostname\"\n",
    );
    std::os::unix::fs::symlink("Dockerfile.in", repository.path().join("linked")).unwrap();
    repository.commit("more", "");
    for name in ["Dockerfile.in", "linked"] {
        let mut work = yard.build(&repository.url(), "main");
        name.clone_into(&mut options(&mut work).dockerfile);
        let failure = yard.run(work).failure();
        assert_eq!(failure.kind, FailureKind::Input, "{}", failure.message);
        let named = format!("`{name}` ends in `.in`");
        assert!(failure.message.contains(&named), "{}", failure.message);
    }
}

#[test]
fn the_cache_of_a_new_store_can_be_cleared() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let mut work = yard.build(&repository.url(), "main");
    if let Task::Build { clear_cache, .. } = &mut work.task {
        *clear_cache = true;
    }
    yard.built(work);
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
fn an_index_and_its_images_are_copied_to_another_registry() {
    if !ready() {
        return;
    }
    let (registry, other) = (Registry::open(), Registry::open());
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let built = yard.built(yard.build(&repository.url(), "main"));
    let client = buildctl::registry::Registry::new(buildctl::registry::Options {
        insecure: vec![registry.host().to_owned()],
        certificates: None,
        auths: buildctl::registry::Auths::default(),
        pause: Box::new(|_| true),
    });
    let at = format!("{}@{}", built.temporary.repository, built.digest);
    let image = client.manifest(&at.parse().unwrap()).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        image.media_type(),
        image.digest(),
        image.bytes().len()
    );
    let index = buildctl::registry::Manifest::of(index.into_bytes());
    let tag = buildctl::names::Version::Tag("index".parse().unwrap());
    let repository = &built.temporary.repository;
    client.put_manifest(repository, &tag, &index).unwrap();

    let mut work = yard.publish(&built, &["v1"]);
    work.registries.insecure.push(other.host().to_owned());
    if let Task::Publish { digest, to, .. } = &mut work.task {
        digest.clone_from(index.digest());
        *to = format!("{}/team/app", other.host()).parse().unwrap();
    }
    let published = yard.run(work);
    assert!(
        published.log.contains("copying sha256:"),
        "{}",
        published.log
    );
    published.outcome();
    assert_eq!(
        other.digest("team/app", "v1").as_deref(),
        Some(index.digest().as_str())
    );
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

#[test]
fn a_store_of_another_driver_serves_too() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let vfs = |mut work: Work| {
        work.storage.driver = Some("vfs".to_owned());
        work
    };
    let built = yard.built(vfs(yard.build(&repository.url(), "main")));
    let tested = yard.run(vfs(yard.test(&built, Some("true"))));
    assert_eq!(tested.outcome(), Outcome::Tested);
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn git_gets_its_credentials_from_files_and_for_its_host_only() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let url = repository.serve_to("me", "p@ss w:rd/1");
    let fetched = |password: &str| {
        let file = yard.path().join("login");
        fs::write(&file, format!("username=me\npassword={password}\n")).unwrap();
        let mut work = yard.build(&url, "main");
        if let Task::Build {
            git_credentials, ..
        } = &mut work.task
        {
            *git_credentials = Some(Credential::Rendered(file));
        }
        let ended = yard.run(work);
        assert!(!ended.log.contains(password), "{}", ended.log);
        ended
    };
    let built = fetched("p@ss w:rd/1").built();
    assert_eq!(built.commit, Some(repository.git(&["rev-parse", "HEAD"])));
    let failure = fetched("wr0ng").failure();
    assert_eq!(failure.kind, FailureKind::Input, "{}", failure.message);
    assert!(
        failure.message.contains("Authentication failed"),
        "{}",
        failure.message
    );
    let nobody = yard.run(yard.build(&url, "main")).failure();
    assert_eq!(nobody.kind, FailureKind::Input, "{}", nobody.message);
}

#[test]
fn ssh_uses_the_key_of_the_job_and_believes_the_hosts_that_it_names() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    // Stands for ssh: tells what it was called with and what was in the files, and runs the command here.
    let ssh = "#!/bin/sh\necho \"ssh: $*\" >&2\nfor word; do case $word in UserKnownHostsFile=*) cat \"${word#*=}\" >&2;; */ssh_key) \
               stat -c %a \"$word\" >&2; cat \"$word\" >&2;; esac; last=$word; done\nexec sh -c \"$last\"\n";
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("ssh"), ssh).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("ssh"), mode).unwrap();
    let login = yard.path().join("login");
    fs::write(
        &login,
        "ssh_key_base64=S0VZLUxJTkU=\nknown_hosts=h ssh-ed25519 AAAA\n",
    )
    .unwrap();
    let mut work = yard.build(&format!("git@h:{}", repository.path().display()), "main");
    if let Task::Build {
        git_credentials, ..
    } = &mut work.task
    {
        *git_credentials = Some(Credential::Rendered(login));
    }
    let ended = yard.start_with_path(work, &bin).end();
    let log = &ended.log;
    assert!(log.contains("StrictHostKeyChecking=yes"), "{log}");
    assert!(
        log.contains("IdentitiesOnly=yes") && log.contains(" E 600\n"),
        "{log}"
    );
    assert!(log.contains(" E h ssh-ed25519 AAAA\n"), "{log}");
    assert!(
        log.contains(" E [redacted]\n") && !log.contains("KEY-LINE"),
        "{log}"
    );
    ended.built();
}

#[test]
fn where_overlay_does_not_work_another_driver_does_and_that_is_remembered() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let buildah = "#!/bin/sh\ncase \"$*\" in *\"--storage-driver overlay\"*) echo 'Error: no overlay here' >&2; exit 125;; esac\n\
                   PATH=${PATH#*:} exec buildah \"$@\"\n";
    fs::write(bin.join("buildah"), buildah).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("buildah"), mode).unwrap();
    let build = || {
        let work = yard.build(&repository.url(), "main");
        yard.start_with_path(work, &bin).end()
    };
    let first = build();
    let told = "storage driver overlay does not work here: Error: no overlay here";
    assert!(first.log.contains(told), "{}", first.log);
    assert!(first.log.contains("storage: vfs"), "{}", first.log);
    first.built();
    let second = build();
    assert!(!second.log.contains("does not work"), "{}", second.log);
    second.built();
}

#[test]
fn a_publication_that_is_stopped_has_moved_no_tag() {
    if !ready() {
        return;
    }
    let mut registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let built = yard.built(yard.build(&repository.url(), "main"));
    registry.stop();
    let running = yard.start(yard.publish(&built, &["latest"]));
    running.until(" S publish: ");
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.report.ending, Ending::Cancelled, "{}", ended.log);
    assert_eq!(registry.digest("app", "latest"), None);
}

#[test]
fn what_a_test_says_last_needs_no_relay_of_buildahs() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let built = yard.built(yard.build(&repository.url(), "main"));
    // A Buildah whose relay is never quick enough: it runs what it is told to, and passes nothing on.
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let buildah = "#!/bin/sh\ncase \" $* \" in *\" run \"*) ;; *) PATH=${PATH#*:} exec buildah \"$@\";; esac\n\
                   while [ \"$1\" != -- ]; do shift; done; shift\n\
                   \"$@\" >/dev/null 2>&1 || { code=$?; echo Error: exit status $code >&2; exit $code; }\n";
    fs::write(bin.join("buildah"), buildah).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("buildah"), mode).unwrap();

    let command = yard.test(&built, Some("echo first; echo last >&2; exit 3"));
    let ended = yard.start_with_path(command, &bin).end();
    for line in [" O first\n", " E last\n"] {
        assert!(ended.log.contains(line), "{}", ended.log);
    }
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    let entry = yard.start_with_path(yard.test(&built, None), &bin).end();
    assert!(entry.log.contains(" O entry ok "), "{}", entry.log);
}

/// What Buildah and Git were called with, a line each.
fn calls(yard: &Yard, work: Work) -> (Vec<String>, Built) {
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let calls = yard.path().join("calls");
    for program in ["buildah", "git"] {
        let script = format!(
            "#!/bin/sh\nprintf '{program}' >> {0}; printf ' %s' \"$@\" >> {0}; echo >> {0}\nPATH=${{PATH#*:}} exec {program} \"$@\"\n",
            calls.display()
        );
        fs::write(bin.join(program), script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bin.join(program), mode).unwrap();
    }
    let built = yard.start_with_path(work, &bin).end().built();
    let text = fs::read_to_string(calls).unwrap();
    (text.lines().map(str::to_owned).collect(), built)
}

#[test]
fn the_command_lines_that_are_told_before_are_those_that_run() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let mut work = yard.build(&repository.url(), "main");
    options(&mut work).args = [("WHO".to_owned(), "a  b".to_owned())].into();
    let told = commands(&work);
    let (called, built) = calls(&yard, work);
    let commit = built.commit.unwrap();
    for words in &told {
        let line = words.join(" ");
        let line = line
            .replace("COMMIT", &commit)
            .replace(" IMAGE ", &format!(" {} ", built.image_id));
        assert!(called.contains(&line), "{line}\nis none of {called:#?}");
    }
    assert_eq!(told.len(), 5, "init, fetch, checkout, bud, push");
}

#[test]
fn what_was_open_for_a_run_is_not_its_programs() {
    if !ready() {
        return;
    }
    let registry = Registry::open();
    let yard = Yard::of(&registry);
    let repository = Repository::with(DOCKERFILE);
    let bin = yard.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let git = "#!/bin/sh\nls -l /proc/self/fd >&2\nPATH=${PATH#*:} exec git \"$@\"\n";
    fs::write(bin.join("git"), git).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("git"), mode).unwrap();
    let lock = fs::File::create(yard.path().join("a-lock")).unwrap();
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty()).unwrap();
    let running = yard.start_with_path(yard.build(&repository.url(), "main"), &bin);
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::CLOEXEC).unwrap();
    let ended = running.end();
    assert!(ended.log.contains("/proc/"), "{}", ended.log);
    assert!(!ended.log.contains("a-lock"), "{}", ended.log);
}
