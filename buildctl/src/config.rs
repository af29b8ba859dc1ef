//! The configuration of the service, and that of its clients, checked: what the program works with. How they are written down
//! and layered is [`crate::settings`]'s.
//!
//! ```text
//!   flags ─┐
//!   env ───┼─▶ settings ──Settings──▶ check ──▶ Config
//!   file ──┘       │                     │
//!                  └─ origins (lines) ───┘ names where a wrong value was set
//! ```

mod check;
mod client;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use runyard_common::{
    config::Shown,
    http::server::{Listen, TlsConfig},
    report::Failure,
    secret::Secret,
};

pub(crate) use self::check::tokens;
pub use self::client::{ClientArgs, ClientConfig, DEFAULT_URL};
pub use crate::settings::{Backend, Driver, Environment, SettingsArgs, Tier};
use crate::{
    runner::work::Registries,
    secrets::SecretRef,
    service::Rounds,
    settings::{self, Seed},
    spec::{Conflict, Defaults, Limits, TestMode},
};

/// Everything that the service needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Tokens of which every client must present one; empty for none.
    pub tokens: Vec<Secret>,
    /// Where they were read from, to be read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Certificates of the listener.
    pub tls: Option<TlsConfig>,
    /// Names under which the service is reached, besides its own address.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call it; `*` for all.
    pub cors_origins: Vec<String>,
    /// Where jobs are carried out.
    pub backend: Backend,
    /// This machine as a backend.
    pub local: LocalConfig,
    /// Nomad as a backend.
    pub nomad: NomadConfig,
    /// Where temporary images go; none for beside the published ones.
    pub registry: Option<String>,
    /// What their names begin with.
    pub temp_prefix: String,
    /// How registries are spoken to.
    pub registries: Registries,
    /// What phases may use where a job says nothing.
    pub limits: Limits,
    /// How long things may take where a job says nothing.
    pub timeouts: Timeouts,
    /// How long records of ended jobs are kept.
    pub keep_records: Duration,
    /// How long their logs, and what else they left with the engine, are kept.
    pub keep_logs: Duration,
    /// How often is looked after what nobody asks about.
    pub rounds: Rounds,
    /// Where webhooks may go.
    pub webhooks: WebhookPolicy,
    /// What to do with a second job for the same image and ref.
    pub conflict: Conflict,
    /// Roles of Vault that `vault_policies` may name; without any it names none.
    pub vault_roles: Vec<String>,
    /// Where the original's `--watch` looks, if anywhere.
    pub consul: Option<ConsulConfig>,
    /// A listener of its own for metrics.
    pub metrics: Option<Listen>,
    /// Most bytes of logs in one answer.
    pub log_bytes: usize,
    /// Where paths of Vault really are: files or variables of this machine, variables of Nomad, or Vault indeed, for the paths that
    /// the original takes when nobody names any.
    pub credentials: BTreeMap<String, SecretRef>,
    /// Whether sources may be `file://` URLs.
    pub allow_file_urls: bool,
}

/// This machine as a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// Folder of jobs and their cache; absolute.
    pub root: PathBuf,
    /// How many runs that build or test work at once; at least 1.
    pub concurrency: usize,
    /// `overlay` or `vfs`; none to find out.
    pub storage_driver: Option<String>,
    /// `chroot` or `oci`; none for `chroot`.
    pub isolation: Option<String>,
    /// Most bytes of cached images of an owner.
    pub cache_limit: Option<u64>,
}

/// Nomad as a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NomadConfig {
    /// Its HTTP API: `http://`, `https://` or `unix://`.
    pub address: String,
    /// Its ACL token.
    pub token: Option<Secret>,
    /// Namespace of the jobs.
    pub namespace: String,
    /// Region; none for the agent's.
    pub region: Option<String>,
    /// Datacenters of the jobs; never empty.
    pub datacenters: Vec<String>,
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate to present, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate bears.
    pub tls_server_name: Option<String>,
    /// Whether to trust whoever answers.
    pub skip_verify: bool,
    /// The driver of build tasks.
    pub driver: Driver,
    /// The image of build tasks.
    pub image: String,
    /// What a container of a build may do on its node.
    pub tier: Tier,
    /// Where tasks find `buildctl`.
    pub runner: RunnerSource,
    /// Where layers are kept between builds.
    pub cache: NomadCache,
    /// The role for secrets from Vault, if there is a Vault; an empty one is the cluster's default.
    pub vault: Option<String>,
    /// How tests run where a job says nothing.
    pub test_mode: TestMode,
}

/// Where tasks find `buildctl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerSource {
    /// A path in the image or on the node.
    Path(PathBuf),
    /// A URL, as Nomad's `artifact` takes it.
    Artifact(String),
    /// The service hands it out: its URL as nodes reach it, or the address that it listens on.
    Service(Option<String>),
}

/// Where layers are kept between builds on Nomad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NomadCache {
    /// Nowhere: every build begins anew.
    None,
    /// In a folder of each node.
    Folder(PathBuf),
    /// In a host volume of this name.
    HostVolume(String),
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The build.
    pub build: Duration,
    /// Each test.
    pub test: Duration,
    /// The publication.
    pub publish: Duration,
    /// Waiting for a place to run.
    pub queue: Duration,
    /// From SIGTERM to SIGKILL.
    pub kill: Duration,
}

/// Where webhooks may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookPolicy {
    /// Whether to loopback, private and other addresses that the Internet does not reach, too.
    pub allow_private: bool,
    /// Only to these hosts; `*.example.com` for all below one. Empty for any.
    pub hosts: Vec<String>,
}

impl WebhookPolicy {
    /// Whether a host is among those allowed by name.
    pub fn allows_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let matches = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(above) => host
                .strip_suffix(above)
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            None => host == *pattern,
        };
        self.hosts.is_empty() || self.hosts.iter().any(matches)
    }
}

/// The original's place for jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// Its HTTP API, with scheme.
    pub address: String,
    /// Its ACL token.
    pub token: Option<Secret>,
    /// What keys begin with.
    pub prefix: String,
}

/// A configuration that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Each value with its origin, for `config show`.
    pub shown: Shown,
    /// What is odd but usable, a line each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Loads the configuration: flags over environment over file over defaults.
    ///
    /// Fails with [`runyard_common::exit::Exit::Config`] and a message that names the key, the value and where it was set.
    pub fn load(args: &SettingsArgs, env: &Environment<'_>) -> Result<Loaded, Failure> {
        check::checked(&settings::resolve(args, env, Seed::Read)?, env)
    }

    /// The same for whoever builds without a service: the variables of the original are not read. They have names that other
    /// programs use too (`REGISTRY_URL`, `BUILD_TIMEOUT`), and here nobody has set them for us.
    pub fn load_here(args: &SettingsArgs, env: &Environment<'_>) -> Result<Loaded, Failure> {
        check::checked(&settings::resolve(args, env, Seed::Ignored)?, env)
    }

    /// What the service brings to every job.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            build_timeout: self.timeouts.build,
            test_timeout: self.timeouts.test,
            limits: self.limits,
            conflict: self.conflict,
            allow_file_urls: self.allow_file_urls,
            allow_directories: false,
            vault_roles: self.vault_roles.clone(),
        }
    }
}
