//! End-to-end tests: the release binary and real components, nothing in-process.
//!
//! Each tool's tests are its `tests/e2e.rs`, behind the feature `e2e`; this file builds the binary, finds the components,
//! and says what could not be tested here.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    deps,
    step::{self, Report},
    workspace::{binary_variable, known_tools, release_binaries},
};

/// What `e2e` takes.
#[derive(Debug, Args)]
pub(crate) struct E2eArgs {
    /// Just this tool
    tool: Option<String>,
}

/// Runs the end-to-end tests of one tool or all.
pub(crate) fn run(args: &E2eArgs) -> Result<()> {
    deps::ensure();
    let mut report = Report::default();
    run_tools(&mut report, &known_tools(args.tool.as_deref())?);
    report.close()
}

/// Runs the end-to-end tests of some tools as steps of a larger report. They are built together: what they share is compiled
/// once.
pub(crate) fn run_tools(report: &mut Report, tools: &[&str]) {
    report.step(&format!("end-to-end tests of {}", tools.join(", ")), || {
        let binaries = release_binaries(tools)?;
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--locked", "--no-fail-fast", "--test", "e2e"]);
        for (tool, binary) in tools.iter().zip(binaries) {
            command
                .args(["--package", tool, "--features", &format!("{tool}/e2e")])
                .env(binary_variable(tool), binary);
        }
        step::run(&mut command)
    });
    for component in tools
        .iter()
        .flat_map(|tool| components(tool))
        .filter(|component| !component.is_present())
    {
        report.skip(component.tests, component.how_to_get);
    }
}

/// Something real that some tests need; they leave themselves out where it is missing.
struct Component {
    /// What it is called in `PATH`; nothing for what is found only where it is named.
    program: Option<&'static str>,
    /// What names it instead of `PATH`.
    variable: Option<&'static str>,
    tests: &'static str,
    how_to_get: &'static str,
}

impl Component {
    fn is_present(&self) -> bool {
        let is_named = |variable| std::env::var_os(variable).is_some();
        let is_in_path = |program| deps::find(program).is_some();
        self.variable.is_some_and(is_named) || self.program.is_some_and(is_in_path)
    }
}

fn components(tool: &str) -> &'static [Component] {
    match tool {
        "overseerctl" => &OVERSEERCTL,
        "milo-driver" => &MILO_DRIVER,
        "buildctl" => &BUILDCTL,
        _ => &[],
    }
}

const OVERSEERCTL: [Component; 2] = [
    Component {
        program: Some("chromium"),
        variable: Some("CHROMIUM_BIN"),
        tests: "overseerctl: page in a browser",
        how_to_get: "needs chromium in PATH or CHROMIUM_BIN",
    },
    Component {
        program: Some("sticky-overseer"),
        variable: Some("STICKY_OVERSEER_BIN"),
        tests: "overseerctl: client against v2",
        how_to_get: "needs a sticky-overseer v2 in PATH or STICKY_OVERSEER_BIN",
    },
];

const MILO_DRIVER: [Component; 3] = [
    Component {
        program: Some("crun"),
        variable: None,
        tests: "milo-driver: containers",
        how_to_get: "needs crun in PATH (package crun)",
    },
    Component {
        program: Some("javac"),
        variable: None,
        tests: "milo-driver: JARs",
        how_to_get: "needs a JDK in PATH (package openjdk-17-jdk-headless)",
    },
    Component {
        program: Some("nomad"),
        variable: Some("NOMAD_BIN"),
        tests: "milo-driver: jobs on a Nomad agent",
        how_to_get: "needs Nomad 1.10 or newer in PATH or NOMAD_BIN",
    },
];

const BUILDCTL: [Component; 7] = [
    Component {
        program: Some("buildah"),
        variable: None,
        tests: "buildctl: builds",
        how_to_get: "needs Buildah in PATH (package buildah)",
    },
    Component {
        program: Some("docker-registry"),
        variable: None,
        tests: "buildctl: publications",
        how_to_get: "needs a registry in PATH (package docker-registry)",
    },
    Component {
        program: Some("nomad"),
        variable: Some("NOMAD_BIN"),
        tests: "buildctl: builds on a Nomad agent",
        how_to_get: "needs Nomad in PATH or NOMAD_BIN",
    },
    Component {
        program: Some("chromium"),
        variable: Some("CHROMIUM_BIN"),
        tests: "buildctl: page in a browser",
        how_to_get: "needs chromium in PATH or CHROMIUM_BIN",
    },
    Component {
        program: None,
        variable: Some("BUILDCTL_MCP_PYTHON"),
        tests: "buildctl: MCP with the Python SDK",
        how_to_get: "needs BUILDCTL_MCP_PYTHON: interpreters with the package mcp, parted by colons",
    },
    Component {
        program: None,
        variable: Some("BUILDCTL_MCP_NODE"),
        tests: "buildctl: MCP conformance suite and inspector",
        how_to_get: "needs BUILDCTL_MCP_NODE: a directory with both of them installed, and Node 22",
    },
    Component {
        program: None,
        variable: Some("JOBFORGE_BIN"),
        tests: "buildctl: Job Forge's command line against the service",
        how_to_get: "needs JOBFORGE_BIN: command lines of Job Forge, parted by colons",
    },
];
