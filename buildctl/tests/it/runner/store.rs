//! The store and its cache: drivers, and forgetting.

use std::fs;

use buildctl::{
    phase::Outcome,
    runner::work::{Task, Work},
};

use super::site;

#[test]
fn a_cleared_cache_is_built_anew_and_an_empty_one_may_be_cleared() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
fn the_cache_of_a_new_store_can_be_cleared() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
    let mut work = yard.build(&repository.url(), "main");
    if let Task::Build { clear_cache, .. } = &mut work.task {
        *clear_cache = true;
    }
    yard.built(work);
}

#[test]
fn a_store_of_another_driver_serves_too() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
fn where_overlay_does_not_work_another_driver_does_and_that_is_remembered() {
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
    let told = "storage driver overlay does not work here: no overlay here";
    assert!(first.log.contains(told), "{}", first.log);
    assert!(first.log.contains("storage: vfs"), "{}", first.log);
    first.built();
    let second = build();
    assert!(!second.log.contains("does not work"), "{}", second.log);
    second.built();
}
