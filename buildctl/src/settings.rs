//! The service's configuration as files and variables say it: [`Settings`] and its layers, flags over environment over file over
//! defaults. Texts here may be empty and mean "nothing said"; what holds is [`crate::config`]'s, which checks them.
//!
//! Every key has a variable, `BUILDCTL_` and its name in capitals (`nomad.tls_server_name`: `BUILDCTL_NOMAD_TLS_SERVER_NAME`).
//! Below them hold the variables of the original and those of Nomad and Consul themselves; see `seed`.

pub(crate) mod seed;

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueHint};
use runyard_common::{
    config::{FileFormat, Layers, Missing, Resolved},
    report::Failure,
};
use serde::{Deserialize, Serialize};

use crate::spec::{Conflict, TestMode};

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "BUILDCTL_CONFIG";

/// Where the file is unless something else is said. It need not exist.
pub const FILE: &str = "/etc/buildctl/config.yaml";

/// How the environment is looked up; a value, so that tests need none of their own.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Flags of whatever needs the service's configuration. Each wins over its variable, which wins over the file.
#[derive(Args, Clone, Debug, Default)]
pub struct SettingsArgs {
    /// Configuration file, else `BUILDCTL_CONFIG`, else /etc/buildctl/config.yaml if it exists
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Where jobs are carried out, else `BUILDCTL_BACKEND`: `local` or `nomad`
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,

    /// Folder of local jobs and their cache, else `BUILDCTL_LOCAL_ROOT`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub root: Option<String>,

    /// Address to listen on, else `BUILDCTL_LISTEN`: `host:port`, `:port` or `unix:/path`
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// File with the tokens of which clients must present one, one a line, else `BUILDCTL_TOKEN_FILE`. No flag of its own: the
    /// command line has one `--token-file` for both sides.
    #[arg(skip)]
    pub token_file: Option<String>,
}

/// What a file can hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the service listens.
    pub listen: String,
    /// Tokens of clients, one a line; empty for none.
    pub token_file: String,
    /// Certificates of the listener.
    pub tls: Tls,
    /// Names under which the service is reached, besides its own address.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call it; `*` for all.
    pub cors_origins: Vec<String>,
    /// Where jobs are carried out.
    pub backend: Backend,
    /// This machine as a backend.
    pub local: Local,
    /// Nomad as a backend.
    pub nomad: Nomad,
    /// How registries are spoken to.
    pub registry: Registry,
    /// What phases may use where a job says nothing.
    pub limits: Limits,
    /// How long things may take where a job says nothing.
    pub timeouts: Timeouts,
    /// How long what is over is kept.
    pub retention: Retention,
    /// How often is looked after what nobody asks about.
    pub housekeeping: Housekeeping,
    /// Where webhooks may go.
    pub webhooks: Webhooks,
    /// What to do with a second job for the same image and ref.
    pub conflict: Conflict,
    /// Roles of Vault that `vault_policies` may name; without any it names none.
    pub vault_roles: Vec<String>,
    /// Where the original's `--watch` looks; empty for nowhere.
    pub consul: Consul,
    /// A listener of its own for metrics.
    pub metrics: Metrics,
    /// What answers hold of logs.
    pub logs: Logs,
    /// Where paths of Vault really are: path → `file:…` or `env:…` of this machine, `nomad:…` or `vault:…` on Nomad.
    pub credentials: BTreeMap<String, String>,
    /// Whether sources may be `file://` URLs.
    pub allow_file_urls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            token_file: String::new(),
            tls: Tls::default(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            backend: Backend::Local,
            local: Local::default(),
            nomad: Nomad::default(),
            registry: Registry::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            retention: Retention::default(),
            housekeeping: Housekeeping::default(),
            webhooks: Webhooks::default(),
            conflict: Conflict::Reject,
            vault_roles: Vec::new(),
            consul: Consul::default(),
            metrics: Metrics::default(),
            logs: Logs::default(),
            credentials: BTreeMap::new(),
            allow_file_urls: false,
        }
    }
}

/// Where jobs are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// With Buildah on this machine.
    #[default]
    Local,
    /// As Nomad jobs.
    Nomad,
}

/// Files of a TLS endpoint; all empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate, followed by those between it and the root.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Authorities of which every client must present a certificate.
    pub client_ca_file: String,
}

/// This machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Local {
    /// Folder of jobs and their cache; empty for the user's own.
    pub root: String,
    /// How many runs work at once; 0 for one a core.
    pub concurrency: usize,
    /// `overlay` or `vfs`; empty to find out.
    pub storage_driver: String,
    /// `chroot` or `oci`; empty for `chroot`.
    pub isolation: String,
    /// Most bytes of cached images of an owner; empty for no limit.
    pub cache_limit: String,
}

/// Nomad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nomad {
    /// Its HTTP API.
    pub address: String,
    /// File with its ACL token; without one `NOMAD_TOKEN`.
    pub token_file: String,
    /// Namespace of the jobs.
    pub namespace: String,
    /// Region; empty for the agent's.
    pub region: String,
    /// Datacenters of the jobs.
    pub datacenters: Vec<String>,
    /// Authorities to trust instead of the system's.
    pub ca_file: String,
    /// Certificate to present.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// The name that the server's certificate bears.
    pub tls_server_name: String,
    /// Whether to trust whoever answers.
    pub skip_verify: bool,
    /// The driver of build tasks.
    pub driver: Driver,
    /// The image of build tasks.
    pub image: String,
    /// What a container of a build may do on its node.
    pub tier: Tier,
    /// Where tasks find `buildctl`.
    pub runner: Runner,
    /// Where layers are kept between builds: a folder of the nodes, the name of a host volume, or empty.
    pub cache: String,
    /// Secrets from Vault.
    pub vault: Vault,
    /// How tests run where a job says nothing.
    pub test_mode: TestMode,
}

impl Default for Nomad {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:4646".into(),
            token_file: String::new(),
            namespace: "default".into(),
            region: String::new(),
            datacenters: vec!["*".into()],
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            tls_server_name: String::new(),
            skip_verify: false,
            driver: Driver::Docker,
            image: "quay.io/buildah/stable:latest".into(),
            tier: Tier::Rootless,
            runner: Runner::default(),
            cache: "/opt/nomad/data/buildah-cache".into(),
            vault: Vault::default(),
            test_mode: TestMode::Auto,
        }
    }
}

/// Task drivers of Nomad that can build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Containers of Docker.
    #[default]
    Docker,
    /// Containers of Podman.
    Podman,
    /// A process of the node, with the node's Buildah.
    RawExec,
    /// A process of the node in a chroot.
    Exec,
}

/// What a container of a build may do on its node, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// An ordinary user with a user namespace: needs a seccomp profile that allows `unshare` and `mount`, and `/dev/fuse`.
    #[default]
    Rootless,
    /// Root with `CAP_SYS_ADMIN`: needs `allow_caps`.
    SysAdmin,
    /// Everything: needs `allow_privileged`.
    Privileged,
}

/// Where tasks find `buildctl`; one of them. All empty: the service hands it out itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runner {
    /// A path in the image or on the node.
    pub path: String,
    /// A URL, as Nomad's `artifact` takes it.
    pub artifact: String,
    /// The URL of this service, as nodes reach it.
    pub from_service: String,
}

/// Secrets from Vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vault {
    /// Whether Nomad's agents are connected to a Vault.
    pub enabled: bool,
    /// The role of tasks that read secrets; empty for the cluster's default.
    pub role: String,
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            enabled: true,
            role: String::new(),
        }
    }
}

/// How registries are spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Where temporary images go; empty for beside the published ones.
    pub url: String,
    /// What their names begin with.
    pub temp_prefix: String,
    /// Hosts that are spoken to without verification, or over plain HTTP.
    pub insecure: Vec<String>,
    /// Folder of `HOST/ca.crt` files.
    pub certificates: String,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            url: String::new(),
            temp_prefix: "temp".into(),
            insecure: Vec::new(),
            certificates: String::new(),
        }
    }
}

/// What phases may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The build.
    pub build: Phase,
    /// Each test.
    pub test: Phase,
    /// The publication.
    pub publish: Phase,
}

impl Default for Limits {
    fn default() -> Self {
        let small = Phase::default();
        Self {
            build: Phase {
                cpu: 1000,
                memory: 2048,
                disk: 10240,
            },
            test: small,
            publish: small,
        }
    }
}

/// What one phase may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phase {
    /// MHz.
    pub cpu: u32,
    /// MB.
    pub memory: u32,
    /// MB.
    pub disk: u32,
}

impl Default for Phase {
    fn default() -> Self {
        Self {
            cpu: 500,
            memory: 1024,
            disk: 2048,
        }
    }
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// The build.
    pub build: String,
    /// Each test.
    pub test: String,
    /// The publication.
    pub publish: String,
    /// Waiting for a place to run.
    pub queue: String,
    /// From SIGTERM to SIGKILL.
    pub kill: String,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            build: "30m".into(),
            test: "15m".into(),
            publish: "15m".into(),
            queue: "1h".into(),
            kill: "30s".into(),
        }
    }
}

/// How long what is over is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Records of jobs.
    pub records: String,
    /// Their logs, and what else they left with the engine.
    pub logs: String,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            records: "30d".into(),
            logs: "7d".into(),
        }
    }
}

/// Where webhooks may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Whether to loopback, private and other addresses that the Internet does not reach, too.
    pub allow_private: bool,
    /// Only to these hosts; `*.example.com` for all below one. Empty for any.
    pub hosts: Vec<String>,
}

/// The original's place for jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consul {
    /// Its HTTP API; empty to write nothing there.
    pub address: String,
    /// File with its ACL token; without one `CONSUL_HTTP_TOKEN`.
    pub token_file: String,
    /// What keys begin with.
    pub prefix: String,
}

impl Default for Consul {
    fn default() -> Self {
        Self {
            address: String::new(),
            token_file: String::new(),
            prefix: "nomad-build-service".into(),
        }
    }
}

/// How often a service looks after what nobody asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Housekeeping {
    /// After jobs that nobody moves along, because what did was killed.
    pub attend: String,
    /// After what is old, forgotten or too large.
    pub tidy: String,
}

impl Default for Housekeeping {
    fn default() -> Self {
        Self {
            attend: "30s".into(),
            tidy: "1h".into(),
        }
    }
}

/// A listener for metrics; they are at `/metrics` of the service in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Its address; empty for none.
    pub listen: String,
}

/// What answers hold of logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// Most bytes in one answer.
    pub max_bytes: String,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            max_bytes: "8MiB".into(),
        }
    }
}

/// Whether the variables of the original are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    /// They are.
    Read,
    /// They are not.
    Ignored,
}

/// Lays the layers and reads them.
pub(crate) fn resolve(
    args: &SettingsArgs,
    env: &Environment<'_>,
    seed: Seed,
) -> Result<Resolved<Settings>, Failure> {
    let named = |name: &str| env(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (path, missing) = match args.config.clone().or_else(|| named(FILE_VARIABLE)) {
        Some(path) => (path, Missing::Error),
        None => (PathBuf::from(FILE), Missing::Ok),
    };
    let layers = Layers::defaults(&Settings::default())
        .and_then(|layers| layers.file(&path, FileFormat::ByExtension, missing))
        .and_then(|layers| over(layers, args, env, seed).resolve());
    Ok(layers?)
}

fn over(layers: Layers, args: &SettingsArgs, env: &Environment<'_>, seed: Seed) -> Layers {
    let names: Vec<String> = KEYS.iter().map(|key| variable(key)).collect();
    let own: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(KEYS).collect();
    let layers = match seed {
        Seed::Read => layers.env(&seed::VARIABLES, &|name| seed::value(name, env)),
        Seed::Ignored => layers,
    };
    layers
        .env(&own, env)
        .flag("--backend", "backend", args.backend.clone())
        .flag("--root", "local.root", args.root.clone())
        .flag("--listen", "listen", args.listen.clone())
        .flag("--token-file", "token_file", args.token_file.clone())
}

/// The variable of a key.
pub fn variable(key: &str) -> String {
    format!("BUILDCTL_{}", key.to_uppercase().replace('.', "_"))
}

/// Keys that have a variable: all but maps.
pub const KEYS: [&str; 65] = [
    "listen",
    "token_file",
    "tls.cert_file",
    "tls.key_file",
    "tls.client_ca_file",
    "allowed_hosts",
    "cors_origins",
    "backend",
    "local.root",
    "local.concurrency",
    "local.storage_driver",
    "local.isolation",
    "local.cache_limit",
    "nomad.address",
    "nomad.token_file",
    "nomad.namespace",
    "nomad.region",
    "nomad.datacenters",
    "nomad.ca_file",
    "nomad.cert_file",
    "nomad.key_file",
    "nomad.tls_server_name",
    "nomad.skip_verify",
    "nomad.driver",
    "nomad.image",
    "nomad.tier",
    "nomad.runner.path",
    "nomad.runner.artifact",
    "nomad.runner.from_service",
    "nomad.cache",
    "nomad.vault.enabled",
    "nomad.vault.role",
    "nomad.test_mode",
    "registry.url",
    "registry.temp_prefix",
    "registry.insecure",
    "registry.certificates",
    "limits.build.cpu",
    "limits.build.memory",
    "limits.build.disk",
    "limits.test.cpu",
    "limits.test.memory",
    "limits.test.disk",
    "limits.publish.cpu",
    "limits.publish.memory",
    "limits.publish.disk",
    "timeouts.build",
    "timeouts.test",
    "timeouts.publish",
    "timeouts.queue",
    "timeouts.kill",
    "retention.records",
    "retention.logs",
    "housekeeping.attend",
    "housekeeping.tidy",
    "webhooks.allow_private",
    "webhooks.hosts",
    "conflict",
    "vault_roles",
    "consul.address",
    "consul.token_file",
    "consul.prefix",
    "metrics.listen",
    "logs.max_bytes",
    "allow_file_urls",
];
