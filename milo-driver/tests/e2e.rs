//! The release binary beside real components: by itself with crun and a JVM, and as the plugin of a real Nomad agent that
//! runs the job files of `examples/`.
//!
//! Run by `cargo xtask e2e milo-driver`, which builds the binary and names it in `MILO_DRIVER_BIN`. Nomad is the one in
//! `NOMAD_BIN` or in `PATH`; without it the tests that need it say so and leave themselves out. Nothing but loopback is talked to.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in tests a panic is the failure, and a skip is said"
)]

#[path = "e2e/agent.rs"]
mod agent;
#[path = "e2e/alone.rs"]
mod alone;
#[path = "e2e/deaths.rs"]
mod deaths;
#[path = "e2e/http.rs"]
mod http;
#[path = "e2e/jars.rs"]
mod jars;
#[path = "e2e/jobs.rs"]
mod jobs;
#[path = "e2e/node.rs"]
mod node;
#[path = "e2e/remains.rs"]
mod remains;
