//! What a job is to do, checked: a [`JobConfig`] as it came over a wire becomes a [`Spec`], or a list of what is wrong with it.
//! Nothing here looks at the world; that a ref or a file exists is found out by the run that needs it.

mod check;
mod temporary;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    api::{GIT_REF, JobConfig},
    job::JobId,
    names::{Reference, Repository, Tag},
    secrets::SecretRef,
};

/// What is wrong with a Dockerfile whose name ends in `.in`.
pub(crate) const PREPROCESSED: &str = "ends in `.in`: Buildah would have the C preprocessor read it outside of any container, \
    and with it whatever file it includes; give it another name";

/// The label that makes annotations take effect: Buildah takes an image from its cache whatever annotations it has, unless there
/// is a step that is new. It holds a hash of them.
pub(crate) const ANNOTATED: &str = "buildctl.annotations";

/// A job's work, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Who it is for; part of what is cached together.
    pub owner: String,
    /// What to build.
    pub source: Source,
    /// Credentials for fetching it.
    pub git_credentials: Option<SecretRef>,
    /// Credentials of the registry.
    pub registry_credentials: Option<SecretRef>,
    /// How to build it.
    pub build: BuildOptions,
    /// Name of the image below its registry, as it was asked for.
    pub image: String,
    /// Where to publish it.
    pub repository: Repository,
    /// Tags to move, without the job's own, which always comes first.
    pub tags: Vec<Tag>,
    /// How to test it; none to publish what was built.
    pub test: Option<Test>,
    /// What each phase may use.
    pub limits: Limits,
    /// How long the build may take.
    pub build_timeout: Duration,
    /// How long each test may take.
    pub test_timeout: Duration,
    /// Whether to forget cached layers first.
    pub clear_cache: bool,
    /// What to do while another job works on the same image.
    pub conflict: Conflict,
}

/// Where the source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Source {
    /// A Git repository.
    Git {
        /// `https://`, `ssh://` or `user@host:path`; `file://` where that is allowed.
        url: String,
        /// A branch, tag, full ref name or commit id.
        reference: String,
    },
    /// A directory of this machine; only for whoever types `build` there.
    Directory {
        /// Absolute.
        path: std::path::PathBuf,
    },
}

/// How to build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOptions {
    /// Path of the Dockerfile below the source.
    pub dockerfile: String,
    /// Path of the context below the source; empty for all of it.
    #[serde(default)]
    pub context: String,
    /// The stage to stop at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `ARG`s. They show in the image's history: no place for secrets.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// Labels of the image.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The platform to build for, as in `linux/arm64`; none for the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Secrets for `RUN --mount=type=secret,id=…`: id → where.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretRef>,
    /// SSH keys for `RUN --mount=type=ssh,id=…`: id → where.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ssh: BTreeMap<String, SecretRef>,
    /// Further contexts, by the names under which steps refer to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, BuildContext>,
    /// Annotations of the image's manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whether all layers of the build become one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub squash: bool,
    /// Where cached layers are looked for and kept, besides the store.
    #[serde(default, skip_serializing_if = "RemoteCache::is_none")]
    pub cache: RemoteCache,
    /// The network of `RUN` steps; none for Buildah's choice, which depends on how they are isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// A further context of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildContext {
    /// A folder below the source; empty for all of it.
    Path(String),
    /// An image.
    Image(Reference),
}

/// Cached layers in a registry: Buildah keeps each in an image of its own, with the step's hash for a tag. They are in the
/// registry that the job publishes in, whose credentials are the job's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCache {
    /// Where to look for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Repository>,
    /// Where to keep them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Repository>,
    /// How old those that are used may be; none for any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

impl RemoteCache {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// All of its repositories.
    pub fn repositories(&self) -> impl Iterator<Item = &Repository> {
        self.from.iter().chain(&self.to)
    }
}

/// The network of a build's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// None but the step's own loopback.
    None,
    /// One of its own, with a way out.
    Private,
    /// The machine's.
    Host,
}

impl Network {
    /// What Buildah and users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

/// How to test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Commands for the image's shell, each a run of its own.
    pub commands: Vec<String>,
    /// Whether to run the image as it is.
    pub entry_point: bool,
    /// Variables of all of them.
    pub env: BTreeMap<String, String>,
    /// Variables from secrets.
    pub secrets: Vec<TestSecret>,
    /// Whether they need a GPU.
    pub gpu: bool,
    /// Where they may run.
    pub constraints: Vec<Constraint>,
    /// Whether the image runs as a task of its own or inside of the run that Buildah makes.
    pub mode: TestMode,
}

/// Variables of tests that come from a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestSecret {
    /// Where it is.
    pub at: SecretRef,
    /// Its fields, and the variables that they become.
    pub fields: BTreeMap<String, String>,
}

/// Where a test may run; Nomad's constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// `${attr.cpu.arch}` and the like.
    pub attribute: String,
    /// One of Nomad's.
    pub operand: String,
    /// To compare with.
    pub value: String,
}

/// How tests run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum TestMode {
    /// As the backend does it best: `task` on Nomad with a container driver, `inline` elsewhere.
    #[default]
    Auto,
    /// The image is a Nomad task of its own.
    Task,
    /// `buildah from` and `buildah run` in a task like the build's.
    Inline,
}

/// What each phase may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The build.
    pub build: Resources,
    /// Each test.
    pub test: Resources,
    /// The publication.
    pub publish: Resources,
}

/// What a run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// MHz.
    pub cpu: u32,
    /// MB.
    pub memory: u32,
    /// MB.
    pub disk: u32,
}

/// What to do while another job works on the same image and ref.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// Wait, in order of submission.
    Queue,
    /// Refuse the newer one, as the original does.
    #[default]
    Reject,
    /// Kill the older one.
    CancelPrevious,
}

/// What the service brings to every job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// Timeout of builds.
    pub build_timeout: Duration,
    /// Timeout of each test.
    pub test_timeout: Duration,
    /// Resources where a job says nothing.
    pub limits: Limits,
    /// What to do with a second job for an image.
    pub conflict: Conflict,
    /// Whether sources may be `file://` URLs.
    pub allow_file_urls: bool,
    /// Whether sources may be directories, and credentials in files and variables: only for whoever builds without a service.
    pub allow_directories: bool,
    /// Roles of Vault that `vault_policies` may name; without any it names none.
    pub vault_roles: Vec<String>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

impl Spec {
    /// Checks a configuration. The first error is what the original says, in its order; all follow.
    ///
    /// Credentials in files and variables (`file:`, `env:`) are for whoever builds without a service: one that took them from
    /// its clients would send whatever it can read to a registry of their choice. So they need `allow_directories`.
    pub fn of(config: &JobConfig, defaults: &Defaults) -> Result<Self, Vec<SpecError>> {
        check::spec(config, defaults)
    }

    /// What a job claims while it works: registry, image and ref, as the original's lock names them. Lower-case letters, digits
    /// and `._:[]-` only.
    pub fn claim_key(&self) -> String {
        claim_key(&self.repository.to_string(), self.version())
    }

    /// The temporary name of job `id`: `REGISTRY/PREFIX-image:ref-id`, as the original makes it. `registry` is the service's, if
    /// it has one; else the image stays beside the one that will be published, where the same credentials hold.
    pub fn temporary(&self, id: JobId, registry: Option<&str>, prefix: &str) -> Reference {
        temporary::reference(self, id, registry, prefix)
    }

    fn version(&self) -> &str {
        match &self.source {
            Source::Git { reference, .. } => reference,
            Source::Directory { .. } => "local",
        }
    }
}

/// The key that a job with this configuration claims, checked or not.
pub(crate) fn claim_key_of(config: &JobConfig) -> String {
    let registry = config.registry_url.trim().trim_end_matches('/');
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    let version = match config.git_ref.trim() {
        _ if check::is_directory(config.repo_url.trim()) => "local",
        "" => GIT_REF,
        reference => reference,
    };
    claim_key(&format!("{bare}/{}", config.image_name.trim()), version)
}

fn claim_key(repository: &str, version: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '_' | ':' | '[' | ']') => c,
        _ => '-',
    };
    format!("image-{repository}-{version}")
        .chars()
        .map(plain)
        .collect()
}

#[cfg(test)]
mod tests;
