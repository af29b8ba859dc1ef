//! The driver's pieces and its binary with real crun and real JVMs. One binary; a file a subject.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests are tests"
)]

mod bundle;
mod faults;
mod plugin;
mod run;
mod shim;
mod sources;
mod support;
