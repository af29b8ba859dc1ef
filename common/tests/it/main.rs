//! Whole processes on the ground that this crate gives: the example tool `keeper`, driven as a user
//! drives it.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod command;
mod daemon;

use std::path::PathBuf;
use std::process::Command;

/// The example tool, without what the environment of the test would say to it.
fn keeper(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(words)
        .env_remove("RUNYARD_LOG")
        .env_remove("NO_COLOR")
        .env_remove("RUST_BACKTRACE");
    command
}

/// Cargo builds examples beside the tests and names their place to nobody.
fn binary() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples")
        .join(format!("keeper{}", std::env::consts::EXE_SUFFIX))
}
