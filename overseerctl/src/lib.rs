//! `overseerctl`: supervises processes over WebSocket, wire-compatible with sticky-overseer v2.
//!
//! `overseerctl serve` is the hub: it starts processes as configured *actions*, keeps them under retry policies and pool
//! limits, and streams their output and lives to any number of clients. Every other verb is such a client, and works
//! against a sticky-overseer too.
//!
//! # Life of a task
//!
//! ```text
//!  client ──frame──▶ server::socket ──▶ session ──▶ hub::start ──▶ pool ──run──▶ driver ──▶ process
//!                                                     │              └─queue      │             │ lines
//!                                                     ▼                           │             ▼
//!  client ◀──frames── outbox ◀──────────────────── State ◀───── hub::exit ◀────── exit        topic ──▶ outbox ──▶ clients
//! ```
//!
//! Lifecycle goes through the hub's one lock and is totally ordered; output goes through its task's topic only. Neither
//! ever waits for a client while holding anything.
//!
//! # Code map
//!
//! | layer | modules |
//! |---|---|
//! | words of the wire | [`api`], and Go's habits on it: [`duration`], [`json`], [`quote`], [`time`], [`utf8`] |
//! | pure decisions | [`task`], [`pool`], [`retry`], [`ring`], [`template`], [`expr`] |
//! | the hub | [`hub`], [`topic`], [`outbox`], [`metrics`], [`session`] |
//! | what runs | [`driver`] (the seam), [`driver::exec`], [`process`], [`cgroup`], [`rlimit`], [`reaper`] |
//! | what is kept | [`logfile`], [`store`] |
//! | the daemon | [`serve`], [`server`], [`config`], [`manifest`], [`openapi`] |
//! | the client | [`client`], [`cli`] |
//!
//! # Invariants
//!
//! - `started` < `output`… < `exited` for every worker, on every connection.
//! - `seq` rises by one with every delivered line of a task, over both streams, restarts and resets.
//! - A stalled client delays nobody for longer than its grace, and costs at most its queue.
//! - No process of a stopped task survives it, and no status is lost: only the supervisor reaps.
//! - Domain modules import no clap, no axum and no socket.

pub mod api;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
pub mod duration;
pub mod expr;
pub mod frame;
pub mod hub;
pub mod json;
pub mod logfile;
pub mod manifest;
pub mod metrics;
pub mod openapi;
pub mod outbox;
pub mod pool;
pub mod process;
pub mod quote;
pub mod reaper;
pub mod retry;
pub mod ring;
pub mod rlimit;
pub mod serve;
pub mod server;
pub mod session;
pub mod size;
pub mod store;
pub mod task;
pub mod template;
pub mod time;
pub mod topic;
pub mod utf8;
