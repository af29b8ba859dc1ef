//! The ground under the runyard tools: what at least two of them use, and what speaks none of their
//! nouns.
//!
//! # Code map
//!
//! | module | what it answers |
//! |---|---|
//! | [`cli`] | which flags every tool has; completions and manual pages |
//! | [`exit`] | what an exit code means |
//! | [`report`] | how an error reads, and which code it earns |
//! | [`output`] | how an answer reaches stdout: table, JSON or YAML |
//! | [`terminal`] | whether to colour, how wide to write |
//! | [`progress`] | what to show while something takes long |
//! | [`log`] | how the log reaches stderr: text, JSON or hclog |
//! | [`config`] | flags over environment over file over defaults, and where each value came from |
//! | [`doctor`] | what works here, what does not, and how to mend it |
//! | [`secret`] | values that must not be shown |
//! | [`duration`] | `30s`, `1h30m` |
//! | [`backoff`] | how long to wait before trying again |
//! | [`shutdown`] | when a daemon should drain, end, and whether it is ready |
//! | [`crypto`] | which cryptography TLS uses |
//! | [`http`] | client, server and error bodies over HTTP |
//! | [`memory`] | what a daemon holds of its own program |
//! | [`metrics`] | numbers in Prometheus' text format |
//! | [`number`] | floats that are whole numbers |
//! | `testing` | (feature `testing`) daemons, outputs and waiting, for integration tests |
//!
//! # Invariants
//!
//! - Only [`output`] writes to stdout; only [`log`], [`progress`] and [`report`] write to stderr.
//! - No module reads the environment behind its caller's back, except for the `NO_COLOR` convention
//!   in [`terminal`]: lookups are handed in, so that tests need no process-wide state.
//! - Deliberately absent: wire types of the tools, clients of particular services, and anything
//!   named `utils`.

pub mod backoff;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod doctor;
pub mod duration;
pub mod exit;
pub mod http;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod number;
pub mod output;
pub mod progress;
pub mod report;
pub mod secret;
pub mod shutdown;
pub mod terminal;
#[cfg(feature = "testing")]
pub mod testing;
