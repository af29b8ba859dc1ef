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
//! | what a container is made of | [`bundle`], [`host`] (facts about this machine), [`cgroup`], [`stats`] |
//! | what runs | [`runtime`] (the seam to crun), [`shim`], [`state`] (its files), [`launch`], [`exec`] |
//! | the plugin | [`serve`], [`handshake`], [`proto`], [`api`], [`server`], [`registry`], [`fingerprint`], [`sweep`] |
//! | the command line | [`cli`], [`config`], [`doctor`], [`conformance`] |
//!
//! # Invariants
//!
//! - Only the shim reaps a container, and it reads the evidence of an OOM kill before anything deletes it.
//! - No process started here inherits the plugin's stdout or stderr: an agent sees a dead plugin at once.
//! - Nothing acts on a bare pid: always pid and start time, or a pidfd.
//! - The launches in which an agent only looks at the plugin change nothing on the machine.
//! - What may hold secrets (`task.json`, `config.json`, the environment) is readable by its owner only.

pub mod shim;
pub mod state;
pub mod task;
