//! Conversations with the program and its parts, with real tools. One binary; a file a subject.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests are tests"
)]

mod cli;
mod contract;
mod faults;
mod local;
mod mcp;
mod nomad;
mod nomad_fake;
mod nomad_site;
mod runner;
mod server;
mod service;
mod support;
