//! Command lines that build nothing: wrong ones, and those that only ask.

use std::{fs, os::unix::fs::symlink, process::Command};

use runyard_common::testing::{Output, TempDir, tempdir, tool_binary};

use super::plain;

/// The program in a folder where nothing has been built, with two wrong job files.
fn command(words: &[&str], folder: &TempDir) -> Command {
    fs::write(folder.path().join("odd.yaml"), "owner: x\nimage: y\n").unwrap();
    fs::write(folder.path().join("bad.yaml"), "owner: [\n").unwrap();
    let mut command = plain(words);
    command
        .env("BUILDCTL_LOCAL_ROOT", folder.path().join("state"))
        .current_dir(folder.path());
    command
}

/// Runs the program in a folder of its own.
fn run(words: &[&str], input: &str) -> Output {
    Output::with_input(&mut command(words, &tempdir()), input)
}

/// A job that nobody has submitted.
const NOBODYS: &str = "0b0e2b9c-5a53-4f7e-9a0b-7c1d7d7c6f11";

/// Command lines, their exit codes, and what is said.
const WRONG: [(&[&str], u8, &str); 22] = [
    (&["build", "."], 2, "image_name is required"),
    (
        &["build", ".", "--image", "app"],
        2,
        "`app` is no image repository",
    ),
    (&["build", ".", "--image", "r/a:v 1"], 2, "is no image tag"),
    (&["build", ".", "--image", "r/a", "-t", "-x"], 2, "-x"),
    (
        &["build", ".", "--image", "r/a", "--platform", "x y"],
        2,
        "platform",
    ),
    (
        &["build", "nowhere", "--image", "r/a"],
        5,
        "`nowhere` is neither a directory",
    ),
    (&["build", "odd.yaml"], 3, "odd.yaml line 2"),
    (&["build", "bad.yaml"], 3, "bad.yaml"),
    (&["build", ".", "--job", "none.yaml"], 3, "none.yaml"),
    (
        &["build", ".", "--image", "r/a", "--ref", "v1"],
        2,
        "--ref is for Git URLs",
    ),
    (
        &["build", "https://u:p@x/y", "--image", "r/a"],
        2,
        "git_credentials_path",
    ),
    (
        &["build", ".", "--progress", "tty", "--image", "r/a"],
        2,
        "needs a terminal",
    ),
    (
        &["build", ".", "--build-arg", "x", "--image", "r/a"],
        2,
        "NAME=VALUE",
    ),
    (&["build", ".", "--frobnicate"], 2, "--frobnicate"),
    (
        &[
            "spec",
            "render",
            "--run",
            "test-cmd-7",
            "https://x/y",
            "--image",
            "r/a",
        ],
        2,
        "test-cmd-7",
    ),
    (&["doctor", "--nomad", "--local"], 2, "--local"),
    (&["status", "x"], 2, "`x` is no job id"),
    (&["status", NOBODYS], 5, "there is no job"),
    (&["logs", NOBODYS, "--since", "y"], 2, "is no log cursor"),
    (&["-u", "ftp://x", "health"], 3, "is no URL of a service"),
    (&["-u", "http://127.0.0.1:1", "health"], 4, "127.0.0.1:1"),
    (&["--config", "none.yaml", "history"], 3, "none.yaml"),
];

#[test]
fn what_is_wrong_is_named_with_the_way_out_and_the_code_that_says_whose_matter_it_is() {
    for (words, code, text) in WRONG {
        let folder = tempdir();
        let ended = assert_cmd::Command::from_std(command(words, &folder)).assert();
        let ended = ended.code(i32::from(code)).stdout("");
        let said = String::from_utf8_lossy(&ended.get_output().stderr);
        assert!(said.contains(text), "{words:?}\n{said}");
    }
    assert_eq!(run(&["submit"], " ").code, 2);
    let misspelled = run(&["submit"], "owner: x\nimage_tag: y\n");
    assert_eq!(misspelled.code, 3);
    assert!(
        misspelled.stderr.contains("standard input line 2"),
        "{misspelled}"
    );
}

#[test]
fn a_secret_in_a_url_is_not_repeated() {
    let output = run(
        &["build", "https://user:hunter2@git.test/x", "--image", "r/a"],
        "",
    );
    assert!(!output.to_string().contains("hunter2"), "{output}");
}

#[test]
fn a_description_is_checked_and_rendered_without_anything_being_built() {
    let yaml = "owner: o\nrepo_url: https://git.test/x.git\nimage_name: a\nregistry_url: r:1\ntest_commands: [t]\n";
    let valid = run(&["spec", "validate"], yaml).success();
    assert_eq!(valid, "ok: r:1/a, 1 test\n");
    let rendered = run(
        &["-o", "json", "spec", "render", "--image-tags", "v1"],
        yaml,
    )
    .success();
    let rendered: serde_json::Value = serde_json::from_str(&rendered).unwrap();
    let runs = rendered["runs"].as_array().unwrap();
    let names: Vec<&str> = runs
        .iter()
        .map(|run| run["run"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["build", "test-cmd-0", "publish"]);
    assert_eq!(
        runs[0]["work"]["task"]["source"]["url"],
        "https://git.test/x.git"
    );
    assert_eq!(runs[1]["work"]["task"]["command"], "t");
    assert_eq!(runs[2]["work"]["task"]["tags"][1], "v1");
    let wrong = run(&["spec", "validate"], "owner: o\n");
    assert_eq!(wrong.code, 2);
    assert!(
        wrong
            .stderr
            .contains("repo_url is required\n    image_name is required"),
        "{wrong}"
    );
}

#[test]
fn a_description_is_checked_and_rendered_without_a_trace() {
    let folder = tempdir();
    let state = folder.path().join("state");
    let words = ["https://git.test/x.git", "--image", "r:1/a"];
    for verb in [&["spec", "render"][..], &["spec", "validate"]] {
        let mut command = plain(&[verb, &words].concat());
        command.env("BUILDCTL_LOCAL_ROOT", &state);
        Output::of(&mut command).success();
        assert!(!state.exists(), "{verb:?}");
    }
}

#[test]
fn what_would_be_run_is_told_to_the_letter() {
    let yaml = "owner: o\nrepo_url: https://git.test/x.git\nimage_name: a\nregistry_url: r:1\ntest_commands: [t]\n\
                dockerfile_path: \"x,/etc/shadow\"\nbuild_args: {A: \"$(id) ${x}\"}\n";
    let rendered = |words: &[&str]| -> serde_json::Value {
        let output = run(&[&["-o", "json", "spec", "render"], words].concat(), yaml);
        serde_json::from_str(&output.success()).unwrap()
    };
    let here = rendered(&[]);
    let line = |run: usize, line: usize| here["runs"][run]["commands"][line].as_str().unwrap();
    assert!(line(0, 1).ends_with(" -- https://git.test/x.git main"));
    let bud = line(0, 3);
    assert!(bud.starts_with("buildah --root /"), "{bud}");
    assert!(bud.contains(" 'A=$(id) ${x}' "), "{bud}");
    let whole = bud.contains("--file '\"/") && bud.contains("x,/etc/shadow\"' ");
    assert!(whole, "a comma begins no other file: {bud}");
    assert!(line(0, 4).contains("docker://r:1/temp-a:"));
    let tested = line(1, 1);
    assert!(
        tested.contains(" -- sh -c ") && tested.ends_with(" sh -c t"),
        "{tested}"
    );
    assert_eq!(here["runs"][2]["commands"], serde_json::json!([]));

    // Nobody is there to be asked.
    let nomad = rendered(&["--backend", "nomad"]);
    let job = &nomad["runs"][0]["job"];
    assert_eq!(job["Type"], "batch");
    assert!(!job.to_string().contains("$(id)"), "it travels as base64");
    let test = rendered(&["--backend", "nomad", "--run", "test-cmd-0"]);
    assert_eq!(test["Job"]["TaskGroups"][0]["Name"], "test");
}

/// An example with its files in a folder of the test's.
fn example(name: &str, folder: &std::path::Path) -> String {
    let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace(" /etc/", &format!(" {}/etc/", folder.display()));
    let copy = folder.join(name.replace('/', "-"));
    fs::write(&copy, text).unwrap();
    copy.to_str().unwrap().to_owned()
}

#[test]
fn the_examples_are_right() {
    let folder = tempdir();
    fs::create_dir_all(folder.path().join("etc/buildctl")).unwrap();
    for name in ["tokens", "nomad.token"] {
        fs::write(folder.path().join("etc/buildctl").join(name), "t\n").unwrap();
    }
    let global = example("global.yaml", folder.path());
    for (name, global) in [
        ("build.yaml", Some(&global)),
        ("gpu.yaml", Some(&global)),
        ("nomad/build.yaml", None),
    ] {
        let file = example(name, folder.path());
        let mut words = vec!["spec", "validate"];
        words.extend(global.iter().flat_map(|global| ["-g", global.as_str()]));
        words.push(&file);
        let valid = Output::of(&mut plain(&words)).success();
        assert!(valid.starts_with("ok: registry.example.com"), "{valid}");
    }
    for name in ["local.yaml", "nomad/config.yaml"] {
        let file = example(name, folder.path());
        let mut command = plain(&["config", "check", "--config", &file]);
        assert_eq!(Output::of(&mut command).success(), "ok\n", "{name}");
    }
}

#[test]
fn under_another_name_help_and_hints_use_that_name() {
    let folder = tempdir();
    let program = folder.path().join("forge");
    symlink(tool_binary("buildctl"), &program).unwrap();
    let called = |words: &[&str]| Output::of(Command::new(&program).args(words));
    assert!(
        called(&["--help"])
            .success()
            .contains("Usage: forge [OPTIONS] <COMMAND>")
    );
    assert!(called(&["completions", "bash"]).success().contains("forge"));
    let lost = called(&[
        "--local",
        "--root",
        folder.path().to_str().unwrap(),
        "status",
        "0b0e2b9c-5a53-4f7e-9a0b-7c1d7d7c6f11",
    ]);
    assert!(lost.stderr.contains("forge history"), "{lost}");
}

#[test]
fn the_version_of_what_is_built_is_kept_beside_it() {
    let folder = tempdir();
    let run = |words: &[&str]| Output::of(plain(words).current_dir(folder.path())).success();
    assert_eq!(run(&["version", "bump", "minor"]), "0.0.0 → 0.1.0\n");
    assert!(run(&["version-major", "2"]).contains("2.0.0"));
    assert_eq!(run(&["version", "tags"]), "v2.0.0\n");
    assert!(run(&["version"]).starts_with("buildctl "));
}

#[test]
fn the_configuration_is_shown_with_where_it_comes_from() {
    let folder = tempdir();
    let path = folder.path().join("c.yaml");
    fs::write(&path, "timeouts: {build: 7m}\n").unwrap();
    let mut command = plain(&["config", "show", "--config", path.to_str().unwrap()]);
    command.env("BUILDCTL_LOCAL_ROOT", folder.path());
    let shown = Output::of(&mut command).success();
    assert!(shown.contains("7m") && shown.contains("c.yaml"), "{shown}");
    let example = Output::of(&mut plain(&["config", "example"])).success();
    assert!(example.contains("concurrency"), "{example}");
    assert!(
        Output::of(&mut plain(&["man"]))
            .success()
            .contains(".TH buildctl")
    );
}
