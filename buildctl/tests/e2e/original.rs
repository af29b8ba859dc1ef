//! The original's own command line against the daemon, with a real build: each of its commands. `JOBFORGE_BIN` names it, or
//! several of them, parted by `:`; without it these tests are skipped, and said to be.

use std::{path::PathBuf, process::Command};

use runyard_common::testing::Output;
use serde_json::{Value, json};

use crate::{
    site::{DOCKERFILE, Site},
    support::{Repository, ready},
};

fn programs() -> Vec<PathBuf> {
    let named = std::env::var_os("JOBFORGE_BIN").unwrap_or_default();
    let programs: Vec<PathBuf> = std::env::split_paths(&named)
        .filter(|path| path.is_file())
        .collect();
    if programs.is_empty() {
        eprintln!("skipped: JOBFORGE_BIN names no command line of the original");
    }
    programs
}

/// The original, at the daemon.
struct Original<'a> {
    program: &'a PathBuf,
    site: &'a Site,
}

impl Original<'_> {
    fn run(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(self.program);
        command.args(["--url", &self.site.url]).args(words);
        Output::with_input(&mut command, input)
    }

    /// What it prints, from the first brace on: before an answer it may say what it does.
    fn json(&self, words: &[&str], input: &str) -> Value {
        let text = self.run(words, input).success();
        let at = text.find('{').unwrap_or_else(|| panic!("{text}"));
        serde_json::from_str(&text[at..]).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn job(&self, image: &str, test: &str) -> String {
        let file = format!(
            "owner: team\nrepo_url: {}\ngit_ref: main\ndockerfile_path: Dockerfile\nimage_name: {image}\nimage_tags: [v1]\n\
             registry_url: {}\ntest:\n  commands: [\"{test}\"]\n",
            self.site.repository.url(),
            self.site.registry.host()
        );
        let answer = self.json(&["submit-job"], &file);
        assert_eq!(answer["status"], "BUILDING");
        answer["job_id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn all_of_its_commands_work() {
    let programs = programs();
    if programs.is_empty() || !ready() {
        return;
    }
    let site = Site::open(Repository::with(DOCKERFILE));
    for (number, program) in programs.iter().enumerate() {
        let original = Original {
            program,
            site: &site,
        };
        let image = format!("app-{number}");
        let id = original.job(&image, "echo tested");
        site.until(&id, &["SUCCEEDED"]);
        let status = original.json(&["get-status", &id], "");
        assert_eq!(status["status"], "SUCCEEDED");
        assert!(status["metrics"]["total_duration"].as_i64() > Some(0));
        for tag in ["v1", &id] {
            assert!(site.registry.digest(&image, tag).is_some(), "{tag}");
        }
        let logs = original.json(&["get-logs", &id], "");
        let said = |phase: &str| logs["logs"][phase].to_string();
        assert!(said("build").contains("[main/stdout] STEP 1/3: FROM scratch"));
        assert!(said("test").contains("[main/stdout] tested"), "{logs}");
        assert!(said("publish").contains("publish: succeeded"), "{logs}");
        let only = original.json(&["get-logs", &id, "test"], "");
        assert_eq!(only["logs"]["build"], Value::Null);
        assert_eq!(only["logs"]["test"], logs["logs"]["test"]);
        let history = original.json(&["get-history", "1"], "");
        assert_eq!(history["jobs"][0]["id"], json!(id));
        let cleaned = original.json(&["cleanup", &id], "");
        assert_eq!(cleaned["success"], true);
        let health = original.run(&["health"], "").success();
        assert!(health.contains("healthy"), "{health}");

        let broken = original.job(&image, "exit 3");
        let status = site.until(&broken, &["FAILED"]);
        assert_eq!(status["failed_phase"], "test", "{status}");
        let endless = original.job(&image, "sleep 600");
        site.until(&endless, &["TESTING"]);
        let killed = original.json(&["kill-job", &endless], "");
        assert_eq!(killed["success"], true);
        site.until(&endless, &["FAILED"]);
        let killed = original.json(&["get-status", &endless], "");
        assert_eq!(killed["error"], "Job killed by user");

        let unknown = "0b0e2b9c-5a53-4f7e-9a0b-7c1d7d7c6f11";
        let refused = original.run(&["get-status", unknown], "");
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("Job not found"), "{refused}");
        let refused = original.run(&["submit-job"], "owner: team\n");
        assert_eq!(refused.code, 1, "{refused}");
    }
}
