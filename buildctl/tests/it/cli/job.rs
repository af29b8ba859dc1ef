//! Builds without a service: what comes of them, and what becomes of those that are left or killed.

use std::fs;

use super::{DOCKERFILE, Gate, Shop, go_on};
use crate::support::{Repository, kill, ready, supervisors};

/// A job that was built, tested and published from a directory as `team/app`, as `build` answers it.
fn built(shop: &Shop) -> serde_json::Value {
    let source = Repository::with(DOCKERFILE);
    let words = "-t v1,latest --test-entry-point --metadata-file meta.json --history --test";
    let mut all = vec!["build", source.path().to_str().unwrap(), "--image"];
    let image = shop.image("team/app");
    all.push(&image);
    all.extend(words.split(' '));
    all.push("echo tested >&2; test -e /bin/sh");
    shop.json(&all)
}

#[test]
fn a_directory_is_built_tested_published_and_written_down() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let answer = built(&shop);
    let (id, digest) = (&answer["job_id"], &answer["digest"]);
    let (id, digest) = (id.as_str().unwrap(), digest.as_str().unwrap());
    assert_eq!(answer["status"], "SUCCEEDED");
    assert_eq!(answer["config"]["owner"], "tester");
    for tag in [id, "v1", "latest"] {
        let found = shop.registry.digest("team/app", tag);
        assert_eq!(found.as_deref(), Some(digest), "{tag}");
    }

    let read = |name: &str| fs::read_to_string(shop.path().join(name)).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&read("meta.json")).unwrap();
    assert_eq!(meta["containerimage.digest"], digest);
    assert_eq!(meta["IMAGE_URL"], format!("{}:v1", shop.image("team/app")));
    let builds = format!("deploy/builds/{id}");
    assert!(read("deploy/history.md").starts_with(&format!("# Build History\n\n## {id} (")));
    assert!(read(&format!("{builds}/metadata.yaml")).contains("status: SUCCEEDED"));
    assert!(read(&format!("{builds}/status.md")).contains("- Publish: ✅ SUCCESS"));
    assert!(read(&format!("{builds}/build.log")).contains("[main/stdout] STEP 1/4: FROM scratch"));
    let tested = read(&format!("{builds}/test.log"));
    assert!(tested.contains("[main/stderr] tested\n"), "{tested}");
    assert!(read(&format!("{builds}/publish.log")).contains("publish"));
}

#[test]
fn what_became_of_a_job_can_be_asked_for_until_it_is_purged() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let answer = built(&shop);
    let id = answer["job_id"].as_str().unwrap();
    let status = shop.run(&["status", id]).success();
    let digest = answer["digest"].as_str().unwrap();
    assert!(status.contains(digest), "{status}");
    let logs = shop.run(&["logs", id, "--phase", "test", "-n", "3"]);
    let logs = logs.success();
    assert!(logs.contains("test-entry: succeeded"), "{logs}");
    let listed = shop.json(&["history", "--owner", "tester", "--status", "succeeded"]);
    assert_eq!(listed["jobs"][0]["id"], id);
    assert_eq!(shop.run(&["wait", id]).code, 0);
    assert_eq!(shop.run(&["kill", id]).code, 1, "there is nothing to kill");
    shop.run(&["cleanup", id]).success();
    shop.run(&["purge", id]).success();
    assert_eq!(shop.run(&["status", id]).code, 5);
}

/// Objects, a line each.
fn objects(text: &str) -> Vec<serde_json::Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A build whose answer is lines for programs.
fn lines_of_build(shop: &Shop, words: &[&str]) -> runyard_common::testing::Output {
    let source = Repository::with(DOCKERFILE);
    let (url, image) = (source.url(), shop.image("app"));
    let always = ["build", &url, "--image", &image, "-o", "ndjson"];
    shop.run(&[&always, words].concat())
}

#[test]
fn programs_that_follow_a_job_read_an_event_a_line_and_then_the_answer() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let output = lines_of_build(&shop, &["--progress", "ndjson"]);
    assert_eq!(output.code, 0, "{output}");
    let answers = objects(&output.stdout);
    assert_eq!(answers.len(), 1, "{output}");
    assert_eq!(answers[0]["status"], "SUCCEEDED");
    let events = objects(&output.stderr);
    let first = &events[0];
    assert_eq!(first["event"], "accepted");
    assert_eq!(first["job_id"], answers[0]["job_id"]);
    let has = |kind: &str, field: &str, value: &str| {
        let mut of_kind = events.iter().filter(|it| it["event"] == kind);
        of_kind.any(|it| it[field] == value)
    };
    assert!(has("status", "status", "BUILDING"), "{output}");
    assert!(has("line", "message", "STEP 1/4: FROM scratch"), "{output}");
    assert!(has("line", "run", "publish"), "{output}");
    let last = events.last().unwrap();
    assert_eq!(last["event"], "ended");
    assert_eq!(last["status"], "SUCCEEDED");
}

#[test]
fn programs_that_ask_about_jobs_read_a_job_or_a_line_of_its_log_in_each_line() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let done = lines_of_build(&shop, &["--progress", "quiet"]);
    let failed = lines_of_build(&shop, &["--progress", "quiet", "--test", "exit 3"]);
    let code = (done.code, failed.code);
    assert_eq!(code, (0, 1), "the form of the answer changes no exit code");
    let [one, other] = [done, failed].map(|output| objects(&output.stdout)[0]["job_id"].clone());
    let (one, other) = (one.as_str().unwrap(), other.as_str().unwrap());

    let listed = objects(&shop.run(&["history", "-o", "ndjson"]).success());
    let ids = listed.iter().map(|job| job["id"].as_str().unwrap());
    assert_eq!(ids.collect::<Vec<_>>(), [other, one]);
    let both = objects(&shop.run(&["status", one, other, "-o", "ndjson"]).success());
    let states = both.iter().map(|job| job["status"].as_str().unwrap());
    assert_eq!(states.collect::<Vec<_>>(), ["SUCCEEDED", "FAILED"]);
    let log = objects(&shop.run(&["logs", one, "-o", "ndjson"]).success());
    let step = "STEP 1/4: FROM scratch";
    assert!(log.iter().any(|line| line["message"] == step));
    let rows = shop.run(&["status", one, other]).success();
    assert!(
        rows.starts_with("JOB ") && rows.lines().count() == 3,
        "{rows}"
    );
}

#[test]
fn a_commit_of_a_git_url_is_built_and_what_fails_is_not_published() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let source = Repository::with(DOCKERFILE);
    let commit = source.git(&["rev-parse", "HEAD"]);
    source.commit("Dockerfile", &format!("{DOCKERFILE}RUN echo no; exit 7\n"));
    let (url, image) = (source.url(), shop.image("app:v1"));
    let build = |words: &[&str]| {
        let always = ["build", &url, "--image", &image];
        shop.run(&[&always, words].concat())
    };

    let built = build(&["--ref", &commit, "-o", "json"]);
    assert!(
        built.stderr.contains("[build] STEP 1/4: FROM scratch"),
        "{built}"
    );
    assert!(built.stderr.contains("== SUCCEEDED after"), "{built}");
    let answer: serde_json::Value = serde_json::from_str(&built.success()).unwrap();
    assert_eq!(answer["commit"], commit);
    let before = shop.registry.digest("app", "v1").unwrap();

    let broken = build(&["--metadata-file", "meta.json"]);
    assert_eq!(broken.code, 1);
    assert!(
        broken.stderr.contains("error: Build phase failed: "),
        "{broken}"
    );
    assert!(broken.stderr.contains("hint: look closer: "), "{broken}");
    assert!(!shop.path().join("meta.json").exists());

    let untested = build(&["--ref", &commit, "--progress", "quiet", "--test", "exit 3"]);
    assert_eq!(untested.code, 1);
    assert!(
        untested.stderr.starts_with("error: Test phase failed: "),
        "{untested}"
    );
    assert_eq!(shop.registry.digest("app", "v1"), Some(before));
}

#[test]
fn an_interrupt_ends_the_view_and_watching_goes_on_where_it_was() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let gate = Gate::open();
    let source = gate.repository();
    let image = shop.image("app:v1");
    let build = shop.start(&["build", &source.url(), "--image", &image]);
    let waiting = gate.reached();
    let id = build.job();
    build.interrupt();
    let (code, said) = build.code();
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains(&format!("detached; job {id} goes on\n")),
        "{said}"
    );
    assert!(said.contains(&format!(" watch {id}\n")), "{said}");

    let early = shop.run(&["wait", &id, "--timeout", "10ms"]);
    assert_eq!(early.code, 1);
    assert!(
        early
            .stderr
            .contains("has not ended within 10ms: it is BUILDING"),
        "{early}"
    );
    go_on(waiting);
    let watched = shop.run(&["watch", &id]);
    assert!(watched.stderr.contains("[build] passed\n"), "{watched}");
    assert!(watched.success().contains("SUCCEEDED"));
    assert!(shop.registry.digest("app", "v1").is_some());
}

#[test]
fn a_job_whose_supervisor_was_killed_goes_on_when_somebody_waits_for_it() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let gate = Gate::open();
    let source = gate.repository();
    let image = shop.image("app:v1");
    let id = shop
        .run(&["build", &source.url(), "--image", &image, "-d"])
        .success();
    let id = id.trim();
    let waiting = gate.reached();
    let [supervisor] = supervisors(id)[..] else {
        panic!("one supervisor")
    };
    kill(supervisor);
    go_on(waiting);
    let waited = shop.run(&["wait", id, "--timeout", "1m"]);
    assert_eq!(waited.code, 0, "{waited}");
    assert!(shop.registry.digest("app", "v1").is_some());
}

#[test]
fn a_job_is_killed_from_elsewhere_or_by_an_interrupt_that_is_to_kill() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let gate = Gate::open();
    let source = gate.repository();
    let image = shop.image("app:v1");

    let build = shop.start(&["build", &source.url(), "--image", &image]);
    let waiting = gate.reached();
    let id = build.job();
    let killed = shop.run(&["kill", &id, "--reason", "enough"]).success();
    assert!(killed.contains("Job killed successfully"), "{killed}");
    let (code, said) = build.code();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("error: Job killed by user"), "{said}");
    drop(waiting);

    let build = shop.start(&[
        "build",
        &source.url(),
        "--image",
        &image,
        "--kill-on-interrupt",
    ]);
    let waiting = gate.reached();
    build.job();
    build.interrupt();
    let (code, said) = build.code();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the job is being killed"), "{said}");
    drop(waiting);
    assert_eq!(shop.registry.digest("app", "v1"), None);
}

#[test]
fn two_builds_at_once_are_both_built_and_both_written_down() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let gate = Gate::open();
    let source = gate.repository();
    let words = |image: &str| {
        let words = ["build", &source.url(), "--history", "--image", image];
        words.map(str::to_owned).to_vec()
    };
    let start = |image: &str, more: &[&str]| {
        let words = words(&shop.image(image));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        shop.start(&[&words, more].concat())
    };
    let one = start("one:v1", &[]);
    let at_one = gate.reached();
    let other = start("other:v1", &["--owner", "somebody-else"]);
    let at_other = gate.reached();
    // A third one for the same image is refused, and told who works on it.
    let words = words(&shop.image("one:v1"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let refused = shop.run(&words);
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .stderr
            .contains(&format!("job {} works on this image", one.job())),
        "{refused}"
    );
    let ids = [one.job(), other.job()];
    go_on(at_other);
    go_on(at_one);
    for build in [one, other] {
        let (code, said) = build.code();
        assert_eq!(code, Some(0), "{said}");
    }
    let history = fs::read_to_string(shop.path().join("deploy/history.md")).unwrap();
    for id in ids {
        assert!(history.contains(&format!("## {id} (")), "{history}");
    }
    assert_eq!(history.matches("✅ SUCCEEDED").count(), 2, "{history}");
}
