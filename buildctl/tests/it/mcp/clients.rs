//! Real clients: the official Python SDK, the inspector's command line and the conformance suite, against the service of this
//! process. What is not installed is skipped, and said to be.
//!
//! | variable | names |
//! |---|---|
//! | `BUILDCTL_MCP_PYTHON` | interpreters that have `mcp` installed, such as one with 1.x and one with 2.x, parted by `:`; else `python3` |
//! | `BUILDCTL_MCP_NODE` | a directory after `npm install node@22 @modelcontextprotocol/conformance@0.2.0-alpha.12 @modelcontextprotocol/inspector@2` in it |

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use super::*;

/// A service with two ports: one for HTTP, and one on which a client talks as by a pipe.
struct Served {
    http: u16,
    pipe: u16,
    // The servers end with it.
    _runtime: Runtime,
}

fn serve() -> Served {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .unwrap();
    let (http, pipe) = runtime.block_on(async {
        let office = Office::open();
        for image in ["app", "endless"] {
            office.submit(image).await;
        }
        let listeners = [bound().await, bound().await];
        let ports = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().port());
        let [http, pipe] = listeners;
        let door = office.door.clone();
        tokio::spawn(async move { axum::serve(http, door).await });
        tokio::spawn(async move {
            while let Ok((stream, _)) = pipe.accept().await {
                let (read, write) = stream.into_split();
                tokio::spawn(mcp::converse(Arc::clone(&office.builds), read, write));
            }
        });
        (ports[0], ports[1])
    });
    Served {
        http,
        pipe,
        _runtime: runtime,
    }
}

async fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
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
fn the_python_sdk_talks_over_http_and_by_a_pipe() {
    for (python, major) in pythons() {
        let modes: &[&str] = if major == "1" {
            &["legacy"]
        } else {
            &["legacy", "auto", "2026-07-28"]
        };
        for mode in modes {
            let served = serve();
            let http = format!("http://127.0.0.1:{}/mcp", served.http);
            for (how, place) in [("http", http), ("stdio", served.pipe.to_string())] {
                let mut talk = Command::new(&python);
                talk.arg(files().join("converse.py"))
                    .args([how, &place, mode]);
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
    let mut command = Command::new(&node);
    // Programs that start others find the same Node.
    command.env("PATH", node.parent().unwrap()).arg(program);
    Some(command)
}

#[test]
fn the_conformance_suite_finds_what_is_expected() {
    let package = "@modelcontextprotocol/conformance";
    for revision in ["2025-11-25", "2026-07-28"] {
        let Some(mut suite) = node(package, "dist/index.js") else {
            return;
        };
        let served = serve();
        let url = format!("http://127.0.0.1:{}/mcp", served.http);
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
    let package = "@modelcontextprotocol/inspector";
    let served = serve();
    let url = format!("http://127.0.0.1:{}/mcp", served.http);
    let python = "python3";
    let bridge = files().join("bridge.py").to_str().unwrap().to_owned();
    let pipe = served.pipe.to_string();
    let by: [&[&str]; 2] = [&[&url, "--transport", "http"], &[python, &bridge, &pipe]];
    for place in by {
        for (call, word) in [
            (
                &["--method", "tools/list", "--strict"][..],
                "purgeFailedJob",
            ),
            (&["--method", "resources/list"], "buildctl://jobs/"),
            (
                &[
                    "--method",
                    "tools/call",
                    "--tool-name",
                    "listJobs",
                    "--tool-arg",
                    "limit=1",
                ],
                "next_offset",
            ),
        ] {
            let Some(mut inspector) = node(package, "clients/launcher/build/index.js") else {
                return;
            };
            let path = std::env::var_os("PATH").unwrap();
            // It starts the program at the other end of the pipe.
            let node = inspector
                .get_envs()
                .find(|(name, _)| *name == "PATH")
                .unwrap()
                .1
                .unwrap()
                .to_owned();
            let both = std::env::join_paths(
                std::iter::once(PathBuf::from(node)).chain(std::env::split_paths(&path)),
            )
            .unwrap();
            let output = inspector
                .env("PATH", both)
                .arg("--cli")
                .args(place)
                .args(call)
                .output()
                .unwrap();
            let said = said(&output);
            assert!(said.contains(word), "{place:?} {call:?}: {said}");
        }
    }
}
