//! `milo-driver`: runs Java JARs in crun containers, as a Nomad task driver and without Nomad.
//!
//! `milo-driver serve` is the plugin that a Nomad agent launches; `milo-driver run app.jar` does the same on one machine
//! for whoever types it. Both turn what was asked into one [`task::Task`], plan one [`bundle`] from it, and hand that to
//! one small detached process, the [`shim`], which owns the container from its creation to its end.
//!
//! # Life of a task
//!
//! ```text
//!  Nomad agent ──gRPC──▶ server ──▶ api (TaskConfig, options) ─┐
//!                           │                                  ├─▶ Task ──▶ launch ──▶ bundle ──▶ state directory
//!  milo-driver run ──▶ cli::run ───────────────────────────────┘              │                      ▲
//!                                                                             ▼ spawn               │ exit.json
//!                        registry ◀──── started, exited ─── shim socket ◀── shim ──▶ crun create / start / delete
//! ```
//!
//! A task is, for its shim, in one of these states; what is written down before each arrow lets whoever comes later
//! undo or finish it:
//!
//! ```text
//!  intent ──create──▶ created ──start──▶ running ──ends──▶ exited ──dismiss──▶ (gone)
//!  task.json           started.json      (same)            exit.json           directory removed
//! ```
//!
//! # Code map
//!
//! | layer | modules |
//! |---|---|
//! | the domain | [`task`], [`jar`], [`jre`], [`jvm`] (its command line), [`user`], [`signal`], [`resources`] |
//! | what a container is made of | [`bundle`], [`host`] (facts about this machine), [`cgroup`], [`stats`], `process` |
//! | what runs | [`prepare`], [`beneath`] (files in others' folders), [`runtime`] (the seam to crun), [`shim`], [`init`], [`state`] (its files), [`launch`], [`exec`] |
//! | the plugin | [`serve`], [`handshake`], [`proto`], [`api`], [`server`], [`registry`], [`engine`], [`fingerprint`], [`sweep`] |
//! | the command line | `cli`, [`config`] (the operator's decisions), [`settings`] (where they come from), [`conformance`] |
//!
//! # Invariants
//!
//! - Only the shim reaps a container, and it reads the evidence of an OOM kill before anything deletes it.
//! - No process started here inherits the plugin's stdout or stderr: an agent sees a dead plugin at once.
//! - Nothing acts on a bare pid: always pid and start time, or a pidfd.
//! - The launches in which an agent only looks at the plugin change nothing on the machine.
//! - What lies in folders that tasks can write to is opened once, without following links, and used by its descriptor.
//! - What may hold secrets (`task.json`, `config.json`, the environment) is readable by its owner only.

pub mod api;
pub mod beneath;
pub mod bundle;
pub mod cgroup;
mod cli;
pub mod config;
pub mod conformance;
pub mod engine;
pub mod exec;
pub mod fingerprint;
pub mod handshake;
pub mod host;
pub mod init;
pub mod jar;
pub mod jre;
pub mod jvm;
pub mod launch;
pub mod prepare;
mod process;
pub mod proto;
pub mod registry;
pub mod resources;
pub mod runtime;
pub mod serve;
pub mod server;
pub mod settings;
pub mod shim;
pub mod signal;
pub mod state;
pub mod stats;
pub mod sweep;
pub mod task;
pub mod user;

use std::{ffi::OsString, path::Path, process::ExitCode};

/// The `milo-driver` program.
///
/// Two verbs are for this program itself and answer before anything else is set up, because they are to stay small: `shim`,
/// which owns one container, and `init`, the first process in one. Without any verb, and with the cookie of a Nomad agent in
/// the environment, it is the agent's plugin.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|verb| verb.to_str()) {
        Some("shim") if args.len() == 2 => shim::standby::main(false),
        Some("shim") if args[2] == shim::standby::WITH_STREAMS => shim::standby::main(true),
        Some("shim") if args.len() == 3 => shim::main(Path::new(&args[2])),
        Some("init") => init::main(args.into_iter().skip(2)),
        None if handshake::is_called(&|name| std::env::var_os(name)) => cli::plugin(),
        _ => cli::main(),
    }
}
