//! The binary by itself, as a person uses it: no agent.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use runyard_common::testing::{Output, TempDir, tempdir, tool_binary};

use super::{agent::in_path, jars};

/// A folder with the JAR in it, that a container's user can read.
fn place() -> Option<TempDir> {
    if !rustix::process::geteuid().is_root() || in_path("crun").is_none() {
        eprintln!("skipped: needs root and crun in PATH");
        return None;
    }
    let app = jars::app()?;
    let dir = tempdir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("app.jar"), app).unwrap();
    fs::write(dir.path().join("my-script.py"), "print()").unwrap();
    Some(dir)
}

fn driver(dir: &TempDir, args: &[&str]) -> Output {
    let state = dir.path().join("state");
    let mut command = Command::new(tool_binary("milo-driver"));
    Output::of(
        command
            .arg("--state-dir")
            .arg(state)
            .args(args)
            .current_dir(dir.path()),
    )
}

#[test]
fn a_jar_says_exactly_what_it_says_and_its_exit_code_is_ours() {
    let Some(dir) = place() else { return };
    let output = driver(&dir, &["run", "app.jar"]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(
        output.stdout,
        "Hello from Java!\nMilo driver test complete\n"
    );
    assert_eq!(output.stderr, "");
    let output = driver(&dir, &["run", "app.jar", "--", "exit", "42"]);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (42, "Application encountered an error\n")
    );
    assert_eq!(
        driver(&dir, &["--output", "json", "ps", "--all"])
            .success()
            .trim(),
        "[]"
    );
}

#[test]
fn what_is_no_jar_is_refused_before_anything_is_made() {
    let Some(dir) = place() else { return };
    let output = driver(&dir, &["run", "my-script.py"]);
    assert_ne!(output.code, 0);
    assert!(
        output
            .stderr
            .contains("Artifact must be a .jar file, got: my-script.py"),
        "{output}"
    );
    assert!(!dir.path().join("state/tasks").exists());
}

#[test]
fn a_bare_call_without_an_agent_says_what_to_type() {
    let output = Output::of(&mut Command::new(tool_binary("milo-driver")));
    assert_eq!(output.code, 2, "{output}");
    assert!(output.stderr.contains("Usage: milo-driver"), "{output}");
}
