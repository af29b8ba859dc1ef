//! What is said about a job on standard output, and in a file for the next step of a pipeline.

use std::path::Path;

use runyard_common::{
    duration,
    exit::Exit,
    output::{Printer, Table},
    report::Failure,
};
use serde_json::{Map, Value, json};

use crate::{api::StatusAnswer, job::Job, service::JobView, state::file};

/// Says how a job is: all there is for programs, what matters for people.
pub(super) fn status(printer: &Printer, view: &JobView) -> anyhow::Result<()> {
    let answer = StatusAnswer::from(view);
    printer.both(&answer, &table(&answer, &view.job))?;
    Ok(())
}

fn table(answer: &StatusAnswer, job: &Job) -> Table {
    let more = &answer.more;
    let mut table = Table::headless();
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.push([
                name.to_owned(),
                super::screen::printable(&value).into_owned(),
            ]);
        }
    };
    say("job", Some(answer.job_id.to_string()));
    say("status", Some(answer.status.to_string()));
    say("waits for", more.waiting_for.clone());
    say("left behind", more.left.clone());
    say("error", Some(answer.error.clone()));
    say("owner", Some(job.config.owner.clone()));
    say("source", Some(source(job)));
    say("commit", more.commit.clone());
    say("image", Some(repository(job)));
    say("digest", more.digest.clone());
    let tags: Vec<&str> = more.published.iter().map(|one| one.tag.as_str()).collect();
    say("published", Some(tags.join(", ")));
    for run in &more.runs {
        let reason = run.reason.as_ref().map(|reason| format!(": {reason}"));
        say(
            &run.run,
            Some(format!("{}{}", run.state, reason.unwrap_or_default())),
        );
    }
    say("took", took(job));
    table
}

fn source(job: &Job) -> String {
    let config = job.config.redacted();
    if config.repo_url.starts_with('/') {
        config.repo_url
    } else {
        format!("{} {}", config.repo_url, config.git_ref)
    }
}

/// From its submission to its end.
pub(super) fn took(job: &Job) -> Option<String> {
    let span = crate::clock::since(job.finished_at?, job.created_at);
    Some(duration::format(std::time::Duration::from_secs(
        span.as_secs(),
    )))
}

/// Where a job publishes: `registry/name`.
pub(super) fn repository(job: &Job) -> String {
    let registry = job.config.registry_url.trim().trim_end_matches('/');
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    format!("{bare}/{}", job.config.image_name.trim())
}

/// Removes what an earlier build left in the file, so that nobody takes it for this one's.
pub(super) fn clear_metadata(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unwritable(path, error)),
        _ => Ok(()),
    }
}

/// Writes what was published, with the keys of `BuildKit`'s metadata files and those that Tekton Chains looks for.
pub(super) fn write_metadata(path: &Path, job: &Job) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(&metadata(job))
        .map_err(|error| unwritable(path, error.into()))?;
    text.push(b'\n');
    file::rewrite(path, &text).map_err(|error| unwritable(path, error))
}

fn metadata(job: &Job) -> Value {
    let repository = repository(job);
    let own = job.id.to_string();
    let published = job.published.iter().map(|moved| moved.tag.as_str());
    let names: Vec<String> = published
        .clone()
        .map(|tag| format!("{repository}:{tag}"))
        .collect();
    let best = published.clone().find(|tag| *tag != own).unwrap_or(&own);
    let digest = job.published.first().map(|moved| moved.digest.to_string());
    let mut map = Map::new();
    map.insert("containerimage.digest".to_owned(), json!(digest));
    map.insert("image.name".to_owned(), json!(names.join(",")));
    map.insert(
        "IMAGE_URL".to_owned(),
        json!(format!("{repository}:{best}")),
    );
    map.insert("IMAGE_DIGEST".to_owned(), json!(digest));
    map.insert("buildctl.job".to_owned(), json!(own));
    if let Some(commit) = job.built.as_ref().and_then(|built| built.commit.as_ref()) {
        map.insert("buildctl.commit".to_owned(), json!(commit));
    }
    map.into()
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write `{}`", path.display()))
        .caused_by(error)
        .hint("name another file with --metadata-file")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{api::JobConfig, job::JobId, phase::MovedTag};

    #[test]
    fn metadata_name_the_image_by_the_tag_that_was_asked_for() {
        let config = JobConfig {
            registry_url: "https://reg:5000/team/".to_owned(),
            image_name: "app".to_owned(),
            ..JobConfig::default()
        };
        let mut job = Job::new(JobId::random(), config, Timestamp::UNIX_EPOCH);
        let digest = format!("sha256:{}", "a".repeat(64));
        let moved = |tag: &str| MovedTag {
            tag: tag.parse().unwrap(),
            digest: digest.parse().unwrap(),
            previous: None,
        };
        let own = job.id.to_string();
        job.published = vec![moved(&own), moved("v1")];
        let metadata = metadata(&job);
        assert_eq!(metadata["containerimage.digest"], digest);
        assert_eq!(metadata["IMAGE_DIGEST"], digest);
        assert_eq!(metadata["IMAGE_URL"], "reg:5000/team/app:v1");
        assert_eq!(
            metadata["image.name"],
            format!("reg:5000/team/app:{own},reg:5000/team/app:v1")
        );
        job.published.truncate(1);
        let metadata = super::metadata(&job);
        assert_eq!(metadata["IMAGE_URL"], format!("reg:5000/team/app:{own}"));
    }

    #[test]
    fn an_earlier_builds_metadata_are_gone_before_this_one_begins() {
        let dir = runyard_common::testing::tempdir();
        let path = dir.path().join("meta.json");
        clear_metadata(&path).unwrap();
        std::fs::write(&path, "{}").unwrap();
        clear_metadata(&path).unwrap();
        assert!(!path.exists());
    }
}
