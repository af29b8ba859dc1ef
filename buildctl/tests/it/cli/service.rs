//! The same verbs at a service, also by the names that the original gave them.

use std::{fs, process::Command};

use runyard_common::testing::{Daemon, Output};

use super::{DOCKERFILE, Shop, plain};
use crate::support::{Repository, ready};

fn serve(shop: &Shop) -> (Daemon, String) {
    let mut command = plain(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("BUILDCTL_LOCAL_ROOT", shop.path().join("service"))
        .env("BUILDCTL_ALLOW_FILE_URLS", "true")
        .env("BUILDCTL_REGISTRY_INSECURE", shop.registry.host());
    let (daemon, address) = Daemon::start(command, |line| {
        let (_, rest) = line
            .split_once("addr=")
            .filter(|_| line.contains("listening"))?;
        Some(rest.split_whitespace().next()?.to_owned())
    });
    (daemon, format!("http://{address}"))
}

/// A global file and one of a build.
fn describe(shop: &Shop, source: &Repository) {
    let global = format!(
        "owner: red\nregistry_url: {}\nimage_name: app\n",
        shop.registry.host()
    );
    fs::write(shop.path().join("global.yaml"), global).unwrap();
    fs::write(
        shop.path().join("build.yaml"),
        format!(
            "repo_url: {}\nimage_tags: [v1]\ntest: {{commands: [\"test -e /bin/sh\"]}}\n",
            source.url()
        ),
    )
    .unwrap();
}

#[test]
fn what_works_without_a_service_works_with_one_also_by_the_originals_names() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let (_daemon, url) = serve(&shop);
    let source = Repository::with(DOCKERFILE);
    describe(&shop, &source);
    let at = |words: &[&str]| -> Command {
        let mut command = shop.command(words);
        command.env("JOB_SERVICE_URL", &url);
        command
    };

    // Flags stand anywhere.
    let words = [
        "submit-job",
        "-global",
        "global.yaml",
        "build.yaml",
        "--watch",
        "--history",
    ];
    let built = Output::of(&mut at(&words));
    assert!(built.stderr.contains(&format!(" at {url}\n")), "{built}");
    let answer: serde_json::Value = serde_json::from_str(&built.success()).unwrap();
    let id = answer["job_id"].as_str().unwrap();
    assert_eq!(answer["status"], "SUCCEEDED");
    assert_eq!(
        shop.registry.digest("app", "v1").as_deref(),
        answer["digest"].as_str()
    );
    assert!(
        shop.path()
            .join(format!("deploy/builds/{id}/test.log"))
            .exists()
    );

    let logs = Output::of(&mut at(&["get-logs", id, "test"])).success();
    let logs: serde_json::Value = serde_json::from_str(&logs).unwrap();
    assert_eq!(logs["logs"]["build"], serde_json::Value::Null);
    assert!(
        logs["logs"]["test"][0]
            .as_str()
            .unwrap()
            .starts_with("=== Test Job 0"),
        "{logs}"
    );
    let listed = Output::of(&mut at(&["get-history", "5"])).success();
    assert!(listed.contains(id), "{listed}");
    assert_eq!(Output::of(&mut at(&["health"])).code, 0);
}

#[test]
fn a_service_builds_no_directory_and_knows_nothing_of_this_machines_jobs() {
    if !ready() {
        return;
    }
    let shop = Shop::open();
    let (_daemon, url) = serve(&shop);
    let at = |words: &[&str]| {
        let mut command = shop.command(words);
        command.env("BUILDCTL_URL", &url);
        command
    };
    let id = "0b0e2b9c-5a53-4f7e-9a0b-7c1d7d7c6f11";
    assert_eq!(Output::of(&mut at(&["status", id])).code, 5);
    let refused = Output::of(&mut at(&["build", ".", "--image", "r/a"]));
    assert_eq!(refused.code, 2);
    assert!(
        refused
            .stderr
            .contains("a service builds from Git URLs only"),
        "{refused}"
    );
    // This machine's own jobs are others.
    let here = Output::of(&mut at(&["--local", "status", id]));
    assert_eq!(here.code, 5, "{here}");
}
