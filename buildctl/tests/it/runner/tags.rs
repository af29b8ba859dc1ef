//! Tags at the registry: which move, in which order, back again, and what becomes of the temporary one.

use std::fs;

use buildctl::{
    phase::{Ending, FailureKind, Outcome},
    runner::work::Task,
};
use rustix::process::Signal;

use super::{DOCKERFILE, site, temporary_tag};
use crate::support::{Registry, Repository, Yard, ready};

#[test]
fn a_tag_remembers_what_it_was_and_the_temporary_one_goes() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
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
    let Some((_registry, yard, repository)) = site() else {
        return;
    };
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
    let Some((registry, yard, repository)) = site() else {
        return;
    };
    let built = yard.built(yard.build(&repository.url(), "main"));
    for _ in 0..2 {
        let cleaned = yard.run(yard.clean_up(&built.temporary, &built.digest));
        assert_eq!(cleaned.outcome(), Outcome::Cleaned);
        assert_eq!(registry.digest("temp-app", &temporary_tag(&built)), None);
    }
}

#[test]
fn tags_that_moved_before_one_that_could_not_are_moved_back_except_the_jobs_own() {
    let Some((registry, yard, repository)) = site() else {
        return;
    };
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
fn a_publication_that_is_stopped_has_moved_no_tag() {
    let Some((mut registry, yard, repository)) = site() else {
        return;
    };
    let built = yard.built(yard.build(&repository.url(), "main"));
    registry.stop();
    let running = yard.start(yard.publish(&built, &["latest"]));
    running.until(" S publish: ");
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.report.ending, Ending::Cancelled, "{}", ended.log);
    assert_eq!(registry.digest("app", "latest"), None);
}
