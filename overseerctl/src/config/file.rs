//! The configuration as a file may spell it, with the default of every key. Whether values go together, and what they
//! amount to, is `resolve`'s.

use std::{collections::BTreeMap, path::PathBuf};

use runyard_common::{
    http::server::{BindOptions, Listen, TlsConfig},
    secret::SecretSource,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Endpoint,
    values::{Cgroups, Delay, List, Mode, Network, Size, Span, WebOrigin},
};
use crate::{
    api::{Backoff, ExcessConfig, PoolConfig, QueueConfig, RestartMode, RetryPolicy},
    driver::{Orphans, WorkerDefaults},
    logfile::LogFormat,
    outbox::{OnSlow, SlowClient},
    ring::RingLimits,
    server::Heartbeat,
};

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    pub(super) name: String,
    pub(super) listen: List<Endpoint>,
    pub(super) db: Option<PathBuf>,
    pub(super) log_file: Option<PathBuf>,
    pub(super) trusted_cidrs: List<Network>,
    pub(super) allowed_origins: List<WebOrigin>,
    pub(super) token: Option<SecretSource>,
    pub(super) tls: Option<TlsConfig>,
    pub(super) unix_socket_mode: Mode,
    pub(super) unix_socket_users: Vec<u32>,
    pub(super) stop_grace: Span,
    pub(super) shutdown_grace: Span,
    pub(super) orphans: Orphans,
    pub(super) drain_timeout: Span,
    pub(super) max_line: Size,
    pub(super) ring: RingFile,
    pub(super) slow_client: SlowClientFile,
    pub(super) ping: PingFile,
    pub(super) log_rotate: RotationFile,
    pub(super) task_logs: TaskLogsFile,
    pub(super) keep_finished: KeepFinishedFile,
    pub(super) history: HistoryFile,
    pub(super) persist_queue: bool,
    pub(super) apply_config_retry: bool,
    pub(super) cgroup_parent: Cgroups,
    pub(super) retry: RetryFile,
    pub(super) task_pool: PoolFile,
    pub(super) actions: BTreeMap<String, ActionFile>,
}

impl Default for ConfigFile {
    fn default() -> Self {
        let worker = WorkerDefaults::default();
        Self {
            name: String::new(),
            listen: default_listen(),
            db: None,
            log_file: None,
            trusted_cidrs: List::default(),
            allowed_origins: List::default(),
            token: None,
            tls: None,
            unix_socket_mode: Mode(BindOptions::default().unix_mode),
            unix_socket_users: Vec::new(),
            stop_grace: Span(worker.stop_grace),
            shutdown_grace: Span(std::time::Duration::from_secs(15)),
            orphans: worker.orphans,
            drain_timeout: Span(worker.drain_timeout),
            max_line: worker.max_line.into(),
            ring: RingFile::default(),
            slow_client: SlowClientFile::default(),
            ping: PingFile::default(),
            log_rotate: RotationFile::default(),
            task_logs: TaskLogsFile::default(),
            keep_finished: KeepFinishedFile::default(),
            history: HistoryFile::default(),
            persist_queue: false,
            apply_config_retry: true,
            cgroup_parent: Cgroups(worker.cgroup_parent),
            retry: RetryFile {
                restart: Some(RestartMode::default()),
                ..RetryFile::default()
            },
            task_pool: PoolFile::default(),
            actions: BTreeMap::new(),
        }
    }
}

/// Loopback only, unlike sticky-overseer: who may connect may run every action.
pub(super) fn default_listen() -> List<Endpoint> {
    List(vec![Endpoint::Socket(Listen::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 8080,
    })])
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RingFile {
    pub(super) events: usize,
    pub(super) bytes: Size,
}

impl Default for RingFile {
    fn default() -> Self {
        let RingLimits { events, bytes } = RingLimits::default();
        Self {
            events,
            bytes: bytes.into(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SlowClientFile {
    pub(super) queue: Size,
    pub(super) queue_max: Size,
    pub(super) grace: Span,
    pub(super) timeout: Span,
    pub(super) on_slow: OnSlowWord,
}

/// A word for [`OnSlow`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnSlowWord {
    Close,
    Drop,
}

impl Default for SlowClientFile {
    fn default() -> Self {
        let SlowClient {
            queue,
            queue_max,
            grace,
            timeout,
            on_slow,
        } = SlowClient::default();
        let on_slow = match on_slow {
            OnSlow::Close => OnSlowWord::Close,
            OnSlow::Drop => OnSlowWord::Drop,
        };
        Self {
            queue: queue.into(),
            queue_max: queue_max.into(),
            grace: Span(grace),
            timeout: Span(timeout),
            on_slow,
        }
    }
}

impl From<SlowClientFile> for SlowClient {
    fn from(file: SlowClientFile) -> Self {
        Self {
            queue: file.queue.in_memory(),
            queue_max: file.queue_max.in_memory(),
            grace: file.grace.0,
            timeout: file.timeout.0,
            on_slow: match file.on_slow {
                OnSlowWord::Close => OnSlow::Close,
                OnSlowWord::Drop => OnSlow::Drop,
            },
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PingFile {
    pub(super) interval: Span,
    pub(super) timeout: Span,
}

impl Default for PingFile {
    fn default() -> Self {
        let Heartbeat { interval, timeout } = Heartbeat::default();
        Self {
            interval: Span(interval),
            timeout: Span(timeout),
        }
    }
}

/// Rotation of the event log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RotationFile {
    pub(super) max_size: Size,
    pub(super) max_files: usize,
}

impl Default for RotationFile {
    fn default() -> Self {
        Self {
            max_size: Size(0),
            max_files: 5,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct TaskLogsFile {
    pub(super) dir: PathBuf,
    pub(super) max_size: Size,
    pub(super) max_files: usize,
    pub(super) format: LogFormat,
}

impl Default for TaskLogsFile {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            max_size: Size(10 << 20),
            max_files: 5,
            format: LogFormat::default(),
        }
    }
}

/// Zero keeps all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeepFinishedFile {
    pub(super) count: usize,
    pub(super) age: Span,
}

/// Zero keeps all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HistoryFile {
    pub(super) keep_runs: usize,
    pub(super) keep_for: Span,
}

/// A retry policy, the global one or an action's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RetryFile {
    pub(super) restart_delay: Delay,
    pub(super) restart_jitter: Delay,
    pub(super) error_window: Delay,
    pub(super) error_threshold: i64,
    /// Absent in an action means the global one.
    pub(super) restart: Option<RestartMode>,
    pub(super) success_exit_codes: Vec<i32>,
    pub(super) backoff: Option<BackoffFile>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct BackoffFile {
    pub(super) factor: f64,
    #[serde(default)]
    pub(super) max: Delay,
}

impl From<RetryFile> for RetryPolicy {
    fn from(file: RetryFile) -> Self {
        Self {
            restart_delay: file.restart_delay.0,
            restart_jitter: file.restart_jitter.0,
            error_window: file.error_window.0,
            error_threshold: file.error_threshold,
            restart: file.restart.unwrap_or_default(),
            success_exit_codes: file.success_exit_codes,
            backoff: file
                .backoff
                .map(|BackoffFile { factor, max }| Backoff { factor, max: max.0 }),
        }
    }
}

/// A pool, the global one or an action's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PoolFile {
    pub(super) limit: i64,
    pub(super) queue: Option<QueueFile>,
    pub(super) excess: ExcessConfig,
    pub(super) hold_on_restart: bool,
}

/// A queue. Words are kept as they are written: sticky-overseer accepts any.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct QueueFile {
    pub(super) enabled: bool,
    pub(super) size: i64,
    pub(super) order: String,
    pub(super) max_age: i64,
    pub(super) displace: String,
}

impl From<PoolFile> for PoolConfig {
    fn from(file: PoolFile) -> Self {
        let queue = |QueueFile {
                         enabled,
                         size,
                         order,
                         max_age,
                         displace,
                     }| QueueConfig {
            enabled,
            size,
            order,
            max_age,
            displace,
        };
        Self {
            limit: file.limit,
            queue: file.queue.map(queue),
            excess: file.excess,
            hold_on_restart: file.hold_on_restart,
        }
    }
}

/// One action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ActionFile {
    pub(super) meta: MetaFile,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) retry: RetryFile,
    pub(super) task_pool: PoolFile,
    pub(super) dedupe_key: List<String>,
    pub(super) config: Value,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MetaFile {
    pub(super) description: String,
}
