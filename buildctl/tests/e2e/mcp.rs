//! Real clients of agents: the official Python SDK, the inspector's command line and the conformance suite, against the daemon
//! and against `buildctl mcp`, with real builds. What is not installed is skipped, and said to be.
//!
//! | variable | names |
//! |---|---|
//! | `BUILDCTL_MCP_PYTHON` | interpreters that have `mcp` installed, such as one with 1.x and one with 2.x, parted by `:`; else `python3` |
//! | `BUILDCTL_MCP_NODE` | a directory after `npm install node@22 @modelcontextprotocol/conformance@0.2.0-alpha.12 @modelcontextprotocol/inspector@2` in it |

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use runyard_common::testing::tool_binary;

use crate::{
    site::{DOCKERFILE, Site},
    support::{Repository, ready},
};

fn site() -> Site {
    Site::open(Repository::with(DOCKERFILE))
}

/// The folder with the files of these tests.
fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp")
}

#[track_caller]
fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(output.status.success(), "{:?}: {all}", output.status);
    all
}

/// Interpreters that have the SDK, each with its first number.
fn pythons() -> Vec<(String, String)> {
    let named = std::env::var("BUILDCTL_MCP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let major = |python: &str| {
        let ask = "import importlib.metadata as m; print(m.version('mcp').split('.')[0])";
        let output = Command::new(python).args(["-c", ask]).output().ok()?;
        let major = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !major.is_empty()).then_some(major)
    };
    let found: Vec<_> = named
        .split(':')
        .filter_map(|python| Some((python.to_owned(), major(python)?)))
        .collect();
    if found.is_empty() {
        eprintln!("skipped: no Python with the package `mcp` (BUILDCTL_MCP_PYTHON names some)");
    }
    found
}

#[test]
fn the_python_sdk_talks_with_the_daemon_and_with_the_verb() {
    let pythons = pythons();
    if pythons.is_empty() || !ready() {
        return;
    }
    let site = site();
    let (http, program) = (format!("{}/mcp", site.url), tool_binary("buildctl"));
    for (python, major) in pythons {
        let modes: &[&str] = if major == "1" {
            &["legacy"]
        } else {
            &["legacy", "auto", "2026-07-28"]
        };
        for mode in modes {
            for (how, place) in [("http", &*http), ("stdio", program.to_str().unwrap())] {
                let mut talk = Command::new(&python);
                talk.arg(files().join("converse.py"))
                    .args([how, place, mode])
                    .envs(site.settings())
                    .env("REPOSITORY", site.repository.url())
                    .env("REGISTRY", site.registry.host());
                let said = said(&talk.output().unwrap());
                let newer = major != "1" && *mode != "legacy";
                let spoken = if newer {
                    "ok 2026-07-28"
                } else {
                    "ok 2025-11-25"
                };
                assert!(said.contains(spoken), "mcp {major} {how} {mode}: {said}");
            }
        }
    }
}

/// A program of the packages, with the Node that came with them.
fn node(package: &str, program: &str) -> Option<Command> {
    let folder = std::env::var("BUILDCTL_MCP_NODE").ok().map(PathBuf::from);
    let modules = folder.map(|folder| folder.join("node_modules"));
    let there = modules.and_then(|modules| {
        let program = modules.join(package).join(program);
        let node = modules.join("node/bin/node");
        (program.is_file() && node.is_file()).then_some((node, program))
    });
    let Some((node, program)) = there else {
        eprintln!("skipped: {package} is missing (BUILDCTL_MCP_NODE names a directory with it)");
        return None;
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::iter::once(node.parent().unwrap().to_owned());
    // Programs that start others find the same Node.
    let path = std::env::join_paths(first.chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new(&node);
    command.env("PATH", path).arg(program);
    Some(command)
}

#[test]
fn the_conformance_suite_finds_what_is_expected() {
    for revision in ["2025-11-25", "2026-07-28"] {
        let Some(mut suite) = node("@modelcontextprotocol/conformance", "dist/index.js") else {
            return;
        };
        if !ready() {
            return;
        }
        let site = site();
        // What resources are listed of.
        let job = site.submit("app");
        site.until(&job, &["SUCCEEDED"]);
        let url = format!("{}/mcp", site.url);
        let expected = files().join(format!("conformance-{revision}.yaml"));
        suite.args([
            "server",
            "--url",
            &url,
            "--requirements",
            revision,
            "--expected-failures",
        ]);
        said(&suite.arg(expected).output().unwrap());
    }
}

#[test]
fn the_inspector_lists_and_calls() {
    let inspector = || {
        node(
            "@modelcontextprotocol/inspector",
            "clients/launcher/build/index.js",
        )
    };
    if inspector().is_none() || !ready() {
        return;
    }
    let site = site();
    let job = site.submit("app");
    site.until(&job, &["SUCCEEDED"]);
    let (url, program) = (format!("{}/mcp", site.url), tool_binary("buildctl"));
    let daemon = format!("BUILDCTL_URL={}", site.url);
    let by: [&[&str]; 2] = [
        &[&url, "--transport", "http"],
        &["-e", &daemon, program.to_str().unwrap(), "mcp"],
    ];
    let call = "tools/call --tool-name listJobs --tool-arg limit=1";
    for place in by {
        for (method, word) in [
            ("tools/list --strict", "purgeFailedJob"),
            ("resources/list", "buildctl://jobs/"),
            (call, &*job),
        ] {
            let mut inspector = inspector().unwrap();
            inspector.arg("--cli").args(place).arg("--method");
            let output = inspector.args(method.split(' ')).output().unwrap();
            let said = said(&output);
            assert!(said.contains(word), "{place:?} {method}: {said}");
        }
    }
}
