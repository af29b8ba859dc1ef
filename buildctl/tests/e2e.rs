//! The release binary beside real components: Buildah, Git, a registry, a Nomad agent, clients of agents, a browser and the
//! original's command line. Run by `cargo xtask e2e buildctl`, which builds the binary and names it in `BUILDCTL_BIN`; Nomad is the
//! one in `NOMAD_BIN` or in `PATH`. What is missing is said, and its tests leave themselves out. Nothing but loopback is talked to.
//!
//! The conversations of the command line are those of `tests/it`, where the debug binary has them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in tests a panic is the failure, and a skip is said"
)]

#[path = "it"]
mod it {
    pub(crate) mod cli;
    pub(crate) mod contract;
    pub(crate) mod nomad_site;
    #[expect(
        dead_code,
        unused_imports,
        reason = "the tests of single runs use the rest"
    )]
    pub(crate) mod support;
}
#[path = "e2e/mcp.rs"]
mod mcp;
#[path = "e2e/nomad.rs"]
mod nomad;
#[path = "e2e/nomad_agent.rs"]
mod nomad_agent;
#[path = "e2e/nomad_examples.rs"]
mod nomad_examples;
#[path = "e2e/nomad_secured.rs"]
mod nomad_secured;
#[path = "e2e/nomad_service.rs"]
mod nomad_service;
#[path = "e2e/original.rs"]
mod original;
#[path = "e2e/page.rs"]
mod page;
#[path = "e2e/site.rs"]
mod site;

use it::{cli, contract, nomad_site, support};
