//! Where sources come from: refs, commits, directories, and with which credentials Git asks for them.

use std::fs;

use buildctl::{
    phase::FailureKind,
    runner::work::{Credential, Task, Work},
    spec::Source,
};

use super::{failing, site};

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
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
fn git_gets_its_credentials_from_files_and_for_its_host_only() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
