//! The daemon's configuration: one validated value, and where each part of it came from.
//!
//! Three forms, so that nothing downstream meets an `Option` that means "default": [`args::ServeArgs`] is what the
//! command line says, `file` is the YAML as it may be written (sticky-overseer's `config.yaml` loads unchanged), and
//! [`Config`] is what the daemon uses. Order of precedence: flags > environment > file > defaults.
//!
//! ```text
//!   args ─┐
//!   env ──┼─▶ load ──ConfigFile──▶ resolve ──▶ Config
//!   file ─┘    │                      │
//!              └── values, places ────┘  how values are spelled, where they were set
//! ```

pub mod args;
mod env;
mod file;
mod load;
mod places;
mod resolve;
#[cfg(test)]
mod tests;
mod values;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use runyard_common::{
    http::server::{Listen, TlsConfig},
    secret::Secret,
};

pub use args::ServeArgs;
pub use load::{Environment, Loaded, load};

use crate::{
    api::{PoolConfig, RetryPolicy},
    driver::WorkerDefaults,
    hub::Settings,
    logfile::{LogFormat, Rotation},
    server::{Heartbeat, Networks, Origins},
    store::StoreOptions,
};

/// Everything the daemon needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from, if any.
    pub path: Option<PathBuf>,
    /// What relative paths in actions are relative to: the file's directory, empty for the working directory. All other
    /// relative paths are relative to the working directory.
    pub base_dir: PathBuf,
    /// Where it listens.
    pub listen: Vec<Endpoint>,
    /// The store; none by default.
    pub db: Option<PathBuf>,
    /// What the store keeps.
    pub store: StoreOptions,
    /// The event log; none by default.
    pub log_file: Option<PathBuf>,
    /// Rotation of the event log; off by default.
    pub log_rotation: Rotation,
    /// Log files of tasks; none by default.
    pub task_logs: Option<TaskLogsConfig>,
    /// Who is trusted, by network.
    pub networks: Networks,
    /// Which browsers' pages may connect.
    pub origins: Origins,
    /// What every client must present, if anything.
    pub token: Option<Secret>,
    /// Certificates for TCP listeners.
    pub tls: Option<TlsConfig>,
    /// Mode of Unix sockets.
    pub unix_mode: u32,
    /// User ids that may use Unix sockets besides root and the daemon's own.
    pub unix_users: Vec<u32>,
    /// When silent connections are probed, and given up.
    pub heartbeat: Heartbeat,
    /// How long workers have to end when the daemon ends.
    pub shutdown_grace: Duration,
    /// How workers are treated unless their action says otherwise.
    pub worker: WorkerDefaults,
    /// What the hub itself needs.
    pub settings: Settings,
    /// The global pool.
    pub pool: PoolConfig,
    /// The actions.
    pub actions: BTreeMap<String, ActionConfig>,
    /// First line of each action in the file.
    pub action_lines: BTreeMap<String, u64>,
}

/// A place to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input and output.
    Stdio,
    /// A TCP or Unix socket.
    Socket(Listen),
}

/// Log files of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLogsConfig {
    /// Their directory; made if missing.
    pub dir: PathBuf,
    /// When a file is put aside, and how many are kept.
    pub rotation: Rotation,
    /// How lines look.
    pub format: LogFormat,
}

/// One action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActionConfig {
    /// Kind of its driver.
    pub kind: String,
    /// From `meta.description`.
    pub description: String,
    /// The global policy, overridden field by field.
    pub retry: RetryPolicy,
    /// Its pool.
    pub task_pool: PoolConfig,
    /// Parameters that make two starts duplicates.
    pub dedupe_key: Vec<String>,
    /// Its driver's own block.
    pub config: serde_json::Value,
}

impl Config {
    /// Where an action stands, as a suffix for messages: ` (config.yaml:12)`.
    pub fn place_of_action(&self, name: &str) -> String {
        match (&self.path, self.action_lines.get(name)) {
            (Some(path), Some(line)) => format!(" ({}:{line})", path.display()),
            (Some(path), None) => format!(" ({})", path.display()),
            (None, _) => String::new(),
        }
    }

    /// Keys that differ from `other` although a running daemon cannot change them.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let differences = [
            ("listen", self.listen != other.listen),
            ("db", self.db != other.db),
            ("history", self.store != other.store),
            ("log_file", self.log_file != other.log_file),
            ("log_rotate", self.log_rotation != other.log_rotation),
            ("task_logs", self.task_logs != other.task_logs),
            ("trusted_cidrs", self.networks != other.networks),
            ("allowed_origins", self.origins != other.origins),
            ("token", self.token != other.token),
            ("tls", self.tls != other.tls),
            ("unix_socket_mode", self.unix_mode != other.unix_mode),
            ("unix_socket_users", self.unix_users != other.unix_users),
            ("ping", self.heartbeat != other.heartbeat),
            (
                "shutdown_grace",
                self.shutdown_grace != other.shutdown_grace,
            ),
        ];
        differences
            .into_iter()
            .filter_map(|(key, differs)| differs.then_some(key))
            .collect()
    }
}
