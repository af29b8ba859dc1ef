//! For integration tests of the tools: daemons and commands as real processes, and waiting that
//! ends when something happened, not when some time has passed. Part of no shipped binary (feature
//! `testing`).
//!
//! Everything here panics instead of returning errors: a test has nothing better to do with them.
//! How long a test is patient at most is `RUNYARD_PATIENCE` in seconds, 30 without it; a test that
//! passes never waits so long.

mod browser;
mod daemon;
mod output;
mod paper;
mod process;

use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

pub use browser::Browser;
pub use daemon::Daemon;
pub use output::Output;
pub use paper::Paper;
pub use process::{children, is_alive};
pub use tempfile::TempDir;

/// How long a test waits at most for what should happen.
pub fn patience() -> Duration {
    let seconds = std::env::var("RUNYARD_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// A program that not every machine has: what `variable` names, else what `PATH` has. That it is
/// nowhere is said, for tests that then leave themselves out.
pub fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    });
    if found.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: needs {name} in PATH or {variable}"
        );
    }
    found
}

/// A directory of the test's own, removed with the value.
pub fn tempdir() -> TempDir {
    tempfile::Builder::new()
        .prefix("runyard-")
        .tempdir()
        .expect("a directory for the test")
}

/// Asks again and again until there is an answer, for conditions that have no event to wait for.
///
/// # Panics
///
/// When there is none within the deadline.
pub fn eventually<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < deadline,
            "it did not happen within {deadline:?}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// The binary of a tool under test: `HVPOOL_BIN` if set (as `cargo xtask e2e` does), else what
/// cargo built for this test.
///
/// # Panics
///
/// When there is no such file.
pub fn tool_binary(name: &str) -> PathBuf {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    let named =
        std::env::var_os(&variable).or_else(|| std::env::var_os(format!("CARGO_BIN_EXE_{name}")));
    let path = named.map_or_else(|| built(name), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no binary `{}`: build it, or name another one in {variable}",
        path.display()
    );
    path
}

/// Where cargo puts a binary: test binaries are in `target/<profile>/deps`, the others one above.
fn built(name: &str) -> PathBuf {
    let mut directory = std::env::current_exe().expect("the path of the test's own binary");
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
