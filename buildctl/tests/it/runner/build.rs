//! What builds make of commits and options, and what is told of them beforehand.

use std::{collections::BTreeMap, fs, time::Duration};

use buildctl::{
    phase::{Built, FailureKind, Outcome},
    runner::{
        commands,
        work::{Credential, SecretEnv, Task, Work},
    },
    spec::BuildContext,
};

use super::{DOCKERFILE, options, site, temporary_tag};
use crate::support::{Registry, Repository, Yard, ready};

#[test]
fn a_commit_is_built_once_whatever_clone_it_comes_from() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let daemon = repository.serve();
    let commit = repository.git(&["rev-parse", "HEAD"]);

    let mut work = yard.build(daemon.url(), "main");
    options(&mut work).args = BTreeMap::from([("WHO".to_owned(), "$(me) ${x}".to_owned())]);
    let ended = yard.run(work.clone());
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let said = " O built for $(me) ${x}";
    assert!(ended.log.contains(said), "{}", ended.log);
    let built = ended.built();
    assert_eq!(built.commit.as_deref(), Some(commit.as_str()));
    let pushed = registry.digest("temp-app", &temporary_tag(&built));
    assert_eq!(pushed.as_deref(), Some(built.digest.as_str()));

    // Again, from another clone: nothing is built anew.
    work.job = buildctl::job::JobId::random();
    let again = yard.run(work);
    assert!(again.log.contains("Using cache"), "{}", again.log);
    assert!(!again.log.contains(" O built for"), "{}", again.log);
    assert_eq!(again.built().image_id, built.image_id);
    assert_eq!(yard.remains(), Vec::<String>::new());
}

#[test]
fn what_was_built_is_tested_by_its_digest_and_published() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let built = yard.built(yard.build(&repository.url(), "main"));

    let entry = yard.run(yard.test(&built, None));
    let said = " O entry ok yes /work 1000";
    assert!(entry.log.contains(said), "{}", entry.log);
    assert_eq!(entry.outcome(), Outcome::Tested);
    let command = yard.run(yard.test(&built, Some("echo \"$FROM_IMAGE $GREETING\"")));
    let said = " O yes ${HOME} {{x}}\n";
    assert!(command.log.contains(said), "{}", command.log);
    assert_eq!(command.outcome(), Outcome::Tested);

    let published = yard.run(yard.publish(&built, &["job-1", "latest"]));
    let Outcome::Published { tags, left } = published.outcome() else {
        panic!("not published")
    };
    assert_eq!(left, None);
    let names = tags
        .iter()
        .map(|moved| (moved.tag.as_str(), &moved.previous));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [("job-1", &None), ("latest", &None)]
    );
    for tag in ["job-1", "latest"] {
        let digest = registry.digest("app", tag);
        assert_eq!(digest.as_deref(), Some(built.digest.as_str()), "{tag}");
    }
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
fn no_preprocessor_reads_a_dockerfile_whatever_links_to_it() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
fn what_a_test_says_last_needs_no_relay_of_buildahs() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let mut work = yard.build(&repository.url(), "main");
    let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let cache = format!("{}/cache", registry.host()).parse().unwrap();
    let options = options(&mut work);
    options.args = pair("WHO", "a  b");
    options.annotations = pair("a.b", "$x, \"y\"");
    options.contexts = [("all".to_owned(), BuildContext::Path(String::new()))].into();
    options.cache.to = vec![cache];
    options.cache.ttl = Some(Duration::from_mins(90));
    options.squash = true;
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
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
