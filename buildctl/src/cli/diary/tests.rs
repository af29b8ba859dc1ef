use std::collections::BTreeSet;

use runyard_common::testing::tempdir;

use super::*;
use crate::{
    job::{Failure as JobFailure, Span},
    logs::Stream,
};

fn at(second: i64) -> Timestamp {
    Timestamp::constant(1_763_000_000, 0) + jiff::SignedDuration::from_secs(second)
}

fn job() -> Job {
    let config = JobConfig {
        owner: "red".to_owned(),
        repo_url: "https://git.test/app.git".to_owned(),
        git_ref: "refs/heads/main".to_owned(),
        image_name: "app".to_owned(),
        registry_url: "reg:5000".to_owned(),
        image_tags: vec!["v1".to_owned()],
        webhook_secret: "hunter2".to_owned(),
        ..JobConfig::default()
    };
    Job::new(JobId::random(), config, at(0))
}

fn failed(mut job: Job) -> Job {
    job.state = State::Failed;
    job.finished_at = Some(at(4_000));
    for (phase, from, to) in [(Phase::Build, 1, 136), (Phase::Test, 137, 140)] {
        let span = Span {
            start: Some(at(from)),
            end: Some(at(to)),
        };
        job.phases.insert(phase, span);
    }
    job.failure = Some(JobFailure {
        phase: Some(Phase::Test),
        error: "Test phase failed:\nexit code 1".to_owned(),
    });
    job
}

#[test]
fn an_entry_is_the_originals() {
    let job = failed(job());
    assert_eq!(
        entry(&job),
        format!(
            "## {id} (2025-11-13 02:13:20 UTC)\n**Branch**: main | **Git Ref**: refs/heads/main\n\
             **Status**: ❌ FAILED | **Duration**: 1h6m40s\n**Tags**: {id}, v1\n\
             **Error**: Test phase failed: exit code 1\n\n",
            id = job.id
        )
    );
}

#[test]
fn metadata_have_the_originals_keys_and_no_secret() {
    let dir = tempdir();
    let diary = Diary::open(dir.path().join("deploy").to_str().unwrap()).unwrap();
    let job = failed(job());
    diary.write(&job).unwrap();
    let text = fs::read_to_string(diary.folder(job.id).join("metadata.yaml")).unwrap();
    let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(value["job_id"], job.id.to_string());
    assert_eq!(value["status"], "FAILED");
    assert_eq!(value["branch"], "main");
    assert_eq!(value["failed_phase"], "test");
    assert_eq!(value["phases"]["build"]["duration"], "2m15s");
    assert_eq!(value["phases"]["build"]["status"], "SUCCEEDED");
    assert_eq!(value["phases"]["test"]["status"], "FAILED");
    assert_eq!(value["job_config"]["repo_url"], "https://git.test/app.git");
    let status = fs::read_to_string(diary.folder(job.id).join("status.md")).unwrap();
    assert!(
        status.contains("- Build: ✅ SUCCESS (2m15s)\n- Test: ❌ FAILED (3s)\n"),
        "{status}"
    );
    assert!(!text.contains("hunter2") && !status.contains("hunter2"));
}

#[test]
fn an_entry_takes_the_place_of_the_same_jobs_older_one() {
    let ids = [JobId::random(), JobId::random(), JobId::random()];
    let text = |id: JobId, word: &str| format!("## {id} (x)\n{word}\n\n");
    let mut history = String::new();
    for id in ids {
        history = with_entry(&history, id, &text(id, "old"));
    }
    history = with_entry(&history, ids[1], &text(ids[1], "new"));
    let expected = format!(
        "{HEADER}{}{}{}",
        text(ids[2], "old"),
        text(ids[1], "new"),
        text(ids[0], "old")
    );
    assert_eq!(history, expected);
    history = with_entry(&history, ids[0], &text(ids[0], "new"));
    assert!(history.ends_with(&text(ids[0], "new")), "{history}");
}

#[test]
fn of_many_jobs_at_once_none_is_lost_and_nothing_is_left() {
    let dir = tempdir();
    let deploy = dir.path().join("deploy");
    let ids: Vec<JobId> = std::thread::scope(|scope| {
        let write = || {
            let diary = Diary::open(deploy.to_str().unwrap()).unwrap();
            let job = job();
            diary.write(&job).unwrap();
            diary.write(&failed(job.clone())).unwrap();
            job.id
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let history = fs::read_to_string(deploy.join("history.md")).unwrap();
    for id in ids {
        assert_eq!(history.matches(&id.to_string()).count(), 2, "{history}");
    }
    let left: BTreeSet<_> = fs::read_dir(&deploy)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["builds".into(), "history.md".into()].into());
}

#[test]
fn logs_are_a_file_a_phase_with_a_heading_for_each_test() {
    let dir = tempdir();
    let id = JobId::random();
    let line = |run, stream, text: &str| Line {
        run,
        stream,
        time: None,
        text: text.to_owned(),
        partial: false,
    };
    let mut files = LogFiles::new(dir.path().to_owned(), id);
    for line in [
        line(Run::Build, Stream::System, "b"),
        line(Run::TestCommand(0), Stream::Stdout, "t"),
        line(Run::TestEntry, Stream::Stderr, "e"),
        line(Run::Cleanup, Stream::System, "c"),
    ] {
        files.add(&line).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    files.close().unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("build.log"), "[buildctl] b\n");
    assert_eq!(
        read("test.log"),
        format!(
            "=== Test Job (test-cmd-{id}-0) ===\n[main/stdout] t\n=== Test Job (test-entry-{id}) ===\n[main/stderr] e\n"
        )
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_folder_that_cannot_be_is_known_before_anything_is_built() {
    let dir = tempdir();
    let file = dir.path().join("deploy");
    fs::write(&file, "").unwrap();
    let failure = Diary::open(file.to_str().unwrap()).unwrap_err();
    assert!(
        failure.message().starts_with("cannot keep a history in"),
        "{failure}"
    );
}
