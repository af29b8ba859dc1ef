//! `buildctl`: builds, tests and publishes container images with Buildah, on this machine or on Nomad.
//!
//! One job is one atomic build → test → publish: the image is built and pushed under a temporary name, what is tested is
//! that very digest, and only then do the asked-for tags move to it, by manifest, the job's own tag first. `buildctl serve`
//! offers this over REST and MCP, `buildctl build` does it for whoever types it.
//!
//! # Who does what
//!
//! ```text
//!  REST, WS, SSE ─▶ server ─┐                       ┌─▶ Ledger     job records, claims on images     directory | variables
//!  MCP (HTTP) ────▶ mcp ────┤                       │
//!                           ├─▶ Service ─▶ reconcile┤
//!  MCP (stdio) ───▶ mcp ────┤   (Builds)   step()   │
//!  verbs ─────────▶ cli ────┘                       └─▶ Scheduler  runs of phases, their logs        local | nomad | fake
//!                     │                                    │ starts
//!                     └── --url: REST of a service         ▼
//!                                                    buildctl run-phase: git, buildah, registry ──▶ log, result.json
//! ```
//!
//! A *job* is what a user submitted. It has *phases* (build, test, publish); each phase consists of *runs* (one build, one
//! for every test command and one for the image's entry point, one publish), and a run is what a [`scheduler`] carries out,
//! once, as one process tree with one log and one result.
//!
//! # Life of a job
//!
//! ```text
//!            claim of the image         built          tests pass (or none)      promoted
//!  PENDING ───────────────────▶ BUILDING ────▶ TESTING ───────────────▶ PUBLISHING ────▶ SUCCEEDED
//!     │                            │              │                         │
//!     └────────── kill, failure, timeout: every arrow down leads to ────────┴────▶ FAILED
//! ```
//!
//! Only [`reconcile::step`] moves a job along. It is a pure function of the record and of what was observed; whoever runs it
//! (one supervisor process for each local job, every replica of the service on Nomad) may be killed at any point, because
//! starting a run that has been started is no second start, and a record changes only by compare-and-swap. Reading never
//! writes.
//!
//! # Code map
//!
//! | layer | modules |
//! |---|---|
//! | the domain | [`job`], [`phase`], [`trace`], [`spec`] (what was asked for, checked), [`names`], [`secrets`] (references), [`reconcile`], [`clock`] |
//! | the seams | [`scheduler`] (local, nomad, fake), [`ledger`] (directory, variables, memory), [`logs`]; [`state`] is the folder of the local ones |
//! | what a run does | [`runner`]: `git`, `buildah`, [`registry`] |
//! | the service | [`service`], [`webhook`], [`metrics`] |
//! | the wires | [`api`], [`server`], [`mcp`], [`client`] |
//! | the program | [`serve`], [`backend`], [`config`], `cli`; `account` is whose machine it is |
//!
//! # Invariants
//!
//! - Nothing is published that was not tested, if tests were asked for: a tag only ever moves to the digest that was tested.
//! - No string of a user is ever read by a shell, HCL, a template or as an option: it travels as base64 and becomes one `argv`
//!   element. The exception is the user's own test command, which the shell of the tested image reads, inside the image.
//! - Secrets are references until the run that needs them; no value is in a record, a job specification, an argument or a log.
//!   The exception is what a submitter gives for webhooks (`webhook_secret`, `webhook_headers`): the record keeps it, and nothing
//!   shows it again.
//! - What a run leaves behind (containers, mounts, temporary tags) is removed by name; nothing here removes "all".

mod account;
pub mod api;
pub mod backend;
mod body;
mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod consul;
mod hex;
pub mod job;
pub mod jobfile;
pub mod ledger;
pub mod logs;
pub mod mcp;
pub mod metrics;
pub mod names;
pub mod phase;
pub mod reconcile;
pub mod registry;
pub mod runner;
pub mod scheduler;
pub mod secrets;
pub mod serve;
pub mod server;
pub mod service;
pub mod settings;
pub mod spec;
pub mod state;
pub mod trace;
pub mod version;
pub mod webhook;

// What tests share says `buildctl`, whether they are in here or not.
#[cfg(test)]
extern crate self as buildctl;

use std::{ffi::OsString, process::ExitCode};

/// The `buildctl` program.
///
/// Two verbs are for this program itself and answer before anything else is set up, because they are to stay small and must be
/// alone in their process: `run-phase`, which carries out one run, and `supervise`, which moves one local job along.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if runner::is_called(&args) {
        // Whatever an engine left open for it, its programs are to have none of it.
        scheduler::local::keep_descriptors_from_children();
        return runner::main(&args[2..]);
    }
    if args.get(1).is_some_and(|verb| verb == "supervise") {
        return backend::supervise(&args[2..]);
    }
    cli::main()
}
